"""The range of good constant rates, from trials under FIX (Figure 3 and section V-A of the paper).

A curve holds the Top-1 of each constant rate after the same number of iterations. The good range
surrounds the rate with the highest Top-1. A rate is good if its error is at most 1.5 times the best
rate's error, and its Top-1 at least half way from guessing to the best rate's, each up to one
standard deviation of sampling noise. The first limit is the stricter one for a net that classifies
more than half of the samples correctly, and the second one for a net that learns slowly. All
functions here are pure.
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from lrbench_caffe.trial import DIVERGED, FINISHED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lrbench_caffe.trial import Evaluation, Trial

CURVES = 5  # as in Figure 3
# The error of a good rate over the best rate's error (chosen: Figure 3 draws the limit by eye).
MAX_ERROR_RATIO = 1.5
# The Top-1 of a good rate: at least this share of the way from guessing to the best rate's.
MIN_LEARNT_SHARE = 0.5
COLLAPSE_EVALUATIONS = 2  # in a row with a low Top-1, with which a net has collapsed
# A rate is better than guessing if its Top-1 is higher by more than this number of deviations.
GUESSING_DEVIATIONS = 3
DEFAULT_SAMPLES = 1000  # of a test set of unknown size


class Point(NamedTuple):
    """The result of the trainings under one constant rate after some number of iterations.

    Attributes:
        k0: The rate.
        top1: The mean Top-1 of the trainings, a share of 1.
        diverged: Whether any of the trainings diverged.
        test_loss: The mean test loss of the trainings, None if it is unknown. It decides between
            rates with the same Top-1.
    """

    k0: float
    top1: float
    diverged: bool
    test_loss: float | None = None


class Curve(NamedTuple):
    """Top-1 against the constant rate.

    Attributes:
        iteration: The number of iterations after which Top-1 was measured.
        points: A point for each rate, sorted by the rate.
    """

    iteration: int
    points: tuple[Point, ...]


class Range(NamedTuple):
    """A range of good constant rates.

    Attributes:
        low: The lowest good rate.
        high: The highest good rate.
        best: The rate with the highest Top-1.
        top1: The Top-1 of the best rate, a share of 1.
    """

    low: float
    high: float
    best: float
    top1: float

    @property
    def ruled_out(self) -> float:
        """The share of the search space (0, 1) outside the range; 0.9941 in the paper's example.

        It does not count rates above 1, which are outside the paper's search space.
        """
        return 1.0 - max(0.0, min(self.high, 1.0) - self.low)


def top1_curves(trials: Iterable[Trial], count: int = CURVES) -> list[Curve]:
    """Return curves at equal distances along the trainings.

    Args:
        trials: Trials under FIX, with all their rows. A trial that diverged or finished early keeps
            the Top-1 of its last row after that.
        count: The largest number of curves.

    Returns:
        Up to ``count`` curves, the last one at the end of the finished trials. Without a finished
        trial there are none.
    """
    trials = [trial for trial in trials if trial.rows]
    finished = [trial for trial in trials if trial.state == FINISHED]
    evaluated = sorted({row.iteration for trial in finished for row in trial.rows} - {0})
    count = min(count, len(evaluated))
    iterations = [evaluated[(n + 1) * len(evaluated) // count - 1] for n in range(count)]
    return [Curve(iteration, _points(trials, iteration)) for iteration in iterations]


def _points(trials: Iterable[Trial], iteration: int) -> tuple[Point, ...]:
    points = []
    for k0, rows, diverged in _rows_after(trials, iteration, "k0"):
        losses = [row.test_loss for row in rows if row.test_loss is not None]
        loss = statistics.mean(losses) if len(losses) == len(rows) else None
        points.append(Point(k0, _mean_top1(rows), diverged, loss))
    return tuple(points)


def top1_after(
    trials: Iterable[Trial], iteration: int, parameter: str
) -> list[tuple[Any, float, bool]]:
    """Return the mean Top-1 after some number of iterations for each value of a policy parameter.

    Args:
        trials: Trials with all their rows. A trial that diverged or finished early before the
            iteration counts with the Top-1 of its last row; other trials that ended before it do
            not count.
        iteration: The number of iterations.
        parameter: The name of a parameter that all policies have, such as "k0".

    Returns:
        A tuple (value of the parameter, mean Top-1, whether any training diverged) for each value,
        sorted by the value.
    """
    return [
        (value, _mean_top1(rows), diverged)
        for value, rows, diverged in _rows_after(trials, iteration, parameter)
    ]


def _rows_after(
    trials: Iterable[Trial], iteration: int, parameter: str
) -> list[tuple[Any, list[Evaluation], bool]]:
    """Return (value, a row of each training, whether any diverged) as for :func:`top1_after`."""
    results: dict[Any, list[tuple[Evaluation, bool]]] = {}
    for trial in trials:
        diverged = trial.state == DIVERGED
        rows = [row for row in trial.rows if row.top1 is not None and row.iteration <= iteration]
        if rows and (trial.rows[-1].iteration >= iteration or diverged or trial.ended_early):
            value = trial.parameters[parameter]
            results.setdefault(value, []).append((rows[-1], diverged))
    return [
        (value, [row for row, _ in pairs], any(diverged for _, diverged in pairs))
        for value, pairs in sorted(results.items())
    ]


def _mean_top1(rows: Sequence[Evaluation]) -> float:
    return sum(cast("float", row.top1) for row in rows) / len(rows)


def good_range(
    points: Sequence[Point], samples: int | None = None, classes: int | None = None
) -> Range | None:
    """Return the range of good rates around the best one.

    Args:
        points: The points of a curve, sorted by the rate.
        samples: The size of the test set, which determines the sampling noise; None for
            DEFAULT_SAMPLES.
        classes: The number of classes, which determines the Top-1 of guessing; None if it is
            unknown, for a Top-1 of 0.

    Returns:
        The range, or None if no rate is better than guessing.
    """
    best, limit = _best(points), top1_limit(points, samples, classes)
    if best is None or limit is None:
        return None
    low = high = points.index(best)
    while low > 0 and is_good(points[low - 1], limit):
        low -= 1
    while high < len(points) - 1 and is_good(points[high + 1], limit):
        high += 1
    return Range(points[low].k0, points[high].k0, best.k0, best.top1)


def is_good(point: Point, limit: float) -> bool:
    """Return whether no training of a point diverged and its Top-1 reaches the limit.

    The limit is that of :func:`top1_limit`.
    """
    return not point.diverged and point.top1 >= limit


def top1_limit(
    points: Sequence[Point], samples: int | None = None, classes: int | None = None
) -> float | None:
    """Return the lowest Top-1 of a good rate.

    The error is at most MAX_ERROR_RATIO times the best rate's. The Top-1 is at least
    MIN_LEARNT_SHARE of the way from guessing to the best rate's, and better than guessing. The
    limit is lower by one standard deviation of the best rate's Top-1. The arguments are those of
    :func:`good_range`.

    Returns:
        A share of 1, or None if no rate is better than guessing.
    """
    best, chance = _best(points), guessing(classes)
    learnt = _learnt(samples, classes)
    if best is None or best.top1 <= learnt:
        return None
    limit = max(
        1.0 - MAX_ERROR_RATIO * (1.0 - best.top1),
        half_way(chance, best.top1),
    )
    return max(learnt, limit - binomial_deviation(best.top1, samples))


def guessing(classes: int | None) -> float:
    """Return the Top-1 of guessing among a number of classes; 0 if the number is unknown."""
    return 1.0 / classes if classes else 0.0


def half_way(chance: float, top1: float) -> float:
    """Return the Top-1 at MIN_LEARNT_SHARE of the way from guessing to a Top-1."""
    return chance + MIN_LEARNT_SHARE * (top1 - chance)


def has_collapsed(top1s: Sequence[float], samples: int | None, classes: int | None) -> bool:
    """Return whether a net that had learnt ended nearer to guessing than to its highest Top-1.

    Args:
        top1s: The Top-1 of each evaluation of a training; the last COLLAPSE_EVALUATIONS count.
        samples: The size of the test set, as for :func:`good_range`.
        classes: The number of classes, as for :func:`good_range`.
    """
    has_learnt = max(top1s, default=0.0) > _learnt(samples, classes)
    return has_learnt and ends_low(top1s, guessing(classes))


def ends_low(top1s: Sequence[float], chance: float) -> bool:
    """Return whether the last Top-1 are all below half way from guessing to the highest one.

    Args:
        top1s: The Top-1 of each evaluation, at least one; the last COLLAPSE_EVALUATIONS count.
        chance: The Top-1 of guessing.
    """
    return max(top1s[-COLLAPSE_EVALUATIONS:]) < half_way(chance, max(top1s))


def _learnt(samples: int | None, classes: int | None) -> float:
    """The Top-1 above which a net is better than guessing."""
    chance = guessing(classes)
    return chance + GUESSING_DEVIATIONS * binomial_deviation(chance, samples)


def _best(points: Iterable[Point]) -> Point | None:
    """The point with the highest Top-1 without divergence.

    On a tie, it is the one with the lower test loss, and then the one with the larger k0.
    """

    def key(point: Point) -> tuple[float, float, float]:
        loss = math.inf if point.test_loss is None else point.test_loss
        return point.top1, -loss, point.k0

    return max((point for point in points if not point.diverged), key=key, default=None)


def binomial_deviation(share: float, samples: int | None) -> float:
    """Return the standard deviation of a share that is measured on a number of test samples.

    It is sqrt(share * (1 - share) / samples), with DEFAULT_SAMPLES if the number is unknown.
    """
    return math.sqrt(share * (1.0 - share) / (samples or DEFAULT_SAMPLES))
