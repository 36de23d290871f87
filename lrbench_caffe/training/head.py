"""The head of a test net: where it classifies, and the metrics layer that measures it there."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from caffe.proto import caffe_pb2

from lrbench_caffe.errors import InputError
from lrbench_caffe.training.net import DATA_LAYERS, layers_in_phase

METRICS_MODULE, METRICS_LAYER = "lrbench_caffe.layers", "MetricsLayer"
# The types of layers whose top has as many channels as their bottom.
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


class Head(NamedTuple):
    """Where a test net classifies.

    Attributes:
        probabilities: The blob of class probabilities.
        labels: The blob of labels.
        ignore_label: The label whose samples are left out (None: all samples count).
    """

    probabilities: str
    labels: str
    ignore_label: int | None = None


def add_metrics_layer(solver: caffe_pb2.SolverParameter) -> Head:
    """Add the metrics layer to the first test net, unless the net has it already.

    If the net has a SoftmaxWithLoss layer but no Softmax on the same scores, one is added as well.

    Args:
        solver: A resolved SolverParameter, whose first test net is changed.

    Returns:
        The head that the metrics layer measures.

    Raises:
        InputError: The net has no labels or no softmax, or a metrics layer without its two bottoms.
    """
    net = solver.test_net_param[0]
    state = solver.test_state[0] if solver.test_state else None
    layers = layers_in_phase(net, caffe_pb2.TEST, state)
    written = _written_head(layers)
    if written is not None:
        return written
    loss = _main_loss(layers, solver)
    head = _find_head(net, layers, loss)
    metrics = net.layer.add(
        name=_unused(net, "lrbench_metrics"),
        type="Python",
        bottom=[head.probabilities, head.labels],
    )
    metrics.python_param.module, metrics.python_param.layer = METRICS_MODULE, METRICS_LAYER
    if head.ignore_label is not None:
        metrics.python_param.param_str = json.dumps({"ignore_label": head.ignore_label})
    return head


def count_classes(net: caffe_pb2.NetParameter, head: Head) -> int | None:
    """Return the number of classes that a net predicts.

    It is the num_output of the layer that the probabilities come from, None if the layers on the
    way may change the number of channels.
    """
    blob = head.probabilities
    for layer in reversed(net.layer):
        if blob in layer.top:
            for field in ("inner_product_param", "convolution_param"):
                if layer.HasField(field):
                    classes: int = getattr(layer, field).num_output
                    return classes
            if layer.type not in SAME_CHANNELS:
                return None
            blob = layer.bottom[0]
    return None


def _written_head(layers: list[Any]) -> Head | None:
    """The head of a metrics layer that is written in the prototxt."""
    for layer in layers:
        param = layer.python_param
        if (param.module, param.layer) == (METRICS_MODULE, METRICS_LAYER):
            if len(layer.bottom) != 2:
                raise InputError(
                    "the layer %r has %d bottoms: give it two, the softmax outputs and the labels"
                    % (layer.name, len(layer.bottom))
                )
            probabilities, labels = layer.bottom
            return Head(
                probabilities, labels, json.loads(param.param_str or "{}").get("ignore_label")
            )
    return None


def _main_loss(layers: list[Any], solver: caffe_pb2.SolverParameter) -> Any | None:
    """The loss layer with the largest weight, the last one among equals.

    GoogLeNet, for example, has auxiliary losses with smaller weights. A test net without a loss has
    that of the training, if an Accuracy layer reads the same scores.
    """
    losses = [layer for layer in layers if _is_loss(layer)]
    if not losses:
        scores = {layer.bottom[0] for layer in layers if layer.type == "Accuracy"}
        trained = layers_in_phase(solver.train_net_param, caffe_pb2.TRAIN, solver.train_state)
        losses = [layer for layer in trained if _is_loss(layer) and layer.bottom[0] in scores]
    return max(reversed(losses), key=_loss_weight, default=None)


def _is_loss(layer: Any) -> bool:
    return layer.type == "SoftmaxWithLoss" and len(layer.bottom) >= 2


def _loss_weight(layer: Any) -> float:
    return layer.loss_weight[0] if layer.loss_weight else 1.0


def _find_head(net: caffe_pb2.NetParameter, layers: list[Any], loss: Any | None) -> Head:
    """The head below the loss, else at the last Softmax; adds the Softmax if it is missing."""
    softmaxes = {layer.bottom[0]: layer.top[0] for layer in layers if layer.type == "Softmax"}
    ignore_label = None
    if loss is not None:
        probabilities = softmaxes.get(loss.bottom[0]) or _add_softmax(net, loss)
        labels = loss.bottom[1] if loss in layers else _find_labels(layers)
        if loss.loss_param.HasField("ignore_label"):
            ignore_label = loss.loss_param.ignore_label
    else:
        probabilities = list(softmaxes.values())[-1] if softmaxes else None
        labels = _find_labels(layers)
    if not probabilities:
        raise InputError(
            "the test net %r has neither a Softmax nor a SoftmaxWithLoss layer: add one, since "
            "LRBench compares classifiers by their class probabilities" % net.name
        )
    if not labels:
        raise InputError(
            "the test net %r has no labels: its Softmax needs an Accuracy layer, or a data layer "
            "with a second top, in the TEST phase" % net.name
        )
    return Head(probabilities, labels, ignore_label)


def _find_labels(layers: list[Any]) -> str | None:
    """The labels of a net without a loss: those of its last Accuracy, or of a data layer."""
    for layer in reversed(layers):
        if layer.type == "Accuracy" and len(layer.bottom) == 2:
            return str(layer.bottom[1])
    for layer in layers:
        if layer.type in DATA_LAYERS and len(layer.top) == 2:
            return str(layer.top[1])
    return None


def _add_softmax(net: caffe_pb2.NetParameter, loss: Any) -> str:
    """Add a Softmax on the scores of a loss, with its parameters; return its top."""
    softmax = net.layer.add(
        name=_unused(net, "lrbench_prob"), type="Softmax", bottom=[loss.bottom[0]]
    )
    softmax.top.append(softmax.name)
    softmax.softmax_param.CopyFrom(loss.softmax_param)
    return str(softmax.name)


def _unused(net: caffe_pb2.NetParameter, name: str) -> str:
    """The name, with underscores at its end if a layer or a blob has it already."""
    taken = {layer.name for layer in net.layer} | {top for layer in net.layer for top in layer.top}
    while name in taken:
        name += "_"
    return name
