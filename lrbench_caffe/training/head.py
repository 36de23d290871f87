"""The heads of a test net: where it classifies, read from its losses and Accuracy layers.

A net for several tasks, or with auxiliary classifiers, has several heads. A head is one blob of
scores with one blob of labels. Each layer that compares scores with labels names both, so they
always belong together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from lrbench_caffe.errors import InputError, suggestion
from lrbench_caffe.training import encoding

if TYPE_CHECKING:
    from collections.abc import Sequence

SOFTMAX, SCORES, BINARY = "softmax", "scores", "binary"
# The losses of classifiers with one label for each sample. SOFTMAX: the softmax of the scores gives
# the probabilities. SCORES: there are no probabilities. BINARY: one score decides between two
# classes.
LOSSES = {
    "SoftmaxWithLoss": SOFTMAX,
    "InfogainLoss": SOFTMAX,
    "MultinomialLogisticLoss": SOFTMAX,
    "HingeLoss": SCORES,
    "SigmoidCrossEntropyLoss": BINARY,
}
# The types of layers whose top has the shape of their first bottom, and of those that may only
# change the height and the width.
SAME_SHAPE = (
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
    "LRN",
    "Power",
    "MVN",
    "Eltwise",
)
SAME_CHANNELS = ("Pooling", "Crop")


class Blob(NamedTuple):
    """A blob as a layer reads it: a layer that works in place makes a new one of the same name.

    Attributes:
        name: Its name.
        producer: The index of the layer whose top it is, -1 for an input of the net.
    """

    name: str
    producer: int


class Use(NamedTuple):
    """A layer that compares scores with labels: a loss of LOSSES or an Accuracy.

    Attributes:
        layer: The LayerParameter.
        compared: Its first bottom.
        labels: Its second bottom.
        scores: The inputs of the softmax if compared is the top of a Softmax, else compared itself.
        is_softmax: Whether compared is the top of a Softmax.
        axis: The axis of the classes.
        ignore_label: The label whose samples do not count for it, or None.
    """

    layer: Any
    compared: Blob
    labels: Blob
    scores: Blob
    is_softmax: bool
    axis: int
    ignore_label: int | None

    @property
    def is_accuracy(self) -> bool:
        """Whether the layer is an Accuracy, and not a loss."""
        return bool(self.layer.type == "Accuracy")

    @property
    def weight(self) -> float:
        """The loss_weight; 0 for an Accuracy."""
        if self.is_accuracy:
            return 0.0
        return float(self.layer.loss_weight[0]) if self.layer.loss_weight else 1.0


class Head(NamedTuple):
    """A classifier in a test net.

    Attributes:
        name: The name of its scores; if several heads share them, "scores:labels".
        kind: SOFTMAX, SCORES or BINARY.
        uses: The layers of the test net that compare its scores with its labels.
        trained: The losses that the training net has for it.
        axis: The axis of the classes.
        ignore_label: The label whose samples are left out, None if all samples count.
        classes: The number of classes, None if the layers on the way may change it.
    """

    name: str
    kind: str
    uses: tuple[Use, ...]
    trained: tuple[Use, ...]
    axis: int
    ignore_label: int | None
    classes: int | None

    @property
    def has_accuracy(self) -> bool:
        """Whether the test net has an Accuracy for it."""
        return any(use.is_accuracy for use in self.uses)

    @property
    def weight(self) -> float:
        """The largest loss_weight of its losses."""
        return max((use.weight for use in self.uses + self.trained), default=0.0)

    @property
    def names(self) -> set[str]:
        """The names by which a user may choose it: its own, and those of its layers and blobs."""
        layers = [use.layer for use in self.uses + self.trained]
        blobs = {blob.name for use in self.uses for blob in (use.scores, use.compared)}
        tops = {top for layer in layers for top in layer.top}
        names = blobs | tops | {layer.name for layer in layers}
        return {self.name} | {encoding.readable(name) for name in names}


def find_uses(layers: Sequence[Any]) -> list[Use]:
    """Return the layers that compare scores with labels, in the order of the net.

    Args:
        layers: The LayerParameters of a net in one phase.
    """
    uses = []
    producers: dict[str, int] = {}
    activations: dict[Blob, tuple[Blob, Any]] = {}
    for index, layer in enumerate(layers):
        bottoms = [Blob(name, producers.get(name, -1)) for name in layer.bottom]
        if (layer.type in LOSSES or layer.type == "Accuracy") and len(bottoms) >= 2:
            uses.append(_use(layer, bottoms, activations))
        producers.update(dict.fromkeys(layer.top, index))
        if layer.type in ("Softmax", "Sigmoid") and bottoms:
            activations[Blob(layer.top[0], index)] = bottoms[0], layer
    return uses


def _use(layer: Any, bottoms: list[Blob], activations: dict[Blob, tuple[Blob, Any]]) -> Use:
    compared, labels = bottoms[:2]
    scores, activation = activations.get(compared, (compared, None))
    is_softmax = activation is not None and activation.type == "Softmax"
    if layer.type == "Accuracy":
        axis, param = layer.accuracy_param.axis, layer.accuracy_param
    else:
        axis, param = layer.softmax_param.axis, layer.loss_param
        if layer.type == "InfogainLoss":
            axis = layer.infogain_loss_param.axis
        elif layer.type != "SoftmaxWithLoss":
            axis = activation.softmax_param.axis if is_softmax else 1
    ignore_label = param.ignore_label if param.HasField("ignore_label") else None
    return Use(layer, compared, labels, scores, is_softmax, axis, ignore_label)


def find_heads(layers: Sequence[Any], trained_layers: Sequence[Any]) -> list[Head]:
    """Return the heads of a test net, in the order of the net.

    Args:
        layers: The LayerParameters of the test net.
        trained_layers: Those of the training net. Its losses tell how the scores of an Accuracy
            become probabilities, and how much a head weighs.
    """
    uses = find_uses(layers)
    trained = [use for use in find_uses(trained_layers) if not use.is_accuracy]
    groups: dict[tuple[Blob, Blob], list[Use]] = {}
    for use in uses:
        groups.setdefault((use.scores, use.labels), []).append(use)
    shared = [scores.name for scores, _ in groups]
    heads: list[Head] = []
    for (scores, labels), group in groups.items():
        losses = [
            u for u in trained if (u.scores.name, u.labels.name) == (scores.name, labels.name)
        ]
        if not losses and len(groups) == len(trained) == 1:
            losses = trained  # the training calls its scores by another name
        name = scores.name if shared.count(scores.name) == 1 else scores.name + ":" + labels.name
        name = encoding.readable(name)
        if name in [head.name for head in heads]:  # the scores are changed in place between them
            name += ":%d" % (len(heads) + 1)
        head = _head(name, group, losses, layers)
        if head is not None:
            heads.append(head)
    return heads


def _head(name: str, uses: list[Use], trained: list[Use], layers: Sequence[Any]) -> Head | None:
    """The head with these uses; None for several labels in a sample, which is another task."""
    kinds = {LOSSES[use.layer.type] for use in uses + trained if not use.is_accuracy}
    accuracies = [use for use in uses if use.is_accuracy]
    main = (accuracies or uses)[0]
    classes = count_classes(layers, main.scores, main.axis)
    kind = SCORES
    if SOFTMAX in kinds or any(use.is_softmax for use in uses):
        kind = SOFTMAX
    elif BINARY in kinds and (classes == 1 or (classes is None and not accuracies)):
        kind, classes = BINARY, 2
    elif BINARY in kinds and not accuracies:
        return None
    ignored = (use.ignore_label for use in [*accuracies, *uses, *trained])
    ignore_label = next((label for label in ignored if label is not None), None)
    return Head(name, kind, tuple(uses), tuple(trained), main.axis, ignore_label, classes)


def choose_head(heads: Sequence[Head], network: str, name: str | None = None) -> Head:
    """Return the head to measure.

    It is the head that a user names; else the only one that has an Accuracy; else, of those with an
    Accuracy or of all, the one whose loss has the largest loss_weight.

    Args:
        heads: The heads of the test net.
        network: The name of the net, for the error messages.
        name: The name of the head, or of one of its layers or blobs (None: not given).

    Raises:
        InputError: No head has the name, several have it, or several are equal.
    """
    names = ", ".join(head.name for head in heads)
    if name is not None:
        named = [head for head in heads if head.name == name]
        named = named or [head for head in heads if name in head.names]
        if not named:
            raise InputError(
                "the test net %r does not have the head %r%s: its heads are %s"
                % (network, name, suggestion(name, [head.name for head in heads]), names)
            )
        candidates = named
    else:
        candidates = [head for head in heads if head.has_accuracy] or list(heads)
        heaviest = max(head.weight for head in candidates)
        candidates = [head for head in candidates if head.weight == heaviest]
    if len(candidates) > 1:
        raise InputError(
            "the test net %r has %d heads of equal weight, %s: name the one to rank by with "
            "--head, for example --head %s"
            % (
                network,
                len(candidates),
                ", ".join(head.name for head in candidates),
                candidates[0].name,
            )
        )
    return candidates[0]


def count_classes(layers: Sequence[Any], blob: Blob, axis: int) -> int | None:
    """Return the number of classes of a blob of scores.

    It is the num_output of the layer that the scores come from, None if the layers on the way may
    change the number.

    Args:
        layers: The LayerParameters of a net in one phase.
        blob: The scores.
        axis: The axis of the classes.
    """
    name, index = blob
    while index >= 0:
        layer = layers[index]
        classes = _outputs(layer, axis)
        if classes is not None:
            return classes
        if layer.type not in SAME_SHAPE and not (layer.type in SAME_CHANNELS and axis == 1):
            return None
        name = layer.bottom[0]
        index = _producer(layers[:index], name)
    return None


def _outputs(layer: Any, axis: int) -> int | None:
    """The num_output of a layer that has it along an axis, else None."""
    if layer.type == "InnerProduct":
        param, along = layer.inner_product_param, layer.inner_product_param.axis
    elif layer.type in ("Convolution", "Deconvolution"):
        param, along = layer.convolution_param, layer.convolution_param.axis
    elif layer.type in ("LSTM", "RNN"):
        param, along = layer.recurrent_param, 2
    else:
        return None
    is_last = layer.type != "Convolution" and layer.type != "Deconvolution" and axis == -1
    return int(param.num_output) if axis == along or is_last else None


def _producer(layers: Sequence[Any], name: str) -> int:
    """The index of the last layer with a top of this name, -1 if there is none."""
    return max((n for n, layer in enumerate(layers) if name in layer.top), default=-1)
