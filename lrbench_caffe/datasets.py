"""Digits, MNIST and CIFAR-10 as the LMDBs and mean files that Caffe's Data layer reads.

:func:`convert` writes ``NAME_train_lmdb``, ``NAME_test_lmdb`` and ``NAME_mean.binaryproto``, and on
request ``NAME_validation_lmdb`` with a part of the training samples. A set is complete when all of
these exist: each is written in a hidden folder beside them and gets its name in one step, after the
last part of an older set has been moved away.

:func:`split` divides a user's own LMDB into training and validation samples.
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

from lrbench_caffe import download, stratified
from lrbench_caffe.errors import InputError, disk_problem
from lrbench_caffe.training import division, records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lrbench_caffe.download import Progress

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
    """The training, validation or test samples of a dataset.

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
        validation: The path of the LMDB of validation samples, None if there are none.
    """

    train: str
    test: str
    mean: str
    written: bool
    validation: str | None = None

    @property
    def paths(self) -> list[str]:
        """The paths of all files, in the order in which they are written."""
        return [path for path in (self.train, self.validation, self.test, self.mean) if path]


class Split(NamedTuple):
    """The paths of the LMDBs into which an LMDB was divided.

    Attributes:
        train: The LMDB of training samples.
        validation: The LMDB of validation samples.
    """

    train: str
    validation: str


def convert(
    name: str,
    folder: str,
    source: str | None = None,
    pad: int = 0,
    progress: Progress | None = None,
    validation: int = 0,
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
        progress: Called with "downloading FILE", the bytes downloaded and their total (None: the
            server did not send it); then with the name of an LMDB, the samples written and their
            total.
        validation: How many of the training samples are for validation: they have an LMDB of their
            own, and neither the training samples nor the mean contain them.
            :func:`lrbench_caffe.stratified.choose` chooses them.

    Returns:
        The paths of the files.

    Raises:
        InputError: An argument is invalid; a file cannot be read, downloaded or written; or the
            files exist with another number of validation samples.
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
    if validation < 0:
        raise InputError(
            "invalid validation=%d, expected the number of validation samples, 0 or more"
            % validation
        )
    files = paths(name, folder, pad, validation > 0)
    if _exist(files, validation):
        return files
    with _locked(folder, _stem(name, pad)):
        if _exist(files, validation):  # another process has written them in the meantime
            return files
        if name == "digits":
            train, test = read_digits()
        else:
            source = source or _official_files(name, folder, pad, validation, progress)
            train, test = read_mnist(source) if name == "mnist" else read_cifar10(source)
        parts = _divided(name, train, validation) if validation else (train, None)
        return _write_set(_stem(name, pad), folder, parts[0], test, pad, progress, parts[1])


def write_dataset(
    name: str,
    folder: str,
    train: Part,
    test: Part,
    pad: int = 0,
    progress: Callable[[str, int, int], object] | None = None,
    validation: Part | None = None,
) -> Files:
    """Write a dataset under the names that :func:`convert` gives; existing files are replaced.

    Args:
        name: Any name.
        folder: Where to write the files; it is made if needed.
        train: The training samples.
        test: The test samples.
        pad: Zeros to add on each side of an image.
        progress: Called with the name of an LMDB, the samples written and their total.
        validation: The validation samples, None if there are none.

    Returns:
        The paths of the files.

    Raises:
        InputError: The files cannot be written.
    """
    with _locked(folder, _stem(name, pad)):
        return _write_set(_stem(name, pad), folder, train, test, pad, progress, validation)


def split(
    source: str,
    validation: int,
    out: str | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> Split:
    """Divide an LMDB of Datum messages into training and validation samples.

    Keys and messages are copied as they are, whether they hold pixels, encoded images or floats.
    The LMDB itself is not changed. :func:`lrbench_caffe.stratified.choose` chooses the samples.

    Args:
        source: The LMDB's folder.
        validation: How many samples are for validation.
        out: The beginning of the new LMDBs' paths, to which ``-train`` and ``-validation`` are
            added (None: the path of the LMDB).
        progress: Called with what is done, the samples read or written so far and their total.

    Returns:
        The paths of the new LMDBs.

    Raises:
        InputError: The LMDB cannot be read, or one of its records does not have exactly one label;
            validation is too small or too large; or the new LMDBs exist or cannot be written.
    """
    source = os.path.normpath(source)
    prefix = _split_prefix(source, out)
    files = Split(prefix + "-train", prefix + "-validation")
    _check_free(files)
    index = division.read_index(source, progress)
    chosen = stratified.choose(index.labels, validation, source)
    folder, stem = os.path.dirname(prefix) or ".", os.path.basename(prefix) + "-split"
    with _locked(folder, stem, "name other LMDBs with --out"):
        _write_split(
            files, source, index, chosen, os.path.join(folder, ".%s.partial" % stem), progress
        )
    return files


def _write_split(
    files: Split,
    source: str,
    index: division.Index,
    chosen: np.ndarray,
    partial: str,
    progress: Callable[[str, int, int], object] | None,
) -> None:
    """Write the LMDBs of a split; the records that are chosen are for validation."""
    import lmdb

    masks = (~chosen, chosen)

    def write(new: str) -> None:
        _check_free(files)
        for path, mask in zip(files, masks):
            target = os.path.join(new, os.path.basename(path))
            division.copy_chosen(source, target, index, mask, progress)
        _check_free(files)

    try:
        _publish(files, (), partial, write)
    except (lmdb.Error, OSError) as error:
        folder = os.path.dirname(partial)
        needed = sum(index.file_bytes(mask) for mask in masks)
        raise InputError(
            "cannot write %s and %s (%s): make room, or name other LMDBs with --out"
            % (*files, disk_problem(error, folder, needed))
        ) from None


def _split_prefix(source: str, out: str | None) -> str:
    if out is None:
        return os.path.abspath(source) if os.path.basename(source) in (".", "..") else source
    if not os.path.basename(out):
        raise InputError(
            "invalid out=%r, expected the beginning of the new LMDBs' paths, for example %s"
            % (out, os.path.join(out, os.path.basename(source)))
        )
    return out


def _check_free(files: Split) -> None:
    for path in files:
        if os.path.lexists(path):
            raise InputError("%s exists: remove it, or name other LMDBs with --out" % path)


def paths(name: str, folder: str, pad: int = 0, validation: bool = False) -> Files:
    """Return the paths of a dataset's files, whether they exist or not."""
    stem = os.path.join(folder, _stem(name, pad))
    files = Files(stem + "_train_lmdb", stem + "_test_lmdb", stem + "_mean.binaryproto", False)
    return files._replace(validation=stem + "_validation_lmdb") if validation else files


def _stem(name: str, pad: int) -> str:
    return "%s_pad%d" % (name, pad) if pad else name


def _exist(files: Files, validation: int) -> bool:
    """Whether a set is complete. Raise InputError if it has other validation samples."""
    if not all(os.path.exists(path) for path in files[:3]):
        return False
    path = files.train[: -len("_train_lmdb")] + "_validation_lmdb"
    samples = records.describe_lmdb(path)[0] if os.path.exists(path) else 0
    if samples != validation:
        raise InputError(
            "%s was made with %d validation samples, not %d: name another folder with --to, or "
            "remove it to make it again" % (files.train, samples, validation)
        )
    return True


def _divided(name: str, part: Part, validation: int) -> tuple[Part, Part]:
    """The training and the validation samples."""
    chosen = stratified.choose(part.labels, validation, name)
    train, held_out = (Part(part.images[mask], part.labels[mask]) for mask in (~chosen, chosen))
    return train, held_out


def _official_files(
    name: str, folder: str, pad: int, validation: int, progress: Progress | None
) -> str:
    """Download the official files of a dataset; return the folder in the user's cache.

    The other arguments are those of :func:`convert`.
    """

    def downloading(file: str, done: int, total: int | None) -> None:
        assert progress is not None
        progress("downloading " + file, done, total)

    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    downloads = os.path.join(cache, "lrbench")
    if name == "mnist":
        mirrors, files = MNIST_MIRRORS, {file + ".gz": md5[0] for file, md5 in MNIST_FILES.items()}
    else:
        mirrors, files = CIFAR10_MIRRORS, {CIFAR10_ARCHIVE: CIFAR10_MD5}
    instead = (
        "try again later, or put %s into a folder DIR, packed or unpacked, and run `lrbench data "
        "%s%s%s --from DIR --to %s`"
        % (
            " and ".join(", ".join(files).rsplit(", ", 1)),
            name,
            " --pad %d" % pad if pad else "",
            " --validation %d" % validation if validation else "",
            shlex.quote(folder),
        )
    )
    with _locked(downloads, name, "read the official files from another folder with --from DIR"):
        download.download(mirrors, files, downloads, instead, progress and downloading)
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


def _write_set(
    stem: str,
    folder: str,
    train: Part,
    test: Part,
    pad: int,
    progress: Callable[[str, int, int], object] | None,
    validation: Part | None,
) -> Files:
    """Write the files of a dataset."""
    import lmdb

    files = paths(stem, folder, validation=validation is not None)._replace(written=True)
    lmdbs = [(files.train, train), (files.validation, validation), (files.test, test)]
    parts = {os.path.basename(path): part for path, part in lmdbs if path and part}

    def write(new: str) -> None:
        for name, part in parts.items():
            path = os.path.join(new, name)
            records.write_lmdb(path, part.images, part.labels, pad, progress)
        mean = os.path.join(new, os.path.basename(files.mean))
        records.write_mean(mean, train.images, pad)

    older = paths(stem, folder, validation=True).paths
    try:
        _publish(files.paths, older, os.path.join(folder, ".%s.partial" % stem), write)
    except (lmdb.Error, OSError) as error:
        needed = sum(records.lmdb_bytes(part.images, pad) for part in parts.values())
        raise InputError(
            "cannot write %s to %s (%s): make room, or name another folder"
            % (stem, folder, disk_problem(error, folder, needed))
        ) from None
    return files


def _publish(
    files: Sequence[str], older: Sequence[str], partial: str, write: Callable[[str], None]
) -> None:
    """Write files in a hidden folder, move older ones away, then give the new ones their names.

    Args:
        files: The paths of the files.
        older: The paths of all files that an older set may have.
        partial: The hidden folder, in the folder of the files.
        write: Writes the files, by their names, into the folder that it is called with.

    Raises:
        OSError: The files cannot be written. Older ones are back in their places.
    """
    new, old = os.path.join(partial, "new"), os.path.join(partial, "old")
    shutil.rmtree(partial, ignore_errors=True)  # left by a conversion that was killed
    published = []
    try:
        os.makedirs(new)
        os.makedirs(old)
        write(new)
        for path in older:
            if os.path.exists(path):
                os.rename(path, os.path.join(old, os.path.basename(path)))
        for path in files:
            os.rename(os.path.join(new, os.path.basename(path)), path)
            published.append(path)
    except BaseException:
        for path in published:
            os.rename(path, os.path.join(new, os.path.basename(path)))
        for path in older:
            aside = os.path.join(old, os.path.basename(path))
            if os.path.exists(aside):
                os.rename(aside, path)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
