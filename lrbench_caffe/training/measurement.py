"""What is measured on the test nets: their heads get metrics layers, and a net without a loss one.

The layers are added in memory. They do not change what the net computes, and draw no random
numbers, so the training stays that of ``caffe train``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from caffe.proto import caffe_pb2

from lrbench_caffe.errors import InputError
from lrbench_caffe.training import encoding
from lrbench_caffe.training.blobs import Blobs
from lrbench_caffe.training.canonical import canonical_network
from lrbench_caffe.training.head import BINARY, LOSSES, choose_head, count_classes, find_heads
from lrbench_caffe.training.instruments import InstrumentedNet, is_loss
from lrbench_caffe.training.metrics_layer import MeasuredHead, written_heads
from lrbench_caffe.training.net import is_included, layers_in_phase, state_in_phase
from lrbench_caffe.training.sets import ONE_SET

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrbench_caffe.training.head import Head
    from lrbench_caffe.training.sets import Sets


class MeasuredSet(NamedTuple):
    """What an evaluation measures on one set of samples.

    Attributes:
        name: The name of the set.
        test_net: The index of its test net.
        head: The head whose metrics are those of the set, None if the net does not classify.
        others: The other heads of the test net.
        has_loss: Whether there is a test loss.
        is_written: Whether the prototxt has metrics layers itself.
        notes: Sentences for the user about what is measured and what is not.
    """

    name: str
    test_net: int
    head: MeasuredHead | None
    others: tuple[MeasuredHead, ...]
    has_loss: bool
    is_written: bool
    notes: tuple[str, ...]

    @property
    def heads(self) -> tuple[MeasuredHead, ...]:
        """All heads that have a metrics layer."""
        return self.others if self.head is None else (self.head, *self.others)


class Measurement(NamedTuple):
    """What an evaluation measures.

    Attributes:
        sets: All sets that are measured, in the order of the test nets.
        deciding: The set by which decisions are made.
        reported: The set on which the metrics of the trial are reported.
        head: The head of the deciding set, whose metrics are those of the rows.
        settings: What the record has to name: the head, if it does not follow from the net that is
            trained; the test net that is reported, if it is not the first; and the deciding and the
            reported set, if they differ.
        notes: Sentences for the user about what is measured and what is not.
    """

    sets: tuple[MeasuredSet, ...]
    deciding: MeasuredSet
    reported: MeasuredSet
    head: MeasuredHead
    settings: dict[str, object]
    notes: tuple[str, ...]

    @property
    def others(self) -> tuple[MeasuredHead, ...]:
        """The other heads of the deciding set."""
        return self.deciding.others

    @property
    def has_loss(self) -> bool:
        """Whether there is a test loss on the deciding set."""
        return self.deciding.has_loss


def add_metrics_layers(
    solver: caffe_pb2.SolverParameter, head: str | None = None, sets: Sets = ONE_SET
) -> Measurement | None:
    """Add to the test nets the layers that measure them.

    Each head gets a metrics layer, unless the prototxt has metrics layers itself. A test net
    without a loss gets that of the training net, so that the test loss can be compared with the
    train loss. A set that neither decides nor is reported is measured as far as its net allows.

    Args:
        solver: A resolved SolverParameter; the test nets are changed.
        head: The head whose metrics are those of the trial (None: it is read from the net).
        sets: The sets of the test nets.

    Returns:
        What an evaluation measures, None if the solver has no test net.

    Raises:
        InputError: The net of the deciding or the reported set is not a classifier, the head cannot
            be found, or the train loss cannot be read.
    """
    trained = layers_in_phase(solver.train_net_param, caffe_pb2.TRAIN, solver.train_state)
    _check_losses(trained)
    if not solver.test_net_param:
        if head is not None:
            raise InputError(
                "the solver has no test net, so --head has nothing to choose: give it test_iter, "
                "test_interval and a net with a TEST phase"
            )
        return None
    is_same_net = _is_trained_net(solver, sets.select)
    deciding = _measure(solver, sets, sets.select, trained, head)
    assert deciding.head is not None, "the net is a classifier"
    measured, notes = {sets.select: deciding}, [*_notes_on_sets(sets), *deciding.notes]
    for index in (n for n in range(len(sets.names)) if n != sets.select):
        try:
            measured[index] = _measure(solver, sets, index, trained, head, deciding.head.name)
            notes += [note for note in measured[index].notes if note not in notes]
        except InputError as error:
            if index == sets.report:
                raise
            notes.append("the set %s is not measured: %s" % (sets.names[index], error))
    reported, settings = measured[sets.report], _settings(sets)
    if deciding.others or deciding.is_written or not is_same_net:
        settings["head"] = deciding.head.name
    in_order = tuple(measured[index] for index in sorted(measured))
    return Measurement(in_order, deciding, reported, deciding.head, settings, tuple(notes))


def _is_trained_net(solver: caffe_pb2.SolverParameter, index: int) -> bool:
    """Whether a test net, before layers are added to it, is the net that is trained."""
    trained, tested = solver.train_net_param, solver.test_net_param[index]
    return not solver.test_state and canonical_network(tested) == canonical_network(trained)


def _settings(sets: Sets) -> dict[str, object]:
    """The settings of a trial that name its sets."""
    settings: dict[str, object] = {"test_net": sets.report} if sets.report else {}
    if sets.select != sets.report:
        settings.update(select=sets.names[sets.select], report=sets.names[sets.report])
    return settings


def _measure(
    solver: caffe_pb2.SolverParameter,
    sets: Sets,
    index: int,
    trained: Sequence[Any],
    head: str | None,
    preferred: str | None = None,
) -> MeasuredSet:
    """Add to a test net the layers that measure it.

    Args:
        solver: A resolved SolverParameter; the test net is changed.
        sets: The sets of the test nets.
        index: The index of the test net.
        trained: The layers of the training net.
        head: The head that the user names (None: not given).
        preferred: The head of the deciding set; where the net has it, its metrics are those of the
            set.

    Raises:
        InputError: The net cannot be measured.
    """
    is_optional = index not in (sets.select, sets.report)
    net = solver.test_net_param[index]
    layers = _layers_of(net, solver.test_state[index] if solver.test_state else None)
    network = encoding.readable(net.name)
    instrumented = InstrumentedNet(layers, trained)
    written = written_heads(layers, network)
    heads = [] if written else find_heads(instrumented.blobs, Blobs(trained))
    has_loss = any(map(is_loss, layers))
    notes = []
    if not has_loss and instrumented.add_losses():
        has_loss = True
        notes.append("the test net has no loss: that of the training net is computed on it")
        if not (written or heads):  # the added loss may be the only layer that compares scores
            heads = find_heads(instrumented.blobs, Blobs(trained))
    if not (written or heads or (is_optional and has_loss)):
        raise InputError(_not_a_classifier(network, layers, trained))
    name = None if is_optional else head
    measured, chosen = written, 0
    if written:
        chosen = _chosen_layer(written, network, name, preferred)
    elif heads:
        chosen = _chosen_head(heads, network, name, preferred)
        measured = [
            instrumented.add_metrics(each, is_optional or n != chosen)
            for n, each in enumerate(heads)
        ]
    if is_optional:  # the layers themselves find out whether the labels are classes
        measured = [each._replace(labels_from=None, trained_labels_from=None) for each in measured]
    main = measured[chosen] if measured else None
    others = tuple(other for n, other in enumerate(measured) if n != chosen)
    if main is not None:
        notes += [_note_on_heads(main, others)] if others else []
        notes += _notes_on_gaps(main, has_loss)
        notes += _notes_on_losses(layers, trained)
    del net.layer[:]
    net.layer.extend(instrumented.layers)
    return MeasuredSet(
        name=sets.names[index],
        test_net=index,
        head=main,
        others=others,
        has_loss=has_loss or (main is not None and main.has_probabilities),
        is_written=bool(written),
        notes=tuple(notes),
    )


def _chosen_head(
    heads: Sequence[Head], network: str, name: str | None, preferred: str | None
) -> int:
    """The index of the head to rank by."""
    names = [head.name for head in heads]
    if preferred in names:
        return names.index(str(preferred))
    return heads.index(choose_head(heads, network, name))


def _check_losses(trained: Sequence[Any]) -> None:
    """Raise InputError if a layer works in place on a loss, which Caffe then does not hold."""
    for index, loss in enumerate(trained):
        weights = list(loss.loss_weight) or [1.0]
        tops = {top for top, weight in zip(loss.top, weights) if weight and is_loss(loss)}
        for layer in trained[index + 1 :]:
            if tops & set(layer.top) & set(layer.bottom):
                raise InputError(
                    "the layer %r works in place on the loss of the layer %r, so the train loss "
                    "cannot be read: give it a top of its own"
                    % (encoding.readable(layer.name), encoding.readable(loss.name))
                )


def _layers_of(net: Any, solver_state: Any) -> list[Any]:
    """The layers of a test net in its phase."""
    state = state_in_phase(net, caffe_pb2.TEST, solver_state)
    if state.phase != caffe_pb2.TEST:
        raise InputError(
            "the test net %r has the phase TRAIN in its state: remove the phase from the state of "
            "the net and from test_state" % encoding.readable(net.name)
        )
    return [layer for layer in net.layer if is_included(layer, state)]


def _chosen_layer(
    written: Sequence[MeasuredHead], network: str, name: str | None, preferred: str | None
) -> int:
    """The index of the metrics layer to rank by, of those in the prototxt."""
    names = [head.name for head in written]
    name = preferred if preferred in names else name
    if name in names:
        return names.index(name)
    if name is None and len(names) == 1:
        return 0
    problem = "has several metrics layers"
    if name is not None:
        problem = "does not have the metrics layer %r" % name
    raise InputError(
        "the test net %r %s: name the one to rank by with --head, one of %s"
        % (network, problem, ", ".join(names))
    )


def _notes_on_sets(sets: Sets) -> list[str]:
    """Which set decides and which is reported, if there are several."""
    if len(sets.names) == 1:
        return []
    select, report = sets.names[sets.select], sets.names[sets.report]
    sentence = "the solver has %d test nets, %s: " % (len(sets.names), ", ".join(sets.names))
    if select == report:
        sentence += "decisions are made by %s, which is also reported; --select and --test-net "
        return [sentence % select + "choose other sets"]
    return [sentence + "decisions are made by %s, and %s is reported" % (select, report)]


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


def _notes_on_gaps(head: MeasuredHead, has_loss: bool) -> list[str]:
    """What cannot be measured, or not as in the training."""
    notes = []
    if not head.has_probabilities:
        notes.append(
            "the head %s has scores without probabilities: Top-1 and Top-5 are measured; AC, CD "
            "and CDAC are not" % head.name
        )
    if not has_loss and head.has_probabilities:
        notes.append(
            "the losses of the training cannot be computed on the test net: the test loss is the "
            "mean negative log of the probabilities of the head %s, and LD compares it with the "
            "train loss" % head.name
        )
    elif not has_loss:
        notes.append("the test net has no loss: the test loss and LD are not measured")
    return notes


def _notes_on_losses(tested: Sequence[Any], trained: Sequence[Any]) -> list[str]:
    """Whether the train loss is a sum of more losses than the test loss."""
    ours, theirs = (list(filter(is_loss, layers)) for layers in (trained, tested))
    if not theirs or len(ours) <= len(theirs):
        return []
    same = [(layer.type, *layer.bottom) for layer in theirs]
    more = [
        encoding.readable(layer.name) for layer in ours if (layer.type, *layer.bottom) not in same
    ]
    return [
        "the train loss also has %s, which the test net does not compute: LD compares this sum "
        "with the test loss" % " and ".join(more)
    ]


def _not_a_classifier(network: str, layers: Sequence[Any], trained: Sequence[Any]) -> str:
    """Why a test net without heads cannot be measured, and what to do."""
    for blobs in (Blobs(layers), Blobs(trained)):
        for index, layer in enumerate(blobs.layers):
            if LOSSES.get(layer.type) != BINARY or not layer.bottom:
                continue
            if count_classes(blobs, blobs.read(index, layer.bottom[0]), 1) != 1:
                return (
                    "the test net %r may give a sample several labels, because its %s layer %r has "
                    "several outputs: LRBench measures classifiers with one label for each sample"
                    % (network, layer.type, encoding.readable(layer.name))
                )
    losses = [name for name, kind in LOSSES.items() if kind != BINARY]
    return (
        "the test net %r is not a classifier: it has neither an Accuracy layer nor a loss of class "
        "scores (%s, or SigmoidCrossEntropyLoss with one output) in the TEST phase; LRBench "
        "compares classifiers: add such a layer with its labels" % (network, ", ".join(losses))
    )
