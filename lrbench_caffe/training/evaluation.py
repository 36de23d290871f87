"""One evaluation: the test nets run over their data, and the metrics layers are read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from lrbench_caffe import metrics
from lrbench_caffe.layers import MetricsLayer
from lrbench_caffe.trial import HEAD_METRICS, Evaluation

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    import caffe

    from lrbench_caffe.training.measurement import MeasuredSet, Measurement
    from lrbench_caffe.training.monitor import Monitor


def evaluate(
    solver: caffe._caffe.Solver,
    monitor: Monitor,
    measurement: Measurement | None,
    test_iter: Sequence[int],
    stop: threading.Event,
    on_note: Callable[[str], object],
) -> Evaluation:
    """Evaluate each test set once, with the current weights.

    All test nets run, in their order, as in Caffe: a net that draws random numbers changes those
    that the training draws next. The train loss is the mean of the monitor's losses, which are
    cleared.

    Args:
        solver: The Caffe solver, whose test nets have the metrics layers of the measurement.
        monitor: The monitor of this solver.
        measurement: What to measure, None without a test net.
        test_iter: Batches of the test set, for each test net.
        stop: Set to interrupt the evaluation.
        on_note: Called with a sentence for each head that cannot be measured, once.

    Returns:
        The row, with the metrics on the deciding set and on the others. Its lr is the rate of the
        next iteration.

    Raises:
        InputError: The metrics layer rejects its bottoms, for example an invalid label.
        KeyboardInterrupt: Stop was set.
    """
    losses = [_run(solver, net, batches, stop) for net, batches in zip(solver.test_nets, test_iter)]
    train_loss = math.fsum(monitor.losses) / len(monitor.losses) if monitor.losses else None
    monitor.losses.clear()
    if measurement is None:
        return Evaluation(solver.iter, monitor.lr, train_loss)
    results = {
        each.name: _take(
            each, solver.test_nets[each.test_net], losses[each.test_net] / test_iter[each.test_net]
        )
        for each in measurement.sets
    }
    for name, result in results.items():
        for problem in result.problems:
            on_note(problem if len(results) == 1 else "the set %s: %s" % (name, problem))
    main = results.pop(measurement.deciding.name)
    assert main.of_head is not None, "the deciding set has a head that can be measured"
    return Evaluation(
        iteration=solver.iter,
        lr=monitor.lr,
        train_loss=train_loss,
        test_loss=main.test_loss,
        top1=main.of_head.top1,
        top5=main.of_head.top5,
        ac=main.of_head.ac,
        cd=main.of_head.cd,
        cdac=main.of_head.cdac,
        ld=metrics.loss_difference(main.test_loss, train_loss),
        # The database holds these in single precision.
        class_confidence=tuple(c and round(c, 6) for c in main.of_head.class_confidence) or None,
        heads=main.heads or None,
        measured_on=measurement.deciding.name,
        other_sets={name: _of_set(result, train_loss) for name, result in results.items()} or None,
    )


class _Result(NamedTuple):
    """What an evaluation has measured on one set.

    Attributes:
        test_loss: The mean loss, None without a loss.
        of_head: The metrics of the main head, None if there is none or it cannot be measured.
        heads: The metrics of the other heads by their names.
        problems: A sentence for each head that cannot be measured, once in a training.
    """

    test_loss: float | None
    of_head: metrics.Metrics | None
    heads: dict[str, dict[str, float | None]]
    problems: list[str]


def _take(measured: MeasuredSet, net: caffe.Net, loss: float) -> _Result:
    """Read the metrics layers of a test net that has run, and start them again.

    Args:
        measured: What is measured on the set.
        net: The test net.
        loss: The mean of the sums of losses times loss_weight.
    """
    layers = {layer.head: layer for layer in net.layers if type(layer) is MetricsLayer}
    results, problems = {}, []
    for head in measured.heads:
        layer = layers[head.name]
        if layer.problem is None:
            results[head.name] = layer.take()
        elif not layer.is_reported:
            layer.is_reported = True
            problems.append("%s; this head is left out" % layer.problem)
    main = results.pop(measured.head.name, None) if measured.head else None
    test_loss = main.log_loss if main else None
    # On a GPU, Caffe's SoftmaxWithLoss is finite even if the scores are NaN; the log loss is not.
    if any(net._blob_loss_weights) and not (test_loss is not None and math.isnan(test_loss)):
        test_loss = loss
    return _Result(
        test_loss, main, {name: _of_head(result) for name, result in results.items()}, problems
    )


def _of_set(result: _Result, train_loss: float | None) -> dict[str, float | None]:
    """The SET_METRICS of a set that does not decide; None for what is not a finite number."""
    values = {"test_loss": result.test_loss, **dict.fromkeys(HEAD_METRICS)}
    if result.of_head is not None:
        values.update(_of_head(result.of_head))
    values["ld"] = metrics.loss_difference(result.test_loss, train_loss)
    return {
        name: value if value is not None and math.isfinite(value) else None
        for name, value in values.items()
    }


def _of_head(result: metrics.Metrics) -> dict[str, float | None]:
    """The HEAD_METRICS of a head."""
    return {name: getattr(result, name) for name in HEAD_METRICS}


def _run(solver: caffe._caffe.Solver, net: caffe.Net, batches: int, stop: threading.Event) -> float:
    """Run a test net over its batches; return the sum of losses times loss_weight."""
    net.share_with(solver.net)
    last, loss = len(net.layers) - 1, 0.0
    for _ in range(batches):
        if stop.is_set():
            raise KeyboardInterrupt
        loss += _forward(net, last)
    return loss


def _forward(net: caffe.Net, last: int) -> float:
    """Run one forward pass up to the last layer; return the sum of losses times loss_weight."""
    # Net.forward() returns blobs; only the method underneath returns the loss.
    loss: float = net._forward(0, last)
    return loss
