"""The paper's tables and figures: the published numbers, the trainings, and their comparison."""

import dataclasses
import json
import os
import uuid

import numpy as np
import pytest
from conftest import needs_caffe
from hypothesis import given
from hypothesis import strategies as st
from trials import NETWORK, record, trial

from lrbench_caffe.display import formats
from lrbench_caffe.errors import InputError
from lrbench_caffe.paper import comparison, scaling, targets
from lrbench_caffe.policies import Policy
from lrbench_caffe.ranking import spread
from lrbench_caffe.trial import FAILED

LENET = dataclasses.replace(NETWORK, name="LeNet")


def lenet_trial(policy, top1, seed=1, max_iter=10000, state="finished"):
    """Return a trial of Table VII. Its best row is in the middle of the training."""
    solver = {"max_iter": max_iter}
    result = trial(policy, (0.1, top1), seed, state, solver=solver, network=LENET)
    first, best = result.rows
    best = dataclasses.replace(best, iteration=max_iter // 2)
    return dataclasses.replace(result, rows=(first, best))


def test_every_target_has_the_policies_of_the_paper():
    lines = {name: len(target.published) for name, target in targets.TARGETS.items()}
    assert {name: n for name, n in lines.items() if name.startswith("table")} == {
        "table-2a": 3,
        "table-2b": 3,
        "table-3a": 10,
        "table-3b": 10,
        "table-5": 6,
        "table-6": 3,
        "table-7": 10,
        "table-8": 11,
        "table-9": 3,
    }
    for target in targets.TARGETS.values():
        assert len(set(target.policies)) == len(target.policies)
        assert [str(Policy.parse(text)) for text in target.policies] == list(target.policies)


def test_published_accuracies_are_shares_and_iterations_are_within_the_training():
    for target in targets.TARGETS.values():
        for line in target.published:
            top1, iterations = line.metrics["top1"], line.metrics["iterations"]
            assert 0.7 < top1 < 1 and 0 < iterations <= target.setting.max_iter
            assert iterations % target.setting.test_interval == 0, "the paper's test interval"
            assert line.top1_std is None or 0 < line.top1_std < 0.002
    best = max(targets.TARGETS["table-7"].published, key=lambda line: line.metrics["top1"])
    assert best.policy == "SIN2(k0=0.01, k1=0.06, l=2000)"
    assert best.metrics["top1"] == pytest.approx(0.9933)


@pytest.mark.parametrize("network", targets.SETTINGS)
@needs_caffe
def test_the_shipped_solvers_have_the_settings_of_the_paper(network):
    from lrbench_caffe import paths
    from lrbench_caffe.training import prototxt

    setting = targets.SETTINGS[network]
    solver = prototxt.read_solver(paths.shipped(setting.solver))
    assert (solver.max_iter, solver.test_interval) == (setting.max_iter, setting.test_interval)


@pytest.mark.parametrize(
    "text,name",
    [
        ("table-7", "table-7"),
        ("Table VII", "table-7"),
        ("table-IIIa", "table-3a"),
        ("figure-3", "figure-3"),
        ("TABLE-2B", "table-2b"),
        ("Figure 1", "figure-1"),
    ],
)
def test_a_target_is_named_with_roman_or_arabic_numerals(text, name):
    assert targets.canonical_name(text) == name and (
        name == "figure-1" or targets.TARGETS[name].name == name
    )


@pytest.mark.parametrize("text", ["table-4", "table", "figure-2", "", "7", "figure-vii"])
def test_an_unknown_target_is_refused_with_the_known_ones(text):
    with pytest.raises(InputError, match="choose one of figure-1, figure-3"):
        targets.canonical_name(text)


POLICIES = sorted(
    {text for target in targets.TARGETS.values() for text in target.policies}
    | {
        "EXP(k0=0.1, gamma=0.9999)",
        "INV(k0=0.01, gamma=0.0001, p=0.75)",
        "SIN2(k0=0.01, k1=0.06, l=2000)",
    }
)


@given(st.sampled_from(POLICIES), st.sampled_from([0.5, 0.1, 0.05, 0.01]), st.integers(0, 99))
def test_a_scaled_policy_has_the_rate_of_the_original_at_the_scaled_iteration(text, scale, n):
    policy = Policy.parse(text)
    scaled = scaling.scale_policy(policy, scale)
    steps = policy.parameters.get("l", 2000)
    if not isinstance(steps, tuple):
        steps = [steps]
    if any(abs(step * scale - round(step * scale)) > 1e-9 for step in steps):
        return  # a step is rounded at this scale, which changes the rates
    t = n * 100  # a whole number of iterations at each of the scales
    assert scaled(round(t * scale)) == pytest.approx(policy(t), rel=1e-5, abs=1e-12)


def test_a_policy_at_scale_1_is_unchanged():
    for text in POLICIES:
        assert scaling.scale_policy(Policy.parse(text), 1) == Policy.parse(text)


def test_a_scale_at_which_steps_vanish_is_refused():
    with pytest.raises(InputError, match="choose a larger scale"):
        scaling.scaled_policies(targets.TARGETS["table-7"], 0.0001)
    with pytest.raises(InputError, match="choose a larger scale"):
        scaling.scaled_policies(targets.TARGETS["figure-4"], 0.0014)


def rows_by_column(table):
    """Return the rows of a table as dicts by the columns' names."""
    names = [column.name for column in table.columns]
    return [dict(zip(names, row)) for row in table.rows]


def test_a_comparison_has_our_numbers_the_published_ones_and_the_differences():
    target = targets.TARGETS["table-7"]
    trials = [
        lenet_trial("INV(k0=0.01, gamma=0.0001, p=0.75)", top1, seed)
        for seed, top1 in ((1, 0.9905), (2, 0.9909))
    ]
    scale = scaling.scale_of_trials(target, trials)
    rows = rows_by_column(comparison.comparison_table(target, trials, scale))
    ours, published, difference = rows[3:6]
    assert ours["policy"] == target.policies[1] and ours["seeds"] == 2
    assert ours["top1"] == spread([0.9905, 0.9909])
    assert published["top1"].mean == pytest.approx(0.9909)
    assert published["top1"].deviation == pytest.approx(0.0002)
    assert difference["top1"] == pytest.approx(-0.0002) and difference["iterations"] == 5000 - 8000
    assert rows[0]["seeds"] == 0 and rows[2]["top1"] is None, "NSTEP was not trained"


def test_a_comparison_has_no_difference_to_a_misprint():
    target = targets.TARGETS["table-7"]
    trials = [lenet_trial(policy, 0.99) for policy in target.policies]
    rows = rows_by_column(comparison.comparison_table(target, trials, 1))
    cdac = [row["cdac"] for row in rows if row["line"] == "difference"]
    misprints = [text for text, difference in zip(target.policies, cdac) if difference is None]
    assert [text.partition("(")[0] for text in misprints] == ["POLY", "SIN", "COS"]


def test_a_shorter_training_is_named_by_its_scale_and_compared_with_scaled_iterations():
    target = targets.TARGETS["table-7"]
    inv = scaling.scaled_policies(target, 0.05)[target.policies[1]]
    trials = [lenet_trial(inv, 0.9, max_iter=500)]
    scale = scaling.scale_of_trials(target, trials)
    assert scale == 0.05 and targets.study_name(target, scale) == "table-7-at-0.05"
    table = comparison.comparison_table(target, trials, scale)
    assert "AT SCALE 0.05: 500 iterations instead of 10000" in table.title
    assert rows_by_column(table)[5]["iterations"] == 250 - 8000 * 0.05


def test_failed_trials_are_shown_and_do_not_count():
    target = targets.TARGETS["table-7"]
    nstep = target.policies[0]
    trials = [lenet_trial(nstep, 0.99), lenet_trial(nstep, 0.2, 2, state=FAILED)]
    table = comparison.comparison_table(target, trials, 1)
    assert table.rows[0][0].endswith("(1 failed)") and table.rows[0][4] == 1


def test_a_difference_that_rounds_to_0_has_no_sign():
    target = targets.TARGETS["table-7"]
    nstep = next(line for line in target.published if line.policy == target.policies[0])
    trials = [lenet_trial(target.policies[0], nstep.metrics["top1"] - 0.00001)]
    text = formats.render([comparison.comparison_table(target, trials, 1)], "markdown")
    assert "| 0.00 |" in text and "-0.00 " not in text


def test_trials_of_another_target_are_refused():
    target = targets.TARGETS["table-7"]
    inv = target.policies[1]
    with pytest.raises(InputError, match="no trial has a policy of table-7"):
        scaling.scale_of_trials(target, [lenet_trial("FIX(k0=0.5)", 0.9)])
    with pytest.raises(InputError, match="the trials have 500 and 10000 iterations"):
        trials = [lenet_trial(inv, 0.9), lenet_trial(inv, 0.9, max_iter=500)]
        scaling.scale_of_trials(target, trials)
    with pytest.raises(InputError, match="no training of table-7 has begun"):
        scaling.scale_of_trials(target, [])
    with pytest.raises(InputError, match="the network LeNet, but table-8 has CNN3"):
        scaling.scale_of_trials(targets.TARGETS["table-8"], [lenet_trial(inv, 0.9)])


def small_lenet(folder, digits):
    """Another net of the name LeNet: its solver and the folder with its data."""
    import nets

    net = nets.net().replace('name: "small"', 'name: "LeNet"')
    return nets.write(folder, net_text=net), digits


def real_lenet(folder, digits):
    """LeNet's solver, and a folder with images of MNIST's shape, 10,000 of them for the test."""
    from nets import random_lmdb

    from lrbench_caffe import datasets

    data = folder / "data"
    data.mkdir()
    files = datasets.paths("mnist", str(data))
    random_lmdb(files.train, 200)
    random_lmdb(files.test, 10000)
    return targets.SETTINGS["LeNet"].solver, str(data)


@needs_caffe
def test_a_reproduction_without_its_data_ends_before_anything_is_trained(
    invoke, database, tmp_path
):
    from lrbench_caffe.database import Store

    arguments = ["--data", tmp_path, "--out", tmp_path, "--dsn", database]
    done = invoke("reproduce", "table-7", *arguments)
    assert done.returncode == 2
    assert "mnist_train_lmdb, was not found" in done.stderr and "--data" in done.stderr
    with Store(database) as store:
        assert not store.select("SELECT FROM study")


@needs_caffe
@pytest.mark.parametrize("lenet", [small_lenet, pytest.param(real_lenet, marks=pytest.mark.long)])
def test_a_reproduction_is_trained_once_and_its_page_is_written_from_its_rows(
    lenet, digits, database, tmp_path, monkeypatch, capfd
):
    """Train for two iterations."""
    from types import SimpleNamespace

    from lrbench_caffe.database import Store
    from lrbench_caffe.paper import reproduction
    from lrbench_caffe.study.cores import Cores

    dsn, out, scale = database, str(tmp_path / "out"), 0.0002
    solver, data = lenet(tmp_path, digits)
    table_7 = targets.TARGETS["table-7"]
    setting = targets.SETTINGS["LeNet"]._replace(solver=solver)
    monkeypatch.setitem(targets.SETTINGS, "LeNet", setting)
    # INV and POLY, which have no steps that vanish at this scale.
    target = table_7._replace(policies=table_7.policies[1:3], published=table_7.published[1:3])
    begun = []
    display = SimpleNamespace(
        begin=begun.append, note=print, on_event=lambda job, kind, content: None
    )
    assert reproduction.prepare(target, scale, out, data) == data
    assert reproduction.train(target, scale, 1, Cores(2), display, data, dsn) == []
    rows = reproduction.export(target, scale, out, dsn)
    _, page, trials = reproduction.write(target, rows, out)
    assert [trial.policy for trial in sorted(trials, key=lambda trial: trial.policy)] == [
        "INV(k0=0.01, gamma=0.5, p=0.75)",
        "POLY(k0=0.01, p=1.2, l=2)",
    ]
    assert all(
        trial.state == "finished" and [row.iteration for row in trial.rows][-1] == 2
        for trial in trials
    )
    with Store(dsn) as store:
        stored = store.trials(study="table-7-at-0.0002")
    assert [trial.rows for trial in trials] == [trial.rows for trial in stored]
    assert reproduction.train(target, scale, 1, Cores(2), display, data, dsn) == []
    assert len(begun) == 1, "the second call trains nothing"
    assert os.path.basename(page) == "table-7-at-0.0002.md"
    text = open(page, encoding="utf-8").read()
    assert (
        "AT SCALE 0.0002" in text
        and "They are not the paper's trainings" in text
        and trials[0].host in text
    )
    assert "`lrbench reproduce table-7 --scale 0.0002 --seeds 1` runs these trainings" in text
    assert "`lrbench reproduce table-7 --from table-7-at-0.0002.jsonl`" in text
    assert open(page[:-2] + "png", "rb").read(8) == b"\x89PNG\r\n\x1a\n"

    monkeypatch.setitem(targets.TARGETS, "table-7", target)
    again = str(tmp_path / "again")
    reproduction.reproduce(
        "Table VII", again, lambda: Cores(2), None, data, seeds=1, scale=scale, dsn=dsn
    )
    output = capfd.readouterr().out
    assert "page: %s" % os.path.join(again, os.path.basename(page)) in output
    assert "The difference of #Iter is to 0.0002 times the published number" in output
    assert "INV(k0=0.01, gamma=0.5, p=0.75)" in output
    assert open(os.path.join(again, os.path.basename(page)), encoding="utf-8").read() == text


@pytest.fixture
def rows(dsn, tmp_path):
    """Return an export of made-up trials of Table VII: each policy with two seeds."""
    from lrbench_caffe import database
    from lrbench_caffe.database import exchange

    name, host = str(tmp_path / "rows.jsonl"), "made-up-%s" % uuid.uuid4()
    solver = {"max_iter": 10000, "test_interval": 500}
    with database.Store(dsn) as store:
        record(
            store,
            *(
                trial(policy, (0.1, 0.99), seed, solver=solver, dataset=host, network=LENET)
                for policy in targets.TARGETS["table-7"].policies
                for seed in (1, 2)
            ),
        )
    assert exchange.export_trials(name, dsn, {"dataset": host}) == 20
    return name


@needs_caffe
def test_a_page_is_written_from_an_export_without_a_database(rows, tmp_path, invoke):
    out = tmp_path / "out"
    for _ in range(2):
        ended = invoke(
            "reproduce",
            "table-VII",
            "--from",
            rows,
            "--out",
            out,
            "--dsn",
            "postgresql://nobody@127.0.0.1:1/none",
        )
        assert ended.returncode == 0, ended.stderr
    assert "Table VII" in ended.stdout and "99.33 ± 0.02" in ended.stdout
    page = (out / "table-7.md").read_text()
    assert "99.00 ± 0.00" in page and "`lrbench reproduce table-7 --from ../rows.jsonl`" in page
    assert sorted(os.listdir(str(out))) == ["table-7.md", "table-7.png"]


@needs_caffe
def test_a_page_names_the_test_interval_the_devices_and_special_trials(dsn, tmp_path):
    from lrbench_caffe import database
    from lrbench_caffe.database import exchange
    from lrbench_caffe.paper import reproduction

    target, host = targets.TARGETS["table-7"], "made-up-%s" % uuid.uuid4()
    texts = scaling.scaled_policies(target, 0.05)
    trials = [
        trial(
            texts[policy],
            (0.1, 0.99),
            solver={"max_iter": 500, "test_interval": 100, "solver_mode": mode},
            dataset=host,
            network=LENET,
            **changes,
        )
        for policy, mode, changes in zip(
            target.policies,
            ["CPU", "CPU", "GPU"],
            [{"resumed_at": 100}, {"state": "diverged", "error": "the loss became nan"}, {}],
        )
    ]
    other_table = trial(
        "FIX(k0=0.5)", (0.1, 0.2), solver={"max_iter": 500}, dataset=host, network=LENET
    )
    with database.Store(dsn) as store:
        record(store, *trials, other_table)
    rows = str(tmp_path / "rows.jsonl")
    exchange.export_trials(rows, dsn, {"dataset": host})
    _, page, _ = reproduction.write(target, rows, str(tmp_path))
    text = open(page, encoding="utf-8").read()
    assert page.endswith("table-7-at-0.05.md") and "AT SCALE 0.05" in text.splitlines()[0]
    assert "**Evaluated every 100 iterations**: the paper's interval at this scale is 25" in text
    assert (
        "Not counted: INV(k0=0.01, gamma=0.002, p=0.75), seed 1, diverged: the loss became nan."
        in text
    )
    assert "Trainings: 1 with Caffe 1.0.0, a GPU, on " in text
    assert "; 2 with Caffe 1.0.0, unknown BLAS, on " in text
    assert "Resumed from a snapshot: 1." in text
    assert (
        "`lrbench reproduce table-7 --scale 0.05 --test-interval 100 --gpu 0 --seeds 1` runs these"
        in text
    )


@needs_caffe
def test_json_and_csv_have_policy_and_scale_in_each_row(rows, tmp_path, invoke):
    ended = invoke("reproduce", "table-7", "--from", rows, "--out", tmp_path, "--format", "json")
    lines = json.loads(ended.stdout)
    assert [line["line"] for line in lines] == ["ours", "published", "difference"] * 10
    assert {line["scale"] for line in lines} == {1} and lines[3][
        "policy"
    ] == "INV(k0=0.01, gamma=0.0001, p=0.75)"
    assert lines[3]["top1"] == pytest.approx(0.99) and lines[4]["top1_std"] == pytest.approx(0.0002)
    assert (
        invoke(
            "reproduce", "table-7", "--from", rows, "--out", tmp_path, "--format", "csv"
        ).stdout.count("\n")
        == 31
    )


@pytest.mark.parametrize(
    "name,change,reason",
    [
        ("table-8", None, "a trial has the network LeNet, but table-8 has CNN3"),
        ("figure-3-lenet", None, "no trial has a policy of figure-3-lenet"),
        ("table-7", (b"0.99", b"0.98"), "checksum"),
        ("table-7", (b"lrbench", b"a bench"), "line 1"),
        ("table-6x", None, "choose one of figure-1"),
    ],
)
@needs_caffe
def test_an_unsuitable_export_is_refused_with_the_reason(
    rows, tmp_path, invoke, name, change, reason
):
    if change:
        content = open(rows, "rb").read().replace(*change)
        with open(rows, "wb") as file:
            file.write(content)
    ended = invoke("reproduce", name, "--from", rows, "--out", tmp_path / "out")
    assert ended.returncode == 2 and reason in ended.stderr and ended.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@needs_caffe
def test_a_missing_export_or_an_impossible_folder_is_refused_with_the_reason(
    rows, tmp_path, invoke
):
    ended = invoke("reproduce", "table-7", "--from", tmp_path / "none.jsonl")
    assert ended.returncode == 2 and "none.jsonl" in ended.stderr and ended.stderr.count("\n") == 1
    ended = invoke("reproduce", "table-7", "--from", rows, "--out", os.path.join(rows, "below"))
    assert ended.returncode == 2 and "--out" in ended.stderr and ended.stderr.count("\n") == 1


@needs_caffe
@pytest.mark.parametrize(
    "option",
    [
        ("--seeds", "3"),
        ("--scale", "0.5"),
        ("--jobs", "2"),
        ("--data", "data"),
        ("--test-interval", "9"),
    ],
)
def test_training_options_are_refused_if_nothing_is_trained(rows, tmp_path, invoke, option):
    ended = invoke("reproduce", "table-7", "--from", rows, "--out", tmp_path / "out", *option)
    assert (
        ended.returncode == 2
        and "--from trains nothing, but %s" % option[0] in ended.stderr
        and not (tmp_path / "out").exists()
    )


@needs_caffe
@pytest.mark.parametrize(
    "options,reason",
    [
        (("--seeds", "3"), "figure-1 trains nothing, but --seeds"),
        (("--from", "rows"), "not made from trials"),
    ],
)
def test_training_options_and_rows_are_refused_for_figure_1(tmp_path, invoke, options, reason):
    ended = invoke("reproduce", "figure-1", "--out", tmp_path / "out", *options)
    assert ended.returncode == 2 and reason in ended.stderr and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["figure-3-lenet", "figure-4", "figure-5"])
@needs_caffe
def test_figures_are_drawn_from_trials(tmp_path, name):
    from lrbench_caffe.paper import figures

    target = targets.TARGETS[name]
    trials = [
        lenet_trial(policy, 0.5 + n / 100, max_iter=target.setting.max_iter)
        for n, policy in enumerate(target.policies)
    ]
    figures.draw(target, trials, 1, str(tmp_path / "figure.png"))
    assert (tmp_path / "figure.png").stat().st_size > 10000


@needs_caffe
def test_figure_1_agrees_with_the_paper():
    from lrbench_caffe.paper import descent

    fix, nstep, triexp = descent.descents()
    assert np.hypot(*(fix.points[-1] - descent.LOCAL)) < 0.01, (
        "FIX comes to rest in the local minimum"
    )
    assert (
        np.hypot(*(nstep.points[-1] - descent.GLOBAL)) < 0.01
        and np.hypot(*(triexp.points[-1] - descent.GLOBAL)) < 0.01
    )
    assert triexp.points[20, 0] > max(fix.points[20, 0], nstep.points[20, 0]), (
        "TRIEXP is the fastest at first"
    )
    assert np.abs(triexp.points[30:80, 1]).max() > 0.2 > np.abs(nstep.points[30:80, 1]).max(), (
        "and bounces"
    )
    slopes = [
        (descent.surface(x + 1e-6, 0.1) - descent.surface(x - 1e-6, 0.1)) / 2e-6
        for x in (-1, 0.02, 0.5)
    ]
    assert slopes == pytest.approx([descent.gradient(x, 0.1)[0] for x in (-1, 0.02, 0.5)], abs=1e-6)
