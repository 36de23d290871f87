"""Ranking: trials grouped by policy over their seeds, ranked in each of the ways, with what noise does not tell apart tied."""

import csv
import io
import json
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trials import trial

from lrbench_caffe import ranking
from lrbench_caffe.display import tables
from lrbench_caffe.errors import InputError
from lrbench_caffe.ranking import Criterion, Spread, is_tied, parse_criterion, rank, spread

GOOD, FAIR, POOR = "SIN2(k0=0.01, k1=0.06, l=2000)", "FIX(k0=0.02)", "FIX(k0=0.001)"


def seeds(policy, *best, at=1, **changes):
    """A trial for each Top-1, reached at evaluation number at."""
    return [
        trial(policy, [0.1] * at + [top1], seed, **changes) for seed, top1 in enumerate(best, 1)
    ]


def places(ranked):
    return [(entry.policy, entry.rank, entry.tied) for entry in ranked]


def test_mean_and_sample_deviation_over_seeds():
    (entry,) = rank(seeds(FAIR, 0.98, 0.99, 0.97))
    assert entry.metrics["top1"] == (
        pytest.approx(0.98),
        pytest.approx(statistics.stdev([0.98, 0.99, 0.97])),
        3,
    )
    assert entry.metrics["iterations"].mean == 100 and entry.metrics["n_params"].mean == 1


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20))
def test_spread_agrees_with_the_standard_library(values):
    found = spread(values + [None])
    assert found.n == len(values) and found.mean == pytest.approx(statistics.mean(values), abs=1e-6)
    assert found.deviation == pytest.approx(statistics.stdev(values), rel=1e-6, abs=1e-6)


def test_welchs_test_as_scipy_has_it():
    scipy_stats = pytest.importorskip("scipy.stats")
    for a, b in (
        ([0.99, 0.991, 0.989], [0.985, 0.986, 0.987]),
        ([0.99, 0.97], [0.98, 0.975, 0.99]),
        ([0.9, 0.91, 0.92], [0.95, 0.9501]),
    ):
        assert is_tied(spread(a), spread(b)) == (
            scipy_stats.ttest_ind(a, b, equal_var=False).pvalue > 0.05
        )


def test_what_is_known_of_the_noise_with_one_seed():
    assert not is_tied(Spread(0.99, None, 1), Spread(0.98, None, 1)), "nothing is known of it"
    assert is_tied(Spread(0.99, None, 1), Spread(0.99, None, 1))
    assert is_tied(Spread(0.99, None, 1), Spread(0.985, 0.01, 3)), (
        "the other's noise is taken for both"
    )


def test_ties_share_a_rank_and_the_next_criterion_decides_among_them():
    trials = (
        seeds(GOOD, 0.990, 0.991, 0.989, at=5)
        + seeds(FAIR, 0.9895, 0.9905, 0.988, at=2)
        + seeds(POOR, 0.90, 0.901, 0.899)
    )
    assert places(rank(trials)) == [(GOOD, 1, True), (FAIR, 1, True), (POOR, 3, False)]
    assert places(rank(trials, parse_criterion("top1,iterations"))) == [
        (FAIR, 1, False),
        (GOOD, 2, False),
        (POOR, 3, False),
    ]
    assert places(rank(trials, parse_criterion("iterations")))[0][0] == POOR


def test_weights_scale_each_metric_from_the_worst_to_the_best():
    trials = (
        seeds(GOOD, 0.99, 0.99, at=5)
        + seeds(FAIR, 0.985, 0.985, at=1)
        + seeds(POOR, 0.90, 0.90, at=4)
    )
    assert [p for p, _, _ in places(rank(trials, parse_criterion("top1=1,iterations=1")))] == [
        FAIR,
        GOOD,
        POOR,
    ]
    assert [p for p, _, _ in places(rank(trials, parse_criterion("top1=100,iterations=1")))] == [
        GOOD,
        FAIR,
        POOR,
    ]


def test_pareto_fronts():
    behind = "EXP(k0=0.05, gamma=0.995)"
    trials = (
        seeds(GOOD, 0.99, 0.99, at=5)
        + seeds(FAIR, 0.97, 0.97, at=2)
        + seeds(POOR, 0.90, 0.90, at=3)
        + seeds(behind, 0.89, 0.89, at=4)
    )
    found = {entry.policy: entry.rank for entry in rank(trials, parse_criterion("pareto"))}
    assert found == {GOOD: 1, FAIR: 1, POOR: 2, behind: 3}
    assert {
        entry.policy for entry in ranking.pareto_front(rank(trials), ("top1", "iterations"))
    } == {GOOD, FAIR}


def test_within_the_noise_of_the_front_is_on_it_and_says_so():
    trials = seeds(GOOD, 0.990, 0.980, 0.970) + seeds(FAIR, 0.989, 0.979, 0.969)
    assert places(rank(trials, parse_criterion("pareto"))) == [(GOOD, 1, False), (FAIR, 1, True)]


def test_only_finished_trials_count_and_the_others_are_told():
    trials = seeds(GOOD, 0.99) + [
        trial(GOOD, [0.1], seed=2, state="diverged"),
        trial(POOR, [0.5], state="running"),
    ]
    first, last = rank(trials)
    assert (
        first.metrics["top1"] == (0.99, None, 1)
        and tables.states_note(first.others) == " (1 diverged)"
    )
    assert last.rank is None and last.metrics["top1"].mean == 0.5


def test_a_seed_that_was_trained_twice_counts_once():
    (entry,) = rank([trial(FAIR, [0.9]), trial(FAIR, [0.9]), trial(FAIR, [0.8], seed=2)])
    assert entry.metrics["top1"].n == 2


def test_other_solver_settings_are_another_line_that_says_so():
    short, long = rank(
        seeds(FAIR, 0.9) + seeds(FAIR, 0.95, solver={"max_iter": 500, "type": "SGD"})
    )[::-1]
    assert (long.label, short.label) == (FAIR + "  max_iter=500", FAIR + "  max_iter=100")


def test_tasks_are_kept_apart():
    assert [
        task[0].name
        for task in ranking.group_by_task(seeds(FAIR, 0.9) + seeds(FAIR, 0.9, dataset="other"))
    ] == ["data", "other"]


@pytest.mark.parametrize(
    "by, words",
    [
        ("topp", "did you mean top5"),
        ("top1,top1", "twice"),
        ("top1=1,ld", "mixes"),
        ("top1=-1", "above 0"),
        ("pareto:top1=2", "mixes"),
        ("", "no metric"),
    ],
)
def test_what_cannot_be_ranked_by_is_said(by, words):
    with pytest.raises(InputError, match=words):
        parse_criterion(by)


def test_nothing_to_rank():
    assert rank([]) == [] and rank([], Criterion("pareto", {"top1": 1.0})) == []


@pytest.fixture
def table():
    trials = seeds(GOOD, 0.99, 0.98) + [
        trial("NSTEP(k0=0.05, gamma=0.3, l=[300, 400])", [0.5], dataset="data")
    ]
    return tables.ranking(next(iter(ranking.group_by_task(trials))), rank(trials))


def test_csv_and_json_have_raw_values(table):
    line = next(csv.DictReader(io.StringIO(tables.render([table], "csv"))))
    record = json.loads(tables.render([table], "json"))[0]
    assert float(line["top1"]) == record["top1"] == pytest.approx(0.985) and record[
        "top1_std"
    ] == pytest.approx(0.00707, abs=1e-5)
    assert (
        record["policy"] == GOOD
        and record["rank"] == 1
        and record["tied"] is False
        and record["seeds"] == 2
    )


def test_markdown_and_latex_read_as_people_do(table):
    assert "| %s | 2 |" % GOOD in tables.render(
        [table], "markdown"
    ) and "98.50 ± 0.71" in tables.render([table], "markdown")
    latex = tables.render([table], "latex")
    assert r"Top-1 \%" in latex and r"98.50 $\pm$ 0.71" in latex and latex.count("&") == 10 * 3


def test_names_cannot_break_a_table():
    evil = tables.Table("a|b_c", (tables.Column("x", "x"),), (("<b>|$&\\ \n",),))
    assert tables.render([evil], "markdown").splitlines()[-1] == r"| \<b\>\|$\&\\   |"
    assert r"$<$b$>$$|$\$\&\textbackslash{}" in tables.render([evil], "latex")
    assert json.loads(tables.render([evil], "json")) == [{"x": "<b>|$&\\ \n"}]
