"""Ranking: policies over their seeds, in order, by weights and in Pareto fronts, with ties."""

import csv
import dataclasses
import io
import json
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trials import NETWORK, trial

from lrbench_caffe import ranking
from lrbench_caffe.display import formats, tables
from lrbench_caffe.display.table import Column, Table
from lrbench_caffe.errors import InputError
from lrbench_caffe.ranking import Criterion, Spread, is_tied, parse_criterion, rank, spread
from lrbench_caffe.trial import Network

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


def test_one_seed_is_tied_only_with_an_equal_mean():
    assert not is_tied(Spread(0.99, None, 1), Spread(0.98, None, 1))
    assert not is_tied(Spread(0.99, None, 1), Spread(0.985, 0.01, 3))
    assert is_tied(Spread(0.99, None, 1), Spread(0.99, None, 1))


def test_the_interval_of_a_mean_agrees_with_a_table_of_students_t():
    # t(0.975) with 1, 2 and 4 degrees of freedom, as printed in tables of the distribution.
    for values, quantile in (([1, 2], 12.706), ([1, 2, 4], 4.3027), ([1, 2, 4, 4, 3], 2.7764)):
        low, high = spread(values).interval
        half_width = quantile * statistics.stdev(values) / len(values) ** 0.5
        assert low == pytest.approx(statistics.mean(values) - half_width, rel=1e-4)
        assert high == pytest.approx(statistics.mean(values) + half_width, rel=1e-4)
    for values in ([], [1], [0.9875] * 3):
        assert spread(values).interval is None


def test_one_seed_is_placed_by_its_value_and_separates_no_ties():
    trials = (
        seeds(GOOD, 0.990, 0.991, 0.989)
        + seeds("FIX(k0=0.1)", 0.9899)
        + seeds(FAIR, 0.9895, 0.9905, 0.988)
        + seeds("FIX(k0=0.2)", 0.95)
        + seeds(POOR, 0.90, 0.901, 0.899)
    )
    assert ranks(trials) == [
        (GOOD, 1, True),
        (FAIR, 1, True),
        ("FIX(k0=0.1)", 3, False),
        ("FIX(k0=0.2)", 4, False),
        (POOR, 5, False),
    ]
    assert [e.has_one_seed for e in rank(trials)] == [False, False, True, True, False]


def test_one_seed_in_front_is_not_tied_with_noisy_policies():
    trials = seeds(GOOD, 0.99) + seeds(FAIR, 0.98, 0.90) + seeds(POOR, 0.70, 0.10)
    assert ranks(trials) == [(GOOD, 1, False), (FAIR, 2, True), (POOR, 2, True)]
    assert ranks(trials, "pareto:top1")[1:] == [(FAIR, 2, False), (POOR, 2, True)]


def test_equal_values_of_one_seed_share_a_rank_without_being_called_tied():
    trials = seeds(GOOD, 0.98, evaluation=5) + seeds(FAIR, 0.98, evaluation=2) + seeds(POOR, 0.5)
    assert ranks(trials) == [(FAIR, 1, False), (GOOD, 1, False), (POOR, 3, False)]
    assert ranks(trials, "top1,iterations")[:2] == [(FAIR, 1, False), (GOOD, 2, False)]


def test_policies_with_equal_means_are_in_the_order_of_their_test_loss():
    def with_losses(trials, *losses):
        return [
            dataclasses.replace(
                made, rows=tuple(dataclasses.replace(row, test_loss=loss) for row in made.rows)
            )
            for made, loss in zip(trials, losses)
        ]

    high = with_losses(seeds("FIX(k0=0.5)", 0.98, 0.96, evaluation=2), 0.161, 0.161)
    low = with_losses(seeds("FIX(k0=1.0)", 0.96, 0.98, evaluation=5), 0.15, 0.152)
    unknown = with_losses(seeds("FIX(k0=0.1)", 0.98, 0.96, evaluation=1), 0.1, None)
    order = ["FIX(k0=1.0)", "FIX(k0=0.5)", "FIX(k0=0.1)"]
    for by in ("top1", "top5,top1", "top1=1,top5=1", "pareto:top1"):
        assert [policy for policy, _, _ in ranks(high + unknown + low, by)] == order


def test_the_final_top1_is_the_spread_of_the_last_evaluations():
    first, second = trial(FAIR, [0.1, 0.98, 0.9], 1), trial(FAIR, [0.1, 0.96, 0.8], 2)
    (entry,) = rank([first, second])
    assert entry.metrics["top1"].mean == pytest.approx(0.97)
    assert entry.final_top1 == (pytest.approx(0.85), pytest.approx(statistics.stdev([0.9, 0.8])), 2)
    (block,) = ranking.group_comparable([first, second])
    table = tables.ranked(block, [entry])
    assert "85.0 ± 7.1" in formats.render([table], "markdown")
    (line,) = json.loads(formats.render([table], "json"))
    assert line["final_top1"] == pytest.approx(0.85)


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


@pytest.mark.parametrize("by", ["top1", "iterations,top1", "top1=3,iterations=1", "pareto"])
def test_the_first_entries_are_those_of_the_whole_ranking(by):
    """Many means are equal, many policies are tied, and some have one seed."""
    chance = random.Random(5)
    trials = [
        trial(
            "FIX(k0=%s)" % k0,
            top1=[0.1, round(chance.uniform(0.9, 0.99), 2), 0.9],
            seed=seed,
            state=chance.choice(["finished"] * 9 + ["diverged"]),
        )
        for k0 in range(1, 40)
        for seed in range(chance.choice([1, 2, 3]))
    ]
    criterion = parse_criterion(by)
    (block,) = ranking.group_comparable(trials)
    whole = rank(trials, criterion)
    for first in (0, 1, 7, 20, len(whole), 100):
        entries = ranking.rank_block(block, criterion, first)
        assert entries == whole[: len(entries)] and len(entries) >= min(first, len(whole))
    best = [entry for entry in whole if entry.rank == 1]
    assert ranking.rank_block(block, criterion, 1)[: len(best)] == best, "ties are complete"


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


def test_short_trainings_are_ranked_by_themselves_behind_the_long_ones():
    short = {"max_iter": 100, "type": "SGD"}
    long = {"max_iter": 500, "type": "SGD"}
    trials = (
        seeds(FAIR, 0.99, 0.99, solver=short)
        + seeds(GOOD, 0.98, 0.98, solver=short)
        + seeds(FAIR, 0.95, 0.95, solver=long)
        + seeds(GOOD, 0.94, state="pruned", solver=long)
        + seeds(POOR, 0.99, state="running", solver={"max_iter": 900, "type": "SGD"})
    )
    assert [(entry.label, entry.rank) for entry in rank(trials)] == [
        (FAIR + "  max_iter=500", 1),
        (GOOD + "  max_iter=500", None),
        (FAIR + "  max_iter=100", 1),
        (GOOD + "  max_iter=100", 2),
        (POOR + "  max_iter=900", None),
    ]
    blocks = ranking.group_comparable(trials)
    assert [block.title for block in blocks] == [
        "net on data, %d iterations" % length for length in (500, 100, 900)
    ]
    assert [len(block.trials) for block in blocks] == [3, 4, 1]
    front = ranking.pareto_front(rank(trials), ["top1"])
    assert [entry.label for entry in front] == [FAIR + "  max_iter=500", FAIR + "  max_iter=100"]


def titles(*trials):
    return [block.title for block in ranking.group_comparable(trials)]


def test_titles_name_the_settings_that_distinguish_blocks():
    solver = {"max_iter": 100, "type": "SGD", "batch_size": 64, "test_iter": [4]}
    assert titles(trial(solver=solver)) == ["net on data, 100 iterations"]
    assert titles(
        trial(solver=solver),
        trial(solver=dict(solver, batch_size=128, display=10)),
        trial(solver=dict(solver, batch_size=128)),
        trial(solver=dict(solver, head="loss1", test_net=1)),
        trial(solver=dict(solver, test_iter=[4, 5])),
    ) == [
        "net on data, 100 iterations (batch_size=128 test_iter=[4])",
        "net on data, 100 iterations (batch_size=64 head=loss1 test_iter=[4] test_net=1)",
        "net on data, 100 iterations (batch_size=64 test_iter=[4, 5])",
        "net on data, 100 iterations (batch_size=64 test_iter=[4])",
    ]
    assert titles(trial(solver={"type": "SGD"})) == ["net on data"]


def with_dataset(trial, **changes):
    dataset = dataclasses.replace(trial.setup.dataset, **changes)
    return dataclasses.replace(trial, setup=dataclasses.replace(trial.setup, dataset=dataset))


def test_titles_distinguish_networks_and_datasets_of_one_name():
    other = Network("net", "ab" * 32, "other")
    assert titles(trial(), trial(network=other), trial(network=Network("mlp", "cd" * 32, ""))) == [
        "net@%s on data, 100 iterations" % NETWORK.hash[:8],
        "net@abababab on data, 100 iterations",
        "mlp on data, 100 iterations",
    ]
    unknown = with_dataset(trial(), shape=None, test_samples=None)
    assert titles(trial(), unknown, trial(dataset="digits")) == [
        "net on data@1x8x8/1000/400, 100 iterations",
        "net on data@?/1000/?, 100 iterations",
        "net on digits, 100 iterations",
    ]
    tasks = ranking.group_by_task([trial(), trial(network=other), trial(dataset="digits")])
    assert ranking.names_remarks(tasks) == [
        "2 networks have the name net: choose one of them with --network net@%s or net@abababab"
        % NETWORK.hash[:8]
    ]


def test_trials_with_equal_top1_are_in_the_order_of_the_ranking():
    """By the test loss first, then by the iterations."""
    early, late, lossy = trial(GOOD, [0.5, 0.9, 0.9]), trial(FAIR, [0.5, 0.6, 0.9]), trial(POOR)
    rows = tuple(dataclasses.replace(row, test_loss=0.7) for row in lossy.rows)
    lossy = dataclasses.replace(lossy, rows=rows)
    assert ranking.sort_by_top1([lossy, late, early]) == [early, late, lossy]
    assert [entry.policy for entry in ranking.rank([lossy, late, early])] == [GOOD, FAIR, POOR]


def test_a_training_without_a_test_net_is_listed_without_a_rank():
    untested = trial(POOR, [0.1, 0.2])
    nothing = dict.fromkeys(("test_loss", "top1", "top5", "ac", "cd", "cdac", "ld"))
    rows = tuple(dataclasses.replace(row, **nothing) for row in untested.rows)
    untested = dataclasses.replace(untested, rows=rows)
    trials = [untested, *seeds(GOOD, 0.99, 0.98)]
    for by in ("top1", "top1=2,ld=1", "pareto"):
        assert ranks(trials, by) == [(GOOD, 1, False), (POOR, None, False)]
    assert ranking.sort_by_top1(trials)[-1] == untested
    (block,) = ranking.group_comparable(trials)
    markdown = formats.render([tables.ranked(block, rank(trials))], "markdown")
    assert "| - | FIX(k0=0.001) (1 finished without a test) | 0 | - |" in markdown
    assert "| - | - |" in formats.render(tables.study("first", [untested]), "markdown")


def test_a_study_has_a_table_for_each_block():
    adam = {"max_iter": 100, "type": "Adam"}
    short, long = tables.study(
        "first",
        [
            trial(solver=adam),
            trial(FAIR, solver={"max_iter": 50}),
            trial(GOOD, solver={"max_iter": 50}),
        ],
    )
    assert short.title == "study first: net on data, 100 iterations (type=Adam)"
    assert (long.title, len(long.rows)) == ("study first: net on data, 50 iterations", 2)
    records = json.loads(formats.render([short, long], "json"))
    assert [record["settings"] for record in records] == ["max_iter=100 type=Adam"] + [
        "max_iter=50"
    ] * 2
    (empty,) = tables.study("first", [])
    assert (empty.title, empty.rows) == ("study first", ())


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
    return tables.ranked(ranking.group_comparable(trials)[0], rank(trials))


def test_csv_and_json_contain_raw_values(table):
    line = next(csv.DictReader(io.StringIO(formats.render([table], "csv"))))
    record = json.loads(formats.render([table], "json"))[0]
    assert float(line["top1"]) == record["top1"] == pytest.approx(0.985)
    assert record["top1_std"] == pytest.approx(0.00707, abs=1e-5)
    assert record["policy"] == GOOD and record["rank"] == 1
    assert record["tied"] is False and record["seeds"] == 2
    assert list(record)[:8] == [
        *("rank", "tied", "policy", "settings", "dataset", "network", "seeds", "ld")
    ]
    assert record["top1_low"] == pytest.approx(0.985 - 12.706 * 0.005, rel=1e-4)
    assert record["top1_high"] == 1, "the interval ends where accuracies do"
    assert record["max_iter"] == 100 and record["shape"] == "1x8x8"


def test_a_row_has_an_interval_or_one_seed(table):
    texts = [line.split(" | ")[6] for line in formats.render([table], "markdown").splitlines()[4:]]
    assert texts == ["92.15-100.00", "one seed"]


def test_markdown_and_latex_contain_values_as_people_read_them(table):
    markdown = formats.render([table], "markdown")
    assert "| %s | 2 |" % GOOD in markdown and "98.50 ± 0.71" in markdown
    latex = formats.render([table], "latex")
    assert r"Top-1 \%" in latex and r"98.50 $\pm$ 0.71" in latex and latex.count("&") == 12 * 3


def test_special_characters_in_names_are_escaped():
    evil = Table("a|b_c", (Column("x", "x"),), (("<b>|$&\\ \n",),))
    assert formats.render([evil], "markdown").splitlines()[-1] == r"| \<b\>\|$\&\\   |"
    assert r"$<$b$>$$|$\$\&\textbackslash{}" in formats.render([evil], "latex")
    assert json.loads(formats.render([evil], "json")) == [{"x": "<b>|$&\\ \n"}]


def test_tiny_numbers_are_compared_as_any_other():
    """Weights may be tiny, and the squares of such numbers are not floats."""
    tiny = [Spread(mean * 1e-88, 1e-90, 3) for mean in (1, 1.001, 3)]
    assert is_tied(tiny[0], tiny[1]) and not is_tied(tiny[0], tiny[2])
