"""Caffe's records of a dataset: LMDBs of Datum messages, and mean images as BlobProto.

Caffe and lmdb are imported where they are used: importing Caffe takes a second, and the commands
that only look for a dataset need neither.
"""

from __future__ import annotations

import io
import itertools
import mmap
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from lrbench_caffe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COMMIT_EVERY = 1000  # samples in a transaction, and between two reports of progress
# The layout of an LMDB, in bytes: a page and its header, the header of a record and its key, and
# the place of a record in a page. A record that is larger than half a page has pages of its own.
_PAGE, _PAGE_HEADER, _RECORD_HEADER, _PLACE = mmap.PAGESIZE, 16, 8 + 8, 2
_RECORDS_OF_BRANCH = 200  # in a page that refers to other pages, at least
_SPARE_PAGES = 32  # roots, and the pages that a transaction replaces
_LOCK_BYTES = 1 << 14  # more than an LMDB's lock file has


def write_lmdb(
    path: str,
    images: np.ndarray,
    labels: np.ndarray,
    pad: int = 0,
    progress: Callable[[str, int, int], object] | None = None,
) -> None:
    """Write an LMDB of Datum messages, with the keys of Caffe's own converters: eight digits.

    Args:
        path: The LMDB's folder, which must not exist.
        images: A uint8 array of shape (samples, channels, height, width).
        labels: A uint8 array of shape (samples,).
        pad: Zeros to add on each side of an image.
        progress: Called with the folder's name, the samples written so far and their total.

    Raises:
        InputError: The address space of the process is too small.
        lmdb.Error: The LMDB cannot be written.
        OSError: As lmdb.Error.
    """
    samples, datum = len(images), _datum_without_pixels(images, pad)
    os.mkdir(path)  # lmdb would give it the mode of its files
    _reserve_lock(path)
    # Caffe maps as much when it reads the LMDB.
    with _mapped(path, map_size=lmdb_bytes(images, pad), mode=0o664, sync=False) as database:
        for first in range(0, samples, COMMIT_EVERY):
            block = _padded(images[first : first + COMMIT_EVERY], pad)
            with database.begin(write=True) as transaction:
                for n, image in enumerate(block, first):
                    datum.data, datum.label = image.tobytes(), int(labels[n])
                    transaction.put(b"%08d" % n, datum.SerializeToString(), append=True)
            if progress is not None:
                progress(os.path.basename(path), first + len(block), samples)
        database.sync(True)


def _reserve_lock(path: str) -> None:
    """Reserve disk space for an LMDB's lock file.

    LMDB writes to this file through memory, and on a full disk that ends the process (SIGBUS).
    """
    with open(os.path.join(path, "lock.mdb"), "wb") as file:
        os.posix_fallocate(file.fileno(), 0, _LOCK_BYTES)


def lmdb_bytes(images: np.ndarray, pad: int = 0) -> int:
    """Return an upper bound of the size of an LMDB, a few percent above the size.

    Args:
        images: As for :func:`write_lmdb`.
        pad: Zeros to add on each side of an image.
    """
    datum, samples = _datum_without_pixels(images, pad), len(images)
    datum.data, datum.label = bytes(datum.channels * datum.height * datum.width), 255
    pages, content = 0, datum.ByteSize()
    if _RECORD_HEADER + content > (_PAGE - _PAGE_HEADER) // 2 - _PLACE:
        pages, content = samples * -(-(_PAGE_HEADER + content) // _PAGE), 8
    record = _RECORD_HEADER + content + content % 2 + _PLACE
    pages += -(-samples // ((_PAGE - _PAGE_HEADER) // record))
    return _PAGE * (pages + pages // _RECORDS_OF_BRANCH + _SPARE_PAGES)


def _datum_without_pixels(images: np.ndarray, pad: int) -> Any:
    channels, height, width = images.shape[1:]
    return _caffe_pb2().Datum(channels=channels, height=height + 2 * pad, width=width + 2 * pad)


def write_mean(path: str, images: np.ndarray, pad: int = 0) -> None:
    """Write the mean of images as a BlobProto, byte for byte as Caffe's compute_image_mean does.

    Args:
        path: The file to write.
        images: A uint8 array of shape (samples, channels, height, width).
        pad: Zeros to add on each side of the mean.
    """
    total = images.sum(axis=0, dtype=np.uint64)[np.newaxis]
    # compute_image_mean divides in single precision.
    mean = _padded(total.astype(np.float32) / np.float32(len(images)), pad)
    _, channels, height, width = mean.shape
    blob = _caffe_pb2().BlobProto(
        num=1, channels=channels, height=height, width=width, data=mean.ravel()
    )
    with open(path, "wb") as file:
        file.write(blob.SerializeToString())
        file.flush()
        os.fsync(file.fileno())


def _caffe_pb2() -> Any:
    """Caffe's messages."""
    try:
        from caffe.proto import caffe_pb2
    except ImportError as error:
        raise InputError(
            "Caffe is needed for its datasets, and cannot be imported (%s): run the command with "
            "docker/run" % error
        ) from None
    return caffe_pb2


def _padded(images: np.ndarray, pad: int) -> np.ndarray:
    return np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad)), mode="constant")


def describe_lmdb(path: str) -> tuple[int, tuple[int, int, int]]:
    """Describe an LMDB of Datum messages.

    Args:
        path: The LMDB's folder.

    Returns:
        The number of samples, and the shape (channels, height, width) of the first one.

    Raises:
        InputError: The folder is not an LMDB, it is damaged or empty, or its first record is not a
            Datum.
    """
    with _open_lmdb(path) as (database, cursor):
        samples, datum = database.stat()["entries"], _datum(cursor, path)
    if datum.encoded:
        return samples, _encoded_shape(datum.data, path)
    return samples, (datum.channels, datum.height, datum.width)


def check_map(path: str) -> None:
    """Raise InputError if the address space of this process has no room for an LMDB in Caffe.

    Caffe maps the size that the writer of the LMDB has chosen, which can be much larger than the
    file.
    """
    with _mapped(path, readonly=True, lock=False, create=False, map_size=0):
        pass


def label_range(path: str, limit: int = 10000) -> tuple[int, int]:
    """Return the lowest and the highest label of an LMDB of Datum messages.

    Args:
        path: The LMDB's folder.
        limit: How many records are read, from the first one on.

    Raises:
        InputError: As :func:`describe_lmdb`.
    """
    with _open_lmdb(path) as (_, cursor):
        labels = [_datum(cursor, path).label for _ in itertools.islice(cursor, limit)]
    return min(labels), max(labels)


@contextmanager
def _mapped(path: str, **options: Any) -> Iterator[Any]:
    """An open LMDB. Raise InputError if it does not fit into the address space."""
    import lmdb

    try:
        database = lmdb.open(os.fsencode(path), **options)
    except lmdb.MemoryError:
        raise InputError(
            "the LMDB %s does not fit into the address space that this process may use: raise the "
            "limit (ulimit -v), or make the LMDB again with a smaller map, as `lrbench data` does"
            % path
        ) from None
    with database:
        yield database


@contextmanager
def _open_lmdb(path: str) -> Iterator[tuple[Any, Any]]:
    """An LMDB and a cursor at its first record; writes nothing, and Caffe may read meanwhile."""
    import lmdb

    try:
        # LMDB maps at least the file.
        with _mapped(path, readonly=True, lock=False, create=False, map_size=1) as database:
            _check_size(database, path)
            with database.begin(buffers=True) as transaction:
                cursor = transaction.cursor()
                if not cursor.first():
                    raise InputError("the LMDB %s holds no samples: make it again" % path)
                yield database, cursor
    except (lmdb.Error, OSError) as error:
        raise InputError(
            "%s cannot be read as an LMDB (%s): name the folder of an LMDB, or make it again"
            % (path, error)
        ) from None


def _check_size(database: Any, path: str) -> None:
    """Raise InputError if an LMDB is cut short: reading it would end the process (SIGBUS)."""
    size = os.path.getsize(os.path.join(path, "data.mdb"))
    expected = (database.info()["last_pgno"] + 1) * database.stat()["psize"]
    if size < expected:
        raise InputError(
            "the LMDB %s is damaged: its data.mdb should have %d bytes and has %d: make it again"
            % (path, expected, size)
        )


def _datum(cursor: Any, path: str) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return _caffe_pb2().Datum.FromString(bytes(cursor.value()))
    except DecodeError:
        raise InputError(
            "the record %r of the LMDB %s is not a Datum, which Caffe's Data layer expects: make "
            "the LMDB with `lrbench data` or one of Caffe's converters"
            % (bytes(cursor.key()), path)
        ) from None


def _encoded_shape(data: bytes, path: str) -> tuple[int, int, int]:
    """The shape (channels, height, width) of an image file, from its header."""
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data))
    except OSError:
        raise InputError(
            "the first record of the LMDB %s is marked as an encoded image, but is not one: make "
            "the LMDB again" % path
        ) from None
    return len(image.getbands()), image.height, image.width
