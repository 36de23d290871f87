"""The stage of the goal "cost": shorter and shorter trainings of the best candidates."""

from __future__ import annotations

import itertools
import statistics
from typing import TYPE_CHECKING, NamedTuple

from lrbench_caffe.evaluator.stages import ANOTHER_SEED, SEEDS
from lrbench_caffe.evaluator.tuning_log import RANGE, SHORTER, Wanted
from lrbench_caffe.trial import FINISHED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrbench_caffe.evaluator.candidates import Candidate
    from lrbench_caffe.evaluator.rounds import Rounds
    from lrbench_caffe.evaluator.tuning_log import Outcome, TuningLog
    from lrbench_caffe.trial import Trial

TOP1_TOLERANCE = 0.001  # the target is lower than the best Top-1 by this
SHORTENING = 0.7  # ratio of the next length to try
ANNEALING = 1.5  # ratio of the length that is shortened to the iterations until the target
SHORT_SEEDS = 2  # with which a shorter length is tried: one seed says too little
_ROUNDING = 1e-9  # more than the rounding error of a mean Top-1


class Target(NamedTuple):
    """What the goal "cost" is measured by.

    Attributes:
        reached: For each (candidate, length) that reaches its target, the Top-1 that is accepted, a
            share of 1, and the iteration at which the mean of its seeds reaches it.
    """

    reached: dict[tuple[Candidate, int], tuple[float, int]]

    @property
    def order(self) -> list[tuple[Candidate, int]]:
        """The (candidate, length) that reach it, the earliest first."""
        return sorted(self.reached, key=lambda key: (self.reached[key][1], key[1], key[0].text))


def find_target(log: TuningLog) -> Target:
    """Find the Top-1 that the goal "cost" accepts, and when each candidate reaches it.

    It is that of the leader at full length, less :data:`TOP1_TOLERANCE` or one test sample, as the
    mean of the seeds that both have. The highest Top-1 of all would be too high: it may be that of
    a single lucky seed.
    """
    leader = log.leader(log.task.max_iter)
    if leader is None:
        return Target({})
    samples = leader.trials[0].setup.deciding_samples
    tolerance = max(TOP1_TOLERANCE, 1 / samples if samples else 0)
    reached = {}
    for length in sorted({tried.length for tried in log.tried if tried.stage != RANGE}):
        for outcome in log.outcomes(length):
            top1 = _on_shared_seeds(leader, outcome) - tolerance
            curve = _mean_highest_top1(outcome.trials) if log.is_safe(outcome, length) else []
            iterations = [iteration for iteration, mean in curve if mean >= top1 - _ROUNDING]
            if iterations:
                reached[outcome.candidate, length] = top1, iterations[0]
    return Target(reached)


def _on_shared_seeds(leader: Outcome, other: Outcome) -> float:
    """The mean Top-1 of the leader with the seeds of another one; with all if none is shared."""
    shared = [top1 for seed, top1 in leader.top1_by_seed.items() if seed in other.top1_by_seed]
    return statistics.mean(shared or leader.top1s)


def train_shorter(log: TuningLog, rounds: Rounds) -> TuningLog:
    """Train what reaches the target first at shorter lengths, or with more seeds.

    The best candidates get another seed first, because their mean is the target.
    """
    full = log.task.max_iter
    best = [outcome.candidate for outcome in log.ordered(full)[:SHORT_SEEDS]]
    wanted = [Wanted(c, ANOTHER_SEED, log.next_seed(c, full)) for c in best]
    log = rounds.train(log, SHORTER, wanted, full).with_leader()
    while True:
        count = len(log.tried)
        target = find_target(log)
        for candidate, length in target.order:
            _, iterations = target.reached[candidate, length]
            log = _shorten(log, rounds, candidate, length, iterations)
            if len(log.tried) > count:
                break
        if len(log.tried) == count:
            return log


def _shorten(
    log: TuningLog, rounds: Rounds, candidate: Candidate, length: int, iterations: int
) -> TuningLog:
    """Train a candidate at a shorter length, or else with one more seed at this length.

    Args:
        log: The log.
        rounds: What trains.
        candidate: A candidate that reaches the target.
        length: The length at which it does.
        iterations: After how many of its iterations it does.
    """
    enough = SHORTENING * min(length, ANNEALING * iterations)
    shorter = rounds.length(enough / log.task.max_iter)
    if shorter < length and not log.seeds(candidate, shorter):
        why = "it reaches the target early: now in fewer iterations"
        seeds = range(log.task.seed, log.task.seed + SHORT_SEEDS)
        count = len(log.tried)
        log = rounds.train(log, SHORTER, [Wanted(candidate, why, seed) for seed in seeds], shorter)
        if len(log.tried) > count:
            return log
    if len(log.seeds(candidate, length)) < SEEDS:
        wanted = Wanted(candidate, ANOTHER_SEED, log.next_seed(candidate, length))
        log = rounds.train(log, SHORTER, [wanted], length)
    return log


def _mean_highest_top1(trials: Sequence[Trial]) -> list[tuple[int, float]]:
    """Average the highest Top-1 so far over trials of the same length.

    A trial that finished early keeps its highest Top-1 until the end of the others.

    Returns:
        (iteration, mean) of each evaluation; empty if a trial did not finish.
    """
    if any(trial.state != FINISHED or not trial.top1_curve for trial in trials):
        return []
    curves = [list(itertools.accumulate((top1 for _, top1 in t.top1_curve), max)) for t in trials]
    longest = max((trial.top1_curve for trial in trials), key=len)
    return [
        (iteration, sum(curve[min(n, len(curve) - 1)] for curve in curves) / len(curves))
        for n, (iteration, _) in enumerate(longest)
    ]
