"""Pruning: end trainings that are hopeless, compared with other trials or by themselves.

The classes here are watchers of a study: their ``on_event`` receives the events of all trials and
returns a verdict on hopeless ones, see :mod:`lrbench_caffe.study.events`.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import threading
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from lrbench_caffe.trial import DIVERGED, FAILED, PRUNED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lrbench_caffe.study.events import Verdict
    from lrbench_caffe.trial import Evaluation, Job, Trial

MIN_OTHERS = 3  # trials at an iteration before another one can be pruned there
MIN_EVALUATIONS = 2  # no better than guessing, before a training counts as stuck

# Margins around the Top-1 and the log loss of guessing, 1 / classes and ln(classes).
_GUESSING_TOP1 = 1.5
_GUESSING_LOSS = 0.999


class Pruner:
    """Ends trials whose Top-1 is far below that of the others at the same iteration.

    A trial's best Top-1 so far is compared with the median of the best Top-1 that the others had at
    the same iteration. It is the best so far because accuracy rises and falls under a cyclic
    policy. Only trials of the same network and dataset are compared whose Top-1 is that of the same
    set.

    Trainings that have diverged to a constant loss are pruned too. Their loss is finite because
    Caffe's softmax bounds it.
    """

    def __init__(
        self, margin: float, reached: Iterable[tuple[str, str, str, str, int, float]] = ()
    ) -> None:
        """Set up the comparison.

        Args:
            margin: How far below the median a trial is pruned, as a share of 1.
            reached: The evaluations of trials that have ended: (trial id, network hash, dataset
                name, set that decides, iteration, best Top-1 so far).
        """
        self._margin, self._lock = margin, threading.Lock()
        # The best Top-1 by trial id, for each (network hash, dataset name, set, iteration).
        self._reached: defaultdict[tuple[str, str, str, int], dict[str | None, float]]
        self._reached = defaultdict(dict)
        self._running: dict[str | None, _RunningTrial] = {}  # by trial id
        for trial_id, network, dataset, measured_on, iteration, top1 in reached:
            self._reached[network, dataset, measured_on, iteration][trial_id] = top1

    def on_event(self, job: Job, kind: str, content: Any) -> Verdict | None:
        """Receive an event; return (PRUNED, reason) if the trial is hopeless."""
        with self._lock:
            if kind == "begin":
                self._running[job.id] = _RunningTrial(content)
            elif kind == "row":
                return self._judge(job.id, content)
            elif kind == "end":
                self._running.pop(job.id, None)
        return None

    def _judge(self, trial_id: str | None, row: Evaluation) -> Verdict | None:
        if row.top1 is None:
            return None
        trial = self._running[trial_id]
        trial.top1 = max(trial.top1, row.top1)
        key = trial.network, trial.dataset, row.measured_on, row.iteration
        reached = self._reached[key]
        # A trial that has begun again on another worker of a cluster is not its own rival.
        others = [top1 for other_id, top1 in reached.items() if other_id != trial_id]
        reached[trial_id] = trial.top1
        if len(others) < MIN_OTHERS:
            return None
        median = statistics.median(others)
        if trial.top1 >= median - self._margin:
            return None
        return PRUNED, (
            "at iteration %d its best Top-1, %.2f %%, was more than %.4g points below %.2f %%, "
            "the median of %d others"
            % (row.iteration, 100 * trial.top1, 100 * self._margin, 100 * median, len(others))
        )


class _RunningTrial:
    """What a Pruner compares of a running trial; top1 is its best Top-1 so far."""

    def __init__(self, trial: Trial) -> None:
        self.network, self.dataset = trial.setup.network.hash, trial.setup.dataset.name
        self.top1 = 0.0


class StuckDetector:
    """Ends trainings that have diverged although their loss is finite.

    Caffe's softmax bounds the loss, and units that have died stay dead. Such a training is no
    better than guessing from its first evaluations on. Its test loss no longer falls, or is above
    that of the untrained net. If the learning rate is merely too small, the loss starts there and
    keeps falling.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._guessing: dict[str | None, _GuessingTrial] = {}  # by trial id

    def on_event(self, job: Job, kind: str, content: Any) -> Verdict | None:
        """Receive an event; return (DIVERGED, reason) if the training is stuck."""
        with self._lock:
            if kind == "begin":
                self._begin(job.id, content)
            elif kind == "end":
                self._guessing.pop(job.id, None)
            elif kind == "row":
                return self._judge(job.id, content)
        return None

    def verdict(self, trial: Trial) -> tuple[int, Verdict] | None:
        """Return after how many rows of a trial there is a verdict, and the verdict; else None."""
        self._begin(trial.id, trial)
        for n, row in enumerate(trial.rows, 1):
            verdict = self._judge(trial.id, row)
            if verdict:
                return n, verdict
        return None

    def _begin(self, trial_id: str | None, trial: Trial) -> None:
        self._guessing[trial_id] = _GuessingTrial(trial.setup.classes)

    def _judge(self, trial_id: str | None, row: Evaluation) -> Verdict | None:
        if trial_id not in self._guessing:
            return None
        trial, top1, test_loss = self._guessing[trial_id], row.top1, row.test_loss
        if trial.classes is None or top1 is None or test_loss is None:
            del self._guessing[trial_id]
            return None
        if not row.iteration:
            trial.untrained_loss = test_loss
            return None
        if _beats_guessing(top1, test_loss, trial.classes):
            del self._guessing[trial_id]
            return None
        lowest_loss = min([trial.untrained_loss, *trial.losses])
        trial.losses.append(test_loss)
        if len(trial.losses) < MIN_EVALUATIONS or test_loss < lowest_loss:
            return None
        return DIVERGED, (
            "at iteration %d it is still no better than guessing: Top-1 %.2f %%, test loss %.4g"
            % (row.iteration, 100 * top1, test_loss)
        )


def as_judged(trial: Trial) -> Trial:
    """Return a trial as it would be if StuckDetector's verdict had ended it at once.

    A verdict reaches a training a moment later, so the training may have had further rows, or even
    have finished. Decisions that have to be the same each time are based on this trial.

    Args:
        trial: A trial with all its rows.
    """
    found = StuckDetector().verdict(trial)
    if found is None or trial.state == FAILED:
        return trial
    count, (state, reason) = found
    return dataclasses.replace(trial, rows=trial.rows[:count], state=state, error=reason)


@dataclasses.dataclass
class _GuessingTrial:
    """A trial that has not been better than guessing so far.

    Attributes:
        classes: The number of classes, or None if the net does not determine it.
        untrained_loss: The test loss before training; infinite if it was not measured.
        losses: The test losses since.
    """

    classes: int | None
    untrained_loss: float = math.inf
    losses: list[float] = dataclasses.field(default_factory=list)


def _beats_guessing(top1: float, test_loss: float, classes: int) -> bool:
    return top1 > _GUESSING_TOP1 / classes or test_loss < _GUESSING_LOSS * math.log(classes)
