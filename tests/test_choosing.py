"""Choosing on one set and reporting on another: ranking, search, report, database and exports."""

import dataclasses
import json

import pytest
from trials import record
from trials import trial as made_up

from lrbench_caffe import ranking
from lrbench_caffe.display import console, tables
from lrbench_caffe.display.formats import render
from lrbench_caffe.display.layout import fitted
from lrbench_caffe.display.view import View, view
from lrbench_caffe.trial import SET_METRICS, Job

pytest.importorskip(
    "psycopg2", reason="needs psycopg2 and PostgreSQL: run the tests with `make test`"
)
from test_tune import FULL, SETTINGS, Simulated

from lrbench_caffe.database import Store, exchange, studies, validation
from lrbench_caffe.database.columns import EVALUATION_COLUMNS
from lrbench_caffe.evaluator import prior, recommendation, tuner
from lrbench_caffe.report import content, page
from lrbench_caffe.study.pruning import Pruner

GOOD, LUCKY, THIRD = "FIX(k0=0.01)", "FIX(k0=0.02)", "FIX(k0=0.03)"
SETS = {"max_iter": 100, "type": "SGD", "select": "validation", "report": "test"}


def on_two_sets(row, test):
    """A row of the validation set, with a Top-1 on the test set."""
    metrics = {name: getattr(row, name) for name in SET_METRICS}
    other = {"test": dict(metrics, top1=test, ac=test)}
    return dataclasses.replace(row, measured_on="validation", other_sets=other)


def trial(policy, validation, test, seed=1, **changes):
    """A trial with these Top-1 accuracies on the validation set and on the test set."""
    single = made_up(policy, validation, seed, solver=dict(SETS, select_samples=60), **changes)
    rows = tuple(on_two_sets(row, share) for row, share in zip(single.rows, test))
    return dataclasses.replace(single, rows=rows)


@pytest.fixture
def two_policies():
    """LUCKY is better on the test set, GOOD on the validation set, at other iterations."""
    return [trial(GOOD, (0.92, 0.9), (0.7, 0.95)), trial(LUCKY, (0.8, 0.85), (0.9, 0.8))]


def test_the_summary_reports_the_test_row_of_the_iteration_that_validation_chose(two_policies):
    good, _ = two_policies
    assert good.best.iteration == 0 and good.best.top1 == 0.92
    assert (good.summary.top1, good.summary.ac, good.summary.iterations) == (0.7, 0.7, 0)
    assert (good.deciding_summary.top1, good.deciding_summary.iterations) == (0.92, 0)
    assert good.top1_curve == ((0, 0.92), (100, 0.9))


def test_the_final_top1_is_that_of_the_last_row_on_the_reported_set(two_policies, store):
    record(store, *two_policies)
    for trials in (two_policies, store.results(), store.trials(best_only=True)):
        assert [entry.final_top1.mean for entry in ranking.rank(trials)] == [0.95, 0.8]
    table = tables.results(two_policies)
    assert [line["final_top1"] for line in json.loads(render([table], "json"))] == [0.95, 0.8]


def test_a_row_on_another_set_has_its_own_metrics_among_the_others(two_policies):
    row = two_policies[0].rows[0]
    test = row.on("test")
    assert (test.measured_on, test.top1, test.heads, test.class_confidence) == (
        *("test", 0.7, None),
        None,
    )
    assert test.other_sets["validation"]["top1"] == 0.92
    assert test.on("validation").top1 == 0.92
    assert row.on("unknown") is row and row.on(None) is row


@pytest.mark.parametrize("by", ["top1", "top1=3,ac=1", "pareto:top1,ac", "ac,top1"])
def test_policies_are_ranked_by_the_deciding_set_and_shown_with_the_reported_one(by, two_policies):
    ranked = ranking.rank(two_policies, ranking.parse_criterion(by))
    assert [entry.policy for entry in ranked] == [GOOD, LUCKY]
    assert [entry.rank for entry in ranked] == [1, 2]
    assert [entry.metrics["top1"].mean for entry in ranked] == [0.7, 0.8]
    assert [entry.deciding["top1"].mean for entry in ranked] == [0.92, 0.85]
    assert [t.policy for t in ranking.sort_by_top1(reversed(two_policies))] == [GOOD, LUCKY]


def test_a_front_is_that_of_the_deciding_set(two_policies):
    front = ranking.pareto_front(ranking.rank(two_policies), ["top1"])
    assert [entry.policy for entry in front] == [GOOD]


def test_trials_with_and_without_a_validation_set_are_not_ranked_together(two_policies):
    alone = made_up(GOOD, solver={"max_iter": 100, "type": "SGD"})
    blocks = ranking.group_comparable([*two_policies, alone])
    assert sorted(len(block.trials) for block in blocks) == [1, 2]
    assert any("report=test select=validation" in block.title for block in blocks)
    assert ranking.sets_remarks([*two_policies, alone]) == [
        "2 trainings: chosen on the validation set, reported on the test set",
        "1 training: chosen and reported on the test set, so the best is a little too high",
    ]
    assert ranking.sets_remarks([made_up(GOOD, ())]) == []


def test_tables_have_both_accuracies_and_name_the_sets(two_policies):
    (block,) = ranking.group_comparable(two_policies)
    ranked = tables.ranked(block, ranking.rank(block.trials))
    for table in (ranked, tables.results(two_policies)):
        markdown = render([table], "markdown")
        assert "validation Top-1 %" in markdown and "| 92.00 |" in markdown
        assert "| 70.00 |" in markdown
        records = json.loads(render([table], "json"))
        assert {record["selected_on"] for record in records} == {"validation"}
        assert {record["reported_on"] for record in records} == {"test"}
        assert [record["selected_top1"] for record in records] == [0.92, 0.85]
        assert [record["top1"] for record in records] == [0.7, 0.8]
    single = tables.results([made_up()])
    assert "validation" not in render([single], "markdown")
    (line,) = json.loads(render([single], "json"))
    assert (line["selected_on"], line["reported_on"], line["selected_top1"]) == (
        *("test", "test"),
        0.9,
    )


def test_the_accuracy_that_decides_is_a_column_that_is_never_left_out(two_policies):
    (block,) = ranking.group_comparable(two_policies)
    ranked = tables.ranked(block, ranking.rank(block.trials))
    for table in (ranked, tables.results(two_policies)):
        shown = fitted(table, 40)
        assert "validation Top-1 %" in [column.title for column in shown.columns]
    chosen = View(("policy", "selected_top1"))
    (table,) = view([ranked], chosen, "table")
    assert [column.title for column in table.columns] == ["policy", "validation Top-1 %"]


def test_a_set_with_a_strange_name_is_shown_as_visible_text(two_policies, store, capsys):
    name = "va\x1b[31m|l"
    strange = [
        dataclasses.replace(
            t,
            setup=dataclasses.replace(t.setup, solver=dict(t.setup.solver, select=name)),
            rows=tuple(dataclasses.replace(row, measured_on=name) for row in t.rows),
        )
        for t in two_policies
    ]
    record(store, *strange)
    assert {row.measured_on for t in store.trials() for row in t.rows} == {name}
    table = tables.results(strange)
    header, line = render([table], "markdown").splitlines()[:2]
    assert "\x1b" not in header and header.count(" | ") == line.count(" | ")
    console.print_tables(table)
    for sentence in ranking.sets_remarks(strange):
        console.print_line(sentence)
    printed = capsys.readouterr().out
    assert (
        "\x1b" not in printed and "chosen on the va\N{REPLACEMENT CHARACTER}[31m|l set" in printed
    )
    (task,) = content.load(store, {}, ranking.parse_criterion("top1"))["tasks"]
    assert "\x1b" not in json.dumps(task)


def test_commands_name_the_sets_and_rank_by_the_one_that_decides(
    database, two_policies, invoke, tmp_path
):
    with Store(database) as store:
        record(store, *two_policies)
        (report,) = content.load(store, {}, ranking.parse_criterion("top1"))["tasks"]
    done = invoke("rank", "--dsn", database)
    assert done.stdout.index(GOOD) < done.stdout.index(LUCKY)
    assert "chosen on the validation set, reported on the test set" in done.stdout
    assert "validation" in done.stdout
    done = invoke("rank", "--dsn", database, "--format", "csv")
    assert "selected_top1" in done.stdout and "chosen on" in done.stderr
    done = invoke("recommend", "--dataset", "data", "--network", "net", "--dsn", database)
    assert "chosen on the validation set, which has these numbers" in done.stdout
    assert [policy["selected"] for policy in report["policies"]] == [
        ["validation", 0.92],
        ["validation", 0.85],
    ]
    assert [policy["metrics"]["top1"][0] for policy in report["policies"]] == [0.7, 0.8]
    assert "Numbers are chosen on the validation set, reported on the test set." in report["sets"]
    assert report["policies"][0]["runs"][0]["top1"] == [0.92, 0.9]
    path = tmp_path / "report.html"
    with Store(database) as store:
        page.write(str(path), content.load(store, {}, ranking.parse_criterion("top1")))
    assert "reported on the test set" in path.read_text()


def test_the_database_an_export_and_an_import_keep_the_sets(
    store, two_policies, database, tmp_path, dsn
):
    from conftest import new_database_on

    record(store, *two_policies)
    assert {t.id: t.rows for t in store.trials()} == {t.id: t.rows for t in two_policies}
    (best,) = [t for t in store.trials(best_only=True) if t.policy == GOOD]
    assert [row.top1 for row in best.rows] == [0.92, 0.9] and best.summary.top1 == 0.7
    path = str(tmp_path / "sets.jsonl")
    exchange.export_trials(path, database, {})
    with new_database_on(dsn) as other:
        exchange.import_trials(path, other)
        with Store(other) as imported:
            assert {t.id: t.rows for t in imported.trials()} == {t.id: t.rows for t in two_policies}
            lines = imported.select(
                "SELECT policy, top1, selected_top1, selected_on, reported_on, iterations"
                " FROM result ORDER BY policy"
            )
    assert [tuple(line) for line in lines] == [
        (GOOD, 0.7, 0.92, "validation", "test", 0),
        (LUCKY, 0.8, 0.85, "validation", "test", 100),
    ]


METRICS = dict.fromkeys(SET_METRICS, 0.5)
BOUNDS = {"solver": {}, "classes": 3}  # of a trial whose rows are checked


@pytest.mark.parametrize(
    "column, value",
    [
        ("measured_on", ""),
        ("measured_on", 3),
        ("other_sets", {"": METRICS}),
        ("other_sets", {"test": {}}),
        ("other_sets", {"test": dict(METRICS, top1="0.5")}),
        ("other_sets", {"test": dict(METRICS, top5=1.5)}),
    ],
)
def test_invalid_sets_in_an_export_are_refused(column, value):
    row = trial(GOOD, (0.9,), (0.8,)).rows[0]
    values = [getattr(row, name) for name in EVALUATION_COLUMNS]
    values[EVALUATION_COLUMNS.index("class_confidence")] = None
    assert validation.check_rows([values], -1, BOUNDS) == 0
    values[EVALUATION_COLUMNS.index(column)] = value
    with pytest.raises(validation.InvalidLine, match=column):
        validation.check_rows([values], -1, BOUNDS)


def test_a_trial_is_pruned_beside_those_of_its_own_set(store):
    others = [made_up(top1=(0.9,)) for _ in range(3)]
    others += [trial(GOOD, (0.3,), (0.9,)) for _ in range(3)]
    record(store, *others)
    pruner, job = Pruner(0.2, studies.reached(store, [t.id for t in others])), Job("x", id="new")
    new = trial(GOOD, (0.2,), (0.2,))
    assert pruner.on_event(job, "begin", new) is None
    assert pruner.on_event(job, "row", new.rows[0]) is None
    state, reason = pruner.on_event(job, "row", made_up(top1=(0.2,)).rows[0])
    assert state == "pruned" and "below 90.00 %" in reason


class OnTwoSets(Simulated):
    """A net whose test set prefers other rates than its validation set."""

    def __init__(self):
        super().__init__()
        solver = dict(SETTINGS, select="validation", report="test", select_samples=10000)
        self.setup = dataclasses.replace(self.setup, solver=solver)

    def rows(self, policy, max_iter, seed):
        for row in super().rows(policy, max_iter, seed):
            yield on_two_sets(row, 1 - row.top1)


def test_a_search_decides_by_the_validation_set_alone(database):
    """On the test set, the policies have the opposite order."""
    made = OnTwoSets()
    trainer = made.trainer(database)
    trainer.budget = 10 * FULL
    tuned = tuner.tune(trainer, ["FIX", "STEP"], on_note=lambda sentence: None)
    best = max(
        (entry for entry in tuned.ranked if entry.rank),
        key=lambda entry: entry.deciding["top1"].mean,
    )
    assert tuned.policy in [e.policy for e in tuned.ranked if e.rank == best.rank]
    shown = tuned.ranked[0].metrics["top1"].mean
    assert shown == pytest.approx(1 - tuned.ranked[0].deciding["top1"].mean)
    assert shown < 0.5 < tuned.ranked[0].deciding["top1"].mean
    assert "chosen on the validation set, reported on the test set" in tuner.summary(tuned)


def test_a_search_with_a_validation_set_does_not_use_what_the_test_set_chose(store):
    on_test = [
        made_up("FIX(k0=%g)" % k0, (0.1, 0.9), seed) for k0 in (0.1, 0.01, 0.001) for seed in (1, 2)
    ]
    record(store, *on_test)
    setup = trial(GOOD, (0.9,), (0.8,)).setup
    alone = dataclasses.replace(setup, solver={"max_iter": 100, "type": "SGD"})
    assert prior.load(store, alone, 5).policies
    unused = prior.load(store, setup, 5)
    assert not unused.policies and unused.good is None
    assert "were not chosen on the validation set" in unused.sentence
    record(store, *(trial(THIRD, (0.1, 0.8), (0.1, 0.7), seed) for seed in (1, 2)))
    used = prior.load(store, setup, 5)
    assert [policy for policy, _ in used.policies] == [THIRD]
    query = recommendation.query_from_setup(setup)
    (results,) = recommendation.recommend(store, query).tasks
    assert results.policies[0].policy == THIRD and results.shortcomings[0] == ()
    assert "it was chosen on another set, test" in results.shortcomings[1]
