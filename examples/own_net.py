"""Write arrays to LMDBs, build a net with pycaffe, and train it under a policy to its weights.

docker/run python3 examples/own_net.py
"""

import os

import caffe
import lmdb
import numpy as np
from caffe import layers as L
from caffe import params as P
from sklearn.datasets import load_digits

import lrbench_caffe

FOLDER = "runs/own_net"
SOLVER = """
net: "net.prototxt"
test_iter: 4
test_interval: 100
max_iter: 400
base_lr: 0.01
momentum: 0.9
lr_policy: "fixed"
"""


def load_my_data():
    """Replace this: images as uint8 (samples, channels, height, width), labels from 0."""
    digits = load_digits()
    return (digits.images * 15).astype(np.uint8)[:, np.newaxis], digits.target


def write_lmdb(path, images, labels):
    """Write samples in the form that Caffe's Data layer reads."""
    with lmdb.open(path, map_size=2**30) as database, database.begin(write=True) as transaction:
        for n, (image, label) in enumerate(zip(images, labels)):
            datum = caffe.io.array_to_datum(image, int(label))
            transaction.put(b"%08d" % n, datum.SerializeToString())


def data_layer(phase, path, batch_size):
    """A Data layer that is used in one phase."""
    return L.Data(
        source=path,
        backend=P.Data.LMDB,
        batch_size=batch_size,
        ntop=2,
        transform_param={"scale": 1 / 256},
        include={"phase": phase},
    )


def net_prototxt(classes):
    """The prototxt of a small net, for both phases."""
    test = caffe.NetSpec()
    test.data, test.label = data_layer(caffe.TEST, "test_lmdb", 100)
    net = caffe.NetSpec()
    net.data, net.label = data_layer(caffe.TRAIN, "train_lmdb", 50)
    net.conv = L.Convolution(
        net.data, num_output=16, kernel_size=3, weight_filler={"type": "xavier"}
    )
    net.relu = L.ReLU(net.conv, in_place=True)
    net.score = L.InnerProduct(net.relu, num_output=classes, weight_filler={"type": "xavier"})
    net.accuracy = L.Accuracy(net.score, net.label, include={"phase": caffe.TEST})
    net.loss = L.SoftmaxWithLoss(net.score, net.label)
    return 'name: "OwnNet"\n%s%s' % (test.to_proto(), net.to_proto())


def main() -> None:
    """Write the files, train, and print the result."""
    os.makedirs(FOLDER, exist_ok=True)
    images, labels = load_my_data()
    order = np.random.RandomState(1).permutation(len(images))
    for name, part in ("test_lmdb", order[:400]), ("train_lmdb", order[400:]):
        write_lmdb(os.path.join(FOLDER, name), images[part], labels[part])
    for name, text in (
        ("net.prototxt", net_prototxt(labels.max() + 1)),
        ("solver.prototxt", SOLVER),
    ):
        with open(os.path.join(FOLDER, name), "w") as file:
            file.write(text)

    trial = lrbench_caffe.train(
        os.path.join(FOLDER, "solver.prototxt"),
        "WARMUP(k0=0.01) for 100 then COS(k0=0.05, k1=0, l=300)",
        seed=1,
        snapshot_prefix=os.path.join(FOLDER, "own"),
    )
    print("%s: Top-1 %.2f %%" % (trial.state, 100 * trial.summary.top1))
    print("weights: %s" % os.path.join(FOLDER, "own_iter_400.caffemodel"))


if __name__ == "__main__":
    main()
