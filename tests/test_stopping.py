"""Early stopping, as a pure decision and in real trainings; and the lines of Caffe's log."""

import dataclasses
import json
import math
import os
import re
import subprocess

import nets
import pytest
from conftest import needs_caffe
from hypothesis import given
from hypothesis import strategies as st
from studies import start
from trials import trial

from lrbench_caffe import InputError, ranking
from lrbench_caffe.evaluator import shorter, tuner
from lrbench_caffe.evaluator.explanation import evidence
from lrbench_caffe.evaluator.tuning_log import Task
from lrbench_caffe.ranking import ranges
from lrbench_caffe.study import process, runner
from lrbench_caffe.training import patience
from lrbench_caffe.training.patience import EarlyStop, Memory, Patience
from lrbench_caffe.trial import DIVERGED, FINISHED, INTERRUPTED, Evaluation, Job

FROZEN = "FIX(k0=1e-30)"  # under this rate, no weight changes and no metric improves


def ends_at(values, iterations=20, metric="top1", min_delta=0.0, memory=None):
    """The iteration, of one evaluation per 10 iterations, with which a training ends, or None."""
    stop = EarlyStop(
        Patience(iterations, metric, min_delta, "some time"), memory or Memory(None, 0)
    )
    for n, value in enumerate(values):
        if stop.observe(Evaluation(10 * n, 0.1, **{metric: value})):
            return 10 * n
    return None


@pytest.mark.parametrize(
    "values, options, end",
    [
        ([0.1, 0.2, 0.3, 0.3, 0.3, 0.9], {}, 40),
        ([0.1, 0.2, 0.1, 0.3, 0.1, 0.3], {}, 50),
        ([0.1, 0.2, 0.3, 0.4], {}, None),
        ([2.3, 2.2, 2.2, 2.3, 0.1], {"metric": "test_loss"}, 30),
        ([None, 2.2, 2.1, 2.1, 2.1], {"metric": "train_loss"}, 40),
        ([None] * 4, {"metric": "train_loss"}, 20),
        ([0.5, math.nan, math.nan, 0.6], {}, 20),
        ([math.nan, 0.5, 0.6, 0.6, 0.6], {}, 40),
        ([0.5, 0.504, 0.508, 0.9], {"min_delta": 0.01}, 20),
        ([0.5, 0.504, 0.51, 0.51, 0.51], {"min_delta": 0.01}, 40),
        ([0.972, 0.972, 0.975, 0.975, 0.9775, 0.9775], {"min_delta": 0.0025}, None),
        ([0.5, 0.5], {"iterations": 1}, 10),
    ],
)
def test_a_training_ends_when_its_metric_has_not_improved_for_the_patience(values, options, end):
    assert ends_at(values, **options) == end


@given(
    st.lists(st.one_of(st.none(), st.integers(0, 8)), max_size=30),
    st.integers(1, 6),
    st.integers(0, 3),
    st.integers(0, 30),
)
def test_the_decision_is_that_of_a_second_implementation_and_survives_a_resume(
    values, evaluations, min_delta, snapshot
):
    """The value of the last improvement is one that no later value exceeds by min_delta."""
    expected = None
    best, waited = None, 0
    for n, value in enumerate(values):
        improved = value is not None and (
            best is None or (value > best and value - best >= min_delta)
        )
        best, waited = (value, 0) if improved else (best, waited + (n > 0))
        if waited >= evaluations:
            expected = n
            break
    rule = Patience(evaluations, "top1", float(min_delta), "some time")
    stop, end = EarlyStop(rule, Memory(None, 0)), None
    for n, value in enumerate(values):
        if n == snapshot:
            stop = EarlyStop(rule, Memory(*json.loads(json.dumps(stop.memory))))
        if stop.observe(Evaluation(n, 0.1, top1=value)):
            end = n
            break
    assert end == expected


@pytest.mark.parametrize(
    "length, iterations, words",
    [
        (5, 100, "5 evaluations"),
        ("1", 20, "1 evaluation"),
        ("3 evaluations", 60, "3 evaluations"),
        ("2000 iterations", 2000, "2000 iterations"),
        ("1iteration", 1, "1 iteration"),
        ("1.5 epochs", 42, "1.5 epochs"),
        ("1 epoch", 28, "1 epoch"),
    ],
)
def test_a_length_is_in_evaluations_iterations_or_epochs(length, iterations, words):
    rule = patience.read(Job("s", patience=length, min_delta=0.5), interval=20, epoch=lambda: 27.94)
    assert rule == Patience(iterations, "top1", 0.5, words)
    assert patience.read(Job("s"), interval=20, epoch=lambda: None) is None
    reason = rule.reason(Memory(0.25, 100), 100 + iterations)
    assert reason == "top1 has not improved by 0.5 or more for %s, since 0.25 at iteration 100" % (
        words
    )
    assert rule.reason(Memory(0.25, 100), 99 + iterations) is None


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"patience": "0"}, "invalid patience=0.*5 for 5 evaluations"),
        ({"patience": -1}, "invalid patience=-1"),
        ({"patience": "2.5"}, "invalid patience=2.5"),
        ({"patience": "soon"}, "invalid patience=soon"),
        ({"patience": "0 epochs"}, "0 epochs has no iterations"),
        ({"patience": 3, "patience_metric": "test-loss"}, "did you mean test_loss"),
        ({"patience": 3, "min_delta": -0.1}, "invalid min_delta=-0.1, expected a change"),
        ({"patience": 3, "min_delta": math.nan}, "invalid min_delta=nan"),
        ({"patience": 3, "min_delta": 2}, "invalid min_delta=2, .* for top1 a share of 1"),
        ({"patience": 3, "min_delta": "0.1"}, "invalid min_delta=0.1"),
        ({"min_delta": 0.0}, "--min-delta 0.0 has no effect without --patience"),
        ({"patience_metric": "top1"}, "--patience-metric top1 has no effect without --patience"),
    ],
)
def test_invalid_settings_are_an_error_before_a_study_begins(fields, message):
    with pytest.raises(InputError, match=message):
        runner.checked_job(Job(__file__, **fields))


def test_epochs_need_the_length_of_an_epoch():
    with pytest.raises(InputError, match="cannot convert 3 epochs to iterations"):
        patience.read(Job("s", patience="3 epochs"), interval=20, epoch=lambda: None)


def test_a_verdict_of_the_same_row_counts_before_an_early_end():
    """A training that is stuck has not improved either: it diverged."""
    early, verdict = {"state": FINISHED, "error": "no improvement"}, (DIVERGED, "stuck")
    assert process._final_state(early, None, verdict) == verdict
    assert process._final_state(early, None, None) == (FINISHED, "no improvement")
    full = {"state": FINISHED, "error": None}
    assert process._final_state(full, None, verdict) == (FINISHED, None)
    stopped = {"state": INTERRUPTED, "error": None}
    assert process._final_state(stopped, None, verdict) == verdict


SETTINGS = {"max_iter": 400, "type": "SGD"}


def test_trials_with_and_without_patience_are_not_compared():
    stopped = trial(solver={**SETTINGS, "patience": 100, "patience_metric": "top1"})
    blocks = ranking.group_comparable([trial(solver=SETTINGS), stopped])
    assert [len(block.trials) for block in blocks] == [1, 1]
    assert any("patience=100" in block.title for block in blocks)


def test_a_trial_that_ended_early_keeps_its_last_top1_in_comparisons():
    short = trial(top1=(0.1, 0.6, 0.6), solver=SETTINGS)
    full = trial(top1=(0.1, 0.2, 0.3, 0.4, 0.9), policy="FIX(k0=0.1)", solver=SETTINGS, seed=2)
    pruned = trial(top1=(0.1, 0.2), policy="FIX(k0=1.0)", solver=SETTINGS, state="pruned")
    assert short.ended_early and not full.ended_early and not pruned.ended_early
    assert (short.length, full.length) == (400, 400)
    assert ranges.top1_after([short, full, pruned], 400, "k0") == [
        (0.01, 0.6, False),
        (0.1, 0.9, False),
    ]
    for pair in ([short, full], [full, short]):
        mean = shorter._mean_highest_top1(pair)
        assert [iteration for iteration, _ in mean] == [0, 100, 200, 300, 400]
        assert [round(top1, 3) for _, top1 in mean] == [0.1, 0.4, 0.45, 0.5, 0.75]
    assert shorter._mean_highest_top1([full, dataclasses.replace(short, rows=())]) == []


def test_the_evidence_of_a_recommendation_says_that_trainings_may_be_shorter():
    from lrbench_caffe.database.standings import Standing

    settings = {"max_iter": 600, "patience": 100}
    standing = Standing("FIX(k0=0.1)", "FIX", settings, ranking.Spread(0.98, 0.01, 2), 500.0)
    assert evidence(standing) == "2 trainings of at most 600 iterations"


def test_a_line_of_the_log_is_caffes(capfd):
    from lrbench_caffe.display.progress import TrainingDisplay

    with TrainingDisplay() as display:
        display.on_event("display", {"iteration": 20, "lr": 0.0099, "loss": 2.3025851})
    assert capfd.readouterr().err == "Iteration 20, lr = 0.0099, loss = 2.30259\n"


# Real trainings


@needs_caffe
def test_a_training_without_improvement_ends_early_and_has_finished(
    tmp_path, digits, invoke, database
):
    from lrbench_caffe.database import Store

    path = nets.write(tmp_path, nets.solver(max_iter=100, test_interval=10))
    options = ("--patience", "3", "--min-delta", "0.0025", "--until-top1", "0.99")
    done = invoke("train", path, "--data", digits, "--policy", FROZEN, "--dsn", database, *options)
    reason = "top1 has not improved by 0.0025 or more for 3 evaluations, since"
    assert done.returncode == 0, done.stderr
    assert "ended at iteration 30: %s" % reason in done.stderr
    with Store(database) as store:
        (stored,) = store.trials()
    assert stored.state == "finished" and stored.error.startswith(reason)
    assert [row.iteration for row in stored.rows] == [0, 10, 20, 30]
    settings = ("patience", "patience_metric", "min_delta")
    assert [stored.setup.solver[name] for name in settings] == [30, "top1", 0.0025]


@needs_caffe
def test_reaching_the_top1_ends_a_training_without_a_reason(tmp_path, digits, dsn):
    from lrbench_caffe import train

    path = nets.write(tmp_path)
    options = dict(
        data=digits, until_top1=0.0, patience="1 iteration", patience_metric="train_loss"
    )
    reached = train(path, FROZEN, **options)
    assert (reached.state, reached.error, len(reached.rows)) == ("finished", None, 1)
    full = train(path, FROZEN, data=digits, max_iter=20, patience=1)
    assert (full.state, full.error, len(full.rows)) == ("finished", None, 2)


@needs_caffe
@pytest.mark.parametrize("metric", ["top1", "test_loss"])
def test_a_metric_that_is_not_measured_is_an_error_before_the_training(
    metric, tmp_path, digits, invoke
):
    text = re.sub("test_interval: [0-9]* test_iter: 4", "display: 20", nets.solver())
    path = nets.write(tmp_path, text)
    arguments = ["train", path, "--data", digits, "--patience", "2", "--patience-metric"]
    done = invoke(*arguments, metric)
    message = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and "metric %s, which is not measured" % metric in message
    assert "the solver has no test net: use --patience-metric train_loss" in message
    done = invoke(*arguments, "train_loss", "--max-iter", "40")
    assert done.returncode == 0 and "--patience has no effect" in done.stderr


@needs_caffe
def test_a_resumed_training_ends_where_the_whole_one_does(tmp_path, digits, dsn):
    from lrbench_caffe import train

    text = nets.solver(max_iter=100, test_interval=10, more="snapshot: 15")
    path, prefix = nets.write(tmp_path, text), str(tmp_path / "a")
    options = dict(data=digits, patience=3, patience_metric="test_loss")
    whole = train(path, FROZEN, snapshot_prefix=prefix, **options)
    assert whole.rows[-1].iteration == 30
    snapshot, notes = prefix + "_iter_15.solverstate", []

    def collect(kind, content):
        if kind == "note" and "continues a snapshot" not in content:
            notes.append(content)

    def resumed(**changes):
        return train(path, FROZEN, resume=snapshot, on_event=collect, **dict(options, **changes))

    again = resumed()
    assert (again.rows[-1].iteration, again.error, notes) == (30, whole.error, [])
    other = resumed(patience_metric="top1")
    assert other.rows[0].iteration == 20 and other.rows[-1].iteration == 50
    assert len(notes) == 1 and "--patience counts from iteration 15" in notes[0]


@needs_caffe
def test_a_trial_of_a_study_keeps_its_patience_after_kill_9(
    name, invoke, command, trials, gate, kill
):
    options = ("--seeds", "1", "--max-iter", "300", "--patience", "5", "--patience-metric", "top1")
    study = start(*command(name, *options, gate=gate, policies=[FROZEN]))
    gate.wait()
    kill(study, gate)
    gate.open()
    done = invoke("study", "run", name)
    assert done.returncode == 0
    assert "finished" in done.stderr and "top1 has not improved for 5 evaluations" in done.stderr
    (stored,) = trials(name)
    assert stored.attempt == 2 and stored.resumed_at
    assert [row.iteration for row in stored.rows] == list(range(0, 51, 10))
    without_solver = invoke("study", "run", name, "--min-delta", "0")
    assert without_solver.returncode == 2 and "--min-delta needs a solver" in without_solver.stderr


@needs_caffe
def test_tune_passes_the_patience_on_and_its_study_keeps_it(tmp_path, digits, database):
    from lrbench_caffe.evaluator.trainer import Trainer
    from lrbench_caffe.study.cores import Cores

    path = nets.write(tmp_path, nets.solver(max_iter=40, test_interval=10))

    def trainer(stopping):
        return Trainer(path, Cores(1), "tune", "t", digits, database, stopping=stopping)

    first = trainer({"patience": "1", "min_delta": 0.5})
    (trained,) = first.train([(FROZEN, 40, 1)])
    assert trained.ended_early and first.spent == first.cost(trained) == 10
    assert first._command.endswith("--patience 1 --min-delta 0.5 --study t")
    first.budget = 100
    with first.claim():
        tuner._load_prior(first, Task(40, ("FIX",), "accuracy", 1), None)
    other = trainer({"patience": "2"})
    other.budget = 100
    with pytest.raises(InputError, match="was started with the patience 1, not 2"):
        tuner.tune(other)


@needs_caffe
def test_the_log_has_the_rates_and_the_averaged_losses_of_caffe_train(tmp_path, digits, dsn):
    """The window of average_loss spans evaluations; an iteration has two mini-batches."""
    from lrbench_caffe import train

    net = nets.net(train=digits + "/digits_train_lmdb", test=digits + "/digits_test_lmdb")
    schedule = 'lr_policy: "inv" gamma: 0.01 power: 0.75'
    more = "display: 7 average_loss: 3 iter_size: 2"
    path = nets.write(tmp_path, nets.solver(schedule, max_iter=40, test_interval=6, more=more), net)
    done = subprocess.run(
        ["caffe", "train", "--solver", path],
        cwd=str(tmp_path),
        check=True,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ, GLOG_log_dir=str(tmp_path), GLOG_logtostderr="1"),
    )
    losses = re.findall(r"Iteration (\d+) \(.*, loss = (\S+)", done.stderr)
    rates = re.findall(r"Iteration (\d+), lr = (\S+)", done.stderr)
    logged = []

    def collect(kind, content):
        if kind == "display":
            logged.append(content)

    verbose = train(path, verbose=True, on_event=collect)
    assert [event["iteration"] for event in logged] == [0, 7, 14, 21, 28, 35]
    assert (
        [str(event["iteration"]) for event in logged]
        == [n for n, _ in losses]
        == [n for n, _ in rates]
    )
    assert [event["loss"] for event in logged] == pytest.approx(
        [float(loss) for _, loss in losses], rel=1e-5
    )
    assert [event["lr"] for event in logged] == pytest.approx(
        [float(rate) for _, rate in rates], rel=1e-5
    )
    logged.clear()
    quiet = train(path, on_event=collect)
    assert quiet.rows == verbose.rows and not logged
