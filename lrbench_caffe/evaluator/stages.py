"""The stages of a search, in the order in which they run: each returns a longer log.

The paper's section V-B and what is known of warm-ups decide what is tried:

- recipe: a short warm-up and half a cosine from 1, 2 and 4 times the best constant rate.
- known: the best policies of the database.
- shapes: at the best of these largest rates, and at twice that rate, what else is known to work: a
  long warm-up, one decaying cycle, a decay that stays high, then the other functions.
- seeds: more seeds for the contenders; then other rates and variants of the best candidate, as long
  as the budget lasts.
- shorter: for the goal "cost" only, instead of seeds (:mod:`lrbench_caffe.evaluator.shorter`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from lrbench_caffe.evaluator.candidates import first, neighbours, with_peak, with_warmup
from lrbench_caffe.evaluator.tuning_log import (
    KNOWN,
    MORE_SEEDS,
    RECIPE,
    SHAPES,
    Wanted,
    failed_to_converge,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lrbench_caffe.evaluator.candidates import Candidate
    from lrbench_caffe.evaluator.rounds import Rounds
    from lrbench_caffe.evaluator.tuning_log import Outcome, Tried, TuningLog


RECIPE_FACTORS = (1.0, 2.0, 4.0)  # of the best constant rate: the recipe's largest rates
RECIPE_FUNCTIONS = ("COS", "POLY", "SINEXP", "SIN")  # the first that may be chosen is the recipe's
MAX_STEPS = 3  # of a factor 2 beyond the recipe's largest rates
MAX_HALVINGS = 6  # of its smallest one if all its trainings diverge
PROMISING = ("COS", "SINEXP", "POLY")  # shapes that are tried before the others
LONG_WARMUP = 0.3  # of the training
SHAPES_SHARE = 0.45  # of the rest of the budget for the stage shapes
SEEDS = 4  # for the contenders, before variants of the best candidate are tried
RATE_STEP = 2**0.5  # between the largest rates of the best candidate and of its variants
ANOTHER_SEED = "another seed"


class Known(NamedTuple):
    """A candidate that the database has.

    Attributes:
        candidate: The candidate.
        why: Where it comes from.
        top1: Its Top-1 on this task in trainings of full length, a share of 1; None if it was not
            measured.
    """

    candidate: Candidate
    why: str
    top1: float | None = None


def train_recipe(log: TuningLog, rounds: Rounds, rate: float) -> TuningLog:
    """Train the rule of thumb from 1, 2 and 4 times the best constant rate.

    While the largest or the smallest of these rates is the best, the next one beyond it is tried,
    if three further trainings have room. If all of them diverged, lower rates are tried until a
    training finishes, down to 1/64 of the best constant rate.

    Args:
        log: The log.
        rounds: What trains.
        rate: The best constant rate.
    """
    full = log.task.max_iter
    factors: tuple[float, ...] = RECIPE_FACTORS
    for step in range(MAX_HALVINGS + 1):
        wanted = [_recipe(log, factor, rate) for factor in factors]
        wanted = [item for item in wanted if log.may_begin(item.candidate, full)]
        count = len(log.tried)
        log = rounds.train(log, RECIPE, wanted, full)
        if len(log.tried) == count:
            break
        log = log.with_leader(keep_known=True)
        factors = _beyond_the_edge(log, rate)
        is_enough = step >= MAX_STEPS or rounds.room(full) <= len(RECIPE_FACTORS)
        if not factors or (is_enough and log.leader(full)):
            break
    return log


def _recipe(log: TuningLog, factor: float, rate: float) -> Wanted:
    """The recipe with a multiple of the best constant rate as its largest rate, and why."""
    functions = log.task.functions
    function = next((name for name in RECIPE_FUNCTIONS if name in functions), functions[0])
    candidate, _ = first(function, factor * rate, log.task.max_iter)
    why = "from the best constant rate"
    if factor != 1:
        why = "from %g times the best constant rate" % factor
    return Wanted(candidate, why, log.task.seed)


def _beyond_the_edge(log: TuningLog, rate: float) -> tuple[float, ...]:
    """The next factor of the recipe if the best one is at an edge of those that were tried.

    Half the lowest one if the training with it diverged and there is no leader; none if the best
    one is not at an edge.
    """
    tried = sorted(
        (t for t in log.tried if t.stage == RECIPE), key=lambda t: t.candidate.highest_rate()
    )
    lowest, highest = tried[0], tried[-1]
    leader = log.leader(log.task.max_iter)
    if leader and leader.candidate == highest.candidate:
        return (2 * _factor(highest, rate),)
    is_lowest = leader.candidate == lowest.candidate if leader else failed_to_converge(lowest.trial)
    return (_factor(lowest, rate) / 2,) if is_lowest else ()


def _factor(tried: Tried, rate: float) -> float:
    """The power of 2 by which the largest rate of a training of the recipe exceeds a rate."""
    return float(2 ** round(math.log2(tried.candidate.highest_rate() / rate)))


def train_known(log: TuningLog, rounds: Rounds, known: Sequence[Known]) -> TuningLog:
    """Train the best policies of the database, as many as half of the budget has room for.

    Those with a lower Top-1 on this task than the worst seed of the leader are left out, and those
    with rates that diverged.
    """
    full = log.task.max_iter
    leader = log.leader(full)
    lowest = min(leader.top1s) if leader else 0.0
    wanted = [
        Wanted(entry.candidate, entry.why, log.task.seed)
        for entry in known
        if (entry.top1 is None or entry.top1 >= lowest) and log.may_train(entry.candidate, full)
    ]
    count = max(1, rounds.room(full) // 2)
    return rounds.train(log, KNOWN, wanted, full, count).with_leader()


def train_shapes(log: TuningLog, rounds: Rounds) -> TuningLog:
    """Train other shapes at the best largest rate so far, and at twice that rate."""
    full = log.task.max_iter
    leader = log.leader(full)
    if leader is None:
        return log
    shapes = _shapes(log, leader.candidate.highest_rate())
    candidates = [wanted for wanted in shapes if log.may_train(wanted.candidate, full)]
    count = max(1, round(SHAPES_SHARE * rounds.room(full)))
    return rounds.train(log, SHAPES, candidates, full, count).with_leader()


def _shapes(log: TuningLog, peak: float) -> list[Wanted]:
    """The shapes to try, the most promising first; only functions that may be chosen."""
    at_peak, at_twice = (peak, "the best largest rate so far"), (2 * peak, "twice that rate")
    order = [(function, at_peak) for function in PROMISING]
    order += [(function, at_twice) for function in PROMISING if function != "POLY"]
    others = (name for name in log.task.functions if name not in (*PROMISING, "FIX"))
    order += [(function, at_peak) for function in others]
    return [
        _shape(log, function, *rate) for function, rate in order if function in log.task.functions
    ]


def _shape(log: TuningLog, function: str, rate: float, words: str) -> Wanted:
    candidate, _ = first(function, rate, log.task.max_iter)
    if function == "COS":  # the recipe has the short warm-up
        candidate = with_warmup(candidate, LONG_WARMUP) or candidate
        function = "COS with a long warm-up"
    return Wanted(candidate, "%s at %s" % (function, words), log.task.seed)


def train_seeds(log: TuningLog, rounds: Rounds) -> TuningLog:
    """Train the contenders with more seeds, then variants of the best candidate, in turn."""
    full = log.task.max_iter
    while rounds.room(full):
        count = len(log.tried)
        log = rounds.train(log, MORE_SEEDS, _next_wanted(log), full, count=2).with_leader()
        if len(log.tried) == count:
            break
    return log


def _next_wanted(log: TuningLog) -> list[Wanted]:
    """What to train next at full length: another seed of the contenders, or else variants."""
    full = log.task.max_iter
    best = log.contenders(full)
    if not best:
        return _lowered(log)
    unsure = sorted(
        (outcome for outcome in best if len(outcome.trials) < SEEDS),
        key=lambda outcome: len(outcome.trials),
    )
    if unsure:
        return [
            Wanted(outcome.candidate, ANOTHER_SEED, log.next_seed(outcome.candidate, full))
            for outcome in unsure
        ]
    return [
        Wanted(candidate, why, log.task.seed)
        for candidate, why in _variants(best[0])
        if log.may_train(candidate, full)
    ]


def _lowered(log: TuningLog) -> list[Wanted]:
    """The incumbent with a largest rate below those that diverged, for want of a safe candidate."""
    peak = log.lowest_diverged_peak / 2
    candidate = with_peak(log.incumbent, peak) if log.incumbent and peak < math.inf else None
    why = "the best policy so far with half the smallest rate that diverged"
    return [Wanted(candidate, why, log.task.seed)] if candidate else []


def _variants(outcome: Outcome) -> Iterable[tuple[Candidate, str]]:
    """Variants of a candidate: other largest rates, then each that differs in one other respect."""
    candidate = outcome.candidate
    peak = candidate.highest_rate()
    for rate, words in ((peak * RATE_STEP, "times %.1f"), (peak / RATE_STEP, "divided by %.1f")):
        variant = with_peak(candidate, rate)
        if variant:
            yield variant, "the best policy with its largest rate " + words % RATE_STEP
    for variant, difference in neighbours(candidate):
        yield variant, "the best policy with %s" % difference
