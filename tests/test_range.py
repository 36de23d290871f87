"""The range test: which constant rates are good, and that it is a study like others."""

import dataclasses
import json
import math
import os
import threading
import time

import pytest
from conftest import needs_caffe
from studies import DIGITS, start, states
from trials import trial
from waiting import wait_until

from lrbench_caffe.errors import TrialError
from lrbench_caffe.policies import Policy
from lrbench_caffe.ranking import ranges
from lrbench_caffe.ranking.ranges import Point
from lrbench_caffe.trial import Job

pytest.importorskip(
    "psycopg2", reason="needs psycopg2 and PostgreSQL: run the tests with `make test`"
)
from lrbench_caffe.database import Store, studies
from lrbench_caffe.display import formats, tables
from lrbench_caffe.evaluator import range_test, tuner
from lrbench_caffe.evaluator.trainer import Trainer
from lrbench_caffe.study.cores import Cores

PAPER = [
    Point(0.0001, 0.60, False),
    Point(0.0005, 0.78, False),
    Point(0.001, 0.80, False),
    Point(0.006, 0.77, False),
    Point(0.01, 0.69, False),
    Point(0.1, 0.10, True),
]


def fix(k0, top1, **changes):
    return trial("FIX(k0=%g)" % k0, top1, **changes)


def test_good_rates_surround_the_best_rate():
    good = ranges.good_range(PAPER, 10000, 10)
    assert good == (0.0005, 0.006, 0.001, 0.80)
    assert good.ruled_out == pytest.approx(0.9945)


def test_a_good_rate_beyond_a_bad_rate_is_not_in_the_range():
    points = [Point(0.001, 0.79, False), Point(0.01, 0.5, False), Point(0.1, 0.80, False)]
    assert ranges.good_range(points, 10000, 10).low == 0.1


def test_a_rate_that_diverged_is_not_good_whatever_it_reached():
    assert ranges.good_range([Point(0.01, 0.8, False), Point(0.1, 0.9, True)]).high == 0.01


def test_fewer_test_samples_make_the_range_wider():
    points = [Point(0.01, 0.925, False), Point(0.1, 0.955, False)]
    assert ranges.good_range(points, 10000, 10).low == 0.1
    assert ranges.good_range(points, 400, 10).low == 0.01


@pytest.mark.parametrize("points", [[], [Point(0.1, 0.12, False), Point(1.0, 0.1, True)]])
def test_no_rate_is_good_if_all_are_as_good_as_guessing(points):
    assert ranges.good_range(points, 400, 10) is None


def test_curves_are_read_off_the_same_trials_up_to_their_end():
    trials = [
        fix(0.01, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
        fix(0.1, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8]),
        fix(1, [0.1], state="diverged"),
    ]
    curves = ranges.top1_curves(trials, 3)
    assert [curve.iteration for curve in curves] == [200, 400, 600]
    assert [point[:3] for point in curves[-1].points] == [
        (0.01, 0.7, False),
        (0.1, 0.8, False),
        (1.0, 0.1, True),
    ]


def test_a_point_is_the_mean_of_several_seeds():
    (curve,) = ranges.top1_curves([fix(0.1, [0.1, 0.8], seed=1), fix(0.1, [0.1, 0.9], seed=2)])
    assert curve.points == ((0.1, pytest.approx(0.85), False, pytest.approx(0.4)),)


SLOW = [  # a convolutional net on CIFAR-10 after 160 iterations
    Point(0.01, 0.1505, False),
    Point(0.02, 0.186, False),
    Point(0.05, 0.2235, False),
    Point(0.1, 0.2325, False),
    Point(0.2, 0.238, False),
    Point(0.5, 0.1525, False),
    Point(1.0, 0.0965, False),
]


def test_a_net_that_learns_slowly_has_good_rates_half_way_from_guessing_to_the_best():
    good = ranges.good_range(SLOW, 2000, 10)
    assert (good.low, good.high, good.best) == (0.02, 0.2, 0.2)
    limit = ranges.top1_limit(SLOW, 2000, 10)
    noise = ranges.binomial_deviation(0.238, 2000)
    assert limit == pytest.approx((0.1 + 0.238) / 2 - noise)


@pytest.mark.parametrize("best, limit", [(0.99, 0.985), (0.55, 0.325), (0.4, 0.25)])
def test_the_stricter_of_the_two_limits_decides(best, limit):
    points = [Point(0.01, best, False)]
    noise = ranges.binomial_deviation(best, 10**6)
    assert ranges.top1_limit(points, 10**6, 10) == pytest.approx(limit - noise)


def test_a_good_rate_is_better_than_guessing():
    points = [Point(0.01, 0.11, False), Point(0.1, 0.15, False)]
    assert ranges.good_range(points, 400, 10).low == 0.1


def test_of_rates_with_the_same_top1_the_one_with_the_lower_loss_is_the_best():
    points = [
        Point(0.5, 0.95, False, 0.161),
        Point(1.0, 0.95, False, 0.151),
        Point(2.0, 0.95, False, 0.18),
        Point(5.0, 0.95, False),
    ]
    assert ranges.good_range(points, 400, 10).best == 1.0
    without_loss = [point._replace(test_loss=None) for point in points]
    assert ranges.good_range(without_loss, 400, 10).best == 5.0


class TestCollapse:
    """A sweep ends when the accuracy has collapsed, and not before the net learns."""

    @staticmethod
    def has_collapsed(*rows, chance=0.1):
        """Whether a training with these (Top-1, test loss) has collapsed."""
        trained = fix(0.1, [top1 for top1, _ in rows])
        losses = [loss for _, loss in rows]
        measured = [
            dataclasses.replace(row, test_loss=loss) for row, loss in zip(trained.rows, losses)
        ]
        return range_test.has_collapsed(measured, chance)

    def test_low_accuracy_in_two_evaluations_in_a_row(self):
        learnt = (0.1, 2.4), (0.9, 0.3)
        assert self.has_collapsed(*learnt, (0.4, 1.9), (0.1, 2.3))
        assert not self.has_collapsed(*learnt, (0.4, 1.9))
        assert not self.has_collapsed(*learnt, (0.4, 1.9), (0.9, 0.3))
        assert not self.has_collapsed(*learnt, (0.4, 1.9), (0.7, 0.5), (0.4, 1.9))

    def test_a_net_that_does_not_learn_yet_has_not_collapsed(self):
        assert not self.has_collapsed((0.1, 2.4), (0.1, 2.41), (0.1, 2.5), (0.1, 2.39))
        few = (0.01, 4.6), (0.012, 4.6), (0.004, 4.6), (0.004, 4.6)
        assert not self.has_collapsed(*few, chance=0), "the number of classes is unknown"
        assert self.has_collapsed(*few, (0.3, 3.0), *few[2:], chance=0)

    def test_a_net_that_never_learnt_has_collapsed_if_its_loss_is_far_above_the_first_one(self):
        assert self.has_collapsed((0.1, 2.4), (0.1, 5.0), (0.1, 87.3))
        assert not self.has_collapsed((0.1, 2.4), (0.1, 5.0), (0.1, 2.4))
        assert not self.has_collapsed((0.1, None), (0.1, None), (0.1, None))


class TestStuck:
    """Trainings that are stuck at chance end; trainings that learn, or learn slowly, do not."""

    @staticmethod
    def verdicts(*rows):
        """What the detector returns for rows of (Top-1, test loss).

        There are three classes: guessing is right in 33.3 % and has a loss of 1.0986.
        """
        from lrbench_caffe.study.pruning import StuckDetector

        training = fix(0.1, [top1 for top1, _ in rows])
        detector, job = StuckDetector(), Job("x", id="1")
        detector.on_event(job, "begin", training)
        return [
            detector.on_event(job, "row", dataclasses.replace(row, test_loss=loss))
            for row, (_, loss) in zip(training.rows, rows)
        ]

    def test_no_better_than_guessing_and_the_loss_stopped_falling(self):
        first, second, third = self.verdicts((0.3, 1.2), (0.33, 1.0986), (0.33, 1.0987))
        assert first is second is None
        state, reason = third
        assert state == "diverged"
        assert "still no better than guessing: Top-1 33.00 %" in reason

    def test_a_small_rate_is_only_slow(self):
        assert not any(self.verdicts((0.3, 1.2), (0.3, 1.19), (0.31, 1.18), (0.31, 1.17)))

    def test_a_loss_that_falls_from_above_that_of_the_untrained_net_is_stuck(self):
        first, second, third = self.verdicts((0.3, 1.11), (0.33, 1.4), (0.33, 1.2))
        assert first is second is None
        assert third[0] == "diverged"

    def test_a_net_that_has_learnt_once_is_not_stuck(self):
        assert not any(self.verdicts((0.3, 1.2), (0.9, 0.3), (0.3, 1.2), (0.3, 1.3), (0.3, 1.3)))


def test_a_stuck_training_that_was_stopped_late_counts_from_where_it_was_stuck():
    from lrbench_caffe.study.pruning import as_judged

    stuck = trial("FIX(k0=9)", [0.1, 0.1, 0.1, 0.1, 0.1])
    rows = [dataclasses.replace(row, test_loss=2.4) for row in stuck.rows]
    stuck = dataclasses.replace(
        stuck, rows=tuple(rows), setup=dataclasses.replace(stuck.setup, classes=10)
    )
    prompt = dataclasses.replace(stuck, rows=stuck.rows[:3], state="diverged")
    judged = as_judged(stuck)
    assert judged.state == "diverged" and "no better than guessing" in judged.error
    assert judged.rows == as_judged(prompt).rows == stuck.rows[:3]
    learns = trial("FIX(k0=0.1)", [0.1, 0.5, 0.9])
    assert as_judged(learns) == learns


TOP1 = {1.0: 0.1, 0.1: 0.9, 0.01: 0.6}  # by the rate, at the end of a made-up training


def peak_at(best):
    """A Top-1 for each rate: the highest at the best rate, that of guessing far from it."""
    return lambda rate: max(0.1, 0.9 - 0.4 * abs(math.log10(rate / best)))


class MadeUp:
    """An evaluation whose trainings are made up; the study and the database are real.

    `ends` maps the largest rate of a training to its error. An error that is a text ends the
    training after its first evaluation; an exception keeps it from beginning. `top1` returns the
    Top-1 of a rate.
    """

    def __init__(
        self, database, ends=None, all_ends=None, top1=lambda rate: TOP1.get(rate, 0.5), type="SGD"
    ):
        self.ends, self.all_ends, self.count, self.top1 = ends or {}, all_ends, 0, top1
        solver = {"max_iter": 1000, "test_interval": 50, "type": type, "batch_size": 50}
        self.setup = dataclasses.replace(trial().setup, classes=10, solver=solver)
        self.trainer = Trainer(
            __file__,
            Cores(1, train=self.train),
            "tune",
            "made-up",
            dsn=database,
            describe=lambda job: dataclasses.replace(trial(), setup=self.setup),
        )

    def train(self, job, stop, on_event, threads):
        self.count += 1
        rate = max(Policy.parse(job.policy)(t) for t in range(job.max_iter))
        error = self.ends.get(rate, self.all_ends)
        if isinstance(error, Exception):
            raise error
        solver = dict(self.setup.solver, max_iter=job.max_iter)
        running = dataclasses.replace(
            trial(job.policy, (), state="running"),
            id=job.id,
            started=time.time(),
            setup=dataclasses.replace(self.setup, seed=job.seed, solver=solver),
        )
        on_event("begin", running)
        measured = fix(rate, [0.1, self.top1(rate)]).rows
        for row, iteration in zip(measured, [0] if error else [0, job.max_iter]):
            row = dataclasses.replace(row, iteration=iteration)
            running = running.with_row(row)
            on_event("row", row)
        state = "failed" if error else "finished"
        on_event("end", running.ended_as(state, time.time(), error))


def rates_of(test):
    return [trial.parameters["k0"] for trial in test.trials]


@pytest.mark.parametrize(
    "best, type, lowest, highest, most",
    [
        (0.05, "SGD", 0.01, 1.0, 7),
        (0.5, "SGD", 0.01, 10.0, 9),
        (20.0, "AdaDelta", 0.01, 100.0, 9),
        (0.002, "Adam", 0.0001, 0.1, 8),
        (0.00001, "SGD", 0.000001, 100.0, 11),
    ],
)
def test_the_test_grows_until_the_accuracy_has_dropped_on_both_sides(
    best, type, lowest, highest, most, database
):
    made_up = MadeUp(database, top1=peak_at(best), type=type)
    test = range_test.run(made_up.trainer, 200)
    assert test.good.best == best and test.open_ends == ()
    assert (min(rates_of(test)), max(rates_of(test))) == (lowest, highest)
    assert len(test.trials) <= most
    better = [point for point in test.curves[-1].points if point.k0 in (test.good.low, best)]
    assert all(point.top1 > 0.8 for point in better)


@pytest.mark.parametrize(
    "test_interval, length", [(50, None), (120, None), (300, 600), (5000, 1000)]
)
def test_a_test_that_is_longer_because_of_the_test_interval_says_so(
    test_interval, length, database
):
    """A quarter of the 1000 iterations has fewer than two evaluations."""
    trainer = MadeUp(database).trainer
    trainer.test_interval = test_interval
    sentences = ["each rate trains for %d of 1000 iterations" % length] if length else []
    remarks = range_test.length_remarks(trainer)
    assert [remark.split(", because")[0] for remark in remarks] == sentences
    assert all("every %d iterations" % test_interval in remark for remark in remarks)


@pytest.mark.parametrize("best, end", [(1e4, "high"), (1e-8, "low")])
def test_a_best_rate_at_the_end_of_all_rates_is_called_so(best, end, database):
    test = range_test.run(MadeUp(database, top1=peak_at(best)).trainer, 200)
    assert test.open_ends == (end,)
    assert test.good.best == {"high": 1000.0, "low": 1e-7}[end]
    (sentence,) = [line for line in range_test.summary(test) if "may be better" in line]
    assert sentence.startswith("the best rate is the %sest that was measured" % end)
    assert sentence.endswith("check the scale of the data and of the loss")
    assert ("rules out" in " ".join(range_test.summary(test))) == (end == "low")


def test_a_best_rate_at_an_edge_because_the_budget_ended_is_called_so(database):
    made_up = MadeUp(database, top1=peak_at(5.0))
    made_up.trainer.budget = 4 * 200
    test = range_test.run(made_up.trainer, 200)
    assert len(test.trials) == 4 and test.cost <= 800
    assert test.open_ends == ("high",)
    assert (
        "the best rate is the highest that was measured, a higher rate may be better: give a "
        in (" ".join(range_test.summary(test)))
    )


def test_a_net_that_learns_with_no_rate_is_tried_with_all_decades(database):
    test = range_test.run(MadeUp(database, top1=lambda rate: 0.1).trainer, 200)
    assert test.good is None and test.open_ends == ()
    assert rates_of(test) == [float("1e%d" % power) for power in range(-7, 4)]


def test_the_range_of_a_similar_task_may_be_above_1(database):
    similar = ranges.Range(0.5, 2.0, 1.0, 0.9)
    test = range_test.run(MadeUp(database, top1=peak_at(20.0)).trainer, 200, 1, similar)
    assert rates_of(test) == [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0]
    assert test.good.best == 20.0


@pytest.mark.parametrize("evaluation", ["run", "sweep", "tune"])
def test_if_the_first_trainings_fail_the_error_says_why_and_no_more_are_trained(
    evaluation, database
):
    made_up = MadeUp(database, all_ends="the layer is broken")
    evaluate = tuner.tune if evaluation == "tune" else getattr(range_test, evaluation)
    with pytest.raises(TrialError) as raised:
        evaluate(made_up.trainer)
    assert made_up.count == (1 if evaluation == "sweep" else 3)
    assert str(raised.value) == (
        "%d of %d trainings of the study made-up failed (the layer is broken): correct the cause "
        "and run the same command again" % (made_up.count, made_up.count)
    )


def test_a_rate_whose_training_failed_is_in_the_table_with_its_state_and_error(database):
    made_up = MadeUp(database, {0.05: "killed", 0.01: "killed"})
    test = range_test.run(made_up.trainer, 200)
    table = tables.range_test(test)
    rows = {row["k0"]: row for row in json.loads(formats.render([table], "json"))}
    assert sorted(rows) == sorted(trial.parameters["k0"] for trial in test.trials)
    states = {k0: (row["state"], row["error"], row["good"]) for k0, row in rows.items()}
    assert states[0.05] == states[0.01] == ("failed", "killed", False)
    assert states[0.1] == ("finished", None, True)
    assert rows[0.1]["top1_200"] == 0.9
    assert rows[0.01]["top1_200"] is None
    (line,) = [line for line in formats.render([table], "markdown").splitlines() if "0.05" in line]
    assert "failed" in line
    names = "FIX(k0=0.01) with seed 1, FIX(k0=0.05) with seed 1"
    assert range_test.summary(test)[0] == "failed: %s: killed" % names


def test_a_rate_that_failed_does_not_count_as_one_that_the_net_does_not_learn_with(database):
    made_up = MadeUp(database, {1.0: None}, all_ends="killed")
    test = range_test.run(made_up.trainer, 200)
    assert test.good is None
    first, second, _ = range_test.summary(test)
    assert first.startswith("failed: ") and first.endswith("and 7 others: killed")
    assert second.startswith("after 200 iterations, no other rate is better than guessing: ")
    assert second.endswith("the net may learn with --max-iter 400 or more")
    with pytest.raises(TrialError, match="did not fail .* and 7 others: killed"):
        tuner.tune(made_up.trainer)


def test_a_training_that_cannot_begin_is_an_error_with_its_reason(database):
    made_up = MadeUp(database, {0.1: TrialError("cannot start its process")})
    with pytest.raises(TrialError, match="^1 of 3 trainings .* not begin .cannot start its proc"):
        range_test.run(made_up.trainer)
    assert made_up.count == 3, "the others of the round are trained"
    made_up.ends.clear()
    assert range_test.run(made_up.trainer).good, "the same command tries again"


def test_a_request_to_stop_between_two_rounds_ends_the_evaluation(database, store):
    """The study stays claimed between the rounds, and the request is not lost there."""
    made_up, asked = MadeUp(database), threading.Event()

    def stop():
        with Store(database) as other:
            studies.stop(other, "made-up", on_waiting=asked.set)

    asking = threading.Thread(target=stop, daemon=True)
    with pytest.raises(KeyboardInterrupt), made_up.trainer.claim():
        made_up.trainer.train([("FIX(k0=0.1)", 100, 1)])
        (summary,) = studies.summaries(store)
        assert summary.running
        asking.start()
        assert asked.wait(100), "the study does not run"
        for seed in range(2, 1000):
            made_up.trainer.train([("FIX(k0=0.1)", 100, seed)])
    asking.join(100)
    assert not asking.is_alive()
    command = "lrbench tune %s --study made-up" % os.path.abspath(__file__)
    assert studies.command(store, "made-up") == command


def test_good_rates_beyond_a_bad_one_are_named(database):
    """A single training under the rate between may have been unlucky."""
    top1 = {0.01: 0.88, 0.05: 0.3, 0.1: 0.9, 0.2: 0.88}
    made_up = MadeUp(database, top1=lambda rate: top1.get(rate, 0.2))
    test = range_test.run(made_up.trainer)
    assert (test.good.low, test.good.best, test.apart) == (0.1, 0.1, (0.01,))
    (sentence,) = (line for line in range_test.summary(test) if "a rate between" in line)
    assert sentence.startswith("0.01 also reached a good Top-1, but a rate between did not")


@pytest.fixture
def command(name, digits, tmp_path):
    """The arguments of `lrbench range` on the digits."""
    picture = str(tmp_path / "range.png")
    return ["range", DIGITS, "--data", digits, "--study", name, "--out", picture]


@needs_caffe
def test_decades_until_the_accuracy_drops_then_rates_beside_the_good_ones(
    name, invoke, trials, command, tmp_path, kill
):
    """The range test is killed after its first training, and continues."""
    interrupted = start(*command, "--jobs", "1")
    wait_until(lambda: "finished" in states(trials(name)))
    kill(interrupted)
    before = {trial.id: trial for trial in trials(name) if trial.state == "finished"}
    done = invoke(*command, "--format", "json")
    assert done.returncode == 0, done.stderr
    assert before.items() <= {trial.id: trial for trial in trials(name)}.items()
    rows = json.loads(done.stdout)
    assert [row["k0"] for row in rows] == [0.01, 0.02, 0.05, 0.1, 0.2, 1.0]
    assert [row["k0"] for row in rows if row["diverged"]] == [0.2, 1.0]
    columns = {column for row in rows for column in row if column.startswith("top1_")}
    assert columns == {"top1_50", "top1_100", "top1_150"}
    good = [row["k0"] for row in rows if row["good"]]
    assert "good rates: %r to %r" % (good[0], good[-1]) in done.stderr
    assert "this rules out" in done.stderr
    assert os.path.getsize(str(tmp_path / "range.png")) > 10000
    stored = trials(name)
    assert {trial.setup.solver["max_iter"] for trial in stored} == {150}
    assert {trial.setup.seed for trial in stored} == {1}
    # Four trainings ran to their end, two at most to their first evaluation.
    assert "the test took 700 iterations in 6 trainings" in done.stderr
    again = invoke(*command, "--format", "json")
    assert again.returncode == 0
    assert json.loads(again.stdout) == rows
    assert trials(name) == stored


def test_a_sweep_grows_by_a_factor_of_10_in_each_decade_from_0_00001_to_100():
    policy = range_test.sweep_policy(120)
    rates = [policy(120 * n) for n in range(8)]
    assert rates == pytest.approx([10.0**power for power in range(-5, 3)])
    assert policy(60) == pytest.approx(5.5e-5)


def test_the_constant_rate_after_a_sweep_is_a_third_with_one_digit():
    rates = [
        range_test.constant_rate(ranges.Range(best / 10, best, best, 0.9))
        for best in (0.25, 1.0, 0.055, 1e-7)
    ]
    assert rates == [0.08, 0.3, 0.02, 3e-8]


@needs_caffe
def test_a_sweep_is_a_single_training_with_a_growing_rate(name, invoke, trials, command):
    done = invoke(*command, "--sweep", "--format", "csv")
    assert done.returncode == 0, done.stderr
    (swept,) = trials(name)
    rates = [row.lr for row in swept.rows]
    policy = "WARMUP(k0=1e-05) for 120 then WARMUP(k0=0.0001) for 120"
    assert swept.policy.startswith(policy)
    assert rates == sorted(rates)
    assert swept.state == "diverged"
    assert "the test took 550 iterations in 1 training," in done.stderr
    assert "the accuracy rises from a rate of" in done.stderr
    assert "a third of it, " in done.stderr and "good rates" not in done.stderr
    assert done.stdout.splitlines()[0].startswith("lr,good,top1_600")
    assert ",True," in done.stdout


@needs_caffe
@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (("not-there.prototxt",), "not-there.prototxt"),
        ((DIGITS, "--sweep", "--max-iter", "499"), "give --max-iter 500 or more"),
        (
            (DIGITS, "--out", "no/folder/range.png"),
            "no/folder/range.png (No such file or directory): name another file with --out",
        ),
        ((DIGITS, "--out", "range"), "expected a name that ends in one of"),
        ((DIGITS, "--study", "no/name"), "invalid study name"),
        ((DIGITS, "--data", "/not/there"), "data folder /not/there not found"),
    ],
)
def test_invalid_arguments_are_reported_in_one_line(arguments, sentence, invoke, digits):
    done = invoke("range", "--data", digits, *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
