"""The deploy net of a training: the net that classifies with its weights, from data alone.

It is the part of the test net on which the output of the head depends. An Input takes the place of
each data layer, and a Softmax that of the loss. The weights need no change: layers have the names
that they had.
"""

from __future__ import annotations

import json
import os
import tempfile
from typing import TYPE_CHECKING, Any, NamedTuple

import caffe
from caffe.proto import caffe_pb2
from google.protobuf.message import Message

from lrbench_caffe.errors import InputError
from lrbench_caffe.training import encoding, float32
from lrbench_caffe.training.blobs import Blob, Blobs
from lrbench_caffe.training.head import choose_head, find_heads
from lrbench_caffe.training.instruments import InstrumentedNet
from lrbench_caffe.training.metrics_layer import is_metrics_layer
from lrbench_caffe.training.net import layers_in_phase
from lrbench_caffe.trial import SAMPLE_FIELDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lrbench_caffe.training.measurement import Measurement

    Shape = Callable[[str], Sequence[int]]

# Losses that compute probabilities, which other layers read as their second top.
_SOFTMAX_LOSSES = ("SoftmaxWithLoss", "InfogainLoss")
_RECURRENT = ("LSTM", "RNN")
_WEIGHTS = ("Parameter",)  # types of layers without a bottom that do not bring data
_TRAINING_FIELDS = ("include", "exclude", "loss_weight", "propagate_down")


class DeployNet(NamedTuple):
    """A deploy net.

    Attributes:
        prototxt: Its text, which begins with the notes as comments.
        notes: Sentences on its inputs, what to do with an image before, and its output.
    """

    prototxt: str
    notes: tuple[str, ...]


def deploy_net(
    param: caffe_pb2.SolverParameter,
    measurement: Measurement | None,
    solver: caffe._caffe.Solver,
    head: str | None = None,
) -> DeployNet:
    """Make the deploy net of a solver.

    Args:
        param: The resolved SolverParameter with its metrics layers.
        measurement: What an evaluation measures, None without a test net. The deploy net is then
            made from the training net.
        solver: The Caffe solver, whose nets show the shapes of the data.
        head: The head of a training net, see :func:`lrbench_caffe.training.head.choose_head`.

    Raises:
        InputError: The net has no head, or its output needs the labels.
    """
    if measurement is not None:
        index, head = measurement.deciding.test_net, measurement.head.name
        net, tested = solver.test_nets[index], param.test_net_param[index]
        name, layers = tested.name, list(tested.layer)
    else:
        trained = layers_in_phase(param.train_net_param, caffe_pb2.TRAIN, param.train_state)
        net, name = solver.net, param.train_net_param.name
        layers, head = _with_head(trained, encoding.readable(name), head)
    return _deploy_net(name, layers, head, lambda blob: net.blobs[blob].shape)


def checked(net: DeployNet) -> DeployNet:
    """Return a deploy net after Caffe has built it; Caffe ends the process if it cannot."""
    with tempfile.TemporaryDirectory(prefix="lrbench-") as folder:
        path = os.path.join(folder, "deploy.prototxt")
        with open(path, "w", encoding="ascii", errors="backslashreplace") as file:
            file.write(net.prototxt)
        caffe.Net(path, caffe.TEST)
    return net


def _with_head(trained: Sequence[Any], network: str, name: str | None) -> tuple[list[Any], str]:
    """The layers of a training net as those of a test net, and the name of its head."""
    layers = [_copied(layer) for layer in trained]
    for layer in layers:
        if layer.type == "BatchNorm":  # outside the training it normalizes with what it has learned
            layer.batch_norm_param.use_global_stats = True
    instrumented = InstrumentedNet(layers, layers)
    heads = find_heads(instrumented.blobs, instrumented.blobs)
    if not heads:
        raise InputError("the net %r does not have a loss of a classifier" % network)
    head = choose_head(heads, network, name)
    instrumented.add_metrics(head, is_optional=False)
    return instrumented.layers, head.name


def _deploy_net(name: str, layers: list[Any], head: str, shape: Shape) -> DeployNet:
    """The deploy net of layers of which one measures the head."""
    metrics = next(
        layer
        for layer in layers
        if is_metrics_layer(layer) and _settings_of(layer).get("head") == head
    )
    blobs = Blobs(layers)
    output = blobs.read(blobs.index_of(metrics), metrics.bottom[0])
    labels = blobs.read(blobs.index_of(metrics), metrics.bottom[1])
    needed = _needed(blobs, output)
    tops = {blob for blob in needed if _brings_data(blobs.producer(blob))}
    if labels in needed:
        raise InputError(
            "the output of the head %s depends on the labels, which a deploy net does not have"
            % head
        )
    net = caffe_pb2.NetParameter(name=name)
    notes: list[str] = []
    for index in sorted({blob.producer for blob in needed}):
        layer = layers[index]
        if _brings_data(layer):
            names = [top for top in layer.top if Blob(top, index) in tops]
            net.layer.add().CopyFrom(_input(layer, names, shape))
            notes += [_input_note(net.layer[-1]), *preprocessing(layer)]
        else:
            net.layer.add().CopyFrom(_deployed(layer))
            if layer.type == "Reshape":
                _free_batch(net.layer[-1], shape)
    named = _named_output(net, output.name, _settings_of(metrics))
    notes += [_output_note(named, _settings_of(metrics)), *_layer_notes(net)]
    comments = "".join("# %s\n" % note for note in notes)
    return DeployNet(comments + encoding.printed(net), tuple(notes))


def _settings_of(metrics: Any) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(metrics.python_param.param_str or "{}")
    return settings


def _needed(blobs: Blobs, output: Blob) -> set[Blob]:
    """The blobs on which a blob depends, itself included."""
    needed: set[Blob] = set()
    waiting = [output]
    while waiting:
        blob = waiting.pop()
        layer = blobs.producer(blob)
        if layer is None:
            raise InputError("no layer brings the blob %r" % encoding.readable(blob.name))
        if blob not in needed:
            needed.add(blob)
            bottoms = layer.bottom[:1] if layer.type in _SOFTMAX_LOSSES else layer.bottom
            waiting += [blobs.read(blob.producer, name) for name in bottoms]
    return needed


def _brings_data(layer: Any) -> bool:
    return not layer.bottom and layer.type not in _WEIGHTS


def _input(layer: Any, tops: list[str], shape: Shape) -> Any:
    """An Input for these tops of a data layer, with a batch of one."""
    replaced = caffe_pb2.LayerParameter(name=tops[0], type="Input", top=tops)
    for top in tops:
        replaced.input_param.shape.add(dim=[1, *list(shape(top))[1:]])
    return replaced


def _input_note(layer: Any) -> str:
    inputs = [
        "%s (%s)" % (encoding.readable(top), _shape_text(shape.dim))
        for top, shape in zip(layer.top, layer.input_param.shape)
    ]
    return "input: %s" % ", ".join(inputs)


def _shape_text(shape: Sequence[int]) -> str:
    return "x".join(str(size) for size in shape)


def preprocessing(layer: Any) -> list[str]:
    """Return what a data layer does with an image, as sentences for the user."""
    settings = {
        field.name: value
        for message, names in SAMPLE_FIELDS.items()
        for field, value in getattr(layer, message).ListFields()
        if field.name in names
    }
    steps = _conversions(layer, settings)
    if settings.get("mean_file"):
        steps.append("subtract the mean image %s" % encoding.readable(settings["mean_file"]))
    if settings.get("crop_size"):
        steps.append("take the central %dx%d pixels" % ((settings["crop_size"],) * 2))
    if settings.get("mean_value"):
        means = ", ".join("%.9g" % float32.shortest(value) for value in settings["mean_value"])
        steps.append("subtract %s from the channels" % means)
    if settings.get("scale", 1) != 1:
        steps.append("multiply by %r" % float32.shortest(settings["scale"]))
    if settings.get("mirror"):
        steps.append("leave it as it is, although Caffe mirrors half of the images in its tests")
    return ["preprocessing: %s" % (", then ".join(steps) or "none, the values are used as stored")]


def _conversions(layer: Any, settings: dict[str, Any]) -> list[str]:
    """The steps that change the size of an image, or its channels."""
    steps = []
    if layer.type == "ImageData" and settings.get("new_height") and settings.get("new_width"):
        size = settings["new_height"], settings["new_width"]
        steps.append("resize to %dx%d (height x width)" % size)
    if settings.get("force_gray") or not settings.get("is_color", True):
        steps.append("convert to gray")
    if settings.get("force_color"):
        steps.append("convert to color")
    return steps


def _deployed(layer: Any) -> Any:
    """A layer without what only a training needs."""
    if layer.type in _SOFTMAX_LOSSES:
        deployed = caffe_pb2.LayerParameter(
            name=layer.name, type="Softmax", bottom=layer.bottom[:1], top=layer.top[1:2]
        )
        deployed.softmax_param.axis = layer.softmax_param.axis
        return deployed
    deployed = _copied(layer)
    for field in _TRAINING_FIELDS:
        deployed.ClearField(field)
    shared = [param.name for param in deployed.param]
    deployed.ClearField("param")
    if any(shared):
        for name in shared:
            deployed.param.add(name=name)
    _clear_fillers(deployed)
    return deployed


def _copied(layer: Any) -> Any:
    copy = caffe_pb2.LayerParameter()
    copy.CopyFrom(layer)
    return copy


def _clear_fillers(message: Any) -> None:
    """Remove the fillers of weights, which the weights of the training replace."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.name == "FillerParameter":
            message.ClearField(field.name)
        elif isinstance(value, Message):
            _clear_fillers(value)


def _named_output(net: caffe_pb2.NetParameter, output: str, settings: dict[str, Any]) -> str:
    """The name of the output: prob if it has probabilities that the training did not name."""
    last = net.layer[-1]
    if last.type == "Softmax" and last.name.startswith("lrbench_"):
        last.name = last.top[0] = _unused(net, "prob")
        return str(last.name)
    if settings.get("binary") and last.type != "Sigmoid":
        name = _unused(net, "prob")
        net.layer.add(name=name, type="Sigmoid", bottom=[output], top=[name])
        return name
    return output


def _free_batch(reshape: Any, shape: Shape) -> None:
    """Let a Reshape keep the size of its batch, if it names that of the test net."""
    param = reshape.reshape_param
    if param.axis == 0 and param.shape.dim and param.shape.dim[0] == shape(reshape.bottom[0])[0]:
        param.shape.dim[0] = 0


def _unused(net: caffe_pb2.NetParameter, name: str) -> str:
    """The name, with underscores at its end if a layer or a blob has it already."""
    taken = {layer.name for layer in net.layer} | {top for layer in net.layer for top in layer.top}
    while name in taken:
        name += "_"
    return name


def _output_note(output: str, settings: dict[str, Any]) -> str:
    name = encoding.readable(output)
    if settings.get("binary"):
        return "output: %s, the probability of class 1" % name
    if settings.get("probabilities", True):
        return "output: %s, the probabilities of the classes" % name
    return "output: %s, the scores of the classes, which are not probabilities" % name


def _layer_notes(net: caffe_pb2.NetParameter) -> list[str]:
    """What to know of layers whose result depends on more than one image."""
    notes = []
    for layer in net.layer:
        norm = layer.batch_norm_param
        if norm.HasField("use_global_stats") and not norm.use_global_stats:
            notes.append(
                "the layer %s normalizes with the statistics of its batch (use_global_stats: "
                "false): classify as many images at a time as in the training"
                % encoding.readable(layer.name)
            )
        if layer.type in _RECURRENT:
            notes.append(
                "the layer %s reads one time step in each pass: give the steps of a sequence one "
                "after the other, the first with the sequence continuation 0 and the others with 1"
                % encoding.readable(layer.name)
            )
    return notes
