"""The Python test layer: collects the softmax outputs of the TEST phase for the paper's metrics.

It is added in memory to a net that lacks it, or written in a prototxt by hand::

    layer {
      name: "metrics" type: "Python" bottom: "prob" bottom: "label"
      include { phase: TEST }
      python_param { module: "lrbench_caffe.layers" layer: "MetricsLayer" }
    }

Samples that the loss layer ignores are left out with ``param_str: '{"ignore_label": 255}'``.
"""

import json

import caffe
import numpy as np

from lrbench_caffe.metrics import Accumulator


class MetricsLayer(caffe.Layer):
    """Bottoms: softmax outputs of shape (batch, classes, ...) and as many labels.  No tops; nothing flows back."""

    def setup(self, bottom, top):
        """Called by Caffe once.  Raises ValueError when the bottoms are not the two that are needed."""
        if len(bottom) != 2:
            raise ValueError(
                "the metrics layer has %d bottoms: give it two, the softmax outputs and the labels"
                % len(bottom)
            )
        self._ignore_label = json.loads(self.param_str or "{}").get("ignore_label")
        self._batches = Accumulator()

    def reshape(self, bottom, top):
        """Called by Caffe before each forward pass: there is nothing to reshape."""

    def forward(self, bottom, top):
        """Adds one batch.  Raises ValueError for what is no softmax output, or a label that is no class."""
        if self.phase != caffe.TEST:
            return
        probabilities = np.moveaxis(bottom[0].data, 1, -1)
        probabilities = probabilities.reshape(-1, probabilities.shape[-1])
        if not self._batches.samples:
            self._check(probabilities)
        labels = bottom[1].data.reshape(-1)
        if self._ignore_label is not None:
            used = labels != self._ignore_label
            probabilities, labels = probabilities[used], labels[used]
        self._batches.add(probabilities, labels)

    def backward(self, top, propagate_down, bottom):
        """The layer is no part of the loss."""

    def take(self):
        """The Metrics of all batches since the last take, or since the start."""
        batches, self._batches = self._batches, Accumulator()
        return batches.metrics()

    @staticmethod
    def _check(probabilities):
        sums = probabilities.sum(axis=1)
        if (
            np.abs(sums - 1.0) > 1e-3
        ).any():  # False for NaN: a diverged net is not a wrongly wired one
            raise ValueError(
                "the metrics layer needs softmax outputs, which sum to 1, but a sample's sum is %g: "
                "put a Softmax layer before it" % sums[np.argmax(np.abs(sums - 1.0))]
            )
