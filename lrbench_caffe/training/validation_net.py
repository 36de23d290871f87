"""A test net in memory that measures a validation set: a copy of the solver's first test net."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import h5py
from caffe.proto import caffe_pb2

from lrbench_caffe.errors import InputError
from lrbench_caffe.training import encoding, sources
from lrbench_caffe.training.files import find_file, plain_path, shown
from lrbench_caffe.training.lists import locate_listed_files
from lrbench_caffe.training.net import layers_in_phase

if TYPE_CHECKING:
    from lrbench_caffe.training.sources import Source

VALIDATION_SET = "validation"
# The layers whose source can be replaced, with the fields of their parameters.
_SOURCES = {
    "Data": "data_param",
    "ImageData": "image_data_param",
    "HDF5Data": "hdf5_data_param",
}
_CONSTANT = ("DummyData", "Parameter")  # layers without a bottom that bring no samples
_BY_HAND = (
    "add the validation net to the solver with test_net or test_state, and name it in --select"
)
_SLOW = 4  # times smaller batches than those of the test net are worth a note


def add_validation_net(
    solver: caffe_pb2.SolverParameter, path: str, data: str | None = None
) -> None:
    """Add a test net to a solver, so that each evaluation measures a whole validation set once.

    The net is a copy of the first test net with another source of data. Its batches are as large as
    those of the copied net if they divide the number of samples, else smaller.

    Args:
        solver: A resolved SolverParameter, which is changed.
        path: The validation set, in the format of the test set: an LMDB, a list of images, or a
            list of HDF5 files. It is relative to the current directory or to data.
        data: A folder (None: none).

    Raises:
        InputError: The solver has no test net, its test net does not read one file, or the
            validation set is missing, has other samples, or is the train or a test set.
    """
    if not solver.test_net_param:
        raise InputError(
            "the solver has no test net, which --validation would copy: give it test_iter, "
            "test_interval and a net with a TEST phase"
        )
    net = caffe_pb2.NetParameter()
    net.CopyFrom(solver.test_net_param[0])
    state = solver.test_state[0] if solver.test_state else None
    layer = _data_layer(net, state)
    tested = sources.find_source(net, caffe_pb2.TEST, state)
    path = find_file(path, [".", data], "the validation set", "give the path of an existing one")
    _check_is_new(path, solver)
    _replace_source(layer, path)
    source = sources.find_source(net, caffe_pb2.TEST, state)
    assert tested is not None and source is not None, "the layer has a source"
    _check_shape(layer, source, tested)
    samples = _count_hdf5(layer) if source.samples is None else source.samples
    if not samples:
        raise InputError("the validation set %s has no samples: give another one" % shown(path))
    sizes = range(1, min(source.batch_size, samples) + 1)
    batch_size = max(size for size in sizes if samples % size == 0)
    getattr(layer, _SOURCES[layer.type]).batch_size = batch_size
    solver.test_net_param.add().CopyFrom(net)
    solver.test_iter.append(samples // batch_size)
    if state is not None:
        solver.test_state.add().CopyFrom(state)


def batch_note(validation: Source | None, test: Source | None) -> str | None:
    """Return a sentence if a validation net has much smaller batches than the copied test net.

    Args:
        validation: The source of the validation net.
        test: The source of the test net.
    """
    if validation is None or test is None or validation.batch_size * _SLOW > test.batch_size:
        return None
    return (
        "the validation set is measured in batches of %d, because a batch_size up to %d that is "
        "larger does not divide the number of its samples: leave out a few samples to measure it "
        "faster" % (validation.batch_size, test.batch_size)
    )


def _data_layer(net: Any, state: Any) -> Any:
    """The only layer that brings samples into a test net, from one file or folder."""
    layers = [
        layer
        for layer in layers_in_phase(net, caffe_pb2.TEST, state)
        if not layer.bottom and layer.type not in _CONSTANT
    ]
    if len(layers) == 1 and layers[0].type in _SOURCES:
        return layers[0]
    inputs = ", ".join("%r (%s)" % (encoding.readable(each.name), each.type) for each in layers)
    raise InputError(
        "--validation replaces the source of a test net with one Data, ImageData or HDF5Data "
        "layer, but the net %r gets its samples from %s: %s"
        % (encoding.readable(net.name), inputs or "no layer", _BY_HAND)
    )


def _check_is_new(path: str, solver: caffe_pb2.SolverParameter) -> None:
    """Raise InputError if the validation set is the train set or a test set."""
    states = list(solver.test_state) or [None] * len(solver.test_net_param)
    nets = [("train", solver.train_net_param, caffe_pb2.TRAIN, solver.train_state)]
    for net, state in zip(solver.test_net_param, states):
        nets.append(("test", net, caffe_pb2.TEST, state))
    for kind, net, phase, state in nets:
        source = sources.find_source(net, phase, state)
        if source is not None and _is_same(path, encoding.to_path(source.path)):
            raise InputError(
                "the validation set %s is the %s set of the solver: give samples that it neither "
                "trains nor tests on" % (shown(path), kind)
            )


def _is_same(path: str, other: str) -> bool:
    """Whether two paths name the same file, or folders with the same LMDB."""
    pairs = [(path, other), (os.path.join(path, "data.mdb"), os.path.join(other, "data.mdb"))]
    return any(
        os.path.exists(first) and os.path.exists(second) and os.path.samefile(first, second)
        for first, second in pairs
    )


def _replace_source(layer: Any, path: str) -> None:
    """Let a data layer read the validation set."""
    param = getattr(layer, _SOURCES[layer.type])
    if layer.type != "Data":
        if os.path.isdir(path):
            raise InputError(
                "the validation set %s is a folder, but the test net has an %s layer: give a list "
                "of files, as for the test set" % (shown(path), layer.type)
            )
        param.source = plain_path(path)
        locate_listed_files(layer, [os.path.dirname(path), "."])
        return
    if not os.path.exists(os.path.join(path, "data.mdb")):
        raise InputError(
            "the validation set %s is not an LMDB, whose samples can be counted: convert it, or %s"
            % (shown(path), _BY_HAND)
        )
    param.source, param.backend = plain_path(path), caffe_pb2.DataParameter.LMDB


def _check_shape(layer: Any, source: Source, tested: Source) -> None:
    """Raise InputError if the net cannot read samples of the shape of a source."""
    shape, expected = source.shape, tested.shape
    if shape is None or expected is None:
        return
    crop = layer.transform_param.crop_size
    fits = shape[0] == expected[0] and min(shape[1:]) >= crop if crop else shape == expected
    if not fits:
        raise InputError(
            "the samples of the validation set %s have the shape %s, but those of the test set %s "
            "have %s: make both from the same data"
            % (source.path, "x".join(map(str, shape)), tested.path, "x".join(map(str, expected)))
        )


def _count_hdf5(layer: Any) -> int:
    """The number of samples in the HDF5 files of a list."""
    samples = 0
    with open(layer.hdf5_data_param.source, "rb") as names:
        paths = [os.fsdecode(name) for name in names.read().split()]
    for path in paths:
        try:
            with h5py.File(path, "r") as file:
                samples += len(file[layer.top[0]])
        except (OSError, KeyError, TypeError) as error:
            raise InputError(
                "%s of the validation set has no readable samples %r (%s): give a list of HDF5 "
                "files like that of the test set" % (shown(path), layer.top[0], error)
            ) from None
    return samples
