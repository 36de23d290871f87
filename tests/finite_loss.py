"""A loss that hides a NaN, as Caffe's SoftmaxWithLoss does on a GPU."""

import caffe
import numpy as np


class FiniteLoss(caffe.Layer):
    """A loss of -log of the smallest float32, whose gradient makes the weights NaN."""

    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape()

    def forward(self, bottom, top):
        top[0].data[...] = -np.log(np.finfo(np.float32).tiny)

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = np.nan
