"""What counts as the same training: results are compared, pooled or reused only if it is."""

import dataclasses
import os

import nets
import pytest
from conftest import needs_caffe
from trials import record
from trials import trial as made_up

from lrbench_caffe import InputError, ranking, train
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
    assert recorded("") == {}
    assert recorded("scale: 1 mirror: false crop_size: 0") == {}, "these are Caffe's defaults"
    assert recorded("crop_size: 6 mean_value: 3", "mirror: true crop_size: 6 mean_value: 3") == {
        "mirror": True,
        "crop_size": 6,
        "mean_value": [3.0],
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
def test_stages_and_levels_of_the_train_net_are_recorded(tmp_path, digits):
    path = nets.write(tmp_path)
    job = Job(path, data=digits)
    plain = process.describe(job).setup.solver
    other = process.describe(dataclasses.replace(job, stages=("extra",), level=2)).setup.solver
    assert (other["stages"], other["level"]) == (["extra"], 2)
    assert "stages" not in plain and "level" not in plain


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
    plain = made_up(FIX)
    record(store, plain, made_up(FIX, seed=2))
    same = recommendation.query_from_setup(plain.setup)
    assert recommendation.recommend(store, same).same
    other = dict(plain.setup.solver, **{name: CONDITIONS[name]})
    found = recommendation.recommend(store, same._replace(solver=other))
    assert not found.same and not found.has_enough_evidence
    (reason,) = (c.description for c in found.tasks[0].comparisons if c.feature == "beginning")
    assert "random initial weights and the input as it is, yours has" in reason


def test_the_differences_of_two_setups_are_named():
    now = made_up(FIX, solver={"max_iter": 100, "momentum": 0.5, "scale": 0.5}).setup
    before = made_up(FIX, solver={"max_iter": 50, "momentum": 0.9}).setup
    assert versions.differences(before, now, ignored=["max_iter"]) == [
        "momentum=0.5 now, and momentum=0.9 before",
        "scale=0.5 now, and not set before",
    ]
    other = dataclasses.replace(before, dataset=Dataset("other", None, None, None))
    assert versions.differences(other, before)[0].startswith("its dataset is ")
    assert versions.differences(before, before) == []


@needs_caffe
@pytest.mark.parametrize(
    "solver, net, difference",
    [
        ({}, nets.net().replace("num_output: 8", "num_output: 7"), "its net has other layers"),
        ({}, transformed(""), "not set now, and scale=0.00390625 before"),
        ({"base_lr": 0.02}, nets.net(), "its schedule is FIX(k0=0.02), and was FIX(k0=0.01)"),
        ({"more": "momentum: 0.5"}, nets.net(), "momentum=0.5 now, and momentum=0.9 before"),
        ({"max_iter": 8}, nets.net(), "max_iter=8 now, and max_iter=4 before"),
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
    assert "give another name to a new study" in " ".join(done.stderr.split())
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
        ({"max_iter": 0}, "has no max_iter: give it one, or use --max-iter"),
    ],
)
def test_what_cannot_begin_has_a_message_before_it_begins(tmp_path, digits, option, message):
    with pytest.raises(InputError, match=message):
        process.describe(Job(nets.write(tmp_path), data=digits, **option))
