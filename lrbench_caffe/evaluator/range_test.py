"""The range test: which learning rates train a net (section V-A, figure 3).

:func:`run` trains the net under several constant rates. :func:`sweep` is the test of Smith (2015):
a single training whose rate grows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from lrbench_caffe import ranking
from lrbench_caffe.errors import InputError
from lrbench_caffe.policies import Composition, Policy
from lrbench_caffe.ranking import ranges
from lrbench_caffe.study import failures
from lrbench_caffe.study.pruning import StuckDetector
from lrbench_caffe.trial import DIVERGED, FAILED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lrbench_caffe.evaluator.trainer import Trainer
    from lrbench_caffe.trial import Trial

FIRST_POWER, LAST_POWER = 0, -7  # of 10: the first and the smallest rate that the test can try
DROP_DECADES = 2  # consecutive decades with lower accuracy that end the search for lower rates
LENGTH_SHARE = 0.25  # of the solver's max_iter: rates differ long before its end (figure 3)
SWEEP_POWERS = -5, 0  # of 10: where the rate of a sweep begins and ends
MIN_SWEEP_EVALUATIONS = 10  # two in each decade
RISE_SHARE = 0.1  # of the way from the first to the highest Top-1: the accuracy begins to rise


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
    """

    study: str
    title: str
    trials: tuple[Trial, ...]
    curves: tuple[ranges.Curve, ...]
    good: ranges.Range | None
    cost: int
    epoch: float | None
    swept: bool = False


def run(
    trainer: Trainer,
    max_iter: int | None = None,
    seed: int = 1,
    similar: ranges.Range | None = None,
) -> RangeTest:
    """Train under constant rates and find the good ones (section V-A).

    The test tries the decades from 1 down until the accuracy has dropped for good, and then the
    rates that begin with 2 and 5 beside the good decades. It stops a training that diverges or is
    stuck, and ends early if the budget ends.

    Args:
        trainer: Trains the solver.
        max_iter: Iterations at each rate (None: a quarter of the solver's max_iter).
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
    return _result(trainer, "range test of %s on %s", trials, curves, test.good_range())


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

    def _train(self, rates: Sequence[float]) -> None:
        """Train under as many of the rates as the budget has room for."""
        rates = rates[: self._room]
        requests = [(str(Policy("FIX", k0=rate)), self._length, self._seed) for rate in rates]
        trials = self._trainer.train(requests, [StuckDetector().on_event])
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
        """Train at decades until the accuracy has dropped for good, then beside the good ones."""
        powers = range(FIRST_POWER, FIRST_POWER - DROP_DECADES - 1, -1)
        lowest = FIRST_POWER
        while powers:
            self._train([_rate(1, power) for power in powers])
            lowest = powers[-1]
            last = max(lowest - self._missing_decades(), LAST_POWER)
            powers = range(lowest - 1, last - 1, -1)[: self._room]
        limit = ranges.top1_limit(self.points, *self._task)
        good_rates = {
            point.k0 for point in self.points if limit is not None and ranges.is_good(point, limit)
        }
        rates = [
            _rate(digit, power)
            for power in range(lowest, FIRST_POWER)
            if good_rates & {_rate(1, power), _rate(1, power + 1)}
            for digit in (2, 5)
        ]
        if rates:
            self._train(rates)

    def _missing_decades(self) -> int:
        """Count the decades that are still needed to see whether the accuracy drops for good."""
        limit = ranges.top1_limit(self.points, *self._task)
        if limit is None:
            return DROP_DECADES
        lowest_good = next(n for n, point in enumerate(self.points) if ranges.is_good(point, limit))
        return max(0, DROP_DECADES - lowest_good)


def sweep(trainer: Trainer, max_iter: int | None = None, seed: int = 1) -> RangeTest:
    """Train once with a rate that grows from 0.00001 to 1 (Smith, 2015).

    Each decade takes as many iterations. The good range begins where Top-1 begins to rise, and ends
    at the last good rate after the best one.

    Args:
        trainer: Trains the solver.
        max_iter: Iterations of the training (None: the solver's max_iter).
        seed: Seed of the training.

    Returns:
        The result, with one trial.

    Raises:
        InputError: The training has too few evaluations, or as
            :meth:`lrbench_caffe.evaluator.trainer.Trainer.train`.
        TrialError: As :meth:`lrbench_caffe.evaluator.trainer.Trainer.train`.
    """
    length = max_iter or trainer.max_iter
    min_length = MIN_SWEEP_EVALUATIONS * trainer.test_interval
    if length < min_length:
        raise InputError(
            "a sweep of %d iterations with a test_interval of %d has too few evaluations: give"
            " --max-iter %d or more, or set a smaller test_interval in the solver"
            % (length, trainer.test_interval, min_length)
        )
    request = str(sweep_policy(length)), length, seed
    (trial,) = trainer.train([request], [StuckDetector().on_event])
    # Caffe's rates have six exact digits.
    points = tuple(
        ranges.Point(float("%.6g" % row.lr), row.top1, False)
        for row in trial.rows
        if row.top1 is not None
    )
    curves = [ranges.Curve(length, points)] if points else []
    good = _good_range_of_sweep(points, trainer)
    return _result(trainer, "sweep of %s on %s", (trial,), curves, good)._replace(swept=True)


def summary(test: RangeTest) -> list[str]:
    """Summarize a range test: the trainings that failed, the good rates, and what they cost."""
    cost = "the test took %d iterations in %d training%s, recorded as study %s" % (
        test.cost,
        len(test.trials),
        "" if len(test.trials) == 1 else "s",
        test.study,
    )
    sets = _sets(test.trials) if test.good else []
    return [*failures.causes(test.trials), *_good_rates(test, cost), *sets]


def _sets(trials: Iterable[Trial]) -> list[str]:
    """On which set the rates are chosen. All numbers of a range test are those on this set."""
    pairs = filter(None, map(ranking.sets_of, trials))
    return list(dict.fromkeys(ranking.sets_sentence(select, select) for select, _ in pairs))


def _good_rates(test: RangeTest, cost: str) -> list[str]:
    good = test.good
    if good is None:
        others = " other" if failures.failed_trials(test.trials) else ""
        return ["no%s rate is better than guessing" % others, cost]
    if good.low == good.high:
        return ["good rates: only %r, with Top-1 %.2f %%" % (good.best, 100 * good.top1), cost]
    return [
        "good rates: %r to %r, best %r with Top-1 %.2f %%"
        % (good.low, good.high, good.best, 100 * good.top1),
        "this rules out %.2f %% of (0, 1); %s" % (100 * good.ruled_out, cost),
    ]


def sweep_policy(length: int) -> Composition:
    """Make the policy of a sweep: a straight line through each decade.

    Args:
        length: Iterations of the training.
    """
    first, last = SWEEP_POWERS
    decade = length // (last - first)
    parts: list[Policy | int] = []
    for power in range(first, last):
        parts += [Policy("WARMUP", k0=_rate(1, power)), decade]
    return Composition(*parts, Policy("FIX", k0=_rate(1, last)))


def _next_lower(rate: float) -> list[float]:
    """List the next lower rate that begins with 1, 2 or 5; empty below the smallest."""
    return [lower for lower in reversed(_RATES) if lower < 0.9 * rate][:1]


def _next_higher(rate: float) -> list[float]:
    """List the next higher rate that begins with 1, 2 or 5; empty above the largest."""
    return [higher for higher in _RATES if higher > 1.1 * rate][:1]


def _rate(digit: int, power: int) -> float:
    """Compute digit * 10 ^ power without a rounding error."""
    return float("%de%d" % (digit, power))


_RATES = [
    _rate(digit, power) for power in range(LAST_POWER, FIRST_POWER) for digit in (1, 2, 5)
] + [1.0]


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
        trainer.epoch,
    )
