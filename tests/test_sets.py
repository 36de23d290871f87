"""Several test nets and a validation set: all are measured, one decides, one is reported."""

import json
import os

import nets
import numpy as np
import pytest

caffe = pytest.importorskip("caffe", reason="needs Caffe: run the tests with `make test`")
from caffe.proto import caffe_pb2  # noqa: E402
from google.protobuf import text_format  # noqa: E402
from test_heads import accuracy, loss, run_both, scores  # noqa: E402
from test_solver import net_on  # noqa: E402

from lrbench_caffe import InputError, Policy, train  # noqa: E402
from lrbench_caffe.study.process import describe  # noqa: E402
from lrbench_caffe.training.sets import MAX_NAME, Sets, chosen_sets, set_names  # noqa: E402
from lrbench_caffe.trial import SET_METRICS, Job, from_dict, to_dict  # noqa: E402

SIX = nets.solver(max_iter=6, test_interval=3)


def names(solver, *net_names):
    message = text_format.Parse(solver, caffe_pb2.SolverParameter())
    return set_names(message, [caffe_pb2.NetParameter(name=name) for name in net_names])


@pytest.mark.parametrize(
    "solver, net_names, expected",
    [
        ("", ["any"], ("test",)),
        ('test_state { stage: "a" }', ["any"], ("test",)),
        ('test_state { stage: "a" } test_state { stage: "b" }', "xy", ("a", "b")),
        ('test_state { } test_state { stage: "val" }', "xy", ("test", "val")),
        (
            'test_state { stage: "z" stage: "a" } test_state { stage: "a" stage: "b" stage: "c" }',
            "xy",
            ("z", "b+c"),
        ),
        ('test_state { stage: "a" } test_state { stage: "a" }', "xy", ("x", "y")),
        ('test_net: "/p/val.prototxt" test_net: "q/test.v2.prototxt"', "xx", ("val", "test.v2")),
        ('test_net_param { } test_net: "val.prototxt"', "xx", ("test0", "test1")),
        ('net: "n" test_iter: 1 test_iter: 1 test_iter: 1', "xxx", ("test0", "test1", "test2")),
        ('test_state { stage: "1" } test_state { stage: "0" }', "xx", ("test0", "test1")),
        ('test_state { stage: " " } test_state { stage: "b" }', ["", ""], ("test0", "test1")),
        ('test_state { stage: "\\377" } test_state { stage: "b" }', "xx", (r"\xff", "b")),
    ],
)
def test_sets_have_the_names_that_distinguish_their_test_nets(solver, net_names, expected):
    if "\\377" in solver:
        solver = solver.replace("\\377", "\U0010f7ff")  # as the byte 255 is read
    assert names(solver, *net_names) == expected


def test_a_long_name_is_cut_off_and_stays_unique():
    long = "a" * 600
    states = 'test_state { stage: "%s1" } test_state { stage: "%s2" }' % (long, long)
    assert names(states, "x", "y") == ("x", "y")
    assert names(states.replace("2", "", 1).replace(long, "b", 1), "", "")[1] == long[:MAX_NAME]


def test_a_set_is_chosen_by_its_name_or_the_number_of_its_test_net():
    two = ("test", "validation")
    assert chosen_sets(two, 0, None) == Sets(two, 0, 0)
    assert chosen_sets(two, "validation", None) == Sets(two, 1, 1)
    assert chosen_sets(two, 0, "1") == chosen_sets(two, "test", "validation") == Sets(two, 0, 1)
    with pytest.raises(InputError, match="--select: .*'validaton': did you mean validation"):
        chosen_sets(two, 0, "validaton")
    with pytest.raises(InputError, match="--test-net: .*'x': expected one of test, validation"):
        chosen_sets(two, "x", None)
    with pytest.raises(InputError, match="--select: invalid test net 2, expected a number from 0"):
        chosen_sets(two, 0, "2")
    with pytest.raises(InputError, match="--test-net: invalid test net -1, expected a number"):
        chosen_sets(two, -1, None)
    with pytest.raises(InputError, match="--select: the solver does not have a test net '--1'"):
        chosen_sets(two, 0, "--1")
    with pytest.raises(InputError, match="no test net, so --test-net and --select"):
        chosen_sets((), 0, "validation")


def stages(digits):
    """A net with a test set for each of two stages, and a dropout."""
    data = nets.DATA.format(
        name="train", phase="TRAIN", source=digits + "/digits_train_lmdb", batch=50
    )
    for stage, batch in (("whole", 100), ("half", 50)):
        source = digits + "/digits_test_lmdb"
        test = nets.DATA.format(name=stage, phase="TEST", source=source, batch=batch)
        data += test.replace("phase: TEST", 'phase: TEST stage: "%s"' % stage)
    drop = 'layer { name: "drop" type: "Dropout" bottom: "ip" top: "ip" }\n'
    return data + scores("ip") + drop + nets.ACCURACY + nets.LOSS


def test_test_nets_that_differ_in_their_stage_are_measured_as_in_caffe(tmp_path, digits, dsn):
    """They read the same LMDB; the second one tests a part of it at a time."""
    states = 'test_iter: 4 test_state { stage: "whole" } test_state { stage: "half" }'
    solver = SIX + states
    log, trial, notes = run_both(tmp_path, stages(digits), solver, select="half")
    for row in trial.rows:
        whole = row.other_sets["whole"]
        assert (row.measured_on, set(whole)) == ("half", set(SET_METRICS))
        for index, top1, test_loss in (
            (0, whole["top1"], whole["test_loss"]),
            (1, row.top1, row.test_loss),
        ):
            expected = log.tests[row.iteration, index]
            assert top1 == pytest.approx(expected["accuracy"])
            assert test_loss == pytest.approx(expected["loss"], rel=1e-5)
        assert whole["ac"] is not None
        assert whole["ld"] == (row.train_loss and abs(whole["test_loss"] - row.train_loss))
    assert any(row.top1 != row.other_sets["whole"]["top1"] for row in trial.rows)
    settings = trial.setup.solver
    assert (settings["select"], settings["report"], settings["head"]) == ("half", "whole", "ip")
    assert "test_net" not in settings and settings["test_batch_size"] == 100
    assert any("decisions are made by half, and whole is reported" in note for note in notes)
    assert trial.summary.top1 == trial.best.other_sets["whole"]["top1"]
    assert trial.deciding_summary.top1 == max(row.top1 for row in trial.rows)


def write_lmdb(path, samples=60, shape=(8, 8), classes=10):
    """An LMDB of images whose brightness grows with the class, and noise."""
    import lmdb

    random = np.random.RandomState(3)
    database = lmdb.open(str(path), map_size=1 << 24)
    with database, database.begin(write=True) as transaction:
        for n in range(samples):
            image = random.randint(0, 40, (1, *shape)) + 20 * (n % classes)
            datum = caffe.io.array_to_datum(image.astype(np.uint8), n % classes)
            transaction.put(b"%08d" % n, datum.SerializeToString())
    return str(path)


@pytest.fixture(scope="module")
def validation(tmp_path_factory):
    """A validation set of 60 samples, which the batch size of the test net does not divide."""
    return write_lmdb(tmp_path_factory.mktemp("validation") / "validation_lmdb")


def test_a_validation_set_is_measured_once_and_decides(tmp_path, digits, dsn, validation):
    """The net draws no random numbers, so the training is the one without a validation set."""
    text = net_on(digits)
    path = nets.write(tmp_path, nets.solver(max_iter=40, test_interval=10), text)
    alone = train(path, "FIX(k0=0.02)")
    trial = train(path, "FIX(k0=0.02)", validation=validation)
    for row, expected in zip(trial.rows, alone.rows):
        assert row.other_sets == {"test": {name: getattr(expected, name) for name in SET_METRICS}}
        assert row.measured_on == "validation" and row.train_loss == expected.train_loss
        assert row.on("test").top1 == expected.top1
    settings = trial.setup.solver
    assert (settings["select"], settings["report"]) == ("validation", "test")
    assert settings["test_iter"] == [4, 1] and settings["test_batch_size"] == 100
    assert trial.setup.dataset == alone.setup.dataset
    by_validation = max(trial.rows, key=lambda row: row.top1)
    assert trial.best == by_validation != trial.rows[0]
    assert trial.summary.top1 == by_validation.other_sets["test"]["top1"]
    assert trial.summary.iterations == by_validation.iteration
    # The same metrics as those of a training whose test set is the validation set.
    text = text.replace(digits + "/digits_test_lmdb", validation)
    text = text.replace("batch_size: 100", "batch_size: 60")
    other = nets.write(tmp_path, nets.solver(max_iter=40, test_interval=10, test_iter=1), text)
    expected = train(other, "FIX(k0=0.02)")
    for row, single in zip(trial.rows, expected.rows):
        for name in SET_METRICS:
            assert getattr(row, name) == getattr(single, name), name
    assert alone.setup.solver.get("select") is None and alone.rows[0].measured_on == "test"


def test_the_validation_set_ends_a_training_and_the_user_may_choose_the_test_set(
    tmp_path, digits, dsn, validation
):
    path = nets.write(tmp_path, SIX, net_on(digits))
    by_validation = train(path, validation=validation, until_top1=0.0, data=digits)
    assert [row.measured_on for row in by_validation.rows] == ["validation"]
    by_test = train(path, validation=validation, select="test", max_iter=1)
    row = by_test.rows[-1]
    assert row.measured_on == "test" and set(row.other_sets) == {"validation"}
    assert "select" not in by_test.setup.solver


def test_plateau_follows_the_validation_set_also_in_a_resumed_training(
    tmp_path, digits, dsn, validation
):
    policy = Policy.parse("PLATEAU(k0=0.02, gamma=0.5, l=2, of=top1)")
    path = nets.write(tmp_path, nets.solver(max_iter=4, test_interval=1), net_on(digits))
    options = {"policy": policy, "validation": validation}
    first = train(path, max_iter=2, snapshot_prefix=str(tmp_path / "ours"), **options)
    resumed = train(path, resume=str(tmp_path / "ours_iter_2.solverstate"), **options)
    memory = None
    for row in (*first.rows[:2], *resumed.rows):
        memory = policy.observe(memory, row)
        assert row.lr == pytest.approx(policy.schedule(memory)(row.iteration))
        assert row.measured_on == "validation" and set(row.other_sets) == {"test"}
    assert (resumed.rows[0].iteration, resumed.rows[0].top1) == (2, first.rows[-1].top1)
    assert resumed.rows[0].other_sets["test"]["top1"] == first.rows[-1].other_sets["test"]["top1"]


@pytest.mark.parametrize("form", ["net_param", "train_net and test_net", "test_state"])
def test_a_validation_net_is_added_to_every_form_of_a_solver(
    form, tmp_path, digits, dsn, validation
):
    text = net_on(digits)
    if form == "net_param":
        solver = SIX.replace('net: "net.prototxt"', "net_param { %s }" % text)
    elif form == "test_state":
        text = text.replace("include { phase: TEST }", 'include { phase: TEST stage: "a" }')
        solver = SIX + 'test_state { stage: "a" }'
    else:
        solver = SIX.replace("net:", "train_net:") + 'test_net: "net.prototxt"'
    trial = train(nets.write(tmp_path, solver, text), max_iter=1, validation=validation)
    assert trial.rows[-1].measured_on == "validation"
    assert trial.rows[-1].other_sets["test"]["top1"] is not None
    assert trial.setup.solver["test_iter"] == [4, 1]


def problem(path, **options):
    with pytest.raises(InputError) as error:
        describe(Job(path, **options))
    return str(error.value)


def test_a_validation_set_that_cannot_be_used_is_a_sentence(tmp_path, digits, validation):
    path = nets.write(tmp_path, SIX, net_on(digits))
    missing = str(tmp_path / "nothing")
    assert "the validation set, %s, was not found" % missing in problem(path, validation=missing)
    for kind in ("train", "test"):
        same = os.path.join(digits, "digits_%s_lmdb" % kind)
        assert "is the %s set of the solver" % kind in problem(path, validation=same)
    # A link and a name below --data are the same set, too.
    os.symlink(same, str(tmp_path / "link"))
    assert "is the test set" in problem(path, validation=str(tmp_path / "link"))
    assert "is the test set" in problem(path, validation="digits_test_lmdb", data=digits)
    large = write_lmdb(tmp_path / "large", samples=3, shape=(9, 8))
    assert "have the shape 1x9x8, but those of the test set" in problem(path, validation=large)
    many = write_lmdb(tmp_path / "many", samples=24, classes=12)
    assert "the labels in %s range from 0 to 11" % many in problem(path, validation=many)
    assert "is not an LMDB" in problem(path, validation=str(tmp_path))
    assert "did you mean validation?" in problem(path, validation=validation, select="validaton")
    solver = SIX + 'test_iter: 1 test_state { } test_state { stage: "validation" }'
    path = nets.write(tmp_path, solver, net_on(digits))
    assert "already: choose by it with --select" in problem(path, validation=validation)
    path = nets.write(tmp_path, SIX.replace("test_iter: 4", ""), net_on(digits))
    assert "has no test net, which --validation would copy" in problem(path, validation=validation)
    second = nets.DATA.format(name="more", phase="TEST", source=same, batch=100)
    second = second.replace('top: "data" top: "label"', 'top: "more" top: "other"')
    path = nets.write(tmp_path, SIX, second + net_on(digits))
    assert "its samples from 'more' (Data), 'test' (Data): add" in problem(
        path, validation=validation
    )


@pytest.mark.parametrize("command", ["train", "range --out x.png", "recommend --solver"])
def test_commands_take_the_sets_by_name(command, tmp_path, digits, validation, invoke, monkeypatch):
    monkeypatch.chdir(str(tmp_path))
    path = nets.write(tmp_path, SIX, net_on(digits))
    options = ("--validation", validation, "--select", "validaton", "--test-net", "test")
    done = invoke(*command.split(), path, *options)
    assert done.returncode == 2
    message = "--select: the solver does not have a test net 'validaton': did you mean validation?"
    assert done.stderr.strip().endswith(message)


def test_batches_that_are_much_smaller_are_mentioned(tmp_path, digits, dsn):
    prime = write_lmdb(tmp_path / "prime", samples=53)
    path = nets.write(tmp_path, SIX, net_on(digits, test_batch=50).replace("test_iter: 4", ""))
    notes = []
    trial = train(
        path,
        validation=prime,
        max_iter=1,
        on_event=lambda kind, content: notes.append(content) if kind == "note" else None,
    )
    assert trial.setup.solver["test_iter"] == [4, 53]
    assert any("the validation set is measured in batches of 1," in note for note in notes)
    assert trial.rows[-1].top1 * 53 == pytest.approx(round(trial.rows[-1].top1 * 53))


def test_lists_of_hdf5_files_and_of_images_are_validation_sets(tmp_path, digits, dsn):
    import h5py
    from PIL import Image

    random = np.random.RandomState(0)
    for name, count in (("train", 20), ("test", 10), ("more", 6)):
        with h5py.File(str(tmp_path / (name + ".h5")), "w") as file:
            file["data"] = random.rand(count, 1, 8, 8)
            file["label"] = random.randint(0, 10, count)
    for name, files in (("train", "train"), ("test", "test"), ("validation", "test more")):
        text = "\n".join(str(tmp_path / (file + ".h5")) for file in files.split())
        (tmp_path / (name + ".txt")).write_text(text)
    data = "".join(
        'layer { name: "%s" type: "HDF5Data" top: "data" top: "label" include { phase: %s } '
        'hdf5_data_param { source: "%s.txt" batch_size: 10 } }\n' % (name, name.upper(), name)
        for name in ("train", "test")
    )
    body = nets.BODY.format(classes=10) + nets.ACCURACY + nets.LOSS
    path = nets.write(tmp_path, SIX.replace("test_iter: 4", "test_iter: 1"), data + body)
    trial = train(path, max_iter=1, validation=str(tmp_path / "validation.txt"))
    assert trial.setup.solver["test_iter"] == [1, 2]
    assert (trial.rows[-1].top1 * 16) % 1 == 0
    (tmp_path / "validation.txt").write_text(str(tmp_path / "validation.txt"))
    assert "no readable samples 'data'" in problem(
        path, validation=str(tmp_path / "validation.txt")
    )
    for n in range(6):
        Image.fromarray(np.full((8, 8), 40 * n, np.uint8)).save(str(tmp_path / ("%d.png" % n)))
    for name, numbers in (("train", "012345"), ("test", "01"), ("validation", "345")):
        lines = ("%s.png %s\n" % (number, number) for number in numbers)
        (tmp_path / (name + ".txt")).write_text("".join(lines))
    images = data.replace("HDF5Data", "ImageData").replace(
        "hdf5_data_param {", "image_data_param { is_color: false"
    )
    images = images.replace("batch_size: 10", "batch_size: 2")
    path = nets.write(tmp_path, SIX.replace("test_iter: 4", "test_iter: 1"), images + body)
    trial = train(path, max_iter=1, validation=str(tmp_path / "validation.txt"))
    assert trial.setup.solver["test_iter"] == [1, 3]
    assert trial.rows[-1].measured_on == "validation"


def test_a_net_without_labels_is_measured_as_far_as_possible(tmp_path, digits, dsn):
    """Of three test nets, the second has a loss only, and the third other scores than the training.

    A loss of the training's scores would be computed on it.
    """
    states = "".join('test_state { stage: "%s" } ' % name for name in ("test", "energy", "bare"))
    energy = 'include { phase: TEST stage: "energy" } '
    head = "".join(
        text.replace("include { phase: TEST }", "").replace(
            'type: "%s"' % kind,
            'type: "%s" include { phase: TRAIN } include { stage: "test" }' % kind,
        )
        for text, kind in ((nets.ACCURACY, "Accuracy"), (nets.LOSS, "SoftmaxWithLoss"))
    )
    head += 'layer { name: "e" type: "Reduction" bottom: "ip" top: "e" loss_weight: 1 %s' % energy
    head += "reduction_param { operation: MEAN } }\n"
    path = nets.write(
        tmp_path,
        SIX + "test_iter: 1 test_iter: 1 " + states,
        net_on(
            digits,
            body="",
            head=scores("ip").replace("inner_product", 'exclude { stage: "bare" } inner_product', 1)
            + scores("other").replace("inner_product", 'include { stage: "bare" } inner_product', 1)
            + head,
        ),
    )
    notes = []
    trial = train(
        path,
        max_iter=2,
        on_event=lambda kind, content: notes.append(content) if kind == "note" else None,
    )
    for row in trial.rows:
        assert row.measured_on == "test" and row.top1 is not None
        assert set(row.other_sets) == {"energy"}
        energy = row.other_sets["energy"]
        assert energy["test_loss"] is not None and energy["top1"] is None
    assert any(note.startswith("the set bare is not measured: ") for note in notes)
    assert "is not a classifier" in problem(path, select="bare")


def test_every_set_has_the_head_of_the_deciding_set(tmp_path, digits, dsn, validation):
    """Labels of the other head are not classes there; the training continues."""
    head = "".join(scores(name) + accuracy("top_" + name, name) for name in ("a", "b"))
    head += loss("SoftmaxWithLoss", "a") + loss("SoftmaxWithLoss", "b")
    path = nets.write(tmp_path, SIX, net_on(digits, body="", head=head))
    trial = train(path, validation=validation, head="b", max_iter=2)
    assert list(trial.rows[-1].heads) == ["a"] and trial.setup.solver["head"] == "b"
    alone = train(path, head="b", max_iter=2)
    assert trial.rows[-1].other_sets["test"]["top1"] == alone.rows[-1].top1


def test_a_set_beside_the_deciding_one_whose_labels_are_no_classes_is_left_out(
    tmp_path, digits, dsn
):
    many = write_lmdb(tmp_path / "many", samples=24, classes=12)
    text = net_on(digits).replace("phase: TEST }", 'phase: TEST stage: "test" }', 1)
    more = nets.DATA.format(name="more", phase="TEST", source=many, batch=24)
    data, rest = text.split('layer { name: "conv1"', 1)
    text = data + more.replace("phase: TEST", 'phase: TEST stage: "more"')
    text += 'layer { name: "conv1"' + rest.replace(nets.LOSS, nets.LOSS.replace(
        'type: "SoftmaxWithLoss"', 'type: "SoftmaxWithLoss" include { phase: TRAIN }'
    ))  # fmt: skip
    solver = SIX + 'test_iter: 1 test_state { stage: "test" } test_state { stage: "more" }'
    notes = []
    trial = train(
        nets.write(tmp_path, solver, text),
        on_event=lambda kind, content: notes.append(content) if kind == "note" else None,
    )
    assert trial.state == "finished" and trial.rows[-1].top1 is not None
    assert trial.rows[-1].other_sets["more"]["top1"] is None
    assert sum(note.startswith("the set more: the head ip") for note in notes) == 1


def test_a_job_keeps_its_sets_on_its_way_to_a_worker():
    for test_net in (1, "validation"):
        job = Job("x", test_net=test_net, select="test", validation="/data/v")
        assert from_dict(Job, json.loads(json.dumps(to_dict(job)))) == job
