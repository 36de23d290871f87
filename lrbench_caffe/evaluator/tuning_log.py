"""The log of a search: what was trained and why, and what follows from it. Nothing here trains."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from lrbench_caffe import ranking
from lrbench_caffe.evaluator.paired import compare
from lrbench_caffe.ranking import ranges
from lrbench_caffe.trial import DIVERGED, FINISHED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lrbench_caffe.evaluator.candidates import Candidate
    from lrbench_caffe.evaluator.paired import Comparison
    from lrbench_caffe.trial import Trial

# The stages of a search, as the database, `study show` and the display name them.
RANGE, RECIPE, KNOWN, SHAPES = "range", "recipe", "known", "shapes"
MORE_SEEDS, SHORTER = "seeds", "shorter"
# What policies are ranked by, for each goal.
GOALS = {"accuracy": "top1", "cost": "top1", "robustness": "top1=4,ld=1,ac=1,cd=1,cdac=1"}
# Two candidates are level if one leads by at most these numbers of standard errors. The first is
# for Top-1, the second for the test loss.
NOISE = 1.0, 2.0
PRIOR_SEEDS = 0.5  # seeds for which the median of all candidates counts in a candidate's mean
# A candidate stays below the largest rates that diverged by this factor. Those next to them diverge
# with a few seeds in a hundred, which three or four seeds do not show. It is a little more than the
# sqrt 2 between a candidate and its variants, so that the rounding of rates has no influence.
MARGIN = 1.45
# A largest rate is clearly smaller than another one by more than this factor. It is a little less
# than sqrt 2, for the same reason.
SMALLER = 1.4


class Task(NamedTuple):
    """What a search is for.

    Attributes:
        max_iter: Iterations of a training at full length.
        functions: The LR functions to choose from, in the order in which they are tried.
        goal: A key of :data:`GOALS`.
        seed: The first seed.
    """

    max_iter: int
    functions: tuple[str, ...]
    goal: str
    seed: int


class Wanted(NamedTuple):
    """A training that a stage asks for.

    Attributes:
        candidate: What to train.
        why: The reason for the candidate.
        seed: The seed of the training.
    """

    candidate: Candidate
    why: str
    seed: int


class Tried(NamedTuple):
    """A training of the search.

    Attributes:
        stage: The stage that asked for it, e.g. :data:`RECIPE`.
        why: The reason for its candidate, or "another seed".
        trial: The trial.
        candidate: The candidate.
        length: The max_iter of the training.
        seed: Its seed.
        cost: Its iterations.
    """

    stage: str
    why: str
    trial: Trial
    candidate: Candidate
    length: int
    seed: int
    cost: int


class Outcome(NamedTuple):
    """What the trainings of a candidate at one length came to.

    Attributes:
        candidate: The candidate.
        trials: Its trials, in the order of the trainings.
    """

    candidate: Candidate
    trials: tuple[Trial, ...]

    @property
    def finished(self) -> tuple[Trial, ...]:
        """The trials that finished and have a Top-1."""
        return tuple(trial for trial in self.trials if trial.state == FINISHED and trial.best)

    @property
    def failed_to_converge(self) -> bool:
        """Whether one of the trainings diverged or collapsed."""
        return any(failed_to_converge(trial) for trial in self.trials)

    @property
    def top1s(self) -> list[float]:
        """The highest Top-1 of each finished trial."""
        return list(self.top1_by_seed.values())

    @property
    def top1_by_seed(self) -> dict[int, float]:
        """The highest Top-1 of each finished trial, by the seed of the trial."""
        best = ((trial.setup.seed, trial.best) for trial in self.finished)
        return {seed: row.top1 for seed, row in best if row and row.top1 is not None}

    @property
    def loss_by_seed(self) -> dict[int, float]:
        """The last test loss of each finished trial that has one, by the seed of the trial."""
        last = ((trial.setup.seed, trial.rows[-1].test_loss) for trial in self.finished)
        return {seed: loss for seed, loss in last if loss is not None}


@dataclass(frozen=True)
class TuningLog:
    """A search so far.

    Attributes:
        task: What the search is for.
        tried: All trainings in their order.
        incumbents: (iterations spent, candidate) of each candidate that was the best so far.
        notes: A sentence for each decision.
        known_diverged: Constant rates with which a training diverged before the search.
    """

    task: Task
    tried: tuple[Tried, ...] = ()
    incumbents: tuple[tuple[int, Candidate], ...] = ()
    notes: tuple[str, ...] = ()
    known_diverged: tuple[float, ...] = ()

    # What is added

    def with_note(self, sentence: str) -> TuningLog:
        """Return the log with another decision."""
        return dataclasses.replace(self, notes=(*self.notes, sentence))

    def with_tried(self, trainings: Iterable[Tried]) -> TuningLog:
        """Return the log with further trainings."""
        return dataclasses.replace(self, tried=(*self.tried, *trainings))

    def with_incumbent(self, candidate: Candidate) -> TuningLog:
        """Return the log with this candidate as the best so far, and a note if that is new."""
        if candidate == self.incumbent:
            return self
        changed = dataclasses.replace(self, incumbents=(*self.incumbents, (self.spent, candidate)))
        policy = candidate.policy(self.task.max_iter)
        when = "after %d iterations" % self.spent if self.tried else "in the database"
        return changed.with_note("best policy %s: %s" % (when, policy))

    def with_leader(self, keep_known: bool = False) -> TuningLog:
        """Return the log with the leader of full length as the incumbent.

        Args:
            keep_known: Whether an incumbent stays that the database has and the search did not
                train.
        """
        full, incumbent = self.task.max_iter, self.incumbent
        if keep_known and incumbent is not None and not self.seeds(incumbent, full):
            return self
        leader = self.leader(full)
        return self.with_incumbent(leader.candidate) if leader else self

    # What it says

    @property
    def spent(self) -> int:
        """Iterations of all trainings."""
        return sum(tried.cost for tried in self.tried)

    @property
    def incumbent(self) -> Candidate | None:
        """The best candidate so far, None before the first one."""
        return self.incumbents[-1][1] if self.incumbents else None

    def seeds(self, candidate: Candidate, length: int) -> list[int]:
        """List the seeds with which a candidate was trained at a length."""
        return [t.seed for t in self.tried if (t.candidate, t.length) == (candidate, length)]

    def next_seed(self, candidate: Candidate, length: int) -> int:
        """Return the seed of the candidate's next training; all candidates have the same ones."""
        return max(self.seeds(candidate, length), default=self.task.seed - 1) + 1

    def outcomes(self, length: int) -> list[Outcome]:
        """List what the candidates of the task's functions came to at a length, as they came."""
        trials: dict[Candidate, list[Trial]] = {}
        for tried in self.tried:
            if tried.length == length and tried.candidate.function in self.task.functions:
                trials.setdefault(tried.candidate, []).append(tried.trial)
        return [Outcome(candidate, tuple(found)) for candidate, found in trials.items()]

    @property
    def best_constant(self) -> float:
        """The constant rate of the training with the highest Top-1, 0 without one."""
        best, top1 = 0.0, -math.inf
        for tried in self.tried:
            row = tried.trial.best
            is_constant = tried.trial.function == "FIX" and tried.trial.state == FINISHED
            if not is_constant or failed_to_converge(tried.trial):
                continue
            if row and row.top1 is not None and row.top1 > top1:
                best, top1 = tried.candidate.highest_rate(), row.top1
        return best

    @property
    def lowest_diverged_constant(self) -> float:
        """The smallest constant rate above the best one with which a training failed to converge.

        A rate far below the best one may be stopped, too: its loss hardly changes.
        """
        best = self.best_constant
        diverged = [*self.known_diverged, *map(_highest_rate, self._diverged("FIX"))]
        return min((rate for rate in diverged if rate > best), default=math.inf)

    @property
    def lowest_diverged_peak(self) -> float:
        """The smallest largest rate of a full training that failed to converge, or infinity.

        Constant rates below the best one do not count; their loss hardly changes.
        """
        best = self.best_constant
        return min(
            (
                _highest_rate(tried)
                for tried in self._diverged()
                if tried.length == self.task.max_iter
                and (tried.trial.function != "FIX" or _highest_rate(tried) >= best)
            ),
            default=math.inf,
        )

    def _diverged(self, function: str | None = None) -> list[Tried]:
        """The trainings that diverged or collapsed, of all functions or of one."""
        return [
            tried
            for tried in self.tried
            if failed_to_converge(tried.trial) and function in (None, tried.trial.function)
        ]

    def may_begin(self, candidate: Candidate, length: int) -> bool:
        """Whether a candidate begins below the constant rates that diverged."""
        return candidate.policy(length).first < self.lowest_diverged_constant

    def may_train(self, candidate: Candidate, length: int) -> bool:
        """Whether nothing shows that a candidate diverges, with one seed or another.

        It would if it begins with a constant rate that diverged, or if its largest rate is not
        below the ones that diverged at full length by :data:`MARGIN`.
        """
        is_below = candidate.highest_rate() * MARGIN < self.lowest_diverged_peak
        return is_below and self.may_begin(candidate, length)

    def is_safe(self, outcome: Outcome, length: int) -> bool:
        """Whether a candidate may be trained and did not diverge."""
        return not outcome.failed_to_converge and self.may_train(outcome.candidate, length)

    def ordered(self, length: int) -> list[Outcome]:
        """List the safe candidates with finished trainings of a length, the best first.

        For the goal "robustness", they are in the order of the ranking. Else the order is that of
        Top-1, and on a tie that of the last test loss. Both are compared on the same seeds
        (:mod:`~lrbench_caffe.evaluator.paired`). The median of all candidates counts as PRIOR_SEEDS
        of a seed, so a single lucky training does not lead.
        """
        outcomes = [
            outcome
            for outcome in self.outcomes(length)
            if outcome.finished and self.is_safe(outcome, length)
        ]
        if self.task.goal == "robustness":
            return _by_criterion(outcomes, GOALS[self.task.goal])
        places = zip(*(comparison.places(PRIOR_SEEDS) for comparison in _compare(outcomes)))
        return [outcome for _, outcome in sorted(zip(places, outcomes), key=lambda pair: pair[0])]

    def contenders(self, length: int) -> list[Outcome]:
        """List the candidates that may be the result, in the order in which they get seeds.

        They are the first two. Between them comes the best candidate with a clearly smaller largest
        rate, if no training shows that there is a margin above the rate of the first one: only with
        seeds can it be the result (:meth:`leader`). It is not listed for the goal "robustness".
        """
        ordered = self.ordered(length)
        best = ordered[:2]
        if not best or self.task.goal == "robustness" or self._has_margin(best[0], length):
            return best
        safer = [outcome for outcome in ordered if _has_smaller_rate(outcome, best[0])][:1]
        return [best[0], *safer, *(outcome for outcome in best[1:] if outcome not in safer)]

    def leader(self, length: int) -> Outcome | None:
        """Find the candidate that would be the result if the search ended now.

        It is the first in the order of those that have at least half as many seeds as any other. If
        no training shows that there is a margin above its largest rate, a candidate with a smaller
        one goes before it if both have several seeds and are level: its Top-1 is lower, and its
        test loss higher, by no more than the NOISE of the difference. With a rate that is nearly
        too large, a net fails with some seeds in a hundred, and a few seeds do not show that.
        """
        ordered = self.ordered(length)
        most = max((len(outcome.finished) for outcome in ordered), default=0)
        counted = [n for n, outcome in enumerate(ordered) if 2 * len(outcome.finished) >= most]
        if not counted:
            return None
        first, *others = counted
        leader = ordered[first]
        if self._has_margin(leader, length):
            return leader
        comparisons = _compare(ordered)
        for n in others:
            other = ordered[n]
            has_seeds = len(other.finished) >= min(2, len(leader.finished))
            are_level = all(c.are_level(first, n, errors) for c, errors in zip(comparisons, NOISE))
            if _has_smaller_rate(other, leader) and has_seeds and are_level:
                return other
        return leader

    def _has_margin(self, outcome: Outcome, length: int) -> bool:
        """Whether a net learnt with a clearly larger rate, and none failed to converge up to it."""
        larger, limit = outcome.candidate.highest_rate() * SMALLER, self.lowest_diverged_peak
        chance = ranges.guessing(outcome.trials[0].setup.classes)
        learnt = ranges.half_way(chance, max(outcome.top1s))
        return any(
            larger <= other.candidate.highest_rate() < limit
            and max(other.top1s, default=0.0) > learnt
            for other in self.outcomes(length)
        )

    def least_risky(self, length: int) -> Outcome | None:
        """Find the candidate with the smallest largest rate of those that never diverged.

        It is the result if no candidate is safe. It may have collapsed.
        """
        finished = (
            outcome
            for outcome in self.outcomes(length)
            if outcome.finished and all(trial.state != DIVERGED for trial in outcome.trials)
        )
        return min(finished, key=lambda outcome: outcome.candidate.highest_rate(), default=None)


def failed_to_converge(trial: Trial) -> bool:
    """Whether a training diverged or collapsed.

    The loss of a net that has collapsed is finite, because Caffe's softmax bounds it.
    """
    if trial.state != FINISHED:
        return trial.state == DIVERGED
    top1s = [top1 for _, top1 in trial.top1_curve]
    return ranges.has_collapsed(top1s, trial.setup.deciding_samples, trial.setup.classes)


def _highest_rate(tried: Tried) -> float:
    return tried.candidate.highest_rate()


def _compare(outcomes: Sequence[Outcome]) -> list[Comparison]:
    """Compare Top-1, and the test losses if all trials have them; high values are the best.

    A loss beyond twice that of guessing counts as no more than this: a single training must not
    decide about the others.
    """
    top1s = [outcome.top1_by_seed for outcome in outcomes]
    losses = [outcome.loss_by_seed for outcome in outcomes]
    comparisons = [compare(top1s)]
    if outcomes and all(len(loss) == len(top1) for loss, top1 in zip(losses, top1s)):
        highest = 2 * math.log(outcomes[0].trials[0].setup.classes or math.inf)
        negative = [{s: -min(loss, highest) for s, loss in own.items()} for own in losses]
        comparisons.append(compare(negative))
    return comparisons


def _has_smaller_rate(outcome: Outcome, other: Outcome) -> bool:
    """Whether the largest rate of a candidate is clearly smaller than that of another one."""
    return outcome.candidate.highest_rate() * SMALLER < other.candidate.highest_rate()


def _by_criterion(outcomes: Sequence[Outcome], criterion: str) -> list[Outcome]:
    """Put outcomes in the order of the ranking by a criterion."""
    trials = [trial for outcome in outcomes for trial in outcome.finished]
    ranked = ranking.rank(trials, ranking.parse_criterion(criterion))
    positions = {entry.policy: n for n, entry in enumerate(ranked)}
    return sorted(outcomes, key=lambda outcome: positions[outcome.trials[0].policy])
