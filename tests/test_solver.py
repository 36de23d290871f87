"""Training with the real Caffe: as in `caffe train`, under any policy, with all metrics."""

import os
import shutil
import subprocess

import nets
import numpy as np
import pytest
from gate import Gate

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
    """The weights in a .caffemodel by layer."""
    from caffe.proto import caffe_pb2

    with open(path, "rb") as file:
        net = caffe_pb2.NetParameter.FromString(file.read())
    return {
        layer.name: [np.array(blob.data, np.float32) for blob in layer.blobs]
        for layer in net.layer
        if layer.blobs
    }


def assert_same_weights(path, expected_path):
    layers, expected = weights(path), weights(expected_path)
    assert layers.keys() == expected.keys() and layers
    for name in layers:
        for blob, expected_blob in zip(layers[name], expected[name]):
            assert blob.tobytes() == expected_blob.tobytes(), name


# A solver of 600 iterations whose net has next to no work.
MINIMAL_SOLVER = """
max_iter: 600 snapshot_after_train: false solver_mode: CPU
train_net_param {
  layer { name: "x" type: "DummyData" top: "x" top: "y"
    dummy_data_param { shape { dim: 1 dim: 1 } } }
  layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip"
    inner_product_param { num_output: 2 } }
  layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "y" top: "l" }
}
"""


SOFTMAX = (
    'layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" include { phase: TEST } }\n'
)


def net_on(digits, **parts):
    """The small net with absolute paths, which Caffe itself can train."""
    train, test = digits + "/digits_train_lmdb", digits + "/digits_test_lmdb"
    return nets.net(train=train, test=test, **parts)


@pytest.mark.parametrize(
    "lr_policy, fields",
    [
        *sorted(CAFFES_SEVEN.items()),
        # Caffe takes one step in an iteration, and it counts how often the rate is asked for.
        ("multistep", "gamma: 0.5 stepvalue: 30 stepvalue: 20"),
        ("multistep", "gamma: 0.5 stepvalue: 20 stepvalue: 20 stepvalue: 22"),
        ("multistep", "gamma: 2 stepvalue: 10 stepvalue: 5 stepvalue: 5"),
    ],
)
def test_caffes_own_policies_give_the_weights_of_caffe_train_to_the_last_bit(
    lr_policy, fields, tmp_path, digits, dsn
):
    schedule = 'lr_policy: "%s" %s' % (lr_policy, fields)
    net, prefix = tmp_path / "net.prototxt", 'snapshot_prefix: "caffe"'
    text = nets.solver(schedule, net=net, max_iter=50, more=prefix)
    path = nets.write(tmp_path, text.replace("snapshot_after_train: false", ""), net_on(digits))
    subprocess.run(
        ["caffe", "train", "--solver", path],
        cwd=str(tmp_path),
        check=True,
        stderr=subprocess.DEVNULL,
        env=dict(os.environ, GLOG_log_dir=str(tmp_path)),
    )
    trial = train(path, snapshot_prefix=str(tmp_path / "ours"), verbose=True)
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
def test_a_policy_has_the_rate_of_caffes_lr_policy_at_every_iteration(text, schedule, tmp_path):
    from caffe.proto import caffe_pb2
    from google.protobuf import text_format

    from lrbench_caffe.training import lr_policy, monitor, prototxt

    def rates(param, policy):
        native = lr_policy.install(policy, param)
        path = str(tmp_path / "solver.prototxt")
        prototxt.write_solver(param, path)
        caffe.set_mode_cpu()
        solver = caffe.get_solver(path)
        watching = monitor.Monitor(solver, policy, native)
        for _ in range(600):
            yield np.float32(watching.lr)
            watching.step(1)

    def solver(fields):
        return text_format.Merge(MINIMAL_SOLVER + fields, caffe_pb2.SolverParameter())

    with_schedule, fixed = solver(schedule), solver('lr_policy: "fixed" base_lr: 1')
    expected = list(rates(with_schedule, lr_policy.policy_from_solver(with_schedule)))
    actual = list(rates(fixed, Policy.parse(text)))
    steps_apart = np.array(expected).view(np.int32) - np.array(actual).view(np.int32)
    assert np.max(np.abs(steps_apart)) <= 1  # neighbours in float32
    assert expected == pytest.approx([Policy.parse(text)(t) for t in range(600)], rel=1e-5)


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
    """The reference is a loop of Caffe's own step(1) with base_lr set by hand."""
    solver = nets.solver(more='lr_policy: "%s"' % text, schedule="", max_iter=40)
    path = nets.write(tmp_path, solver, net_on(digits))
    trial = train(path, snapshot_prefix=str(tmp_path / "ours"), max_iter=40)
    assert [row.lr for row in trial.rows] == pytest.approx(
        [Policy.parse(text)(row.iteration) for row in trial.rows], rel=1e-6
    )
    by_hand = nets.solver(net=tmp_path / "net.prototxt", max_iter=40, test_interval=10**6)
    tmp_path.joinpath("hand.prototxt").write_text(by_hand)
    caffe.set_mode_cpu()
    by_hand = caffe.get_solver(str(tmp_path / "hand.prototxt"))
    for t in range(40):
        by_hand.param.base_lr = Policy.parse(text)(t)
        by_hand.step(1)
    by_hand.net.save(str(tmp_path / "hand.caffemodel"))
    assert_same_weights(
        str(tmp_path / "hand.caffemodel"), str(tmp_path / "ours_iter_40.caffemodel")
    )


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_snapshots_that_do_not_fit_on_the_disk_cost_no_rows(
    optimizer, small_disk, tmp_path, digits, dsn
):
    """The expected size is that of the files of an earlier training."""
    momentum2 = "momentum2: 0.999" if optimizer == "Adam" else ""
    more = 'type: "%s" %s snapshot: 10' % (optimizer, momentum2)
    path = nets.write(tmp_path, nets.solver(max_iter=10, test_interval=5, more=more))
    prefix, notes = str(small_disk / "ours"), []

    def note(kind, content):
        if kind == "note":
            notes.append(content)

    options = {"data": digits, "snapshot_prefix": prefix, "model": False, "on_event": note}
    train(path, **options)
    names = ["ours_iter_10.caffemodel", "ours_iter_10.solverstate"]
    assert sorted(os.listdir(str(small_disk))) == names and not notes
    size = 0
    for name in names:
        size += (small_disk / name).stat().st_size
        (small_disk / name).unlink()
    filler = shutil.disk_usage(str(small_disk)).free - size
    (small_disk / "filler").write_bytes(bytes(filler))
    trial = train(path, max_iter=12, **options)
    assert trial.state == "finished" and [row.iteration for row in trial.rows] == [0, 5, 10, 12]
    assert os.listdir(str(small_disk)) == ["filler"]
    for sentence, iteration in zip(notes, (10, 12)):
        assert (
            "the snapshot of iteration %d cannot be written to %s_iter"
            % (
                iteration,
                prefix,
            )
            in sentence
        )
        assert "the disk of %s is full" % small_disk in sentence
        assert "--snapshot-prefix" in sentence
    assert len(notes) == 2


def test_a_folder_that_is_removed_costs_a_snapshot_and_no_rows(tmp_path, digits, dsn):
    for name in ("gate", "gone"):
        (tmp_path / name).mkdir()
    gate = Gate(tmp_path / "gate", 7)
    text = nets.net(head=nets.ACCURACY + nets.LOSS + gate.layer)
    solver = nets.solver(max_iter=10, test_interval=5, more="snapshot: 10")
    path = nets.write(tmp_path, solver, text)
    notes = []

    def remove(kind, content):
        if kind == "begin":
            (tmp_path / "gone").rmdir()
            gate.open()
        elif kind == "note":
            notes.append(content)

    prefix = tmp_path / "gone" / "ours"
    trial = train(path, data=digits, snapshot_prefix=prefix, model=False, on_event=remove)
    assert trial.state == "finished" and trial.rows[-1].iteration == 10
    (note,) = notes
    assert "the snapshot of iteration 10 cannot be written to %s_iter_10" % prefix in note
    assert "No such file or directory" in note


def test_the_last_row_has_the_metrics_of_the_saved_net(tmp_path, digits, dsn):
    """The expected metrics are computed from all probabilities at once."""
    path = nets.write(tmp_path, net_text=net_on(digits, head=nets.LOSS + SOFTMAX))
    trial = train(path, "FIX(k0=0.02)", snapshot_prefix=str(tmp_path / "ours"))
    net = caffe.Net(
        str(tmp_path / "net.prototxt"), str(tmp_path / "ours_iter_60.caffemodel"), caffe.TEST
    )
    outputs = []
    for _ in range(4):
        net.forward()
        outputs.append([net.blobs[name].data.copy() for name in ("prob", "label", "loss")])
    probabilities, labels, losses = zip(*outputs)
    expected = metrics.from_arrays(np.concatenate(probabilities), np.concatenate(labels))
    last = trial.rows[-1]
    assert (last.top1, last.top5) == (expected.top1, expected.top5) and last.iteration == 60
    confidences = (expected.ac, expected.cd, expected.cdac)
    assert (last.ac, last.cd, last.cdac) == pytest.approx(confidences, abs=1e-12)
    assert last.test_loss == pytest.approx(np.mean(losses), rel=1e-6)
    assert last.test_loss == pytest.approx(expected.log_loss, rel=1e-5)
    assert last.ld == abs(last.test_loss - last.train_loss)
    assert trial.best == max(trial.rows, key=lambda row: row.top1)


def test_there_is_a_row_at_the_start_at_every_test_interval_and_at_the_end(tmp_path, digits, dsn):
    path = nets.write(tmp_path, nets.solver(max_iter=50, test_interval=20))
    assert [row.iteration for row in train(path, data=digits).rows] == [0, 20, 40, 50]
    path = nets.write(
        tmp_path, nets.solver(max_iter=40, test_interval=20, more="test_initialization: false")
    )
    rows = train(path, data=digits).rows
    assert [row.iteration for row in rows] == [20, 40]
    assert all(row.train_loss > 0 for row in rows)


def last_row_untrained(folder, data, iterations, iter_size=1, head=nets.LOSS):
    """The last row at a learning rate near 0, where all losses are those of the initial weights."""
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
    """The same 20 mini-batches have the same mean, as 20 or as 10 iterations; 10 have another."""
    twenty, twenty_in_pairs, ten = (
        last_row_untrained(tmp_path, digits, *sizes).train_loss
        for sizes in ((20, 1), (10, 2), (10, 1))
    )
    assert twenty_in_pairs == pytest.approx(twenty, rel=1e-6)
    assert ten != pytest.approx(twenty, rel=1e-6)


def test_several_losses_are_summed_with_their_loss_weights(tmp_path, digits, dsn):
    second = (
        'layer { name: "second" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "second" '
        "loss_weight: 0.5 }"
    )
    single, both = (
        last_row_untrained(tmp_path, digits, 10, head=head)
        for head in (nets.LOSS, nets.LOSS + second)
    )
    assert (both.train_loss, both.test_loss) == pytest.approx(
        (1.5 * single.train_loss, 1.5 * single.test_loss), rel=1e-6
    )


@pytest.mark.parametrize("kind", ["SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"])
def test_all_of_caffes_optimizers_train(kind, tmp_path, digits, dsn):
    text = nets.solver(max_iter=20, more='type: "%s" delta: 1e-6' % kind)
    if kind in ("AdaGrad", "RMSProp"):  # they abort if momentum is set
        text = text.replace("momentum: 0.9", "")
    path = nets.write(tmp_path, text)
    trial = train(path, "TRI(k0=0.001, k1=0.01, l=10)", data=digits)
    assert trial.state == "finished" and trial.setup.solver.get("type", "SGD") == kind


def test_resume_continues_the_schedule_at_the_restored_iteration(tmp_path, digits, dsn):
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
    """Untrained batch normalization divides by the root of epsilon; 20 in a row overflow."""
    norms = "".join(
        'layer {{ name: "norm%d" type: "BatchNorm" bottom: "conv1" top: "conv1" }}\n' % n
        for n in range(20)
    )
    body = nets.BODY.replace('layer {{ name: "relu1"', norms + 'layer {{ name: "relu1"')
    events = []
    trial = train(
        nets.write(tmp_path, net_text=nets.net(body=body)),
        data=digits,
        dsn=dsn,
        on_event=lambda kind, content: events.append((kind, content)),
    )
    assert trial.state == "finished" and [row.iteration for row in trial.rows] == [20, 40, 60]
    assert (
        "note",
        "the test loss is nan before training: the row of iteration 0 is left out",
    ) in events


def test_a_loss_that_is_not_finite_ends_the_trial_as_diverged_with_its_rows(tmp_path, digits, dsn):
    path = nets.write(tmp_path, nets.solver(max_iter=400))
    trial = train(path, "FIX(k0=1e30)", data=digits)
    assert trial.state == "diverged" and len(trial.rows) >= 1 and "loss became" in trial.error


def test_scores_that_are_not_finite_end_the_trial_as_diverged_although_the_loss_is(
    tmp_path, digits, dsn
):
    """As on a GPU, where Caffe's SoftmaxWithLoss turns a NaN into a finite loss."""
    head = """
        layer { name: "negative" type: "Power" bottom: "ip" top: "negative" include { phase: TEST }
          power_param { scale: 0 shift: -1 } }
        layer { name: "nan" type: "Log" bottom: "negative" top: "nan" include { phase: TEST } }
        layer { name: "prob" type: "Softmax" bottom: "nan" top: "prob" include { phase: TEST } }
        layer { name: "accuracy" type: "Accuracy" bottom: "prob" bottom: "label" top: "accuracy"
          include { phase: TEST } }
        layer { name: "finite" type: "EuclideanLoss" bottom: "ip" bottom: "ip" top: "finite"
          include { phase: TEST } }
        layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss"
          include { phase: TRAIN } }
    """
    trial = train(nets.write(tmp_path, net_text=nets.net(head=head)), data=digits, dsn=dsn)
    assert (trial.state, trial.error) == ("diverged", "the test loss became nan at iteration 20")


def test_a_loss_that_hides_nan_weights_ends_the_trial_as_diverged(tmp_path, digits, dsn):
    """As on a GPU, where the training loss stays finite."""
    loss = (
        'layer { name: "loss" type: "Python" bottom: "ip" top: "loss" loss_weight: 1 '
        "include { phase: TRAIN } python_param { module: 'finite_loss' layer: 'FiniteLoss' } }\n"
    )
    trial = train(nets.write(tmp_path, net_text=nets.net(head=nets.ACCURACY + loss)), data=digits)
    expected = ("diverged", "the weights became nan before iteration 1")
    assert (trial.state, trial.error) == expected


@pytest.mark.parametrize("type", ["SoftmaxWithLoss", "EuclideanLoss", "Python"])
def test_the_loss_is_read_alike_for_the_cpu_and_for_a_gpu(type, tmp_path, digits):
    from lrbench_caffe.training.monitor import loss_reader, weighted_losses

    layers = {
        "SoftmaxWithLoss": nets.LOSS,
        "EuclideanLoss": 'layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "ip" '
        'top: "loss" }',
        "Python": 'layer { name: "loss" type: "Python" bottom: "ip" top: "loss" loss_weight: 2 '
        "python_param { module: 'finite_loss' layer: 'FiniteLoss' } }",
    }
    tmp_path.joinpath("net.prototxt").write_text(net_on(digits, head=layers[type]))
    net = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TRAIN)
    readers = [loss_reader(net, gpu) for gpu in (False, True)]
    loss = net._forward(0, len(net.layers) - 1)
    assert readers[0]() == readers[1]() == pytest.approx(loss)
    # What a Python layer computes may be on a GPU only, so it is copied.
    in_host_memory = [weighted.stays_in_host_memory(True) for weighted in weighted_losses(net)]
    assert in_host_memory == [type != "Python"]


def test_the_same_seed_gives_the_same_rows_and_another_seed_does_not(tmp_path, digits, dsn):
    path = nets.write(tmp_path)
    rows = [train(path, data=digits, seed=seed).rows for seed in (1, 1, 2)]
    assert rows[0] == rows[1] != rows[2]


def test_train_net_test_net_and_stages_work_as_in_caffe(tmp_path, digits, dsn):
    """The nets are in separate files, and one layer is only in the net with its stage."""
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


def test_a_metrics_layer_in_the_prototxt_is_used(tmp_path, digits, dsn):
    layers = SOFTMAX + (
        'layer { name: "m" type: "Python" bottom: "prob" bottom: "label" include { phase: TEST }\n'
        '  python_param { module: "lrbench_caffe.layers" layer: "MetricsLayer" } }\n'
    )
    plain = train(nets.write(tmp_path), data=digits)
    written = train(nets.write(tmp_path, net_text=nets.net(head=nets.LOSS + layers)), data=digits)
    assert written.rows == plain.rows


def test_a_net_in_caffes_format_of_2014_trains(tmp_path, digits, dsn):
    old = """name: "old"
layers { name: "train" type: DATA top: "data" top: "label" include { phase: TRAIN }
  data_param { source: "digits_train_lmdb" backend: LMDB batch_size: 50 scale: 0.00390625 } }
layers { name: "test" type: DATA top: "data" top: "label" include { phase: TEST }
  data_param { source: "digits_test_lmdb" backend: LMDB batch_size: 100 scale: 0.00390625 } }
layers { name: "ip" type: INNER_PRODUCT bottom: "data" top: "ip"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layers { name: "loss" type: SOFTMAX_LOSS bottom: "ip" bottom: "label" top: "loss" }
"""
    trial = train(nets.write(tmp_path, net_text=old), data=digits)
    assert trial.state == "finished" and trial.best.top1 > 0.5


def test_a_test_net_without_a_loss_is_measured_on_the_scores_of_its_accuracy_layer(
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


def test_the_label_that_the_loss_ignores_is_left_out(tmp_path, digits, dsn):
    """Nines are ignored in a net of nine classes."""
    ignoring = nets.LOSS.replace(' top: "loss" ', ' top: "loss" loss_param { ignore_label: 9 } ')
    trial = train(
        nets.write(tmp_path, net_text=nets.net(classes=9, head=ignoring)),
        "FIX(k0=0.05)",
        data=digits,
        max_iter=300,
    )
    assert trial.best.top1 > 0.95 and trial.setup.classes == 9


def test_scores_may_be_concatenated_from_two_layers(tmp_path, digits, dsn):
    halves = "".join(
        'layer {{ name: "%s" type: "InnerProduct" bottom: "conv1" top: "%s" inner_product_param {{ '
        'num_output: 5 weight_filler {{ type: "xavier" }} }} }}\n' % (name, name)
        for name in ("left", "right")
    )
    concat = 'layer {{ name: "ip" type: "Concat" bottom: "left" bottom: "right" top: "ip" }}\n'
    body = nets.BODY[: nets.BODY.index('layer {{ name: "ip"')] + halves + concat
    trial = train(nets.write(tmp_path, net_text=nets.net(body=body)), data=digits)
    assert trial.best.top1 > 0.3 and trial.setup.classes is None


def test_comments_may_be_in_any_encoding(tmp_path, digits, dsn):
    path = nets.write(tmp_path)
    tmp_path.joinpath("net.prototxt").write_bytes(
        "# Gr\u00f6\u00dfe\n".encode("latin-1") + nets.net().encode()
    )
    assert train(path, data=digits).state == "finished"


def test_a_path_of_weights_is_relative_to_the_current_directory(tmp_path, digits, dsn, monkeypatch):
    monkeypatch.chdir(str(tmp_path))
    path = nets.write(tmp_path)
    first = train(path, data=digits, snapshot_prefix="first")
    second = train(path, data=digits, weights="first_iter_60.caffemodel")
    assert second.rows[0].top1 == first.rows[-1].top1 > second.rows[0].iteration == 0


def test_resuming_a_snapshot_of_the_last_iteration_is_an_input_error(tmp_path, digits, dsn):
    path = nets.write(tmp_path)
    train(path, data=digits, snapshot_prefix=tmp_path / "a")
    with pytest.raises(InputError, match="a_iter_60.solverstate is at 60"):
        train(path, data=digits, resume=tmp_path / "a_iter_60.solverstate")


def test_hdf5_snapshots_resume(tmp_path, digits, dsn):
    path = nets.write(tmp_path, nets.solver(max_iter=60, more="snapshot_format: HDF5"))
    train(path, data=digits, snapshot_prefix=tmp_path / "a", max_iter=40)
    resumed = train(path, data=digits, resume=tmp_path / "a_iter_40.solverstate.h5")
    assert resumed.rows[0].iteration == 40


def test_the_users_files_are_not_changed(tmp_path, digits, dsn):
    def files():
        return {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    path = nets.write(tmp_path)
    before = files()
    train(path, "COS(k0=0.01, k1=0.02, l=10)", data=digits)
    assert files() == before


def test_relative_paths_are_tried_below_data_beside_the_prototxt_and_in_the_current_directory(
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


BROKEN_LAYER = """
import caffe
class Broken(caffe.Layer):
    def setup(self, bottom, top): pass
    def reshape(self, bottom, top): top[0].reshape(1)
    def forward(self, bottom, top): raise KeyError('no such pixel')
    def backward(self, *_): pass
"""


def test_the_error_of_a_python_layer_is_that_of_the_training(tmp_path, digits, dsn, monkeypatch):
    tmp_path.joinpath("broken_layer.py").write_text(BROKEN_LAYER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    layer = (
        'layer { name: "b" type: "Python" bottom: "ip" top: "b" '
        'python_param { module: "broken_layer" layer: "Broken" } }\n'
    )
    path = nets.write(tmp_path, net_text=nets.net(head=layer + nets.LOSS))
    with pytest.raises(TrialError, match=r"no such pixel' \(broken_layer.py, line 6; --log FILE "):
        train(path, data=digits)
    # Where it is raised in a library, the layer's own line is named.
    library = BROKEN_LAYER.replace("import caffe", "import caffe, numpy").replace(
        "raise KeyError('no such pixel')", "numpy.linalg.inv(numpy.zeros((2, 2)))"
    )
    tmp_path.joinpath("broken_layer.py").write_text(library)
    with pytest.raises(
        TrialError, match=r"LinAlgError: Singular matrix \(broken_layer.py, line 6;"
    ):
        train(path, data=digits)
    tmp_path.joinpath("broken_layer.py").write_text(BROKEN_LAYER.replace("KeyError", "ValueError"))
    with pytest.raises(TrialError, match=r"ValueError: no such pixel \(broken_layer.py, line 6;"):
        train(path, data=digits)
    path = nets.write(tmp_path, net_text=nets.net(head=layer.replace("Broken", "B") + nets.LOSS))
    with pytest.raises(InputError, match="no attribute 'B'.*: name a class of the module as its"):
        train(path, data=digits)
