"""Solver and net files as protobuf messages: read, resolve to one message that stands alone, and add the test layer.

Nothing is done on text and the user's files are only read.  What is known to make Caffe abort is refused here with a sentence.
"""

import hashlib
import importlib
import json
import os
import subprocess
import tempfile
from typing import NamedTuple, Optional

import caffe
import numpy as np
from caffe.proto import caffe_pb2
from google.protobuf import text_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from lrbench_caffe.errors import InputError
from lrbench_caffe.policies import suggestion

METRICS_MODULE, METRICS_LAYER = "lrbench_caffe.layers", "MetricsLayer"
DATA_LAYERS = (
    "Data",
    "ImageData",
    "HDF5Data",
    "WindowData",
    "MemoryData",
    "DummyData",
    "Input",
    "AnnotatedData",
)
SCHEDULE = ("base_lr", "lr_policy", "gamma", "power", "stepsize", "stepvalue")
SOLVER_TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")
# The layers that have as many channels above as below.
SAME_CHANNELS = (
    "Softmax",
    "ReLU",
    "PReLU",
    "ELU",
    "Sigmoid",
    "TanH",
    "Dropout",
    "BatchNorm",
    "Scale",
    "Bias",
    "Pooling",
    "LRN",
    "Power",
    "MVN",
)
NET_FIELDS = ("net", "net_param", "train_net", "train_net_param")


def read_solver(path):
    """The SolverParameter in the file at path."""
    return _read(path, caffe_pb2.SolverParameter(), "solver prototxt")


def resolve(solver, path, data=None):
    """A SolverParameter that stands alone: train_net_param, one test_net_param for each test net, and absolute paths.

    path is the solver's file; relative paths are looked up below data (a folder), then beside the file that names them, then in
    the current directory.  A snapshot_prefix is left relative to the current directory, as Caffe has it; where there is none it
    is the solver's path without its ending, as Caffe has it too.  Raises InputError for what cannot be found or trained.
    """
    folders = [data, os.path.dirname(path) or ".", "."]
    whole = caffe_pb2.SolverParameter()
    whole.CopyFrom(solver)
    for name in NET_FIELDS + ("test_net", "test_net_param"):
        whole.ClearField(name)
    given = [name for name in NET_FIELDS if solver.HasField(name)]
    if len(given) != 1:
        raise InputError(
            "%s names %s: a solver needs exactly one of net, net_param, train_net, train_net_param"
            % (path, " and ".join(given) or "no net")
        )
    train = _net(getattr(solver, given[0]), path, folders)
    whole.train_net_param.CopyFrom(train)
    tests = [
        _net(net, path, folders) for net in list(solver.test_net_param) + list(solver.test_net)
    ]
    if given[0] in (
        "net",
        "net_param",
    ):  # Caffe tests the same net for every test_iter that is left
        tests += [train] * (len(solver.test_iter) - len(tests))
    if not solver.test_iter or not tests:
        raise InputError(
            "%s has no test net: LRBench measures on the test set, so give test_iter, test_interval and a net with "
            "a TEST phase" % path
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
    for test in tests:
        whole.test_net_param.add().CopyFrom(test)
    whole.weights[:] = [
        find_file(weights.strip(), folders, "the weights named in %s" % path)
        for several in solver.weights
        for weights in several.split(",")
    ]
    if not solver.snapshot_prefix:
        whole.snapshot_prefix = os.path.splitext(path)[0]
    elif os.path.isdir(solver.snapshot_prefix):
        whole.snapshot_prefix = os.path.join(
            solver.snapshot_prefix, os.path.splitext(os.path.basename(path))[0]
        )
    if whole.type not in SOLVER_TYPES:
        raise InputError(
            "%s has the unknown solver type %r%s"
            % (path, whole.type, suggestion(whole.type, SOLVER_TYPES))
        )
    _check_types(whole)
    return whole


def find_file(name, folders, what, hint="name the folder it is in with --data"):
    """The absolute path of a file or folder that a prototxt names; raises InputError with every place that was looked in."""
    places = (
        [name]
        if os.path.isabs(name)
        else [os.path.join(folder, name) for folder in folders if folder is not None]
    )
    for place in places:
        if os.path.exists(place):
            return os.path.abspath(place)
    looked = list(dict.fromkeys(os.path.abspath(place) for place in places))
    raise InputError(
        "%s, %s, was not found; looked for %s: %s" % (what, name, ", ".join(looked), hint)
    )


def layers_in_phase(net, phase, state=None):
    """The layers of a NetParameter that are in a net of this phase (Caffe's include and exclude rules); state: a NetState."""
    merged = caffe_pb2.NetState(phase=phase)
    merged.MergeFrom(net.state)
    if state is not None:
        merged.MergeFrom(state)
    return [
        layer
        for layer in net.layer
        if (
            any(_meets(merged, rule) for rule in layer.include)
            if layer.include
            else not any(_meets(merged, rule) for rule in layer.exclude)
        )
    ]


def _meets(state, rule):
    return not (
        (rule.HasField("phase") and rule.phase != state.phase)
        or (rule.HasField("min_level") and state.level < rule.min_level)
        or (rule.HasField("max_level") and state.level > rule.max_level)
        or not set(rule.stage) <= set(state.stage)
        or set(rule.not_stage) & set(state.stage)
    )


class Head(NamedTuple):
    """Where a test net classifies: the blob of class probabilities, the blob of labels, and the label that is left out."""

    probabilities: str
    labels: str
    ignore_label: Optional[int] = None


def add_metrics_layer(solver):
    """Add the test layer to the first test net of a resolved solver, unless it has one; returns its Head.

    Where the net has only SoftmaxWithLoss, a Softmax on the same scores comes before it.  Raises InputError for a net without
    labels or without softmax.
    """
    net = solver.test_net_param[0]
    present = layers_in_phase(
        net, caffe_pb2.TEST, solver.test_state[0] if solver.test_state else None
    )
    trained = layers_in_phase(solver.train_net_param, caffe_pb2.TRAIN, solver.train_state)
    for layer in present:
        if (layer.python_param.module, layer.python_param.layer) == (METRICS_MODULE, METRICS_LAYER):
            if len(layer.bottom) != 2:
                raise InputError(
                    "the layer %r has %d bottoms: give it the softmax outputs and the labels"
                    % (layer.name, len(layer.bottom))
                )
            return Head(
                *layer.bottom,
                ignore_label=json.loads(layer.python_param.param_str or "{}").get("ignore_label"),
            )
    losses = _losses(present) or _losses(
        trained, {layer.bottom[0] for layer in present if layer.type == "Accuracy"}
    )
    softmaxes = {layer.bottom[0]: layer.top[0] for layer in present if layer.type == "Softmax"}
    if losses:  # of several, the main one: GoogLeNet's others weigh less
        loss = max(
            reversed(losses), key=lambda layer: layer.loss_weight[0] if layer.loss_weight else 1.0
        )
        scores, labels = loss.bottom[0], loss.bottom[1] if loss in present else _labels(present)
        top = softmaxes.get(scores) or _add_softmax(net, loss)
    else:
        top, labels, loss = (
            list(softmaxes.values())[-1] if softmaxes else None,
            _labels(present),
            None,
        )
    if not top:
        raise InputError(
            "the test net %r has neither a Softmax nor a SoftmaxWithLoss layer: LRBench compares classifiers by their "
            "class probabilities" % net.name
        )
    if not labels:
        raise InputError(
            "the test net %r has no labels: its Softmax needs an Accuracy layer, or a data layer with a second top, "
            "in the TEST phase" % net.name
        )
    added = net.layer.add(name=_unused(net, "lrbench_metrics"), type="Python", bottom=[top, labels])
    added.python_param.module, added.python_param.layer = METRICS_MODULE, METRICS_LAYER
    if loss is None or not loss.loss_param.HasField("ignore_label"):
        return Head(top, labels)
    added.python_param.param_str = json.dumps({"ignore_label": loss.loss_param.ignore_label})
    return Head(top, labels, loss.loss_param.ignore_label)


def _losses(present, scores=None):
    """The SoftmaxWithLoss layers, of all scores or of these."""
    return [
        layer
        for layer in present
        if layer.type == "SoftmaxWithLoss"
        and len(layer.bottom) >= 2
        and (scores is None or layer.bottom[0] in scores)
    ]


def snapshot_iteration(path):
    """The iteration of a .solverstate; raises InputError for what is none."""
    hint = "give the path of a .solverstate that a snapshot wrote"
    path = find_file(path, ["."], "the solver state to resume from", hint)
    try:
        if path.endswith(".h5"):
            import h5py

            with h5py.File(path, "r") as state:
                return int(state["iter"][()].item())
        with open(path, "rb") as file:
            state = caffe_pb2.SolverState.FromString(file.read())
        if state.HasField("iter") and state.history:
            return state.iter
    except (OSError, KeyError, DecodeError):
        pass
    raise InputError("%s is no solver state: %s" % (path, hint))


def count_classes(net, head):
    """How many classes a net tells apart, from the num_output that its probabilities come from; None where no layer says so."""
    blob = head.probabilities
    for layer in reversed(net.layer):
        if blob in layer.top:
            for name in ("inner_product_param", "convolution_param"):
                if layer.HasField(name):
                    return getattr(layer, name).num_output
            if layer.type not in SAME_CHANNELS:
                return None
            blob = layer.bottom[0]
    return None


def _add_softmax(net, loss):
    softmax = net.layer.add(
        name=_unused(net, "lrbench_prob"), type="Softmax", bottom=[loss.bottom[0]]
    )
    softmax.top.append(softmax.name)
    softmax.softmax_param.CopyFrom(loss.softmax_param)
    return softmax.name


def _labels(present):
    """The label blob of a net without a loss: what its last Accuracy compares with, or a data layer's second top."""
    for layer in reversed(present):
        if layer.type == "Accuracy" and len(layer.bottom) == 2:
            return layer.bottom[1]
    return next(
        (layer.top[1] for layer in present if layer.type in DATA_LAYERS and len(layer.top) == 2),
        None,
    )


def _unused(net, name):
    taken = {layer.name for layer in net.layer} | {top for layer in net.layer for top in layer.top}
    return name if name not in taken else _unused(net, name + "_")


def canonical_network(net):
    """The text that a network is known by: its layers without those that read data, without comments, paths and our own.

    The same network trained from other folders or with another batch size has the same text.
    """
    bare = caffe_pb2.NetParameter()
    bare.layer.extend(
        layer
        for layer in net.layer
        if layer.type not in DATA_LAYERS
        and layer.python_param.module != METRICS_MODULE
        and not layer.name.startswith("lrbench_")
    )
    return text_format.MessageToString(bare)


def network_hash(text):
    """The SHA-256 of a canonical network, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def solver_settings(solver):
    """The settings of a SolverParameter for the record, by Caffe's names: no nets, no paths, nothing of its schedule."""
    left_out = (
        NET_FIELDS
        + SCHEDULE
        + (
            "test_net",
            "test_net_param",
            "weights",
            "snapshot_prefix",
            "random_seed",
            "train_state",
            "test_state",
        )
    )
    return {
        field.name: _plain(field, value)
        for field, value in solver.ListFields()
        if field.name not in left_out
    }


def _plain(field, value):
    """A field's value as JSON holds it: enums by name, floats as the shortest decimal number that is the same float32."""
    if field.label == FieldDescriptor.LABEL_REPEATED:
        return list(value)
    if field.enum_type:
        return field.enum_type.values_by_number[value].name
    if isinstance(value, float):
        return float(str(np.float32(value))) if np.isfinite(value) else str(value)
    return value


def write_solver(solver, path):
    """Write a resolved solver where caffe.get_solver can read it; its nets go into files beside it.

    Only what Caffe reads from a file of its own does it bring up to date, a BatchNorm from before 2017 for one.
    """
    whole = caffe_pb2.SolverParameter()
    whole.CopyFrom(solver)
    whole.ClearField("train_net_param")
    whole.ClearField("test_net_param")
    whole.train_net = path + ".train"
    whole.test_net[:] = [path + ".test%d" % n for n in range(len(solver.test_net_param))]
    for name, message in zip(
        [whole.train_net, *whole.test_net, path],
        [solver.train_net_param, *solver.test_net_param, whole],
    ):
        with open(name, "w") as file:
            file.write(text_format.MessageToString(message))


def _read(path, message, what):
    try:
        with open(
            path, encoding="utf-8", errors="surrogateescape"
        ) as file:  # a comment may be in any encoding
            return text_format.Parse(file.read(), message)
    except OSError as error:
        raise InputError("cannot read the %s %s: %s" % (what, path, error.strerror)) from None
    except (text_format.ParseError, ValueError) as error:
        raise InputError("%s is not a valid %s: %s" % (path, what, error)) from None


def _net(given, solver_path, folders):
    """A net with absolute paths, from a message in the solver or the name of a file."""
    net = caffe_pb2.NetParameter()
    if isinstance(given, str):
        path = find_file(given, folders, "the net named in %s" % solver_path)
        folders = [folders[0], os.path.dirname(path), "."]
        _read(path, net, "net prototxt")
        if net.layers:
            net = _upgraded(path)
    else:
        net.CopyFrom(given)
    for layer in net.layer:
        _resolve_paths(layer, folders, layer.name)
    return net


def _upgraded(path):
    """A net in Caffe's format of 2014 (`layers { type: CONVOLUTION }`), by Caffe's own upgrade tool."""
    with tempfile.TemporaryDirectory() as folder:
        new = os.path.join(folder, "net.prototxt")
        try:
            subprocess.run(
                ["upgrade_net_proto_text", path, new],
                check=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except (OSError, subprocess.CalledProcessError):
            raise InputError(
                "%s is in Caffe's old format and upgrade_net_proto_text, which comes with Caffe, could not bring it "
                "up to date: run it yourself and use its output" % path
            ) from None
        return _read(new, caffe_pb2.NetParameter(), "net prototxt")


def _resolve_paths(message, folders, layer):
    """Make every path in a layer absolute: the fields named source, mean_file and root_folder, in whatever parameter they are."""
    for field, value in message.ListFields():
        if (
            field.type == FieldDescriptor.TYPE_MESSAGE
            and field.label != FieldDescriptor.LABEL_REPEATED
        ):
            _resolve_paths(value, folders, layer)
        elif field.name in ("source", "mean_file", "root_folder") and value:
            found = find_file(value, folders, "the %s of layer %r" % (field.name, layer))
            setattr(
                message,
                field.name,
                os.path.join(found, "") if field.name == "root_folder" else found,
            )


def _check_types(solver):
    known = list(caffe.layer_type_list())
    for net in [solver.train_net_param] + list(solver.test_net_param):
        for layer in net.layer:
            if layer.type not in known:
                raise InputError(
                    "layer %r of the net %r has the unknown type %r%s"
                    % (layer.name, net.name, layer.type, suggestion(layer.type, known))
                )
            if layer.type == "Python":
                _check_python(layer)


def _check_python(layer):
    """Caffe imports a Python layer too, but says of a failure only that there was one."""
    param = layer.python_param
    try:
        getattr(importlib.import_module(param.module), param.layer)
    except Exception as error:  # whatever a module does when it is imported
        raise InputError(
            "the Python layer %r cannot be had from the module %r (%s: %s): put its folder on PYTHONPATH"
            % (layer.name, param.module, type(error).__name__, error)
        ) from None
