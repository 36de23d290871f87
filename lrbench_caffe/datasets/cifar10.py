"""The binary version of CIFAR-10."""

from __future__ import annotations

import io
import os
import tarfile
from typing import TYPE_CHECKING

import numpy as np

from lrbench_caffe.datasets import official
from lrbench_caffe.datasets.samples import Part
from lrbench_caffe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

# Its home, and mirrors that other libraries use. They have the same files.
MIRRORS = (
    "https://www.cs.toronto.edu/~kriz/",
    "https://cave.cs.toronto.edu/kriz/",
    "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/",
    "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets/",
)
ARCHIVE, MD5 = "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"
DOWNLOADS = {ARCHIVE: MD5}
FOLDER = "cifar-10-batches-bin"
TRAIN = tuple("data_batch_%d.bin" % (i + 1) for i in range(5))
TEST = ("test_batch.bin",)
FILE_SAMPLES, SHAPE = 10000, (3, 32, 32)


def read(source: str, md5: str = MD5) -> tuple[Part, Part]:
    """Read the binary version of CIFAR-10.

    No checksums are published for the files in the archive: of unpacked files, the size and the
    labels are checked.

    Args:
        source: The archive, the folder cifar-10-batches-bin, or a folder that holds either.
        md5: The checksum of the archive.

    Returns:
        50,000 training and 10,000 test samples of shape (3, 32, 32).

    Raises:
        InputError: A file is missing or damaged.
    """
    first = TRAIN[0]
    if not os.path.isfile(source):
        names = (first, os.path.join(FOLDER, first), ARCHIVE)
        source = official.find(source, names, "CIFAR-10")
    if os.path.basename(source) == first:
        source = os.path.dirname(source)
        files = {
            name: official.content(official.find(source, (name,), "CIFAR-10"))
            for name in TRAIN + TEST
        }
    else:
        files = _unpacked_archive(source, md5)
    train, test = (
        _cifar10_part([(os.path.join(source, name), files[name]) for name in names])
        for names in (TRAIN, TEST)
    )
    return train, test


def _unpacked_archive(path: str, md5: str) -> dict[str, bytes]:
    """The content of each .bin file of a tar archive, by its name."""
    content = official.content(path)
    official.check_md5(path, content, md5)
    files = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:  # in one pass: to go back is to unpack from the start
            file = archive.extractfile(member) if member.name.endswith(".bin") else None
            if file is not None:
                files[os.path.basename(member.name)] = file.read()
    return files


def _cifar10_part(files: Sequence[tuple[str, bytes]]) -> Part:
    """The samples of CIFAR-10's files, given as pairs of path and content."""
    samples = np.concatenate([_cifar10_samples(content, path) for path, content in files])
    return Part(samples[:, 1:].reshape((-1, *SHAPE)), samples[:, 0])


def _cifar10_samples(content: bytes, path: str) -> np.ndarray:
    """The samples of one of CIFAR-10's files: rows of a label and the pixels of its image."""
    length = 1 + int(np.prod(SHAPE))
    size = FILE_SAMPLES * length
    if len(content) != size:
        raise InputError(
            "%s is damaged: %d records of %d bytes are %d bytes, but it has %d: unpack or download "
            "it again" % (path, FILE_SAMPLES, length, size, len(content))
        )
    samples = np.frombuffer(content, np.uint8).reshape(-1, length)
    labels = samples[:, 0]
    if labels.max() > 9:
        record = int(np.argmax(labels > 9))
        raise InputError(
            "%s is damaged: record %d has the label %d, but CIFAR-10 has labels from 0 to 9: "
            "unpack or download it again" % (path, record, labels[record])
        )
    return samples
