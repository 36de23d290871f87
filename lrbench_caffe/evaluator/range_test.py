"""The range test: which constant rates train a net (section V-A, figure 3), or Smith's, one training with a growing rate."""

from typing import NamedTuple, Optional, Tuple

from lrbench_caffe.errors import InputError
from lrbench_caffe.policies import Composition, Policy
from lrbench_caffe.ranking import ranges
from lrbench_caffe.study.pruning import StuckDetector
from lrbench_caffe.trial import FAILED, Trial

LARGEST, SMALLEST = 0, -7  # powers of 10: the first rate that is tried, and the last
DROPS = 2  # decades in a row that have to be worse before accuracy has dropped for good
SHARE = 0.25  # of the solver's max_iter: the rates are told apart long before its end (figure 3)
SWEEP = -5, 0  # powers of 10 between which Smith's test lets the rate grow
SEEN = 10  # evaluations that a sweep has to have at least: two in each decade
RISEN = 0.1  # of the way from the first Top-1 to the highest: accuracy has begun to rise


class RangeTest(NamedTuple):
    """What came of a range test: its study, trials and cost in iterations; the good Range, None where nothing was learnt.

    curves: figure 3, after several numbers of iterations; where swept, a single one against the rate that was reached.  epoch:
    iterations in one, or None.
    """

    study: str
    title: str
    trials: Tuple[Trial, ...]
    curves: Tuple[ranges.Curve, ...]
    good: Optional[ranges.Range]
    cost: int
    epoch: Optional[float]
    swept: bool = False


def run(trainings, max_iter=None, seed=1, around=None):
    """The RangeTest of constant rates: decades from 1 down until accuracy has dropped for good, then 2 and 5 in the good ones.

    trainings: a :class:`lrbench_caffe.evaluator.trainings.Trainings`.
    max_iter: how long each rate is trained (None: SHARE of the solver's).  around: the good Range of a task like this one, whose
    best rate and ends are tried instead, and what lies beyond an end as long as that is the best; all decades where none learns.
    A training that diverges ends at once, and so does one that is stuck; where the budget ends, so does the test.  Raises as
    Trainings.train.
    """
    test = _Constant(trainings, max_iter or trainings.length(SHARE), seed)
    if not (around and test.around(around)):
        test.decades()
    trials = tuple(test.found[rate] for rate in sorted(test.found))
    good = ranges.good_range(test.points, *test.task)
    return _result(trainings, "range test of %s on %s", trials, ranges.top1_curves(trials), good)


class _Constant:
    """Trainings under constant rates: found has the trials by their rates, points what they reached."""

    def __init__(self, trainings, length, seed):
        self._trainings, self._length, self._seed = trainings, length, seed
        self.found, self.points, self.task = {}, (), _task(trainings)

    def _train(self, rates):
        rates = rates[: self._room]
        wanted = [(str(Policy("FIX", k0=rate)), self._length, self._seed) for rate in rates]
        self.found.update(zip(rates, self._trainings.train(wanted, [StuckDetector().on_event])))
        self.points = _points(self.found.values())

    @property
    def _room(self):
        return self._trainings.room(self._length)

    def around(self, known):
        """Train near a known Range; whether any rate learnt."""
        rates = sorted({known.low, known.best, known.high})
        while rates and self._room:
            self._train(rates)
            good = ranges.good_range(self.points, *self.task)
            if good is None:
                return False
            lowest, highest = min(self.found), max(self.found)
            rates = (
                _lower(lowest)
                if good.best == lowest
                else _higher(highest)
                if good.best == highest
                else []
            )
        return bool(self.points)

    def decades(self):
        """Train the decades until accuracy has dropped for good, and finer in the good ones."""
        missing = range(LARGEST, LARGEST - DROPS - 1, -1)
        while missing:
            self._train([_rate(1, power) for power in missing])
            lowest = missing[-1]
            missing = range(lowest - 1, max(lowest - self._missing(), SMALLEST) - 1, -1)[
                : self._room
            ]
        limit = ranges.top1_limit(self.points, *self.task)
        goods = {
            point.k0 for point in self.points if limit is not None and ranges.is_good(point, limit)
        }
        finer = [
            _rate(digit, power)
            for power in range(lowest, LARGEST)
            if goods & {_rate(1, power), _rate(1, power + 1)}
            for digit in (2, 5)
        ]
        if finer:
            self._train(finer)

    def _missing(self):
        """How many decades more it takes at least until accuracy has dropped for good."""
        limit = ranges.top1_limit(self.points, *self.task)
        if limit is None:
            return DROPS
        goods = [n for n, point in enumerate(self.points) if ranges.is_good(point, limit)]
        return max(0, DROPS - goods[0])


def sweep(trainings, max_iter=None, seed=1):
    """Smith's RangeTest (2015): one training whose rate grows from 0.00001 to 1, each decade in as many iterations.

    max_iter: its length (None: the solver's).  Good are the rates from where Top-1 has begun to rise to the last before it falls.
    Raises as Trainings.train, and InputError for a length with too few evaluations.
    """
    length = max_iter or trainings.max_iter
    if length < SEEN * trainings.test_interval:
        raise InputError(
            "a sweep of %d iterations that are evaluated every %d shows no range: give --max-iter %d or more, or the "
            "solver a smaller test_interval"
            % (length, trainings.test_interval, SEEN * trainings.test_interval)
        )
    (trial,) = trainings.train([(str(growing(length)), length, seed)], [StuckDetector().on_event])
    points = tuple(ranges.Point(row.lr, row.top1, False) for row in trial.rows)
    curve = ranges.Curve(length, points)
    return _result(
        trainings,
        "sweep of %s on %s",
        (trial,),
        (curve,) if points else (),
        _risen(points, trainings),
    )._replace(swept=True)


def summary(test):
    """What a RangeTest says, in a few sentences."""
    cost = "it cost %d iterations in %d training%s, which are the study %s" % (
        test.cost,
        len(test.trials),
        "" if len(test.trials) == 1 else "s",
        test.study,
    )
    if test.good is None:
        return ["no rate learns anything: every one is as good as guessing", cost]
    if test.good.low == test.good.high:
        return [
            "good rates: of these only %r, with Top-1 %.2f %%"
            % (test.good.best, 100 * test.good.top1),
            cost,
        ]
    return [
        "good rates: %r to %r, the best %r with Top-1 %.2f %%"
        % (test.good.low, test.good.high, test.good.best, 100 * test.good.top1),
        "this rules out %.2f %% of (0, 1); %s" % (100 * test.good.ruled_out, cost),
    ]


def growing(length):
    """The policy of a sweep of so many iterations: a straight line through each decade."""
    first, last = SWEEP
    share = length // (last - first)
    parts = []
    for power in range(first, last):
        parts += [Policy("WARMUP", k0=_rate(1, power)), share]
    return Composition(*parts, Policy("FIX", k0=_rate(1, last)))


def _lower(rate):
    """[the next lower rate of those that begin with 1, 2 or 5], or [] below the smallest."""
    return [one for one in reversed(_FINE) if one < 0.9 * rate][:1]


def _higher(rate):
    """[the next higher rate of those that begin with 1, 2 or 5], or [] above the largest."""
    return [one for one in _FINE if one > 1.1 * rate][:1]


def _rate(digit, power):
    """Digit * 10 ^ power as the float that its text is."""
    return float("%de%d" % (digit, power))


_FINE = [_rate(digit, power) for power in range(SMALLEST, LARGEST) for digit in (1, 2, 5)] + [1.0]


def _task(trainings):
    return trainings.setup.dataset.test_samples, trainings.setup.classes


def _points(trials):
    """The Points at the end of the trainings; of a training that failed there is none."""
    found = ranges.top1_curves([trial for trial in trials if trial.state != FAILED], 1)
    if found:
        return found[-1].points
    return tuple(
        sorted(
            ranges.Point(trial.parameters["k0"], trial.best.top1, True)
            for trial in trials
            if trial.rows
        )
    )


def _risen(points, trainings):
    """The good Range of a sweep."""
    limit = ranges.top1_limit(points, *_task(trainings))
    if limit is None:
        return None
    best = max(points, key=lambda point: point.top1)
    start = points[0].top1 + RISEN * (best.top1 - points[0].top1)
    low = next(
        (point for point in points if point.top1 > start), best
    )  # it may begin at its best, from given weights
    high = best
    for point in points[points.index(best) :]:
        if not ranges.is_good(point, limit):
            break
        high = point
    return ranges.Range(low.k0, high.k0, best.k0, best.top1)


def _result(trainings, title, trials, curves, good):
    setup = trainings.setup
    return RangeTest(
        trainings.name,
        title % (setup.network.name, setup.dataset.name),
        trials,
        tuple(curves),
        good,
        sum(map(trainings.cost, trials)),
        trainings.epoch,
    )
