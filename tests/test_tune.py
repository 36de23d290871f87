"""The search of `lrbench tune`: its budget, its stages, its reasons, and how it continues."""

import dataclasses
import itertools
import json
import random
import time

import nets
import pytest
from conftest import needs_caffe, new_database_on
from trials import trial

from lrbench_caffe import ranking
from lrbench_caffe.display import tables
from lrbench_caffe.errors import InputError
from lrbench_caffe.evaluator.old_candidates import TUNED
from lrbench_caffe.policies import Policy
from lrbench_caffe.trial import Dataset, Evaluation, Job

pytest.importorskip(
    "psycopg2", reason="needs psycopg2 and PostgreSQL: run the tests with `make test`"
)
from lrbench_caffe.database import Store, studies
from lrbench_caffe.evaluator import old_candidates, range_test, tuner
from lrbench_caffe.evaluator.trainer import Trainer
from lrbench_caffe.study.cores import Cores

SETTINGS = {"type": "SGD", "momentum": 0.9, "max_iter": 1000, "test_interval": 50, "batch_size": 50}


class Simulated:
    """A net with a made-up learning curve; everything else, including the database, is real.

    The error shrinks with the rate, a large rate adds noise, and a rate above 0.3 diverges.
    Therefore decaying rates do best.
    """

    def __init__(self, best=0.02, dataset="made up"):
        self.best, self.count = best, 0
        self.setup = dataclasses.replace(
            trial().setup,
            classes=10,
            solver=SETTINGS,
            dataset=Dataset(dataset, (1, 8, 8), 1000, 10000),
        )

    def describe(self, job):
        return dataclasses.replace(trial("FIX(k0=0.1)"), setup=self.setup)

    def running(self, job):
        """The trial of a job at its beginning."""
        settings = dict(self.setup.solver, max_iter=job.max_iter or 1000)
        return dataclasses.replace(
            trial(job.policy, (), state="running"),
            id=job.id,
            started=time.time(),
            setup=dataclasses.replace(self.setup, seed=job.seed, solver=settings),
        )

    def train(self, job, stop, on_event, threads):
        self.count += 1
        running = self.running(job)
        max_iter = running.setup.solver["max_iter"]
        on_event("begin", running)
        state = "diverged"
        for row in self.rows(Policy.parse(job.policy), max_iter, job.seed):
            running = running.with_row(row)
            on_event("row", row)
            state = "finished" if row.iteration == max_iter else "diverged"
        error = None if state == "finished" else "too large a rate"
        on_event("end", running.ended_as(state, time.time(), error))

    def rows(self, policy, max_iter, seed):
        noise = random.Random("%s %s %s" % (policy, max_iter, seed))
        error, memory = 0.9, None
        for t in range(max_iter + 1):
            lr = policy.schedule(memory)(min(t, policy.end)) / self.best
            if t and lr > 15:
                break
            if t % 50 == 0 or t == max_iter:
                top1 = max(0.1, 1 - error - 0.01 * lr - 0.0005 * noise.random())
                row = Evaluation(t, lr, 1 - top1, 1 - top1, top1, 1.0, top1, 0.1, 0.1, 0.01)
                memory = policy.observe(memory, row)
                yield row
            error = 0.001 + (error - 0.001) * (1 - 0.01 * min(lr, 3))

    def cost_of(self, tuned, top1):
        """The iterations from which on all incumbents reach this Top-1 with a new seed."""
        cost = tuned.budget
        for spent, policy in reversed(tuned.incumbents):
            if max(row.top1 for row in self.rows(Policy.parse(policy), 1000, 0)) < top1:
                break
            cost = spent
        return cost

    def trainer(self, database, kind="tune", name="search"):
        return Trainer(
            __file__, Cores(2, train=self.train), kind, name, dsn=database, describe=self.describe
        )

    def tune(
        self,
        database,
        name="search",
        budget=20000,
        functions=(),
        goal="accuracy",
        on_note=lambda sentence: None,
    ):
        trainer = self.trainer(database, name=name)
        trainer.budget = budget
        return tuner.tune(trainer, functions, goal, on_note)


def diverging(condition):
    """A simulated net whose trainings diverge at once if condition(policy, max_iter, seed)."""

    class Diverging(Simulated):
        def rows(self, policy, max_iter, seed):
            if condition(str(policy), max_iter, seed):
                return iter(())
            return super().rows(policy, max_iter, seed)

    return Diverging()


@pytest.fixture(scope="module")
def searched(dsn):
    """What Simulated().tune() returned, and the DSN of its database; tests must not change them."""
    with new_database_on(dsn) as database:
        yield Simulated().tune(database), database


@pytest.fixture
def tuned(searched):
    """What Simulated().tune() returned."""
    return searched[0]


@pytest.fixture
def searched_database(searched, dsn):
    """The DSN of a copy of the database after Simulated().tune()."""
    with new_database_on(dsn, template=searched[1].split("dbname=")[-1]) as address:
        yield address


def top1(tuned):
    return tuned.ranked[0].metrics["top1"].mean


def max_iter_of(tried):
    return tried.trial.setup.solver["max_iter"]


def stages(tuned):
    return {tried.stage for tried in tuned.tried}


def highest_rate(tried):
    """The highest rate of a training whose policy does not depend on its loss."""
    policy = Policy.parse(tried.trial.policy)
    return max(policy(t) for t in range(max_iter_of(tried)))


@pytest.mark.parametrize("budget", [2000, 3000, 6000, 20000])
def test_the_budget_is_not_exceeded_and_a_larger_one_gives_a_better_policy(budget, database):
    tuned = Simulated().tune(database, budget=budget)
    with Store(database) as store:
        trials = store.trials(study="search")
    assert len(tuned.tried) == len(trials)
    assert sum(t.rows[-1].iteration for t in trials) <= tuned.cost <= budget
    if budget >= 6000:
        constant = max(t.best.top1 for t in trials if t.function == "FIX")
        assert top1(tuned) > constant
        assert len(tuned.ranked[0].trials) > 1 or budget < 20000
        assert tuned.ranked[0].function.split()[-1] not in ("FIX", "INV")


def test_every_training_has_a_reason_and_short_trainings_come_first(tuned):
    assert all(tried.why for tried in tuned.tried)
    order = [stage for stage, _ in itertools.groupby(tried.stage for tried in tuned.tried)]
    assert order == ["range", "height", "range", "coarse", "fine", "full"]
    full = {max_iter_of(tried) for tried in tuned.tried if tried.stage == "full"}
    short = {max_iter_of(tried) for tried in tuned.tried if tried.stage != "full"}
    assert full == {1000}
    assert max(short) < 1000
    functions = {t.trial.function for t in tuned.tried if t.stage in ("height", "coarse")}
    assert functions | {"FIX"} == set(TUNED), "the range test has already tried FIX"


def test_the_same_search_again_trains_nothing_and_gives_the_same_result(tuned, searched_database):
    net, database = Simulated(), searched_database
    assert net.tune(database) == tuned
    assert net.count == 0
    sentence = "was started with the budget 20000, not 30000: start another study with --study NAME"
    with pytest.raises(InputError, match=sentence):
        net.tune(database, budget=30000)
    sentence = "was started with the functions SINEXP, NSTEP, .*, FIX, not SIN"
    with pytest.raises(InputError, match=sentence):
        net.tune(database, functions=["SIN"])
    assert net.count == 0
    longer = net.tune(database, name="longer", budget=30000)
    assert top1(longer) >= top1(tuned) - 0.001


def test_a_study_with_rounding_errors_in_its_policies_is_continued(database, monkeypatch):
    """Older versions made candidates such as gamma=0.7070000000000001."""

    class Interrupted(Exception):
        pass

    def interrupt(sentence):
        if sentence.startswith("best functions so far"):
            raise Interrupted

    net = Simulated()
    with monkeypatch.context() as older:
        older.setattr(old_candidates, "_exact", lambda value: value * (1 + 2**-52))
        with pytest.raises(Interrupted):
            net.tune(database, on_note=interrupt)
    with Store(database) as store:
        before = {trial.id: trial.policy for trial in store.trials(study="search")}
    assert any(text != old_candidates.without_noise(text) for text in before.values())
    tuned = net.tune(database)
    assert net.count == len(tuned.tried), "no training is repeated"
    assert {tried.trial.id for tried in tuned.tried} >= set(before)
    for tried in tuned.tried:
        if tried.trial.id not in before:
            assert tried.trial.policy == old_candidates.without_noise(tried.trial.policy)


def test_another_solver_or_net_in_the_same_study_is_refused(searched_database):
    other = Simulated()
    other.setup = dataclasses.replace(other.setup, solver=dict(SETTINGS, momentum=0.5))
    sentence = "the study search contains trainings of another version of test_tune.py or its net"
    with pytest.raises(InputError, match=sentence):
        other.tune(searched_database)


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

    net = Killed()
    failed = net.tune(database, functions=["SIN", "COS", "FIX"])
    line = next(line for line in tuner.summary(failed) if line.startswith("failed: "))
    assert line.startswith("failed: SIN(") and line.endswith("with seed 1: killed by the system")
    net.repaired = True
    repeated = net.tune(database, functions=["SIN", "COS", "FIX"])
    assert not any("failed" in line for line in tuner.summary(repeated))
    states = {t.trial.state for t in repeated.tried if t.trial.policy.startswith("SIN(")}
    assert "finished" in states


def test_other_waiting_jobs_of_the_study_are_not_trained(database):
    with Store(database) as store:
        studies.add(store, "search", [Job(__file__, policy="FIX(k0=0.03)", max_iter=1000, seed=9)])
    tuned = Simulated().tune(database)
    with Store(database) as store:
        assert len(store.trials(study="search")) == len(tuned.tried)


def test_a_task_with_another_optimizer_counts_as_similar(searched_database):
    other = Simulated(best=0.002)
    other.setup = dataclasses.replace(other.setup, solver=dict(SETTINGS, type="Adam", momentum=0.9))
    tuned = other.tune(searched_database, "adam")
    assert "SGD with momentum 0.9, yours has Adam with momentum 0.9" in tuned.notes[0]
    assert any(note.startswith("range test: good rates from 0.00") for note in tuned.notes)


def test_after_a_range_test_tune_avoids_diverged_rates_and_checks_the_best_rate(database):
    net = Simulated()
    range_test.run(net.trainer(database, "range", "range"))
    with Store(database) as store:
        diverged = store.trials(function="FIX", state="diverged")
    limit = min(trial.parameters["k0"] for trial in diverged)
    tuned = net.tune(database)
    seeds = {tried.trial.setup.seed for tried in tuned.tried if tried.stage == "range"}
    assert seeds == {1, 2, 3}
    for tried in tuned.tried:
        if tried.trial.function not in ("PLATEAU", "WARMUP then PLATEAU"):
            assert highest_rate(tried) < limit


def test_an_interrupted_search_continues_with_what_the_database_had_at_its_start(database):
    class Interrupted(Exception):
        pass

    def interrupt(sentence):
        if "range test" in sentence:
            raise Interrupted

    net = Simulated()
    with pytest.raises(Interrupted):
        net.tune(database, on_note=interrupt)
    notes = net.tune(database).notes
    assert notes[0] == "the database has no results for this task or a similar one"
    assert notes[1].startswith("range test: good rates from")


def test_a_task_with_results_needs_no_range_test_and_fewer_functions(tuned, searched_database):
    second = Simulated().tune(searched_database, name="second", budget=8000)
    sentence = "net on made up: the database has results for this task; its best policy is from 3"
    assert second.notes[0].startswith(sentence)
    assert "; its good constant rates go" in second.notes[0]
    assert "range" not in stages(second)
    assert len({tried.trial.function for tried in second.tried}) <= 8
    assert top1(second) >= top1(tuned) - 0.001


def test_policies_of_a_similar_task_are_moved_to_the_good_range(searched_database):
    other = Simulated(best=0.002, dataset="other")
    tuned = other.tune(searched_database, "other", budget=8000)
    assert "% similar to net on other" in tuned.notes[0]
    spent, policy = tuned.incumbents[0]
    assert spent == 0
    assert tuned.notes[1] == "best policy after 0 iterations: %s" % policy
    assert tuned.notes[2].startswith("range test:")
    assert "coarse" not in stages(tuned)
    assert any("rates moved to this task's good range" in tried.why for tried in tuned.tried)


def test_results_of_a_similar_task_save_at_least_half_of_the_iterations(
    searched_database, database
):
    net = Simulated(best=0.01, dataset="other")
    with_results, without = net.tune(searched_database, "second"), net.tune(database, "second")
    enough = top1(without) - 0.001
    cost = net.cost_of(without, enough)
    assert cost < without.budget
    assert net.cost_of(with_results, enough) <= cost / 2


def test_there_is_an_incumbent_from_the_range_test_on_and_the_last_one_is_the_result(tuned):
    costs = [spent for spent, _ in tuned.incumbents]
    assert costs == sorted(costs)
    assert costs[0] < 0.3 * tuned.budget
    assert tuned.incumbents[0][1].startswith("SINEXP(")
    assert tuned.incumbents[-1][1] == tuned.policy
    assert Simulated().cost_of(tuned, 0.99) < 0.5 * tuned.budget


class Higher(Simulated):
    """A net with a lower test loss at twice the rate, except for the seeds `worse`.

    Its Top-1 is only noise.
    """

    worse = ()

    def rows(self, policy, max_iter, seed):
        high = "k1=0.1," not in str(policy) and "k1=0.4" not in str(policy)
        for row in super().rows(policy, max_iter, seed):
            if not str(policy).startswith("SINEXP"):
                yield row
                continue
            noise = random.Random("%s %s %s" % (policy, row.iteration, seed)).random() / 100
            yield dataclasses.replace(
                row,
                top1=0.9 + noise if row.iteration else 0.1,
                test_loss=0.2 if high and seed not in self.worse else 0.3,
            )


@pytest.mark.parametrize(
    "worse, high", [((), "k1=0.2,"), ((1,), "k1=0.1,"), ((2,), "k1=0.1,"), ((3,), "k1=0.1,")]
)
def test_the_largest_rate_is_doubled_if_that_lowers_the_loss_with_each_seed(worse, high, database):
    net = Higher()
    net.worse = worse
    tuned = net.tune(database, functions=["SINEXP"])
    first_cost, first_policy = tuned.incumbents[0]
    assert "k1=0.1" in first_policy
    costs = [spent for spent, policy in tuned.incumbents if high in policy]
    assert costs[0] <= first_cost + 6 * 250
    seeds = {}
    for tried in tuned.tried:
        if tried.stage == "height":
            seeds.setdefault(tried.trial.policy, []).append(tried.trial.setup.seed)
    assert list(seeds.values()) == [[1, 2, 3]] * (3 if high == "k1=0.2," else 2)
    sentence = "doubling the largest rate lowers the test loss with each of 3 seeds"
    assert (sentence in tuned.notes) == (not worse)


@pytest.mark.parametrize("functions", [["SINEXP"], ["SINEXP", "COS", "NSTEP"]])
def test_a_first_incumbent_that_diverges_with_another_seed_is_replaced(functions, database):
    net = diverging(
        lambda policy, _, seed: policy.startswith("SINEXP") and "k1=0.1," in policy and seed == 2
    )
    tuned = net.tune(database, functions=functions)
    assert "k1=0.1," in tuned.incumbents[0][1]
    assert "k1=0.1," not in tuned.policy
    if len(functions) > 1:
        spent, policy = tuned.incumbents[1]
        assert "k1=0.1" not in policy
        assert spent < 0.3 * tuned.budget


def test_a_bad_policy_with_much_noise_does_not_stay_the_incumbent(database):
    class Varying(Simulated):
        def rows(self, policy, max_iter, seed):
            loss = 0.3 if "k1=0.2" in str(policy) and seed > 1 else 0.15
            for row in super().rows(policy, max_iter, seed):
                worse = loss if str(policy).startswith("SINEXP") and row.iteration else 0
                yield dataclasses.replace(
                    row, top1=max(0.1, row.top1 - worse), test_loss=row.test_loss + worse
                )

    tuned = Varying().tune(database, functions=["SINEXP", "COS", "SIN", "POLY"])
    spent, policy = tuned.incumbents[1]
    assert "SINEXP" not in policy
    assert spent < 0.3 * tuned.budget


def test_a_small_budget_has_room_for_several_functions(database):
    tuned = Simulated().tune(database, budget=2500)
    assert len({tried.trial.function for tried in tuned.tried}) > 2


def test_candidates_that_cannot_be_tried_do_not_take_places_in_the_fine_stage(database):
    tuned = Simulated().tune(database, functions=["SINEXP", "COS", "SIN"])
    fine = [tried.trial.policy for tried in tuned.tried if tried.stage == "fine"]
    assert len(fine) == len(set(fine)) == 9
    assert len({policy.split("(")[0] for policy in fine if "then" not in policy}) == 3


def test_without_room_for_the_seeds_the_height_stage_is_skipped(database):
    assert "height" not in stages(Simulated().tune(database, budget=2000))


def test_one_or_two_seeds_at_full_length_replace_the_incumbent_only_beyond_the_noise(database):
    tuned = Simulated().tune(database, budget=6000, functions=["TRI", "PLATEAU"])
    full = [tried.trial.policy for tried in tuned.tried if tried.stage == "full"]
    start = tuned.cost - 1000 * len(full)
    changes = [
        (spent, full[: (spent - start) // 1000].count(policy))
        for spent, policy in tuned.incumbents
        if spent > start
    ]
    assert changes
    assert all(seeds >= tuner.SEEDS or spent == tuned.cost for spent, seeds in changes)


@pytest.mark.parametrize("lead, first", [(0.001, "FIX(k0=0.01)"), (0.1, "FIX(k0=0.1)")])
def test_a_result_with_one_seed_leads_beyond_the_noise_or_is_only_mentioned(lead, first):
    several = [
        trial("FIX(k0=0.01)", [0.1, top1], seed) for seed, top1 in enumerate((0.8, 0.82, 0.81), 1)
    ]
    single = trial("FIX(k0=0.1)", [0.1, 0.81 + lead])
    ranked = tuner._most_seeds_first(ranking.rank([*several, single]), 1000, by_top1=True)
    assert [entry.rank for entry in ranked] == ([2, 1] if lead < 0.01 else [1, 2])
    assert ranked[0].policy == first
    tuned = tuner.Tuned(
        *("search", "accuracy", first, 100, tuple(ranked), None, (), (), ()), cost=400, budget=400
    )
    sentence = "ranked higher with one seed, by a lead that may be noise: FIX(k0=0.1)"
    assert (sentence in tuner.summary(tuned)) == (lead < 0.01)
    table = tables.tuned(tuned)
    assert table.title == "net on data, 100 iterations"
    assert [row[1] for row in table.rows] == [1, 2], "the table is in the order of the ranks"


def test_the_best_constant_rate_does_not_diverge_with_other_seeds(database):
    net = diverging(lambda policy, _, seed: policy == "FIX(k0=0.05)" and seed == 3)
    tuned = net.tune(database, functions=["POLY"])
    assert "FIX(k0=0.05) diverged with another seed" in tuned.notes
    incumbents = [policy for _, policy in tuned.incumbents]
    assert incumbents[0] == "POLY(k0=0.05, p=1.0, l=1000)"
    safe = incumbents[incumbents.index("POLY(k0=0.02, p=1.0, l=1000)") :]
    assert max(Policy.parse(policy)(100) for policy in safe) < 0.05
    again = net.tune(database, name="again", functions=["POLY"])
    policies = [tried.trial.policy for tried in again.tried]
    assert not any("k0=0.05," in policy for policy in policies), "the database has the divergence"


def test_a_policy_that_diverged_with_one_seed_is_not_the_result(database):
    net = diverging(lambda policy, _, seed: policy.startswith("WARMUP") and seed == 2)
    tuned = net.tune(database, functions=["POLY"])
    assert any(
        entry.function.startswith("WARMUP") and entry.trials and entry.rank is None
        for entry in tuned.ranked
    )
    assert tuned.policy == tuned.ranked[0].policy
    assert tuned.policy.startswith("POLY(")


@pytest.mark.parametrize("budget", [6000, 12000, 20000])
def test_the_best_candidate_of_short_trainings_is_trained_at_full_length(budget, database):
    net = Simulated()
    # With 10 test samples, the first incumbent stays, because no lead exceeds the noise.
    small = Dataset("small", (1, 8, 8), 1000, 10)
    net.setup = dataclasses.replace(net.setup, dataset=small)
    tuned = net.tune(database, budget=budget, functions=["SINEXP", "TRIEXP", "EXP"])
    length = next(max_iter_of(tried) for tried in tuned.tried if tried.stage == "fine")
    finished = [
        tried.trial
        for tried in tuned.tried
        if tried.stage != "range"
        and max_iter_of(tried) == length
        and tried.trial.state == "finished"
    ]
    best = max(finished, key=lambda trial: trial.best.top1)
    rates = best.policy.split("gamma")[0].split("l=")[0]  # gamma and l depend on the length
    full = [tried.trial.policy for tried in tuned.tried if tried.stage == "full"]
    assert any(policy.startswith(rates) for policy in full)


def test_the_next_candidate_replaces_one_that_diverges_at_full_length(database):
    net = diverging(lambda policy, max_iter, _: max_iter == 1000 and "PLATEAU" in policy)
    tuned = net.tune(database, budget=12000)
    full = [tried for tried in tuned.tried if tried.stage == "full"]
    finalists = [
        tried.trial for tried in itertools.takewhile(lambda t: t.why != "another seed", full)
    ]
    assert any(trial.state == "diverged" for trial in finalists)
    finished = {trial.policy for trial in finalists if trial.state == "finished"}
    assert len(finished) == tuner.LEADERS


def test_no_policy_reaches_a_constant_rate_that_diverged(tuned):
    limit = min(
        tried.trial.parameters["k0"]
        for tried in tuned.tried
        if tried.trial.function == "FIX" and tried.trial.state == "diverged"
    )
    for tried in tuned.tried:
        if tried.stage != "range" and "PLATEAU" not in tried.trial.policy:
            assert highest_rate(tried) < limit


def test_the_goal_cost_finds_a_shorter_training_with_nearly_the_highest_accuracy(database):
    tuned = Simulated().tune(database, goal="cost")
    target, iteration = tuned.target
    assert tuned.length < 1000
    assert iteration <= tuned.length
    assert "shorter" in stages(tuned)
    highest = max(t.trial.best.top1 for t in tuned.tried if t.stage == "full")
    assert highest - 0.002 <= target <= highest
    assert top1(tuned) >= target
    assert "max_iter: %d" % tuned.length in tuner.summary(tuned)


def test_the_goal_robustness_ranks_by_its_weights(database):
    tuned = Simulated().tune(database, goal="robustness", functions=["FIX", "POLY"])
    assert tuned.ranked[0].function.split()[-1] == "POLY"
    assert tuned.goal == "robustness"


@pytest.mark.parametrize("budget", [2000, 6000])
def test_only_the_given_functions_are_chosen(budget, database):
    tuned = Simulated().tune(database, budget=budget, functions=["EXP"])
    assert {entry.function.split()[-1] for entry in tuned.ranked} == {"EXP"}
    tried = [tried.trial for tried in tuned.tried if tried.stage != "range"]
    assert {trial.function.split()[-1] for trial in tried} == {"EXP"}


def test_a_net_that_does_not_learn_is_an_error(database):
    sentence = "does not learn with any of the constant rates .*, 1.0 in 2000 iterations"
    with pytest.raises(InputError, match=sentence):
        Simulated(best=1e9).tune(database)


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


def test_the_study_has_the_reason_for_each_training(searched):
    tuned, database = searched
    with Store(database) as store:
        reasons = studies.reasons(store, tuned.study)
    assert len(reasons) > 10
    assert reasons == {tried.trial.id: (tried.stage, tried.why) for tried in tuned.tried}
