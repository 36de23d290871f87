"""The range test: which constant rates are good, what it takes to know, and that it is a study like others."""

import json
import os

import pytest
from conftest import needs_caffe
from studies import DIGITS, start, wait_until
from trials import trial

from lrbench_caffe.ranking import ranges
from lrbench_caffe.ranking.ranges import Point

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


def test_good_rates_are_those_around_the_best_that_it_does_not_leave_far_behind():
    found = ranges.good_range(PAPER, 10000, 10)
    assert found == (0.0005, 0.006, 0.001, 0.80)
    assert found.ruled_out == pytest.approx(0.9945)


def test_a_good_rate_beyond_a_bad_one_is_not_in_the_range():
    assert (
        ranges.good_range(
            [Point(0.001, 0.79, False), Point(0.01, 0.5, False), Point(0.1, 0.80, False)], 10000, 10
        ).low
        == 0.1
    )


def test_a_rate_that_diverged_is_not_good_whatever_it_reached():
    assert ranges.good_range([Point(0.01, 0.8, False), Point(0.1, 0.9, True)]).high == 0.01


def test_few_test_samples_tell_rates_less_apart():
    points = [Point(0.01, 0.925, False), Point(0.1, 0.955, False)]
    assert (
        ranges.good_range(points, 10000, 10).low == 0.1
        and ranges.good_range(points, 400, 10).low == 0.01
    )


@pytest.mark.parametrize("points", [[], [Point(0.1, 0.12, False), Point(1.0, 0.1, True)]])
def test_no_rate_is_good_where_all_are_as_good_as_guessing(points):
    assert ranges.good_range(points, 400, 10) is None


def test_curves_are_read_off_the_same_trainings_up_to_their_end():
    trials = [
        fix(k0, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, top1]) for k0, top1 in ((0.01, 0.7), (0.1, 0.8))
    ] + [fix(1, [0.1], state="diverged")]
    found = ranges.top1_curves(trials, 3)
    assert [curve.iteration for curve in found] == [200, 400, 600]
    assert found[-1].points == ((0.01, 0.7, False), (0.1, 0.8, False), (1.0, 0.1, True))


def test_rates_of_several_seeds_are_averaged():
    (curve,) = ranges.top1_curves([fix(0.1, [0.1, 0.8], seed=1), fix(0.1, [0.1, 0.9], seed=2)])
    assert curve.points == ((0.1, pytest.approx(0.85), False),)


class TestStuck:
    """Trainings that learn nothing any more end; those that learn, or only slowly, do not."""

    @staticmethod
    def verdicts(*rows):
        import dataclasses

        from lrbench_caffe.study.pruning import StuckDetector
        from lrbench_caffe.trial import Job

        shaped, stuck, job = fix(0.1, [top1 for top1, _ in rows]), StuckDetector(), Job("x", id="1")
        stuck.on_event(
            job, "begin", shaped
        )  # three classes: guessing is right in 33.3 % and its loss is 1.0986
        return [
            stuck.on_event(job, "row", dataclasses.replace(row, test_loss=loss))
            for row, (_, loss) in zip(shaped.rows, rows)
        ]

    def test_no_better_than_guessing_and_no_longer_falling(self):
        first, second, third = self.verdicts((0.3, 1.2), (0.33, 1.0986), (0.33, 1.0987))
        assert first is second is None
        assert third[0] == "diverged" and "still no better than guessing: Top-1 33.00 %" in third[1]

    def test_a_small_rate_is_only_slow(self):
        assert not any(self.verdicts((0.3, 1.2), (0.3, 1.19), (0.31, 1.18), (0.31, 1.17)))

    def test_falling_from_above_the_loss_of_the_untrained_net_is_stuck_too(self):
        first, second, third = self.verdicts((0.3, 1.11), (0.33, 1.4), (0.33, 1.2))
        assert first is second is None and third[0] == "diverged"

    def test_what_has_learnt_once_is_not_stuck(self):
        assert not any(self.verdicts((0.3, 1.2), (0.9, 0.3), (0.3, 1.2), (0.3, 1.3), (0.3, 1.3)))


@needs_caffe
def test_decades_down_until_accuracy_has_dropped_for_good_then_finer(
    name, digits, lrbench, trials, tmp_path
):
    words = (
        "range",
        DIGITS,
        "--data",
        digits,
        "--study",
        name,
        "--out",
        tmp_path / "range.png",
        "--format",
        "json",
    )
    done = lrbench(*words)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["k0"] for row in rows] == [0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    assert [row["k0"] for row in rows if row["diverged"]] == [0.2, 0.5, 1.0]
    assert {name for row in rows for name in row if name.startswith("top1_")} == {
        "top1_50",
        "top1_100",
        "top1_150",
    }
    goods = [row["k0"] for row in rows if row["good"]]
    assert (
        "good rates: %r to %r" % (goods[0], goods[-1]) in done.stderr
        and "this rules out" in done.stderr
    )
    assert os.path.getsize(str(tmp_path / "range.png")) > 10000
    first = trials(name)
    assert {t.setup.solver["max_iter"] for t in first} == {150} and {
        t.setup.seed for t in first
    } == {1}
    assert "it cost 900 iterations in 8 trainings" in done.stderr, (
        "five to the end, three to the first evaluation at most"
    )
    again = lrbench(*words)
    assert again.returncode == 0 and json.loads(again.stdout) == rows and trials(name) == first


@needs_caffe
def test_a_range_test_that_was_cut_off_goes_on(name, digits, lrbench, trials, tmp_path):
    words = (
        "range",
        DIGITS,
        "--data",
        digits,
        "--study",
        name,
        "--out",
        str(tmp_path / "range.png"),
    )
    cut = start(*words, "--jobs", "1")
    wait_until(lambda: any(trial.state == "finished" for trial in trials(name)))
    cut.kill()
    cut.communicate()
    before = {trial.id: trial for trial in trials(name) if trial.state == "finished"}
    done = lrbench(*words)
    assert done.returncode == 0, done.stderr
    after = {trial.id: trial for trial in trials(name)}
    assert before.items() <= after.items() and len(after) == 8


@needs_caffe
def test_a_sweep_is_one_training_with_a_growing_rate(name, digits, lrbench, trials, tmp_path):
    done = lrbench(
        "range",
        DIGITS,
        "--sweep",
        "--data",
        digits,
        "--study",
        name,
        "--out",
        tmp_path / "range.png",
        "--format",
        "csv",
    )
    assert done.returncode == 0, done.stderr
    (swept,) = trials(name)
    rates = [row.lr for row in swept.rows]
    assert swept.policy.startswith(
        "WARMUP(k0=1e-05) for 120 then WARMUP(k0=0.0001) for 120"
    ) and rates == sorted(rates)
    assert swept.state == "diverged" and "it cost 550 iterations in 1 training," in done.stderr
    assert done.stdout.splitlines()[0].startswith("lr,good,top1_600") and ",True," in done.stdout


@needs_caffe
@pytest.mark.parametrize(
    "words, sentence",
    [
        (("not-there.prototxt",), "not-there.prototxt"),
        ((DIGITS, "--sweep", "--max-iter", "499"), "give --max-iter 500 or more"),
        (
            (DIGITS, "--out", "no/folder/range.png"),
            "no/folder/range.png: name another file with --out",
        ),
        ((DIGITS, "--out", "range"), "its name has to end as one of"),
        ((DIGITS, "--study", "no/name"), "no name for a study"),
        ((DIGITS, "--data", "/not/there"), "the data folder /not/there is not there"),
    ],
)
def test_what_cannot_be_tested_is_said_in_a_sentence(words, sentence, lrbench, digits):
    done = lrbench("range", "--data", digits, *words)
    assert done.returncode == 2 and sentence in done.stderr and len(done.stderr.splitlines()) == 1
