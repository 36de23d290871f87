"""Tuning: candidates by the paper's rules, and a search that keeps to its budget, says why it tries what, and goes on when cut off."""

import dataclasses
import itertools
import json
import random
import time

import nets
import pytest
from conftest import needs_caffe, new_database_on
from hypothesis import given
from hypothesis import strategies as st
from trials import trial

from lrbench_caffe.errors import InputError
from lrbench_caffe.evaluator import candidates
from lrbench_caffe.evaluator.candidates import (
    TUNED,
    Candidate,
    fallen,
    finer,
    first,
    highest,
    known,
    moved,
    of_text,
    placed,
)
from lrbench_caffe.policies import Policy
from lrbench_caffe.ranking.ranges import Range
from lrbench_caffe.trial import Dataset, Evaluation, Job

GOOD = Range(0.005, 0.06, 0.02, 0.99)
LENGTH = 6000


@pytest.mark.parametrize("function", TUNED)
@given(
    length=st.integers(50, 100000),
    epoch=st.one_of(st.none(), st.floats(1, 5000)),
    low=st.floats(1e-5, 0.1),
    width=st.floats(1, 100),
)
def test_every_candidate_is_a_policy_of_any_length_with_rates_from_the_range(
    function, length, epoch, low, width
):
    good = Range(low, min(1.0, low * width), low, 0.9)
    candidate, why = first(function, good)
    assert why
    for one in [candidate] + [beside for beside, _ in finer(candidate, 2, good, 40)]:
        policy = one.policy(length, epoch)
        assert Policy.parse(str(policy)) == policy and policy.end >= length - 1
        if not policy.has_memory:
            rates = [policy(t) for t in (0, length // 2, length - 1)]
            assert all(0 <= rate <= 1.06 * 2 * good.high for rate in rates)


def test_constant_and_decaying_rates_begin_at_the_best_constant_one_and_cycles_lie_in_the_range():
    assert str(first("STEP", GOOD)[0].policy(LENGTH, 600)).startswith("STEP(k0=0.02, ")
    assert str(first("FIX", GOOD)[0].policy(LENGTH)) == "FIX(k0=0.02)"
    assert str(first("COS", GOOD)[0].policy(LENGTH)) == "COS(k0=0.02, k1=0.0005, l=6000)"
    assert str(first("TRI", GOOD)[0].policy(LENGTH)) == "TRI(k0=0.0005, k1=0.06, l=3000)"


def test_the_decay_of_sinexp_keeps_its_one_cycle_below_the_upper_end_of_the_good_rates():
    policy = first("SINEXP", GOOD)[0].policy(LENGTH)
    rates = [policy(t) for t in range(LENGTH)]
    assert (
        0.7 * GOOD.high < max(rates) < GOOD.high and 0.25 < rates.index(max(rates)) / LENGTH < 0.35
    )


@pytest.mark.parametrize("function", ["STEP", "NSTEP", "EXP"])
def test_gamma_goes_with_the_number_of_steps_so_that_the_last_rate_is_not_too_small(function):
    candidate, _ = first(function, GOOD)
    for length in (500, 6000, 70000):
        assert candidate.policy(length, 500)(length - 1) == pytest.approx(
            0.02 * candidates.LAST, rel=0.05
        )


def test_step_sizes_are_multiples_of_an_epoch():
    assert first("STEP", GOOD)[0].policy(10000, 600).parameters["l"] % 600 == 0


@pytest.mark.parametrize("warmup", [0, 50])
@pytest.mark.parametrize("function", TUNED)
def test_what_a_policy_was_as_a_candidate_is_found_again(function, warmup):
    policy = dataclasses.replace(first(function, GOOD)[0], warmup=warmup).policy(LENGTH)
    assert known(policy, LENGTH).policy(LENGTH) == policy


def test_steps_that_leave_nothing_of_the_rate_are_a_candidate_too():
    assert of_text("STEP(k0=0.05, gamma=0.1, l=1)", 600).policy(600)(599) > 0


def test_the_highest_rate_is_found_however_short_the_cycles():
    assert highest(of_text("TRI(k0=0.01, k1=0.06, l=100)", 40000), 40000) == pytest.approx(0.06)


def test_what_is_made_by_no_rule_is_no_candidate():
    assert known(Policy.parse("FIX(k0=0.001) for 5 then FIX(k0=0.1)"), LENGTH) is None
    assert of_text("whatever Caffe has", LENGTH) is None


def test_beyond_the_best_constant_rate_a_warm_up_comes_first():
    beside, why = finer(Candidate("POLY", 0.05), 2, GOOD, 50)[0]
    assert (
        str(beside.policy(1000))
        == "WARMUP(k0=0.01) for 50 then POLY(k0=0.1, p=1, l=950)".replace("p=1,", "p=1.0,")
        and "beyond the best constant one" in why
    )
    assert not any(
        one.high > 0.06 and not one.warmup for one, _ in finer(Candidate("POLY", 0.05), 2, GOOD, 50)
    )
    assert "a warm-up twice as long" in finer(beside, 2, GOOD, 50)[0][1]
    assert not any(one.warmup for one, _ in finer(Candidate("POLY", 0.01), 2, GOOD, 50))


def test_a_warm_up_has_its_iterations_in_a_long_training_too_and_at_most_a_quarter_of_a_short_one():
    candidate = Candidate("COS", 0.1, 0.001, warmup=50)
    assert str(candidate.policy(10000)).startswith("WARMUP(k0=0.01) for 50 then ")
    assert str(candidate.policy(100)).startswith("WARMUP(k0=0.01) for 25 then ")


def test_a_warm_up_takes_as_long_as_most_of_the_fall_of_the_loss_under_the_best_constant_rate():
    assert fallen(constant([2.3, 1.5, 0.6, 0.4, 0.3, 0.3])) == 300
    assert fallen(constant([2.3, 0.4, 0.3, 0.3])) == 100
    assert fallen(constant([0.3, 0.4, 0.5])) == 200  # never: all of it


def constant(losses):
    """A trial under FIX with these test losses, the first before training."""
    found = trial("FIX(k0=0.02)", [0.1] * len(losses))
    return dataclasses.replace(
        found,
        rows=tuple(
            dataclasses.replace(row, test_loss=loss) for row, loss in zip(found.rows, losses)
        ),
    )


STOPPED = constant([2.0, 1.0, 0.5, 0.4, 0.3, 0.3, 0.299, 0.31, 0.3, 0.3, 0.3])
FALLING = constant([1 / (n + 1) for n in range(11)])


def test_nsteps_steps_are_where_the_loss_stopped_improving():
    candidate, why = placed("NSTEP", GOOD, STOPPED)
    assert (
        candidate.policy(1000).parameters["l"] == (400, 700, 850)
        and "FIX(k0=0.02) stopped improving after 40 %" in why
    )
    assert placed("NSTEP", GOOD, FALLING) is None


def test_plateaus_patience_lets_it_lower_its_rate_as_often_as_what_is_left_after_the_plateau_has_room_for():
    candidate, why = placed("PLATEAU", GOOD, STOPPED)
    assert (
        str(candidate.policy(1000)) == "PLATEAU(k0=0.02, k1=0.0002, gamma=0.316, l=120)"
    )  # 60 % in five parts
    assert "stopped improving after 40 %" in why and "each 10 % or sooner before" in why
    assert placed("PLATEAU", GOOD, FALLING) is None


def test_plateaus_patience_is_no_shorter_than_the_waits_for_an_improvement_before_the_plateau():
    waits = constant([2.0, 2.1, 2.1, 1.0, 1.1, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6])
    policy = placed("PLATEAU", GOOD, waits)[0].policy(1000)
    assert (
        policy.parameters["l"] == 300 and policy.parameters["gamma"] == 0.01
    )  # lowered once, at 80 %
    beside = [
        one.policy(1000).parameters["l"]
        for one, why in finer(placed("PLATEAU", GOOD, waits)[0], 2, GOOD, 50)
        if "patience" in why
    ]
    assert beside == [150, 600]


pytest.importorskip(
    "psycopg2", reason="needs psycopg2 and PostgreSQL: run the tests with `make test`"
)
from lrbench_caffe.database import Store, studies  # noqa: E402
from lrbench_caffe.evaluator import range_test, tuner  # noqa: E402
from lrbench_caffe.evaluator.trainings import Trainer  # noqa: E402
from lrbench_caffe.study.cores import Cores  # noqa: E402

SETTINGS = {"type": "SGD", "momentum": 0.9, "max_iter": 1000, "test_interval": 50, "batch_size": 50}


class Simulated:
    """A net of which only the learning curve is made up: all else, from the study to the database, is real.

    What is left to learn shrinks with the rate, a large rate leaves noise, and one above 0.3 diverges: decaying rates do best.
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

    def train(self, job, stop, on_event, threads):
        self.count += 1
        policy, max_iter = Policy.parse(job.policy), job.max_iter or 1000
        begun = dataclasses.replace(
            trial(job.policy, (), state="running"),
            id=job.id,
            started=time.time(),
            setup=dataclasses.replace(
                self.setup, seed=job.seed, solver=dict(self.setup.solver, max_iter=max_iter)
            ),
        )
        on_event("begin", begun)
        state = "diverged"
        for row in self.rows(policy, max_iter, job.seed):
            begun = begun.with_row(row)
            on_event("row", row)
            state = "finished" if row.iteration == max_iter else "diverged"
        on_event(
            "end",
            begun.ended_as(state, time.time(), None if state == "finished" else "too large a rate"),
        )

    def rows(self, policy, max_iter, seed):
        chance = random.Random("%s %s %s" % (policy, max_iter, seed))
        left, memory = 0.9, None
        for t in range(max_iter + 1):
            lr = policy.schedule(memory)(min(t, policy.end)) / self.best
            if t and lr > 15:
                break
            if t % 50 == 0 or t == max_iter:
                top1 = max(0.1, 1 - left - 0.01 * lr - 0.0005 * chance.random())
                row = Evaluation(t, lr, 1 - top1, 1 - top1, top1, 1.0, top1, 0.1, 0.1, 0.01)
                memory = policy.observe(memory, row)
                yield row
            left = 0.001 + (left - 0.001) * (1 - 0.01 * min(lr, 3))

    def reached(self, tuned, top1):
        """The iterations after which a search always held a policy that has this Top-1 with another seed."""
        found = tuned.budget
        for spent, policy in reversed(tuned.answers):
            if max(row.top1 for row in self.rows(Policy.parse(policy), 1000, 0)) < top1:
                break
            found = spent
        return found

    def tune(
        self,
        database,
        name="search",
        budget=20000,
        functions=(),
        goal="accuracy",
        tell=lambda sentence: None,
    ):
        trainings = Trainer(
            __file__, Cores(2, train=self.train), "tune", name, dsn=database, describe=self.describe
        )
        trainings.budget = budget
        return tuner.tune(trainings, functions, goal, tell)


def top1(tuned):
    return tuned.ranked[0].metrics["top1"].mean


@pytest.mark.parametrize("budget", [2000, 3000, 6000, 20000])
def test_the_budget_is_never_exceeded_and_the_best_of_more_is_no_worse(budget, database):
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


def test_every_training_says_why_and_short_ones_come_first(database):
    tuned = Simulated().tune(database)
    assert all(tried.why for tried in tuned.tried)
    stages = [tried.stage for tried in tuned.tried]
    assert [stage for stage, _ in itertools.groupby(stages)] == [
        "range",
        "height",
        "range",
        "coarse",
        "fine",
        "full",
    ]
    lengths = {
        stage: {t.trial.setup.solver["max_iter"] for t in tuned.tried if t.stage == stage}
        for stage in stages
    }
    assert max(
        lengths["range"] | lengths["height"] | lengths["coarse"] | lengths["fine"]
    ) < 1000 and lengths["full"] == {1000}
    assert {t.trial.function for t in tuned.tried if t.stage in ("height", "coarse")} | {
        "FIX"
    } == set(TUNED), "FIX is known from the range test"


def test_asked_again_it_trains_nothing_and_says_the_same(database):
    net = Simulated()
    first_time, count = net.tune(database), net.count
    assert net.tune(database) == first_time and net.count == count
    with pytest.raises(
        InputError,
        match="was begun with the budget 20000, not 30000: begin another with --study NAME",
    ):
        net.tune(database, budget=30000)
    with pytest.raises(
        InputError, match="begun with the functions SINEXP, NSTEP, .*, FIX, not SIN"
    ):
        net.tune(database, functions=["SIN"])
    assert net.count == count
    longer = net.tune(database, name="longer", budget=30000)
    assert top1(longer) >= top1(first_time) - 0.001


def test_another_solver_or_net_under_the_name_of_a_study_is_refused(database):
    Simulated().tune(database)
    other = Simulated()
    other.setup = dataclasses.replace(other.setup, solver=dict(SETTINGS, momentum=0.5))
    with pytest.raises(
        InputError,
        match="the study search has trained test_tune.py before, when that or its net was another",
    ):
        other.tune(database)


def test_what_failed_is_said_and_trained_once_more_by_the_same_command(database):
    class Killed(Simulated):
        def train(self, job, stop, on_event, threads):
            if not job.policy.startswith("SIN(") or self.count > 30:
                return super().train(job, stop, on_event, threads)
            begun = dataclasses.replace(
                trial(job.policy, (), state="running"),
                id=job.id,
                setup=dataclasses.replace(
                    self.setup, seed=job.seed, solver=dict(self.setup.solver, max_iter=job.max_iter)
                ),
            )
            on_event("begin", begun)
            on_event("end", begun.ended_as("failed", time.time(), "killed by the system"))
            self.count += 1

    net = Killed()
    first_time = net.tune(database, functions=["SIN", "COS", "FIX"])
    assert any(
        "of the trainings failed, `lrbench study show search` says why" in line
        for line in tuner.summary(first_time)
    )
    net.count = 31
    second = net.tune(database, functions=["SIN", "COS", "FIX"])
    assert not any("failed" in line for line in tuner.summary(second))
    assert any(
        one.trial.policy.startswith("SIN(") and one.trial.state == "finished"
        for one in second.tried
    )


def test_what_waits_in_the_study_beside_what_the_search_asks_for_is_not_trained(database):
    with Store(database) as store:
        studies.add(store, "search", [Job(__file__, policy="FIX(k0=0.03)", max_iter=1000, seed=9)])
    tuned = Simulated().tune(database)
    with Store(database) as store:
        assert len(store.trials(study="search")) == len(tuned.tried)


def test_with_another_optimizer_a_task_is_only_like_itself(database):
    Simulated().tune(database)
    other = Simulated(best=0.002)
    other.setup = dataclasses.replace(other.setup, solver=dict(SETTINGS, type="Adam", momentum=0.9))
    tuned = other.tune(database, "adam")
    assert "SGD with momentum 0.9 where yours has Adam with momentum 0.9" in tuned.notes[0]
    assert any(note.startswith("the range test finds rates from 0.00") for note in tuned.notes)


def test_after_a_range_test_tune_knows_which_constant_rates_diverge_and_sees_that_the_best_is_safe(
    database,
):
    net = Simulated()
    trainings = Trainer(
        __file__, Cores(2, train=net.train), "range", "range", dsn=database, describe=net.describe
    )
    range_test.run(trainings)
    with Store(database) as store:
        limit = min(
            trial.parameters["k0"] for trial in store.trials(function="FIX", state="diverged")
        )
    tuned = net.tune(database)
    assert {one.trial.setup.seed for one in tuned.tried if one.stage == "range"} == {1, 2, 3}
    for one in tuned.tried:
        if one.trial.function not in ("PLATEAU", "WARMUP then PLATEAU"):
            policy = Policy.parse(one.trial.policy)
            assert max(policy(t) for t in range(one.trial.setup.solver["max_iter"])) < limit


def test_a_search_goes_on_as_it_began_though_the_database_knows_more_by_now(database):
    class Cut(Exception):
        pass

    net = Simulated()

    def cut(sentence):
        if "range test" in sentence:
            raise Cut

    with pytest.raises(Cut):
        net.tune(database, tell=cut)
    notes = net.tune(database).notes
    assert notes[0].startswith("the database knows neither") and notes[1].startswith(
        "the range test finds rates from"
    )


def test_a_task_that_is_known_needs_no_range_test_and_fewer_functions(database):
    net = Simulated()
    first_time = net.tune(database)
    second = net.tune(database, name="second", budget=8000)
    assert second.notes[0].startswith(
        "net on made up: it was trained before; constant rates are good there from"
    )
    assert "range" not in {tried.stage for tried in second.tried}
    assert len({tried.trial.function for tried in second.tried}) <= 8
    assert top1(second) >= top1(first_time) - 0.001


def test_a_similar_task_lends_its_policies_as_they_lie_in_its_range(database):
    Simulated(best=0.02).tune(database)
    other = Simulated(best=0.002, dataset="other")
    tuned = other.tune(database, "other", budget=8000)
    assert "% like net on other" in tuned.notes[0] and tuned.notes[2].startswith(
        "the range test finds"
    )
    assert (
        tuned.answers[0][0] == 0
        and tuned.notes[1] == "the best after 0 iterations: %s" % tuned.answers[0][1]
    )
    assert "coarse" not in {tried.stage for tried in tuned.tried}
    assert any("its rates as they lie in the good range here" in tried.why for tried in tuned.tried)


@pytest.mark.parametrize("function", TUNED)
def test_what_is_first_in_one_range_is_moved_to_what_is_first_in_another(function):
    here = Range(0.001, 0.2, 0.1, 0.9)
    one = first(function, GOOD)[0]
    policy, expected = (
        moved(one, GOOD, here).policy(LENGTH),
        first(function, here)[0].policy(LENGTH),
    )
    assert policy == expected


@pytest.mark.parametrize("function", TUNED)
def test_what_is_good_in_one_range_stays_what_it_is_in_one_that_a_range_test_hardly_tells_from_it(
    function,
):
    one = first(function, GOOD)[0]
    assert moved(one, GOOD, Range(0.002, 0.12, 0.05, 0.9)) == one


def test_a_similar_task_needs_at_most_half_the_iterations_to_as_good_a_policy(dsn):
    with new_database_on(dsn) as first, new_database_on(dsn) as none:
        Simulated(best=0.02).tune(first)
        second = Simulated(best=0.01, dataset="other")
        with_it, without = second.tune(first, "second"), second.tune(none, "second")
    enough = top1(without) - 0.001
    assert second.reached(without, enough) < without.budget
    assert second.reached(with_it, enough) <= second.reached(without, enough) / 2


def test_there_is_an_answer_from_the_range_test_on_and_the_last_one_is_the_result(database):
    tuned = Simulated().tune(database)
    costs = [spent for spent, _ in tuned.answers]
    assert (
        costs == sorted(costs)
        and costs[0] < 0.3 * tuned.budget
        and tuned.answers[0][1].startswith("SINEXP(")
    )
    assert (
        tuned.answers[-1][1] == tuned.policy
        and Simulated().reached(tuned, 0.99) < 0.5 * tuned.budget
    )


class Higher(Simulated):
    """Its test loss says that rates twice as high are better, with all seeds but worse ones; its Top-1 says nothing."""

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
def test_rates_twice_as_high_are_the_answer_if_the_loss_is_lower_with_each_seed(
    worse, high, database
):
    net = Higher()
    net.worse = worse
    tuned = net.tune(database, functions=["SINEXP"])
    begun = [spent for spent, policy in tuned.answers if high in policy]
    assert begun and begun[0] <= tuned.answers[0][0] + 6 * 250 and "k1=0.1" in tuned.answers[0][1]
    seeds = {}
    for one in tuned.tried:
        if one.stage == "height":
            seeds.setdefault(one.trial.policy, []).append(one.trial.setup.seed)
    assert list(seeds.values()) == [[1, 2, 3]] * (3 if high == "k1=0.2," else 2)
    assert ("twice the largest rate lowers the test loss with each of 3 seeds" in tuned.notes) == (
        not worse
    )


@pytest.mark.parametrize("functions", [["SINEXP"], ["SINEXP", "COS", "NSTEP"]])
def test_a_first_answer_that_diverges_with_another_seed_does_not_stay(functions, database):
    class Unsafe(Simulated):
        def rows(self, policy, max_iter, seed):
            return (
                iter(())
                if str(policy).startswith("SINEXP") and "k1=0.1," in str(policy) and seed == 2
                else super().rows(policy, max_iter, seed)
            )

    tuned = Unsafe().tune(database, functions=functions)
    assert "k1=0.1," in tuned.answers[0][1] and "k1=0.1," not in tuned.policy
    assert len(functions) == 1 or (
        "k1=0.1" not in tuned.answers[1][1] and tuned.answers[1][0] < 0.3 * tuned.budget
    )


def test_what_begins_high_is_not_moved_beyond_the_good_range():
    assert (
        moved(
            Candidate("POLY", 0.05), Range(0.01, 0.1, 0.05, 0.9), Range(0.005, 0.02, 0.02, 0.9)
        ).high
        == 0.02
    )


def test_a_cycle_that_is_moved_does_not_turn_over():
    one = moved(
        Candidate("SIN", 0.05, 0.01), Range(0.01, 0.05, 0.05, 0.9), Range(0.1, 0.1, 0.1, 0.9)
    )
    assert one.low <= one.high


def test_the_noise_of_a_policy_that_failed_does_not_hide_that_others_are_better(database):
    class Varying(Simulated):
        def rows(self, policy, max_iter, seed):
            for row in super().rows(policy, max_iter, seed):
                worse = (
                    (0.3 if "k1=0.2" in str(policy) and seed > 1 else 0.15)
                    if str(policy).startswith("SINEXP") and row.iteration
                    else 0
                )
                yield dataclasses.replace(
                    row, top1=max(0.1, row.top1 - worse), test_loss=row.test_loss + worse
                )

    tuned = Varying().tune(database, functions=["SINEXP", "COS", "SIN", "POLY"])
    assert "SINEXP" not in tuned.answers[1][1] and tuned.answers[1][0] < 0.3 * tuned.budget


def test_a_small_budget_leaves_room_for_other_functions(database):
    tuned = Simulated().tune(database, budget=2500)
    assert len({one.trial.function for one in tuned.tried}) > 2


def test_what_cannot_be_tried_takes_no_place_of_what_can(database):
    tuned = Simulated().tune(database, functions=["SINEXP", "COS", "SIN"])
    fine = [one.trial.policy for one in tuned.tried if one.stage == "fine"]
    assert (
        len(fine) == len(set(fine)) == 9
        and len({policy.split("(")[0] for policy in fine if "then" not in policy}) == 3
    )


def test_without_room_for_the_seeds_the_first_answer_stands(database):
    assert not any(one.stage == "height" for one in Simulated().tune(database, budget=2000).tried)


def test_one_or_two_trainings_at_full_length_change_the_answer_only_by_more_than_the_noise(
    database,
):
    tuned = Simulated().tune(database, budget=6000, functions=["TRI", "PLATEAU"])
    full = [one.trial.policy for one in tuned.tried if one.stage == "full"]
    begun = tuned.cost - 1000 * len(full)
    changes = [
        (spent, full[: (spent - begun) // 1000].count(policy))
        for spent, policy in tuned.answers
        if spent > begun
    ]
    assert changes and all(seeds >= tuner.SEEDS or spent == tuned.cost for spent, seeds in changes)


def test_the_best_constant_rate_is_one_with_which_no_other_seed_diverges(database):
    class Unsafe(Simulated):
        def rows(self, policy, max_iter, seed):
            return (
                iter(())
                if str(policy) == "FIX(k0=0.05)" and seed == 3
                else super().rows(policy, max_iter, seed)
            )

    tuned = Unsafe().tune(database, functions=["POLY"])
    assert "FIX(k0=0.05) diverged with another seed" in tuned.notes
    answers = [policy for _, policy in tuned.answers]
    assert answers[0] == "POLY(k0=0.05, p=1.0, l=1000)"
    after = answers[answers.index("POLY(k0=0.02, p=1.0, l=1000)") :]
    assert max(Policy.parse(policy)(100) for policy in after) < 0.05, (
        "that and all above it is unsafe"
    )
    again = Unsafe().tune(database, name="again", functions=["POLY"])
    assert not any("k0=0.05," in one.trial.policy for one in again.tried), (
        "the database says that it diverges"
    )


def test_a_policy_that_diverged_with_one_seed_is_not_the_best(database):
    class Unsafe(Simulated):
        def rows(self, policy, max_iter, seed):
            return (
                iter(())
                if str(policy).startswith("WARMUP") and seed == 2
                else super().rows(policy, max_iter, seed)
            )

    tuned = Unsafe().tune(database, functions=["POLY"])
    assert any(
        entry.function.startswith("WARMUP") and entry.trials and entry.rank is None
        for entry in tuned.ranked
    )
    assert tuned.policy == tuned.ranked[0].policy and tuned.policy.startswith("POLY(")


@pytest.mark.parametrize("budget", [6000, 12000, 20000])
def test_the_best_in_shorter_trainings_is_trained_at_full_length(budget, database):
    net = Simulated()
    net.setup = dataclasses.replace(
        net.setup, dataset=Dataset("small", (1, 8, 8), 1000, 10)
    )  # whose noise leaves the first answer
    tuned = net.tune(database, budget=budget, functions=["SINEXP", "TRIEXP", "EXP"])
    length = next(one.trial.setup.solver["max_iter"] for one in tuned.tried if one.stage == "fine")
    short = [
        one.trial
        for one in tuned.tried
        if one.stage != "range" and one.trial.setup.solver["max_iter"] == length
    ]
    best = max((one for one in short if one.state == "finished"), key=lambda one: one.best.top1)
    rates = best.policy.split("gamma")[0].split("l=")[0]  # gamma and l go with the length
    assert any(one.trial.policy.startswith(rates) for one in tuned.tried if one.stage == "full")


def test_the_next_takes_the_place_of_one_that_diverges_at_full_length(database):
    class Unsafe(Simulated):
        def rows(self, policy, max_iter, seed):
            return (
                iter(())
                if max_iter == 1000 and "PLATEAU" in str(policy)
                else super().rows(policy, max_iter, seed)
            )

    tuned = Unsafe().tune(database, budget=12000)
    full = [one for one in tuned.tried if one.stage == "full"]
    contest = list(itertools.takewhile(lambda one: one.why != "another seed", full))
    assert any(one.trial.state == "diverged" for one in contest)
    assert len({one.trial.policy for one in contest if one.trial.state == "finished"}) == tuner.KEPT


def test_no_policy_reaches_a_rate_that_diverged_when_it_was_constant(database):
    tuned = Simulated().tune(database)
    limit = min(
        one.trial.parameters["k0"]
        for one in tuned.tried
        if one.trial.function == "FIX" and one.trial.state == "diverged"
    )
    for one in tuned.tried:
        if (
            one.stage != "range"
            and one.trial.function != "PLATEAU"
            and "PLATEAU" not in one.trial.policy
        ):
            policy = Policy.parse(one.trial.policy)
            assert max(policy(t) for t in range(0, one.trial.setup.solver["max_iter"], 3)) < limit


def test_the_goal_cost_is_the_fewest_iterations_to_nearly_the_highest_accuracy(database):
    tuned = Simulated().tune(database, goal="cost")
    near, reached = tuned.reaches
    assert (
        tuned.length < 1000
        and reached <= tuned.length
        and any(tried.stage == "shorter" for tried in tuned.tried)
    )
    full = max(t.trial.best.top1 for t in tuned.tried if t.stage == "full")
    assert full - 0.002 <= near <= full and top1(tuned) >= near
    assert "max_iter: %d" % tuned.length in tuner.summary(tuned)


def test_the_goal_robustness_ranks_by_all_that_it_weighs(database):
    tuned = Simulated().tune(database, goal="robustness", functions=["FIX", "POLY"])
    assert tuned.ranked[0].function.split()[-1] == "POLY" and tuned.goal == "robustness"


@pytest.mark.parametrize("budget", [2000, 6000])
def test_only_the_functions_that_were_named_are_chosen_from(budget, database):
    tuned = Simulated().tune(database, budget=budget, functions=["EXP"])
    assert {entry.function.split()[-1] for entry in tuned.ranked} == {"EXP"}
    assert {
        tried.trial.function.split()[-1] for tried in tuned.tried if tried.stage != "range"
    } == {"EXP"}


def test_a_net_that_learns_nothing_is_said(database):
    with pytest.raises(
        InputError,
        match="none of the constant rates .*, 1.0 trains this net within 2000 iterations",
    ):
        Simulated(best=1e9).tune(database)


@needs_caffe
def test_the_command_goes_from_a_solver_to_a_line_to_paste(
    lrbench, tmp_path, digits, database, name
):
    words = (
        "tune",
        nets.write(tmp_path, nets.solver(max_iter=40)),
        "--data",
        digits,
        "--dsn",
        database,
        "--study",
        name,
        "--budget",
        "480",
        "--function",
        "POLY",
        "--format",
        "json",
    )
    done = lrbench(*words)
    assert done.returncode == 0, done.stderr
    ranked = json.loads(done.stdout)
    assert (
        ranked[0]["rank"] == 1
        and 'lr_policy: "%s"\nmax_iter: 40\n' % ranked[0]["policy"] in done.stderr
    )
    assert "of 480 iterations in" in done.stderr
    again = lrbench(*words)
    assert again.stdout == done.stdout and "finished" not in again.stderr


@needs_caffe
@pytest.mark.parametrize(
    "words, sentence",
    [
        (
            ("--budget", "100"),
            "a budget of 100 iterations does not do: give the length of at least two trainings, 240",
        ),
        (("--function", "SINN"), "did you mean SIN"),
    ],
)
def test_what_cannot_be_tuned_is_said_in_a_sentence(words, sentence, lrbench, tmp_path, digits):
    done = lrbench(
        "tune", nets.write(tmp_path, nets.solver(max_iter=120)), "--data", digits, *words
    )
    assert done.returncode == 2 and sentence in done.stderr and len(done.stderr.splitlines()) == 1
