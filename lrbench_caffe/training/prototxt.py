"""A solver and its nets as protobuf messages: resolved to one message, and written for Caffe.

The user's files are only read. They are changed as messages in memory, never as text. A setting
that is known to make Caffe abort is rejected here with an error message.
"""

from __future__ import annotations

import contextlib
import filecmp
import importlib
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import caffe
from caffe.proto import caffe_pb2
from google.protobuf.message import Message

from lrbench_caffe.errors import InputError, suggestion
from lrbench_caffe.training import encoding
from lrbench_caffe.training.files import find_file, plain_path, shown
from lrbench_caffe.training.lists import locate_listed_files
from lrbench_caffe.training.net import is_included, state_in_phase
from lrbench_caffe.training.reader import read_net, read_solver, upgraded
from lrbench_caffe.training.settings import check_settings, check_tests

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

__all__ = ["read_solver", "resolve", "shadowed_nets", "write_solver"]

# The fields of a solver that name the net it trains, and those that name the nets it tests.
TRAIN_NETS = ("net", "net_param", "train_net", "train_net_param")
TEST_NETS = ("test_net", "test_net_param")
# The fields of a layer's parameters that hold a path.
PATHS = ("source", "mean_file", "root_folder")


class _Net(NamedTuple):
    """A net as it was read, and the folders in which its relative paths are looked up."""

    param: caffe_pb2.NetParameter
    folders: Sequence[str | None]


def resolve(
    solver: caffe_pb2.SolverParameter, path: str, data: str | None = None
) -> caffe_pb2.SolverParameter:
    """Return a solver that depends on no other prototxt and on no current directory.

    The result has a train_net_param, one test_net_param for each test net, and absolute paths.
    Relative paths are tried below `data`, then beside the prototxt that names them, then in the
    current directory. A snapshot_prefix stays relative to the current directory, and its default
    is the path of the solver without the extension; both are as in Caffe. A solver without test
    nets has no test_net_param. Layers that a net does not have in its state are not checked.

    Args:
        solver: The SolverParameter.
        path: The prototxt that it was read from.
        data: A folder (None: none).

    Raises:
        InputError: A file is missing, or the solver or a net cannot be trained.
    """
    check_settings(solver, path)
    folders = [data, os.path.dirname(path) or ".", "."]
    train, tests = _read_nets(solver, path, folders)
    resolved = caffe_pb2.SolverParameter()
    resolved.CopyFrom(solver)
    for field in TRAIN_NETS + TEST_NETS:
        resolved.ClearField(field)
    resolved.train_net_param.CopyFrom(_located(train, caffe_pb2.TRAIN, solver.train_state))
    states = solver.test_state or [None] * len(tests)
    resolved.test_net_param.extend(
        _located(net, caffe_pb2.TEST, state) for net, state in zip(tests, states)
    )
    resolved.weights[:] = _find_weights(solver.weights, path, folders)
    resolved.snapshot_prefix = _snapshot_prefix(solver.snapshot_prefix, path)
    for field in ("test_interval", "snapshot", "display"):
        if getattr(solver, field) < 0:  # to Caffe the same interval
            setattr(resolved, field, min(-getattr(solver, field), 2**31 - 1))
    return resolved


def shadowed_nets(
    solver: caffe_pb2.SolverParameter, path: str, data: str | None = None
) -> list[str]:
    """Return a sentence for each net of which Caffe, in this current directory, reads another file.

    Caffe takes a relative path from the current directory, :func:`resolve` from the folder of the
    solver first.

    Args:
        solver: The SolverParameter.
        path: The prototxt that it was read from.
        data: The folder with data (None: none).
    """
    named = [solver.net, solver.train_net, *solver.test_net]
    sentences = []
    for name in dict.fromkeys(encoding.to_path(name) for name in named if name):
        found = [folder for folder in (data, os.path.dirname(path) or ".") if folder is not None]
        used = next((p for p in (os.path.join(f, name) for f in found) if os.path.exists(p)), name)
        if _have_other_content(name, used):
            sentences.append(
                "the net is %s; `caffe train` would read another file here, %s"
                % (shown(os.path.abspath(used)), shown(os.path.abspath(name)))
            )
    return sentences


def _have_other_content(first: str, second: str) -> bool:
    """Whether two files can be read, and differ."""
    with contextlib.suppress(OSError):
        are_files = os.path.isfile(first) and os.path.isfile(second)
        return are_files and not filecmp.cmp(first, second, shallow=False)
    return False


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
    with open(path, "w", encoding="ascii") as file:
        file.write(encoding.printed(message))


def _read_nets(
    solver: caffe_pb2.SolverParameter, path: str, folders: Sequence[str | None]
) -> tuple[_Net, list[_Net]]:
    """The net that a solver trains and the nets that it tests."""
    fields = [field for field in TRAIN_NETS if solver.HasField(field)]
    if len(fields) != 1:
        raise InputError(
            "%s names %s: a solver needs exactly one of %s"
            % (path, " and ".join(fields) or "no net", ", ".join(TRAIN_NETS))
        )
    (field,) = fields
    general = field in ("net", "net_param")
    named = [*solver.test_net_param, *solver.test_net]
    check_tests(solver, path, len(named), general)
    train = _read_net(getattr(solver, field), path, folders)
    tests = [_read_net(net, path, folders) for net in named]
    # Caffe tests this net for every test_iter that has no test net.
    tests += [train] * (len(solver.test_iter) - len(tests))
    return train, tests


def _read_net(
    net: str | caffe_pb2.NetParameter, solver_path: str, folders: Sequence[str | None]
) -> _Net:
    """A net from the name of its file or from the message in the solver."""
    if isinstance(net, str):
        path = find_file(encoding.to_path(net), folders, "the net named in %s" % solver_path)
        return _Net(read_net(path), [folders[0], os.path.dirname(path), "."])
    return _Net(upgraded(net, "a net in %s" % solver_path) if net.layers else net, folders)


def _located(
    net: _Net, phase: int, solver_state: caffe_pb2.NetState | None
) -> caffe_pb2.NetParameter:
    """A copy of a net with absolute paths. The layers that it has in a phase are checked."""
    located = caffe_pb2.NetParameter()
    located.CopyFrom(net.param)
    state = state_in_phase(located, phase, solver_state)
    tops = set(located.input)
    for layer in located.layer:
        if layer.include and layer.exclude:
            raise InputError(
                "layer %r of the net %r has include and exclude rules: Caffe allows one kind only"
                % (encoding.readable(layer.name), encoding.readable(located.name))
            )
        included = is_included(layer, state)
        if included:
            _check_type(layer, located.name)
            _check_bottoms(layer, tops, located, state)
            tops.update(layer.top)
        _resolve_paths(layer, net.folders, layer.name, included)
        if included:
            locate_listed_files(layer, net.folders)
    return located


def _resolve_paths(message: Any, folders: Sequence[str | None], layer: str, required: bool) -> None:
    """Make the paths in the parameters of a layer absolute; a required file must exist.

    In a layer that the net does not have, the paths of existing files are still made absolute.
    They are part of the text by which the database identifies the net.
    """
    for field, value in message.ListFields():
        if isinstance(value, Message):
            _resolve_paths(value, folders, layer, required)
        elif field.name in PATHS and value:
            if field.full_name == "caffe.ImageDataParameter.root_folder":
                continue  # the start of a path, see locate_listed_files
            description = "the %s of layer %r" % (field.name, encoding.readable(layer))
            try:
                path = plain_path(find_file(encoding.to_path(value), folders, description))
            except InputError:
                if required:
                    raise
                continue
            if field.name == "root_folder":  # Caffe puts the names of images directly behind it
                path = os.path.join(path, "")
            setattr(message, field.name, path)


def _find_weights(weights: Iterable[str], path: str, folders: Sequence[str | None]) -> list[str]:
    """The absolute paths of the weights to start from; each field may name several."""
    names = [name.strip() for field in weights for name in field.split(",")]
    description = "the file of weights named in %s" % path
    return [plain_path(find_file(encoding.to_path(name), folders, description)) for name in names]


def _snapshot_prefix(prefix: str, path: str) -> str:
    """Caffe's snapshot_prefix: by default, and for a folder, named after the solver."""
    stem = encoding.from_path(os.path.splitext(path)[0])
    if not prefix:
        return stem
    is_folder = os.path.isdir(encoding.to_path(prefix))
    return os.path.join(prefix, os.path.basename(stem)) if is_folder else prefix


def _check_type(layer: Any, net: str) -> None:
    """Raise InputError for a layer whose type this Caffe does not have."""
    types = list(caffe.layer_type_list())
    if layer.type not in types:
        raise InputError(
            "layer %r of the net %r has the unknown type %r%s"
            % (
                encoding.readable(layer.name),
                encoding.readable(net),
                layer.type,
                suggestion(layer.type, types),
            )
        )
    if layer.type == "Python":
        _check_python_layer(layer)


def _check_bottoms(
    layer: Any, tops: Collection[str], net: caffe_pb2.NetParameter, state: caffe_pb2.NetState
) -> None:
    """Raise InputError if a layer has a bottom that is not among the tops before it."""
    for bottom in layer.bottom:
        if bottom in tops:
            continue
        names = tuple(map(encoding.readable, (layer.name, bottom, net.name)))
        raise InputError(
            "layer %r has the bottom %r, but the net %r has no layer before it with this top in the"
            " phase %s: %s"
            % (
                *names,
                caffe_pb2.Phase.Name(state.phase),
                _remedy_for_bottom(bottom, tops, net, state),
            )
        )


def _remedy_for_bottom(
    bottom: str, tops: Collection[str], net: caffe_pb2.NetParameter, state: caffe_pb2.NetState
) -> str:
    """What to do about a bottom that is not among the tops before its layer."""
    makers = [layer for layer in net.layer if bottom in layer.top and bottom not in layer.bottom]
    if not makers:
        return "correct the name, or add a layer with this top" + suggestion(bottom, tops)
    later = [layer for layer in makers if is_included(layer, state)]
    if later:
        return "move layer %r before it" % encoding.readable(later[0].name)
    return "the rules of layer %r leave it out: add another layer with include { phase: %s }" % (
        encoding.readable(makers[0].name),
        caffe_pb2.Phase.Name(state.phase),
    )


def _check_python_layer(layer: Any) -> None:
    """Raise InputError if a Python layer cannot be imported; Caffe would not print the reason."""
    param = layer.python_param
    try:
        getattr(importlib.import_module(param.module), param.layer)
    except Exception as error:  # importing a module may raise anything
        remedy = "correct the error in the module"
        if isinstance(error, ImportError):
            remedy = "put its folder on PYTHONPATH"
        elif isinstance(error, AttributeError) and param.module in sys.modules:
            remedy = "name a class of the module as its layer"
        raise InputError(
            "the Python layer %r cannot be imported from the module %r (%s: %s): %s"
            % (layer.name, param.module, type(error).__name__, error, remedy)
        ) from None
