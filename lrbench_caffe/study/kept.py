"""Which models a study keeps: that of the best trial of each policy."""

from __future__ import annotations

import dataclasses
import math
import threading
from typing import TYPE_CHECKING, Any

from lrbench_caffe import models, ranking
from lrbench_caffe.trial import FAILED, FINISHED, INTERRUPTED, RUNNING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lrbench_caffe.trial import Job, Trial

# A trial in one of these states may resume and then needs its model.
_RESUMABLE = (RUNNING, INTERRUPTED, FAILED)


class BestOfPolicies:
    """Watches the trials of a study, and removes the models of those that are not the best.

    The best trial of a policy is the finished one with the highest Top-1; without a finished one,
    that with the highest Top-1. Trials that cannot be compared, such as trainings of different
    lengths, are not weighed against each other. The model of a trial that may resume stays.
    """

    def __init__(self, trials: Iterable[Trial] = ()) -> None:
        """Begin with trials that ended earlier.

        Args:
            trials: The trials, each with at least its best row.
        """
        self._lock = threading.Lock()
        self._best: list[Trial] = []  # the trials whose models are kept
        for trial in trials:
            self._weigh(trial)

    def on_event(self, job: Job, kind: str, content: Any) -> None:
        """Receive an event of the study."""
        if kind == "end":
            self._weigh(content)

    def _weigh(self, trial: Trial) -> None:
        """Keep the model of a trial that has ended, or remove it, or that of another trial."""
        if trial.state in _RESUMABLE or models.find(trial.id) is None:
            return
        rows = trial.rows[-1:] if trial.best is None else (trial.best,)
        trial = dataclasses.replace(trial, rows=rows)  # the other rows may be many
        with self._lock:
            others = [other for other in self._best if other.id != trial.id]
            rivals = [other for other in others if _are_rivals(trial, other)]
            best = best_of([*rivals, trial])  # the first one on ties
            for other in [*rivals, trial]:
                if other is not best:
                    models.remove(other.id)
            self._best = [other for other in others if other not in rivals] + [best]


def best_of(trials: Iterable[Trial]) -> Trial:
    """Return the best of trials that can be compared, which are at least one."""
    return max(trials, key=_quality)


def _are_rivals(trial: Trial, other: Trial) -> bool:
    """Whether two trials are of the same policy and can be compared."""
    if trial.policy != other.policy:
        return False
    return len(ranking.group_comparable([trial, other])) == 1


def _quality(trial: Trial) -> tuple[bool, float]:
    """What the best trial has most of: its Top-1 or, without a test net, its negative loss."""
    if trial.best is not None and trial.best.top1 is not None:
        return trial.state == FINISHED, trial.best.top1
    losses = [row.train_loss for row in trial.rows if row.train_loss is not None]
    return trial.state == FINISHED, -losses[-1] if losses else -math.inf
