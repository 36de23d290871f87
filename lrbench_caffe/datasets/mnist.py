"""MNIST, in its four idx files."""

from __future__ import annotations

import numpy as np

from lrbench_caffe.datasets import official
from lrbench_caffe.datasets.samples import Part

# Its home, and mirrors that other libraries use. They have the same files.
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://raw.githubusercontent.com/fgnt/mnist/master/",
    "http://yann.lecun.com/exdb/mnist/",
)
# The MD5 of each file as published, and of its unpacked content. The second one shows whether a
# user's copy is complete, packed or not.
FILES = {
    "train-images-idx3-ubyte": (
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "6bbc9ace898e44ae57da46a324031adb",
    ),
    "train-labels-idx1-ubyte": (
        "d53e105ee54ea40749a09fcbcd1e9432",
        "a25bea736e30d166cdddb491f175f624",
    ),
    "t10k-images-idx3-ubyte": (
        "9fb629c4189551a2d022fa330f9573f3",
        "2646ac647ad5339dbf082846283269ea",
    ),
    "t10k-labels-idx1-ubyte": (
        "ec29112dd5afa0611ce80d1b7f02629c",
        "27ae3e4e09519cfbb04c329615203637",
    ),
}
DOWNLOADS = {name + ".gz": md5 for name, (md5, _) in FILES.items()}


def read(folder: str) -> tuple[Part, Part]:
    """Read MNIST from its four idx files, each packed with gzip or not.

    Returns:
        60,000 training and 10,000 test samples of shape (1, 28, 28).

    Raises:
        InputError: A file is missing or has another checksum.
    """
    train_images, train_labels, test_images, test_labels = (
        read_idx(official.find(folder, (name, name + ".gz"), "MNIST"), md5)
        for name, (_, md5) in FILES.items()
    )
    return (
        Part(train_images[:, np.newaxis], train_labels),
        Part(test_images[:, np.newaxis], test_labels),
    )


def read_idx(path: str, md5: str) -> np.ndarray:
    """Return the array in an idx file.

    Args:
        path: The file, packed with gzip or not.
        md5: The checksum of its unpacked content.

    Returns:
        A uint8 array of the shape in the file's header.

    Raises:
        InputError: The file cannot be read or has another checksum.
    """
    content = official.unpacked(path)
    official.check_md5(path, content, md5, "unpacked, " if path.endswith(".gz") else "")
    axes = content[3]
    shape = np.frombuffer(content, ">u4", axes, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
