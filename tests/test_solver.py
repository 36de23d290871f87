"""The training loop with the real Caffe: a solver prototxt trains as in `caffe train`, under any policy, and is measured."""

import os
import subprocess

import nets
import numpy as np
import pytest

caffe = pytest.importorskip("caffe", reason="needs Caffe: run the tests with `make test`")
from lrbench_caffe import InputError, Policy, TrialError, metrics, train  # noqa: E402

CAFFES_SEVEN = {
    "fixed": "",
    "step": "gamma: 0.9 stepsize: 7",
    "exp": "gamma: 0.99",
    "inv": "gamma: 0.01 power: 0.75",
    "multistep": "gamma: 0.7 stepvalue: 10 stepvalue: 30 stepvalue: 31",
    "poly": "power: 1.3",
    "sigmoid": "gamma: 0.1 stepsize: 20",
}


def weights(path):
    """Every weight in a .caffemodel, layer by layer."""
    from caffe.proto import caffe_pb2

    with open(path, "rb") as file:
        net = caffe_pb2.NetParameter.FromString(file.read())
    return {
        layer.name: [np.array(blob.data, np.float32) for blob in layer.blobs]
        for layer in net.layer
        if layer.blobs
    }


def assert_same_weights(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys() and one
    for name in one:
        for a, b in zip(one[name], other[name]):
            assert a.tobytes() == b.tobytes(), name


@pytest.mark.parametrize("lr_policy", sorted(CAFFES_SEVEN))
def test_caffes_own_policies_give_the_weights_of_caffe_train_number_for_number(
    lr_policy, tmp_path, digits, dsn
):
    schedule = 'lr_policy: "%s" %s' % (lr_policy, CAFFES_SEVEN[lr_policy])
    path = nets.write(
        tmp_path,
        nets.solver(
            schedule, net=tmp_path / "net.prototxt", max_iter=50, more='snapshot_prefix: "caffe"'
        ).replace("snapshot_after_train: false", ""),
    )
    absolute = nets.net(train=digits + "/digits_train_lmdb", test=digits + "/digits_test_lmdb")
    tmp_path.joinpath("net.prototxt").write_text(absolute)
    subprocess.run(
        ["caffe", "train", "--solver", path],
        cwd=str(tmp_path),
        check=True,
        stderr=subprocess.DEVNULL,
        env=dict(os.environ, GLOG_log_dir=str(tmp_path)),
    )
    trial = train(path, snapshot_prefix=str(tmp_path / "ours"))
    assert trial.state == "finished" and len(trial.rows) == 4
    assert_same_weights(
        str(tmp_path / "caffe_iter_50.caffemodel"), str(tmp_path / "ours_iter_50.caffemodel")
    )


@pytest.mark.parametrize(
    "text, schedule",
    [
        ("FIX(k0=0.013)", 'lr_policy: "fixed" base_lr: 0.013'),
        (
            "STEP(k0=0.013, gamma=0.87, l=7)",
            'lr_policy: "step" base_lr: 0.013 gamma: 0.87 stepsize: 7',
        ),
        (
            "NSTEP(k0=0.013, gamma=0.9, l=[11, 50, 51, 300, 301, 302])",
            'lr_policy: "multistep" base_lr: 0.013 gamma: 0.9 stepvalue: 11 '
            "stepvalue: 50 stepvalue: 51 stepvalue: 300 stepvalue: 301 stepvalue: 302",
        ),
        ("EXP(k0=0.013, gamma=0.9983)", 'lr_policy: "exp" base_lr: 0.013 gamma: 0.9983'),
        (
            "INV(k0=0.013, gamma=0.0123, p=0.75)",
            'lr_policy: "inv" base_lr: 0.013 gamma: 0.0123 power: 0.75',
        ),
        ("POLY(k0=0.013, p=1.2, l=600)", 'lr_policy: "poly" base_lr: 0.013 power: 1.2'),
    ],
)
def test_our_notation_agrees_with_caffes_rate_at_every_iteration(text, schedule, tmp_path):
    from caffe.proto import caffe_pb2
    from google.protobuf import text_format

    from lrbench_caffe.training import monitor, prototxt

    def rates(param, policy):
        native = monitor.install(policy, param)
        path = str(tmp_path / "solver.prototxt")
        prototxt.write_solver(param, path)
        caffe.set_mode_cpu()
        solver = caffe.get_solver(path)
        watch = monitor.Monitor(solver, policy, native)
        for _ in range(600):
            yield np.float32(watch.lr)
            watch.step(1)

    bare = (
        'max_iter: 600 snapshot_after_train: false solver_mode: CPU train_net_param { layer { name: "x" type: "DummyData" top: "x" '
        'top: "y" dummy_data_param { shape { dim: 1 dim: 1 } } } layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" '
        'inner_product_param { num_output: 2 } } layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "y" top: "l" } }'
    )
    caffes = text_format.Merge(bare + schedule, caffe_pb2.SolverParameter())
    other = text_format.Merge(bare + ' lr_policy: "fixed" base_lr: 1', caffe_pb2.SolverParameter())
    theirs = list(rates(caffes, monitor.policy_from_solver(caffes)))
    ours = list(rates(other, Policy.parse(text)))
    assert np.max(np.abs(np.array(theirs).view(np.int32) - np.array(ours).view(np.int32))) <= 1
    assert theirs == pytest.approx([Policy.parse(text)(t) for t in range(600)], rel=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        "TRI2(k0=0.001, k1=0.02, l=15)",
        "SINEXP(k0=0.001, k1=0.02, gamma=0.97, l=15)",
        "COS(k0=0.001, k1=0.02, l=15)",
        "INV(k0=0.02, k1=0.001, gamma=0.1, p=1)",
    ],
)
def test_functions_that_caffe_lacks_set_the_rate_before_every_iteration(
    text, tmp_path, digits, dsn
):
    """Plain SGD on two nets, one trained here and one by a loop of Caffe's own step(1) with the rate set by hand."""
    path = nets.write(
        tmp_path,
        nets.solver(more='lr_policy: "%s"' % text, schedule="", max_iter=40),
        nets.net(train=digits + "/digits_train_lmdb", test=digits + "/digits_test_lmdb"),
    )
    trial = train(path, snapshot_prefix=str(tmp_path / "ours"), max_iter=40)
    assert [row.lr for row in trial.rows] == pytest.approx(
        [Policy.parse(text)(row.iteration) for row in trial.rows], rel=1e-6
    )
    tmp_path.joinpath("hand.prototxt").write_text(
        nets.solver(net=tmp_path / "net.prototxt", max_iter=40, test_interval=10**6)
    )
    caffe.set_mode_cpu()
    by_hand = caffe.get_solver(str(tmp_path / "hand.prototxt"))
    for t in range(40):
        by_hand.param.base_lr = Policy.parse(text)(t)
        by_hand.step(1)
    by_hand.net.save(str(tmp_path / "hand.caffemodel"))
    assert_same_weights(
        str(tmp_path / "hand.caffemodel"), str(tmp_path / "ours_iter_40.caffemodel")
    )


def test_the_rows_hold_what_caffes_outputs_give(tmp_path, digits, dsn):
    """The metrics of the last row against the probabilities of the saved net, computed all at once."""
    head = (
        nets.LOSS
        + 'layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" include { phase: TEST } }'
    )
    path = nets.write(
        tmp_path,
        net_text=nets.net(
            train=digits + "/digits_train_lmdb", test=digits + "/digits_test_lmdb", head=head
        ),
    )
    trial = train(path, "FIX(k0=0.02)", snapshot_prefix=str(tmp_path / "ours"))
    net = caffe.Net(
        str(tmp_path / "net.prototxt"), str(tmp_path / "ours_iter_60.caffemodel"), caffe.TEST
    )
    outputs = []
    for _ in range(4):
        net.forward()
        outputs.append([net.blobs[name].data.copy() for name in ("prob", "label", "loss")])
    seen = metrics.from_arrays(
        np.concatenate([o[0] for o in outputs]), np.concatenate([o[1] for o in outputs])
    )
    last = trial.rows[-1]
    assert (last.top1, last.top5) == (seen.top1, seen.top5) and last.iteration == 60
    assert (last.ac, last.cd, last.cdac) == pytest.approx((seen.ac, seen.cd, seen.cdac), abs=1e-12)
    assert (
        last.test_loss
        == pytest.approx(np.mean([o[2] for o in outputs]), rel=1e-6)
        == pytest.approx(seen.log_loss, rel=1e-5)
    )
    assert last.ld == abs(last.test_loss - last.train_loss)
    assert trial.best == max(trial.rows, key=lambda row: row.top1)


def test_one_row_every_test_interval_at_the_start_and_at_the_end(tmp_path, digits, dsn):
    path = nets.write(tmp_path, nets.solver(max_iter=50, test_interval=20))
    assert [row.iteration for row in train(path, data=digits).rows] == [0, 20, 40, 50]
    path = nets.write(
        tmp_path, nets.solver(max_iter=40, test_interval=20, more="test_initialization: false")
    )
    rows = train(path, data=digits).rows
    assert [row.iteration for row in rows] == [20, 40]
    assert all(row.train_loss > 0 for row in rows)


def last_row_untrained(folder, data, iterations, iter_size=1, head=nets.LOSS):
    """The last row of a training with a rate of next to nothing: all losses are those of the initial weights."""
    text = nets.solver(
        base_lr=1e-12,
        max_iter=iterations,
        test_interval=iterations,
        more="iter_size: %d" % iter_size,
    )
    return train(nets.write(folder, text, nets.net(head=head)), data=data).rows[-1]


def test_the_train_loss_is_the_mean_of_all_mini_batch_losses_also_with_iter_size(
    tmp_path, digits, dsn
):
    one, two, half = (
        last_row_untrained(tmp_path, digits, *sizes) for sizes in ((20, 1), (10, 2), (10, 1))
    )
    assert two.train_loss == pytest.approx(one.train_loss, rel=1e-6)
    assert half.train_loss != pytest.approx(one.train_loss, rel=1e-6)


def test_several_losses_are_summed_with_their_loss_weight_as_caffe_does(tmp_path, digits, dsn):
    second = 'layer { name: "second" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "second" loss_weight: 0.5 }'
    one, both = (
        last_row_untrained(tmp_path, digits, 10, head=head)
        for head in (nets.LOSS, nets.LOSS + second)
    )
    assert (both.train_loss, both.test_loss) == pytest.approx(
        (1.5 * one.train_loss, 1.5 * one.test_loss), rel=1e-6
    )


@pytest.mark.parametrize("kind", ["SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"])
def test_all_of_caffes_optimizers_train(kind, tmp_path, digits, dsn):
    text = nets.solver(max_iter=20, more='type: "%s" delta: 1e-6' % kind)
    if kind in ("AdaGrad", "RMSProp"):  # which have no momentum, and abort where they are given one
        text = text.replace("momentum: 0.9", "")
    path = nets.write(tmp_path, text)
    trial = train(path, "TRI(k0=0.001, k1=0.01, l=10)", data=digits)
    assert trial.state == "finished" and trial.setup.solver.get("type", "SGD") == kind


def test_resume_goes_on_with_the_schedule_at_the_restored_iteration(tmp_path, digits, dsn):
    path = nets.write(tmp_path, nets.solver(max_iter=60, more="snapshot: 40"))
    policy = "SIN2(k0=0.001, k1=0.02, l=15)"
    train(path, policy, data=digits, snapshot_prefix=str(tmp_path / "a"), max_iter=40)
    resumed = train(
        path,
        policy,
        data=digits,
        snapshot_prefix=str(tmp_path / "b"),
        resume=str(tmp_path / "a_iter_40.solverstate"),
    )
    assert [row.iteration for row in resumed.rows] == [40, 60]
    assert resumed.rows[0].lr == pytest.approx(Policy.parse(policy)(40), rel=1e-6)
    assert resumed.rows[0].train_loss is None and resumed.rows[1].train_loss is not None


def test_nstep_after_a_snapshot_of_another_policy_counts_its_own_steps(tmp_path, digits, dsn):
    path = nets.write(tmp_path, nets.solver(max_iter=60, test_interval=1, more="snapshot: 40"))
    train(
        path,
        "STEP(k0=0.01, gamma=0.9, l=4)",
        data=digits,
        snapshot_prefix=str(tmp_path / "a"),
        max_iter=40,
    )
    rows = train(
        path,
        "NSTEP(k0=0.01, gamma=0.5, l=[10, 45])",
        data=digits,
        snapshot_prefix=str(tmp_path / "b"),
        max_iter=50,
        resume=str(tmp_path / "a_iter_40.solverstate"),
    ).rows
    assert {row.iteration: row.lr for row in rows} == {
        t: 0.005 if t < 45 else 0.0025 for t in range(40, 51)
    }


def test_until_top1_ends_the_trial_at_the_first_evaluation_that_reaches_it(tmp_path, digits, dsn):
    path = nets.write(tmp_path, nets.solver(max_iter=400, test_interval=10))
    trial = train(path, "FIX(k0=0.05)", data=digits, until_top1=0.8)
    assert trial.state == "finished" and trial.rows[-1].top1 >= 0.8 > max(
        row.top1 for row in trial.rows[:-1]
    )
    assert trial.rows[-1].iteration < 400


def test_a_net_that_cannot_be_tested_before_training_is_trained(tmp_path, digits, dsn):
    """Before training, batch normalization divides by the root of epsilon: so many of them give more than a float can hold."""
    norms = "".join(
        'layer {{ name: "norm%d" type: "BatchNorm" bottom: "conv1" top: "conv1" }}\n' % n
        for n in range(20)
    )
    body = nets.BODY.replace('layer {{ name: "relu1"', norms + 'layer {{ name: "relu1"')
    heard = []
    trial = train(
        nets.write(tmp_path, net_text=nets.net(body=body)),
        data=digits,
        dsn=dsn,
        on_event=lambda kind, content: heard.append((kind, content)),
    )
    assert trial.state == "finished" and [row.iteration for row in trial.rows] == [20, 40, 60]
    assert (
        "note",
        "the test loss is nan before training: the row of iteration 0 is left out",
    ) in heard


def test_a_loss_that_is_no_number_ends_the_trial_as_diverged_with_its_rows_kept(
    tmp_path, digits, dsn
):
    path = nets.write(tmp_path, nets.solver(max_iter=400))
    trial = train(path, "FIX(k0=1e30)", data=digits)
    assert trial.state == "diverged" and len(trial.rows) >= 1 and "loss became" in trial.error


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(tmp_path, digits, dsn):
    path = nets.write(tmp_path)
    rows = [train(path, data=digits, seed=seed).rows for seed in (1, 1, 2)]
    assert rows[0] == rows[1] != rows[2]


def test_train_net_test_net_and_stages_work_as_in_caffe(tmp_path, digits, dsn):
    """Separate files; a layer that only a stage brings in; the classes come from the net."""
    train_text = nets.net().replace(
        "include { phase: TEST }", 'include { phase: TEST stage: "never" }'
    )
    extra = (
        'layer { name: "drop" type: "Dropout" bottom: "ip" top: "ip" include { stage: "extra" } }\n'
    )
    tmp_path.joinpath("train.prototxt").write_text(train_text.replace(nets.LOSS, extra + nets.LOSS))
    tmp_path.joinpath("test.prototxt").write_text(nets.net())
    path = nets.write(
        tmp_path,
        nets.solver().replace(
            'net: "net.prototxt"', 'train_net: "train.prototxt" test_net: "test.prototxt"'
        ),
    )
    plain, dropped = train(path, data=digits), train(path, data=digits, stages=("none,extra",))
    assert plain.setup.classes == 10 and len(plain.rows) == len(dropped.rows) == 4
    assert plain.rows[-1] != dropped.rows[-1]


def test_a_test_layer_written_by_hand_is_used_as_it_is(tmp_path, digits, dsn):
    by_hand = (
        'layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" include { phase: TEST } }\n'
        'layer { name: "m" type: "Python" bottom: "prob" bottom: "label" include { phase: TEST }\n'
        '  python_param { module: "lrbench_caffe.layers" layer: "MetricsLayer" } }\n'
    )
    plain = train(nets.write(tmp_path), data=digits)
    written = train(nets.write(tmp_path, net_text=nets.net(head=nets.LOSS + by_hand)), data=digits)
    assert written.rows == plain.rows


def test_a_net_in_caffes_format_of_2014_trains(tmp_path, digits, dsn):
    old = """name: "old"
layers { name: "train" type: DATA top: "data" top: "label" include { phase: TRAIN } data_param { source: "digits_train_lmdb" backend: LMDB
  batch_size: 50 scale: 0.00390625 } }
layers { name: "test" type: DATA top: "data" top: "label" include { phase: TEST } data_param { source: "digits_test_lmdb" backend: LMDB
  batch_size: 100 scale: 0.00390625 } }
layers { name: "ip" type: INNER_PRODUCT bottom: "data" top: "ip" inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layers { name: "loss" type: SOFTMAX_LOSS bottom: "ip" bottom: "label" top: "loss" }
"""
    trial = train(nets.write(tmp_path, net_text=old), data=digits)
    assert trial.state == "finished" and trial.best.top1 > 0.5


def test_a_net_whose_loss_is_only_in_training_is_measured_on_the_scores_of_its_accuracy(
    tmp_path, digits, dsn
):
    only_train = nets.LOSS.replace(' top: "loss" ', ' top: "loss" include { phase: TRAIN } ')
    plain = train(nets.write(tmp_path), data=digits)
    trial = train(
        nets.write(tmp_path, net_text=nets.net(head=nets.ACCURACY + only_train)), data=digits
    )
    assert [row.top1 for row in trial.rows] == [row.top1 for row in plain.rows]
    assert [row.test_loss for row in trial.rows] == pytest.approx(
        [row.test_loss for row in plain.rows], rel=1e-5
    )


def test_labels_that_the_loss_ignores_are_left_out(tmp_path, digits, dsn):
    """The nines, in a net of nine classes."""
    ignoring = nets.LOSS.replace(' top: "loss" ', ' top: "loss" loss_param { ignore_label: 9 } ')
    trial = train(
        nets.write(tmp_path, net_text=nets.net(classes=9, head=ignoring)),
        "FIX(k0=0.05)",
        data=digits,
        max_iter=300,
    )
    assert trial.best.top1 > 0.95 and trial.setup.classes == 9


def test_scores_that_come_together_from_two_layers_are_no_hindrance(tmp_path, digits, dsn):
    halves = "".join(
        'layer { name: "%s" type: "InnerProduct" bottom: "conv1" top: "%s" inner_product_param { num_output: 5 '
        'weight_filler { type: "xavier" } } }\n' % (name, name)
        for name in ("left", "right")
    )
    body = (
        nets.BODY[: nets.BODY.index('layer {{ name: "ip"')]
        + halves.replace("{", "{{").replace("}", "}}")
        + ('layer {{ name: "ip" type: "Concat" bottom: "left" bottom: "right" top: "ip" }}\n')
    )
    trial = train(nets.write(tmp_path, net_text=nets.net(body=body)), data=digits)
    assert trial.best.top1 > 0.3 and trial.setup.classes is None


def test_comments_may_be_in_any_encoding(tmp_path, digits, dsn):
    path = nets.write(tmp_path)
    tmp_path.joinpath("net.prototxt").write_bytes(
        "# Gr\u00f6\u00dfe\n".encode("latin-1") + nets.net().encode()
    )
    assert train(path, data=digits).state == "finished"


def test_weights_are_those_named_as_seen_from_here(tmp_path, digits, dsn, monkeypatch):
    monkeypatch.chdir(str(tmp_path))
    path = nets.write(tmp_path)
    first = train(path, data=digits, snapshot_prefix="first")
    second = train(path, data=digits, weights="first_iter_60.caffemodel")
    assert second.rows[0].top1 == first.rows[-1].top1 > second.rows[0].iteration == 0


def test_nothing_is_left_to_train_after_a_snapshot_at_the_end(tmp_path, digits, dsn):
    path = nets.write(tmp_path)
    train(path, data=digits, snapshot_prefix=tmp_path / "a")
    with pytest.raises(InputError, match="a_iter_60.solverstate is at 60"):
        train(path, data=digits, resume=tmp_path / "a_iter_60.solverstate")


def test_hdf5_snapshots_resume(tmp_path, digits, dsn):
    path = nets.write(tmp_path, nets.solver(max_iter=60, more="snapshot_format: HDF5"))
    train(path, data=digits, snapshot_prefix=tmp_path / "a", max_iter=40)
    assert (
        train(path, data=digits, resume=tmp_path / "a_iter_40.solverstate.h5").rows[0].iteration
        == 40
    )


def test_the_users_files_are_not_touched(tmp_path, digits, dsn):
    path = nets.write(tmp_path)
    before = {name: tmp_path.joinpath(name).read_bytes() for name in os.listdir(str(tmp_path))}
    train(path, "COS(k0=0.01, k1=0.02, l=10)", data=digits)
    assert {
        name: tmp_path.joinpath(name).read_bytes() for name in os.listdir(str(tmp_path))
    } == before


def test_relative_paths_are_found_below_data_then_beside_the_file_then_here(
    tmp_path, digits, dsn, monkeypatch
):
    beside, here = tmp_path / "beside", tmp_path / "here"
    beside.mkdir(), here.mkdir()
    path = nets.write(beside)
    monkeypatch.chdir(str(here))
    for folder in (here, beside):
        for name in ("digits_train_lmdb", "digits_test_lmdb"):
            folder.joinpath(name).symlink_to(os.path.join(digits, name))
        assert train(path).state == "finished"
        assert train(path, data=digits).rows == train(path).rows


def test_training_again_after_a_python_layer_failed_says_what_it_said(
    tmp_path, digits, dsn, monkeypatch
):
    tmp_path.joinpath("broken_layer.py").write_text(
        "import caffe\nclass Broken(caffe.Layer):\n    def setup(self, bottom, top): pass\n    def reshape(self, bottom, top):\n"
        "        top[0].reshape(1)\n    def forward(self, bottom, top): raise KeyError('no such pixel')\n"
        "    def backward(self, *a): pass\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    layer = 'layer { name: "b" type: "Python" bottom: "ip" top: "b" python_param { module: "broken_layer" layer: "Broken" } }\n'
    with pytest.raises(TrialError, match="no such pixel"):
        train(nets.write(tmp_path, net_text=nets.net(head=layer + nets.LOSS)), data=digits)
