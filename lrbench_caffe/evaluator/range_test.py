"""The range test: which learning rates train a net (section V-A, figure 3).

:func:`run` trains the net under several constant rates. :func:`sweep` is the test of Smith (2015):
a single training whose rate grows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from lrbench_caffe import ranking
from lrbench_caffe.errors import InputError
from lrbench_caffe.policies import Composition, Policy
from lrbench_caffe.ranking import ranges
from lrbench_caffe.study import failures
from lrbench_caffe.trial import DIVERGED, FAILED

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from lrbench_caffe.evaluator.trainer import Trainer
    from lrbench_caffe.study.events import Verdict
    from lrbench_caffe.trial import Evaluation, Job, Trial

POWERS = -7, 3  # of 10: the smallest and the largest rate that the test can try
FIRST_POWERS = -1, -2, 0  # of 10: where the good rates of most nets are
# Optimizers that divide the gradient by its size need smaller rates.
ADAPTIVE = ("Adam", "RMSProp")
FIRST_POWERS_ADAPTIVE = -2, -3, -1
LENGTH_SHARE = 0.25  # of the solver's max_iter: rates differ long before its end (figure 3)
MUCH_LONGER = 1.5  # times this share: what `range` explains before it trains
SWEEP_POWERS = -5, 2  # of 10: where the rate of a sweep begins, and where it ends at the latest
DECADES_OF_MAX_ITER = 5  # of a sweep within max_iter: up to a rate of 1
MIN_SWEEP_EVALUATIONS = 10  # within max_iter: two in each decade
RISE_SHARE = 0.1  # of the way from the first to the highest Top-1: the accuracy begins to rise
LEARNT_RATIO = 1.5  # of the Top-1 of guessing: a net above it has learnt
COLLAPSE_LOSS_RATIO = 2  # of the untrained net's loss: it ends the sweep of a net that never learnt


class RangeTest(NamedTuple):
    """The result of a range test.

    Attributes:
        study: Name of the study with the trials.
        title: Title of tables and plots.
        trials: The trials, in the order of their rates.
        curves: Top-1 against the rate after several numbers of iterations, as in figure 3. A sweep
            has a single curve, with the rates that its training went through.
        good: The good range, or None if the net learns with none of the rates.
        cost: Iterations of all trials.
        epoch: Iterations in an epoch, or None if not known.
        swept: Whether it was a sweep.
        open_ends: The ends of the good range, "low" and "high", beyond which no rate was measured.
            The range may be wider there. If the best rate is at such an end, a better rate may be
            beyond it.
        apart: Good rates that a bad rate separates from the good range.
    """

    study: str
    title: str
    trials: tuple[Trial, ...]
    curves: tuple[ranges.Curve, ...]
    good: ranges.Range | None
    cost: int
    epoch: float | None
    swept: bool = False
    open_ends: tuple[str, ...] = ()
    apart: tuple[float, ...] = ()


def run(
    trainer: Trainer,
    max_iter: int | None = None,
    seed: int = 1,
    similar: ranges.Range | None = None,
) -> RangeTest:
    """Train under constant rates and find the good ones (section V-A).

    The test tries three decades where the good rates of most nets are, and further decades until
    the accuracy has dropped on both sides. Then it tries rates that begin with 1, 2 or 5 beside the
    ends of the good range and beside the best rate, until all of these neighbours are measured. It
    stops a training that diverges or is stuck, and ends early if the budget ends.

    Args:
        trainer: Trains the solver.
        max_iter: Iterations at each rate (None: a quarter of the solver's max_iter, but at
            least two evaluations).
        seed: Seed of all trainings.
        similar: The good range of a similar task. If given, the test tries its ends and its best
            rate, and continues beyond an end while that end is the best rate. If none of these
            rates trains the net, it tries the decades after all.

    Returns:
        The result, with one trial for each rate, those that failed among them.

    Raises:
        InputError: As :meth:`lrbench_caffe.evaluator.trainer.Trainer.train`.
        TrialError: As :meth:`lrbench_caffe.evaluator.trainer.Trainer.train`.
    """
    test = _ConstantRates(trainer, max_iter or trainer.length(LENGTH_SHARE), seed)
    with trainer.claim():
        if not (similar and test.try_range(similar)):
            test.try_decades()
    trials = tuple(test.trials[rate] for rate in sorted(test.trials))
    curves = ranges.top1_curves(trials)
    result = _result(trainer, "range test of %s on %s", trials, curves, test.good_range())
    return result._replace(open_ends=test.open_ends(), apart=test.good_apart())


def length_remarks(trainer: Trainer) -> list[str]:
    """Explain the length of a training if it is far more than a quarter of max_iter.

    Args:
        trainer: The trainer of the range test.

    Returns:
        A sentence, or none.
    """
    length, max_iter = trainer.length(LENGTH_SHARE), trainer.max_iter
    if length < MUCH_LONGER * LENGTH_SHARE * max_iter:
        return []
    return [
        "each rate trains for %d of %d iterations, because the solver evaluates every %d"
        " iterations: give --max-iter for shorter trainings"
        % (length, max_iter, trainer.test_interval)
    ]


class _ConstantRates:
    """The trainings of a range test under constant rates.

    Attributes:
        trials: The trials by their rate.
        points: The Top-1 of each rate at the end of its training, by rate.
    """

    def __init__(self, trainer: Trainer, length: int, seed: int) -> None:
        self._trainer, self._length, self._seed = trainer, length, seed
        self._task = _samples_and_classes(trainer)
        self.trials: dict[float, Trial] = {}
        self.points: tuple[ranges.Point, ...] = ()

    def good_range(self) -> ranges.Range | None:
        return ranges.good_range(self.points, *self._task)

    def open_ends(self) -> tuple[str, ...]:
        measured = [rate for rate, trial in self.trials.items() if trial.state != FAILED]
        return _open_ends(self.good_range(), measured)

    def good_apart(self) -> tuple[float, ...]:
        good, limit = self.good_range(), ranges.top1_limit(self.points, *self._task)
        if good is None or limit is None:
            return ()
        outside = (point for point in self.points if not good.low <= point.k0 <= good.high)
        return tuple(point.k0 for point in outside if ranges.is_good(point, limit))

    def _train(self, rates: Sequence[float]) -> None:
        """Train under as many of the rates as the budget has room for."""
        rates = rates[: self._room]
        requests = [(str(Policy("FIX", k0=rate)), self._length, self._seed) for rate in rates]
        trials = self._trainer.train(requests, end_stuck=True)
        self.trials.update(zip(rates, trials))
        self.points = _final_points(self.trials.values())

    @property
    def _room(self) -> int:
        return self._trainer.room(self._length)

    def try_range(self, similar: ranges.Range) -> bool:
        """Train at the rates of a range, and beyond its ends; return whether the net learns."""
        rates = sorted({similar.low, similar.best, similar.high})
        while rates and self._room:
            self._train(rates)
            good = self.good_range()
            if good is None:
                return False
            lowest, highest = min(self.trials), max(self.trials)
            if good.best == lowest:
                rates = _next_lower(lowest)
            elif good.best == highest:
                rates = _next_higher(highest)
            else:
                rates = []
        return bool(self.points)

    def try_decades(self) -> None:
        """Train at decades until the accuracy has dropped, then beside the good ones."""
        adaptive = self._trainer.setup.solver.get("type") in ADAPTIVE
        powers = FIRST_POWERS_ADAPTIVE if adaptive else FIRST_POWERS
        rates = [_rate(1, power) for power in powers]
        while rates and self._room:
            self._train(rates)
            rates = self._missing_decades() or self._missing_neighbours()

    def _missing_decades(self) -> list[float]:
        """List the next decade on each side on which the accuracy has not dropped yet."""
        if self.good_range():
            lower, higher = ("low" in self.open_ends()), ("high" in self.open_ends())
        else:
            lower, higher = True, self.trials[max(self.trials)].state != DIVERGED
        below = _next_lower(min(self.trials), _DECADES) if lower else []
        above = _next_higher(max(self.trials), _DECADES) if higher else []
        return below + above

    def _missing_neighbours(self) -> list[float]:
        """List the rates beside the good range and the best rate that were not tried yet."""
        good = self.good_range()
        if good is None:
            return []
        below = _next_lower(good.low) + _next_lower(good.best)
        above = _next_higher(good.best) + _next_higher(good.high)
        return sorted({*below, *above} - set(self.trials))


def sweep(trainer: Trainer, max_iter: int | None = None, seed: int = 1) -> RangeTest:
    """Train once with a rate that grows from 0.00001 until Top-1 collapses (Smith, 2015).

    Each decade takes a fifth of max_iter. The training ends when the loss is not finite or the
    accuracy has collapsed, and at a rate of 100 at the latest. The good range begins where Top-1
    begins to rise, and ends at the last good rate after the best one.

    Args:
        trainer: Trains the solver.
        max_iter: Iterations until the rate is 1 (None: the solver's max_iter).
        seed: Seed of the training.

    Returns:
        The result, with one trial.

    Raises:
        InputError: The training has too few evaluations, or as
            :meth:`lrbench_caffe.evaluator.trainer.Trainer.train`.
        TrialError: As :meth:`lrbench_caffe.evaluator.trainer.Trainer.train`.
    """
    max_iter = max_iter or trainer.max_iter
    minimum = MIN_SWEEP_EVALUATIONS * trainer.test_interval
    if max_iter < minimum:
        raise InputError(
            "a sweep of %d iterations with a test_interval of %d has too few evaluations: give"
            " --max-iter %d or more, or set a smaller test_interval in the solver"
            % (max_iter, trainer.test_interval, minimum)
        )
    first, last = SWEEP_POWERS
    decade = max_iter // DECADES_OF_MAX_ITER
    length = decade * (last - first)
    (trial,) = trainer.train([(str(sweep_policy(decade)), length, seed)], [_Collapse().on_event])
    # Caffe's rates have six exact digits.
    points = tuple(
        ranges.Point(float("%.6g" % row.lr), row.top1, False, row.test_loss)
        for row in trial.rows
        if row.top1 is not None
    )
    curves = [ranges.Curve(max_iter, points)] if points else []
    good = _good_range_of_sweep(points, trainer)
    ends = () if trial.state == DIVERGED else _open_ends(good, [point.k0 for point in points])
    result = _result(trainer, "sweep of %s on %s", (trial,), curves, good)
    return result._replace(swept=True, open_ends=ends)


class _Collapse:
    """Ends a sweep when its rate is so large that the accuracy has collapsed."""

    def __init__(self) -> None:
        self._chance = 0.0
        self._rows: list[Evaluation] = []

    def on_event(self, job: Job, kind: str, content: Any) -> Verdict | None:
        """Receive an event; return (DIVERGED, reason) if the accuracy has collapsed."""
        if kind == "begin":  # again, if the trial moves to another worker of a cluster
            self._chance, self._rows = ranges.guessing(content.setup.classes), []
        elif kind == "row" and content.top1 is not None:
            self._rows.append(content)
            if has_collapsed(self._rows, self._chance):
                return DIVERGED, (
                    "at a rate of %.3g the accuracy has collapsed: Top-1 %.2f %%"
                    % (content.lr, 100 * content.top1)
                )
        return None


def has_collapsed(rows: Sequence[Evaluation], chance: float) -> bool:
    """Return whether the accuracy of a training with a growing rate has collapsed.

    Top-1 is then below half way from guessing to the best one in each of the last
    ranges.COLLAPSE_EVALUATIONS evaluations. If the net never learnt, the loss is far above that of
    the untrained net.

    Args:
        rows: The evaluations so far, each with a Top-1.
        chance: The Top-1 of guessing; 0 if it is unknown, for the Top-1 of the first evaluation.
    """
    if len(rows) <= ranges.COLLAPSE_EVALUATIONS:
        return False
    chance = chance or _top1(rows[0])
    top1s = [_top1(row) for row in rows]
    if max(top1s) > LEARNT_RATIO * chance:
        return ranges.ends_low(top1s, chance)
    last = rows[-ranges.COLLAPSE_EVALUATIONS :]
    untrained, *losses = [
        math.nan if row.test_loss is None else row.test_loss for row in (rows[0], *last)
    ]
    return all(loss > COLLAPSE_LOSS_RATIO * untrained for loss in losses)


def _top1(row: Evaluation) -> float:
    return cast("float", row.top1)


def summary(test: RangeTest) -> list[str]:
    """Summarize a range test: the trainings that failed, the good rates, and what they cost."""
    cost = "the test took %d iterations in %d training%s, recorded as study %s" % (
        test.cost,
        len(test.trials),
        "" if len(test.trials) == 1 else "s",
        test.study,
    )
    if test.good and test.good.high <= 1:
        cost = "this rules out %.2f %% of (0, 1); %s" % (100 * test.good.ruled_out, cost)
    sets = _sets(test.trials) if test.good else []
    return [*failures.lines(test.trials), *_good_rates(test), cost, *sets]


def _sets(trials: Iterable[Trial]) -> list[str]:
    """On which set the rates are chosen. All numbers of a range test are those on this set."""
    pairs = filter(None, map(ranking.sets_of, trials))
    return list(dict.fromkeys(ranking.sets_sentence(select, select) for select, _ in pairs))


def _good_rates(test: RangeTest) -> list[str]:
    good = test.good
    if good is None:
        others = " other" if failures.failed_trials(test.trials) else ""
        length = max((trial.length for trial in test.trials), default=0)
        if test.swept or not length:
            return ["no%s rate is better than guessing" % others]
        return [
            "after %d iterations, no%s rate is better than guessing: the net may learn with"
            " --max-iter %d or more" % (length, others, 2 * length)
        ]
    best = "with Top-1 %.2f %%" % (100 * good.top1)
    if test.swept:
        rates = "the accuracy rises from a rate of %r on and is highest at %r, %s" % (
            good.low,
            good.best,
            best,
        )
        advice = (
            "%r may be too high for an untrained net: a third of it, %r, is a safer constant rate"
            % (good.best, constant_rate(good))
        )
        return [rates, advice, *(_open_end(test, good, end) for end in test.open_ends)]
    if good.low == good.high:
        rates = "good rates: only %r, %s" % (good.best, best)
    else:
        rates = "good rates: %r to %r, best %r %s" % (good.low, good.high, good.best, best)
    return [rates, *(_open_end(test, good, end) for end in test.open_ends), *_apart(test)]


def _apart(test: RangeTest) -> list[str]:
    """A sentence about good rates outside the good range: a single training can be unlucky."""
    if not test.apart:
        return []
    return [
        "%s also reached a good Top-1, but a rate between did not, perhaps by chance: compare the"
        " rates with several seeds, `lrbench study run NAME ... --seeds 3`"
        % " and ".join(map(repr, test.apart))
    ]


def constant_rate(swept: ranges.Range) -> float:
    """Return the constant rate to try after a sweep: a third of the best one, with one digit.

    The rate of a sweep grows slowly, so the net bears a higher one than from the first iteration.

    Args:
        swept: The good range of a sweep.
    """
    return float("%.1g" % (swept.best / 3))


def _open_end(test: RangeTest, good: ranges.Range, end: str) -> str:
    """A sentence about an end of the good range beyond which no rate was measured."""
    rate, extreme, further = {
        "low": (good.low, "lowest", "lower"),
        "high": (good.high, "highest", "higher"),
    }[end]
    if good.best == rate:
        doubt = "the best rate is the %s that was measured, a %s rate may be better" % (
            extreme,
            further,
        )
    else:
        doubt = "%r is the %s rate that was measured, %s rates may be good too" % (
            rate,
            extreme,
            further,
        )
    return "%s: %s" % (doubt, _remedy(test, rate))


def _remedy(test: RangeTest, rate: float) -> str:
    """What to do about a good rate beyond which no rate was measured."""
    if failures.failed_trials(test.trials):
        return "run the same command again"
    if test.swept:
        return "run the test without --sweep"
    if rate in (_DECADES[0], _DECADES[-1]):
        return "check the scale of the data and of the loss"
    return "give a larger --budget"


def sweep_policy(decade: int) -> Composition:
    """Make the policy of a sweep: a straight line through each decade.

    Args:
        decade: Iterations of each decade.
    """
    first, last = SWEEP_POWERS
    parts: list[Policy | int] = []
    for power in range(first, last):
        parts += [Policy("WARMUP", k0=_rate(1, power)), decade]
    return Composition(*parts, Policy("FIX", k0=_rate(1, last)))


def _rate(digit: int, power: int) -> float:
    """Compute digit * 10 ^ power without a rounding error."""
    return float("%de%d" % (digit, power))


_DECADES = [_rate(1, power) for power in range(POWERS[0], POWERS[1] + 1)]
_RATES = [
    *(_rate(digit, power) for power in range(*POWERS) for digit in (1, 2, 5)),
    _DECADES[-1],
]


def _next_lower(rate: float, rates: Sequence[float] = _RATES) -> list[float]:
    """List the next lower rate of some rates, by default those that begin with 1, 2 or 5."""
    return [lower for lower in reversed(rates) if lower < 0.9 * rate][:1]


def _next_higher(rate: float, rates: Sequence[float] = _RATES) -> list[float]:
    """List the next higher rate of some rates, by default those that begin with 1, 2 or 5."""
    return [higher for higher in rates if higher > 1.1 * rate][:1]


def _open_ends(good: ranges.Range | None, measured: Collection[float]) -> tuple[str, ...]:
    """List the ends of a good range beyond which no rate was measured."""
    if good is None:
        return ()
    is_open = {"low": min(measured) == good.low, "high": max(measured) == good.high}
    return tuple(end for end in is_open if is_open[end])


def _samples_and_classes(trainer: Trainer) -> tuple[int | None, int | None]:
    """Return what the good range depends on: the samples of the deciding set, and the classes."""
    return trainer.setup.deciding_samples, trainer.setup.classes


def _final_points(trials: Iterable[Trial]) -> tuple[ranges.Point, ...]:
    """Compute the points at the end of the trainings; a training that failed has none."""
    trials = list(trials)
    curves = ranges.top1_curves([trial for trial in trials if trial.state != FAILED], 1)
    if curves:
        return curves[-1].points
    points = [
        ranges.Point(cast("float", trial.parameters["k0"]), trial.best.top1, True)
        for trial in trials
        if trial.best and trial.best.top1 is not None and trial.state == DIVERGED
    ]
    return tuple(sorted(points))


def _good_range_of_sweep(points: tuple[ranges.Point, ...], trainer: Trainer) -> ranges.Range | None:
    limit = ranges.top1_limit(points, *_samples_and_classes(trainer))
    if limit is None:
        return None
    best = max(points, key=lambda point: point.top1)
    start = points[0].top1 + RISE_SHARE * (best.top1 - points[0].top1)
    # With weights from an earlier training, the first point can be the best.
    low = next((point for point in points if point.top1 > start), best)
    high = best
    for point in points[points.index(best) :]:
        if not ranges.is_good(point, limit):
            break
        high = point
    return ranges.Range(low.k0, high.k0, best.k0, best.top1)


def _result(
    trainer: Trainer,
    title: str,
    trials: tuple[Trial, ...],
    curves: Iterable[ranges.Curve],
    good: ranges.Range | None,
) -> RangeTest:
    setup = trainer.setup
    return RangeTest(
        trainer.name,
        title % (setup.network.name, setup.dataset.name),
        trials,
        tuple(curves),
        good,
        sum(trainer.cost(trial) for trial in trials),
        setup.epoch,
    )
