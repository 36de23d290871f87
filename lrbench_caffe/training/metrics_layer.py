"""The metrics layers that a prototxt contains itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from caffe.proto import caffe_pb2

from lrbench_caffe.errors import InputError
from lrbench_caffe.training import encoding
from lrbench_caffe.training.blobs import Blobs
from lrbench_caffe.training.head import count_classes, find_uses

if TYPE_CHECKING:
    from collections.abc import Sequence

MODULE, LAYER = "lrbench_caffe.layers", "MetricsLayer"
# The keys of a param_str that a user may write, with their types, and an example.
_KEYS: dict[str, tuple[type, str]] = {
    "axis": (int, "2"),
    "ignore_label": (int, "255"),
    "probabilities": (bool, "false"),
}
# The types of layers whose tops are scores, and never probabilities.
_OUTPUT_LAYERS = ("InnerProduct", "Convolution", "Deconvolution")


class MeasuredHead(NamedTuple):
    """A head of the test net that has a metrics layer.

    Attributes:
        name: The name of the head, which its metrics layer has, too.
        classes: The number of classes, None if the net does not define it.
        ignore_label: The label whose samples are left out, None if all samples count.
        has_probabilities: Whether the metrics layer has probabilities.
        labels_from: The data layer of the test net whose labels it uses; None if other layers
            derive them.
        trained_labels_from: The same for the training net.
    """

    name: str
    classes: int | None
    ignore_label: int | None
    has_probabilities: bool
    labels_from: str | None
    trained_labels_from: str | None = None


def is_metrics_layer(layer: Any) -> bool:
    """Return whether a LayerParameter is that of a metrics layer."""
    return (layer.python_param.module, layer.python_param.layer) == (MODULE, LAYER)


def data_layer_of(labels: str, layers: Sequence[Any]) -> str | None:
    """Return the data layer that brings labels as its second top.

    Args:
        labels: The name of the blob of labels.
        layers: The LayerParameters of a net in one phase.

    Returns:
        The name of the layer, None if the labels come from other layers.
    """
    producers = [layer for layer in layers if labels in layer.top]
    if len(producers) == 1 and list(producers[0].top)[1:2] == [labels]:
        return str(producers[0].name)
    return None


def written_heads(layers: Sequence[Any], network: str) -> list[MeasuredHead]:
    """Return the heads of the metrics layers in a test net.

    The metrics layers get the names of their heads, which are their own names, in their param_str,
    and the inputs of their Softmax as a third bottom.

    Args:
        layers: The LayerParameters of the net; the metrics layers are changed.
        network: The name of the net, for the error messages.

    Raises:
        InputError: A metrics layer has invalid bottoms or an invalid param_str, or several have the
            same name.
    """
    heads: list[MeasuredHead] = []
    for index, layer in enumerate(layers):
        if is_metrics_layer(layer):
            head = _written_head(layers[:index], layer)
            if head.name in [other.name for other in heads]:
                raise InputError(
                    "the test net %r has several metrics layers with the name %r: give each a name "
                    "of its own" % (network, head.name)
                )
            heads.append(head)
    return heads


def _written_head(above: Sequence[Any], layer: Any) -> MeasuredHead:
    """The head of a metrics layer below the layers above it."""
    name = encoding.readable(layer.name)
    settings = _settings(layer, name)
    has_probabilities = settings.get("probabilities", True)
    if len(layer.bottom) != 2 and not (len(layer.bottom) == 3 and has_probabilities):
        raise InputError(
            "the metrics layer %r has the wrong number of bottoms, %d: give it two, the softmax "
            'outputs, or scores with "probabilities": false, and the labels'
            % (name, len(layer.bottom))
        )
    accuracy = caffe_pb2.LayerParameter(type="Accuracy", bottom=layer.bottom[:2])
    accuracy.accuracy_param.axis = settings.get("axis", 1)
    blobs = Blobs([*above, accuracy])
    *_, use = find_uses(blobs)
    producer = blobs.producer(use.compared)
    if has_probabilities and producer is not None and producer.type in _OUTPUT_LAYERS:
        raise InputError(
            "the metrics layer %r reads %s, the output of the %s layer %r, but needs softmax "
            "outputs: put a Softmax layer before it"
            % (
                name,
                encoding.readable(use.compared.name),
                producer.type,
                encoding.readable(producer.name),
            )
        )
    is_softmax = producer is not None and producer.type == "Softmax"
    has_scores = is_softmax and use.scores.name != use.compared.name  # not in place
    if has_probabilities and has_scores and len(layer.bottom) == 2:
        layer.bottom.append(use.scores.name)
    classes = count_classes(blobs, use.compared, use.axis)
    if classes == 1 and not has_probabilities:
        settings["binary"], classes = True, 2
    layer.python_param.param_str = json.dumps(dict(settings, head=name))
    return MeasuredHead(
        name,
        classes,
        settings.get("ignore_label"),
        has_probabilities,
        data_layer_of(use.labels.name, above),
    )


def _settings(layer: Any, name: str) -> dict[str, Any]:
    """The param_str of a metrics layer."""
    text = layer.python_param.param_str
    settings: Any
    try:
        settings = json.loads(text or "{}")
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise InputError(
            "the metrics layer %r has the invalid param_str %r, expected a JSON object, for "
            'example {"ignore_label": 255}' % (name, text)
        )
    for key, value in settings.items():
        if key not in _KEYS:
            raise InputError(
                "the metrics layer %r has the unknown key %r in its param_str, expected one of %s"
                % (name, key, ", ".join(_KEYS))
            )
        expected, example = _KEYS[key]
        is_large = isinstance(value, int) and abs(value) >= 2**31
        if type(value) is not expected or is_large:
            raise InputError(
                "the metrics layer %r: invalid %s=%s in its param_str, expected for example "
                '{"%s": %s}' % (name, key, json.dumps(value), key, example)
            )
    return settings
