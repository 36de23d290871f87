"""What a training begins with, as settings of its trial: its stages, weights and transformed data.

The database identifies a network by its layers without those that bring the data, and a dataset by
its name and its size. What these layers do with the data decides about good learning rates, too.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

from caffe.proto import caffe_pb2

from lrbench_caffe.errors import InputError
from lrbench_caffe.training import encoding
from lrbench_caffe.training.canonical import field_value, is_set
from lrbench_caffe.training.net import DATA_LAYERS, layers_in_phase
from lrbench_caffe.trial import SAMPLE_FIELDS

if TYPE_CHECKING:
    from collections.abc import Collection

_HDF5 = b"\x89HDF\r\n\x1a\n"  # the beginning of a file
_DIGITS = 8  # of the SHA-256 of weights
_BLOCK_BYTES = 1 << 20  # read at a time


def input_settings(param: caffe_pb2.SolverParameter, test_net: int | None) -> dict[str, object]:
    """Return what a training begins with, without what has Caffe's default.

    Args:
        param: The resolved SolverParameter.
        test_net: The index of the test net that is reported, None without one.

    Returns:
        The level and the stages of the train net; the files of weights; and what the data layers do
        with the samples, by the names of Caffe's fields. Names of a second data layer end with
        ``_2``, and so on. Where the test net does something else, the names begin with ``test_``.
        The scale is there in any case: it tells the trials that have these settings from those of
        earlier versions. Each file has its name and the first digits of its SHA-256.
    """
    settings: dict[str, object] = {"scale": 1.0}
    stages = {encoding.readable(stage) for stage in param.train_state.stage if stage}
    if stages:
        settings["stages"] = sorted(stages)
    if param.train_state.level:
        settings["level"] = param.train_state.level
    if param.weights:
        settings["weights"] = [
            _named_by_content(path, "the initial weights") for path in param.weights
        ]
    trained = _changes(param.train_net_param, caffe_pb2.TRAIN, param.train_state)
    settings.update(trained)
    if test_net is not None:
        state = param.test_state[test_net] if param.test_state else None
        tested = _changes(param.test_net_param[test_net], caffe_pb2.TEST, state)
        for name in sorted({*trained, *tested}):
            if trained.get(name) != tested.get(name):
                settings["test_" + name] = tested.get(name)
    return settings


def weights_note(param: caffe_pb2.SolverParameter, layers: Collection[str]) -> str | None:
    """Return a sentence about the layers that do not get initial weights.

    Args:
        param: The resolved SolverParameter.
        layers: The names of the layers that have weights.

    Returns:
        None if there are no initial weights, or if all layers get some. Files of HDF5 are not read.
    """
    paths = [encoding.to_path(path) for path in param.weights]
    if not paths or any(map(_is_hdf5, paths)):
        return None
    found = {name for path in paths for name in _layers_with_weights(path)}
    sharing = _sharing(param)
    without = [
        encoding.readable(name) for name in layers if name not in found and name not in sharing
    ]
    files = " and ".join(encoding.readable(os.path.basename(path)) for path in param.weights)
    if layers and len(without) == len(layers):
        return (
            "no layer of the net has the name of a layer in %s: the training begins with random "
            "weights" % files
        )
    if without:
        return "%s has no weights for some layers, which begin with random ones: %s" % (
            files,
            ", ".join(without),
        )
    return None


def _is_hdf5(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(len(_HDF5)) == _HDF5


def _sharing(param: caffe_pb2.SolverParameter) -> set[str]:
    """The names of the layers whose weights are all those of earlier layers."""
    owned: set[str] = set()
    sharing: set[str] = set()
    for layer in layers_in_phase(param.train_net_param, caffe_pb2.TRAIN, param.train_state):
        names = [each.name for each in layer.param]
        if names and all(name and name in owned for name in names):
            sharing.add(str(layer.name))
        owned.update(filter(None, names))
    return sharing


def _layers_with_weights(path: str) -> list[str]:
    net = caffe_pb2.NetParameter()
    with open(path, "rb") as file:
        net.ParseFromString(file.read())
    return [layer.name for layer in (*net.layer, *net.layers) if layer.blobs]


def _named_by_content(path: str, use: str) -> str:
    """The name of a file with a digest, because files of different content share names."""
    digest = hashlib.sha256()
    try:
        with open(encoding.to_path(path), "rb") as file:
            for block in iter(lambda: file.read(_BLOCK_BYTES), b""):
                digest.update(block)
    except OSError as error:
        raise InputError(
            "cannot read %s %s (%s): give the path of a file that you may read"
            % (use, encoding.readable(path), error.strerror)
        ) from None
    return "%s@%s" % (encoding.readable(os.path.basename(path)), digest.hexdigest()[:_DIGITS])


def _changes(
    net: caffe_pb2.NetParameter, phase: int, state: caffe_pb2.NetState | None
) -> dict[str, object]:
    """What the data layers of a net do with the samples, by the names of Caffe's fields."""
    layers = [layer for layer in layers_in_phase(net, phase, state) if layer.type in DATA_LAYERS]
    return {
        field.name + ("_%d" % number if number > 1 else ""): _value(field, value)
        for number, layer in enumerate(layers, 1)
        for message, names in SAMPLE_FIELDS.items()
        for field, value in getattr(layer, message).ListFields()
        if field.name in names and is_set(field, value)
    }


def _value(field: Any, value: Any) -> object:
    if field.name == "mean_file":
        return _named_by_content(value, "the mean_file")
    return field_value(field, value)
