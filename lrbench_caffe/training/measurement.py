"""What is measured on a test net: its heads get metrics layers, and the net a loss if it has none.

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

if TYPE_CHECKING:
    from collections.abc import Sequence


class Measurement(NamedTuple):
    """What an evaluation measures.

    Attributes:
        test_net: The index of the test net.
        head: The head whose metrics are those of the trial.
        others: The other heads of the test net.
        is_recorded: Whether the record has to name the head, because it does not follow from the
            net that is trained.
        has_loss: Whether there is a test loss.
        notes: Sentences for the user about what is measured and what is not.
    """

    test_net: int
    head: MeasuredHead
    others: tuple[MeasuredHead, ...]
    is_recorded: bool
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
        InputError: The net is not a classifier, the head or the test net cannot be found, or the
            train loss cannot be read.
    """
    tests = len(solver.test_net_param)
    _check_choice(tests, head, test_net)
    trained = layers_in_phase(solver.train_net_param, caffe_pb2.TRAIN, solver.train_state)
    _check_losses(trained)
    if not tests:
        return None
    net = solver.test_net_param[test_net]
    is_same_net = not solver.test_state and canonical_network(net) == canonical_network(
        solver.train_net_param
    )
    network = encoding.readable(net.name)
    layers = _layers_of(net, solver.test_state[test_net] if solver.test_state else None)
    notes = [] if tests == 1 else [_note_on_test_nets(tests, test_net)]
    instrumented = InstrumentedNet(layers, trained)
    written = written_heads(layers, network)
    has_loss = any(map(is_loss, layers))
    if not has_loss and instrumented.add_losses():
        has_loss = True
        notes.append("the test net has no loss: that of the training net is computed on it")
    measured, chosen = written, 0
    if written:
        chosen = _chosen_layer(written, network, head)
    else:
        heads = find_heads(instrumented.blobs, Blobs(trained))
        if not heads:
            raise InputError(_not_a_classifier(network, layers, trained))
        ranked_by = choose_head(heads, network, head)
        chosen = heads.index(ranked_by)
        measured = [instrumented.add_metrics(each, each is not ranked_by) for each in heads]
    main = measured[chosen]
    others = tuple(other for n, other in enumerate(measured) if n != chosen)
    if others:
        notes.append(_note_on_heads(main, others))
    notes += _notes_on_gaps(main, has_loss)
    del net.layer[:]
    net.layer.extend(instrumented.layers)
    return Measurement(
        test_net=test_net,
        head=main,
        others=others,
        is_recorded=bool(others or written) or not is_same_net,
        has_loss=has_loss or main.has_probabilities,
        notes=tuple(notes),
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
            "invalid test net %d, expected a number from 0 to %d: the solver has %d test net%s"
            % (test_net, tests - 1, tests, "" if tests == 1 else "s")
        )


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


def _chosen_layer(written: Sequence[MeasuredHead], network: str, name: str | None) -> int:
    """The index of the metrics layer to rank by, of those in the prototxt."""
    names = [head.name for head in written]
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
