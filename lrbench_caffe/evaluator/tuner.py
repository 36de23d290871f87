"""The tuner: finds a good policy for a solver within a budget of iterations (sections IV and V).

It begins with what is known to work, and then improves on it. The stages of
:mod:`lrbench_caffe.evaluator.stages` follow a range test. What they decide by is in the log
(:mod:`lrbench_caffe.evaluator.tuning_log`); the candidates are policies of any length
(:mod:`lrbench_caffe.evaluator.candidates`). Each training has a reason that the user can read.

The same database, seed and budget give the same trainings. A search that is interrupted continues:
it decides by what the database had when it began.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from lrbench_caffe import ranking
from lrbench_caffe.database import Store, selection, studies
from lrbench_caffe.database.names import LOCAL
from lrbench_caffe.errors import InputError, TrialError, suggestion
from lrbench_caffe.evaluator import prior, range_test, shorter, stages
from lrbench_caffe.evaluator.candidates import TUNED, from_policy, from_text, with_peak
from lrbench_caffe.evaluator.rounds import Rounds
from lrbench_caffe.evaluator.tuning_log import GOALS, RANGE, Task, Tried, TuningLog, Wanted
from lrbench_caffe.policies import Policy
from lrbench_caffe.study import failures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from lrbench_caffe.evaluator.candidates import Candidate
    from lrbench_caffe.evaluator.trainer import Trainer
    from lrbench_caffe.models import Model
    from lrbench_caffe.ranking import ranges
    from lrbench_caffe.trial import Trial

__all__ = ["GOALS", "Tried", "Tuned", "summary", "tune"]

DEFAULT_BUDGET = 20  # trainings at full length
RANGE_SHARES = (1 / 8, 1 / 4, 1 / 2)  # of the full length: of a range test, until the net learns
KNOWN = 3  # policies of the database that are tried
# Ranges that differ by less are the same: the rates of a range test differ by up to 2.5.
RATE_RESOLUTION = 2.6
METHOD = 6  # of the search: the studies of others cannot be continued
_PRIOR_RESULTS = "prior results"  # an argument of the search; early studies do not have it


class Tuned(NamedTuple):
    """The result of a search.

    Attributes:
        study: Name of the study with the trials.
        goal: The goal, a key of :data:`GOALS`.
        policy: Text of the best policy.
        length: The max_iter that the policy is made for.
        ranked: The policies that were trained at this length, the best first. A policy that has
            less than half as many seeds as another one comes behind the best policy.
        target: For the goal "cost", the Top-1 that is accepted, and the iteration at which the best
            policy reaches it, as the mean of its seeds. Else None.
        notes: A sentence for each decision.
        tried: All trainings in their order.
        incumbents: (iterations spent, policy at full length) for each policy that was the best so
            far. Shorter trainings of the goal "cost" are not among them.
        cost: Iterations spent.
        budget: Iterations that could be spent.
        model: The model of the best trial of the best policy, None if it was not kept.
    """

    study: str
    goal: str
    policy: str
    length: int
    ranked: tuple[ranking.Ranked, ...]
    target: tuple[float, float] | None
    notes: tuple[str, ...]
    tried: tuple[Tried, ...]
    incumbents: tuple[tuple[int, str], ...]
    cost: int
    budget: float
    model: Model | None = None


def tune(
    trainer: Trainer,
    functions: Iterable[str] = (),
    goal: str = "accuracy",
    on_note: Callable[[str], object] = lambda sentence: None,
    seed: int = 1,
    on_round: Callable[[TuningLog, str, Sequence[Wanted]], object] = lambda *_: None,
    origin: str | None = None,
) -> Tuned:
    """Find a good policy for a solver.

    Args:
        trainer: Trains the solver. The search does not exceed its budget; without a budget, the
            search sets one of :data:`DEFAULT_BUDGET` trainings at full length.
        functions: The LR functions to choose from (none: all of
            :data:`lrbench_caffe.evaluator.candidates.TUNED`).
        goal: "accuracy", the highest Top-1; "cost", the fewest iterations to a Top-1 within 0.1
            points of the highest; "robustness", in which Top-1 counts half, and LD, AC, CD and CDAC
            share the other half.
        on_note: Called with a sentence on each decision.
        seed: The first seed. Further seeds are those after it.
        on_round: Called before each round of trainings with the log, the stage and the trainings.
        origin: Whose results the search starts from, as
            :meth:`lrbench_caffe.database.Store.trials` selects them; None for all results.

    Returns:
        The best policy and how it was found.

    Raises:
        InputError: The budget is too small, a function, the goal or the origin is unknown, the
            study was started with other arguments, the net does not learn, or as
            :meth:`lrbench_caffe.evaluator.trainer.Trainer.train`.
        TrialError: No policy finished its trainings, or as
            :meth:`lrbench_caffe.evaluator.trainer.Trainer.train`.
    """
    functions = tuple(functions or TUNED)
    if trainer.budget == math.inf:
        trainer.budget = DEFAULT_BUDGET * trainer.max_iter
    _check_arguments(trainer, functions, goal, origin)
    chosen = tuple(sorted(set(functions), key=TUNED.index))
    task = Task(trainer.max_iter, chosen, goal, seed)
    with trainer.claim():
        found = _load_prior(trainer, task, origin)
        rounds = Rounds(trainer, on_note, on_round)
        log = TuningLog(task, known_diverged=_known_diverged(found))
        log = _search(log.with_note(found.sentence), found, trainer, rounds)
        return _result(rounds.show(log), trainer)


def _check_arguments(
    trainer: Trainer, functions: Iterable[str], goal: str, origin: str | None
) -> None:
    if goal not in GOALS:
        raise InputError("unknown goal %r%s" % (goal, suggestion(goal, GOALS)))
    for function in functions:
        if function not in TUNED:
            raise InputError("unknown function %r%s" % (function, suggestion(function, TUNED)))
    if trainer.room(trainer.max_iter) < 2:
        raise InputError(
            "invalid budget of %d iterations: expected at least %d, two trainings of %d iterations"
            % (trainer.budget, 2 * trainer.max_iter, trainer.max_iter)
        )
    if origin:
        with Store(trainer.dsn) as store:
            selection.check(store, {"origin": origin})


def _search(log: TuningLog, found: prior.Prior, trainer: Trainer, rounds: Rounds) -> TuningLog:
    """Run all stages."""
    known = _known(found, log.task)
    good = found.good
    if known:
        log = log.with_incumbent(known[0].candidate)
    if good is None or not found.same_task:
        log, good = _test_range(log, trainer, rounds, found.good)
    if found.good:
        known = [_moved(entry, found.good, good) for entry in known]
    log = stages.train_recipe(log, rounds, good.best)
    log = stages.train_known(log, rounds, known)
    log = stages.train_shapes(log, rounds)
    if log.task.goal == "cost":
        return shorter.train_shorter(log, rounds)
    return stages.train_seeds(log, rounds)


# What the database has


def _load_prior(trainer: Trainer, task: Task, origin: str | None) -> prior.Prior:
    """Load what the database had when the study began.

    A study that continues has to decide as it did before it was interrupted. Therefore the database
    keeps the prior, and the arguments of the search, with the study.
    """
    arguments = {
        "budget": trainer.budget,
        "goal": task.goal,
        "functions": list(task.functions),
        "seed": task.seed,
        "method": METHOD,
        _PRIOR_RESULTS: _results_text(origin),
        **trainer.stopping_texts,
    }
    with Store(trainer.dsn) as store:
        current = prior.load(store, trainer.setup, KNOWN, origin)
        content = {**current.to_json(), "asked": arguments}
        content = studies.initial_information(store, trainer.name, content)
    asked = {_PRIOR_RESULTS: _results_text(None), **content.get("asked", {})}
    if asked.get("method") != METHOD:
        raise InputError(
            "the study %s was started by another version, which searches in another way: start"
            " another study with --study NAME, which begins with the results of this one"
            % trainer.name
        )
    for name, value in asked.items():
        if value != arguments[name]:
            raise InputError(
                "the study %s was started with the %s %s, not %s: start another study with"
                " --study NAME, which begins with the results of this one"
                % (trainer.name, name, _value_text(value), _value_text(arguments[name]))
            )
    return prior.Prior.from_json(content)


def _results_text(origin: str | None) -> str:
    """The results that a search starts from, as an argument of the search."""
    if origin is None:
        return "of all databases"
    return "of this database" if origin == LOCAL else "of the origin %s" % origin


def _value_text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def _known_diverged(found: prior.Prior) -> tuple[float, ...]:
    """The constant rates of this task above the best one with which a training diverged."""
    lowest = found.good.best if found.good else 0.0
    return tuple(rate for rate in found.diverged_rates if found.same_task and rate > lowest)


def _known(found: prior.Prior, task: Task) -> list[stages.Known]:
    """The policies that the database has, as they are or stretched to this solver's length."""
    known = []
    top1s = found.top1s if found.same_task else ()
    for (policy, length), top1 in itertools.zip_longest(found.policies, top1s):
        candidate = from_text(policy, length)
        if candidate is None or candidate.function not in task.functions:
            continue
        why = "among the best known: %s in %d iterations" % (policy, length)
        if length != task.max_iter:
            why += ", here for %d iterations" % task.max_iter
            candidate = from_policy(candidate.policy(task.max_iter), task.max_iter)
        if candidate:
            measured = top1 if length >= task.max_iter else None
            known.append(stages.Known(candidate, why, measured))
    return known


def _moved(known: stages.Known, source: ranges.Range, target: ranges.Range) -> stages.Known:
    """Move a policy of a similar task to the best constant rate of this task."""
    ratio = target.best / source.best
    if 1 / RATE_RESOLUTION < ratio < RATE_RESOLUTION:
        return known
    moved = with_peak(known.candidate, known.candidate.highest_rate() * ratio)
    if moved is None:
        return known
    return stages.Known(moved, known.why + "; rates moved to this task's good range")


# The range test


def _test_range(
    log: TuningLog, trainer: Trainer, rounds: Rounds, similar: ranges.Range | None
) -> tuple[TuningLog, ranges.Range]:
    """Find the good constant rates, near those of a similar task if there is one."""
    trials: list[Trial] = []
    for length in dict.fromkeys(trainer.length(share) for share in RANGE_SHARES):
        rounds.announce(log, RANGE)
        # Room for a training at full length has to stay.
        trainer.reserved = trainer.max_iter
        test = range_test.run(trainer, length, log.task.seed, similar)
        trainer.reserved = 0
        trials += test.trials
        wanted = [Wanted(_constant(t), "a constant rate", t.setup.seed) for t in test.trials]
        log = rounds.add_range_test(log, wanted, test.trials)
        if test.good:
            note = "range test: good rates from %r to %r, best %r, in %d iterations"
            good = test.good
            log = log.with_note(note % (good.low, good.high, good.best, test.cost))
            return _with_open_ends(log, test), good
        if failures.failed_trials(test.trials):
            break  # longer trainings would fail, too
    raise _does_not_learn(trials, log)


def _with_open_ends(log: TuningLog, test: range_test.RangeTest) -> TuningLog:
    """The log with a note if a better constant rate may be beyond those that were measured."""
    assert test.good is not None, "it has a good range"
    ends = {"low": test.good.low, "high": test.good.high}
    for end in test.open_ends:
        if test.good.best == ends[end]:
            log = log.with_note("the best constant rate is the %sest that was measured" % end)
    return log


def _constant(trial: Trial) -> Candidate:
    candidate = from_policy(Policy.parse(trial.policy), trial.length)
    assert candidate is not None, "FIX is a candidate of any length"
    return candidate


def _does_not_learn(trials: Sequence[Trial], log: TuningLog) -> InputError | TrialError:
    if failures.failed_trials(trials):
        return TrialError(
            "the net learns with none of the constant rates whose trainings did not fail (%s):"
            " correct the cause and run the same command again" % "; ".join(failures.lines(trials))
        )
    rates = sorted({cast("float", trial.parameters["k0"]) for trial in trials})
    return InputError(
        "the net does not learn with any of the constant rates %s in %d iterations, the share of"
        " the budget for the range test: give a larger --budget or a smaller test_interval, or"
        " check the net's data and initialization" % (", ".join(map(repr, rates)), log.spent)
    )


# The result


def _result(log: TuningLog, trainer: Trainer) -> Tuned:
    candidate, length, target = _best(log)
    ranked = _ranked(log, length)
    if candidate is None:
        trials = [tried.trial for tried in log.tried]
        failed = "".join("; %s" % line for line in failures.lines(trials))
        raise TrialError(
            "no policy finished all its trainings of %d iterations%s: `lrbench study show %s`"
            " lists them" % (length, failed, trainer.name)
        )
    policy = str(candidate.policy(length))
    ranked.sort(key=lambda entry: entry.policy != policy)
    full = log.task.max_iter
    return Tuned(
        study=trainer.name,
        goal=log.task.goal,
        policy=policy,
        length=length,
        ranked=tuple(ranked),
        target=target,
        notes=log.notes,
        tried=log.tried,
        incumbents=tuple((spent, str(best.policy(full))) for spent, best in log.incumbents),
        cost=trainer.spent,
        budget=trainer.budget,
        model=trainer.keep_only(policy, length),
    )


def _best(log: TuningLog) -> tuple[Candidate | None, int, tuple[float, float] | None]:
    """The best candidate, its length, and the target of the goal "cost"."""
    full = log.task.max_iter
    if log.task.goal == "cost":
        target = shorter.find_target(log)
        if target.order:
            candidate, length = target.order[0]
            return candidate, length, target.reached[candidate, length]
    leader = log.leader(full) or log.least_risky(full)
    return leader.candidate if leader else None, full, None


def _ranked(log: TuningLog, length: int) -> list[ranking.Ranked]:
    """Rank the policies of a length; those that are not safe come last, without a rank."""
    criterion = ranking.parse_criterion(GOALS[log.task.goal])
    safe: list[Trial] = []
    unsafe: list[Trial] = []
    for outcome in log.outcomes(length):
        (safe if log.is_safe(outcome, length) else unsafe).extend(outcome.trials)
    return ranking.rank(safe, criterion) + [
        dataclasses.replace(entry, rank=None, tied=False)
        for entry in ranking.rank(unsafe, criterion)
    ]


def summary(tuned: Tuned) -> list[str]:
    """Summarize a search: the lines for the solver prototxt, and what they cost."""
    lines = ['lr_policy: "%s"' % tuned.policy, "max_iter: %d" % tuned.length]
    if tuned.target:
        top1, iteration = tuned.target
        lines.append(
            "it reaches Top-1 %.2f %%, level with the best, after %d iterations"
            % (100 * top1, iteration)
        )
    lines += _higher_ranked(tuned)
    trials = [trial for entry in tuned.ranked for trial in entry.trials]
    lines += ranking.sets_remarks(trials)
    lines += failures.lines(tried.trial for tried in tuned.tried)
    lines.append(
        "the search took %d of %d iterations in %d trainings, recorded as study %s"
        % (tuned.cost, tuned.budget, len(tuned.tried), tuned.study)
    )
    return lines


def _higher_ranked(tuned: Tuned) -> list[str]:
    """Why policies with a higher rank or a higher Top-1 than the result are not the result."""
    best = tuned.ranked[0]
    if tuned.target or not best.rank:
        return []
    reasons: dict[str, list[str]] = {}
    for entry in tuned.ranked[1:]:
        why = _why_not_first(entry, best, tuned.goal)
        if why:
            reasons.setdefault(why, []).append(entry.policy)
    return ["%s: %s" % (why, "; ".join(found)) for why, found in reasons.items()]


def _why_not_first(entry: ranking.Ranked, best: ranking.Ranked, goal: str) -> str | None:
    """Why a policy is not the result, None if neither its rank nor its Top-1 is higher."""
    has_higher_top1 = _top1(entry) > _top1(best)
    if not entry.rank:
        is_unsafe = has_higher_top1 and bool(entry.trials)
        why = "with a higher Top-1, but a net diverged or collapsed at such a largest rate"
        return why if is_unsafe else None
    if best.rank and entry.rank < best.rank:
        return "ranked higher" + _why_not(entry, best, goal)
    if (entry.rank, goal) == (best.rank, "accuracy") and has_higher_top1:
        return "with a higher Top-1, by a lead within the noise of the seeds"
    return None


def _top1(entry: ranking.Ranked) -> float:
    return entry.deciding["top1"].mean or 0.0


def _why_not(entry: ranking.Ranked, best: ranking.Ranked, goal: str) -> str:
    if 2 * len(entry.trials) < len(best.trials):
        return " with too few seeds to count"
    if goal != "robustness" and _top1_lead(entry, best) <= 0:
        return ", but not on the seeds that both have"
    return ", by a lead that may be noise"


def _top1_lead(entry: ranking.Ranked, best: ranking.Ranked) -> float:
    """The mean difference of the Top-1 of two policies on the seeds that both have, or NaN."""
    ours, theirs = (
        {trial.setup.seed: trial.best.top1 for trial in policy.trials if trial.best}
        for policy in (entry, best)
    )
    pairs = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
    leads = [a - b for a, b in pairs if a is not None and b is not None]
    return round(statistics.mean(leads), 9) if leads else math.nan
