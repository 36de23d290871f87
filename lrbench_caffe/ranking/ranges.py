"""The good range of constant rates, read off trainings under FIX: figure 3 and section V-A of the paper.  Pure functions.

A curve is what all rates had reached after the same number of iterations.  Good are the rates around the best one that it does not
leave far behind; what lies outside is ruled out.
"""

import math
from typing import NamedTuple, Optional, Tuple

from lrbench_caffe.trial import DIVERGED, FINISHED

CURVES = 5  # numbers of iterations that the same trainings are read off at, as in figure 3
WORSE = 1.5  # times the best rate's error: what a good rate may have (chosen; figure 3 draws the line by eye)


class Point(NamedTuple):
    """What trainings under a constant rate k0 had reached: their mean Top-1, and whether any of them diverged."""

    k0: float
    top1: float
    diverged: bool


class Curve(NamedTuple):
    """The Points, by k0, after so many iterations."""

    iteration: int
    points: Tuple[Point, ...]


class Range(NamedTuple):
    """The good rates from low to high, the best of them and its Top-1."""

    low: float
    high: float
    best: float
    top1: float

    @property
    def ruled_out(self):
        """The share of (0, 1), where rates are looked for, that is not in the range: 0.9941 in the paper's example."""
        return 1.0 - max(0.0, min(self.high, 1.0) - self.low)


def top1_curves(trials, many=CURVES):
    """Up to so many Curves of FIX trials with their rows, the last one at the end of those that finished.

    A trial that ended before, having diverged, counts with what it had then.  No trial that finished: no curves.
    """
    trials = [trial for trial in trials if trial.rows]
    seen = sorted(
        {row.iteration for trial in trials if trial.state == FINISHED for row in trial.rows} - {0}
    )
    many = min(many, len(seen))
    chosen = [seen[(n + 1) * len(seen) // many - 1] for n in range(many)]
    return [Curve(iteration, _points(trials, iteration)) for iteration in chosen]


def _points(trials, iteration):
    return tuple(Point(*found) for found in top1_after(trials, iteration, "k0"))


def top1_after(trials, iteration, parameter):
    """[(the parameter's value, the mean Top-1, whether any diverged)], sorted, of what trials had reached after so many iterations.

    One that diverged before counts with what it had then, others that ended before do not.
    """
    tops = {}
    for trial in trials:
        diverged = trial.state == DIVERGED
        rows = [row for row in trial.rows if row.iteration <= iteration]
        if rows and (trial.rows[-1].iteration >= iteration or diverged):
            tops.setdefault(trial.parameters[parameter], []).append((rows[-1].top1, diverged))
    return [
        (value, sum(top1 for top1, _ in found) / len(found), any(diverged for _, diverged in found))
        for value, found in sorted(tops.items())
    ]


def good_range(points, samples=None, classes=None):
    """The Range of good rates among Points that are sorted by k0, or None where none of them is better than guessing.

    samples, of the test set, say how far chance goes (None: 1,000); classes what guessing reaches (None: nothing).
    """
    limit = top1_limit(points, samples, classes)
    if limit is None:
        return None
    best = _best(points)
    ends = {}
    for name, way in (("low", -1), ("high", 1)):
        n = points.index(best)
        while 0 <= n + way < len(points) and is_good(points[n + way], limit):
            n += way
        ends[name] = points[n].k0
    return Range(best=best.k0, top1=best.top1, **ends)


def is_good(point, limit):
    """Whether a Point reaches the limit that :func:`least` gives."""
    return not point.diverged and point.top1 >= limit


def top1_limit(points, samples=None, classes=None):
    """The Top-1 that a good rate reaches at least, as of :func:`good`: None where no rate is better than guessing.

    Its error is at most WORSE times that of the best and, above that, a standard deviation of the latter on so many samples.
    """
    best = _best(points)
    if best is None or best.top1 <= guessing(classes) + 3 * binomial_deviation(
        guessing(classes), samples
    ):
        return None
    return 1.0 - WORSE * (1.0 - best.top1) - binomial_deviation(best.top1, samples)


def guessing(classes):
    """The Top-1 of guessing among so many classes (None: not known, 0)."""
    return 1.0 / classes if classes else 0.0


def _best(points):
    """The Point with the highest Top-1, of several the one with the largest k0, or None."""
    return max(
        (point for point in points if not point.diverged),
        key=lambda point: (point.top1, point.k0),
        default=None,
    )


def binomial_deviation(share, samples: Optional[int]):
    """The standard deviation of a share of so many samples."""
    return math.sqrt(share * (1.0 - share) / (samples or 1000))
