"""The training loop: Caffe's ``Solver::Step`` with the LR schedule monitor and the metrics layer.

Caffe ends its process when a CHECK fails, so every training has a process of its own; see
:mod:`lrbench_caffe.training.worker`.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import caffe
import numpy as np
from caffe.proto import caffe_pb2

from lrbench_caffe.training import prototxt
from lrbench_caffe.training.evaluation import evaluate
from lrbench_caffe.trial import DIVERGED, FINISHED, INTERRUPTED, to_dict

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from lrbench_caffe.training.log_lines import LogLines
    from lrbench_caffe.training.measurement import Measurement
    from lrbench_caffe.training.monitor import Monitor
    from lrbench_caffe.training.patience import EarlyStop
    from lrbench_caffe.trial import Evaluation

# Seconds of training between two looks at the clock, the losses and the request to stop.
CHUNK_SECONDS = 0.25
# On a GPU, Caffe's SoftmaxWithLoss turns a NaN into -log of the smallest normal float32.
HIDING_LOSS = 87.3365
NEVER = 2**31 - 1  # the largest test_interval that Caffe can hold


class End(NamedTuple):
    """How a training ends.

    Attributes:
        state: The state of its trial, e.g. :data:`lrbench_caffe.trial.FINISHED`.
        reason: Why; None: it needs no explanation.
    """

    state: str
    reason: str | None = None


def evaluation_interval(param: caffe_pb2.SolverParameter, measurement: Measurement | None) -> int:
    """Return the iterations between two rows of a resolved SolverParameter.

    Without a test net there is a row of the train loss at every test_interval, else as often as
    Caffe displays it, else at the end.
    """
    if measurement is None:
        return param.test_interval or param.display or param.max_iter
    return param.test_interval


class Plan:
    """What to evaluate, when, and when to end.

    Attributes:
        measurement: What an evaluation measures, None without a test net.
        max_iter: The iteration at which training ends.
        test_iter: Batches of the test set in an evaluation, for each test net.
        iter_size: Mini-batches in an iteration.
        until_top1: The Top-1 accuracy, a share of 1, at which training ends early.
        early_stop: Ends a training that has stopped improving; None: it trains to its end.
        log: Emits the lines of Caffe's log; None: nothing.
    """

    def __init__(
        self,
        param: caffe_pb2.SolverParameter,
        measurement: Measurement | None,
        until_top1: float | None = None,
        early_stop: EarlyStop | None = None,
        log: LogLines | None = None,
    ) -> None:
        """Read the plan from a resolved SolverParameter; until_top1=None is never reached."""
        self.measurement = measurement
        self.max_iter, self.iter_size = param.max_iter, param.iter_size
        self.test_iter = tuple(param.test_iter)
        self.until_top1 = math.inf if until_top1 is None else until_top1
        self.early_stop, self.log = early_stop, log
        self._at_start = param.test_initialization and measurement is not None
        self._test_interval = evaluation_interval(param, measurement)
        self._snapshot = param.snapshot

    def evaluates(self, iteration: int) -> bool:
        """Whether there is an evaluation after this many iterations, as in Caffe and at the end."""
        if iteration >= self.max_iter:
            return True
        return iteration % self._test_interval == 0 and (iteration > 0 or self._at_start)

    def snapshots(self, iteration: int) -> bool:
        """Whether the solver asks for a snapshot after this many iterations."""
        return self._snapshot > 0 and iteration % self._snapshot == 0

    def next_stop(self, iteration: int) -> int:
        """The next iteration with an evaluation, a snapshot, a log line, or the end."""
        logged = self.log.interval if self.log else 0
        intervals = [every for every in (self._test_interval, self._snapshot, logged) if every]
        stops = [iteration - iteration % every + every for every in intervals]
        return min([*stops, self.max_iter])

    def observe(self, row: Evaluation) -> End | None:
        """Receive an evaluation; return how the training ends if it ends early, else None."""
        reason = self.early_stop.observe(row) if self.early_stop else None
        if row.top1 is not None and row.top1 >= self.until_top1:
            return End(FINISHED)
        return End(FINISHED, reason) if reason and row.iteration < self.max_iter else None


def train(
    solver: caffe._caffe.Solver,
    monitor: Monitor,
    plan: Plan,
    emit: Callable[[str, Any], object],
    stop: threading.Event,
    before_evaluation: Callable[[], None] = lambda: None,
    take_snapshot: Callable[[], None] = lambda: None,
) -> End:
    """Train until max_iter, an early end, divergence, or a request to stop: the main loop.

    As in ``Solver::Step``, an iteration begins with the evaluation and ends with the snapshot. The
    iterations between two evaluations run in chunks of :data:`CHUNK_SECONDS`.

    Args:
        solver: The Caffe solver, from :func:`create_solver`.
        monitor: The monitor of this solver.
        plan: When to evaluate and when to end.
        emit: Receives each event: ("row", dict), ("progress", dict), ("note", sentence).
            The plan's log emits its events itself.
        stop: Set to interrupt the training.
        before_evaluation: Called before each evaluation. A snapshot taken here repeats the
            evaluation when it is resumed.
        take_snapshot: Called after each iteration that is a multiple of the solver's snapshot.

    Returns:
        How the training ended.
    """
    chunk = 1
    try:
        while True:
            iteration = solver.iter
            has_something = plan.measurement is not None or monitor.losses
            if plan.evaluates(iteration) and has_something:
                before_evaluation()
                end = _evaluate_and_emit(solver, monitor, plan, emit, stop)
                if end is not None:
                    return end
            if iteration >= plan.max_iter:
                return End(FINISHED)
            started = time.monotonic()
            losses = _step(monitor, plan, iteration, chunk)
            seconds = time.monotonic() - started
            if plan.snapshots(solver.iter):
                take_snapshot()
            error = _divergence(solver, losses, iteration, plan.iter_size)
            if error is not None:
                return End(DIVERGED, error)
            chunk = max(1, int((solver.iter - iteration) * CHUNK_SECONDS / max(seconds, 1e-6)))
            emit("progress", _progress(solver.iter, monitor, plan))
            if stop.is_set():
                return End(INTERRUPTED)
    except KeyboardInterrupt:
        return End(INTERRUPTED)


def _step(monitor: Monitor, plan: Plan, iteration: int, chunk: int) -> list[float]:
    """Train a chunk, up to the plan's next stop; return the losses of its mini-batches."""
    recorded, lr = len(monitor.losses), monitor.lr if plan.log else 0.0
    monitor.step(min(chunk, plan.next_stop(iteration) - iteration))
    losses = monitor.losses[recorded:]
    if plan.log:
        plan.log.record(iteration, lr, losses)
    return losses


def _evaluate_and_emit(
    solver: caffe._caffe.Solver,
    monitor: Monitor,
    plan: Plan,
    emit: Callable[[str, Any], object],
    stop: threading.Event,
) -> End | None:
    """Evaluate and emit the row; return how the training ends if it ends here, else None."""
    row = evaluate(
        solver,
        monitor,
        plan.measurement,
        plan.test_iter,
        stop,
        on_note=lambda note: emit("note", note),
    )
    if row.test_loss is None or math.isfinite(row.test_loss):
        emit("row", to_dict(monitor.observe(row)))
        return plan.observe(row)
    if row.iteration > 0:
        reason = "the test loss became %g at iteration %d" % (row.test_loss, row.iteration)
        return End(DIVERGED, reason)
    # Batch normalization, for example: its running averages are 0 before training.
    sentence = "the test loss is %g before training: the row of iteration 0 is left out"
    emit("note", sentence % row.test_loss)
    return None


def _divergence(
    solver: caffe._caffe.Solver, losses: list[float], iteration: int, iter_size: int
) -> str | None:
    """Why a training has diverged, by its losses since an iteration; None if it has not."""
    for n, loss in enumerate(losses):
        if not math.isfinite(loss):
            return "the train loss became %g at iteration %d" % (loss, iteration + n // iter_size)
    if abs(losses[-1] - HIDING_LOSS) < 1e-3 and _has_nan(solver.net):
        return "the weights became nan before iteration %d" % solver.iter
    return None


def _has_nan(net: caffe.Net) -> bool:
    """Whether a weight of a net is NaN."""
    return any(np.isnan(blob.data).any() for blobs in net.params.values() for blob in blobs)


def _progress(iteration: int, monitor: Monitor, plan: Plan) -> dict[str, object]:
    return {
        "iteration": iteration,
        "max_iter": plan.max_iter,
        "lr": monitor.lr,
        "loss": monitor.losses[-1],
    }


def create_solver(param: caffe_pb2.SolverParameter) -> caffe._caffe.Solver:
    """Return a Caffe solver for a resolved SolverParameter.

    Caffe's own tests and snapshots are switched off: :func:`train` does both instead. On a full
    disk, a snapshot of Caffe's own would end the process.

    Raises:
        InputError: A metrics layer rejects the shapes of its bottoms.
    """
    stepping = caffe_pb2.SolverParameter()
    stepping.CopyFrom(param)
    stepping.test_interval, stepping.test_initialization = NEVER, False
    stepping.snapshot = 0
    with tempfile.TemporaryDirectory(prefix="lrbench-") as folder:
        path = os.path.join(folder, "solver.prototxt")
        prototxt.write_solver(stepping, path)
        return caffe.get_solver(path)
