#!/usr/bin/env python3
"""Print resnet32_train_test.prototxt: the net of He et al. (2016) for CIFAR-10.

The net has 6n + 2 layers with n = 5, and identity shortcuts.

usage: resnet32.py > resnet32_train_test.prototxt
"""

from __future__ import annotations

from typing import Any

from caffe import NetSpec, layers, params
from caffe.proto import caffe_pb2
from google.protobuf import text_format

N = 5
ABOUT = """\
# ResNet-32 of He et al.: 5 blocks each of 16, 32, 64 channels, identity shortcuts; batches of 128.
# `lrbench data cifar10 --pad 4 --to DIR` writes its data, cifar10_pad4_*. Made by resnet32.py.
"""


def data(phase: int, part: str, batch_size: int, **transform: object) -> caffe_pb2.NetParameter:
    """Return a net of the layer that reads cifar10_pad4_{part}_lmdb.

    Caffe crops the 40x40 pixels anywhere in training, and in the middle, which is the image, in the
    test.

    Args:
        phase: The phase, caffe_pb2.TRAIN or caffe_pb2.TEST.
        part: The part of the dataset, train or test.
        batch_size: Samples in a batch.
        **transform: More fields of the layer's transform_param.
    """
    net = NetSpec()
    net.data, net.label = layers.Data(
        ntop=2,
        include={"phase": phase},
        transform_param=dict(mean_file="cifar10_pad4_mean.binaryproto", crop_size=32, **transform),
        data_param={
            "source": "cifar10_pad4_%s_lmdb" % part,
            "batch_size": batch_size,
            "backend": params.Data.LMDB,
        },
    )
    return net.to_proto()


def convolution(net: NetSpec, name: str, bottom: Any, channels: int, stride: int = 1) -> Any:
    """Add a convolution of 3x3 without bias, and batch normalization with a trained scale and bias.

    Args:
        net: The net to add the layers to.
        name: The name of the convolution, with which those of the other layers begin.
        bottom: The input.
        channels: The number of outputs.
        stride: The stride of the convolution.

    Returns:
        The output.
    """
    net[name] = layers.Convolution(
        bottom,
        num_output=channels,
        kernel_size=3,
        pad=1,
        stride=stride,
        bias_term=False,
        weight_filler={"type": "msra"},
    )
    # Mean, variance and their correction are running averages and are not trained. With Caffe's
    # default, 0.999, they would average over the last thousand iterations. At these learning rates
    # the test would use statistics of much older weights. 0.95 averages over about twenty.
    net[name + "_bn"] = layers.BatchNorm(
        net[name],
        in_place=True,
        param=[{"lr_mult": 0, "decay_mult": 0}] * 3,
        moving_average_fraction=0.95,
    )
    net[name + "_scale"] = layers.Scale(
        net[name + "_bn"], in_place=True, scale_param={"bias_term": True}
    )
    return net[name + "_scale"]


def relu(net: NetSpec, name: str, bottom: Any) -> Any:
    """Add a ReLU in place and return its output."""
    net[name] = layers.ReLU(bottom, in_place=True)
    return net[name]


def narrowed(net: NetSpec, name: str, bottom: Any) -> Any:
    """Add the shortcut into a new stage, which has no parameters, and return its output.

    It has every second pixel of each channel, and then as many channels of zeros. The zeros are the
    pixels times 0, so that they have the right batch size in training and in the test.
    """
    # Rounded up, as by default, 32 pixels would become 17.
    net[name + "_half"] = layers.Pooling(
        bottom, pool=params.Pooling.MAX, kernel_size=1, stride=2, round_mode=params.Pooling.FLOOR
    )
    net[name + "_zeros"] = layers.Power(net[name + "_half"], scale=0)
    net[name + "_shortcut"] = layers.Concat(net[name + "_half"], net[name + "_zeros"])
    return net[name + "_shortcut"]


def block(net: NetSpec, name: str, bottom: Any, channels: int, stride: int) -> Any:
    """Add two convolutions with a shortcut around them and return the output.

    The first block of a stage has stride 2, which halves the image.
    """
    first = relu(net, name + "_relu1", convolution(net, name + "_conv1", bottom, channels, stride))
    second = convolution(net, name + "_conv2", first, channels)
    shortcut = bottom if stride == 1 else narrowed(net, name, bottom)
    net[name] = layers.Eltwise(second, shortcut)
    return relu(net, name + "_relu2", net[name])


def resnet(n: int) -> caffe_pb2.NetParameter:
    """Return the net with 6n + 2 layers."""
    train = data(caffe_pb2.TRAIN, "train", 128, mirror=True)
    test = data(caffe_pb2.TEST, "test", 100)
    net = NetSpec()
    net.data, net.label = layers.Input(ntop=2)  # in place of the two above
    top = relu(net, "relu1", convolution(net, "conv1", net.data, 16))
    for stage, channels in enumerate((16, 32, 64), 1):
        for i in range(1, n + 1):
            stride = 2 if stage > 1 and i == 1 else 1
            top = block(net, "stage%d_block%d" % (stage, i), top, channels, stride)
    net.pool = layers.Pooling(top, pool=params.Pooling.AVE, global_pooling=True)
    net.ip = layers.InnerProduct(
        net.pool, num_output=10, weight_filler={"type": "msra"}, bias_filler={"type": "constant"}
    )
    net.accuracy = layers.Accuracy(net.ip, net.label, include={"phase": caffe_pb2.TEST})
    net.loss = layers.SoftmaxWithLoss(net.ip, net.label)
    whole = caffe_pb2.NetParameter(name="ResNet-%d" % (6 * n + 2))
    whole.layer.extend(list(train.layer) + list(test.layer) + list(net.to_proto().layer)[1:])
    return whole


if __name__ == "__main__":
    print(ABOUT + text_format.MessageToString(resnet(N), float_format=".6g"), end="")
