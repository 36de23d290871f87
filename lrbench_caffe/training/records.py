"""Caffe's records of a dataset: LMDBs of Datum messages, and mean images as BlobProto.

Caffe and lmdb are imported where they are used: importing Caffe takes a second, and the commands
that only look for a dataset need neither.
"""

from __future__ import annotations

import io
import itertools
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from lrbench_caffe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COMMIT_EVERY = 1000  # samples in a transaction, and between two reports of progress
# Upper bounds for the size of an LMDB: a fixed part, and for each sample the ends of its pages.
LMDB_BYTES, SAMPLE_BYTES = 1 << 20, 1 << 16


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
    """
    import lmdb
    from caffe.proto import caffe_pb2

    samples, (channels, height, width) = len(images), images.shape[1:]
    datum = caffe_pb2.Datum(channels=channels, height=height + 2 * pad, width=width + 2 * pad)
    size = datum.channels * datum.height * datum.width
    os.mkdir(path)  # lmdb would give it the mode of its files
    map_size = LMDB_BYTES + samples * (size + SAMPLE_BYTES)  # address space, not disk space
    with lmdb.open(path, map_size=map_size, mode=0o664, sync=False) as database:
        for first in range(0, samples, COMMIT_EVERY):
            block = _padded(images[first : first + COMMIT_EVERY], pad)
            with database.begin(write=True) as transaction:
                for n, image in enumerate(block, first):
                    datum.data, datum.label = image.tobytes(), int(labels[n])
                    transaction.put(b"%08d" % n, datum.SerializeToString(), append=True)
            if progress is not None:
                progress(os.path.basename(path), first + len(block), samples)
        database.sync(True)


def write_mean(path: str, images: np.ndarray, pad: int = 0) -> None:
    """Write the mean of images as a BlobProto, byte for byte as Caffe's compute_image_mean does.

    Args:
        path: The file to write.
        images: A uint8 array of shape (samples, channels, height, width).
        pad: Zeros to add on each side of the mean.
    """
    from caffe.proto import caffe_pb2

    total = images.sum(axis=0, dtype=np.uint64)[np.newaxis]
    # compute_image_mean divides in single precision.
    mean = _padded(total.astype(np.float32) / np.float32(len(images)), pad)
    _, channels, height, width = mean.shape
    blob = caffe_pb2.BlobProto(
        num=1, channels=channels, height=height, width=width, data=mean.ravel()
    )
    with open(path, "wb") as file:
        file.write(blob.SerializeToString())
        file.flush()
        os.fsync(file.fileno())


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
def _open_lmdb(path: str) -> Iterator[tuple[Any, Any]]:
    """An LMDB and a cursor at its first record; writes nothing, and Caffe may read meanwhile."""
    import lmdb

    try:
        with lmdb.open(path, readonly=True, lock=False, create=False) as database:
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
    from caffe.proto import caffe_pb2
    from google.protobuf.message import DecodeError

    try:
        return caffe_pb2.Datum.FromString(bytes(cursor.value()))
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
