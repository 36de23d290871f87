"""The heads of a test net: where it classifies, read from its losses and Accuracy layers.

A net for several tasks, or with auxiliary classifiers, has several heads. A head is one blob of
scores with one blob of labels. Each layer that compares scores with labels names both, so they
always belong together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from lrbench_caffe.errors import InputError, nearest
from lrbench_caffe.training import encoding
from lrbench_caffe.training.blobs import Blob, Blobs

if TYPE_CHECKING:
    from collections.abc import Sequence

SOFTMAX, PROBABILITIES, SCORES, BINARY = "softmax", "probabilities", "scores", "binary"
# The losses of classifiers with one label for each sample, and what their first bottom is. SOFTMAX:
# scores whose softmax gives the probabilities. PROBABILITIES: the probabilities themselves. SCORES:
# scores without probabilities. BINARY: one score that decides between two classes.
LOSSES = {
    "SoftmaxWithLoss": SOFTMAX,
    "InfogainLoss": SOFTMAX,
    "MultinomialLogisticLoss": PROBABILITIES,
    "HingeLoss": SCORES,
    "SigmoidCrossEntropyLoss": BINARY,
}
# The losses that read an ignore_label, and those to which all axes after the first are classes.
IGNORING = ("SoftmaxWithLoss", "InfogainLoss", "SigmoidCrossEntropyLoss")
FLAT = ("MultinomialLogisticLoss", "HingeLoss")
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
RESHAPING = ("Flatten", "Reshape", "Split")
# Probabilities that go through one of these may still be probabilities, for example their mean.
MIXING = ("Eltwise", "Concat", "Slice", "Power", "Scale", "Pooling", "Crop", "Permute")

ELSEWHERE = -2  # the producer of a blob that the test net does not have


class Use(NamedTuple):
    """A layer that compares scores with labels: a loss of LOSSES or an Accuracy.

    Attributes:
        layer: The LayerParameter.
        compared: Its first bottom.
        labels: Its second bottom.
        scores: The inputs of the softmax if compared has its outputs, else compared itself.
        kind: What compared is: PROBABILITIES, SOFTMAX (scores; for an Accuracy, the losses decide
            whether they have a softmax), BINARY or SCORES.
        axis: The axis of the classes.
        ignore_label: The label whose samples do not count for it, or None.
    """

    layer: Any
    compared: Blob
    labels: Blob
    scores: Blob
    kind: str
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
        kind: What the layer that ranks its classes compares: SOFTMAX, PROBABILITIES, SCORES or
            BINARY.
        uses: The layers of the test net that compare its scores with its labels.
        trained: The losses that the training net has for it.
        ignore_label: The label whose samples are left out, None if all samples count.
        classes: The number of classes, None if the layers on the way may change it.
    """

    name: str
    kind: str
    uses: tuple[Use, ...]
    trained: tuple[Use, ...]
    ignore_label: int | None
    classes: int | None

    @property
    def has_accuracy(self) -> bool:
        """Whether the test net has an Accuracy for it."""
        return any(use.is_accuracy for use in self.uses)

    @property
    def has_probabilities(self) -> bool:
        """Whether it has probabilities, without which there are no confidences."""
        return self.kind in (SOFTMAX, PROBABILITIES)

    @property
    def ranking(self) -> Use:
        """The layer that ranks its classes: an Accuracy, if possible of scores; else a loss."""
        return _ranking(self.uses)

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


def find_uses(blobs: Blobs) -> list[Use]:
    """Return the layers of a net that compare scores with labels, in the order of the net."""
    return [
        _use(blobs, index)
        for index, layer in enumerate(blobs.layers)
        if (layer.type in LOSSES or layer.type == "Accuracy") and len(layer.bottom) >= 2
    ]


def _use(blobs: Blobs, index: int) -> Use:
    layer = blobs.layers[index]
    compared, labels = (blobs.read(index, name) for name in layer.bottom[:2])
    scores, axis = _inputs_of_softmax(blobs, compared)
    if layer.type in LOSSES:
        kind, param = LOSSES[layer.type], layer.loss_param
        axis = {
            "SoftmaxWithLoss": layer.softmax_param.axis,
            "InfogainLoss": layer.infogain_loss_param.axis,
        }.get(layer.type, axis or 1)
        if kind == BINARY:
            scores = compared
    else:
        kind, param = _kind_of_compared(blobs, compared), layer.accuracy_param
        axis = layer.accuracy_param.axis
    reads_ignore_label = layer.type in IGNORING or layer.type == "Accuracy"
    ignores = reads_ignore_label and param.HasField("ignore_label")
    ignore_label = param.ignore_label if ignores else None
    return Use(layer, compared, labels, scores, kind, axis, ignore_label)


def _inputs_of_softmax(blobs: Blobs, compared: Blob) -> tuple[Blob, int | None]:
    """The inputs of the Softmax or Sigmoid whose outputs these are, with its axis, else itself."""
    layer = blobs.producer(compared)
    if layer is None or not layer.bottom:
        return compared, None
    inputs = blobs.read(compared.producer, layer.bottom[0])
    if layer.type in ("Softmax", "Sigmoid"):
        return inputs, layer.softmax_param.axis if layer.type == "Softmax" else None
    if layer.type in ("SoftmaxWithLoss", "InfogainLoss"):  # the second top has the probabilities
        return inputs, layer.softmax_param.axis
    return compared, None


def _kind_of_compared(blobs: Blobs, compared: Blob) -> str:
    """PROBABILITIES for outputs of a softmax, SCORES for a mixture of them, SOFTMAX for others."""
    layer = blobs.producer(compared)
    if layer is None:
        return SOFTMAX
    if layer.type in ("Softmax", "SoftmaxWithLoss", "InfogainLoss"):
        return PROBABILITIES
    if layer.type not in RESHAPING + MIXING:
        return SOFTMAX
    bottoms = layer.bottom[:1] if layer.type in RESHAPING else layer.bottom
    kinds = {_kind_of_compared(blobs, blobs.read(compared.producer, name)) for name in bottoms}
    if kinds == {SOFTMAX}:
        return SOFTMAX
    return PROBABILITIES if layer.type in RESHAPING and kinds == {PROBABILITIES} else SCORES


def find_heads(blobs: Blobs, trained_blobs: Blobs) -> list[Head]:
    """Return the heads of a test net, in the order of the net.

    Args:
        blobs: The test net.
        trained_blobs: The training net. Its losses tell how the scores of an Accuracy become
            probabilities, and how much a head weighs.
    """
    uses = find_uses(blobs)
    trained = [
        _in_test_net(use, blobs, trained_blobs)
        for use in find_uses(trained_blobs)
        if not use.is_accuracy
    ]
    groups: dict[tuple[Blob, Blob], list[Use]] = {}
    for use in uses:
        groups.setdefault((use.scores, use.labels), []).append(use)
    heads = []
    for (scores, labels), group in groups.items():
        of_scores = [use for use in trained if use.scores == scores]
        of_both = [use for use in of_scores if use.labels == labels]
        if not of_scores and len(groups) == len(trained) == 1:
            of_scores = of_both = trained  # the training calls its scores by another name
        tested = [use for use in uses if use.scores == scores and not use.is_accuracy]
        head = _head(blobs, group, of_both, of_scores + tested)
        if head is not None:
            heads.append(head)
    certain = [head for head in heads if head.kind != BINARY or head.classes is not None]
    return _named(certain or heads)


def _in_test_net(use: Use, blobs: Blobs, trained_blobs: Blobs) -> Use:
    """A use of the training net with the blobs of the test net that correspond to its own."""

    def counterpart(blob: Blob) -> Blob:
        return blobs.counterpart(blob, trained_blobs) or Blob(blob.name, ELSEWHERE)

    return use._replace(
        compared=counterpart(use.compared),
        labels=counterpart(use.labels),
        scores=counterpart(use.scores),
    )


def _head(blobs: Blobs, uses: list[Use], trained: list[Use], losses: list[Use]) -> Head | None:
    """The head with these uses, not named yet; None if a sample may have several labels.

    Args:
        blobs: The test net.
        uses: Its layers that compare the scores with the labels.
        trained: The losses of the training net that do so.
        losses: All losses of the scores.
    """
    ranking = _ranking(uses)
    classes = count_classes(blobs, ranking.compared, ranking.axis)
    kind = ranking.kind
    loss_kinds = {use.kind for use in losses}
    if any(use.compared == ranking.compared and use.kind == PROBABILITIES for use in losses):
        kind = PROBABILITIES
    elif ranking.is_accuracy and kind == SOFTMAX and SOFTMAX not in loss_kinds:
        # A Softmax before a MultinomialLogisticLoss makes probabilities of the same scores.
        kind = SOFTMAX if PROBABILITIES in loss_kinds else SCORES
    if BINARY in loss_kinds and kind in (SCORES, BINARY):
        if classes == 1:
            kind, classes = BINARY, 2
        elif classes is None and not ranking.is_accuracy:
            kind = BINARY  # unless it has several outputs, which its metrics layer finds out
        elif not ranking.is_accuracy:
            return None
    ignore_label = _ignore_label(ranking, [*uses, *trained], classes)
    return Head("", kind, tuple(uses), tuple(trained), ignore_label, classes)


def _ranking(uses: Sequence[Use]) -> Use:
    candidates = [use for use in uses if use.is_accuracy] or list(uses)
    return min(candidates, key=lambda use: use.kind == PROBABILITIES)


def _ignore_label(ranking: Use, uses: Sequence[Use], classes: int | None) -> int | None:
    """The label that is left out: that of the ranking layer.

    An Accuracy without an ignore_label counts the label that the loss ignores if it is a class. If
    it is not, Caffe reads what is beside the scores, and here the label is left out.
    """
    if ranking.ignore_label is not None or not ranking.is_accuracy:
        return ranking.ignore_label
    for use in uses:
        label = use.ignore_label
        if label is not None and not use.is_accuracy and not 0 <= label < (classes or 0):
            return label
    return None


def _named(heads: list[Head]) -> list[Head]:
    """The heads, each with a name of its own."""
    scores = [head.uses[0].scores.name for head in heads]
    named: list[Head] = []
    for head, name in zip(heads, scores):
        if scores.count(name) > 1:
            name += ":" + head.uses[0].labels.name
        name = encoding.readable(name)
        if name in [other.name for other in named]:  # the scores are changed in place between them
            name += ":%d" % (len(named) + 1)
        named.append(head._replace(name=name))
    return named


def choose_head(heads: Sequence[Head], network: str, name: str | None = None) -> Head:
    """Return the head to rank by.

    It is the head that a user names; else the only one that has an Accuracy; else, of those with an
    Accuracy or of all, the one whose loss has the largest loss_weight.

    Args:
        heads: The heads of the test net.
        network: The name of the net, for the error messages.
        name: The name of the head, or of one of its layers or blobs (None: not given).

    Raises:
        InputError: No head has the name, several have it, or several are equal.
    """
    if name is not None:
        return _named_head(heads, network, name)
    candidates = [head for head in heads if head.has_accuracy] or list(heads)
    heaviest = max(head.weight for head in candidates)
    candidates = [head for head in candidates if head.weight == heaviest]
    if len(candidates) > 1:
        raise InputError(
            "the test net %r has %d heads of equal weight, %s: name the one to rank by with "
            "--head, for example --head %s"
            % (network, len(candidates), _list(candidates), candidates[0].name)
        )
    return candidates[0]


def _named_head(heads: Sequence[Head], network: str, name: str) -> Head:
    named = [head for head in heads if head.name == name]
    named = named or [head for head in heads if name in head.names]
    if not named:
        raise InputError(
            "the test net %r does not have the head %r%s: its heads are %s; the name of a layer or "
            "a top of a head is accepted, too"
            % (network, name, _closest_head(heads, name), _list(heads))
        )
    if len(named) > 1:
        raise InputError(
            "the name %r fits several heads of the test net %r: choose one of %s"
            % (name, network, _list(named))
        )
    return named[0]


def _closest_head(heads: Sequence[Head], name: str) -> str:
    """The end of a message about a name that is similar to that of a head; else an empty text."""
    closest = nearest(name, [other for head in heads for other in (head.name, *head.names)])
    return "" if closest is None else " (did you mean %s?)" % closest


def _list(heads: Sequence[Head]) -> str:
    return ", ".join(head.name for head in heads)


def count_classes(blobs: Blobs, scores: Blob, axis: int) -> int | None:
    """Return the number of classes of a blob of scores.

    It is the num_output of the layer that the scores come from, None if the layers on the way may
    change the number.

    Args:
        blobs: The net.
        scores: The scores.
        axis: The axis of the classes.
    """
    layer = blobs.producer(scores)
    while layer is not None:
        classes = _outputs(layer, axis)
        if classes is not None:
            return classes
        crops_space = layer.type != "Crop" or layer.crop_param.axis > 1
        keeps_channels = layer.type in SAME_CHANNELS and axis == 1 and crops_space
        if not layer.bottom or (layer.type not in SAME_SHAPE and not keeps_channels):
            return None
        scores = blobs.read(scores.producer, layer.bottom[0])
        layer = blobs.producer(scores)
    return None


def _outputs(layer: Any, axis: int) -> int | None:
    """The num_output of a layer that has it along an axis, else None."""
    is_convolution = layer.type in ("Convolution", "Deconvolution")
    if layer.type == "InnerProduct":
        param, along = layer.inner_product_param, layer.inner_product_param.axis
    elif is_convolution:
        param, along = layer.convolution_param, layer.convolution_param.axis
    elif layer.type in ("LSTM", "RNN"):
        param, along = layer.recurrent_param, 2
    else:
        return None
    is_last = axis == -1 and not is_convolution
    return int(param.num_output) if axis == along or is_last else None
