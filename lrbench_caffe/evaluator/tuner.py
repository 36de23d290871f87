"""The tuner: finds a good policy for a solver within a budget of iterations (sections IV and V).

The search starts from what the database has for the task or for a similar task. It then runs these
stages, named as they are printed:

- range: a range test finds the good constant rates. It is skipped if the database has a good range
  of this task. Trainings with more seeds, which follow the stage height, check that the best rate
  is safe: that no training diverges.
- height: a few seeds decide whether the first policy should have twice its largest rate. It is
  skipped if the database has policies and a good range of this task.
- coarse: short trainings of one candidate of each function, unless the database has enough good
  policies.
- fine: short trainings of the neighbours of the best candidates.
- full: trainings at full length of the best candidates, then of more seeds and of neighbours.
- shorter: for the goal "cost" only, shorter and shorter trainings of the best candidates.

The paper's rules narrow the space to a few dozen trainings, each with a reason that the user can
read. A general sampler would not help: Optuna's TPE, for example, begins with ten random trials,
about as many as the whole search has left.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from lrbench_caffe import ranking
from lrbench_caffe.database import Store, studies
from lrbench_caffe.errors import InputError, TrialError, suggestion
from lrbench_caffe.evaluator import loss_curve, prior, range_test
from lrbench_caffe.evaluator.old_candidates import (
    PLATEAU_FUNCTIONS,
    TUNED,
    Candidate,
    first,
    from_plateau,
    from_text,
    highest_rate,
    neighbours,
    transfer,
    without_noise,
)
from lrbench_caffe.ranking import ranges
from lrbench_caffe.study import failures
from lrbench_caffe.study.pruning import StuckDetector
from lrbench_caffe.trial import DIVERGED, FINISHED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from lrbench_caffe.evaluator.trainer import Trainer
    from lrbench_caffe.models import Model
    from lrbench_caffe.trial import Trial

# What policies are ranked by, for each goal.
GOALS = {"accuracy": "top1", "cost": "top1", "robustness": "top1=4,ld=1,ac=1,cd=1,cdac=1"}
DEFAULT_BUDGET = 20  # trainings at full length
SHORT_BUDGET_SHARE = 0.6  # of the budget: for trainings shorter than full length
SHORT_STAGES = 4  # that share it: range, height, coarse and fine
MAX_SHORT_LENGTH = 2 / 3  # of the full length
RANGE_TRAININGS = 8  # of a range test, about
MAX_DOUBLINGS = 2  # of the largest rate in the stage height
LEADERS = 3  # candidates that are refined, and then trained at full length
FINE_TRAININGS = 12  # at most
FINE_FACTOR = 2.0  # by which neighbours change a rate in the stages height and fine
FULL_FACTOR, MIN_FULL_FACTOR = 1.5, 1.1  # the same in the stage full: first, and where it ends
SEEDS = 3  # for the best policies and the best constant rate; no training may diverge with them
TOP1_TOLERANCE = 0.001  # the goal cost accepts a Top-1 that is lower than the highest by this
SHORTENING = 0.7  # ratio of the next length to try for the goal cost
WARMUP_SHARE = 0.05  # of the full length: a warm-up, if no trial shows how long it has to be


class Tried(NamedTuple):
    """A training of the search.

    Attributes:
        stage: The stage that asked for it, e.g. "fine".
        why: The reason for its candidate, or "another seed".
        trial: The trial.
    """

    stage: str
    why: str
    trial: Trial


class Tuned(NamedTuple):
    """The result of a search.

    Attributes:
        study: Name of the study with the trials.
        goal: The goal, a key of :data:`GOALS`.
        policy: Text of the best policy.
        length: The max_iter that the policy is made for.
        ranked: The policies that were trained at this length, the best first. Of tied policies, the
            one with the most seeds is first. A policy with one seed comes behind the best policy
            with several seeds if its lead may be noise.
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
    on_note: Callable[[str], None] = lambda sentence: None,
    seed: int = 1,
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

    Returns:
        The best policy and how it was found.

    Raises:
        InputError: The budget is too small, a function or the goal is unknown, the study was
            started with other arguments, the net does not learn, or as
            :meth:`lrbench_caffe.evaluator.trainer.Trainer.train`.
        TrialError: No policy finished its trainings, or as
            :meth:`lrbench_caffe.evaluator.trainer.Trainer.train`.
    """
    functions = tuple(functions or TUNED)
    if trainer.budget == math.inf:
        trainer.budget = DEFAULT_BUDGET * trainer.max_iter
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
    chosen = sorted(set(functions), key=TUNED.index)
    with trainer.claim():
        return _Search(trainer, chosen, goal, on_note, seed).run()


class _Search:
    """One search: its stages, and the trials and decisions that they share.

    The terms: a *candidate* is a policy of any length. A *round* trains candidates at one *length*,
    the max_iter of its trainings. A candidate is *safe* if no training diverged with it or with one
    of its rates as a constant rate. The *leaders* of a length are the safe candidates with finished
    trials of that length, the best first. The *incumbent* is the candidate that would be the result
    if the search ended now. The argument `good` is always the good range of constant rates.
    """

    def __init__(
        self,
        trainer: Trainer,
        functions: list[str],
        goal: str,
        on_note: Callable[[str], None],
        seed: int,
    ) -> None:
        self._trainer, self._functions, self._goal = trainer, functions, goal
        self._on_note, self._first_seed = on_note, seed
        self._criterion = ranking.parse_criterion(GOALS[goal])
        full = trainer.max_iter
        # Room for trainings at full length, which short trainings may not take.
        trainer.reserved = min(LEADERS, max(1, trainer.room(full) // 2)) * full
        # Iterations that all short trainings may take together.
        self._short_budget = min(
            SHORT_BUDGET_SHARE * trainer.budget, trainer.budget - trainer.reserved
        )
        # What the database had when the study began.
        self._prior = prior.Prior()
        # The policies with rounding errors that a study of an older version has, by their texts
        # without these errors.
        self._recorded_texts: dict[str, str] = {}
        # The candidate that is the best so far, from the start of run() on.
        self._incumbent: Candidate
        # (iterations spent, policy at full length) of each incumbent.
        self._incumbents: list[tuple[int, str]] = []
        # A sentence for each decision.
        self._notes: list[str] = []
        # All trainings in their order.
        self._tried: list[Tried] = []
        # Why a candidate is tried.
        self._reasons: dict[Candidate, str] = {}
        # Trials by their seed, for each (policy's text, length).
        self._trials: dict[tuple[str, int], dict[int, Trial]] = {}
        # The candidate of each (policy's text, length) that was trained.
        self._candidates: dict[tuple[str, int], Candidate] = {}

    def run(self) -> Tuned:
        """Run all stages."""
        good, leaders = self._start()
        self._set_incumbent((leaders or [self._first_candidate(self._functions[0], good)])[0])
        count, length = self._plan_stage(max(len(self._functions), FINE_TRAININGS))
        task_is_known = bool(leaders) and self._prior.same_task
        if not task_is_known:
            self._raise_height(length, good)
        good = self._check_best_rate(good)
        candidates = [self._first_candidate(function, good) for function in self._functions]
        if not task_is_known:
            leaders = [candidate for candidate in leaders if self._is_safe(candidate, length)]
            self._replace_unsafe_incumbent(leaders + candidates, candidates[0], length)
        if len(leaders) < min(LEADERS, len(self._functions)):
            leaders = self._try_functions(leaders + candidates, count, length)
        leaders = self._refine(leaders, good)
        self._trainer.reserved = 0
        self._train_at_full_length(leaders, good)
        return self._result()

    def _note(self, sentence: str) -> None:
        """Record and report a decision."""
        self._notes.append(sentence)
        self._on_note(sentence)

    def _set_incumbent(self, candidate: Candidate) -> None:
        """Make a candidate the best so far."""
        policy = self._policy_text(candidate, self._trainer.max_iter)
        if not self._incumbents or self._incumbents[-1][1] != policy:
            self._incumbents.append((self._trainer.spent, policy))
            self._note("best policy after %d iterations: %s" % self._incumbents[-1])
        self._incumbent = candidate

    def _replace_unsafe_incumbent(
        self, candidates: Sequence[Candidate], default: Candidate, length: int
    ) -> None:
        """Make the first safe candidate the incumbent if the incumbent is not safe."""
        if not self._is_safe(self._incumbent, length):
            safe = (candidate for candidate in candidates if self._is_safe(candidate, length))
            self._set_incumbent(next(safe, default))

    def _policy_text(self, candidate: Candidate, length: int) -> str:
        text = str(candidate.policy(length, self._trainer.epoch))
        return self._recorded_texts.get(text, text)

    def _plan_stage(self, count: int, max_share: float = MAX_SHORT_LENGTH) -> tuple[int, int]:
        """Share a stage's part of the short budget among its trainings.

        Args:
            count: Number of trainings that the stage would like to have.
            max_share: Longest training, as a share of the full length.

        Returns:
            The number of trainings that the budget allows, and their length.
        """
        budget = self._short_budget / SHORT_STAGES
        count = min(count, max(LEADERS, int(budget // self._trainer.length(0))))
        share = budget / count / self._trainer.max_iter
        return count, self._trainer.length(min(max_share, share))

    # The start: what the database has, and the range test

    def _start(self) -> tuple[ranges.Range, list[Candidate]]:
        """Find the good range, and the candidates that the database has, the best first."""
        self._prior = self._load_prior()
        self._note(self._prior.sentence)
        candidates = self._prior_candidates()
        prior_range = self._prior.good
        if candidates:
            self._set_incumbent(candidates[0])
        if prior_range and self._prior.same_task:
            return prior_range, candidates
        good = self._run_range_test(prior_range)
        if prior_range:
            candidates = [self._transfer(candidate, prior_range, good) for candidate in candidates]
        return good, candidates

    def _load_prior(self) -> prior.Prior:
        """Load what the database had when the study began.

        A study that continues has to decide as it did before it was interrupted. Therefore the
        database keeps the prior, and the arguments of the search, with the study.
        """
        arguments = {
            "budget": self._trainer.budget,
            "goal": self._goal,
            "functions": self._functions,
            "seed": self._first_seed,
            **self._trainer.stopping_texts,
        }
        study = self._trainer.name
        with Store(self._trainer.dsn) as store:
            current = prior.load(store, self._trainer.setup, seeds=SEEDS, limit=2 * LEADERS)
            content = {**current.to_json(), "asked": arguments}
            content = studies.initial_information(store, study, content)
            recorded = studies.policies(store, study)
        self._recorded_texts = {
            without_noise(text): text for text in recorded if text != without_noise(text)
        }
        for name, value in content.get("asked", {}).items():
            if value != arguments[name]:
                raise InputError(
                    "the study %s was started with the %s %s, not %s: start another study with"
                    " --study NAME, which begins with the results of this one"
                    % (study, name, _value_text(value), _value_text(arguments[name]))
                )
        return prior.Prior.from_json(content)

    def _prior_candidates(self) -> list[Candidate]:
        """Make candidates of the policies that the database has, the best first."""
        candidates = []
        for policy, length in self._prior.policies:
            candidate = from_text(policy, length)
            if candidate is None or candidate.function not in self._functions:
                continue
            if candidate not in self._reasons:
                reason = "among the best known: %s in %d iterations" % (policy, length)
                self._reasons[candidate] = reason
                candidates.append(candidate)
        return candidates

    def _transfer(
        self, candidate: Candidate, source: ranges.Range, target: ranges.Range
    ) -> Candidate:
        """Move a candidate of a similar task to the good range of this task."""
        moved = transfer(candidate, source, target)
        reason = self._reasons[candidate]
        if moved != candidate:
            reason += "; rates moved to this task's good range"
        self._reasons[moved] = reason
        return moved

    def _run_range_test(self, similar: ranges.Range | None) -> ranges.Range:
        """Find the good range, near that of a similar task if there is one."""
        _, length = self._plan_stage(RANGE_TRAININGS, range_test.LENGTH_SHARE)
        test = range_test.run(self._trainer, length, self._first_seed, similar)
        trained = {}
        for trial in test.trials:
            candidate = Candidate("FIX", _constant_rate(trial))
            self._reasons[candidate] = "a constant rate"
            max_iter = cast("int", trial.setup.solver["max_iter"])
            self._record("range", candidate, max_iter, self._first_seed, trial)
            trained[trial.policy, max_iter, self._first_seed] = candidate
        self._store_reasons("range", trained)
        if test.good is None and failures.failed_trials(test.trials):
            raise TrialError(
                "the net learns with none of the constant rates whose trainings did not fail (%s):"
                " correct the cause and run the same command again"
                % "; ".join(failures.causes(test.trials))
            )
        if test.good is None:
            rates = ", ".join("%r" % _constant_rate(trial) for trial in test.trials)
            raise InputError(
                "the net does not learn with any of the constant rates %s in %d iterations, the"
                " share of the budget for the range test: give a larger --budget or a smaller"
                " test_interval, or check the net's data and initialization"
                % (rates, self._trainer.spent)
            )
        low, high, best, _ = test.good
        self._note(
            "range test: good rates from %r to %r, best %r, in %d iterations"
            % (low, high, best, test.cost)
        )
        return test.good

    def _check_best_rate(self, good: ranges.Range) -> ranges.Range:
        """Lower the best rate of the good range until it is safe with SEEDS seeds."""
        _, length = self._plan_stage(RANGE_TRAININGS, range_test.LENGTH_SHARE)
        rates = self._prior.rates or [_constant_rate(trial) for trial in self._constant_trials]
        for rate in sorted({rate for rate in rates if rate <= good.best}, reverse=True):
            candidate = Candidate("FIX", rate)
            self._reasons.setdefault(candidate, "a constant rate")
            if rate not in self._prior.safe_rates:
                self._train_round("range", [candidate] * SEEDS, length, self._seeds)
            limit = self._lowest_diverged_rate
            if rate < limit:
                highest = max(rate for rate in rates if rate < limit)
                return good._replace(
                    best=rate, low=min(rate, good.low), high=min(highest, good.high)
                )
            self._note("%s diverged with another seed" % self._policy_text(candidate, length))
        return good

    # The stage height

    def _raise_height(self, length: int, good: ranges.Range) -> None:
        """Double the incumbent's largest rate while that lowers the test loss with all SEEDS seeds.

        A range test does not show how high the rate may rise for a part of the training. The loss
        does, long before Top-1 differs by more than the noise.
        """
        for _ in range(MAX_DOUBLINGS):
            higher = self._with_larger_rate(self._incumbent, good)
            if higher is None or not self._train_pair(higher, length):
                return
            if not self._has_lower_loss(higher, length):
                self._note(
                    "doubling the largest rate does not lower the test loss with each of %d seeds"
                    % SEEDS
                )
                return
            self._note(
                "doubling the largest rate lowers the test loss with each of %d seeds" % SEEDS
            )
            self._set_incumbent(higher)

    def _with_larger_rate(self, candidate: Candidate, good: ranges.Range) -> Candidate | None:
        """Find the neighbour with a larger rate, or None if the rate is the largest possible."""
        for neighbour in self._neighbours(candidate, FINE_FACTOR, good):
            if neighbour.high > candidate.high:
                return neighbour
        return None

    def _train_pair(self, challenger: Candidate, length: int) -> bool:
        """Train the incumbent and a challenger with SEEDS seeds; return whether that is possible.

        It is not possible if the challenger reaches a rate that diverged, or if the budget would
        then have no room for LEADERS other functions, which are worth more.
        """
        if not self._is_below_diverged_rates(challenger, length):
            return False
        missing = [
            (candidate, seed)
            for seed in self._seeds
            for candidate in (self._incumbent, challenger)
            if seed not in self._final_losses(candidate, length)
        ]
        if len(missing) + LEADERS > self._trainer.room(length):
            return False
        candidates = [candidate for candidate, _ in missing]
        self._train_round("height", candidates, length, [seed for _, seed in missing])
        return True

    def _has_lower_loss(self, challenger: Candidate, length: int) -> bool:
        """Whether a challenger has a lower test loss than the incumbent with each seed."""
        before = self._final_losses(self._incumbent, length)
        after = self._final_losses(challenger, length)
        return all(after.get(seed, math.inf) < before.get(seed, -math.inf) for seed in self._seeds)

    def _final_losses(self, candidate: Candidate, length: int) -> dict[int, float]:
        """Look up the last test loss of each finished trial of a candidate, by seed."""
        losses = {
            seed: trial.rows[-1].test_loss
            for seed, trial in self._trials_by_seed(candidate, length).items()
            if trial.state == FINISHED
        }
        return {seed: loss for seed, loss in losses.items() if loss is not None}

    @property
    def _seeds(self) -> range:
        """The first SEEDS seeds."""
        return range(self._first_seed, self._first_seed + SEEDS)

    # Rounds and their trials

    def _train_round(
        self,
        stage: str,
        candidates: Sequence[Candidate],
        length: int,
        seeds: Sequence[int] = (),
    ) -> list[Candidate]:
        """Train candidates, as many as the budget has room for.

        Candidates that reach a rate with which a constant rate diverged are left out: they would
        diverge too, with one seed or another.

        Args:
            stage: The stage that asks for the round.
            candidates: What to train.
            length: Iterations of each training.
            seeds: The seed of each candidate (none: the first seed for all).

        Returns:
            The leaders of this length.
        """
        requests: dict[tuple[str, int, int], Candidate] = {}
        for candidate, seed in zip(candidates, seeds or [self._first_seed] * len(candidates)):
            is_new = seed not in self._trials_by_seed(candidate, length)
            if is_new and self._is_below_diverged_rates(candidate, length):
                key = self._policy_text(candidate, length), length, seed
                requests.setdefault(key, candidate)
        keys = list(requests)[: self._trainer.room(length)]
        if keys:
            self._store_reasons(stage, {key: requests[key] for key in keys})
            # The result is one of these.
            model = stage in ("full", "shorter")
            trials = self._trainer.train(keys, [StuckDetector().on_event], model)
            for key, trial in zip(keys, trials):
                self._record(stage, requests[key], length, key[2], trial)
        return self._leaders(length)

    def _train_short_round(
        self, stage: str, candidates: Sequence[Candidate], length: int
    ) -> list[Candidate]:
        """Train a round; its best candidate becomes the incumbent if its lead is not noise."""
        leaders = self._train_round(stage, candidates, length)
        if leaders and not self._lead_is_noise(leaders[0], length):
            self._set_incumbent(leaders[0])
        return leaders

    def _lead_is_noise(self, challenger: Candidate, length: int) -> bool:
        """Whether the lead of a challenger over the incumbent may be noise.

        If the incumbent was not trained at this length, the answer depends on its rates: it is yes
        if all of them are below the constant rates that diverged.
        """
        if not self._trials_by_seed(self._incumbent, length):
            return self._is_below_diverged_rates(self._incumbent, length)
        spreads = {
            entry.policy: entry.deciding["top1"] for entry in self._ranked(length) if entry.rank
        }
        incumbent = spreads.get(self._policy_text(self._incumbent, length))
        # The incumbent diverged, or other metrics count, whose noise is not known.
        if incumbent is None or len(self._criterion.weights) > 1:
            return False
        leader = spreads[self._policy_text(challenger, length)]
        return _is_noise(leader, incumbent, self._test_samples)

    def _most_seeds_first(self, length: int) -> list[ranking.Ranked]:
        """The policies of a length, the best first; of tied ones, that with the most seeds."""
        by_top1 = len(self._criterion.weights) == 1
        return _most_seeds_first(self._ranked(length), self._test_samples, by_top1)

    @property
    def _test_samples(self) -> int | None:
        return self._trainer.setup.deciding_samples

    def _record(
        self, stage: str, candidate: Candidate, length: int, seed: int, trial: Trial
    ) -> None:
        """Record a trial of a candidate."""
        self._trials.setdefault((trial.policy, length), {})[seed] = trial
        self._candidates.setdefault((trial.policy, length), candidate)
        self._tried.append(Tried(stage, self._reason(candidate, seed), trial))

    def _reason(self, candidate: Candidate, seed: int) -> str:
        """Why a candidate is trained with a seed."""
        return self._reasons[candidate] if seed == self._first_seed else "another seed"

    def _store_reasons(
        self, stage: str, trainings: Mapping[tuple[str, int, int], Candidate]
    ) -> None:
        """Store the reasons for trainings with the study, which `lrbench study show` prints."""
        reasons = {
            key: (stage, self._reason(candidate, key[2])) for key, candidate in trainings.items()
        }
        with Store(self._trainer.dsn) as store:
            studies.add_reasons(store, self._trainer.name, reasons)

    def _trials_by_seed(self, candidate: Candidate, length: int) -> dict[int, Trial]:
        """Look up the trials of a candidate at a length, by seed."""
        return self._trials.get((self._policy_text(candidate, length), length), {})

    @property
    def _constant_trials(self) -> list[Trial]:
        """The search's trials under constant rates."""
        return [tried.trial for tried in self._tried if tried.trial.function == "FIX"]

    @property
    def _lowest_diverged_rate(self) -> float:
        """The smallest constant rate that diverged, in this search or before, or infinity."""
        diverged = [
            _constant_rate(trial) for trial in self._constant_trials if trial.state == DIVERGED
        ]
        return min(diverged + list(self._prior.diverged_rates), default=math.inf)

    def _is_below_diverged_rates(self, candidate: Candidate, length: int) -> bool:
        """Whether a candidate stays below the constant rates that diverged."""
        return highest_rate(candidate, length) < self._lowest_diverged_rate

    def _is_safe(self, candidate: Candidate, length: int) -> bool:
        """Whether a candidate stays below these rates and did not diverge itself."""
        trials = self._trials_by_seed(candidate, length).values()
        has_diverged = any(trial.state == DIVERGED for trial in trials)
        return self._is_below_diverged_rates(candidate, length) and not has_diverged

    def _ranked(self, length: int) -> list[ranking.Ranked]:
        """Rank the policies that were trained at a length; unsafe policies come last, unranked."""
        safe: list[Trial] = []
        unsafe: list[Trial] = []
        for key, trials in self._trials.items():
            candidate = self._candidates[key]
            if key[1] == length and candidate.function in self._functions:
                group = safe if self._is_safe(candidate, length) else unsafe
                group.extend(trials.values())
        return ranking.rank(safe, self._criterion) + [
            dataclasses.replace(entry, rank=None, tied=False)
            for entry in ranking.rank(unsafe, self._criterion)
        ]

    def _leaders(self, length: int) -> list[Candidate]:
        """List the safe candidates with finished trials of a length, the best first."""
        return [
            self._candidates[entry.policy, length] for entry in self._ranked(length) if entry.rank
        ]

    # Candidates

    def _first_candidate(self, function: str, good: ranges.Range) -> Candidate:
        candidate, reason = first(function, good)
        self._reasons.setdefault(candidate, reason)
        return candidate

    def _neighbours(
        self, candidate: Candidate, factor: float, good: ranges.Range
    ) -> list[Candidate]:
        trial = self._best_constant_trial(good)
        warmup = loss_curve.warmup_length(trial) if trial else self._trainer.length(WARMUP_SHARE)
        changes = neighbours(candidate, factor, good, warmup)
        for neighbour, change in changes:
            self._reasons.setdefault(neighbour, "%s with %s" % (candidate.function, change))
        return [neighbour for neighbour, _ in changes]

    def _plateau_candidates(self, good: ranges.Range) -> list[Candidate]:
        """Make NSTEP and PLATEAU from the plateau of the loss under the best constant rate."""
        trial = self._best_constant_trial(good)
        candidates = []
        for function in PLATEAU_FUNCTIONS:
            if trial and function in self._functions:
                placed = from_plateau(function, good, trial)
                if placed:
                    candidate, reason = placed
                    self._reasons.setdefault(candidate, reason)
                    candidates.append(candidate)
        return candidates

    def _best_constant_trial(self, good: ranges.Range) -> Trial | None:
        """Find the longest of the search's finished trials under the best constant rate."""
        trials = [
            trial
            for trial in self._constant_trials
            if trial.state == FINISHED and _constant_rate(trial) == good.best
        ]
        return max(trials, key=lambda trial: trial.length, default=None)

    def _untried(self, candidates: Iterable[Candidate], length: int) -> list[Candidate]:
        """Select the candidates that can be tried at a length and were not tried yet."""
        return [
            candidate
            for candidate in candidates
            if not self._trials_by_seed(candidate, length)
            and self._is_below_diverged_rates(candidate, length)
        ]

    def _best_of_each_function(self, candidates: Iterable[Candidate]) -> list[Candidate]:
        """List the incumbent and the first candidate of each other function."""
        best: dict[str, Candidate] = {}
        for candidate in [self._incumbent, *candidates]:
            best.setdefault(candidate.function, candidate)
        return list(best.values())

    # The stages coarse and fine

    def _try_functions(
        self, candidates: Sequence[Candidate], count: int, length: int
    ) -> list[Candidate]:
        """Train a candidate of each function, up to `count` candidates; return the leaders."""
        candidates = self._best_of_each_function(candidates)
        self._train_short_round("coarse", candidates[:LEADERS], length)
        return self._train_short_round("coarse", candidates[LEADERS:count], length)

    def _refine(self, leaders: list[Candidate], good: ranges.Range) -> list[Candidate]:
        """Train the neighbours of the leaders, and the leaders if they need it.

        A leader from another length or from the database is trained too. Returns the leaders of the
        length of this stage.
        """
        if not leaders:
            return leaders
        count, length = self._plan_stage(FINE_TRAININGS)
        best = self._best_of_each_function(leaders)[:LEADERS]
        self._note(
            "best functions so far: %s" % ", ".join(candidate.function for candidate in best)
        )
        groups = [
            self._untried(self._neighbours(candidate, FINE_FACTOR, good), length)[
                : FINE_TRAININGS // len(best) - 1
            ]
            for candidate in best
        ]
        in_turn = [
            neighbour for turn in itertools.zip_longest(*groups) for neighbour in turn if neighbour
        ]
        candidates = self._untried(best + self._plateau_candidates(good), length) + in_turn
        return self._train_short_round("fine", candidates[:count], length) or leaders

    # The stage full

    def _train_at_full_length(self, leaders: list[Candidate], good: ranges.Range) -> None:
        """Train at full length until the budget ends."""
        full = self._trainer.max_iter
        self._train_finalists(leaders)
        if self._goal == "cost":
            while self._trainer.room(full) and self._train_shorter():
                pass
        else:
            factor = FULL_FACTOR
            while self._trainer.room(full) and factor > MIN_FULL_FACTOR:
                if not self._improve_best(factor, good):
                    factor = factor**0.5
        best = self._best(full)
        if best:  # at the end, a candidate with a single training can be the result too
            self._set_incumbent(best[1])

    def _train_finalists(self, leaders: list[Candidate]) -> None:
        """Train candidates at full length until LEADERS of them have finished.

        The order is: the best leader; the incumbent, whose gap to the leader may be noise; the best
        candidates of other functions; the other leaders. If possible, the budget keeps room for
        another seed.
        """
        full = self._trainer.max_iter
        candidates = list(
            dict.fromkeys(leaders[:1] + self._best_of_each_function(leaders) + leaders)
        )
        while candidates:
            finished = len(self._leaders(full))
            room = max(1 - finished, self._trainer.room(full) - 1)
            places = min(LEADERS - finished, room)
            if places <= 0:
                return
            self._train_full_round(candidates[:places])
            candidates = candidates[places:]

    def _improve_best(self, factor: float, good: ranges.Range) -> bool:
        """Train the best two candidates with more seeds, or else neighbours of the best one.

        Returns whether anything was trained.
        """
        full = self._trainer.max_iter
        entries = [entry for entry in self._ranked(full) if entry.rank]
        if not entries:
            return False
        count_before = len(self._tried)
        if len(entries[0].trials) < SEEDS:
            unsure = [entry.policy for entry in entries[:2] if len(entry.trials) < SEEDS]
            self._train_full_round(
                [self._candidates[policy, full] for policy in unsure],
                [max(self._trials[policy, full]) + 1 for policy in unsure],
            )
        else:
            best = self._candidates[entries[0].policy, full]
            candidates = self._untried(self._neighbours(best, factor, good), full)
            # The rest of the room is for another seed.
            self._train_full_round(candidates[: min(2, self._trainer.room(full) - 1)])
        return len(self._tried) > count_before

    def _train_full_round(self, candidates: Sequence[Candidate], seeds: Sequence[int] = ()) -> None:
        """Train a round at full length.

        The best candidate becomes the incumbent if it has SEEDS seeds, or if its lead is not noise.
        """
        full = self._trainer.max_iter
        self._train_round("full", candidates, full, seeds)
        best = self._best(full)
        if best:
            entry, candidate = best
            if len(entry.trials) >= SEEDS or not self._lead_is_noise(candidate, full):
                self._set_incumbent(candidate)

    def _best(self, length: int) -> tuple[ranking.Ranked, Candidate] | None:
        """Find the first of the ranked policies of a length, or None if none finished."""
        ranked = self._most_seeds_first(length)
        if not (ranked and ranked[0].rank):
            return None
        return ranked[0], self._candidates[ranked[0].policy, length]

    # The stage shorter, for the goal cost

    def _target(self) -> tuple[float, dict[tuple[str, int], int]]:
        """Find the Top-1 that is accepted, and when each policy reaches it.

        Returns:
            The Top-1; and for each (policy's text, length) that reaches it the iteration at which
            the mean of its seeds does.
        """
        curves = {
            key: _mean_highest_top1(list(trials.values()))
            for key, trials in self._trials.items()
            if self._candidates[key].function in self._functions
            and self._is_safe(self._candidates[key], key[1])
        }
        full = self._trainer.max_iter
        highest = [
            curve[-1][1] for (_, length), curve in curves.items() if length == full and curve
        ]
        target = max(highest, default=1.0) - TOP1_TOLERANCE
        reached = {}
        for key, curve in curves.items():
            iterations = [iteration for iteration, top1 in curve if top1 >= target]
            if iterations:
                reached[key] = iterations[0]
        return target, reached

    def _train_shorter(self) -> bool:
        """Train the policy that reaches the target first at a shorter length, or with more seeds.

        Returns whether anything was trained.
        """
        count_before = len(self._tried)
        _, reached = self._target()
        for policy, length in sorted(reached, key=lambda key: (reached[key], key[1])):
            candidate = self._candidates[policy, length]
            enough = SHORTENING * min(length, 1.5 * reached[policy, length])
            shorter = self._trainer.length(enough / self._trainer.max_iter)
            if shorter < length:
                self._reasons[candidate] = "it reaches the target early: now in fewer iterations"
                self._train_round("shorter", [candidate], shorter)
            seeds = self._trials[policy, length]
            if len(self._tried) == count_before and len(seeds) < SEEDS:
                self._train_round("shorter", [candidate], length, [max(seeds) + 1])
            if len(self._tried) > count_before:
                return True
        return False

    def _result(self) -> Tuned:
        length, target = self._trainer.max_iter, None
        reached: dict[tuple[str, int], int] = {}
        if self._goal == "cost":
            top1, reached = self._target()
            if reached:
                key = min(reached, key=lambda key: (reached[key], key[1]))
                length, target = key[1], (top1, reached[key])
        ranked = self._most_seeds_first(length)
        if not (ranked and ranked[0].rank):
            trials = [tried.trial for tried in self._tried]
            failed = "".join("; %s" % line for line in failures.causes(trials))
            raise TrialError(
                "no policy finished all its trainings of %d iterations%s: `lrbench study show %s`"
                " lists them" % (length, failed, self._trainer.name)
            )
        if target:  # several policies may have this length
            ranked.sort(key=lambda entry: reached.get((entry.policy, length), math.inf))
        return Tuned(
            study=self._trainer.name,
            goal=self._goal,
            policy=ranked[0].policy,
            length=length,
            ranked=tuple(ranked),
            target=target,
            notes=tuple(self._notes),
            tried=tuple(self._tried),
            incumbents=tuple(self._incumbents),
            cost=self._trainer.spent,
            budget=self._trainer.budget,
            model=self._trainer.keep_only(ranked[0].policy, length),
        )


def _constant_rate(trial: Trial) -> float:
    """Return the rate of a trial under FIX."""
    return cast("float", trial.parameters["k0"])


def _mean_highest_top1(trials: list[Trial]) -> list[tuple[int, float]]:
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


def _is_noise(leader: ranking.Spread, other: ranking.Spread, samples: int | None) -> bool:
    """Whether the lead of a Top-1 over another one may be noise.

    Noise is two standard deviations of Top-1. The deviation is the largest of these: that of
    sampling the test set, and that of the seeds of either policy.
    """
    leader_top1, other_top1 = cast("float", leader.mean), cast("float", other.mean)
    deviations = [ranges.binomial_deviation(other_top1, samples)] + [
        spread.deviation for spread in (leader, other) if spread.deviation is not None
    ]
    return leader_top1 <= other_top1 + 2 * max(deviations)


def _most_seeds_first(
    ranked: Sequence[ranking.Ranked], samples: int | None, by_top1: bool
) -> list[ranking.Ranked]:
    """Sort tied policies by the number of their seeds.

    A policy with one seed goes behind the first policy with several seeds if its lead over that
    policy may be noise, which is known for Top-1 only.

    Args:
        ranked: The ranked policies.
        samples: The size of the set that decides, or None.
        by_top1: Whether they are ranked by Top-1 alone.
    """
    several = next((entry for entry in ranked if entry.rank and len(entry.trials) > 1), None)

    def position(entry: ranking.Ranked) -> tuple[float, int]:
        rank = entry.rank or math.inf
        if not (by_top1 and several and several.rank and entry.has_one_seed):
            return rank, -len(entry.trials)
        if rank < several.rank:
            is_noise = _is_noise(entry.deciding["top1"], several.deciding["top1"], samples)
            rank = several.rank if is_noise else rank
        return rank, -len(entry.trials)

    return sorted(ranked, key=position)


def _value_text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def summary(tuned: Tuned) -> list[str]:
    """Summarize a search: the lines for the solver prototxt, and what they cost."""
    lines = ['lr_policy: "%s"' % tuned.policy, "max_iter: %d" % tuned.length]
    if tuned.target:
        top1, iteration = tuned.target
        lines.append(
            "it reaches Top-1 %.2f %%, 0.1 points below the highest, after %d iterations"
            % (100 * top1, iteration)
        )
    best = tuned.ranked[0].rank
    single = [entry.policy for entry in tuned.ranked if best and entry.rank and entry.rank < best]
    if single and not tuned.target:
        lines.append(
            "ranked higher with one seed, by a lead that may be noise: %s" % "; ".join(single)
        )
    trials = [trial for entry in tuned.ranked for trial in entry.trials]
    lines += ranking.sets_remarks(trials)
    lines += failures.causes(tried.trial for tried in tuned.tried)
    lines.append(
        "the search took %d of %d iterations in %d trainings, recorded as study %s"
        % (tuned.cost, tuned.budget, len(tuned.tried), tuned.study)
    )
    return lines
