"""The search of `lrbench tune`: its budget, its stages, its reasons, and how it continues."""

import dataclasses
import itertools
import json
import random
import time

import nets
import pytest
from conftest import administration, needs_caffe, new_database_on
from trials import record, trial

from lrbench_caffe.display import tables
from lrbench_caffe.errors import InputError, TrialError
from lrbench_caffe.policies import Policy
from lrbench_caffe.trial import Dataset, Evaluation, Job

pytest.importorskip(
    "psycopg2", reason="needs psycopg2 and PostgreSQL: run the tests with `make test`"
)
from lrbench_caffe.database import Store, studies
from lrbench_caffe.evaluator import tuner
from lrbench_caffe.evaluator.candidates import from_text, rates_key, recipe
from lrbench_caffe.evaluator.trainer import Trainer
from lrbench_caffe.study.cores import Cores

FULL, INTERVAL = 200, 20
SETTINGS = {
    "type": "SGD",
    "momentum": 0.9,
    "max_iter": FULL,
    "test_interval": INTERVAL,
    "batch_size": 50,
}
# Functions for searches in which their number does not matter.
FUNCTIONS = ("COS", "POLY", "SIN2")


class Simulated:
    """A net with a made-up learning curve; everything else, including the database, is real.

    The error shrinks with the rate, a large rate adds noise, and a rate above 15 times the best one
    diverges. Therefore decaying rates do best.
    """

    def __init__(self, best=0.02, dataset="made up", **settings):
        self.best, self.count = best, 0
        self.setup = dataclasses.replace(
            trial().setup,
            classes=10,
            solver={**SETTINGS, **settings},
            dataset=Dataset(dataset, (1, 8, 8), 1000, 10000),
        )

    def describe(self, job):
        return dataclasses.replace(trial("FIX(k0=0.1)"), setup=self.setup)

    def running(self, job):
        """The trial of a job at its beginning."""
        settings = dict(self.setup.solver)
        settings["max_iter"] = job.max_iter or settings["max_iter"]
        return dataclasses.replace(
            trial(job.policy, (), state="running"),
            id=job.id,
            started=time.time(),
            setup=dataclasses.replace(self.setup, seed=job.seed, solver=settings),
        )

    def train(self, job, stop, on_event, threads):
        self.count += 1
        running = self.running(job)
        on_event("begin", running)
        ended = self.trained(running)
        for row in ended.rows:
            on_event("row", row)
        on_event("end", ended)

    def trained(self, running):
        """The trial at its end."""
        max_iter, state = running.setup.solver["max_iter"], "diverged"
        for row in self.rows(Policy.parse(running.policy), max_iter, running.setup.seed):
            running = running.with_row(row)
            state = "finished" if row.iteration == max_iter else "diverged"
        error = None if state == "finished" else "too large a rate"
        return running.ended_as(state, time.time(), error)

    def rows(self, policy, max_iter, seed):
        noise = random.Random("%s %s %s" % (policy, max_iter, seed))
        error, memory = 0.9, None
        for t in range(max_iter + 1):
            lr = policy.schedule(memory)(min(t, policy.end)) / self.best
            if t and lr > 15:
                break
            if t % self.setup.solver["test_interval"] == 0 or t == max_iter:
                top1 = max(0.1, 1 - error - 0.01 * lr - 0.0005 * noise.random())
                row = Evaluation(t, lr, 1 - top1, 1 - top1, top1, 1.0, top1, 0.1, 0.1, 0.01)
                memory = policy.observe(memory, row)
                yield row
            error = 0.001 + (error - 0.001) * (1 - 0.05 * min(lr, 3))

    def record(self, database, *policies, max_iter=FULL, seeds=(1,)):
        """Put trainings under these policies into a database."""
        with Store(database) as store:
            for policy, seed in itertools.product(policies, seeds):
                job = Job(__file__, policy=policy, max_iter=max_iter, seed=seed)
                running = self.running(job)
                record(store, self.trained(dataclasses.replace(running, id=trial().id)))

    def trainer(self, database, kind="tune", name="search"):
        return Trainer(
            __file__, Cores(2, train=self.train), kind, name, dsn=database, describe=self.describe
        )

    def tune(
        self,
        database,
        name="search",
        budget=16 * FULL,
        functions=(),
        goal="accuracy",
        on_note=lambda sentence: None,
    ):
        trainer = self.trainer(database, name=name)
        trainer.budget = budget
        return tuner.tune(trainer, functions, goal, on_note)


class Changed(Simulated):
    """A simulated net whose trainings diverge at once, or have another Top-1, under a condition.

    The condition receives the policy's text, the max_iter and the seed. It returns None for what
    the simulation gives, "diverged", or the Top-1 of the evaluations behind the first one.
    """

    def __init__(self, condition, **settings):
        super().__init__(**settings)
        self.condition = condition

    def rows(self, policy, max_iter, seed):
        result = self.condition(str(policy), max_iter, seed)
        for row in super().rows(policy, max_iter, seed) if result != "diverged" else ():
            if result is not None and row.iteration:
                row = dataclasses.replace(row, top1=result, test_loss=1 - result)
            yield row


def diverging(condition, **settings):
    """A net whose trainings diverge at once if condition(policy's text, max_iter, seed)."""
    return Changed(lambda *training: "diverged" if condition(*training) else None, **settings)


@pytest.fixture(scope="module")
def searched(dsn):
    """What a search returned, and the DSN of its database; tests must not change them."""
    with new_database_on(dsn) as database:
        yield Simulated().tune(database, functions=FUNCTIONS), database


@pytest.fixture
def tuned(searched):
    """What the search returned."""
    return searched[0]


@pytest.fixture
def searched_database(searched, dsn):
    """The DSN of a copy of the database after the search."""
    with new_database_on(dsn, template=searched[1].split("dbname=")[-1]) as address:
        yield address


def top1(tuned):
    return tuned.ranked[0].metrics["top1"].mean


def policies(tuned, stage=None):
    """The policies of the trainings, of all stages or of one."""
    return [tried.trial.policy for tried in tuned.tried if stage in (None, tried.stage)]


def stages(tuned):
    return [stage for stage, _ in itertools.groupby(tried.stage for tried in tuned.tried)]


def spent_by(tuned, *names):
    return sum(tried.cost for tried in tuned.tried if tried.stage in names)


def highest_rate(text, length=FULL):
    return from_text(text, length).highest_rate()


# Budget, stages and reasons


@pytest.mark.parametrize("budget", [2 * FULL, 5 * FULL, 8 * FULL + 70])
def test_the_budget_is_not_exceeded(budget, database):
    tuned = Simulated().tune(database, budget=budget, functions=FUNCTIONS)
    with Store(database) as store:
        trials = store.trials(study="search")
    assert len(tuned.tried) == len(trials)
    assert sum(t.rows[-1].iteration for t in trials) <= tuned.cost <= budget
    assert tuned.cost == sum(tried.cost for tried in tuned.tried) > budget - 2 * FULL
    assert len(policies(tuned, "recipe")) >= min(3, (budget - spent_by(tuned, "range")) // FULL)


def test_a_budget_of_a_range_test_and_three_trainings_gives_exactly_the_recipe(tuned, database):
    cost = spent_by(tuned, "range")
    recipe_only = Simulated().tune(database, budget=cost + 3 * FULL)
    assert stages(recipe_only) == ["range", "recipe"]
    best = max(
        (tried for tried in recipe_only.tried if tried.stage == "range"),
        key=lambda tried: tried.trial.best.top1 if tried.trial.state == "finished" else 0,
    )
    rate = best.candidate.highest_rate()
    texts = [recipe(factor * rate, FULL).text for factor in (1, 2, 4)]
    assert policies(recipe_only, "recipe") == texts
    assert texts[0].startswith("WARMUP(k0=%g) for %d then COS(" % (0.1 * rate, 0.05 * FULL))
    results = {
        tried.trial.policy: tried.trial.best.top1
        for tried in recipe_only.tried
        if tried.stage == "recipe" and tried.trial.state == "finished"
    }
    assert len(results) > 1
    assert recipe_only.policy == max(results, key=results.get)


def test_the_stages_have_an_order_and_every_training_has_a_reason(searched):
    tuned, database = searched
    assert stages(tuned) == ["range", "recipe", "shapes", "seeds"]
    assert all(tried.why for tried in tuned.tried)
    lengths = {tried.stage: tried.length for tried in tuned.tried}
    assert lengths == {"range": 2 * INTERVAL, "recipe": FULL, "shapes": FULL, "seeds": FULL}
    with Store(database) as store:
        reasons = studies.reasons(store, tuned.study)
    assert reasons == {tried.trial.id: (tried.stage, tried.why) for tried in tuned.tried}


def test_the_last_incumbent_is_the_result_and_its_rates_are_better_than_constant_ones(tuned):
    costs = [spent for spent, _ in tuned.incumbents]
    assert costs == sorted(costs)
    assert costs[0] <= spent_by(tuned, "range", "recipe")
    assert tuned.incumbents[-1][1] == tuned.policy == tuned.ranked[0].policy
    constant = max(t.trial.best.top1 for t in tuned.tried if t.trial.function == "FIX")
    assert top1(tuned) > constant
    assert len(tuned.ranked[0].trials) >= 4
    assert tuned.cost > tuned.budget - FULL
    notes = [note for note in tuned.notes if note.startswith("best policy after ")]
    assert len(notes) == len(tuned.incumbents)
    assert 'lr_policy: "%s"' % tuned.policy in tuner.summary(tuned)


# The same study again


def test_the_same_search_again_trains_nothing_and_gives_the_same_result(tuned, searched_database):
    net, database = Simulated(), searched_database
    assert net.tune(database, functions=FUNCTIONS) == tuned
    for other, sentence in (
        ({"budget": 5000}, "the budget 3200, not 5000: start another study with --study NAME"),
        ({"functions": ["SIN"]}, "the functions COS, SIN2, POLY, not SIN: "),
        ({"goal": "cost"}, "the goal accuracy, not cost: "),
    ):
        with pytest.raises(InputError, match="search was started with " + sentence):
            net.tune(database, **{"functions": FUNCTIONS, **other})
    assert net.count == 0


def test_a_study_of_an_earlier_version_of_the_tuner_is_refused(searched_database):
    with administration(searched_database) as cursor:
        cursor.execute("UPDATE study SET beginning = beginning #- '{asked,method}'")
    net = Simulated()
    with pytest.raises(
        InputError, match="study search was started by another version, which .* NAME"
    ):
        net.tune(searched_database)
    assert net.count == 0


def test_another_solver_or_net_in_the_same_study_is_refused(searched_database):
    other = Simulated(momentum=0.5)
    sentence = "the study search contains trainings of another version of test_tune.py or its net"
    with pytest.raises(InputError, match=sentence):
        other.tune(searched_database, functions=FUNCTIONS)


@pytest.fixture(scope="module")
def small(dsn):
    """The result of a small search that was not interrupted."""
    with new_database_on(dsn) as database:
        return Simulated().tune(database, budget=8 * FULL, functions=FUNCTIONS)


@pytest.mark.parametrize("beginning", ["range test", "best policy after"])
def test_an_interrupted_search_continues_as_it_would_have_gone_on(beginning, small, database):
    class Interrupted(Exception):
        pass

    def interrupt(sentence):
        if sentence.startswith(beginning):
            raise Interrupted

    net = Simulated()
    with pytest.raises(Interrupted):
        net.tune(database, budget=8 * FULL, functions=FUNCTIONS, on_note=interrupt)
    # What the database gets meanwhile does not matter.
    with_constant_rates(net, database, "POLY(k0=0.04, p=2.0, l=200)")
    continued = net.tune(database, budget=8 * FULL, functions=FUNCTIONS)
    assert net.count == len(continued.tried), "no training is repeated"
    assert policies(continued) == policies(small)
    assert (continued.policy, continued.notes) == (small.policy, small.notes)
    assert continued.notes[0] == "the database has no results for this task or a similar one"


def test_failed_trainings_are_reported_and_repeated_by_the_same_command(database):
    class Killed(Simulated):
        repaired = False

        def train(self, job, stop, on_event, threads):
            if self.repaired or not job.policy.startswith("SIN("):
                super().train(job, stop, on_event, threads)
                return
            running = self.running(job)
            on_event("begin", running)
            on_event("end", running.ended_as("failed", time.time(), "killed by the system"))

    net, arguments = Killed(), {"functions": ["SIN", "COS"], "budget": 14 * FULL}
    failed = net.tune(database, **arguments)
    line = next(line for line in tuner.summary(failed) if line.startswith("failed: "))
    assert line.startswith("failed: SIN(") and line.endswith("with seed 1: killed by the system")
    assert "COS" in failed.policy
    net.repaired = True
    repeated = net.tune(database, **arguments)
    assert not any("failed" in line for line in tuner.summary(repeated))
    states = {t.trial.state for t in repeated.tried if t.trial.policy.startswith("SIN(")}
    assert states == {"finished"}


def test_other_waiting_jobs_of_the_study_are_not_trained(database):
    with Store(database) as store:
        studies.add(store, "search", [Job(__file__, policy="FIX(k0=0.03)", max_iter=FULL, seed=9)])
    tuned = Simulated().tune(database, budget=5 * FULL)
    with Store(database) as store:
        assert len(store.trials(study="search")) == len(tuned.tried)


# Rates


def test_rates_above_1_are_possible(database):
    tuned = Simulated(best=5).tune(database, budget=12 * FULL, functions=["COS"])
    assert highest_rate(tuned.policy) > 5


def test_rates_that_diverge_at_full_length_are_halved_until_a_training_finishes(database):
    net = diverging(
        lambda policy, max_iter, _: max_iter == FULL and highest_rate(policy, max_iter) > 0.01
    )
    tuned = net.tune(database, budget=12 * FULL, functions=["COS"])
    recipes = [t for t in tuned.tried if t.stage == "recipe"]
    assert {t.trial.state for t in recipes[:-2]} == {"diverged"}
    assert highest_rate(tuned.policy) <= 0.01


def test_a_search_in_which_nothing_finishes_is_an_error_that_names_the_study(database):
    net = diverging(lambda policy, max_iter, _: max_iter == FULL)
    with pytest.raises(TrialError, match="no policy finished .* `lrbench study show search`"):
        net.tune(database, budget=6 * FULL)


def test_a_policy_that_diverged_with_a_seed_or_is_near_one_is_not_the_result(database):
    """The second seed diverges from a rate on."""
    net = diverging(lambda policy, _, seed: seed == 2 and highest_rate(policy) > 0.09)
    tuned = net.tune(database, functions=FUNCTIONS)
    diverged = [t.trial.policy for t in tuned.tried if t.trial.state == "diverged" and t.seed == 2]
    assert diverged
    limit = min(map(highest_rate, diverged))
    assert highest_rate(tuned.policy) * 2**0.5 < limit
    (entry,) = (entry for entry in tuned.ranked if entry.policy == diverged[0])
    assert entry.rank is None
    assert tables.tuned(tuned).rows[-1][1] is None, "a policy without a rank is the last one"


@pytest.mark.parametrize("budget", [10 * FULL, 16 * FULL])
def test_a_search_goes_lower_if_the_second_seed_of_the_best_policy_diverges(budget, database):
    """Afterwards all policies have largest rates that are not safe."""
    net = diverging(
        lambda policy, max_iter, seed: (
            max_iter == FULL and highest_rate(policy) > (0.06 if seed == 1 else 0.03)
        )
    )
    tuned = net.tune(database, budget=budget, functions=["COS"])
    assert "diverged" in {t.trial.state for t in tuned.tried if t.seed == 2}
    assert highest_rate(tuned.policy) < 0.03


def test_the_result_is_the_lowest_policy_if_none_is_safe(tuned, database):
    net = diverging(
        lambda policy, max_iter, seed: (
            max_iter == FULL and (seed == 2 or "COS(k0=0.05" not in policy)
        )
    )
    budget = spent_by(tuned, "range") + 4 * FULL
    result = net.tune(database, budget=budget, functions=["COS"])
    assert "COS(k0=0.05" in result.policy
    assert result.ranked[0].rank is None


def test_nothing_begins_at_a_constant_rate_that_diverged(database):
    """Large rates are good behind a warm-up only."""
    net = diverging(lambda policy, *_: Policy.parse(policy).first > 0.15, best=0.04)
    tuned = net.tune(database, functions=["COS", "STEP"])
    constants = [t.trial for t in tuned.tried if t.stage == "range"]
    assert "diverged" in {t.state for t in constants if t.parameters["k0"] == 0.2}
    later = [
        policy for tried, policy in zip(tuned.tried, policies(tuned)) if tried.stage != "range"
    ]
    assert max(map(highest_rate, later)) > 0.2
    assert max(Policy.parse(policy).first for policy in later) < 0.2


def test_a_single_lucky_seed_does_not_become_the_result(database):
    def lucky(policy, max_iter, seed):
        return (0.9999 if seed == 1 else 0.8) if policy.startswith("SIN2") else None

    tuned = Changed(lucky).tune(database, functions=["COS", "SIN2"], budget=12 * FULL)
    assert any(policy.startswith("SIN2") for _, policy in tuned.incumbents)
    assert "COS" in tuned.policy


def test_identical_trainings_are_trained_once(database):
    """With two evaluations, a PLATEAU cannot act: it is the same training as FIX."""
    net = Simulated(test_interval=FULL // 2)
    tuned = net.tune(database, functions=["PLATEAU", "FIX"], budget=24 * FULL)
    keys = [(rates_key(t.candidate, t.length, FULL // 2), t.seed) for t in tuned.tried]
    assert len(keys) == len(set(keys))
    assert any("PLATEAU" in policy for policy in policies(tuned, "recipe"))
    assert {tried.length for tried in tuned.tried} == {FULL}


# What the database has


KNOWN = ("SGDR(k0=0.08, k1=0.0, l=40)", "STEP(k0=0.08, k1=0.001, gamma=0.1, l=90)")


class KnownAreBest(Changed):
    """A net that is best with the functions of KNOWN."""

    def __init__(self, **settings):
        super().__init__(self.known_are_best, **settings)

    def known_are_best(self, policy, max_iter, seed):
        return 0.9995 if policy.startswith(("SGDR(", "STEP(")) else None


def with_constant_rates(net, database, *texts, **options):
    net.record(database, *texts, *("FIX(k0=%g)" % k0 for k0 in (0.01, 0.05, 0.1, 0.2)), **options)


def test_known_policies_are_trained_as_they_are_and_without_a_range_test(database):
    net = KnownAreBest()
    with_constant_rates(net, database, *KNOWN, seeds=(1, 2, 3))
    tuned = net.tune(database, budget=10 * FULL)
    assert tuned.notes[0].startswith("net on made up: the database has results for this task")
    assert stages(tuned)[:2] == ["recipe", "known"]
    assert set(policies(tuned, "known")) == set(KNOWN)
    whys = {t.trial.policy: t.why for t in tuned.tried if t.stage == "known"}
    assert whys[KNOWN[0]] == "among the best known: %s in %d iterations" % (KNOWN[0], FULL)
    assert tuned.incumbents[0][0] == 0 and tuned.incumbents[0][1] in KNOWN
    assert tuned.policy in KNOWN


def test_known_policies_of_another_length_are_stretched_and_their_reason_says_so(database):
    net = KnownAreBest()
    with_constant_rates(net, database, "SGDR(k0=0.08, k1=0.0, l=80)", max_iter=2 * FULL)
    tuned = net.tune(database, budget=5 * FULL)
    (tried,) = (t for t in tuned.tried if t.stage == "known")
    assert tried.trial.policy == KNOWN[0]
    assert tried.why == (
        "among the best known: SGDR(k0=0.08, k1=0.0, l=80) in 400 iterations,"
        " here for 200 iterations"
    )


def test_known_policies_that_are_worse_than_the_recipe_are_not_trained_again(database):
    net = Simulated()
    with_constant_rates(net, database, "POLY(k0=0.005, p=1.0, l=200)")
    assert policies(net.tune(database, budget=5 * FULL), "known") == []


def test_very_short_trainings_do_not_replace_the_range_test(database):
    """After a few iterations the best rate is one that diverges later."""
    net = Simulated()
    with_constant_rates(net, database, max_iter=FULL // 10 - 1)
    assert stages(net.tune(database, budget=6 * FULL))[0] == "range"


def test_good_rates_that_diverged_in_another_training_are_tested_again(database):
    net = Simulated()
    with_constant_rates(net, database)
    diverging(lambda *_: True).record(database, "FIX(k0=0.01)", seeds=(2,))
    tuned = net.tune(database, budget=6 * FULL)
    assert tuned.notes[0].endswith(
        "; another training with one of the good constant rates diverged: they are tested again"
    )
    assert stages(tuned)[0] == "range"


@pytest.mark.parametrize("rate, max_iter", [(0.01, FULL // 10 - 1), (0.05, FULL)])
def test_a_short_training_or_one_above_the_best_rate_does_not_question_good_rates(
    database, rate, max_iter
):
    net = Simulated()
    with_constant_rates(net, database)
    policy = "FIX(k0=%g)" % rate
    diverging(lambda *_: True).record(database, policy, max_iter=max_iter, seeds=(2,))
    assert stages(net.tune(database, budget=6 * FULL))[0] == "recipe"


def test_policies_of_a_similar_task_are_moved_to_the_good_range(database):
    with_constant_rates(KnownAreBest(), database, *KNOWN)
    tuned = KnownAreBest(best=0.0002, dataset="other").tune(database, budget=12 * FULL)
    assert tuned.notes[0].startswith("net on made up is 100 % similar to net on other")
    assert stages(tuned)[:3] == ["range", "recipe", "known"]
    moved = [t for t in tuned.tried if t.stage == "known"]
    assert len(moved) > 1
    for tried in moved:
        assert tried.why.endswith("; rates moved to this task's good range")
        assert highest_rate(tried.trial.policy) < 0.01


def test_a_task_with_another_optimizer_counts_as_similar(database):
    with_constant_rates(Simulated(), database)
    tuned = Simulated(best=0.002, type="Adam").tune(database, budget=6 * FULL)
    assert "SGD with momentum 0.9, yours has Adam with momentum 0.9" in tuned.notes[0]
    assert any(note.startswith("range test: good rates from 0.00") for note in tuned.notes)


def test_a_constant_rate_that_diverged_in_the_database_is_a_limit(database):
    """The range test of an earlier study had other seeds."""
    net = Simulated(best=0.04)
    with_constant_rates(net, database, seeds=(1, 2))
    diverging(lambda *_: True, best=0.04).record(database, "FIX(k0=0.2)", seeds=(3,))
    tuned = net.tune(database, functions=["FIX", "COS"], budget=12 * FULL)
    assert max(highest_rate(policy) for policy in policies(tuned)) >= 0.2
    assert max(Policy.parse(policy).first for policy in policies(tuned)) < 0.2


# Goals and functions


def test_the_goal_cost_finds_a_shorter_training_with_nearly_the_highest_accuracy(database):
    tuned = Simulated().tune(database, goal="cost", functions=["COS"])
    target, iteration = tuned.target
    assert iteration <= tuned.length < FULL
    assert "shorter" in stages(tuned)
    highest = max(t.trial.best.top1 for t in tuned.tried if t.length == FULL)
    assert highest - 0.01 <= target <= highest
    assert top1(tuned) >= target
    assert tuned.cost <= tuned.budget
    assert "max_iter: %d" % tuned.length in tuner.summary(tuned)


def test_the_goal_robustness_ranks_by_its_weights(database):
    class Fragile(Simulated):
        """A net whose predictions are unstable under COS."""

        def rows(self, policy, max_iter, seed):
            for row in super().rows(policy, max_iter, seed):
                if "COS" in str(policy):
                    row = dataclasses.replace(row, ld=0.9, cd=0.9, cdac=0.9, ac=0.1)
                yield row

    arguments = {"functions": ["COS", "POLY"], "budget": 10 * FULL}
    assert "COS" in Fragile().tune(database, "accuracy", **arguments).policy
    tuned = Fragile().tune(database, "robustness", goal="robustness", **arguments)
    assert "POLY" in tuned.policy
    assert tuned.ranked[0].rank == 1


@pytest.mark.parametrize("function", ["FIX", "PLATEAU", "SGDR", "EXP"])
def test_only_the_given_function_is_chosen(function, database):
    tuned = Simulated().tune(database, budget=6 * FULL, functions=[function])
    tried = [t.trial for t in tuned.tried if t.stage != "range"]
    assert {trial.function.split()[-1] for trial in tried} == {function}
    assert {entry.function.split()[-1] for entry in tuned.ranked} == {function}


@pytest.mark.parametrize("max_iter, test_interval", [(30, 20), (20, 100), (50, 7)])
def test_trainings_with_few_evaluations_have_a_result(max_iter, test_interval, database):
    net = Simulated(max_iter=max_iter, test_interval=test_interval)
    tuned = net.tune(database, budget=14 * max_iter, functions=["COS", "FIX"])
    assert tuned.length == max_iter
    assert tuned.cost <= tuned.budget
    assert len(tuned.ranked) > 2


def test_a_net_without_a_test_loss_is_tuned_by_its_top1(database):
    class WithoutLoss(Simulated):
        def rows(self, policy, max_iter, seed):
            for row in super().rows(policy, max_iter, seed):
                yield dataclasses.replace(row, test_loss=None)

    tuned = WithoutLoss().tune(database, budget=6 * FULL, functions=FUNCTIONS)
    assert tuned.policy == tuned.ranked[0].policy
    assert tuned.ranked[0].rank == 1


@pytest.mark.parametrize("budget, rates", [(2 * FULL, "0.001, 0.01"), (6 * FULL, "1e-07, 1e-06")])
def test_a_net_that_does_not_learn_is_an_error_that_names_all_rates(budget, rates, database):
    sentence = "does not learn with any of the constant rates %s, .* in [0-9]+ iterations" % rates
    with pytest.raises(InputError, match=sentence):
        Simulated(best=1e9).tune(database, budget=budget)


# Remarks


def an_answer(ranked):
    """The result of a search that answers with FIX(k0=0.01) and spent its whole budget."""
    spent = 100 * sum(len(entry.trials) for entry in ranked)
    return tuner.Tuned(
        *("search", "accuracy", "FIX(k0=0.01)", 100, tuple(ranked), None, (), (), ()),
        cost=spent,
        budget=spent,
    )


def test_a_policy_with_too_few_seeds_is_only_mentioned():
    several = [trial("FIX(k0=0.01)", [0.1, share], n) for n, share in enumerate((0.8, 0.82), 1)]
    several += [trial("FIX(k0=0.01)", [0.1, 0.81], 3)]
    single = trial("FIX(k0=0.1)", [0.1, 0.9])
    ranked = sorted(tuner.ranking.rank([*several, single]), key=lambda entry: -entry.rank)
    tuned = an_answer(ranked)
    assert "ranked higher with too few seeds to count: FIX(k0=0.1)" in tuner.summary(tuned)
    table = tables.tuned(tuned)
    assert table.title == "net on data, 100 iterations"
    assert [row[1] for row in table.rows] == [1, 2], "the table is in the order of the ranks"


def test_a_tied_policy_with_a_higher_top1_is_mentioned():
    answer = [trial("FIX(k0=0.01)", [0.1, share], n) for n, share in enumerate((0.8, 0.82), 1)]
    tied = [trial("FIX(k0=0.02)", [0.1, share], n) for n, share in enumerate((0.8, 0.84), 1)]
    ranked = tuner.ranking.rank([*answer, *tied])
    assert [entry.rank for entry in ranked] == [1, 1]
    tuned = an_answer(ranked[::-1])
    remark = "with a higher Top-1, by a lead within the noise of the seeds: FIX(k0=0.02)"
    assert remark in tuner.summary(tuned)


def test_a_policy_that_is_not_safe_is_mentioned_if_its_top1_is_higher():
    texts = {"FIX(k0=0.01)": 0.8, "FIX(k0=0.2)": 0.9, "FIX(k0=0.3)": 0.7}
    answer, *unsafe = (
        entry
        for text, share in texts.items()
        for entry in tuner.ranking.rank([trial(text, [0.1, share])])
    )
    unsafe = [dataclasses.replace(entry, rank=None) for entry in unsafe]
    remark = "with a higher Top-1, but a net diverged or collapsed at such a largest rate: %s"
    assert remark % "FIX(k0=0.2)" in tuner.summary(an_answer([answer, *unsafe]))
    (failed,) = tuner.ranking.rank([trial("FIX(k0=0.2)", [0.1, 0.9], state="failed", error="x")])
    assert failed.rank is None
    lines = tuner.summary(an_answer([answer, failed]))
    assert not any(line.startswith("with a higher Top-1") for line in lines)


def test_a_policy_that_had_easier_seeds_is_mentioned_with_this_reason():
    easy, hard = {1: 0.90}, {2: 0.88, 3: 0.88, 4: 0.88, 5: 0.88, 6: 0.88}
    answer = [trial("FIX(k0=0.01)", [0.1, share], n) for n, share in {**easy, **hard}.items()]
    lucky = [trial("FIX(k0=0.02)", [0.1, 0.9 - n / 1000], n) for n in (1, 7, 8)]
    ranked = sorted(tuner.ranking.rank([*answer, *lucky]), key=lambda entry: -entry.rank)
    assert [entry.rank for entry in ranked] == [2, 1]
    tuned = an_answer(ranked)
    remark = "ranked higher, but not on the seeds that both have: FIX(k0=0.02)"
    assert remark in tuner.summary(tuned)


# The command


@needs_caffe
def test_the_command_prints_a_line_for_the_solver(invoke, tmp_path, digits, database, name):
    solver = nets.write(tmp_path, nets.solver(max_iter=40))
    arguments = ["tune", solver, "--data", digits, "--dsn", database, "--study", name]
    arguments += ["--budget", "240", "--function", "POLY", "--format", "json"]
    done = invoke(*arguments)
    assert done.returncode == 0, done.stderr
    best = json.loads(done.stdout)[0]
    assert best["rank"] == 1
    assert 'lr_policy: "%s"\nmax_iter: 40\n' % best["policy"] in done.stderr
    assert "of 240 iterations in" in done.stderr
    again = invoke(*arguments)
    assert again.stdout == done.stdout
    assert "finished" not in again.stderr


@needs_caffe
@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (("--budget", "100"), "invalid budget of 100 iterations: expected at least 240"),
        (("--function", "SINN"), "did you mean SIN"),
    ],
)
def test_invalid_arguments_are_reported_in_one_line(arguments, sentence, invoke, tmp_path, digits):
    solver = nets.write(tmp_path, nets.solver(max_iter=120))
    done = invoke("tune", solver, "--data", digits, *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
