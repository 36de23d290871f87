#!/usr/bin/env python3
"""Print resnet32_train_test.prototxt, the net of He et al. (2016) for CIFAR-10: 6n + 2 layers with n = 5, identity shortcuts.

usage: resnet32.py > resnet32_train_test.prototxt
"""

from caffe import NetSpec, layers, params
from caffe.proto import caffe_pb2
from google.protobuf import text_format

N = 5
ABOUT = """\
# ResNet-32 of He et al. for CIFAR-10: three stages of five blocks of 16, 32, 64 channels, identity shortcuts; batches of 128.
# Its data, cifar10_pad4_*, is what `lrbench data cifar10 --pad 4 --to DIR` writes; printed by prototxt/resnet32.py.
"""


def data(phase, part, batch_size, **transform):
    """The layer that reads cifar10_pad4_{part}_lmdb, as a net of its own with the tops data and label.

    Caffe crops the 40x40 pixels anywhere in training and in the middle, which is the image itself, in the test.
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


def convolution(net, name, bottom, channels, stride=1):
    """A convolution of 3x3 without bias, and batch normalization with a trained scale and bias; returns its top."""
    net[name] = layers.Convolution(
        bottom,
        num_output=channels,
        kernel_size=3,
        pad=1,
        stride=stride,
        bias_term=False,
        weight_filler={"type": "msra"},
    )
    # Mean, variance and their correction are running averages, not trained.  Caffe's 0.999 would test the weights with
    # averages over the thousand iterations before, far behind them at these rates; 0.95 makes it about twenty.
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


def relu(net, name, bottom):
    """A ReLU in place; returns its top."""
    net[name] = layers.ReLU(bottom, in_place=True)
    return net[name]


def narrowed(net, name, bottom):
    """The shortcut into a new stage, without parameters: every second pixel, and as many channels of zeros after the old ones.

    The zeros are the pixels times 0: like that their batch size is right in training and in the test.
    """
    net[name + "_half"] = layers.Pooling(
        bottom, pool=params.Pooling.MAX, kernel_size=1, stride=2, round_mode=params.Pooling.FLOOR
    )  # rounded up, 32 pixels would become 17
    net[name + "_zeros"] = layers.Power(net[name + "_half"], scale=0)
    net[name + "_shortcut"] = layers.Concat(net[name + "_half"], net[name + "_zeros"])
    return net[name + "_shortcut"]


def block(net, name, bottom, channels, stride):
    """Two convolutions and the shortcut around them; the first block of a stage halves the image with stride 2."""
    first = relu(net, name + "_relu1", convolution(net, name + "_conv1", bottom, channels, stride))
    second = convolution(net, name + "_conv2", first, channels)
    shortcut = bottom if stride == 1 else narrowed(net, name, bottom)
    net[name] = layers.Eltwise(second, shortcut)
    return relu(net, name + "_relu2", net[name])


def resnet(n):
    """The NetParameter of the net with 6n + 2 layers."""
    train, test = (
        data(caffe_pb2.TRAIN, "train", 128, mirror=True),
        data(caffe_pb2.TEST, "test", 100),
    )
    net = NetSpec()
    net.data, net.label = layers.Input(ntop=2)  # stands for the two above
    top = relu(net, "relu1", convolution(net, "conv1", net.data, 16))
    for stage, channels in enumerate((16, 32, 64), 1):
        for i in range(1, n + 1):
            top = block(
                net, "stage%d_block%d" % (stage, i), top, channels, 2 if stage > 1 and i == 1 else 1
            )
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
