"""Digits, MNIST and CIFAR-10 as the LMDBs and mean files that Caffe's Data layer reads.

:func:`convert` writes ``NAME_train_lmdb``, ``NAME_test_lmdb`` and ``NAME_mean.binaryproto``. A set
is complete when all three exist: each is written in a hidden folder beside them and gets its name
in one step, after the last part of an older set has been moved away.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shlex
import shutil
import tarfile
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lrbench_caffe import download
from lrbench_caffe.errors import InputError, disk_problem
from lrbench_caffe.training import records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lrbench_caffe.download import Progress

__all__ = [
    "NAMES",
    "Files",
    "Part",
    "convert",
    "paths",
    "read_cifar10",
    "read_digits",
    "read_idx",
    "read_mnist",
    "write_dataset",
]

NAMES = ("digits", "mnist", "cifar10")

# The datasets' homes, and mirrors that other libraries use. They have the same files.
MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://raw.githubusercontent.com/fgnt/mnist/master/",
    "http://yann.lecun.com/exdb/mnist/",
)
# The MD5 of each file as published, and of its unpacked content. The second one shows whether a
# user's copy is complete, packed or not.
MNIST_FILES = {
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
CIFAR10_MIRRORS = (
    "https://www.cs.toronto.edu/~kriz/",
    "https://cave.cs.toronto.edu/kriz/",
    "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/",
    "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets/",
)
CIFAR10_ARCHIVE, CIFAR10_MD5 = "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"
CIFAR10_FOLDER = "cifar-10-batches-bin"
CIFAR10_TRAIN = tuple("data_batch_%d.bin" % (i + 1) for i in range(5))
CIFAR10_TEST = ("test_batch.bin",)
CIFAR10_FILE_SAMPLES, CIFAR10_SHAPE = 10000, (3, 32, 32)


class Part(NamedTuple):
    """The training or the test samples of a dataset.

    Attributes:
        images: A uint8 array of shape (samples, channels, height, width).
        labels: A uint8 array of shape (samples,).
    """

    images: np.ndarray
    labels: np.ndarray


class Files(NamedTuple):
    """The files of a dataset.

    Attributes:
        train: The path of the LMDB of training samples.
        test: The path of the LMDB of test samples.
        mean: The path of the mean image of the training samples.
        written: Whether the call that returned this wrote them (False: they existed before).
    """

    train: str
    test: str
    mean: str
    written: bool


def convert(
    name: str,
    folder: str,
    source: str | None = None,
    pad: int = 0,
    progress: Progress | None = None,
) -> Files:
    """Convert a dataset for Caffe, unless all of its files exist.

    The samples have the order of the official files; digits have that of :func:`read_digits`.
    Existing files are kept even if they were made from another source: remove one to convert again.

    Args:
        name: The dataset: digits, mnist or cifar10.
        folder: Where to write the files; it is made if needed.
        source: A folder with the official files, or CIFAR-10's archive (None: download them;
            digits come with scikit-learn).
        pad: Zeros to add on each side of an image, for nets that crop. Caffe's Data layer crops
            anywhere in training, and in the middle, which is the image, in the test. The mean is
            padded too: the border stays zero after its subtraction, and one mean file serves both
            phases. A padded set is called NAME_padN.
        progress: Called with the name of a file, the bytes downloaded and their total (None: the
            server did not send it); then with the name of an LMDB, the samples written and their
            total.

    Returns:
        The paths of the files.

    Raises:
        InputError: An argument is invalid, or a file cannot be read, downloaded or written.
    """
    if name not in NAMES:
        raise InputError("unknown dataset %r: choose one of %s" % (name, ", ".join(NAMES)))
    if pad < 0:
        raise InputError(
            "invalid pad=%d, expected the number of zeros to add on each side of an image, 0 or "
            "more" % pad
        )
    if name == "digits" and source is not None:
        raise InputError(
            "digits come with scikit-learn and are not read from %s: leave --from out" % source
        )
    files = paths(name, folder, pad)
    if _exist(files):
        return files
    with _locked(folder, _stem(name, pad)):
        if _exist(files):  # another process has written them in the meantime
            return files
        if name == "digits":
            train, test = read_digits()
        else:
            source = source or _official_files(name, folder, pad, progress)
            train, test = read_mnist(source) if name == "mnist" else read_cifar10(source)
        return _publish(_stem(name, pad), folder, train, test, pad, progress)


def write_dataset(
    name: str,
    folder: str,
    train: Part,
    test: Part,
    pad: int = 0,
    progress: Callable[[str, int, int], object] | None = None,
) -> Files:
    """Write a dataset under the names that :func:`convert` gives; existing files are replaced.

    Args:
        name: Any name.
        folder: Where to write the files; it is made if needed.
        train: The training samples.
        test: The test samples.
        pad: Zeros to add on each side of an image.
        progress: Called with the name of an LMDB, the samples written and their total.

    Returns:
        The paths of the files.

    Raises:
        InputError: The files cannot be written.
    """
    with _locked(folder, _stem(name, pad)):
        return _publish(_stem(name, pad), folder, train, test, pad, progress)


def paths(name: str, folder: str, pad: int = 0) -> Files:
    """Return the paths of a dataset's files, whether they exist or not."""
    stem = os.path.join(folder, _stem(name, pad))
    return Files(stem + "_train_lmdb", stem + "_test_lmdb", stem + "_mean.binaryproto", False)


def _stem(name: str, pad: int) -> str:
    return "%s_pad%d" % (name, pad) if pad else name


def _exist(files: Files) -> bool:
    return all(os.path.exists(path) for path in files[:3])


def _official_files(name: str, folder: str, pad: int, progress: Progress | None) -> str:
    """Download the official files of a dataset; return the folder in the user's cache.

    The other arguments are those of :func:`convert`.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    downloads = os.path.join(cache, "lrbench")
    if name == "mnist":
        mirrors, files = MNIST_MIRRORS, {file + ".gz": md5[0] for file, md5 in MNIST_FILES.items()}
    else:
        mirrors, files = CIFAR10_MIRRORS, {CIFAR10_ARCHIVE: CIFAR10_MD5}
    instead = (
        "try again later, or put %s into a folder DIR, packed or unpacked, and run `lrbench data "
        "%s%s --from DIR --to %s`"
        % (
            " and ".join(", ".join(files).rsplit(", ", 1)),
            name,
            " --pad %d" % pad if pad else "",
            shlex.quote(folder),
        )
    )
    with _locked(downloads, name, "read the official files from another folder with --from DIR"):
        download.download(mirrors, files, downloads, instead, progress)
    return downloads


def read_digits() -> tuple[Part, Part]:
    """Read scikit-learn's handwritten digits.

    Their order is a fixed shuffle, and the first 40 samples of each digit are the test samples.
    Pixels are stretched from 0..16 to 0..255, as in MNIST.

    Returns:
        1,397 training and 400 test samples of shape (1, 8, 8).

    Raises:
        InputError: Scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError(
            "the digits come with scikit-learn, which is not installed for this Python: install "
            "scikit-learn"
        ) from None
    digits = load_digits()
    order = np.random.RandomState(0).permutation(len(digits.target))
    images = np.rint(digits.images[order] * (255 / 16)).astype(np.uint8)[:, np.newaxis]
    labels = digits.target[order].astype(np.uint8)
    is_test = np.zeros(len(labels), bool)
    is_test[[i for digit in range(10) for i in np.flatnonzero(labels == digit)[:40]]] = True
    return Part(images[~is_test], labels[~is_test]), Part(images[is_test], labels[is_test])


def read_mnist(folder: str) -> tuple[Part, Part]:
    """Read MNIST from its four idx files, each packed with gzip or not.

    Returns:
        60,000 training and 10,000 test samples of shape (1, 28, 28).

    Raises:
        InputError: A file is missing or has another checksum.
    """
    train_images, train_labels, test_images, test_labels = (
        read_idx(_find(folder, (name, name + ".gz"), "MNIST"), md5)
        for name, (_, md5) in MNIST_FILES.items()
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
    content = _unpacked(path)
    _check_md5(path, content, md5, "unpacked, " if path.endswith(".gz") else "")
    axes = content[3]
    shape = np.frombuffer(content, ">u4", axes, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def read_cifar10(source: str, md5: str = CIFAR10_MD5) -> tuple[Part, Part]:
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
    first = CIFAR10_TRAIN[0]
    if not os.path.isfile(source):
        names = (first, os.path.join(CIFAR10_FOLDER, first), CIFAR10_ARCHIVE)
        source = _find(source, names, "CIFAR-10")
    if os.path.basename(source) == first:
        source = os.path.dirname(source)
        files = {
            name: _content(_find(source, (name,), "CIFAR-10"))
            for name in CIFAR10_TRAIN + CIFAR10_TEST
        }
    else:
        files = _unpacked_archive(source, md5)
    train, test = (
        _cifar10_part([(os.path.join(source, name), files[name]) for name in names])
        for names in (CIFAR10_TRAIN, CIFAR10_TEST)
    )
    return train, test


def _unpacked_archive(path: str, md5: str) -> dict[str, bytes]:
    """The content of each .bin file of a tar archive, by its name."""
    content = _content(path)
    _check_md5(path, content, md5)
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
    return Part(samples[:, 1:].reshape((-1, *CIFAR10_SHAPE)), samples[:, 0])


def _cifar10_samples(content: bytes, path: str) -> np.ndarray:
    """The samples of one of CIFAR-10's files: rows of a label and the pixels of its image."""
    length = 1 + int(np.prod(CIFAR10_SHAPE))
    size = CIFAR10_FILE_SAMPLES * length
    if len(content) != size:
        raise InputError(
            "%s is damaged: %d records of %d bytes are %d bytes, but it has %d: unpack or download "
            "it again" % (path, CIFAR10_FILE_SAMPLES, length, size, len(content))
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


def _find(folder: str, names: Sequence[str], dataset: str) -> str:
    """The path of the first of these files that a folder has."""
    for name in names:
        if os.path.exists(os.path.join(folder, name)):
            return os.path.join(folder, name)
    raise InputError(
        "%s has no %s: name the folder of %s's official files with --from, or leave --from out to "
        "download them" % (folder, " or ".join(names), dataset)
    )


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InputError("cannot read %s: %s" % (path, error.strerror)) from None


def _unpacked(path: str) -> bytes:
    """The content of a file that may be packed with gzip.

    Of a damaged file it is the beginning, whose checksum will be wrong.
    """
    content = _content(path)
    if content[:2] != b"\x1f\x8b":  # a browser may have unpacked it and kept its name
        return content
    parts = []
    unpack = zlib.decompressobj(wbits=31)
    try:
        for first in range(0, len(content), 1 << 16):
            parts.append(unpack.decompress(content[first : first + (1 << 16)]))
    except zlib.error:
        pass
    return b"".join(parts)


def _check_md5(path: str, content: bytes, expected: str, condition: str = "") -> None:
    md5 = hashlib.md5(content).hexdigest()
    if md5 != expected:
        raise InputError(
            "%s is damaged or another file: %sits MD5 checksum should be %s and is %s: download it "
            "again" % (path, condition, expected, md5)
        )


@contextmanager
def _locked(
    folder: str, stem: str, instead: str = "name a folder that you can write to"
) -> Iterator[None]:
    """Make the folder and let one process at a time write a dataset there.

    The system releases the lock of a process that is killed. A message ends with what to do
    instead.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        lock = open(os.path.join(folder, ".%s.lock" % stem), "w")  # noqa: SIM115 - closed below
    except OSError as error:
        raise InputError(
            "cannot write to %s (%s): %s" % (folder, error.strerror, instead)
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _publish(
    stem: str,
    folder: str,
    train: Part,
    test: Part,
    pad: int,
    progress: Callable[[str, int, int], object] | None,
) -> Files:
    """Write the files in a hidden folder, move existing ones away, then give them their names."""
    import lmdb

    files = paths(stem, folder)._replace(written=True)
    partial = os.path.join(folder, ".%s.partial" % stem)
    new, old = paths(stem, os.path.join(partial, "new")), paths(stem, os.path.join(partial, "old"))
    shutil.rmtree(partial, ignore_errors=True)  # left by a conversion that was killed
    try:
        for part in (new, old):
            os.makedirs(os.path.dirname(part.train))
        records.write_lmdb(new.train, train.images, train.labels, pad, progress)
        records.write_lmdb(new.test, test.images, test.labels, pad, progress)
        records.write_mean(new.mean, train.images, pad)
        for path, aside in zip(files[:3], old[:3]):
            if os.path.exists(path):
                os.rename(path, aside)
        for path, written in zip(files[:3], new[:3]):
            os.rename(written, path)
    except (lmdb.Error, OSError) as error:
        for path, aside in zip(files[:3], old[:3]):
            if os.path.exists(aside) and not os.path.exists(path):
                os.rename(aside, path)
        shutil.rmtree(partial, ignore_errors=True)
        needed = sum(records.lmdb_bytes(part.images, pad) for part in (train, test))
        raise InputError(
            "cannot write %s to %s (%s): make room, or name another folder"
            % (stem, folder, disk_problem(error, folder, needed))
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return files
