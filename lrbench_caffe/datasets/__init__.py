"""Digits, MNIST and CIFAR-10 as the LMDBs and mean files that Caffe's Data layer reads.

:func:`convert` writes ``NAME_train_lmdb``, ``NAME_test_lmdb`` and ``NAME_mean.binaryproto``, and on
request ``NAME_validation_lmdb`` with a part of the training samples. A set is complete when all of
these exist: each is written in a hidden folder beside them and gets its name in one step, after the
last part of an older set has been moved away.

:func:`split` divides a user's own LMDB into training and validation samples.
"""

from lrbench_caffe.datasets.cifar10 import read as read_cifar10
from lrbench_caffe.datasets.conversion import NAMES, Files, convert, paths, write_dataset
from lrbench_caffe.datasets.digits import read as read_digits
from lrbench_caffe.datasets.mnist import read as read_mnist
from lrbench_caffe.datasets.mnist import read_idx
from lrbench_caffe.datasets.samples import Part
from lrbench_caffe.datasets.splitting import Split, split

__all__ = [
    "NAMES",
    "Files",
    "Part",
    "Split",
    "convert",
    "paths",
    "read_cifar10",
    "read_digits",
    "read_idx",
    "read_mnist",
    "split",
    "write_dataset",
]
