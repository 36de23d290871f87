"""What counts as the same training: results are compared, pooled or reused only if it is."""

import dataclasses
import os

import nets
import pytest
from conftest import needs_caffe
from trials import record
from trials import trial as made_up

from lrbench_caffe import InputError, ranking, train
from lrbench_caffe.database import validation
from lrbench_caffe.evaluator import recommendation
from lrbench_caffe.study import process, versions
from lrbench_caffe.trial import Dataset, Job

FIX = "FIX(k0=0.01)"


def settings(folder, net=None, digits=None, **solver):
    """The solver settings of the trial that a net and a solver would begin."""
    path = nets.write(folder, nets.solver(**solver), net)
    return process.describe(Job(path, data=digits)).setup.solver


def transformed(transform, train=None):
    """The small net whose data layers have this transform_param, that of the training another."""
    head, *rest = nets.net().split("scale: 0.00390625")
    assert len(rest) == 2
    return head + (transform if train is None else train) + rest[0] + transform + rest[1]


@needs_caffe
def test_what_the_data_layers_do_with_the_samples_is_recorded(tmp_path, digits):
    def recorded(*arguments):
        names = ("scale", "mirror", "crop_size", "mean_value", "test_mirror", "test_scale")
        found = settings(tmp_path, transformed(*arguments), digits)
        return {name: found[name] for name in names if name in found}

    assert recorded("scale: 0.00390625") == {"scale": 0.00390625}
    assert recorded("") == {"scale": 1.0}
    defaults = "scale: 1 mirror: false crop_size: 0"
    assert recorded(defaults) == {"scale": 1.0}, "these are Caffe's defaults"
    samples = "crop_size: 6 mean_value: 0.1"
    assert recorded(samples, "mirror: true " + samples) == {
        "scale": 1.0,
        "mirror": True,
        "crop_size": 6,
        "mean_value": [0.1],
        "test_mirror": None,
    }
    assert recorded("scale: 0.5", "scale: 0.25") == {"scale": 0.25, "test_scale": 0.5}


@needs_caffe
def test_a_default_that_is_written_out_is_the_same_training(tmp_path, digits):
    defaults = (
        'type: "SGD" iter_size: 1 regularization_type: "L2" clip_gradients: -1 momentum2: 0.999 '
        "rms_decay: 0.99 snapshot_diff: false test_compute_loss: true"
    )
    plain, written = (settings(tmp_path, None, digits, more=more) for more in ("", defaults))
    assert plain == written


@needs_caffe
def test_initial_weights_are_recorded_by_name_and_content(tmp_path, digits, dsn):
    def weights(seed):
        path = nets.write(tmp_path, nets.solver(max_iter=1))
        train(path, FIX, data=digits, seed=seed, snapshot_prefix=str(tmp_path / "before"))
        job = Job(path, data=digits, weights=str(tmp_path / "before_iter_1.caffemodel"))
        from_option = process.describe(job).setup.solver["weights"]
        text = nets.solver(more='weights: "before_iter_1.caffemodel"')
        job = Job(nets.write(tmp_path, text), data=digits)
        assert process.describe(job).setup.solver["weights"] == from_option
        return from_option

    (first,), (second,) = weights(1), weights(2)
    assert first.startswith("before_iter_1.caffemodel@") and first != second
    assert "weights" not in settings(tmp_path, None, digits)


@needs_caffe
def test_layers_without_initial_weights_are_noted(tmp_path, digits, dsn):
    path = nets.write(tmp_path, nets.solver(max_iter=1))
    train(path, FIX, data=digits, snapshot_prefix=str(tmp_path / "before"))

    def note(**names):
        text, notes = nets.net(), []
        for old, new in names.items():
            text = text.replace('name: "%s"' % old, 'name: "%s"' % new)
        train(
            nets.write(tmp_path, nets.solver(max_iter=1), text),
            FIX,
            data=digits,
            weights=str(tmp_path / "before_iter_1.caffemodel"),
            on_event=lambda kind, content: notes.append(content) if kind == "note" else None,
        )
        return " ".join(note for note in notes if "weights" in note)

    assert note() == ""
    assert note(ip="ip10").endswith("some layers, which begin with random ones: ip10")
    assert "the training begins with random weights" in note(ip="ip10", conv1="conv")


@needs_caffe
def test_stages_and_levels_of_the_train_net_are_recorded(tmp_path, digits):
    path = nets.write(tmp_path)
    job = Job(path, data=digits)
    plain = process.describe(job).setup.solver
    other = process.describe(
        dataclasses.replace(job, stages=("more", "extra"), level=2)
    ).setup.solver
    assert (other["stages"], other["level"]) == (["extra", "more"], 2), "in any order"
    assert "stages" not in plain and "level" not in plain


@needs_caffe
def test_fields_that_caffe_ignores_are_not_recorded(tmp_path, digits):
    net = nets.net().replace("data_param {", "data_param { scale: 0.5 mirror: true ")
    found = settings(tmp_path, net, digits)
    assert found["scale"] == 0.00390625 and "mirror" not in found


@needs_caffe
def test_each_data_layer_counts(tmp_path, digits):
    """Some nets read images and labels, or two kinds of images, from two LMDBs."""
    second = """
        layer { name: "more" type: "Data" top: "more" transform_param { scale: 0.5 }
            data_param { source: "digits_train_lmdb" batch_size: 8 backend: LMDB } }
        layer { name: "unused" type: "Silence" bottom: "more" }
    """
    first, other = (
        settings(tmp_path, nets.net() + text, digits)
        for text in (second, second.replace("0.5", "0.25"))
    )
    assert first == dict(other, scale_2=0.5) and other["scale_2"] == 0.25
    assert other["scale"] == 0.00390625 and ranking.is_input_setting("scale_2")


@needs_caffe
@pytest.mark.parametrize("weights, message", [("", "has an empty name"), ("data", "Is a direct")])
def test_initial_weights_that_are_no_file_are_an_input_error(
    tmp_path, digits, monkeypatch, weights, message
):
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        process.describe(Job(nets.write(tmp_path), data=digits, weights=weights))


@needs_caffe
def test_mean_files_are_recorded_by_name_and_content(tmp_path, digits):
    mean = os.path.join(digits, "digits_mean.binaryproto")
    net = transformed('scale: 0.00390625 mean_file: "%s"' % mean)
    name = settings(tmp_path, net, digits)["mean_file"]
    assert name.startswith("digits_mean.binaryproto@") and len(name.partition("@")[2]) == 8


@pytest.mark.parametrize("setting", ["weights", "mean_file"])
def test_a_file_with_another_name_and_the_same_content_is_the_same(setting):
    def block(name):
        value = [name] if setting == "weights" else name
        return made_up(FIX, solver={"max_iter": 10, "scale": 1.0, setting: value})

    trials = [block("a@92be1178"), block("b@92be1178"), block("a@00be1178")]
    assert [len(found.trials) for found in ranking.group_comparable(trials)] == [2, 1]


def test_a_default_that_an_earlier_version_recorded_counts_as_none():
    now = {"max_iter": 10, "scale": 1.0}
    before = dict(now, type="SGD", iter_size=1)
    trials = [made_up(FIX, solver=solver) for solver in (before, now)]
    assert len(ranking.group_comparable(trials)) == 1


CONDITIONS = {"scale": 0.00390625, "weights": ["a.caffemodel@92be1178"], "stages": ["extra"]}


@pytest.mark.parametrize("name", sorted(CONDITIONS))
def test_other_conditions_have_a_table_of_their_own(name):
    plain = made_up(FIX)
    other = dataclasses.replace(
        made_up(FIX, seed=2),
        setup=dataclasses.replace(
            plain.setup, solver=dict(plain.setup.solver, **{name: CONDITIONS[name]}), seed=2
        ),
    )
    blocks = ranking.group_comparable([plain, other])
    assert len(blocks) == 2 and any(name + "=" in block.title for block in blocks)


@pytest.mark.parametrize("name", ["scale", "weights"])
def test_results_with_other_weights_or_another_scale_are_of_a_similar_task(store, name):
    solver = {"max_iter": 100, "scale": 1.0}
    plain = made_up(FIX, solver=solver)
    record(store, plain, made_up(FIX, seed=2, solver=solver))
    same = recommendation.query_from_setup(plain.setup)
    assert recommendation.recommend(store, same).same
    other = dict(solver, **{name: CONDITIONS[name]})
    found = recommendation.recommend(store, same._replace(solver=other))
    assert not found.same and not found.has_enough_evidence
    (reason,) = (c.description for c in found.tasks[0].comparisons if c.feature == "beginning")
    before = {"scale": "the input as it is", "weights": "random initial weights"}[name]
    assert reason.startswith(before + ", yours has ")
    early = {"max_iter": 100}  # of an earlier version, which did not record them
    assert recommendation.recommend(store, same._replace(solver=early)).same


def test_results_of_both_kinds_of_weights_help_each_kind(store):
    """Trainings from the weights of another training usually have the best Top-1."""
    solver = {"max_iter": 100, "scale": 1.0}
    tuned = dict(solver, weights=["a.caffemodel@92be1178"])
    rates = {0.1: 0.8, 0.05: 0.75, 0.2: 0.7}
    small = {0.001: 0.95, 0.002: 0.93, 0.0001: 0.92}
    for own, top1s in ((solver, rates), (tuned, small)):
        for k0, top1 in top1s.items():
            for seed in (1, 2):
                record(store, made_up("FIX(k0=%s)" % k0, (top1,), seed=seed, solver=own))
    for own, best in ((solver, 0.1), (tuned, 0.001)):
        query = recommendation.query_from_setup(made_up(FIX, solver=own).setup)
        found = recommendation.recommend(store, query)
        assert found.same and found.has_enough_evidence
        assert found.tasks[0].policies[0].policy == "FIX(k0=%s)" % best
        assert found.tasks[0].good.best == best


def test_few_policies_are_found_among_many_of_other_weights(store):
    solver = {"max_iter": 100, "scale": 1.0}
    tuned = dict(solver, weights=["a.caffemodel@92be1178"])
    many = [made_up("FIX(k0=%r)" % (n / 1e6), (0.9,), solver=tuned) for n in range(1, 30)]
    own = [made_up("FIX(k0=%s)" % k0, (0.5,), solver=solver) for k0 in (0.1, 0.2, 0.3)]
    record(store, *many, *own)
    query = recommendation.query_from_setup(own[0].setup)
    found = recommendation.recommend(store, query, limit=5)
    assert {entry.policy for entry in found.tasks[0].policies} == {trial.policy for trial in own}
    assert found.tasks[0].good.low == 0.1


def test_results_of_earlier_versions_do_not_stand_for_other_weights(store):
    solver = {"max_iter": 100, "scale": 1.0}
    tuned = dict(solver, weights=["a.caffemodel@92be1178"])
    for own, k0, top1 in (({"max_iter": 100}, 0.1, 0.97), (tuned, 0.001, 0.98), (solver, 0.1, 0.8)):
        for factor in (1, 2, 4):
            policy = "FIX(k0=%r)" % (k0 * factor)
            record(store, *(made_up(policy, (top1,), seed=seed, solver=own) for seed in (1, 2)))
    found = recommendation.recommend(
        store, recommendation.query_from_setup(made_up(FIX, solver=solver).setup)
    )
    policies = [entry.policy for entry in found.tasks[0].policies]
    assert found.same and policies[0] == "FIX(k0=0.1)" and "FIX(k0=0.001)" not in policies
    assert found.tasks[0].good.low == 0.1
    found = recommendation.recommend(
        store, recommendation.query_from_setup(made_up(FIX, solver=tuned).setup)
    )
    assert found.tasks[0].good.low == 0.001, "they do not help with initial weights either"


def test_the_differences_of_two_setups_are_named():
    now = made_up(FIX, solver={"max_iter": 100, "momentum": 0.5, "scale": 0.5}).setup
    before = made_up(FIX, solver={"max_iter": 50, "momentum": 0.9, "scale": 1.0}).setup
    assert versions.differences(before, now, ignored=["max_iter"]) == [
        "momentum is 0.5, and was 0.9",
        "scale is 0.5, and was 1.0",
    ]
    files = [
        made_up(FIX, solver={"scale": 1.0, "mean_file": name}).setup for name in ("a@1", "b@2")
    ]
    assert versions.differences(*files) == ["mean_file is b@2, and was a@1"]
    early = made_up(FIX, solver={"max_iter": 100, "momentum": 0.5, "type": "SGD"}).setup
    assert versions.differences(early, now) == [], "an earlier version did not record the scale"
    other = dataclasses.replace(before, dataset=Dataset("other", None, None, None))
    assert versions.differences(other, before)[0].startswith("its dataset is ")
    assert versions.differences(before, before) == []


@needs_caffe
@pytest.mark.parametrize(
    "solver, net, difference",
    [
        ({}, nets.net().replace("num_output: 8", "num_output: 7"), "its net has other layers"),
        ({}, transformed(""), "scale is 1.0, and was 0.00390625"),
        ({"base_lr": 0.02}, nets.net(), "its schedule is FIX(k0=0.02), and was FIX(k0=0.01)"),
        ({"more": "momentum: 0.5"}, nets.net(), "momentum is 0.5, and was 0.9"),
        ({"max_iter": 8}, nets.net(), "max_iter is 8, and was 4"),
    ],
)
def test_a_study_whose_solver_or_net_has_changed_is_refused(
    tmp_path, digits, name, invoke, trials, solver, net, difference
):
    """Otherwise it would print the results of what was trained before."""
    options = dict(max_iter=4, test_interval=4, test_iter=1)
    command = ["study", "run", name, nets.write(tmp_path, nets.solver(**options))]
    command += ["--data", digits]
    assert invoke(*command).returncode == 0
    text = nets.solver(**dict(options, **solver))
    if "momentum" in solver.get("more", ""):
        text = text.replace("momentum: 0.9 ", "")
    nets.write(tmp_path, text, net)
    done = invoke(*command)
    assert done.returncode == 2 and difference in " ".join(done.stderr.split())
    assert "give a new study another name" in " ".join(done.stderr.split())
    nets.write(tmp_path, nets.solver(**options, more="display: 1"))
    assert invoke(*command).returncode == 0, "what changes nothing does not count"
    assert len(trials(name)) == 1


@needs_caffe
def test_a_study_whose_solver_is_gone_keeps_its_results(tmp_path, digits, name, invoke, trials):
    solver = nets.write(tmp_path, nets.solver(max_iter=4, test_interval=4, test_iter=1))
    assert invoke("study", "run", name, solver, "--data", digits).returncode == 0
    os.remove(solver)
    assert invoke("study", "run", name).returncode == 0
    assert [trial.state for trial in trials(name)] == ["finished"]


@needs_caffe
def test_a_net_that_caffe_would_read_from_elsewhere_is_noted(tmp_path, digits, lrbench):
    (tmp_path / "sub").mkdir()
    solver = nets.write(tmp_path / "sub", nets.solver(max_iter=4, test_interval=4, test_iter=1))
    command = ["train", os.path.relpath(solver, str(tmp_path)), "--data", digits, "--no-model"]
    options = {"cwd": str(tmp_path)}
    assert "caffe train" not in lrbench(*command, **options).stderr
    (tmp_path / "net.prototxt").write_text(nets.net(classes=11))
    done = lrbench(*command, **options)
    assert "`caffe train` would read another file here" in " ".join(done.stderr.split())


@needs_caffe
def test_a_snapshot_that_continues_under_a_named_policy_is_noted(tmp_path, digits, dsn):
    path, notes = nets.write(tmp_path, nets.solver(max_iter=4, test_interval=4)), []
    options = dict(data=digits, snapshot_prefix=str(tmp_path / "a"))
    train(path, FIX, **options)
    snapshot = str(tmp_path / "a_iter_4.solverstate")

    def on_event(kind, content):
        notes.append(content) if kind == "note" else None

    train(path, max_iter=8, resume=snapshot, on_event=on_event, **options)
    assert not any("continues" in note for note in notes)
    train(path, "FIX(k0=0.1)", max_iter=8, resume=snapshot, on_event=on_event, **options)
    (note,) = (note for note in notes if "continues" in note)
    assert "iteration 4, and is recorded as one under FIX(k0=0.1)" in note


def test_an_unknown_option_of_train_is_named():
    with pytest.raises(TypeError, match=r"train\(\) got an unexpected keyword argument 'polcy'"):
        train("solver.prototxt", polcy=FIX)


@needs_caffe
@pytest.mark.parametrize(
    "option, message",
    [
        ({"weights": "a.solverstate"}, "a.solverstate is not a file of weights: .* --resume"),
        ({"weights": "net.prototxt"}, "net.prototxt is not a file of weights: give the path of"),
        ({"max_iter": 0}, "has no max_iter: give it one, the number of iterations"),
    ],
)
def test_what_cannot_begin_has_a_message_before_it_begins(tmp_path, digits, option, message):
    with pytest.raises(InputError, match=message):
        process.describe(Job(nets.write(tmp_path), data=digits, **option))


@needs_caffe
@pytest.mark.parametrize(
    "options, message",
    [
        (["--policy", FIX, "--policy", "PLATEAU(k0=0.01, gamma=0.5, l=2)"], "no test net"),
        (
            ["--policy", FIX, "--policy", "POLY(k0=0.01, p=1.0, l=2)"],
            "has no rate after iteration 2",
        ),
        (["--policy", FIX, "--gpu", "99"], "GPU 99 cannot be used"),
    ],
)
def test_a_study_does_not_record_what_can_never_begin(
    tmp_path, digits, name, invoke, trials, options, message
):
    text = nets.solver(max_iter=4).replace("test_iter", "#").replace("test_interval", "#")
    solver = nets.write(tmp_path, text)
    done = invoke("study", "run", name, solver, "--data", digits, *options)
    assert done.returncode == 2 and message in done.stderr and "tries again" not in done.stderr
    assert name not in invoke("study", "list").stdout


@needs_caffe
def test_a_study_whose_trials_were_deleted_trains_them_again(
    tmp_path, digits, name, invoke, trials
):
    solver = nets.write(tmp_path, nets.solver(max_iter=4, test_interval=4, test_iter=1))
    command = ["study", "run", name, solver, "--data", digits]
    assert invoke(*command).returncode == 0
    assert invoke("db", "delete", "--study", name, "--yes").returncode == 0
    assert not trials(name)
    assert invoke(*command).returncode == 0 and len(trials(name)) == 1


@needs_caffe
@pytest.mark.parametrize("evaluation", ["study", "range"])
def test_a_study_whose_trials_failed_takes_the_corrected_net(
    tmp_path, digits, name, invoke, trials, evaluation
):
    """The trials are then of the corrected net, also in the database."""
    options = dict(max_iter=4, test_interval=4, test_iter=1)
    broken = nets.net().replace("kernel_size: 3", "kernel_size: 30")
    solver = nets.write(tmp_path, nets.solver(**options), broken)
    command = ["range", solver, "--study", name, "--data", digits]
    if evaluation == "study":
        command = ["study", "run", name, solver, "--data", digits, "--retry-failed"]
    assert invoke(*command).returncode == 1
    assert {trial.state for trial in trials(name)} == {"failed"}
    nets.write(tmp_path, nets.solver(**options))
    assert invoke(*command).returncode == 0
    hashes = {trial.setup.network.hash for trial in trials(name)}
    assert hashes == {process.describe(Job(solver, data=digits)).setup.network.hash}


def test_what_an_import_says_about_weights_and_scale_is_checked():
    for name, value in (("weights", 5), ("weights", [1]), ("weights", [None]), ("scale", "1")):
        with pytest.raises(validation.InvalidLine, match="invalid %s=" % name):
            validation._check_solver({name: value})


@needs_caffe
def test_a_training_that_cannot_resume_is_an_error(tmp_path, digits, name, invoke, database, store):
    solver = nets.write(tmp_path, nets.solver(max_iter=4, test_interval=4, test_iter=1))
    arguments = ["--data", digits, "--dsn", database]
    assert invoke("study", "run", name, solver, *arguments).returncode == 0
    store.transaction(lambda cursor: cursor.execute("UPDATE trial SET state = 'interrupted'"))
    os.remove(solver)
    done = invoke("study", "run", name, "--dsn", database)
    assert done.returncode == 1 and "1 of 1 trainings could not resume" in done.stderr


@needs_caffe
def test_two_evaluations_of_one_net_may_share_a_study(tmp_path, digits, name, invoke, trials):
    """The default name of a study names the net and the data, but not the solver."""
    command = ["--study", name, "--data", digits, "--max-iter", "4"]
    counts = []
    for momentum in ("0.9", "0.5"):
        solver = tmp_path / ("%s.prototxt" % momentum)
        text = nets.solver(max_iter=8, test_interval=2, test_iter=1)
        nets.write(tmp_path)
        solver.write_text(text.replace("momentum: 0.9", "momentum: " + momentum))
        done = invoke("range", str(solver), *command)
        assert done.returncode == 0, done.stderr
        counts.append(len(trials(name)))
    assert counts[0] < counts[1]


@needs_caffe
def test_layers_that_share_weights_and_hdf5_files_are_not_noted(tmp_path):
    from caffe.proto import caffe_pb2
    from google.protobuf import text_format

    from lrbench_caffe.training.inputs import weights_note

    file = tmp_path / "a.caffemodel"
    before = caffe_pb2.NetParameter()
    before.layer.add(name="conv1").blobs.add(data=[1.0])
    file.write_bytes(before.SerializeToString())
    param = caffe_pb2.SolverParameter(weights=[str(file)])
    text_format.Parse(
        'layer { name: "conv1" param { name: "w" } } layer { name: "twin" param { name: "w" } }',
        param.train_net_param,
    )
    assert weights_note(param, ["conv1", "twin"]) is None
    assert "begin with random ones: other" in weights_note(param, ["conv1", "other"])
    file.write_bytes(b"\x89HDF\r\n\x1a\n")
    assert weights_note(param, ["other"]) is None
