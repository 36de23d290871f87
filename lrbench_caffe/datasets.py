"""Digits, MNIST and CIFAR-10 as the LMDBs and mean files that Caffe's Data layer reads, and what such an LMDB holds.

:func:`convert` writes ``NAME_train_lmdb``, ``NAME_test_lmdb`` and ``NAME_mean.binaryproto``.  They are finished when all three
are there: each is written in a hidden folder beside them and gets its name in one step, when nothing of an older set is left.
"""

import fcntl
import hashlib
import io
import itertools
import os
import shutil
import tarfile
import zlib
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from lrbench_caffe.errors import InputError

NAMES = ("digits", "mnist", "cifar10")

MNIST_HOME = "http://yann.lecun.com/exdb/mnist/"
# MD5 of each file as published, and of what it unpacks to; the second says whether a user's copy is whole, packed or not.
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
CIFAR10_HOME = "https://www.cs.toronto.edu/~kriz/"
CIFAR10_ARCHIVE, CIFAR10_MD5 = "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"
CIFAR10_FOLDER = "cifar-10-batches-bin"
CIFAR10_TRAIN = tuple("data_batch_%d.bin" % (i + 1) for i in range(5))
CIFAR10_TEST = ("test_batch.bin",)
CIFAR10_FILE_RECORDS, CIFAR10_SHAPE = 10000, (3, 32, 32)

COMMIT_EVERY = 1000  # samples


class Part(NamedTuple):
    """The samples of one part of a dataset: images of shape (n, channels, height, width) and n labels, both uint8."""

    images: np.ndarray
    labels: np.ndarray


class Files(NamedTuple):
    """The three paths that a dataset is stored under, and whether this call wrote them or they were there."""

    train: str
    test: str
    mean: str
    written: bool


def convert(name, to, source=None, pad=0, progress=None):
    """Write a dataset below the folder `to`, which is made; returns its :class:`Files`.

    name: digits, mnist or cifar10.  source: a folder with the dataset's official files, or CIFAR-10's archive; without it they
    are downloaded (digits come with scikit-learn).  progress(what, done, total) is called with the name of a file being
    downloaded and bytes (total is None where the server does not say), and with that of an LMDB being written and samples.

    pad: how many zeros to put on each side of the images, training and test, for nets that crop: Caffe's Data layer crops
    anywhere in training, and in the middle, which is the image itself, in the test.  The mean is padded like them, so that the
    border is zero after subtraction too and one mean file does for both.  The padded set is called NAME_padN.

    The order of the samples is the official files' own; digits have the order of :func:`read_digits`.
    A set that is there, all three parts of it, is kept, whatever it was made from; remove one part to have it made anew.
    Raises InputError for what cannot be read, downloaded or written.
    """
    if name not in NAMES:
        raise InputError("there is no dataset %r: choose one of %s" % (name, ", ".join(NAMES)))
    if pad < 0:
        raise InputError(
            "pad is %d: give the number of zeros to put on each side of an image, 0 or more" % pad
        )
    if name == "digits" and source is not None:
        raise InputError(
            "digits come with scikit-learn and are not read from %s: leave --from out" % source
        )
    files = paths(name, to, pad)
    if _all_there(files):
        return files
    with _locked(to, _stem(name, pad)):
        if _all_there(files):  # another process has just written it
            return files
        if name == "digits":
            train, test = read_digits()
        elif name == "mnist":
            packed = {file + ".gz": md5[0] for file, md5 in MNIST_FILES.items()}
            train, test = read_mnist(source or download(MNIST_HOME, packed, progress))
        else:
            train, test = read_cifar10(
                source or download(CIFAR10_HOME, {CIFAR10_ARCHIVE: CIFAR10_MD5}, progress)
            )
        return _publish(_stem(name, pad), to, train, test, pad, progress)


def write_lmdb(name, to, train, test, pad=0, progress=None):
    """Write two :class:`Part` as a dataset, with the names that :func:`convert` gives, in place of what is there."""
    with _locked(to, _stem(name, pad)):
        return _publish(_stem(name, pad), to, train, test, pad, progress)


def paths(name, to, pad=0):
    """The :class:`Files` that a dataset has below the folder `to`, be they there or not."""
    start = os.path.join(to, _stem(name, pad))
    return Files(start + "_train_lmdb", start + "_test_lmdb", start + "_mean.binaryproto", False)


def _stem(name, pad):
    return "%s_pad%d" % (name, pad) if pad else name


def _all_there(files):
    return all(os.path.exists(path) for path in files[:3])


def read_digits():
    """scikit-learn's handwritten digits: (train, test) Part of 1,397 and 400 images of 1x8x8.

    The order is a fixed shuffle; of each digit, its first 40 samples are for the test.  Pixels go from 0 to 16 in the original
    and are stretched to 0 to 255 here, as in MNIST.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError(
            "the digits come with scikit-learn, which this Python does not have: install scikit-learn"
        ) from None
    digits = load_digits()
    order = np.random.RandomState(0).permutation(len(digits.target))
    images = np.rint(digits.images[order] * (255 / 16)).astype(np.uint8)[:, np.newaxis]
    labels = digits.target[order].astype(np.uint8)
    is_test = np.zeros(len(labels), bool)
    is_test[[i for digit in range(10) for i in np.flatnonzero(labels == digit)[:40]]] = True
    return Part(images[~is_test], labels[~is_test]), Part(images[is_test], labels[is_test])


def read_mnist(folder):
    """MNIST: (train, test) Part of 60,000 and 10,000 images of 1x28x28, from the four idx files, each gzipped or not."""
    arrays = [
        read_idx(_one_of(folder, (name, name + ".gz"), "MNIST"), md5[1])
        for name, md5 in MNIST_FILES.items()
    ]
    return Part(arrays[0][:, np.newaxis], arrays[1]), Part(arrays[2][:, np.newaxis], arrays[3])


def read_idx(path, md5):
    """The uint8 array in an idx file, gzipped or not, whose unpacked content has this MD5 checksum."""
    content = _unpacked(path)
    _check_md5(path, content, md5, "unpacked, " if path.endswith(".gz") else "")
    axes = content[3]
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(
        np.frombuffer(content, ">u4", axes, 4)
    )


def read_cifar10(source, md5=CIFAR10_MD5):
    """CIFAR-10: (train, test) Part of 50,000 and 10,000 images of 3x32x32, from its binary version.

    source: the archive; the folder cifar-10-batches-bin; or a folder that holds either.  An archive must have this checksum.  For
    the batch files in it none are published, so of unpacked ones the size and the labels are checked.
    """
    first = CIFAR10_TRAIN[0]
    if not os.path.isfile(source):
        source = _one_of(
            source, (first, os.path.join(CIFAR10_FOLDER, first), CIFAR10_ARCHIVE), "CIFAR-10"
        )
    if os.path.basename(source) != first:
        packed = _content(source)
        _check_md5(source, packed, md5)
        with tarfile.open(
            fileobj=io.BytesIO(packed)
        ) as archive:  # in one pass, as going back means to unpack from the start
            contents = {
                os.path.basename(m.name): archive.extractfile(m).read()
                for m in archive
                if m.name.endswith(".bin")
            }
    else:
        source = os.path.dirname(source)
        contents = {
            name: _content(_one_of(source, (name,), "CIFAR-10"))
            for name in CIFAR10_TRAIN + CIFAR10_TEST
        }
    parts = []
    for names in (CIFAR10_TRAIN, CIFAR10_TEST):
        records = np.concatenate(
            [_cifar10_records(contents[name], os.path.join(source, name)) for name in names]
        )
        parts.append(Part(records[:, 1:].reshape((-1,) + CIFAR10_SHAPE), records[:, 0]))
    return tuple(parts)


def _cifar10_records(content, where):
    length = 1 + int(np.prod(CIFAR10_SHAPE))
    if len(content) != CIFAR10_FILE_RECORDS * length:
        raise InputError(
            "%s is damaged: %d records of %d bytes are %d, and it has %d bytes: unpack or download it again"
            % (where, CIFAR10_FILE_RECORDS, length, CIFAR10_FILE_RECORDS * length, len(content))
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, length)
    if records[:, 0].max() > 9:
        record = int(np.argmax(records[:, 0] > 9))
        raise InputError(
            "%s is damaged: record %d has the label %d, and CIFAR-10's are 0 to 9: unpack or download it again"
            % (where, record, records[record, 0])
        )
    return records


def _one_of(folder, names, dataset):
    for name in names:
        if os.path.exists(os.path.join(folder, name)):
            return os.path.join(folder, name)
    raise InputError(
        "%s has no %s: give the folder of %s's official files (--from), or leave it out to download them"
        % (folder, " or ".join(names), dataset)
    )


def _content(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InputError("cannot read %s: %s" % (path, error.strerror)) from None


def _unpacked(path):
    """The content of a file that may be gzipped; of a damaged one, as much as there is, for its checksum to be found wrong."""
    content, parts = _content(path), []
    if content[:2] != b"\x1f\x8b":  # browsers may have unpacked it and kept the name
        return content
    unpack = zlib.decompressobj(wbits=31)
    try:
        for first in range(0, len(content), 1 << 16):
            parts.append(unpack.decompress(content[first : first + (1 << 16)]))
    except zlib.error:
        pass
    return b"".join(parts)


def _check_md5(path, content, expected, which=""):
    found = hashlib.md5(content).hexdigest()
    if found != expected:
        raise InputError(
            "%s is damaged or another file: %sits MD5 checksum should be %s and is %s: download it again"
            % (path, which, expected, found)
        )


def download(home, files, progress=None, cache=None):
    """Download files, {name: MD5}, from the address `home`, unless they are in the cache; returns the folder they are in.

    cache: the folder; by default ``lrbench`` in the user's cache directory.  progress as in :func:`convert`.
    Raises InputError for a file that cannot be had or has another checksum; nothing of it is kept.
    """
    import http.client
    import urllib.error

    cache = cache or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "lrbench"
    )
    for name, md5 in files.items():
        path, partial = (
            os.path.join(cache, name),
            os.path.join(cache, ".%s.%d" % (name, os.getpid())),
        )
        if os.path.exists(path) and hashlib.md5(_content(path)).hexdigest() == md5:
            continue
        try:
            os.makedirs(cache, exist_ok=True)
            found = _fetch(
                home + name, partial, lambda *counts: progress and progress(name, *counts)
            )
            if found == md5:
                os.rename(partial, path)
                continue
            reason = "it arrived with the MD5 checksum %s, and should have %s" % (found, md5)
        except (OSError, http.client.HTTPException) as error:  # urllib's errors are OSErrors
            reason = error.reason if type(error) is urllib.error.URLError else error
        finally:
            if os.path.exists(partial):
                os.remove(partial)
        raise InputError(
            "cannot download %s%s to %s: %s: try again, or give a folder with the official files (--from)"
            % (home, name, cache, reason)
        )
    return cache


def _fetch(url, path, count):
    """Copy what is at a URL to a file and call count(done, total) in bytes; returns its MD5."""
    import urllib.request

    digest, done = hashlib.md5(), 0
    with urllib.request.urlopen(url, timeout=60) as answer, open(path, "wb") as file:
        total = int(answer.headers["Content-Length"]) if answer.headers["Content-Length"] else None
        for block in iter(lambda: answer.read(1 << 16), b""):
            file.write(block)
            digest.update(block)
            done += len(block)
            count(done, total)
    return digest.hexdigest()


@contextmanager
def _locked(to, stem):
    """Make the folder `to` and let one process at a time write this dataset there; a killed one's lock is gone with it."""
    try:
        os.makedirs(to, exist_ok=True)
        lock = open(os.path.join(to, ".%s.lock" % stem), "w")
    except OSError as error:
        raise InputError("cannot write to %s: %s" % (to, error.strerror)) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _publish(stem, to, train, test, pad, progress):
    """Write the three parts in a hidden folder; then move what is there under their names into it, and them to their names."""
    import lmdb

    files = paths(stem, to)._replace(written=True)
    partial = os.path.join(to, ".%s.partial" % stem)
    new, old = paths(stem, os.path.join(partial, "new")), paths(stem, os.path.join(partial, "old"))
    shutil.rmtree(partial, ignore_errors=True)  # what a killed conversion left
    try:
        for folder in (new, old):
            os.makedirs(os.path.dirname(folder.train))
        _write_lmdb(new.train, train, pad, progress)
        _write_lmdb(new.test, test, pad, progress)
        _write_mean(new.mean, train.images, pad)
        for path, aside in zip(files[:3], old):
            if os.path.exists(path):
                os.rename(path, aside)
        for path, made in zip(files[:3], new):
            os.rename(made, path)
    except (lmdb.Error, OSError) as error:
        raise InputError("cannot write %s below %s: %s" % (stem, to, error)) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return files


def _write_lmdb(path, part, pad, progress):
    """An LMDB of Datum records, with the keys that Caffe's own converters give: the number of the sample in eight digits."""
    import lmdb
    from caffe.proto import caffe_pb2

    count, (channels, height, width) = len(part.images), part.images.shape[1:]
    datum = caffe_pb2.Datum(channels=channels, height=height + 2 * pad, width=width + 2 * pad)
    size = datum.channels * datum.height * datum.width
    os.mkdir(path)  # lmdb would make it with the mode of its files
    # an upper bound, in address space only: a record and the ends of its pages, whatever their size; the file grows as needed
    with lmdb.open(
        path, map_size=(1 << 20) + count * (size + (1 << 16)), mode=0o664, sync=False
    ) as env:
        for first in range(0, count, COMMIT_EVERY):
            images = _padded(part.images[first : first + COMMIT_EVERY], pad)
            with env.begin(write=True) as txn:
                for i, image in enumerate(images, first):
                    datum.data, datum.label = image.tobytes(), int(part.labels[i])
                    txn.put(b"%08d" % i, datum.SerializeToString(), append=True)
            if progress is not None:
                progress(os.path.basename(path), first + len(images), count)
        env.sync(True)


def _write_mean(path, images, pad):
    """The mean image as a BlobProto; divided in single precision, as Caffe's compute_image_mean does, for the same bytes."""
    from caffe.proto import caffe_pb2

    total = images.sum(axis=0, dtype=np.uint64)[np.newaxis]
    mean = _padded(total.astype(np.float32) / np.float32(len(images)), pad)
    blob = caffe_pb2.BlobProto(
        num=1, channels=mean.shape[1], height=mean.shape[2], width=mean.shape[3], data=mean.ravel()
    )
    with open(path, "wb") as file:
        file.write(blob.SerializeToString())
        file.flush()
        os.fsync(file.fileno())


def _padded(images, pad):
    return np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad)), mode="constant")


def describe_lmdb(path):
    """(number of samples, (channels, height, width) of the first one) of an LMDB of Datum records."""
    with _reading(path) as (env, cursor):
        samples, datum = env.stat()["entries"], _datum(cursor, path)
    return samples, _encoded_shape(datum.data, path) if datum.encoded else (
        datum.channels,
        datum.height,
        datum.width,
    )


def label_range(path, limit=10000):
    """(lowest, highest) label of the first `limit` records of an LMDB of Datum records."""
    with _reading(path) as (_, cursor):
        labels = [_datum(cursor, path).label for _ in itertools.islice(cursor, limit)]
    return min(labels), max(labels)


@contextmanager
def _reading(path):
    """An LMDB's environment and a cursor at its first record; nothing is written, and Caffe may read it at the same time."""
    import lmdb

    try:
        with lmdb.open(path, readonly=True, lock=False, create=False) as env:
            size = os.path.getsize(os.path.join(path, "data.mdb"))
            needed = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
            if size < needed:  # reading on would end the process with a bus error
                raise InputError(
                    "the LMDB %s is damaged: its data.mdb should have %d bytes and has %d: make it again"
                    % (path, needed, size)
                )
            with env.begin(buffers=True) as txn:
                cursor = txn.cursor()
                if not cursor.first():
                    raise InputError("the LMDB %s holds no samples: make it again" % path)
                yield env, cursor
    except (lmdb.Error, OSError) as error:
        raise InputError("%s cannot be read as an LMDB: %s" % (path, error)) from None


def _datum(cursor, path):
    from caffe.proto import caffe_pb2
    from google.protobuf.message import DecodeError

    try:
        return caffe_pb2.Datum.FromString(bytes(cursor.value()))
    except DecodeError:
        raise InputError(
            "the record %r of the LMDB %s is no Datum, which is what Caffe's Data layer reads: make it with "
            "`lrbench data` or one of Caffe's converters" % (bytes(cursor.key()), path)
        ) from None


def _encoded_shape(data, path):
    """(channels, height, width) of an image file, from its header."""
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data))
    except OSError:
        raise InputError(
            "the first record of the LMDB %s is marked as an encoded image, and is none" % path
        ) from None
    return len(image.getbands()), image.height, image.width
