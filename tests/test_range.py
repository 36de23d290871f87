"""The range test: which constant rates are good, and that it is a study like others."""

import dataclasses
import json
import os

import pytest
from conftest import needs_caffe
from studies import DIGITS, start, states
from trials import trial
from waiting import wait_until

from lrbench_caffe.ranking import ranges
from lrbench_caffe.ranking.ranges import Point
from lrbench_caffe.trial import Job

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
    assert curves[-1].points == ((0.01, 0.7, False), (0.1, 0.8, False), (1.0, 0.1, True))


def test_a_point_is_the_mean_of_several_seeds():
    (curve,) = ranges.top1_curves([fix(0.1, [0.1, 0.8], seed=1), fix(0.1, [0.1, 0.9], seed=2)])
    assert curve.points == ((0.1, pytest.approx(0.85), False),)


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


@pytest.fixture
def command(name, digits, tmp_path):
    """The arguments of `lrbench range` on the digits."""
    picture = str(tmp_path / "range.png")
    return ["range", DIGITS, "--data", digits, "--study", name, "--out", picture]


@needs_caffe
def test_decades_until_the_accuracy_drops_for_good_then_rates_beside_the_good_ones(
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
    assert [row["k0"] for row in rows] == [0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    assert [row["k0"] for row in rows if row["diverged"]] == [0.2, 0.5, 1.0]
    columns = {column for row in rows for column in row if column.startswith("top1_")}
    assert columns == {"top1_50", "top1_100", "top1_150"}
    good = [row["k0"] for row in rows if row["good"]]
    assert "good rates: %r to %r" % (good[0], good[-1]) in done.stderr
    assert "this rules out" in done.stderr
    assert os.path.getsize(str(tmp_path / "range.png")) > 10000
    stored = trials(name)
    assert {trial.setup.solver["max_iter"] for trial in stored} == {150}
    assert {trial.setup.seed for trial in stored} == {1}
    # Five trainings ran to their end, three at most to their first evaluation.
    assert "the test took 900 iterations in 8 trainings" in done.stderr
    again = invoke(*command, "--format", "json")
    assert again.returncode == 0
    assert json.loads(again.stdout) == rows
    assert trials(name) == stored


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
            "no/folder/range.png: name another file with --out",
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
