"""The tuner: from a solver prototxt to a good policy, within a budget of iterations (sections IV and V).

What the database knows of the task, or of one that is like it, is the first answer.  Where it does not know the task itself a
range test comes first, around the good rates of the one that is like it, and gives a better one; a few seeds say whether its
largest rate should be twice as high.  Then finer and finer: a candidate of each function in short trainings, unless the database
has the best ones, those beside the best in such ones or longer, the best few at full length, again with what is beside them and
more seeds.

Own code samples the narrowed space: a sampler such as Optuna's TPE starts with ten random trials, about as many as are left to be
trained here, and none of its trials has a reason that could be told.
"""

import dataclasses
import itertools
import math
from typing import NamedTuple, Optional, Tuple

from lrbench_caffe import ranking
from lrbench_caffe.database import Store, studies
from lrbench_caffe.errors import InputError, TrialError
from lrbench_caffe.evaluator import candidates, range_test, recommendation
from lrbench_caffe.policies import suggestion
from lrbench_caffe.ranking import ranges
from lrbench_caffe.study.pruning import StuckDetector
from lrbench_caffe.trial import DIVERGED, FAILED, FINISHED, Trial

GOALS = {"accuracy": "top1", "cost": "top1", "robustness": "top1=4,ld=1,ac=1,cd=1,cdac=1"}
BUDGET = 20  # trainings at full length, where none is given
SHORT = 0.6  # of the budget: for what is shorter than full length
STAGES = 4  # that share it: range, height, coarse and fine
RATES = 8  # trainings of a range test, about
LONGEST = 2 / 3  # of the full length: no short training is longer
KEPT = 3  # functions that are tried, and tried finer, at least; candidates at full length before what is beside them
FINE = 12  # trainings of the fine round, at most
HEIGHTS = 2  # times that the largest rate is doubled, at most
SEEDS = 3  # that the best policy is judged by, and that no training may diverge with
NEAR = 0.001  # below the highest Top-1: what the goal cost asks for
WARMUP = 0.05  # of the full length: a warm-up's, where no training under the best constant rate says how long it takes
SHORTER = 0.7  # times the length: the next that is tried for the goal cost
ALIKE = 0.5  # less like this task, and another one says nothing about it


class Tried(NamedTuple):
    """A training of the search and why: the stage, the candidate's reason, and its trial."""

    stage: str
    why: str
    trial: Trial


class Tuned(NamedTuple):
    """What came of tuning: the best policy's text and the length (max_iter) that it is for, and how that was found.

    ranked: the policies at that length as :func:`lrbench_caffe.ranking.rank` has them, of those that are tied the one with the most
    seeds first.  reaches: for the goal cost, the Top-1 that is near enough and the iteration at which the mean of its seeds reaches
    it, else None.  tried: every training in its order.  answers: (iterations spent, the policy at full length that was held to be
    the best from then on), but for what the goal cost shortens.  notes: the sentences on the way.  cost: iterations spent.
    """

    study: str
    goal: str
    policy: str
    length: int
    ranked: Tuple[ranking.Ranked, ...]
    reaches: Optional[Tuple[float, float]]
    notes: Tuple[str, ...]
    tried: Tuple[Tried, ...]
    answers: Tuple[Tuple[int, str], ...]
    cost: int
    budget: int


def tune(trainings, functions=(), goal="accuracy", tell=lambda sentence: None, seed=1):
    """The Tuned policy of a :class:`lrbench_caffe.evaluator.trainings.Trainings`, whose budget is never exceeded (none: BUDGET).

    functions: the names of those to choose from (none: all of candidates.TUNED).  goal: "accuracy", the highest Top-1; "cost", the
    fewest iterations to within 0.1 points of it; "robustness", which weighs LD, AC, CD and CDAC as much as Top-1.  tell is called
    with a sentence on each decision.  seed: the first, of all trainings; more of them are those after it.  Raises as
    Trainings.train, and InputError for a budget that is too small, a function or goal that there is none of, a study that was begun
    with others, and a net that learns nothing.
    """
    functions = tuple(functions or candidates.TUNED)
    if trainings.budget == math.inf:
        trainings.budget = BUDGET * trainings.max_iter
    for name, known, what in [(goal, GOALS, "goal")] + [
        (function, candidates.TUNED, "function to tune") for function in functions
    ]:
        if name not in known:
            raise InputError("%r is no %s%s" % (name, what, suggestion(name, known)))
    if trainings.room(trainings.max_iter) < 2:
        raise InputError(
            "a budget of %d iterations does not do: give the length of at least two trainings, %d"
            % (trainings.budget, 2 * trainings.max_iter)
        )
    return _Search(
        trainings, sorted(set(functions), key=candidates.TUNED.index), goal, tell, seed
    ).run()


class _Search:
    def __init__(self, trainings, functions, goal, tell, seed):
        self._trainings, self._functions, self._goal, self._seed = trainings, functions, goal, seed
        self._criterion = ranking.parse_criterion(GOALS[goal])
        self._tell, self._notes, self._tried, self._answers = tell, [], [], []
        self._held = None  # the candidate that is the best so far
        self._known = None  # what the database knew at the beginning, see _known
        self._why = {}  # by candidate
        self._trials = {}  # by (policy's text, length): its trials, by seed
        self._candidates = {}  # by the same: the candidate
        full = trainings.max_iter
        trainings.reserved = min(KEPT, max(1, trainings.room(full) // 2)) * full
        self._short = min(SHORT * trainings.budget, trainings.budget - trainings.reserved)

    def run(self):
        good, leaders = self._begin()
        self._hold((leaders or [self._first(self._functions[0], good)])[0])
        many, length = self._shared(max(len(self._functions), FINE))
        known = leaders and self._known["same"]
        if not known:
            self._height(length, good)
        good = self._sure(good)
        firsts = [self._first(function, good) for function in self._functions]
        if not known:
            leaders = [one for one in leaders if self._safe(one, length)]
            if not self._safe(self._held, length):
                self._hold(
                    next((one for one in leaders + firsts if self._safe(one, length)), firsts[0])
                )
        if len(leaders) < min(KEPT, len(self._functions)):
            some = self._distinct(leaders + firsts)
            for part in (some[:KEPT], some[KEPT:many]):
                leaders = self._short_round("coarse", part, length)
        leaders = self._fine(leaders, good)
        self._trainings.reserved = 0
        self._full(leaders, good)
        return self._result()

    def _say(self, sentence):
        self._notes.append(sentence)
        self._tell(sentence)

    def _hold(self, candidate):
        """This is the best from now on."""
        policy = self._text(candidate, self._trainings.max_iter)
        if not self._answers or self._answers[-1][1] != policy:
            self._answers.append((self._trainings.spent, policy))
            self._say("the best after %d iterations: %s" % self._answers[-1])
        self._held = candidate

    def _text(self, candidate, length):
        return str(candidate.policy(length, self._trainings.epoch))

    # What is known at the beginning

    def _begin(self):
        """The good Range, and the candidates that the database has for this task or for one like it (none: not known)."""
        known = self._known = self._beginning()
        self._say(known["words"])
        chosen = []
        for text, length in known["policies"]:
            candidate = candidates.of_text(text, length)
            if candidate and candidate.function in self._functions and candidate not in self._why:
                self._why[candidate] = "among the best known: %s in %d iterations" % (text, length)
                chosen.append(candidate)
        around = ranges.Range(*known["good"]) if known["good"] else None
        if chosen:
            self._hold(chosen[0])
        if around and known["same"]:
            return around, chosen
        good = self._range_test(around)
        if around:  # from a similar task: its rates as they lie in its range
            chosen = [self._moved(candidate, around, good) for candidate in chosen]
        return good, chosen

    def _beginning(self):
        """What the database knew when the study began; it goes on only as it was begun, so that it decides as it did."""
        asked = {
            "budget": self._trainings.budget,
            "goal": self._goal,
            "functions": self._functions,
            "seed": self._seed,
        }
        with Store(self._trainings.dsn) as store:
            known = dict(
                rates=[], sure=[], diverged=[], asked={}
            )  # of a study that was begun before these were kept
            known.update(
                studies.beginning(
                    store, self._trainings.name, dict(_known(store, self._trainings), asked=asked)
                )
            )
        for what, value in known["asked"].items():
            if value != asked[what]:
                raise InputError(
                    "the study %s was begun with the %s %s, not %s: begin another with --study NAME, which starts "
                    "from what this one has found"
                    % (self._trainings.name, what, *map(_words, (value, asked[what])))
                )
        return known

    def _range_test(self, around):
        test = range_test.run(
            self._trainings, self._shared(RATES, range_test.SHARE)[1], self._seed, around
        )
        for trial in test.trials:
            candidate = candidates.Candidate("FIX", trial.parameters["k0"])
            self._why[candidate] = "a constant rate"
            self._keep("range", candidate, trial.setup.solver["max_iter"], self._seed, trial)
        if test.good is None:
            raise InputError(
                "none of the constant rates %s trains this net within %d iterations, the budget's share: give a "
                "larger --budget or a smaller test_interval, or look at its data and initialization"
                % (
                    ", ".join("%r" % trial.parameters["k0"] for trial in test.trials),
                    self._trainings.spent,
                )
            )
        self._say(
            "the range test finds rates from %r to %r good, best %r, for %d iterations"
            % (test.good[:3] + (test.cost,))
        )
        return test.good

    def _sure(self, good):
        """The good Range, its best rate the largest of those with which other seeds do not diverge either."""
        length = self._shared(RATES, range_test.SHARE)[1]
        rates = self._known["rates"] or [trial.parameters["k0"] for trial in self._constants]
        for rate in sorted({rate for rate in rates if rate <= good.best}, reverse=True):
            one = candidates.Candidate("FIX", rate)
            self._why.setdefault(one, "a constant rate")
            if rate not in self._known["sure"]:
                self._round("range", [one] * SEEDS, length, range(self._seed, self._seed + SEEDS))
            if rate < self._limit:
                safe = max(one for one in rates if one < self._limit)
                return good._replace(best=rate, low=min(rate, good.low), high=min(safe, good.high))
            self._say("%s diverged with another seed" % self._text(one, length))
        return good

    def _height(self, length, good):
        """What is held, its largest rate twice as high, is the best if its test loss is lower with each of SEEDS seeds; and so on.

        Constant rates do not say how high one may go for a while.  The loss does, long before Top-1 tells it from the noise.
        """
        seeds = range(self._seed, self._seed + SEEDS)
        for _ in range(HEIGHTS):
            held = self._held
            higher = next(
                (one for one in self._beside(held, 2.0, good) if one.high > held.high), None
            )
            if higher is None or not self._within(higher, length):
                return
            missing = [
                (one, seed)
                for seed in seeds
                for one in (held, higher)
                if seed not in self._losses(one, length)
            ]
            if len(missing) + KEPT > self._trainings.room(
                length
            ):  # one of each kind of function is worth more
                return
            self._round(
                "height", [one for one, _ in missing], length, [seed for _, seed in missing]
            )
            before, after = self._losses(held, length), self._losses(higher, length)
            if not all(after.get(seed, math.inf) < before.get(seed, -math.inf) for seed in seeds):
                self._say(
                    "twice the largest rate does not lower the test loss with each of %d seeds"
                    % SEEDS
                )
                return
            self._say("twice the largest rate lowers the test loss with each of %d seeds" % SEEDS)
            self._hold(higher)

    def _losses(self, candidate, length):
        """{seed: the last test loss} of a candidate's trials that finished so many iterations."""
        trials = self._by_seed(candidate, length)
        return {
            seed: trial.rows[-1].test_loss
            for seed, trial in trials.items()
            if trial.state == FINISHED
        }

    def _moved(self, candidate, around, good):
        moved = candidates.moved(candidate, around, good)
        self._why[moved] = self._why[candidate] + (
            ", its rates as they lie in the good range here" if moved != candidate else ""
        )
        return moved

    def _first(self, function, good):
        candidate, why = candidates.first(function, good)
        self._why.setdefault(candidate, why)
        return candidate

    def _shared(self, many, most=LONGEST):
        """(how many trainings up to so many, their length) may have a stage's share of the budget together."""
        share = self._short / STAGES
        many = min(many, max(KEPT, int(share // self._trainings.length(0))))
        return many, self._trainings.length(min(most, share / many / self._trainings.max_iter))

    # Rounds

    def _round(self, stage, some, length, seeds=()):
        """Train candidates as far as the budget has room, with these seeds (none: the first for each).

        Those that reach a rate with which a constant one diverged are left out: they would with one seed or the other.
        Returns all candidates that were trained so long, the best first.
        """
        wanted = {}
        for candidate, seed in zip(some, seeds or [self._seed] * len(some)):
            if self._within(candidate, length) and seed not in self._by_seed(candidate, length):
                wanted.setdefault((self._text(candidate, length), length, seed), candidate)
        wanted = dict(list(wanted.items())[: self._trainings.room(length)])
        if wanted:
            for key, trial in zip(
                wanted, self._trainings.train(list(wanted), [StuckDetector().on_event])
            ):
                self._keep(stage, wanted[key], length, key[2], trial)
        return self._leaders(length)

    def _short_round(self, stage, some, length):
        """As _round; the best of it is held to be the best from now on if it is so by more than the noise."""
        leaders = self._round(stage, some, length)
        if leaders and not self._holds_against(leaders[0], length):
            self._hold(leaders[0])
        return leaders

    def _holds_against(self, other, length):
        """Whether the noise does not tell what is held from a candidate that did better in so many iterations.

        The noise is two standard deviations: of their seeds, where there are several, or of chance on the test set if more.
        """
        if not self._by_seed(self._held, length):
            return self._within(self._held, length)
        tops = {entry.policy: entry.metrics["top1"] for entry in self._ranked(length) if entry.rank}
        held = tops.get(self._text(self._held, length))
        if (
            held is None or len(self._criterion.weights) > 1
        ):  # it diverged; or by other metrics, for which no noise is known
            return False
        chance = ranges.binomial_deviation(held.mean, self._trainings.setup.dataset.test_samples)
        better = tops[self._text(other, length)]
        noise = 2 * max([chance] + [top.deviation for top in (held, better) if top.n > 1])
        return better.mean <= held.mean + noise

    def _within(self, candidate, length):
        """Whether a candidate stays below the constant rates that diverged."""
        return candidates.highest(candidate, length) < self._limit

    def _safe(self, candidate, length):
        """The same, and that it did not diverge with any seed itself."""
        diverged = any(
            trial.state == DIVERGED for trial in self._by_seed(candidate, length).values()
        )
        return self._within(candidate, length) and not diverged

    def _by_seed(self, candidate, length):
        """The trials of a candidate that were trained so long, by seed."""
        return self._trials.get((self._text(candidate, length), length), {})

    @property
    def _limit(self):
        """The smallest constant rate that diverged, here or before, or infinity."""
        diverged = [trial.parameters["k0"] for trial in self._constants if trial.state == DIVERGED]
        return min(diverged + self._known["diverged"], default=math.inf)

    @property
    def _constants(self):
        """The search's trials under constant rates."""
        return [tried.trial for tried in self._tried if tried.trial.function == "FIX"]

    def _keep(self, stage, candidate, length, seed, trial):
        self._trials.setdefault((trial.policy, length), {})[seed] = trial
        self._candidates.setdefault((trial.policy, length), candidate)
        self._tried.append(
            Tried(stage, self._why[candidate] if seed == self._seed else "another seed", trial)
        )

    def _ranked(self, length):
        """The policies that were trained so long, of the functions to choose from; those that are not safe come last, unranked."""
        safe, others = [], []
        for key, seeds in self._trials.items():
            if key[1] == length and self._candidates[key].function in self._functions:
                (safe if self._safe(self._candidates[key], length) else others).extend(
                    seeds.values()
                )
        return ranking.rank(safe, self._criterion) + [
            dataclasses.replace(entry, rank=None, tied=False)
            for entry in ranking.rank(others, self._criterion)
        ]

    def _leaders(self, length):
        """The candidates that were trained so long, the best first; those that did not finish or are not safe are left out."""
        return [
            self._candidates[entry.policy, length] for entry in self._ranked(length) if entry.rank
        ]

    def _fine(self, leaders, good):
        """What is beside the leaders, and these where they were not trained so long; returns the best of all that were."""
        if not leaders:
            return leaders
        many, length = self._shared(FINE)
        kept = self._distinct(leaders)[:KEPT]
        self._say(
            "the best functions so far: %s" % ", ".join(candidate.function for candidate in kept)
        )
        beside = [
            self._untried(self._beside(candidate, 2.0, good), length)[: FINE // len(kept) - 1]
            for candidate in kept
        ]
        in_turn = [one for group in itertools.zip_longest(*beside) for one in group if one]
        some = self._untried(kept + self._placed(good), length) + in_turn
        return self._short_round("fine", some[:many], length) or leaders

    def _untried(self, some, length):
        """Those candidates that were not trained so long, but for what reaches a rate with which a constant one diverged."""
        return [one for one in some if not self._by_seed(one, length) and self._within(one, length)]

    def _distinct(self, leaders):
        """What is held to be the best and the best of each other function."""
        found = {}
        for candidate in [self._held] + leaders:
            found.setdefault(candidate.function, candidate)
        return list(found.values())

    def _beside(self, candidate, factor, good):
        constant = self._constant(good)
        warmup = candidates.fallen(constant) if constant else self._trainings.length(WARMUP)
        found = candidates.finer(candidate, factor, good, warmup)
        for one, why in found:
            self._why.setdefault(one, "%s, %s" % (candidate.function, why))
        return [one for one, _ in found]

    def _placed(self, good):
        """NSTEP and PLATEAU as they go with where the longest training under the best constant rate stopped improving."""
        constant, some = self._constant(good), []
        for function in candidates.PLACED:
            found = (
                candidates.placed(function, good, constant)
                if constant and function in self._functions
                else None
            )
            if found:
                self._why.setdefault(*found)
                some.append(found[0])
        return some

    def _constant(self, good):
        """The longest of the search's trials under the best constant rate, or None."""
        constant = [
            trial
            for trial in self._constants
            if trial.state == FINISHED and trial.parameters["k0"] == good.best
        ]
        return max(constant, key=lambda trial: trial.rows[-1].iteration) if constant else None

    # At full length

    def _full(self, leaders, good):
        """The best few at full length; then, as far as the budget goes, the best with more seeds and what is beside it."""
        full, factor = self._trainings.max_iter, 1.5
        self._best_few(leaders, full)
        if self._goal == "cost":
            while self._trainings.room(full) and self._shorter():
                pass
        else:
            while self._trainings.room(full) and factor > 1.1:
                if not self._next(full, factor, good):
                    factor = factor**0.5
        best = self._best(full)
        if best:  # at the end a single training counts as well
            self._hold(best[1])

    def _best_few(self, leaders, full):
        """KEPT candidates at full length, the next in place of each that diverges; room for another seed is left, if it can be.

        They are the best in shorter trainings, what is held to be, which the noise may not have told from it, and other functions.
        """
        some = list(dict.fromkeys(leaders[:1] + self._distinct(leaders) + leaders))
        while some:
            finished = len(self._leaders(full))
            places = min(KEPT - finished, max(1 - finished, self._trainings.room(full) - 1))
            if places <= 0:
                return
            self._full_round(some[:places])
            some = some[places:]

    def _next(self, full, factor, good):
        """More seeds for the best and for the next, or what is beside the best; whether there was anything to do."""
        entries = [entry for entry in self._ranked(full) if entry.rank]
        if not entries:
            return False
        before = len(self._tried)
        if len(entries[0].trials) < SEEDS:
            few = [entry for entry in entries[:2] if len(entry.trials) < SEEDS]
            self._full_round(
                [self._candidates[entry.policy, full] for entry in few],
                [max(self._trials[entry.policy, full]) + 1 for entry in few],
            )
        else:
            new = self._untried(
                self._beside(self._candidates[entries[0].policy, full], factor, good), full
            )
            self._full_round(
                new[: min(2, self._trainings.room(full) - 1)]
            )  # what is left is for another seed
        return len(self._tried) > before

    def _full_round(self, some, seeds=()):
        full = self._trainings.max_iter
        if self._round("full", some, full, seeds):
            best, candidate = self._best(full)
            if len(best.trials) >= SEEDS or not self._holds_against(candidate, full):
                self._hold(candidate)

    def _best(self, length):
        """The first of the policies that were trained so long, as a Ranked and as a candidate; None where no training finished."""
        ranked = _surest(self._ranked(length))
        return (
            (ranked[0], self._candidates[ranked[0].policy, length])
            if ranked and ranked[0].rank
            else None
        )

    # The goal cost

    def _near(self):
        """(the Top-1 that is near enough, {(policy, length): the iteration at which its trials reach it, as their mean})."""
        tops = {
            key: _mean_so_far(list(seeds.values()))
            for key, seeds in self._trials.items()
            if self._candidates[key].function in self._functions
            and self._safe(self._candidates[key], key[1])
        }
        full = self._trainings.max_iter
        near = (
            max(
                (top[-1][1] for (_, length), top in tops.items() if length == full and top),
                default=1.0,
            )
            - NEAR
        )
        reached = {
            key: next((iteration for iteration, top1 in top if top1 >= near), None)
            for key, top in tops.items()
        }
        return near, {key: iteration for key, iteration in reached.items() if iteration is not None}

    def _shorter(self):
        """Train what is near the highest Top-1 first in fewer iterations, or with more seeds; whether there was anything to do."""
        before, (_, reached) = len(self._tried), self._near()
        if not reached:
            return False
        soonest = sorted(reached, key=lambda one: (reached[one], one[1]))
        for policy, length in soonest:
            candidate = self._candidates[policy, length]
            less = self._trainings.length(
                SHORTER * min(length, 1.5 * reached[policy, length]) / self._trainings.max_iter
            )
            if less < length:
                self._why[candidate] = "it needs few iterations: again in fewer"
                self._round("shorter", [candidate], less)
            seeds = self._trials[policy, length]
            if len(self._tried) == before and len(seeds) < SEEDS:
                self._round("shorter", [candidate], length, [max(seeds) + 1])
            if len(self._tried) > before:
                return True
        return False

    def _result(self):
        length, reaches = self._trainings.max_iter, None
        if self._goal == "cost":
            near, reached = self._near()
            if reached:
                (_, length), iterations = min(
                    reached.items(), key=lambda item: (item[1], item[0][1])
                )
                reaches = near, iterations
        ranked = _surest(self._ranked(length))
        if not (ranked and ranked[0].rank):
            raise TrialError(
                "under no policy have all trainings of %d iterations finished: see `lrbench study show %s`"
                % (length, self._trainings.name)
            )
        if reaches:  # several may have been trained so long
            ranked.sort(key=lambda entry: reached.get((entry.policy, length), math.inf))
        return Tuned(
            self._trainings.name,
            self._goal,
            ranked[0].policy,
            length,
            tuple(ranked),
            reaches,
            tuple(self._notes),
            tuple(self._tried),
            tuple(self._answers),
            self._trainings.spent,
            self._trainings.budget,
        )


def _surest(ranked):
    """A ranking whose policies are sorted, where they are tied, by how many seeds they were trained with."""
    return sorted(ranked, key=lambda entry: (entry.rank or math.inf, -len(entry.trials)))


def _mean_so_far(trials):
    """(iteration, the mean of the highest Top-1 up to there) of each evaluation of trials as long; () if any did not finish."""
    if any(trial.state != FINISHED for trial in trials):
        return ()
    highest = [itertools.accumulate((row.top1 for row in trial.rows), max) for trial in trials]
    return [(row.iteration, sum(tops) / len(tops)) for row, *tops in zip(trials[0].rows, *highest)]


def _known(store, trainings):
    """What the database knows for a solver, as JSON holds it.

    good: the good range, or None.  same: of this very task, not of one that is like it.  policies: the best of each function with
    their max_iter.  rates, sure and diverged: of this task's constant rates those that finished, those of them that did so with
    SEEDS seeds, and those that diverged with any.  words: all this as a sentence.
    """
    known = {
        "good": None,
        "same": False,
        "policies": [],
        "rates": [],
        "sure": [],
        "diverged": [],
        "words": "the database knows neither this task nor one that is like it",
    }
    try:
        found = recommendation.recommend(
            store, recommendation.query_from_setup(trainings.setup), many=50
        )
    except InputError:
        return known
    best = max(found.known, key=lambda known: (known.share, known.policies[0].top1.mean))
    if best.share < ALIKE:
        return known
    optimizer, by_function = recommendation.optimizer(best.task.settings), {}
    for standing in best.policies:
        if (
            "max_iter" in standing.settings
            and recommendation.optimizer(standing.settings) == optimizer
        ):
            candidate = candidates.of_text(standing.policy, standing.settings["max_iter"])
            if candidate:
                by_function.setdefault(
                    candidate.function, (standing.policy, standing.settings["max_iter"])
                )
    known.update(
        good=best.good,
        same=found.same,
        policies=list(by_function.values())[: 2 * KEPT],
        words="; ".join(recommendation.explanations(found._replace(known=(best,)))[0]),
    )
    if found.same:
        seeds = {FINISHED: {}, DIVERGED: {}}
        for trial in store.trials(
            dataset=best.task.dataset.name,
            network=best.task.network.hash,
            function="FIX",
            best_only=True,
        ):
            if trial.state in seeds and recommendation.optimizer(trial.setup.solver) == optimizer:
                seeds[trial.state].setdefault(trial.parameters["k0"], set()).add(trial.setup.seed)
        finished = seeds[FINISHED]
        known.update(
            rates=sorted(finished),
            sure=[rate for rate in sorted(finished) if len(finished[rate]) >= SEEDS],
            diverged=sorted(seeds[DIVERGED]),
        )
    return known


def _words(value):
    return ", ".join(value) if isinstance(value, list) else str(value)


def summary(tuned):
    """The lines to paste into the solver prototxt, and what they cost."""
    lines = ['lr_policy: "%s"' % tuned.policy, "max_iter: %d" % tuned.length]
    if tuned.reaches:
        lines.append(
            "it reaches Top-1 %.2f %%, 0.1 points below the highest, after %d iterations"
            % (100 * tuned.reaches[0], tuned.reaches[1])
        )
    failed = sum(tried.trial.state == FAILED for tried in tuned.tried)
    if failed:
        lines.append(
            "%d of the trainings failed, `lrbench study show %s` says why: the same command trains them once more"
            % (failed, tuned.study)
        )
    return lines + [
        "found with %d of %d iterations in %d trainings, which are the study %s"
        % (tuned.cost, tuned.budget, len(tuned.tried), tuned.study)
    ]
