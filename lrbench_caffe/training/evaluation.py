"""One evaluation: the test nets run over their data, and the metrics layers are read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lrbench_caffe import metrics
from lrbench_caffe.errors import InputError
from lrbench_caffe.layers import MetricsLayer
from lrbench_caffe.trial import HEAD_METRICS, Evaluation

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    import caffe

    from lrbench_caffe.training.measurement import Measurement
    from lrbench_caffe.training.monitor import Monitor


def evaluate(
    solver: caffe._caffe.Solver,
    monitor: Monitor,
    measurement: Measurement | None,
    test_iter: Sequence[int],
    stop: threading.Event,
    on_note: Callable[[str], object],
) -> Evaluation:
    """Evaluate the whole test set once, with the current weights.

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
        The row. Its lr is the rate of the next iteration.

    Raises:
        InputError: The metrics layer rejects its bottoms, for example an invalid label.
        KeyboardInterrupt: Stop was set.
    """
    losses = [_run(solver, net, batches, stop) for net, batches in zip(solver.test_nets, test_iter)]
    train_loss = math.fsum(monitor.losses) / len(monitor.losses) if monitor.losses else None
    monitor.losses.clear()
    if measurement is None:
        return Evaluation(solver.iter, monitor.lr, train_loss)
    net = solver.test_nets[measurement.test_net]
    layers = {layer.head: layer for layer in net.layers if type(layer) is MetricsLayer}
    result = layers[measurement.head.name].take()
    test_loss = result.log_loss
    # On a GPU, Caffe's SoftmaxWithLoss is finite even if the scores are NaN; the log loss is not.
    if any(net._blob_loss_weights) and not (test_loss is not None and math.isnan(test_loss)):
        test_loss = losses[measurement.test_net] / test_iter[measurement.test_net]
    heads = {}
    for head in measurement.others:
        layer = layers[head.name]
        if layer.problem is None:
            heads[head.name] = _of_head(layer.take())
        elif not layer.is_reported:
            layer.is_reported = True
            on_note("%s; this head is left out" % layer.problem)
    return Evaluation(
        iteration=solver.iter,
        lr=monitor.lr,
        train_loss=train_loss,
        test_loss=test_loss,
        top1=result.top1,
        top5=result.top5,
        ac=result.ac,
        cd=result.cd,
        cdac=result.cdac,
        ld=metrics.loss_difference(test_loss, train_loss),
        # The database holds these in single precision.
        class_confidence=tuple(c and round(c, 6) for c in result.class_confidence) or None,
        heads=heads or None,
    )


def _of_head(result: metrics.Metrics) -> dict[str, float | None]:
    """The metrics of a head beside the one that is ranked by."""
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
    try:
        # Net.forward() returns blobs; only the method underneath returns the loss.
        loss: float = net._forward(0, last)
    except ValueError as error:  # from the metrics layer
        raise InputError(str(error)) from None
    return loss
