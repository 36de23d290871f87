"""Early stopping: a training ends when its metric has not improved for a while.

This module does not import Caffe.
"""

from __future__ import annotations

import math
import re
import sys
from typing import TYPE_CHECKING, NamedTuple

from lrbench_caffe.errors import InputError, counted, suggestion
from lrbench_caffe.policies.notation import iterations_of_epochs

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrbench_caffe.trial import Evaluation, Job

METRICS = ("top1", "test_loss", "train_loss")  # attributes of an Evaluation
_LENGTH = re.compile(r"(\d+)(?:\s*(evaluation|iteration)s?)?")
_EXAMPLES = "5 for 5 evaluations, '2000 iterations' or '3 epochs'"
_ROUNDING = 1e-9  # of min_delta: 0.9775 - 0.975 is 0.0025, although not in double precision


class Patience(NamedTuple):
    """When a training ends early.

    Attributes:
        iterations: The iterations without an improvement after which the training ends.
        metric: The metric that has to improve, one of METRICS.
        min_delta: The smallest improvement that counts.
        length: The iterations as the user stated them, for example "5 evaluations".
    """

    iterations: int
    metric: str
    min_delta: float
    length: str

    @property
    def settings(self) -> dict[str, object]:
        """The settings by which the database distinguishes trainings that may end early."""
        return {
            "patience": self.iterations,
            "patience_metric": self.metric,
            "min_delta": self.min_delta,
        }

    def no_effect(self, max_iter: int) -> str:
        """Return a sentence about a training that is not longer than the patience."""
        return "--patience has no effect: the training of %d iterations is not longer than %s" % (
            max_iter,
            self.length,
        )

    def observe(self, memory: Memory, row: Evaluation) -> Memory:
        """Return the memory after one more evaluation.

        Args:
            memory: The memory after the evaluation before.
            row: The evaluation. If it does not have the metric, as the first row of a training
                does not have a train loss, it is not an improvement.
        """
        value: float | None = getattr(row, self.metric)
        if value is None or math.isnan(value):
            return memory
        if memory.best is None or self._is_improvement(value, memory.best):
            return Memory(value, row.iteration)
        return memory

    def _is_improvement(self, value: float, best: float) -> bool:
        gain = value - best if self.metric == "top1" else best - value
        return gain > 0 and gain >= self.min_delta * (1 - _ROUNDING)

    def reason(self, memory: Memory, iteration: int) -> str | None:
        """Return why the training ends after the evaluation at an iteration, None if it does not.

        Args:
            memory: The memory after that evaluation.
            iteration: The number of finished iterations.
        """
        if iteration - memory.since < self.iterations:
            return None
        delta = " by %g or more" % self.min_delta if self.min_delta else ""
        since = "counted from the start" if memory.best is None else "since %.6g" % memory.best
        return "%s has not improved%s for %s, %s at iteration %d" % (
            self.metric,
            delta,
            self.length,
            since,
            memory.since,
        )


class Memory(NamedTuple):
    """What is remembered between two evaluations. JSON can hold it as a list.

    Attributes:
        best: The value of the last improvement, None before the first value.
        since: The iteration of the last improvement; before the first value, that of the start.
    """

    best: float | None
    since: int


class EarlyStop:
    """Follows the evaluations of one training.

    Attributes:
        patience: When the training ends.
        memory: What is remembered of the evaluations so far.
    """

    def __init__(self, patience: Patience, memory: Memory) -> None:
        self.patience, self.memory = patience, memory

    def observe(self, row: Evaluation) -> str | None:
        """Receive an evaluation; return why the training ends with it, None if it does not."""
        self.memory = self.patience.observe(self.memory, row)
        return self.patience.reason(self.memory, row.iteration)


def check(job: Job) -> None:
    """Check what a job states about early stopping, without its solver.

    Raises:
        InputError: A value is invalid, or has no effect.
    """
    if job.patience is None:
        for option, value in (
            ("--patience-metric", job.patience_metric),
            ("--min-delta", job.min_delta),
        ):
            if value is not None:
                raise InputError(
                    "%s %s has no effect without --patience: give --patience N, or leave it out"
                    % (option, value)
                )
        return
    if job.patience_metric is not None and job.patience_metric not in METRICS:
        raise InputError(
            "invalid patience_metric=%s%s"
            % (job.patience_metric, suggestion(job.patience_metric, METRICS))
        )
    largest = 1.0 if job.patience_metric in (None, "top1") else sys.float_info.max
    is_number = type(job.min_delta) in (int, float)
    if job.min_delta is not None and not (is_number and 0 <= job.min_delta <= largest):
        raise InputError(
            "invalid min_delta=%s, expected a change of the metric, and for top1 a share of 1, for "
            "example 0.0005" % job.min_delta
        )
    _read_length(str(job.patience), interval=1, epoch=1e6)  # any interval and epoch


def read(job: Job, interval: int, epoch: Callable[[], float | None]) -> Patience | None:
    """Read when a job ends early.

    Args:
        job: The job.
        interval: The iterations between two evaluations.
        epoch: Returns the iterations in an epoch, None if they are unknown.

    Returns:
        The Patience, None if the job does not end early.

    Raises:
        InputError: A value is invalid, or the length is in epochs and their iterations are unknown.
    """
    check(job)
    if job.patience is None:
        return None
    iterations, length = _read_length(str(job.patience), interval, epoch())
    return Patience(iterations, job.patience_metric or METRICS[0], job.min_delta or 0.0, length)


def _read_length(text: str, interval: int, epoch: float | None) -> tuple[int, str]:
    """The iterations of a length, and the length as a reader expects it in a sentence."""
    in_epochs = iterations_of_epochs(text.strip(), epoch)
    if in_epochs is not None:
        return in_epochs, text.strip()
    match = _LENGTH.fullmatch(text.strip())
    if match is None or int(match.group(1)) < 1:
        raise InputError(
            "invalid patience=%s, expected a length of 1 or more, for example %s"
            % (text, _EXAMPLES)
        )
    number, unit = int(match.group(1)), match.group(2) or "evaluation"
    return number * (interval if unit == "evaluation" else 1), counted(number, unit)
