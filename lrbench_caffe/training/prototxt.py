"""Solver and net prototxts as protobuf messages: read, resolved to one message, and written.

The user's files are only read. They are changed as messages in memory, never as text. A setting
that is known to make Caffe abort is rejected here with an error message.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import tempfile
from typing import TYPE_CHECKING, Any

import caffe
from caffe.proto import caffe_pb2
from google.protobuf import text_format
from google.protobuf.descriptor import FieldDescriptor

from lrbench_caffe.errors import InputError, suggestion
from lrbench_caffe.training.files import find_file, read_message

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SOLVER_TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")
# The fields of a solver that name the net it trains, and those that name the nets it tests.
TRAIN_NETS = ("net", "net_param", "train_net", "train_net_param")
TEST_NETS = ("test_net", "test_net_param")
# The fields of a layer's parameters that hold a path.
PATHS = ("source", "mean_file", "root_folder")


def read_solver(path: str) -> caffe_pb2.SolverParameter:
    """Return the SolverParameter in a prototxt.

    Raises:
        InputError: The file cannot be read or parsed.
    """
    return read_message(path, caffe_pb2.SolverParameter(), "solver prototxt")


def resolve(
    solver: caffe_pb2.SolverParameter, path: str, data: str | None = None
) -> caffe_pb2.SolverParameter:
    """Return a solver that depends on no other prototxt and on no current directory.

    The result has a train_net_param, one test_net_param for each test net, and absolute paths.
    Relative paths are tried below `data`, then beside the prototxt that names them, then in the
    current directory. A snapshot_prefix stays relative to the current directory, and its default
    is the path of the solver without the extension; both are as in Caffe.

    Args:
        solver: The SolverParameter.
        path: The prototxt that it was read from.
        data: A folder (None: none).

    Raises:
        InputError: A file is missing, or the solver or a net cannot be trained.
    """
    folders = [data, os.path.dirname(path) or ".", "."]
    train, tests = _read_nets(solver, path, folders)
    _check_tests(solver, path, tests)
    resolved = caffe_pb2.SolverParameter()
    resolved.CopyFrom(solver)
    for field in TRAIN_NETS + TEST_NETS:
        resolved.ClearField(field)
    resolved.train_net_param.CopyFrom(train)
    resolved.test_net_param.extend(tests)
    resolved.weights[:] = _find_weights(solver.weights, path, folders)
    resolved.snapshot_prefix = _snapshot_prefix(solver.snapshot_prefix, path)
    if solver.type not in SOLVER_TYPES:
        raise InputError(
            "%s has the unknown solver type %r%s"
            % (path, solver.type, suggestion(solver.type, SOLVER_TYPES))
        )
    for net in [train, *tests]:
        _check_layers(net)
    return resolved


def write_solver(solver: caffe_pb2.SolverParameter, path: str) -> None:
    """Write a resolved solver for caffe.get_solver.

    The nets go into files of their own beside it: Caffe upgrades outdated layers, such as a
    BatchNorm from before 2017, only when it reads a net from a file.

    Args:
        solver: The resolved SolverParameter.
        path: The prototxt to write; the nets are written to path.train, path.test0, ...
    """
    named = caffe_pb2.SolverParameter()
    named.CopyFrom(solver)
    named.ClearField("train_net_param")
    named.ClearField("test_net_param")
    named.train_net = path + ".train"
    named.test_net[:] = [path + ".test%d" % n for n in range(len(solver.test_net_param))]
    _write(named.train_net, solver.train_net_param)
    for test_path, net in zip(named.test_net, solver.test_net_param):
        _write(test_path, net)
    _write(path, named)


def _write(path: str, message: Any) -> None:
    with open(path, "w") as file:
        file.write(text_format.MessageToString(message))


def _read_nets(
    solver: caffe_pb2.SolverParameter, path: str, folders: Sequence[str | None]
) -> tuple[Any, list[Any]]:
    """The net that a solver trains and the nets that it tests, as NetParameters."""
    fields = [field for field in TRAIN_NETS if solver.HasField(field)]
    if len(fields) != 1:
        raise InputError(
            "%s names %s: a solver needs exactly one of %s"
            % (path, " and ".join(fields) or "no net", ", ".join(TRAIN_NETS))
        )
    (field,) = fields
    train = _read_net(getattr(solver, field), path, folders)
    tests = [_read_net(net, path, folders) for net in solver.test_net_param]
    tests += [_read_net(net, path, folders) for net in solver.test_net]
    if field in ("net", "net_param"):
        # Caffe tests this net for every test_iter that has no test net.
        tests += [train] * (len(solver.test_iter) - len(tests))
    return train, tests


def _read_net(
    net: str | caffe_pb2.NetParameter, solver_path: str, folders: Sequence[str | None]
) -> caffe_pb2.NetParameter:
    """A net with absolute paths, from the name of its file or from the message in the solver."""
    message = caffe_pb2.NetParameter()
    if isinstance(net, str):
        path = find_file(net, folders, "the net named in %s" % solver_path)
        folders = [folders[0], os.path.dirname(path), "."]
        read_message(path, message, "net prototxt")
        if message.layers:
            message = _upgraded(path)
    else:
        message.CopyFrom(net)
    for layer in message.layer:
        _resolve_paths(layer, folders, layer.name)
    return message


def _upgraded(path: str) -> caffe_pb2.NetParameter:
    """A net in Caffe's format of 2014, `layers { type: CONVOLUTION }`, upgraded by Caffe's tool."""
    with tempfile.TemporaryDirectory() as folder:
        upgraded = os.path.join(folder, "net.prototxt")
        command = ["upgrade_net_proto_text", path, upgraded]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            raise InputError(
                "%s is in Caffe's old format and could not be upgraded with "
                "upgrade_net_proto_text, which comes with Caffe: run it yourself and use its output"
                % path
            ) from None
        return read_message(upgraded, caffe_pb2.NetParameter(), "net prototxt")


def _resolve_paths(message: Any, folders: Sequence[str | None], layer: str) -> None:
    """Make all paths in the parameters of a layer absolute."""
    for field, value in message.ListFields():
        is_message = field.type == FieldDescriptor.TYPE_MESSAGE
        if is_message and field.label != FieldDescriptor.LABEL_REPEATED:
            _resolve_paths(value, folders, layer)
        elif field.name in PATHS and value:
            path = find_file(value, folders, "the %s of layer %r" % (field.name, layer))
            if field.name == "root_folder":  # Caffe puts the names of images directly behind it
                path = os.path.join(path, "")
            setattr(message, field.name, path)


def _check_tests(solver: caffe_pb2.SolverParameter, path: str, tests: Sequence[Any]) -> None:
    """Raise InputError unless there is a test net, and the fields of all test nets are there."""
    if not solver.test_iter or not tests:
        raise InputError(
            "%s has no test net: LRBench measures on the test set, so give test_iter, "
            "test_interval and a net with a TEST phase" % path
        )
    if len(tests) != len(solver.test_iter):
        raise InputError(
            "%s has %d test nets and %d test_iter: give one test_iter for each"
            % (path, len(tests), len(solver.test_iter))
        )
    if solver.test_state and len(solver.test_state) != len(tests):
        raise InputError(
            "%s has %d test nets and %d test_state: give one for each or none"
            % (path, len(tests), len(solver.test_state))
        )
    if solver.test_interval <= 0 or min(solver.test_iter) <= 0:
        raise InputError("%s needs test_interval and test_iter above 0" % path)


def _find_weights(weights: Iterable[str], path: str, folders: Sequence[str | None]) -> list[str]:
    """The absolute paths of the weights to start from; each field may name several."""
    names = [name.strip() for field in weights for name in field.split(",")]
    return [find_file(name, folders, "the weights named in %s" % path) for name in names]


def _snapshot_prefix(prefix: str, path: str) -> str:
    """Caffe's snapshot_prefix: by default, and for a folder, named after the solver."""
    stem = os.path.splitext(path)[0]
    if not prefix:
        return stem
    return os.path.join(prefix, os.path.basename(stem)) if os.path.isdir(prefix) else prefix


def _check_layers(net: caffe_pb2.NetParameter) -> None:
    """Raise InputError for a layer whose type this Caffe does not have."""
    types = list(caffe.layer_type_list())
    for layer in net.layer:
        if layer.type not in types:
            raise InputError(
                "layer %r of the net %r has the unknown type %r%s"
                % (layer.name, net.name, layer.type, suggestion(layer.type, types))
            )
        if layer.type == "Python":
            _check_python_layer(layer)


def _check_python_layer(layer: Any) -> None:
    """Raise InputError if a Python layer cannot be imported; Caffe would not print the reason."""
    param = layer.python_param
    try:
        getattr(importlib.import_module(param.module), param.layer)
    except Exception as error:  # importing a module may raise anything
        raise InputError(
            "the Python layer %r cannot be imported from the module %r (%s: %s): put its folder on "
            "PYTHONPATH" % (layer.name, param.module, type(error).__name__, error)
        ) from None
