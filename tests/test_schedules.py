"""Compositions and PLATEAU with the real Caffe: the rates of a training, also after a resume."""

import json
import os
import subprocess

import nets
import numpy as np
import pytest
from studies import start

caffe = pytest.importorskip("caffe", reason="needs Caffe: run the tests with `make test`")
from test_solver import assert_same_weights  # noqa: E402

from lrbench_caffe import InputError, Policy, database, train  # noqa: E402

# An improvement of 100 never happens, so the rate is lowered at every second evaluation.
NO_IMPROVEMENT = "PLATEAU(k0=0.02, gamma=0.5, l=20, threshold=100.0, of=train_loss)"


def replayed(policy, rows):
    """The rate after each row, computed from the rows with a second implementation of PLATEAU."""
    parameters = policy.parameters
    metric = parameters.get("of", "test_loss")
    threshold = parameters.get("threshold", 0)
    best, since, lowered, lrs = None, 0, 0, []
    for row in rows:
        value = getattr(row, metric)
        if value is not None:
            value = -value if metric == "top1" else value
            if best is None or (best - value > 0 and best - value >= threshold):
                best, since = value, row.iteration
            elif row.iteration - since >= parameters["l"]:
                since, lowered = row.iteration, lowered + 1
        lrs.append(max(parameters["k0"] * parameters["gamma"] ** lowered, parameters.get("k1", 0)))
    return lrs


@pytest.fixture
def solver(tmp_path, digits):
    """Write a solver for the digits: solver(**settings) returns its path.

    Its net has absolute paths to the data.
    """

    def write(**settings):
        absolute = nets.net(train=digits + "/digits_train_lmdb", test=digits + "/digits_test_lmdb")
        return nets.write(
            tmp_path, nets.solver(net=tmp_path / "net.prototxt", **settings), absolute
        )

    return write


def test_after_the_warm_up_the_weights_equal_those_of_caffes_fixed_policy(solver, tmp_path, dsn):
    """Both trainings resume from the same snapshot after the warm-up, and agree to the last bit."""
    policy = "WARMUP(k0=0.001) for 20 then FIX(k0=0.013)"
    path = solver(max_iter=50)
    warm = train(path, policy, snapshot_prefix=str(tmp_path / "warm"), max_iter=20)
    assert warm.rows[-1].lr == 0.013
    resumed = train(
        path,
        policy,
        snapshot_prefix=str(tmp_path / "ours"),
        resume=str(tmp_path / "warm_iter_20.solverstate"),
    )
    assert {row.lr for row in resumed.rows} == {0.013}
    own = tmp_path / "fixed.prototxt"
    own.write_text(
        nets.solver(
            'lr_policy: "fixed"',
            net=tmp_path / "net.prototxt",
            base_lr=0.013,
            max_iter=50,
            more='snapshot_prefix: "caffe"',
        ).replace("snapshot_after_train: false", "")
    )
    subprocess.run(
        ["caffe", "train", "--solver", str(own), "--snapshot", "warm_iter_20.solverstate"],
        cwd=str(tmp_path),
        check=True,
        stderr=subprocess.DEVNULL,
        env=dict(os.environ, GLOG_log_dir=str(tmp_path)),
    )
    assert_same_weights(
        str(tmp_path / "caffe_iter_50.caffemodel"), str(tmp_path / "ours_iter_50.caffemodel")
    )


@pytest.mark.parametrize(
    "text",
    [
        "WARMUP(k0=0.001) for 15 then SGDR(k0=0.02, k1=0, l=10, mult=2)",
        "FIX(k0=0.001) for 10 then NSTEP(k0=0.013, gamma=0.87, l=[3, 17, 31])",
    ],
)
def test_each_iteration_has_the_rate_of_its_piece_also_after_a_resume(text, solver, tmp_path, dsn):
    path, prefix = solver(test_interval=1, test_iter=1), str(tmp_path / "a")
    uninterrupted = train(path, text)
    assert [row.lr for row in uninterrupted.rows] == pytest.approx(
        Policy.parse(text)(np.arange(61)).tolist(), rel=1e-6
    )
    train(path, text, snapshot_prefix=prefix, max_iter=33)
    resumed = train(path, text, resume=prefix + "_iter_33.solverstate")
    assert [row.lr for row in resumed.rows] == [row.lr for row in uninterrupted.rows[33:]]


@pytest.mark.parametrize(
    "text",
    [
        "PLATEAU(k0=0.05, gamma=0.5, l=20)",
        "PLATEAU(k0=0.05, k1=0.004, gamma=0.3, l=10, threshold=0.02, of=train_loss)",
        "PLATEAU(k0=0.05, gamma=0.5, l=20, of=top1)",
    ],
)
def test_plateau_lowers_its_rate_as_computed_from_the_stored_rows(text, solver, dsn):
    trial = train(solver(max_iter=400, test_interval=10), text)
    with database.Store(dsn) as store:
        stored = store.trial(trial.id)
    assert stored.rows == trial.rows and stored.policy == text
    lrs = [row.lr for row in stored.rows]
    assert lrs == pytest.approx(replayed(Policy.parse(text), stored.rows), rel=1e-6)
    assert len(set(lrs)) > 1, "the rate was never lowered"


def test_plateau_after_a_warm_up_ignores_the_evaluations_of_the_warm_up(solver, dsn):
    text = "WARMUP(k0=0.001) for 25 then PLATEAU(k0=0.02, gamma=0.5, l=10, threshold=100)"
    rows = train(solver(max_iter=80, test_interval=10), text).rows
    assert {row.iteration: row.lr for row in rows} == pytest.approx(
        {
            0: 0.001,
            10: 0.0086,
            20: 0.0162,
            30: 0.02,
            40: 0.01,
            50: 0.005,
            60: 0.0025,
            70: 0.00125,
            80: 0.000625,
        },
        rel=1e-6,
    )


@pytest.mark.parametrize("snapshot, ending", [(45, ""), (40, ""), (45, ".h5")])
def test_a_resumed_training_has_the_memory_of_plateau_from_the_snapshot(
    snapshot, ending, solver, tmp_path, dsn
):
    """The snapshot is between two evaluations or at one, and has the losses since the last one."""
    path = solver(
        max_iter=100,
        test_interval=20,
        more="snapshot: %d %s" % (snapshot, "snapshot_format: HDF5" if ending else ""),
    )
    uninterrupted = train(path, NO_IMPROVEMENT, snapshot_prefix=str(tmp_path / "a"))
    state = tmp_path / ("a_iter_%d.solverstate%s" % (snapshot, ending))
    kept = json.loads((tmp_path / ("a_iter_%d.policystate" % snapshot)).read_text())
    assert kept["policy"] == NO_IMPROVEMENT and len(kept["losses"]) == snapshot - (
        40 if snapshot > 40 else 20
    )
    resumed = train(path, NO_IMPROVEMENT, resume=str(state), snapshot_prefix=str(tmp_path / "b"))
    after = [row for row in uninterrupted.rows if row.iteration >= snapshot]
    assert [(row.iteration, row.lr) for row in resumed.rows] == [
        (row.iteration, row.lr) for row in after
    ]
    assert (
        len({row.lr for row in uninterrupted.rows}) > 2 and resumed.rows[0].train_loss is not None
    )
    if snapshot == 40:
        assert resumed.rows[0].train_loss == uninterrupted.rows[2].train_loss


def test_after_a_resume_plateau_depends_on_the_evaluations_of_both_trainings(solver, tmp_path, dsn):
    text = "PLATEAU(k0=0.05, gamma=0.5, l=20, of=top1)"
    path = solver(max_iter=400, test_interval=10)
    first = train(path, text, snapshot_prefix=str(tmp_path / "a"), max_iter=205)
    second = train(path, text, resume=str(tmp_path / "a_iter_205.solverstate"))
    # The last row of the first training is from its end, not from a test interval.
    rows = first.rows[:-1] + second.rows
    assert first.rows[-1].iteration == 205 and second.rows[0].iteration == 210
    values = replayed(Policy.parse(text), first.rows + second.rows)
    assert [row.lr for row in rows] == pytest.approx(
        values[: len(first.rows) - 1] + values[len(first.rows) :], rel=1e-6
    )


@pytest.mark.parametrize(
    "damage, expected",
    [
        (lambda file: file.unlink(), ["a_iter_40.policystate", "put the file there", "--weights"]),
        (
            lambda file: file.write_text("{"),
            ["a_iter_40.policystate", "not what LRBench wrote", "--weights"],
        ),
        (
            lambda file: file.write_text(file.read_text().replace("gamma=0.5", "gamma=0.4")),
            ["gamma=0.4", "--weights"],
        ),
    ],
)
def test_a_snapshot_without_the_memory_of_plateau_is_an_error_in_one_sentence(
    damage, expected, solver, tmp_path, dsn
):
    path, prefix = solver(), str(tmp_path / "a")
    train(path, NO_IMPROVEMENT, snapshot_prefix=prefix, max_iter=40)
    damage(tmp_path / "a_iter_40.policystate")
    with pytest.raises(InputError) as raised:
        train(path, NO_IMPROVEMENT, resume=prefix + "_iter_40.solverstate")
    message = str(raised.value)
    assert all(part in message for part in expected) and "\n" not in message
    fixed = train(path, "FIX(k0=0.01)", resume=prefix + "_iter_40.solverstate")
    assert fixed.state == "finished", "FIX needs no memory"


def test_plateau_has_all_evaluations_after_kill_9_of_the_study(
    name, invoke, command, trials, gate, kill
):
    """The stored rates equal those computed from all stored rows."""
    text = "PLATEAU(k0=0.05, gamma=0.7, l=10, of=top1)"
    options = ("--seeds", "1", "--max-iter", "300")
    for _ in range(2):
        study = start(*command(name, *options, gate=gate, policies=[text]))
        gate.wait()
        kill(study, gate)
    gate.open()
    assert invoke("study", "run", name).returncode == 0
    (trial,) = trials(name)
    assert trial.attempt == 3 and trial.resumed_at
    iterations = [row.iteration for row in trial.rows]
    assert trial.state == "finished" and iterations == list(range(0, 301, 10))
    assert [row.lr for row in trial.rows] == pytest.approx(
        replayed(Policy.parse(text), trial.rows), rel=1e-6
    )
    assert len({row.lr for row in trial.rows}) > 2


def test_lengths_in_epochs_are_converted_with_the_size_of_the_training_set(
    solver, tmp_path, digits, dsn
):
    """An iteration has iter_size batches of 50 of the 1397 training images."""
    from lrbench_caffe.training import records

    samples = records.describe_lmdb(digits + "/digits_train_lmdb")[0]
    text = "WARMUP(k0=0.001) for 1 epoch then STEP(k0=0.01, gamma=0.5, l=0.5 epochs)"
    for iter_size in (1, 2):
        path = solver(
            schedule='lr_policy: "%s"' % text,
            max_iter=4,
            test_interval=2,
            more="iter_size: %d" % iter_size,
        )
        one_epoch, half_epoch = round(samples / 50 / iter_size), round(samples / 100 / iter_size)
        stored = train(path)
        assert stored.policy == "WARMUP(k0=0.001) for %d then STEP(k0=0.01, gamma=0.5, l=%d)" % (
            one_epoch,
            half_epoch,
        )
        assert stored.parameters["pieces"][0]["length"] == one_epoch
        assert train(
            path, "STEP(k0=0.01, gamma=0.5, l=2 epochs)"
        ).policy == "STEP(k0=0.01, gamma=0.5, l=%d)" % round(2 * samples / 50 / iter_size)


def test_an_epoch_of_unknown_length_is_an_error_in_one_sentence(tmp_path, digits, invoke):
    random_data = (
        'layer { name: "train" type: "DummyData" top: "data" top: "label" '
        "include { phase: TRAIN } dummy_data_param { "
        "shape { dim: 50 dim: 1 dim: 8 dim: 8 } shape { dim: 50 } } }\n"
    )
    head, _, tail = nets.net().partition("layer {")
    test_layer = tail[tail.index("layer {") :]
    path = nets.write(tmp_path, net_text=head + random_data + test_layer)
    done = invoke(
        "train", path, "--data", digits, "--policy", "STEP(k0=0.01, gamma=0.5, l=2 epochs)"
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "2 epochs" in done.stderr and "number of iterations" in done.stderr


@pytest.mark.parametrize(
    "text, expected",
    [
        ("WARMUP(k0=0.1)", ["WARMUP", "needs a next piece"]),
        ("FIX(k0=0.1) then FIX(k0=0.2)", ["needs a length"]),
        ("FIX(k0=0.1) for 20 then POLY(k0=0.1, p=1, l=30)", ["iteration 50", "l=40"]),
    ],
)
def test_a_policy_that_cannot_be_trained_is_an_error_before_the_training(
    text, expected, solver, invoke, dsn
):
    done = invoke("train", solver(), "--policy", text)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert all(part in done.stderr for part in expected)


def test_the_curves_of_all_kinds_of_policies_are_plotted(solver, tmp_path, dsn):
    """The rates of PLATEAU and of Caffe's sigmoid are those of the rows."""
    from lrbench_caffe.report import plots

    trials = [
        train(solver(), text)
        for text in ("WARMUP(k0=0.001) for 20 then FIX(k0=0.02)", NO_IMPROVEMENT)
    ]
    trials.append(train(solver(schedule='lr_policy: "sigmoid" gamma: 0.1 stepsize: 20')))
    plots.curves(trials, str(tmp_path / "curves.png"), "title")
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
