"""The sources of a net's data: which dataset they are, and whether labels and test_iter fit."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from typing import Any, NamedTuple

from caffe.proto import caffe_pb2

from lrbench_caffe.errors import InputError
from lrbench_caffe.training import records
from lrbench_caffe.training.net import layers_in_phase
from lrbench_caffe.trial import Dataset

MIN_BATCH_SHARE = 0.25  # of the batch_size, for an advice: small batches are slow
MAX_NAME = 200  # characters of a dataset's name; the database accepts up to 500
# The words in the name of a file that do not name its dataset.
_GENERIC_WORDS = re.compile(
    r"(^|[-_.])(train|training|test|testing|val|validation|lmdb|leveldb|db|list|txt|h5|hdf5)"
    r"(?=$|[-_.])",
    re.IGNORECASE,
)


class Source(NamedTuple):
    """The file or folder that a data layer reads.

    Attributes:
        layer: The name of the layer.
        path: The file or folder.
        batch_size: Samples in a mini-batch.
        samples: The number of samples (None: unknown without reading all data).
        shape: (channels, height, width) of a sample (None: unknown without reading all data).
        has_labels: Whether the layer has a top for labels.
    """

    layer: str
    path: str
    batch_size: int
    samples: int | None
    shape: tuple[int, ...] | None
    has_labels: bool


def find_source(
    net: caffe_pb2.NetParameter, phase: int, state: caffe_pb2.NetState | None = None
) -> Source | None:
    """Find the source of a net's data in a phase.

    Args:
        net: A net with absolute paths.
        phase: The phase, caffe_pb2.TRAIN or caffe_pb2.TEST.
        state: The level and stages that the solver adds to those of the net.

    Returns:
        The Source, or None if the data comes from a layer without a file.

    Raises:
        InputError: The data cannot be read, or has no samples.
    """
    for layer in layers_in_phase(net, phase, state):
        has_labels = len(layer.top) > 1
        if layer.type == "Data":
            return _database(layer, has_labels)
        if layer.type == "ImageData":
            param = layer.image_data_param
            samples = _count_lines(layer, param.source)
            _check_samples(layer, param, samples)
            return Source(layer.name, param.source, param.batch_size, samples, None, has_labels)
        if layer.type == "HDF5Data":
            param = layer.hdf5_data_param
            return Source(layer.name, param.source, param.batch_size, None, None, has_labels)
    return None


def _database(layer: Any, has_labels: bool) -> Source:
    """The source of a Data layer: an LMDB, or a LevelDB, whose samples are not counted."""
    param = layer.data_param
    if not os.access(param.source, os.R_OK | os.X_OK):
        raise InputError(
            "layer %r reads %s, which this user has no permission to read: change its permissions"
            % (layer.name, param.source)
        )
    is_lmdb = os.path.exists(os.path.join(param.source, "data.mdb"))
    if is_lmdb != (param.backend == caffe_pb2.DataParameter.LMDB):
        raise InputError(
            "layer %r reads %s as %s, but it is %s: set its backend, or make it with `lrbench data`"
            % (
                layer.name,
                param.source,
                caffe_pb2.DataParameter.DB.Name(param.backend),
                "an LMDB" if is_lmdb else "not an LMDB",
            )
        )
    samples, shape = None, None
    if is_lmdb:
        _check_lock(layer, param.source)
        samples, shape = records.describe_lmdb(param.source)
        records.check_map(param.source)
    _check_samples(layer, param, samples)
    return Source(layer.name, param.source, param.batch_size, samples, shape, has_labels)


def _check_samples(layer: Any, param: Any, samples: int | None) -> None:
    """Raise InputError if there are no samples, or no samples in a batch."""
    if param.batch_size < 1 or samples == 0:
        count = "the samples" if samples is None else "the %d samples" % samples
        raise InputError(
            "layer %r reads batches of %d from %s of %s: set batch_size above 0, or name a source "
            "that has samples" % (layer.name, param.batch_size, count, param.source)
        )


def _count_lines(layer: Any, path: str) -> int:
    try:
        with open(path, errors="replace") as lines:
            return sum(1 for line in lines if line.strip())
    except OSError as error:
        raise InputError(
            "layer %r cannot read its list of images %s: %s" % (layer.name, path, error.strerror)
        ) from None


def _check_lock(layer: Any, path: str) -> None:
    """Raise InputError if Caffe could not open an LMDB.

    LMDB opens the file lock.mdb for writing and locks the byte whose offset is its process id. A
    process in another container may have the same id. A read-only file system needs no lock.
    """
    try:
        lock = os.open(os.path.join(path, "lock.mdb"), os.O_RDWR | os.O_CREAT, 0o664)
    except OSError as error:
        if error.errno == errno.EROFS:
            return
        raise InputError(
            "layer %r reads %s, but Caffe can only open an LMDB whose file lock.mdb it can write "
            "(%s): make it writable, or copy the LMDB" % (layer.name, path, error.strerror)
        ) from None
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, os.getpid())
    except BlockingIOError:
        raise InputError(
            "layer %r reads %s, which a training in another container reads under the same process "
            "id, %d; LMDB does not allow that: mount the data read-only in both "
            "(--volume DATA:/data:ro)" % (layer.name, path, os.getpid())
        ) from None
    finally:
        os.close(lock)


def check_labels(
    source: Source, classes: int | None, network: str, ignore_label: int | None = None
) -> None:
    """Check the labels of the first 10,000 samples against the number of classes.

    Args:
        source: The source to check; skipped if it has no labels or is not an LMDB.
        classes: The number of classes (None: unknown, and nothing is checked).
        network: The name of the net, for the error message.
        ignore_label: A label that need not be a class.

    Raises:
        InputError: The lowest or the highest label is not a class of the net.
    """
    if classes is None or not source.has_labels or source.shape is None:
        return
    low, high = records.label_range(source.path)
    if any(label < 0 or label >= classes for label in {low, high} - {ignore_label}):
        raise InputError(
            "the labels in %s range from %d to %d, but the net %r has %d classes: give its last "
            "layer a num_output of %d or more, with labels that start at 0"
            % (source.path, low, high, network, classes, high + 1)
        )


def iterations_per_epoch(solver: caffe_pb2.SolverParameter) -> float | None:
    """Return the iterations of an epoch.

    Args:
        solver: A resolved SolverParameter.

    Returns:
        Training samples divided by the samples of an iteration, None if their number is unknown.
    """
    source = find_source(solver.train_net_param, caffe_pb2.TRAIN, solver.train_state)
    if source is None or source.samples is None:
        return None
    iter_size: int = solver.iter_size
    return source.samples / (source.batch_size * iter_size)


def coverage_note(
    source: Source | None, test_iter: int, measured_set: str | None = None
) -> str | None:
    """Explain how to cover the test set exactly.

    Args:
        source: The source of the test data.
        test_iter: Batches in an evaluation.
        measured_set: The name of the set, if there are several.

    Returns:
        A sentence, or None if the test set is covered exactly or its size is unknown.
    """
    if source is None or source.samples is None:
        return None
    samples, batch_size = source.samples, source.batch_size
    if test_iter * batch_size == samples:
        return None
    where = "" if measured_set is None else "on the set %s, " % measured_set
    fact = where + "test_iter %d * batch_size %d = %d samples are tested of the %d in %s" % (
        test_iter,
        batch_size,
        test_iter * batch_size,
        samples,
        source.path,
    )
    if samples % batch_size == 0:
        return "%s: test_iter %d covers them exactly" % (fact, samples // batch_size)
    divisor = max(size for size in range(1, batch_size + 1) if samples % size == 0)
    if divisor >= MIN_BATCH_SHARE * batch_size:
        advice = "batch_size %d and test_iter %d cover them exactly" % (divisor, samples // divisor)
        return "%s: %s" % (fact, advice)
    batches = -(-samples // batch_size)  # rounded up
    twice = "%d of them count twice" % (batches * batch_size - samples)
    if test_iter == batches:
        return "%s: %s" % (fact, twice)
    return "%s: test_iter %d covers them, and %s" % (fact, batches, twice)


def describe_dataset(train: Source | None, test: Source | None) -> Dataset:
    """Return the Dataset of a training and a test source.

    Its name is that of the path without words like "train" and "lmdb", e.g. "mnist" for
    ``/data/mnist_train_lmdb``.
    """
    source = train or test
    if source is None:
        return Dataset("unknown", None, None, None)
    return Dataset(
        _dataset_name(source.path), source.shape, train and train.samples, test and test.samples
    )


def _dataset_name(path: str) -> str:
    folder, last = os.path.split(path.rstrip(os.sep))
    name = _GENERIC_WORDS.sub("", last).strip("-_.")
    return name[:MAX_NAME] or (_dataset_name(folder) if folder.strip(os.sep) else "unknown")
