"""What the data layers of a net read: which dataset it is, whether the labels fit the net, whether the test set is covered."""

import errno
import fcntl
import os
import re
from typing import NamedTuple, Optional, Tuple

from caffe.proto import caffe_pb2

from lrbench_caffe import datasets
from lrbench_caffe.errors import InputError
from lrbench_caffe.training import prototxt
from lrbench_caffe.trial import Dataset

_WORDS_OF_A_FILE = re.compile(
    r"(^|[-_.])(train|training|test|testing|val|validation|lmdb|leveldb|db|list|txt|h5|hdf5)(?=$|[-_.])",
    re.I,
)


class Source(NamedTuple):
    """A data layer: its name, path, batch size, and the samples and shape that it holds (None where only reading all tells)."""

    layer: str
    path: str
    batch_size: int
    samples: Optional[int]
    shape: Optional[Tuple[int, ...]]
    has_labels: bool


def find_source(net, phase, state=None):
    """The Source of a net in a phase, or None when its data comes from a layer without a file.  Raises InputError as opened."""
    for layer in prototxt.layers_in_phase(net, phase, state):
        if layer.type == "Data":
            return _database(layer)
        if layer.type == "ImageData":
            param = layer.image_data_param
            samples = _filled(layer, param, _count_lines(layer, param.source))
            return Source(
                layer.name, param.source, param.batch_size, samples, None, len(layer.top) > 1
            )
        if layer.type == "HDF5Data":
            param = layer.hdf5_data_param
            return Source(
                layer.name, param.source, param.batch_size, None, None, len(layer.top) > 1
            )
    return None


def _database(layer):
    param = layer.data_param
    if not os.access(param.source, os.R_OK | os.X_OK):
        raise InputError(
            "layer %r reads %s, which this user may not enter: change its permissions"
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
                "an LMDB" if is_lmdb else "no LMDB",
            )
        )
    if is_lmdb:
        _check_lock(layer, param.source)
    samples, shape = datasets.describe_lmdb(param.source) if is_lmdb else (None, None)
    return Source(
        layer.name,
        param.source,
        param.batch_size,
        _filled(layer, param, samples),
        shape,
        len(layer.top) > 1,
    )


def _filled(layer, param, samples):
    """The number of samples, if there are any to make batches of."""
    if param.batch_size < 1 or samples == 0:
        raise InputError(
            "layer %r reads batches of %d from the %s samples of %s: there is nothing to train on"
            % (layer.name, param.batch_size, samples, param.source)
        )
    return samples


def _count_lines(layer, path):
    try:
        with open(path, errors="replace") as lines:
            return sum(1 for line in lines if line.strip())
    except OSError as error:
        raise InputError(
            "layer %r cannot read the list of images %s: %s" % (layer.name, path, error.strerror)
        ) from None


def _check_lock(layer, path):
    """Raise InputError where Caffe could not open an LMDB.

    It does so only with the file lock.mdb open for writing, and locks the byte there at its own process id, which a process in
    another container may have too.  On a read-only file system there is no lock.
    """
    try:
        lock = os.open(os.path.join(path, "lock.mdb"), os.O_RDWR | os.O_CREAT, 0o664)
    except OSError as error:
        if error.errno == errno.EROFS:
            return
        raise InputError(
            "layer %r reads %s, and Caffe opens an LMDB only where it may write the file lock.mdb (%s): make it "
            "writable, or copy the LMDB" % (layer.name, path, error.strerror)
        ) from None
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, os.getpid())
    except BlockingIOError:
        raise InputError(
            "layer %r reads %s, as a training in another container does that has the same process id, %d, which an "
            "LMDB does not allow: mount the data read-only in both (--volume DATA:/data:ro)"
            % (layer.name, path, os.getpid())
        ) from None
    finally:
        os.close(lock)


def check_labels(found, classes, network, ignore_label=None):
    """Raise InputError when labels in a Source are no classes of the network (seen in its first 10,000 samples)."""
    if None in (found, classes) or not found.has_labels or found.shape is None:
        return
    low, high = datasets.label_range(found.path)
    if any(label < 0 or label >= classes for label in {low, high} - {ignore_label}):
        raise InputError(
            "the labels in %s go from %d to %d, but the net %r tells %d classes apart: give its last layer a "
            "num_output of %d or more, with labels that start at 0"
            % (found.path, low, high, network, classes, high + 1)
        )


def iterations_per_epoch(solver):
    """How many iterations of a resolved SolverParameter see each training sample once, or None where its data does not tell."""
    found = find_source(solver.train_net_param, caffe_pb2.TRAIN, solver.train_state)
    if found is None or found.samples is None:
        return None
    return found.samples / (found.batch_size * solver.iter_size)


def coverage_note(found, test_iter):
    """A sentence when test_iter * batch does not cover a test set exactly, with what would; None when it does."""
    if found is None or found.samples is None or test_iter * found.batch_size == found.samples:
        return None
    seen = "test_iter %d * batch_size %d = %d samples are tested of the %d in %s" % (
        test_iter,
        found.batch_size,
        test_iter * found.batch_size,
        found.samples,
        found.path,
    )
    if found.samples % found.batch_size == 0:
        return "%s: test_iter %d covers them exactly" % (seen, found.samples // found.batch_size)
    batch = max(size for size in range(1, found.batch_size + 1) if found.samples % size == 0)
    return "%s: batch_size %d and test_iter %d cover them exactly" % (
        seen,
        batch,
        found.samples // batch,
    )


def describe_dataset(train, test):
    """The Dataset of a train and a test Source; its name is what their paths have beside words like train and lmdb."""
    known = next((s for s in (train, test) if s is not None), None)
    if known is None:
        return Dataset("unknown", None, None, None)
    return Dataset(_name(known.path), known.shape, train and train.samples, test and test.samples)


def _name(path):
    folder, last = os.path.split(path.rstrip(os.sep))
    name = _WORDS_OF_A_FILE.sub("", last).strip("-_.")
    return name[:200] or (_name(folder) if folder.strip(os.sep) else "unknown")
