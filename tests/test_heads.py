"""The heads of a net: which are measured, and whether the metrics are those of `caffe train`."""

import collections
import os
import re
import subprocess

import nets
import numpy as np
import pytest

caffe = pytest.importorskip("caffe", reason="needs Caffe: run the tests with `make test`")
from caffe.proto import caffe_pb2  # noqa: E402
from google.protobuf import text_format  # noqa: E402
from test_solver import assert_same_weights, net_on  # noqa: E402

from lrbench_caffe import InputError, train  # noqa: E402
from lrbench_caffe.training.measurement import add_metrics_layers  # noqa: E402


class CaffeLog:
    """What `caffe train` prints.

    Attributes:
        tests: The outputs of each test, by (iteration, test net) and name.
        losses: The loss of each displayed iteration.
    """

    def __init__(self, folder, solver):
        done = subprocess.run(
            ["caffe", "train", "--solver", solver],
            cwd=str(folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=dict(os.environ, GLOG_log_dir=str(folder)),
        )
        assert done.returncode == 0, done.stdout[-2000:]
        self.tests, self.losses, at = collections.defaultdict(dict), {}, None
        for line in done.stdout.splitlines():
            test = re.search(r"Iteration (\d+), Testing net \(#(\d+)\)", line)
            output = re.search(r"Test net output #\d+: (\S+) = (\S+)", line)
            loss = re.search(r"Iteration (\d+) .*, loss = (\S+)", line)
            if test:
                at = int(test.group(1)), int(test.group(2))
            elif output:
                self.tests[at][output.group(1)] = float(output.group(2))
            elif loss:
                self.losses[int(loss.group(1))] = float(loss.group(2))

    def mean_loss(self, start, end):
        """The mean loss of the iterations from start to before end."""
        return np.mean([self.losses[iteration] for iteration in range(start, end)])


def run_both(folder, net_text, solver_text=None, **options):
    """The log of `caffe train` and the trial of LRBench; both have saved their weights."""
    folder.joinpath("net.prototxt").write_text(net_text)
    text = solver_text or nets.solver(max_iter=6, test_interval=3)
    text = text.replace("snapshot_after_train: false", "").replace(
        'net: "net.prototxt"', 'net: "%s"' % (folder / "net.prototxt")
    )
    solver = folder / "solver.prototxt"
    solver.write_text(text + 'display: 1 snapshot_prefix: "caffe"\n')
    log = CaffeLog(folder, str(solver))
    notes = []

    def keep_notes(kind, content):
        if kind == "note":
            notes.append(content)

    trial = train(str(solver), snapshot_prefix=str(folder / "ours"), on_event=keep_notes, **options)
    assert_same_weights(
        str(folder / "caffe_iter_6.caffemodel"), str(folder / "ours_iter_6.caffemodel")
    )
    return log, trial, notes


def scores(name, outputs=10, bottom="data", more="", filler='type: "xavier"'):
    return (
        'layer { name: "%s" type: "InnerProduct" bottom: "%s" top: "%s" inner_product_param { '
        "num_output: %d weight_filler { %s } %s } }\n" % (name, bottom, name, outputs, filler, more)
    )


def accuracy(name, bottom, label="label", param=""):
    return (
        'layer { name: "%s" type: "Accuracy" bottom: "%s" bottom: "%s" top: "%s" '
        "include { phase: TEST } accuracy_param { %s } }\n" % (name, bottom, label, name, param)
    )


def top_1_and_5(bottom, label="label", param=""):
    return accuracy(bottom + "_top1", bottom, label, param) + accuracy(
        bottom + "_top5", bottom, label, "top_k: 5 " + param
    )


def loss(kind, bottom, label="label", more=""):
    """A loss without a top, to which Caffe gives a name that others have, too."""
    return 'layer { name: "%s_loss" type: "%s" bottom: "%s" bottom: "%s" %s }\n' % (
        bottom,
        kind,
        bottom,
        label,
        more,
    )


def softmax(bottom, top, more=""):
    return 'layer { name: "%s" type: "Softmax" bottom: "%s" top: "%s" %s }\n' % (
        top + "_of_" + bottom,
        bottom,
        top,
        more,
    )


# Every kind of head beside the others, on the same digits. "main" has the largest loss_weight.
KINDS = (
    scores("main")
    + top_1_and_5("main")
    + loss("SoftmaxWithLoss", "main", more="loss_weight: 2")
    # The log of the softmax outputs, and an Accuracy that reads them.
    + scores("logistic")
    + softmax("logistic", "logistic_prob")
    + top_1_and_5("logistic_prob")
    + loss("MultinomialLogisticLoss", "logistic_prob")
    # In place, so that nothing after it can read the scores.
    + scores("in_place")
    + loss("SoftmaxWithLoss", "in_place", more="include { phase: TRAIN }")
    + softmax("in_place", "in_place", "include { phase: TEST }")
    + top_1_and_5("in_place")
    # An InfogainLoss has its softmax inside.
    + scores("infogain")
    + top_1_and_5("infogain")
    + loss("InfogainLoss", "infogain", more='infogain_loss_param { source: "%(infogain)s" }')
    # Scores without probabilities.
    + scores("hinge")
    + top_1_and_5("hinge")
    + loss("HingeLoss", "hinge")
    # Two classes and one score. To Caffe's Accuracy, the other class has the score 0.
    + 'layer { name: "high" type: "Threshold" bottom: "label" top: "high" '
    "threshold_param { threshold: 4.5 } }\n"
    + scores("binary", 1)
    + loss("SigmoidCrossEntropyLoss", "binary", "high")
    + 'layer { name: "zero" type: "Power" bottom: "binary" top: "zero" power_param { scale: 0 } }\n'
    'layer { name: "pair" type: "Concat" bottom: "zero" bottom: "binary" top: "pair" }\n'
    + accuracy("pair_top1", "pair", "high")
    # Five steps of each sequence: (steps, sequences, classes).
    + 'layer { name: "steps" type: "Reshape" bottom: "data" top: "steps" '
    "reshape_param { shape { dim: 5 dim: -1 dim: 64 } } }\n"
    'layer { name: "step_label" type: "Reshape" bottom: "label" top: "step_label" '
    "reshape_param { shape { dim: 5 dim: -1 } } }\n"
    + scores("sequence", 10, "steps", "axis: 2")
    + top_1_and_5("sequence", "step_label", "axis: 2")
    + loss("SoftmaxWithLoss", "sequence", "step_label", "softmax_param { axis: -1 }")
    # An Accuracy with an ignore_label of its own.
    + scores("ignoring")
    + top_1_and_5("ignoring", param="ignore_label: 3")
    + loss("SoftmaxWithLoss", "ignoring", more="loss_param { ignore_label: 3 }")
    # Softmax outputs in single precision are 0 for most classes.
    + 'layer { name: "large" type: "Power" bottom: "data" top: "large" '
    "power_param { scale: 500 } }\n"
    + scores("saturated", 10, "large")
    + top_1_and_5("saturated")
    + loss("SoftmaxWithLoss", "saturated", more="loss_weight: 0.001")
    # A part of the loss that another layer reads, too: Caffe inserts a Split, which has the loss.
    + 'layer { name: "size" type: "AbsVal" bottom: "data" top: "size" loss_weight: 0.001 }\n'
    'layer { name: "read" type: "Silence" bottom: "size" }\n'
    # All classes are tied.
    + scores("tied", filler='type: "constant"', more="bias_filler { value: 0 }")
    + top_1_and_5("tied")
)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory, digits, dsn):
    """The log of `caffe train`, the trial and the notes for a net with every kind of head."""
    folder = tmp_path_factory.mktemp("kinds")
    with open(str(folder / "infogain.binaryproto"), "wb") as file:
        matrix = np.eye(10)[None, None]
        file.write(caffe.io.array_to_blobproto(matrix).SerializeToString())
    head = KINDS % {"infogain": folder / "infogain.binaryproto"}
    return run_both(folder, net_on(digits, body="", head=head), seed=7)


# The output of `caffe train` for a head, if it is not called after the scores.
OUTPUTS = {"logistic": "logistic_prob", "binary": "pair"}


def test_every_head_has_the_top_1_and_top_5_of_caffes_accuracy_layers(kinds):
    log, trial, _ = kinds
    for row in trial.rows:
        expected = log.tests[row.iteration, 0]
        heads = dict(row.heads, main={"top1": row.top1, "top5": row.top5})
        for name, metrics in heads.items():
            output = OUTPUTS.get(name, name)
            assert metrics["top1"] == pytest.approx(expected[output + "_top1"]), name
            if name not in ("binary", "pair"):
                assert metrics["top5"] == pytest.approx(expected[output + "_top5"]), name
    assert {"main", "hinge", "sequence", "ignoring", "saturated", "tied"} <= set(heads)
    assert heads["tied"]["top1"] == heads["tied"]["top5"] == 0
    assert 0 < heads["sequence"]["top1"] < heads["sequence"]["top5"] < 1


def test_the_losses_are_summed_as_caffe_sums_them(kinds):
    """Caffe's own figure is its smoothed loss, which it displays at every iteration."""
    log, trial, _ = kinds
    assert [row.iteration for row in trial.rows] == [0, 3, 6]
    for start, end, row in ((0, 3, trial.rows[1]), (3, 6, trial.rows[2])):
        assert row.train_loss == pytest.approx(log.mean_loss(start, end), rel=1e-5)
        assert row.ld == abs(row.test_loss - row.train_loss)


def test_only_heads_with_probabilities_have_confidences(kinds):
    _, trial, notes = kinds
    heads = trial.rows[-1].heads
    for name in ("logistic", "in_place", "infogain", "sequence", "ignoring", "saturated"):
        assert heads[name]["ac"] is not None and 0 < heads[name]["ac"] <= 1, name
    for name in ("hinge", "binary", "tied"):
        assert (heads[name]["ac"], heads[name]["cd"], heads[name]["cdac"]) == (None,) * 3, name
    assert any("--head" in note and "those of main" in note for note in notes)


def test_the_record_names_the_head_and_holds_the_others(kinds, dsn):
    from lrbench_caffe.database import Store

    _, trial, _ = kinds
    with Store(dsn) as store:
        stored = store.trial(trial.id)
    assert stored.setup.solver["head"] == "main" and stored.setup.classes == 10
    assert [row.heads for row in stored.rows] == [row.heads for row in trial.rows]


def test_an_export_and_an_import_keep_the_heads(kinds, dsn, database, tmp_path):
    from lrbench_caffe.database import Store, exchange

    _, trial, _ = kinds
    path = str(tmp_path / "heads.jsonl")
    exchange.export_trials(path, dsn, {"network": trial.setup.network.hash})
    exchange.import_trials(path, database)
    with Store(database) as store:
        assert [row.heads for row in store.trial(trial.id).rows] == [
            row.heads for row in trial.rows
        ]


def test_the_user_chooses_the_head(tmp_path, digits, dsn):
    head = scores("a") + scores("b", 4) + loss("SoftmaxWithLoss", "a")
    head += 'layer { name: "few" type: "Power" bottom: "label" top: "few" power_param { '
    head += "scale: 0 shift: 2 } }\n" + loss("SoftmaxWithLoss", "b", "few", 'top: "second"')
    path = nets.write(
        tmp_path, nets.solver(max_iter=3, test_interval=3), net_on(digits, body="", head=head)
    )
    with pytest.raises(InputError, match=r"2 heads of equal weight, a, b.*--head a"):
        train(path)
    for name in ("b", "second", "b_loss"):
        trial = train(path, head=name, max_iter=1)
        assert trial.setup.classes == 4 and trial.setup.solver["head"] == "b"
        assert list(trial.rows[-1].heads) == ["a"]
    with pytest.raises(InputError, match=r"head 'c'.*its heads are a, b"):
        train(path, head="c")


def test_a_head_beside_the_main_one_that_cannot_be_measured_does_not_end_the_training(
    tmp_path, digits, dsn
):
    """Caffe's sigmoid loss also takes targets between 0 and 1, which are not classes."""
    head = scores("main") + accuracy("top1", "main") + loss("SoftmaxWithLoss", "main")
    head += scores("flag", 1) + loss("SigmoidCrossEntropyLoss", "flag")  # its labels are digits
    head += scores("mask", 1) + 'layer { name: "soft" type: "Power" bottom: "label" top: "soft" '
    head += "power_param { scale: 0.05 shift: 0.05 } }\n"
    head += loss("SigmoidCrossEntropyLoss", "mask", "soft")
    log, trial, notes = run_both(tmp_path, net_on(digits, body="", head=head))
    assert trial.rows[-1].top1 == pytest.approx(log.tests[6, 0]["top1"])
    assert trial.rows[-1].heads is None
    left_out = [note for note in notes if "left out" in note]
    assert [note.split(":")[0] for note in left_out] == ["the head flag", "the head mask"]


def test_branches_of_training_and_test_may_have_different_blobs(tmp_path, digits, dsn):
    """The same weights under one name in the training and under another in the test."""
    shared = ' param { name: "w" } param { name: "b" } '
    head = "".join(
        scores(name).replace("inner_product_param", "include { phase: %s }" % phase + shared
                             + "inner_product_param")
        for name, phase in (("of_train", "TRAIN"), ("of_test", "TEST"))
    )  # fmt: skip
    head += loss("SoftmaxWithLoss", "of_train", more="include { phase: TRAIN }")
    head += accuracy("top1", "of_test")
    log, trial, notes = run_both(tmp_path, net_on(digits, body="", head=head))
    last = trial.rows[-1]
    assert last.top1 == pytest.approx(log.tests[6, 0]["top1"])
    assert last.ac is not None and last.train_loss == pytest.approx(log.mean_loss(3, 6), rel=1e-5)
    assert last.test_loss == pytest.approx(last.train_loss, rel=0.5)
    assert any("that of the training net" in note for note in notes)


def test_the_last_snapshot_comes_before_the_last_evaluation(tmp_path, digits, dsn):
    """A test changes the weights of batch normalization if use_global_stats is false."""
    norm = (
        'layer { name: "norm" type: "BatchNorm" bottom: "ip" top: "norm" '
        "batch_norm_param { use_global_stats: false } }\n"
    )
    head = accuracy("top1", "norm") + loss("SoftmaxWithLoss", "norm")
    log, trial, _ = run_both(tmp_path, net_on(digits, body="", head=scores("ip") + norm + head))
    for row in trial.rows:
        assert row.top1 == pytest.approx(log.tests[row.iteration, 0]["top1"])


TWO_TEST_NETS = (
    scores("ip").replace("layer {", 'layer { include { phase: TRAIN } include { phase: TEST } ', 1)
    + 'layer { name: "drop" type: "Dropout" bottom: "ip" top: "ip" }\n'
    + nets.ACCURACY
    + nets.LOSS
    + 'layer { name: "noise" type: "DummyData" top: "noise" include { phase: TEST } '
    'dummy_data_param { shape { dim: 7 } data_filler { type: "gaussian" } } }\n'
    'layer { name: "quiet" type: "Silence" bottom: "noise" include { phase: TEST } }\n'
)  # fmt: skip


@pytest.mark.parametrize("test_net", [0, 1])
def test_all_test_nets_are_measured_as_in_caffe_and_the_user_chooses_which_is_reported(
    test_net, tmp_path, digits, dsn
):
    """The test nets draw random numbers, from the same stream as the dropout of the training."""
    solver = nets.solver(max_iter=6, test_interval=3, more="test_iter: 2")
    log, trial, notes = run_both(
        tmp_path, net_on(digits, body="", head=TWO_TEST_NETS), solver, test_net=test_net
    )
    for row in trial.rows:
        expected = log.tests[row.iteration, test_net]
        assert row.top1 == pytest.approx(expected["accuracy"])
        assert row.test_loss == pytest.approx(expected["loss"], rel=1e-5)
        (other,) = row.other_sets.items()
        expected = log.tests[row.iteration, 1 - test_net]
        assert (row.measured_on, other[0]) == ("test%d" % test_net, "test%d" % (1 - test_net))
        assert other[1]["top1"] == pytest.approx(expected["accuracy"])
        assert other[1]["test_loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert trial.setup.solver.get("test_net", 0) == test_net
    assert any("2 test nets" in note and "--test-net" in note for note in notes)


def test_a_test_net_that_the_solver_does_not_have(tmp_path, digits, dsn):
    with pytest.raises(InputError, match=r"test net 1, expected a number from 0 to 0"):
        train(nets.write(tmp_path), data=digits, test_net=1)


def message(text):
    return text_format.Parse(text, caffe_pb2.SolverParameter())


def measured(net, train_net="", head=None):
    """What is measured on a test net, and the types of the layers that are added to it."""
    data = 'layer { name: "d" type: "Input" top: "data" top: "label" top: "other" }\n'
    solver = caffe_pb2.SolverParameter(test_iter=[1])
    text_format.Parse(data + (train_net or net), solver.train_net_param)
    test = solver.test_net_param.add(name="small")
    text_format.Parse(data + net, test)
    measurement = add_metrics_layers(solver, head)
    return measurement, [layer for layer in test.layer if layer.name.startswith("lrbench_")]


def test_an_accuracy_names_the_head_better_than_a_loss_weight():
    net = scores("a") + scores("b") + loss("SoftmaxWithLoss", "a", more="loss_weight: 9")
    net += loss("SoftmaxWithLoss", "b") + accuracy("top1", "b").replace("include", "exclude")
    net = net.replace("exclude { phase: TEST }", "")
    measurement, _ = measured(net)
    assert measurement.head.name == "b"
    assert [other.name for other in measurement.others] == ["a"]


def test_auxiliary_heads_with_smaller_weights_are_not_ranked_by():
    net = "".join(
        scores(name)
        + loss("SoftmaxWithLoss", name, more="loss_weight: %s" % weight)
        + accuracy("top_" + name, name).replace("include { phase: TEST }", "")
        for name, weight in (("first", 0.3), ("last", 1), ("second", 0.3))
    )
    assert measured(net)[0].head.name == "last"


def test_the_same_scores_with_two_labels_are_two_heads():
    net = scores("a") + loss("SoftmaxWithLoss", "a") + loss("SoftmaxWithLoss", "a", "other")
    with pytest.raises(InputError, match=r"a:label, a:other"):
        measured(net)
    assert measured(net, head="a:other")[0].head.name == "a:other"


REGRESSION = (
    scores("energy", 16)
    + softmax("energy", "attention")
    + scores("y", 1, "attention")
    + loss("EuclideanLoss", "y")
)


@pytest.mark.parametrize(
    "net, expected",
    [
        (REGRESSION, r"'small' is not a classifier"),
        (scores("a", 20) + loss("SigmoidCrossEntropyLoss", "a"), r"several labels"),
        (softmax("data", "prob"), r"neither an Accuracy layer nor a loss"),
    ],
)
def test_what_is_not_a_classifier_with_one_label_is_refused(net, expected):
    with pytest.raises(InputError, match=expected):
        measured(net)


def test_a_mean_of_softmax_outputs_does_not_get_another_softmax():
    net = scores("a") + softmax("a", "p") + scores("b") + softmax("b", "q")
    net += 'layer { name: "mean" type: "Eltwise" bottom: "p" bottom: "q" top: "mean" }\n'
    net += accuracy("top1", "mean").replace("include { phase: TEST }", "")
    measurement, added = measured(net)
    assert not measurement.head.has_probabilities
    assert [layer.type for layer in added] == ["Python"]
    measurement, added = measured(net + loss("MultinomialLogisticLoss", "mean"))
    assert measurement.head.has_probabilities and "Softmax" not in [layer.type for layer in added]


def test_a_loss_of_scores_that_a_softmax_replaces_in_place_is_not_added(tmp_path, digits, dsn):
    """Caffe allows a layer to work in place on a blob if no other layer reads it."""
    head = scores("a") + loss("SoftmaxWithLoss", "a", more="include { phase: TRAIN }")
    head += softmax("a", "a", "include { phase: TEST }") + accuracy("top1", "a")
    log, trial, notes = run_both(tmp_path, net_on(digits, body="", head=head))
    last = trial.rows[-1]
    assert last.top1 == pytest.approx(log.tests[6, 0]["top1"]) and last.ac is not None
    assert last.test_loss == pytest.approx(last.train_loss, rel=0.5)
    assert any("cannot be computed on the test net" in note for note in notes)


def test_an_accuracy_of_sigmoid_outputs_is_ranked_by_their_inputs():
    net = scores("a", 1) + loss("SigmoidCrossEntropyLoss", "a")
    net += 'layer { name: "s" type: "Sigmoid" bottom: "a" top: "s" }\n'
    net += accuracy("top1", "s").replace("include { phase: TEST }", "")
    measurement, added = measured(net)
    assert measurement.head.classes == 2 and not measurement.head.has_probabilities
    assert list(added[-1].bottom) == ["a", "label"]


@pytest.mark.parametrize(
    "train_loss",
    [
        scores("extra").replace('top: "extra"', 'top: "extra" loss_weight: 0.1'),
        loss("EuclideanLoss", "a"),
        'layer { name: "p" type: "Python" bottom: "a" bottom: "label" top: "p" loss_weight: 1 '
        'python_param { module: "m" layer: "L" } }\n',
    ],
)
def test_layers_with_weights_and_losses_of_other_labels_are_not_added(train_loss):
    """They would draw random numbers, or fail on the classes that an Accuracy reads."""
    test_net = scores("a") + accuracy("top1", "a").replace("include { phase: TEST }", "")
    train_net = scores("a") + loss("SoftmaxWithLoss", "a") + train_loss
    measurement, added = measured(test_net, train_net)
    assert not any("Loss" in layer.type for layer in added)
    assert any("cannot be computed on the test net" in note for note in measurement.notes)


@pytest.mark.parametrize(
    "accuracy_param, loss_param, expected",
    [
        ("ignore_label: 3", "ignore_label: 4", 3),
        ("", "ignore_label: 4", None),  # a class, which Caffe's Accuracy counts
        ("", "ignore_label: 255", 255),  # not a class
    ],
)
def test_the_accuracy_decides_which_label_is_ignored(accuracy_param, loss_param, expected):
    net = scores("a") + loss("SoftmaxWithLoss", "a", more="loss_param { %s }" % loss_param)
    net += accuracy("top1", "a", param=accuracy_param).replace("include { phase: TEST }", "")
    assert measured(net)[0].head.ignore_label == expected


def test_a_layer_in_place_on_a_loss_is_refused():
    net = scores("a") + loss("SoftmaxWithLoss", "a", more='top: "l"')
    net += 'layer { name: "half" type: "Power" bottom: "l" top: "l" power_param { scale: 0.5 } }\n'
    with pytest.raises(
        InputError, match=r"'half' works in place on the loss of the layer 'a_loss'"
    ):
        measured(net)


@pytest.mark.parametrize(
    "param_str, expected",
    [
        ("[1]", r"invalid param_str"),
        ('{"axis": "2"}', r"invalid axis=\"2\""),
        ('{"ignorelabel": 3}', r"unknown key 'ignorelabel'.* axis, ignore_label"),
        ('{"probabilities": null}', r"invalid probabilities=null"),
    ],
)
def test_an_invalid_metrics_layer_is_refused(param_str, expected):
    layer = (
        'layer { name: "m" type: "Python" bottom: "p" bottom: "label" python_param { '
        'module: "lrbench_caffe.layers" layer: "MetricsLayer" param_str: \'%s\' } }' % param_str
    )
    with pytest.raises(InputError, match=expected):
        measured(scores("a") + softmax("a", "p") + layer)


def test_the_record_names_a_head_that_does_not_follow_from_the_net_that_is_trained():
    net = scores("a") + loss("SoftmaxWithLoss", "a")
    assert not measured(net)[0].settings
    assert measured(net, net + 'layer { name: "r" type: "ReLU" bottom: "a" top: "a" }')[0].settings
    assert measured(net + loss("SoftmaxWithLoss", "a", "other"), head="a:label")[0].settings


def test_the_loss_of_the_training_is_only_added_to_a_test_net_without_a_loss():
    train_net = scores("a") + loss("SoftmaxWithLoss", "a") + loss("HingeLoss", "a")
    test_net = scores("a") + accuracy("top1", "a").replace("include { phase: TEST }", "")
    _, added = measured(test_net, train_net)
    assert [layer.type for layer in added if "Loss" in layer.type] == [
        "SoftmaxWithLoss",
        "HingeLoss",
    ]
    _, added = measured(test_net + loss("HingeLoss", "a"), train_net)
    assert "SoftmaxWithLoss" not in [layer.type for layer in added]


@pytest.mark.parametrize("without", ["test_iter: 4", "all"])
def test_a_solver_without_a_test_net_is_trained_and_has_its_train_loss(
    without, tmp_path, digits, dsn
):
    from lrbench_caffe.database import Store

    solver = nets.solver(max_iter=6, test_interval=3).replace("test_iter: 4", "")
    if without == "all":
        solver = solver.replace("test_interval: 3", "")
    log, trial, notes = run_both(tmp_path, net_on(digits), solver)
    if without == "all":  # as often as the loss is displayed
        assert [row.train_loss for row in trial.rows] == pytest.approx(
            [log.losses[n] for n in range(6)], rel=1e-5
        )
    else:
        assert [row.iteration for row in trial.rows] == [3, 6]
        assert trial.rows[1].train_loss == pytest.approx(log.mean_loss(3, 6), rel=1e-5)
    assert all((row.test_loss, row.top1, row.ld) == (None, None, None) for row in trial.rows)
    assert (trial.best, trial.summary, trial.setup.classes) == (None, None, None)
    (note,) = [note for note in notes if "no test net" in note]
    assert note.endswith("to test the net with its TEST layers, give test_iter and test_interval")
    with Store(dsn) as store:
        assert store.trial(trial.id).rows == trial.rows


def test_a_train_loss_of_more_losses_than_the_test_loss_is_noted():
    def note(weight, phase):
        extra = loss("SoftmaxWithLoss", "b", more="loss_weight: %s" % weight)
        extra = extra.rstrip().rstrip("}") + "include { phase: %s } }\n" % phase
        net = scores("a") + loss("SoftmaxWithLoss", "a") + scores("b") + extra
        return " ".join(note for note in measured(net)[0].notes if "LD compares" in note)

    assert note(0.5, "TRAIN").startswith("the train loss also has b_loss, which the test net does")
    assert note(0, "TRAIN") == note(0.5, "TEST") == ""


def test_a_loss_of_the_training_alone_is_computed_on_the_test_net(tmp_path, digits, dsn):
    """Many nets have their loss in the TRAIN phase, and a Softmax in the TEST phase."""
    only_train = nets.LOSS.replace("}", "include { phase: TRAIN } }")
    prob = 'layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" include { phase: TEST } }'
    rows = []
    for head in (nets.LOSS, only_train + prob):
        path = nets.write(tmp_path, nets.solver(max_iter=20), net_on(digits, head=head))
        rows.append(train(path).rows)
    assert rows[0] == rows[1] and rows[0][-1].top1 > 0.5


def test_several_labels_in_the_loss_of_the_training_are_refused():
    net = scores("a") + 'layer { name: "p" type: "Sigmoid" bottom: "a" top: "p" }'
    trained = scores("a") + loss("SigmoidCrossEntropyLoss", "a")
    with pytest.raises(InputError, match="may give a sample several labels"):
        measured(net, trained)
