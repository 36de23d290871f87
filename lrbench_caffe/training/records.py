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
_KEY_BYTES = 8  # of the keys of Caffe's own converters
# The layout of an LMDB, in bytes: a page and its header, the header of a record, and the place of a
# record in a page. The value of a record that is larger than half a page has pages of its own.
_PAGE, _PAGE_HEADER, _RECORD_HEADER, _PLACE, _REFERENCE = mmap.PAGESIZE, 16, 8, 2, 8
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
    content = _labeled_records(images, labels, pad)
    write_records(path, lmdb_bytes(images, pad), len(images), content, progress)


def _labeled_records(
    images: np.ndarray, labels: np.ndarray, pad: int
) -> Iterator[tuple[bytes, bytes]]:
    """The key and the Datum of each image."""
    datum = _datum_without_pixels(images, pad)
    for first in range(0, len(images), COMMIT_EVERY):
        block = _padded(images[first : first + COMMIT_EVERY], pad)
        for n, image in enumerate(block, first):
            datum.data, datum.label = image.tobytes(), int(labels[n])
            yield b"%08d" % n, datum.SerializeToString()


def write_records(
    path: str,
    size: int,
    samples: int,
    content: Iterator[tuple[Any, Any]],
    progress: Callable[[str, int, int], object] | None,
) -> None:
    """Write an LMDB of records, given as keys in order and values.

    Caffe maps ``size`` bytes when it reads the LMDB.
    """
    os.mkdir(path)  # lmdb would give it the mode of its files
    _reserve_lock(path)
    with _mapped(path, map_size=size, mode=0o664, sync=False) as database:
        for first in range(0, samples, COMMIT_EVERY):
            last = min(first + COMMIT_EVERY, samples)
            with database.begin(write=True) as transaction:
                for key, value in itertools.islice(content, last - first):
                    if not transaction.put(key, value, append=True):
                        raise InputError(
                            "the key %r cannot be written to %s, because it is not above the key "
                            "before it: make the LMDB again with one of Caffe's converters"
                            % (bytes(key), path)
                        )
            if progress is not None:
                progress(os.path.basename(path), last, samples)
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
    datum = _datum_without_pixels(images, pad)
    datum.data, datum.label = bytes(datum.channels * datum.height * datum.width), 255
    keys = np.full(len(images), _KEY_BYTES)
    return file_bytes(keys, np.full(len(images), datum.ByteSize()))


def file_bytes(keys: np.ndarray, values: np.ndarray) -> int:
    """An upper bound of the size of an LMDB whose keys and values have these sizes in bytes."""
    sizes, in_page = _RECORD_HEADER + keys + values, _PAGE - _PAGE_HEADER
    apart = sizes > in_page // 2 - _PLACE
    pages = 1 + int((-(-(_PAGE_HEADER + values[apart]) // _PAGE)).sum())
    sizes[apart] = _RECORD_HEADER + keys[apart] + _REFERENCE
    room = in_page
    for size in (sizes + sizes % 2 + _PLACE).tolist():
        if size > room:
            pages, room = pages + 1, in_page
        room -= size
    # Pages that refer to other pages are at least half full.
    in_branch = in_page // (_RECORD_HEADER + int(keys.max()) + 1 + _PLACE) // 2
    return _PAGE * (pages + pages // (in_branch - 1) + _SPARE_PAGES)


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
    with open_lmdb(path) as (database, cursor):
        samples, datum = database.stat()["entries"], read_datum(cursor, path)
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
    with open_lmdb(path) as (_, cursor):
        labels = [read_datum(cursor, path).label for _ in itertools.islice(cursor, limit)]
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
def open_lmdb(path: str) -> Iterator[tuple[Any, Any]]:
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


def read_datum(cursor: Any, path: str) -> Any:
    """The message of the record at a cursor. Raise InputError if it is not a Datum."""
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
