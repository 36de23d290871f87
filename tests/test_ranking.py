"""Ranking: policies over their seeds, in order, by weights and in Pareto fronts, with ties."""

import csv
import io
import json
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trials import trial

from lrbench_caffe import ranking
from lrbench_caffe.display import formats, tables
from lrbench_caffe.display.table import Column, Table
from lrbench_caffe.errors import InputError
from lrbench_caffe.ranking import Criterion, Spread, is_tied, parse_criterion, rank, spread

GOOD, FAIR, POOR = "SIN2(k0=0.01, k1=0.06, l=2000)", "FIX(k0=0.02)", "FIX(k0=0.001)"


def seeds(policy, *best, evaluation=1, **changes):
    """Return a trial for each Top-1, which is reached at the evaluation with this number."""
    return [
        trial(policy, [0.1] * evaluation + [top1], seed, **changes)
        for seed, top1 in enumerate(best, 1)
    ]


def ranks(trials, by="top1"):
    """Return (policy, rank, tied) of each entry."""
    return [(e.policy, e.rank, e.tied) for e in rank(trials, parse_criterion(by))]


def test_an_entry_has_mean_and_sample_deviation_over_its_seeds():
    (entry,) = rank(seeds(FAIR, 0.98, 0.99, 0.97))
    assert entry.metrics["top1"] == (
        pytest.approx(0.98),
        pytest.approx(statistics.stdev([0.98, 0.99, 0.97])),
        3,
    )
    assert entry.metrics["iterations"].mean == 100 and entry.metrics["n_params"].mean == 1


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20))
def test_spread_agrees_with_the_standard_library(values):
    result = spread(values + [None])
    assert result.n == len(values)
    assert result.mean == pytest.approx(statistics.mean(values), abs=1e-6)
    assert result.deviation == pytest.approx(statistics.stdev(values), rel=1e-6, abs=1e-6)


def test_ties_agree_with_welchs_test_in_scipy():
    scipy_stats = pytest.importorskip("scipy.stats")
    for a, b in (
        ([0.99, 0.991, 0.989], [0.985, 0.986, 0.987]),
        ([0.99, 0.97], [0.98, 0.975, 0.99]),
        ([0.9, 0.91, 0.92], [0.95, 0.9501]),
    ):
        assert is_tied(spread(a), spread(b)) == (
            scipy_stats.ttest_ind(a, b, equal_var=False).pvalue > 0.05
        )


def test_a_spread_of_one_seed_has_the_noise_of_the_other_spread():
    assert not is_tied(Spread(0.99, None, 1), Spread(0.98, None, 1)), "the noise is unknown"
    assert is_tied(Spread(0.99, None, 1), Spread(0.99, None, 1))
    assert is_tied(Spread(0.99, None, 1), Spread(0.985, 0.01, 3)), "both have this deviation"


def test_tied_policies_share_a_rank_unless_the_next_metric_separates_them():
    trials = (
        seeds(GOOD, 0.990, 0.991, 0.989, evaluation=5)
        + seeds(FAIR, 0.9895, 0.9905, 0.988, evaluation=2)
        + seeds(POOR, 0.90, 0.901, 0.899)
    )
    assert ranks(trials) == [(GOOD, 1, True), (FAIR, 1, True), (POOR, 3, False)]
    assert ranks(trials, "top1,iterations") == [
        (FAIR, 1, False),
        (GOOD, 2, False),
        (POOR, 3, False),
    ]
    assert ranks(trials, "iterations")[0][0] == POOR


def test_weights_apply_to_metrics_that_are_scaled_between_the_best_and_the_worst_policy():
    trials = (
        seeds(GOOD, 0.99, 0.99, evaluation=5)
        + seeds(FAIR, 0.985, 0.985, evaluation=1)
        + seeds(POOR, 0.90, 0.90, evaluation=4)
    )
    order = [policy for policy, _, _ in ranks(trials, "top1=1,iterations=1")]
    assert order == [FAIR, GOOD, POOR]
    order = [policy for policy, _, _ in ranks(trials, "top1=100,iterations=1")]
    assert order == [GOOD, FAIR, POOR]


def test_pareto_fronts_are_ranked_one_after_another():
    dominated = "EXP(k0=0.05, gamma=0.995)"
    trials = (
        seeds(GOOD, 0.99, 0.99, evaluation=5)
        + seeds(FAIR, 0.97, 0.97, evaluation=2)
        + seeds(POOR, 0.90, 0.90, evaluation=3)
        + seeds(dominated, 0.89, 0.89, evaluation=4)
    )
    fronts = {policy: front for policy, front, _ in ranks(trials, "pareto")}
    assert fronts == {GOOD: 1, FAIR: 1, POOR: 2, dominated: 3}
    front = ranking.pareto_front(rank(trials), ("top1", "iterations"))
    assert {entry.policy for entry in front} == {GOOD, FAIR}


def test_a_policy_within_the_noise_of_the_front_is_on_the_front_and_tied():
    trials = seeds(GOOD, 0.990, 0.980, 0.970) + seeds(FAIR, 0.989, 0.979, 0.969)
    assert ranks(trials, "pareto") == [(GOOD, 1, False), (FAIR, 1, True)]


def test_only_finished_trials_count_and_the_states_of_the_others_are_shown():
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


def test_of_two_trials_with_the_same_seed_one_counts():
    (entry,) = rank([trial(FAIR, [0.9]), trial(FAIR, [0.9]), trial(FAIR, [0.8], seed=2)])
    assert entry.metrics["top1"].n == 2


def test_other_solver_settings_make_another_entry_with_these_settings_in_its_label():
    short, long = rank(
        seeds(FAIR, 0.9) + seeds(FAIR, 0.95, solver={"max_iter": 500, "type": "SGD"})
    )[::-1]
    assert (long.label, short.label) == (FAIR + "  max_iter=500", FAIR + "  max_iter=100")


def test_trials_of_different_tasks_are_separated():
    trials = seeds(FAIR, 0.9) + seeds(FAIR, 0.9, dataset="other")
    tasks = ranking.group_by_task(trials)
    assert [dataset.name for dataset, network in tasks] == ["data", "other"]


@pytest.mark.parametrize(
    "by, reason",
    [
        ("topp", "did you mean top5"),
        ("top1,top1", "twice"),
        ("top1=1,ld", "mixes"),
        ("top1=-1", "top1: invalid weight '-1', expected a number above 0"),
        ("pareto:top1=2", "mixes"),
        ("", "not a metric"),
    ],
)
def test_an_invalid_criterion_is_refused_with_the_reason(by, reason):
    with pytest.raises(InputError, match=reason):
        parse_criterion(by)


def test_a_ranking_of_no_trials_is_empty():
    assert rank([]) == [] and rank([], Criterion("pareto", {"top1": 1.0})) == []


@pytest.fixture
def table():
    trials = seeds(GOOD, 0.99, 0.98) + [
        trial("NSTEP(k0=0.05, gamma=0.3, l=[300, 400])", [0.5], dataset="data")
    ]
    return tables.ranking(next(iter(ranking.group_by_task(trials))), rank(trials))


def test_csv_and_json_contain_raw_values(table):
    line = next(csv.DictReader(io.StringIO(formats.render([table], "csv"))))
    record = json.loads(formats.render([table], "json"))[0]
    assert float(line["top1"]) == record["top1"] == pytest.approx(0.985)
    assert record["top1_std"] == pytest.approx(0.00707, abs=1e-5)
    assert record["policy"] == GOOD and record["rank"] == 1
    assert record["tied"] is False and record["seeds"] == 2


def test_markdown_and_latex_contain_values_as_people_read_them(table):
    markdown = formats.render([table], "markdown")
    assert "| %s | 2 |" % GOOD in markdown and "98.50 ± 0.71" in markdown
    latex = formats.render([table], "latex")
    assert r"Top-1 \%" in latex and r"98.50 $\pm$ 0.71" in latex and latex.count("&") == 10 * 3


def test_special_characters_in_names_are_escaped():
    evil = Table("a|b_c", (Column("x", "x"),), (("<b>|$&\\ \n",),))
    assert formats.render([evil], "markdown").splitlines()[-1] == r"| \<b\>\|$\&\\   |"
    assert r"$<$b$>$$|$\$\&\textbackslash{}" in formats.render([evil], "latex")
    assert json.loads(formats.render([evil], "json")) == [{"x": "<b>|$&\\ \n"}]
