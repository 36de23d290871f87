"""What is measured on a test net: its heads get metrics layers, and the net a loss if it has none.

The layers are added in memory. They do not change what the net computes, and draw no random
numbers, so the training stays that of ``caffe train``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from caffe.proto import caffe_pb2

from lrbench_caffe.errors import InputError
from lrbench_caffe.training import encoding
from lrbench_caffe.training.head import (
    BINARY,
    LOSSES,
    SCORES,
    SOFTMAX,
    Head,
    choose_head,
    count_classes,
    find_heads,
    find_uses,
)
from lrbench_caffe.training.net import layers_in_phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrbench_caffe.training.head import Use

METRICS_MODULE, METRICS_LAYER = "lrbench_caffe.layers", "MetricsLayer"
OUTPUT_LAYERS = ("InnerProduct", "Convolution", "Deconvolution")


class MeasuredHead(NamedTuple):
    """A head of the test net with its metrics layer.

    Attributes:
        name: The name of the head.
        layer: The name of its metrics layer.
        classes: The number of classes, None if the net does not define it.
        ignore_label: The label whose samples are left out, None if all samples count.
        labels_from: The data layer of the test net whose labels it uses; None if other layers
            derive them.
        trained_labels_from: The same for the training net.
    """

    name: str
    layer: str
    classes: int | None = None
    ignore_label: int | None = None
    labels_from: str | None = None
    trained_labels_from: str | None = None


class Measurement(NamedTuple):
    """What an evaluation measures.

    Attributes:
        test_net: The index of the test net.
        head: The head whose metrics are those of the trial.
        others: The other heads of the test net.
        layers: The names of all metrics layers of the test net, in the order of the net.
        has_loss: Whether there is a test loss.
        notes: Sentences for the user about what is measured and what is not.
    """

    test_net: int
    head: MeasuredHead
    others: tuple[MeasuredHead, ...]
    layers: tuple[str, ...]
    has_loss: bool
    notes: tuple[str, ...]


def add_metrics_layers(
    solver: caffe_pb2.SolverParameter, head: str | None = None, test_net: int = 0
) -> Measurement | None:
    """Add to a test net the layers that measure it.

    Each head gets a metrics layer, unless the prototxt has metrics layers itself. A test net
    without a loss gets that of the training net, so that the test loss can be compared with the
    train loss.

    Args:
        solver: A resolved SolverParameter; the test net is changed.
        head: The head whose metrics are those of the trial (None: it is read from the net).
        test_net: The index of the test net.

    Returns:
        What an evaluation measures, None if the solver has no test net.

    Raises:
        InputError: The net is not a classifier, or the head or the test net cannot be found.
    """
    tests = len(solver.test_net_param)
    _check_choice(tests, head, test_net)
    if not tests:
        return None
    net = solver.test_net_param[test_net]
    network = encoding.readable(net.name)
    state = solver.test_state[test_net] if solver.test_state else None
    layers = layers_in_phase(net, caffe_pb2.TEST, state)
    trained = layers_in_phase(solver.train_net_param, caffe_pb2.TRAIN, solver.train_state)
    written = _written_heads(layers)
    notes = [] if tests == 1 else [_note_on_test_nets(tests, test_net)]
    instrumented = _Layers(layers)
    has_loss = any(_is_loss(layer) for layer in layers)
    if not has_loss and instrumented.add_losses(trained):
        has_loss = True
        notes.append("the test net has no loss: that of the training net is computed on it")
    if written:
        measured = written
        chosen = _chosen_layer(written, network, head)
    else:
        heads = find_heads(instrumented.layers, trained)
        if not heads:
            raise InputError(_not_a_classifier(network, layers, trained))
        main = choose_head(heads, network, head)
        measured = [instrumented.add_metrics(found, trained) for found in heads]
        chosen = heads.index(main)
        if main.kind != SOFTMAX:
            notes.append(
                "the head %s has scores without probabilities: Top-1 and Top-5 are measured; AC, "
                "CD and CDAC are not" % main.name
            )
        has_loss = has_loss or main.kind == SOFTMAX
    others = tuple(other for n, other in enumerate(measured) if n != chosen)
    if others:
        notes.append(_note_on_heads(measured[chosen], others))
    del net.layer[:]
    net.layer.extend(instrumented.layers)
    names = tuple(str(layer.name) for layer in instrumented.layers if _is_metrics_layer(layer))
    return Measurement(
        test_net, measured[chosen], others, names, has_loss or bool(written), tuple(notes)
    )


def _check_choice(tests: int, head: str | None, test_net: int) -> None:
    """Raise InputError if there is no test net of this number, or none to have a head."""
    if not tests and (head is not None or test_net):
        raise InputError(
            "the solver has no test net, so --head and --test-net have nothing to choose: give it "
            "test_iter, test_interval and a net with a TEST phase"
        )
    if tests and not 0 <= test_net < tests:
        raise InputError(
            "invalid test net %d, expected a number from 0 to %d: the solver has %d test nets"
            % (test_net, tests - 1, tests)
        )


class _Layers:
    """The layers of a test net in its phase, and those that are added to it.

    Attributes:
        layers: The LayerParameters in order.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = list(layers)

    def add_losses(self, trained: Sequence[Any]) -> bool:
        """Add the losses of the training net, all or none; return whether there are any."""
        losses = [layer for layer in trained if _is_loss(layer)]
        tops = {top for layer in self.layers for top in layer.top}
        if all(set(loss.bottom) <= tops for loss in losses):
            copies = [(loss, list(loss.bottom)) for loss in losses]
        else:
            # The training may call the same scores by another name.
            uses = {(use.scores, use.labels): use for use in find_uses(self.layers)}
            if len(losses) != 1 or len(uses) != 1 or losses[0].type not in LOSSES:
                return False
            (use,) = uses.values()
            needs_probabilities = losses[0].type == "MultinomialLogisticLoss"
            if needs_probabilities and not use.is_softmax:
                return False
            scores = use.compared if needs_probabilities else use.scores
            copies = [(losses[0], [scores.name, use.labels.name])]
        for loss, bottoms in copies:
            self._add_loss(loss, bottoms)
        return bool(copies)

    def _add_loss(self, loss: Any, bottoms: list[str]) -> None:
        """Add a loss of the training net at the end, on other bottoms."""
        copy = caffe_pb2.LayerParameter()
        copy.CopyFrom(loss)
        copy.name = self._unused("lrbench_" + loss.name)
        copy.bottom[:] = bottoms
        copy.top[:] = [self._unused("lrbench_" + top) for top in loss.top]
        copy.ClearField("include")
        copy.ClearField("exclude")
        self.layers.append(copy)

    def add_metrics(self, head: Head, trained: Sequence[Any]) -> MeasuredHead:
        """Add a metrics layer for a head, and a Softmax if it needs one.

        They follow the layer that compares the scores with the labels, because a later layer could
        change the scores in place.
        """
        use = _ranking_use(head)
        end = self._index_of(use.layer) + 1
        param: dict[str, object] = {}
        if head.axis != 1:
            param["axis"] = head.axis
        if head.ignore_label is not None:
            param["ignore_label"] = head.ignore_label
        added = []
        if head.kind == SOFTMAX and (use.is_softmax or use.layer.type == "MultinomialLogisticLoss"):
            bottoms = [use.compared.name, use.labels.name]
            # An Accuracy of the softmax outputs ranks by them. In place, they replace the scores.
            if not use.is_accuracy and use.scores.name != use.compared.name:
                bottoms.append(use.scores.name)
        elif head.kind == SOFTMAX:
            softmax = caffe_pb2.LayerParameter(
                name=self._unused("lrbench_prob"), type="Softmax", bottom=[use.compared.name]
            )
            softmax.top.append(softmax.name)
            softmax.softmax_param.axis = head.axis
            added.append(softmax)
            bottoms = [softmax.name, use.labels.name, use.compared.name]
        else:
            param["probabilities"] = False
            blob = use.scores if head.kind == BINARY else use.compared
            bottoms = [blob.name, use.labels.name]
        metrics = caffe_pb2.LayerParameter(
            name=self._unused("lrbench_metrics"), type="Python", bottom=bottoms
        )
        metrics.python_param.module, metrics.python_param.layer = METRICS_MODULE, METRICS_LAYER
        if param:
            metrics.python_param.param_str = json.dumps(param)
        added.append(metrics)
        self.layers[end:end] = added
        return MeasuredHead(
            head.name,
            str(metrics.name),
            head.classes,
            head.ignore_label,
            _data_layer_of(use.labels.name, self.layers),
            _data_layer_of(head.trained[0].labels.name, trained) if head.trained else None,
        )

    def _index_of(self, layer: Any) -> int:
        return next(n for n, other in enumerate(self.layers) if other is layer)

    def _unused(self, name: str) -> str:
        """The name, with underscores at its end if a layer or a blob has it already."""
        taken = {layer.name for layer in self.layers}
        taken.update(top for layer in self.layers for top in layer.top)
        while name in taken:
            name += "_"
        return name


def _ranking_use(head: Head) -> Use:
    """The layer whose first bottom ranks the classes: an Accuracy, best one that reads scores."""
    uses = [use for use in head.uses if use.is_accuracy] or list(head.uses)
    return min(uses, key=lambda use: use.is_softmax)


def _is_loss(layer: Any) -> bool:
    """Whether Caffe adds a top of the layer to the loss of the net."""
    if layer.loss_weight:
        return any(layer.loss_weight)
    return bool(layer.type.endswith("Loss"))


def _is_metrics_layer(layer: Any) -> bool:
    param = layer.python_param
    return (param.module, param.layer) == (METRICS_MODULE, METRICS_LAYER)


def _data_layer_of(labels: str, layers: Sequence[Any]) -> str | None:
    """The layer whose second top is the blob of labels, if no other layer has such a top."""
    producers = [layer for layer in layers if labels in layer.top]
    if len(producers) == 1 and list(producers[0].top)[1:2] == [labels]:
        return str(producers[0].name)
    return None


def _written_heads(layers: Sequence[Any]) -> list[MeasuredHead]:
    """The heads of the metrics layers that are written in the prototxt."""
    heads = []
    for index, layer in enumerate(layers):
        if not _is_metrics_layer(layer):
            continue
        if len(layer.bottom) not in (2, 3):
            raise InputError(
                "the layer %r has %d bottoms: give it two, the softmax outputs and the labels"
                % (encoding.readable(layer.name), len(layer.bottom))
            )
        settings = _settings(layer)
        heads.append(_written_head(layers[:index], layer, settings))
    return heads


def _settings(layer: Any) -> dict[str, Any]:
    """The param_str of a metrics layer."""
    try:
        settings = json.loads(layer.python_param.param_str or "{}")
    except ValueError as error:
        settings = error
    if not isinstance(settings, dict):
        raise InputError(
            "the layer %r has the invalid param_str %r, expected a JSON object, for example "
            '{"ignore_label": 255}' % (encoding.readable(layer.name), layer.python_param.param_str)
        )
    return settings


def _written_head(above: Sequence[Any], layer: Any, settings: dict[str, Any]) -> MeasuredHead:
    """The head of a metrics layer in the prototxt, below the layers above it."""
    accuracy = caffe_pb2.LayerParameter(type="Accuracy", bottom=layer.bottom[:2])
    accuracy.accuracy_param.axis = settings.get("axis", 1)
    *_, use = find_uses([*above, accuracy])
    producer = above[use.compared.producer] if use.compared.producer >= 0 else None
    has_probabilities = settings.get("probabilities", True)
    if has_probabilities and producer is not None and producer.type in OUTPUT_LAYERS:
        raise InputError(
            "the metrics layer %r reads %s, the output of the %s layer %r, but needs softmax "
            "outputs: put a Softmax layer before it"
            % (
                encoding.readable(layer.name),
                encoding.readable(use.compared.name),
                producer.type,
                encoding.readable(producer.name),
            )
        )
    has_scores = use.is_softmax and use.scores.name != use.compared.name
    if has_probabilities and has_scores and len(layer.bottom) == 2:
        layer.bottom.append(use.scores.name)
    classes = count_classes(above, use.scores, use.axis)
    return MeasuredHead(
        encoding.readable(layer.name),
        str(layer.name),
        2 if classes == 1 and not has_probabilities else classes,
        settings.get("ignore_label"),
        _data_layer_of(use.labels.name, above),
    )


def _chosen_layer(written: Sequence[MeasuredHead], network: str, name: str | None) -> int:
    """The index of the metrics layer to rank by, of those in the prototxt."""
    names = [head.name for head in written]
    if name in names:
        return names.index(name)
    if name is None and len(names) == 1:
        return 0
    problem = "has several metrics layers" if name is None else "has no metrics layer %r" % name
    raise InputError(
        "the test net %r %s: name the one to rank by with --head, one of %s"
        % (network, problem, ", ".join(names))
    )


def _note_on_test_nets(tests: int, test_net: int) -> str:
    which = "the first one" if test_net == 0 else "number %d, counted from 0," % test_net
    return "the solver has %d test nets: %s is measured, --test-net chooses another" % (
        tests,
        which,
    )


def _note_on_heads(head: MeasuredHead, others: Sequence[MeasuredHead]) -> str:
    return (
        "the test net has %d heads: the metrics of the trial are those of %s; %s %s recorded "
        "beside them, and --head chooses another"
        % (
            1 + len(others),
            head.name,
            ", ".join(other.name for other in others),
            "is" if len(others) == 1 else "are",
        )
    )


def _not_a_classifier(network: str, layers: Sequence[Any], trained: Sequence[Any]) -> str:
    """Why a test net without heads cannot be measured, and what to do."""
    for layer in [*layers, *trained]:
        if LOSSES.get(layer.type) == BINARY:
            return (
                "the test net %r may give a sample several labels, because its %s layer %r has "
                "several outputs: LRBench measures classifiers with one label for each sample"
                % (network, layer.type, encoding.readable(layer.name))
            )
    losses = [name for name, kind in LOSSES.items() if kind in (SOFTMAX, SCORES)]
    return (
        "the test net %r is not a classifier: it has neither an Accuracy layer nor a loss of class "
        "scores (%s, or SigmoidCrossEntropyLoss with one output) in the TEST phase; LRBench "
        "compares classifiers: add such a layer with its labels" % (network, ", ".join(losses))
    )
