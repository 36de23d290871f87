"""The models that trainings keep, and the nets that classify with them."""

import dataclasses
import hashlib
import json
import os
import signal

import nets
import numpy as np
import pytest
from conftest import needs_caffe, new_database_on
from gate import Gate
from studies import DIGITS, POLICIES, held_rows, start
from test_tune import FULL, Simulated
from trials import record
from trials import trial as made_up
from waiting import LIMIT, wait_until

import lrbench_caffe
from lrbench_caffe import models
from lrbench_caffe.errors import InputError
from lrbench_caffe.study import transfer
from lrbench_caffe.study import worker as workers
from lrbench_caffe.study.kept import BestOfPolicies
from lrbench_caffe.study.stop import Stop
from lrbench_caffe.study.trainings import Trainings
from lrbench_caffe.trial import Job

DEPLOY = {"prototxt": "layer {}", "notes": [], "problem": None}
NORM = 'layer { name: "norm" type: "BatchNorm" bottom: "conv1" top: "conv1" }\n'
DROPOUT = 'layer { name: "drop" type: "Dropout" bottom: "conv1" top: "conv1" }\n'
AUXILIARY = """layer { name: "aux" type: "InnerProduct" bottom: "conv1" top: "aux"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "aux_loss" type: "SoftmaxWithLoss" bottom: "aux" bottom: "label" top: "aux_loss"
  loss_weight: 0.3 }
layer { name: "aux_accuracy" type: "Accuracy" bottom: "aux" bottom: "label" top: "aux_accuracy" }
"""
PROBABILITIES = """layer { name: "softmax" type: "Softmax" bottom: "ip" top: "softmax" }
layer { name: "loss" type: "MultinomialLogisticLoss" bottom: "softmax" bottom: "label" top: "loss" }
"""


def with_body(layers):
    """The small net with layers after its convolution."""
    relu = 'layer {{ name: "relu1"'
    body = nets.BODY.replace(relu, layers.replace("{", "{{").replace("}", "}}") + relu)
    return nets.net(body=body)


def description(iteration, top1, **more):
    """What is recorded beside a made-up model."""
    return {
        "trial": "1",
        "policy": "FIX(k0=0.01)",
        "seed": 1,
        "iteration": iteration,
        "chosen": "best",
        "metrics": {"top1": top1},
        "measured_on": "test",
        **more,
    }


def put(folder, iteration, top1, content=b"weights", **more):
    folder.put(description(iteration, top1, **more), lambda file: file.write(content), DEPLOY)


def keep(trial):
    """Keep a made-up model for a made-up trial, as its training does."""
    put(
        models.ModelFolder(models.folder(trial.id)),
        trial.best.iteration,
        trial.best.top1,
        trial=trial.id,
        policy=trial.policy,
    )
    return trial


def content(path):
    with open(path, "rb") as file:
        return file.read()


def classified(folder, deploy, path, data, output=None):
    """The share of the digits' test set that a deploy net classifies as it is labelled.

    The net has a single output, or its name is given.
    """
    import caffe
    import lmdb
    from caffe.proto import caffe_pb2

    prototxt = os.path.join(str(folder), "deploy.prototxt")
    with open(prototxt, "w") as file:
        file.write(deploy)
    caffe.set_mode_cpu()
    net = caffe.Net(prototxt, path, caffe.TEST)
    right = []
    with lmdb.open(data + "/digits_test_lmdb", readonly=True, lock=False) as database:
        values = [value for _, value in database.begin().cursor()]
    for datum in map(caffe_pb2.Datum.FromString, values):
        net.blobs["data"].data[...] = caffe.io.datum_to_array(datum) * 0.00390625
        outputs = net.forward()
        scores = outputs[output] if output else next(iter(outputs.values()))
        assert output or len(outputs) == 1
        right.append(scores.argmax() == datum.label)
    assert len(right) == 400
    return np.mean(right)


@needs_caffe
@pytest.mark.parametrize(
    "net, options",
    [
        (nets.net(), {}),
        (with_body(NORM + DROPOUT), {}),
        (nets.net(head=AUXILIARY + nets.ACCURACY + nets.LOSS), {"head": "aux"}),
        (nets.net(head=PROBABILITIES), {}),
    ],
    ids=["softmax", "batch normalization", "two heads", "probabilities"],
)
def test_the_deploy_net_classifies_with_the_kept_model_as_the_best_row_says(
    net, options, tmp_path, digits, dsn
):
    path = nets.write(tmp_path, net_text=net)
    trial = lrbench_caffe.train(path, data=digits, **options)
    model = lrbench_caffe.weights(trial)
    assert (model.iteration, model.metrics["top1"]) == (trial.best.iteration, trial.best.top1)
    assert (model.trial, model.policy, model.seed) == (trial.id, trial.policy, 7)
    assert classified(tmp_path, model.deploy_net, model.path, digits) == trial.best.top1 > 0.5
    assert model.deploy_notes[:2] == (
        "input: data (1x1x8x8)",
        "preprocessing: multiply by 0.00390625",
    )


SLICED = """layer { name: "slice" type: "Slice" bottom: "ip" top: "s0" top: "s1" top: "s2" }
layer { name: "loss" type: "HingeLoss" bottom: "s1" bottom: "label" top: "loss" }
"""


@needs_caffe
def test_the_deploy_net_names_the_output_of_the_head(tmp_path, digits, dsn):
    """It is not the first one of its layer."""
    trial = lrbench_caffe.train(
        nets.write(tmp_path, net_text=nets.net(classes=30, head=SLICED)), data=digits
    )
    model = lrbench_caffe.weights(trial)
    assert (
        "output: s1, the scores of the classes, which are not probabilities" in model.deploy_notes
    )
    top1 = classified(tmp_path, model.deploy_net, model.path, digits, "s1")
    assert top1 == trial.best.top1 > 0.5


@needs_caffe
def test_the_deploy_net_has_a_batch_of_one_where_the_net_names_its_batch(tmp_path, digits, dsn):
    flat = 'layer { name: "flat" type: "Reshape" bottom: "conv1" top: "flat" '
    flat += "reshape_param { shape { dim: 50 dim: -1 } } }\n"
    ip = 'layer {{ name: "ip" type: "InnerProduct" bottom: "conv1"'
    assert ip in nets.BODY
    body = nets.BODY.replace(
        ip, flat.replace("{", "{{").replace("}", "}}") + ip.replace("conv1", "flat")
    )
    net = nets.net(test_batch=50, body=body)
    trial = lrbench_caffe.train(nets.write(tmp_path, nets.solver(test_iter=8), net), data=digits)
    model = lrbench_caffe.weights(trial)
    assert classified(tmp_path, model.deploy_net, model.path, digits) == trial.best.top1 > 0.5


@needs_caffe
def test_the_preprocessing_of_an_image_is_complete():
    from caffe.proto import caffe_pb2
    from google.protobuf import text_format

    from lrbench_caffe.training.deploy import preprocessing

    layer = caffe_pb2.LayerParameter()
    text_format.Parse(
        'type: "ImageData" '
        "transform_param { scale: 0.01 mirror: true crop_size: 4 mean_value: 0.1 } "
        "image_data_param { new_height: 20 new_width: 26 is_color: false }",
        layer,
    )
    assert preprocessing(layer) == [
        "preprocessing: resize to 20x26 (height x width), then convert to gray, then take the "
        "central 4x4 pixels, then subtract 0.1 from the channels, then multiply by 0.01, then "
        "leave it as it is, although Caffe mirrors half of the images in its tests"
    ]


@needs_caffe
def test_a_deploy_net_is_made_without_a_training(tmp_path, digits):
    head = nets.ACCURACY + nets.LOSS
    path = nets.write(
        tmp_path, nets.solver('lr_policy: "unknown"'), nets.net(head=AUXILIARY + head)
    )
    text = lrbench_caffe.deploy_net(path, data=digits, head="aux")
    assert text.startswith("# input: data (1x1x8x8)") and '"aux"' in text and '"ip"' not in text
    with pytest.raises(InputError, match="does not have the head 'auxx'"):
        lrbench_caffe.deploy_net(path, data=digits, head="auxx")


@needs_caffe
@pytest.mark.long
def test_the_deploy_net_of_the_digits_solver_classifies_as_its_row_says(tmp_path, digits, dsn):
    trial = lrbench_caffe.train(DIGITS, data=digits, max_iter=200, seed=1)
    model = lrbench_caffe.weights(trial)
    assert classified(tmp_path, model.deploy_net, model.path, digits) == trial.best.top1


@needs_caffe
def test_the_weights_are_those_that_caffe_saves(tmp_path, digits, dsn):
    from test_solver import assert_same_weights

    path = nets.write(tmp_path, nets.solver(max_iter=20))
    prefix = str(tmp_path / "all")
    trial = lrbench_caffe.train(path, data=digits, snapshot_prefix=prefix)
    assert trial.best.iteration == 20
    assert_same_weights(lrbench_caffe.weights(trial).path, prefix + "_iter_20.caffemodel")


@needs_caffe
def test_train_prints_where_the_model_is_and_writes_it_where_it_is_wanted(tmp_path, digits, invoke):
    prefix = str(tmp_path / "best")
    done = invoke(
        "train", nets.write(tmp_path), "--data", digits, "--max-iter", 20, "--keep-best", prefix
    )
    assert done.returncode == 0 and "model: %s.caffemodel (iteration 20, " % prefix in done.stdout
    recorded = json.loads(content(prefix + ".json"))
    weights = content(prefix + ".caffemodel")
    assert recorded["sha256"] == hashlib.sha256(weights).hexdigest()
    assert recorded["iteration"] == 20 and recorded["metrics"]["top1"] > 0
    assert "Top-1 %.2f %%" % (100 * recorded["metrics"]["top1"]) in done.stdout
    out, deploy = str(tmp_path / "out.caffemodel"), str(tmp_path / "deploy.prototxt")
    done = invoke("weights", recorded["trial"][:8], "--out", out, "--deploy", deploy)
    assert done.returncode == 0, done.stderr
    assert content(out) == weights and b'type: "Softmax"' in content(deploy)
    assert models.find(recorded["trial"]).path in done.stdout


@needs_caffe
def test_no_model_is_kept_on_request(tmp_path, digits, invoke, dsn):
    arguments = ("train", nets.write(tmp_path), "--data", digits, "--max-iter", 20, "--json")
    events = [json.loads(line) for line in invoke(*arguments, "--no-model").stdout.splitlines()]
    trial = events[-1]["id"]
    assert "model" not in [event["event"] for event in events]
    done = invoke("weights", trial)
    assert done.returncode == 2 and "%s has no model: it was trained with --no-model" % trial in (
        done.stderr
    )
    done = invoke(*arguments, "--no-model", "--keep-best", tmp_path / "best")
    assert done.returncode == 2 and "--keep-best or --no-model, not both" in done.stderr
    done = invoke(*arguments, "--keep-best", tmp_path / "missing" / "best")
    assert done.returncode == 2 and "cannot write the model to" in done.stderr
    done = invoke(*arguments, "--keep-best", tmp_path)
    assert done.returncode == 2 and "the start of the names of files" in done.stderr


@needs_caffe
def test_without_a_test_net_the_last_model_is_kept(tmp_path, digits, invoke):
    solver = nets.solver().replace("test_interval: 20 test_iter: 4", "")
    path = nets.write(tmp_path, solver)
    done = invoke("train", path, "--data", digits, "--max-iter", 30, "--json")
    events = {event["event"]: event for event in map(json.loads, done.stdout.splitlines())}
    assert (events["model"]["iteration"], events["model"]["chosen"]) == (30, "last")
    model = lrbench_caffe.weights(events["end"]["id"])
    assert classified(tmp_path, model.deploy_net, model.path, digits) > 0.5


@needs_caffe
def test_a_training_that_diverges_keeps_the_best_model_before(tmp_path, digits, dsn):
    growing = nets.solver('lr_policy: "exp" gamma: 1.5', max_iter=10**6, test_interval=10)
    trial = lrbench_caffe.train(nets.write(tmp_path, growing), data=digits)
    assert trial.state == "diverged"
    assert lrbench_caffe.weights(trial).iteration == trial.best.iteration


@needs_caffe
@pytest.mark.parametrize("victim", ["training", "program"])
def test_a_kill_leaves_the_model_of_the_best_row(victim, tmp_path, digits, dsn):
    (tmp_path / "gate").mkdir()
    gate = Gate(tmp_path / "gate", 25)
    text = nets.net(head=nets.ACCURACY + nets.LOSS + gate.layer)
    path = nets.write(tmp_path, nets.solver(test_interval=10), text)
    prefix = str(tmp_path / "best")
    program = start("train", path, "--data", digits, "--json", "--keep-best", prefix)
    (training,) = gate.wait()
    if victim == "training":
        os.kill(training, signal.SIGKILL)
    else:
        program.kill()
    output, _ = program.communicate(timeout=LIMIT)
    wait_until(lambda: not gate.held())
    events = [json.loads(line) for line in output.splitlines()]
    trial = next(event["id"] for event in events if event["event"] == "begin")
    best = max(
        (event for event in events if event["event"] == "row"), key=lambda event: event["top1"]
    )
    assert best["iteration"] == 20
    model = lrbench_caffe.weights(trial)
    assert (model.iteration, model.metrics["top1"]) == (20, best["top1"])
    assert hashlib.sha256(content(model.path)).hexdigest() == model.content["sha256"]
    assert content(prefix + ".caffemodel") == content(model.path)
    assert classified(tmp_path, model.deploy_net, model.path, digits) == best["top1"]


@needs_caffe
def test_a_full_disk_ends_no_training_and_leaves_the_model_before(
    small_disk, tmp_path, digits, dsn
):
    (tmp_path / "gate").mkdir()
    gate = Gate(tmp_path / "gate", 15)
    text = nets.net(head=nets.ACCURACY + nets.LOSS + gate.layer)
    path = nets.write(tmp_path, nets.solver(max_iter=30, test_interval=10), text)
    prefix = str(small_disk / "best")
    program = start("train", path, "--data", digits, "--json", "--keep-best", prefix)
    gate.wait()
    before = content(prefix + ".caffemodel"), content(prefix + ".json")
    with pytest.raises(OSError), open(str(small_disk / "filler"), "wb", buffering=0) as filler:
        while True:
            filler.write(b"x" * 4096)
    gate.open()
    output, errors = program.communicate(timeout=LIMIT)
    assert program.returncode == 0, errors
    events = [json.loads(line) for line in output.splitlines()]
    (note,) = [event["text"] for event in events if "cannot be kept" in event.get("text", "")]
    assert "the training continues, and the model of iteration 10 stays" in note
    assert (content(prefix + ".caffemodel"), content(prefix + ".json")) == before
    assert sorted(os.listdir(str(small_disk))) == ["best.caffemodel", "best.json", "filler"]
    model = next(event for event in events if event["event"] == "model")
    assert model["iteration"] > 10, "the other place has room"


@pytest.mark.parametrize("copied", [None, "another", "the same"])
def test_the_model_is_named_where_its_weights_are(tmp_path, monkeypatch, copied):
    """A full disk may have kept only one of the two places from being written."""
    pytest.importorskip("rich", reason="needs rich: run the tests with `make test`")
    from lrbench_caffe.display import console

    folder = models.ModelFolder(models_of(monkeypatch, tmp_path))
    copy = models.ModelFiles(str(tmp_path / "best"))
    put(folder, 20, 0.9, copy=str(tmp_path / "best"))
    if copied == "another":
        put(copy, 10, 0.5, b"earlier weights")
    elif copied:
        put(copy, 20, 0.9)
    model = models.find("1")
    place = copy.name if copied == "the same" else model.path
    assert console.model_text(model) == place + " (iteration 20, Top-1 90.00 %)"
    assert os.path.exists(place)


@needs_caffe
def test_a_study_keeps_a_model_of_each_policy_also_after_it_was_killed(
    command, name, trials, gate, kill, invoke, tmp_path, digits
):
    study = start(*command(name, gate=gate))
    gate.wait(2)
    wait_until(lambda: held_rows(trials(name)) == 2)
    kill(study, gate)
    gate.open()
    done = invoke("study", "run", name)
    assert done.returncode == 0, done.stderr
    kept = [trial for trial in trials(name) if models.find(trial.id)]
    assert sorted(trial.policy for trial in kept) == sorted(POLICIES)
    for trial in kept:
        rivals = [other for other in trials(name) if other.policy == trial.policy]
        assert trial.best.top1 == max(other.best.top1 for other in rivals)
        model = models.find(trial.id)
        assert (model.iteration, model.metrics["top1"]) == (trial.best.iteration, trial.best.top1)
        assert classified(tmp_path, model.deploy_net, model.path, digits) == trial.best.top1
    other = next(trial for trial in trials(name) if not models.find(trial.id))
    done = invoke("weights", other.id)
    (rival,) = [trial.id for trial in kept if trial.policy == other.policy]
    assert done.returncode == 2 and "here that of trial %s" % rival in done.stderr
    done = invoke("weights", name, "--policy", other.policy)
    assert done.returncode == 0 and rival in done.stdout
    best = max(kept, key=lambda trial: trial.best.top1)
    assert models.find(best.id).metrics["top1"] == lrbench_caffe.weights(name).metrics["top1"]
    done = invoke("weights", name, "--policy", "FIX(k0=0.5)")
    assert done.returncode == 2 and "no trial under FIX(k0=0.5)" in done.stderr


def test_the_description_names_complete_weights_whenever_it_is_read(tmp_path, monkeypatch):
    """Each step of a writing process could be its last one."""
    folder = models.ModelFolder(models_of(monkeypatch, tmp_path))
    put(folder, 20, 0.5, b"twenty")
    expected, seen = {20: b"twenty", 40: b"forty"}, set()

    def check(function):
        def checking(*arguments, **options):
            for step in (lambda: None, lambda: function(*arguments, **options)):
                result = step()
                model = models.find("1")
                assert content(model.path) == expected[model.iteration]
                seen.add(model.iteration)
            return result

        return checking

    for name in ("replace", "remove", "fsync"):
        monkeypatch.setattr(os, name, check(getattr(os, name)))
    put(folder, 40, 0.9, b"forty")
    assert seen == {20, 40} and sorted(os.listdir(str(tmp_path / "models" / "1"))) == [
        "iter_40.caffemodel",
        "model.json",
    ]


def models_of(monkeypatch, home):
    """The folder of the models of trial 1 in this LRBENCH_HOME."""
    monkeypatch.setenv("LRBENCH_HOME", str(home))
    return models.folder("1")


def test_a_trial_that_resumes_returns_to_the_model_of_its_snapshot(tmp_path, monkeypatch):
    path = models_of(monkeypatch, tmp_path)
    folder = models.ModelFolder(path)
    put(folder, 20, 0.5, b"twenty")
    folder.settle()  # a snapshot
    for iteration in (40, 60):
        put(folder, iteration, iteration / 100, b"lost")
    assert sorted(os.listdir(path)) == ["iter_20.caffemodel", "iter_60.caffemodel", "model.json"]
    resumed = models.ModelFolder(path)
    resumed.restore(20, 0.5)
    model = models.find("1")
    assert (model.iteration, content(model.path)) == (20, b"twenty")
    assert sorted(os.listdir(path)) == ["iter_20.caffemodel", "model.json"]


def test_a_trial_that_begins_again_does_not_write_into_the_weights_of_its_first_attempt(
    tmp_path, monkeypatch
):
    folder = models.ModelFolder(models_of(monkeypatch, tmp_path))
    put(folder, 20, 0.5, b"first")
    again = models.ModelFolder(models.folder("1"))
    again.restore(40, 0.9)  # a row whose model was never kept
    assert content(models.find("1").path) == b"first"

    def fail(file):
        file.write(b"a part")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        again.put(description(20, 0.6), fail, DEPLOY)
    assert content(models.find("1").path) == b"first" and again.iteration == 20
    put(again, 20, 0.6, b"second")
    assert content(models.find("1").path) == b"second"
    models.remove("1")
    assert models.find("1") is None and os.listdir(str(tmp_path / "models")) == []


def test_the_best_trial_of_each_policy_keeps_its_model(tmp_path, monkeypatch):
    monkeypatch.setenv("LRBENCH_HOME", str(tmp_path))
    worse, best, tied = (keep(made_up(top1=tops, seed=1)) for tops in ((0.1, 0.8), (0.9,), (0.9,)))
    diverged = keep(made_up(top1=(0.99,), state="diverged"))
    interrupted = keep(made_up(top1=(0.2,), state="interrupted"))
    other = keep(made_up("FIX(k0=0.1)", top1=(0.3,), state="diverged"))
    longer = keep(made_up(top1=(0.1,), solver={"max_iter": 200, "type": "SGD"}))
    watcher = BestOfPolicies([worse])
    for trial in (best, tied, diverged, interrupted, other, longer, best):
        watcher.on_event(Job("x"), "end", trial)
    kept = {trial.id for trial in (best, interrupted, other, longer)}
    assert set(os.listdir(str(tmp_path / "models"))) == kept


def test_a_search_keeps_the_model_of_its_result_only(tmp_path, monkeypatch, dsn):
    lengths = set()

    class Keeping(Simulated):
        def train(self, job, stop, on_event, threads):
            def keep_first(kind, content):
                if kind == "end" and job.model_folder:
                    lengths.add(job.max_iter)
                    if content.best:
                        keep(content)
                return on_event(kind, content)

            super().train(job, stop, keep_first, threads)

    monkeypatch.setenv("LRBENCH_HOME", str(tmp_path))
    with new_database_on(dsn) as database:
        tuned = Keeping().tune(database, budget=6 * FULL, functions=["FIX", "STEP"])
        assert lengths == {FULL}, "short trainings keep no models"
        assert os.listdir(str(tmp_path / "models")) == [tuned.model.trial]
        assert tuned.model.policy == tuned.policy
        best = max(trial.best.top1 for trial in tuned.ranked[0].trials)
        assert tuned.model.metrics["top1"] == best
        found = lrbench_caffe.weights("search", dsn=database)
        assert found == tuned.model


def test_an_unknown_name_and_a_trial_without_a_model_get_a_sentence(store, database, invoke):
    imported = made_up(origin="lab")
    first = made_up()
    record(store, first, imported)
    twin = dataclasses.replace(made_up(), id=first.id[:8] + made_up().id[8:])
    record(store, twin)

    def problem(*arguments):
        done = invoke("weights", *arguments, "--dsn", database)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
        return done.stderr

    assert "neither a study nor a trial nothing" in problem("nothing")
    assert "several trials have an id that starts with %s" % first.id[:8] in problem(first.id[:8])
    assert "trained with --no-model" in problem(first.id)
    assert "no study nothing" in problem("nothing", "--policy", "FIX(k0=0.01)")


def _send_from_elsewhere(job, channel, version):
    """Do what a worker with files of its own does: its copy of the folder is another one."""
    import distributed

    sender = workers._Sender(distributed.Queue(channel, client=distributed.get_client()), job.id)
    sender.send("start", distributed.get_worker().address)
    elsewhere = dataclasses.replace(job, model_folder=os.path.join(job.solver, job.id))
    trial = keep_in(elsewhere.model_folder, job.id)
    sender.on_event("begin", dataclasses.replace(trial, state="running", rows=()))
    sender.on_event("row", trial.rows[0])
    transfer.send(elsewhere, channel, lambda part: sender.send("model", part))
    assert not os.path.exists(elsewhere.model_folder)
    sender.on_event("end", trial)
    sender.send("done", None)


def keep_in(path, trial_id):
    trial = dataclasses.replace(made_up(top1=(0.5,)), id=trial_id)
    put(models.ModelFolder(path), 0, 0.5, b"weights" * 10**6, trial=trial_id)
    return trial


def test_a_model_travels_from_a_worker_with_other_files(monkeypatch, tmp_path):
    distributed = pytest.importorskip("distributed", reason="needs Dask: run `make test`")
    monkeypatch.setenv("LRBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(workers, "train_job", _send_from_elsewhere)
    (tmp_path / "elsewhere").mkdir()
    job = Job(str(tmp_path / "elsewhere"), id="1", model_folder=models.folder("1"))
    events = []
    options = {"processes": False, "n_workers": 1, "threads_per_worker": 1}
    with distributed.Client(dashboard_address=None, **options) as client:
        Trainings(client, (), [job], Stop(), lambda *event: events.append(event), 60).run()
    assert [kind for _, kind, _ in events if kind != "note"] == ["begin", "row", "end"]
    model = models.find("1")
    assert content(model.path) == b"weights" * 10**6 and model.metrics == {"top1": 0.5}
    assert os.listdir(str(tmp_path / "home" / "models")) == ["1"]


def test_a_model_is_not_sent_to_its_own_folder(tmp_path, monkeypatch):
    job = Job("x", id="1", model_folder=models_of(monkeypatch, tmp_path))
    keep_in(job.model_folder, "1")
    with transfer.Receiver([job], "channel"):
        transfer.send(job, "channel", lambda part: pytest.fail("sent"))
    assert models.find("1")
    assert os.listdir(str(tmp_path / "models")) == ["1"]


def test_a_model_that_the_receiver_cannot_keep_is_reported_once(tmp_path, monkeypatch):
    job = Job("x", id="1", model_folder=models_of(monkeypatch, tmp_path))
    keep_in(str(tmp_path / "worker"), "1")
    messages = list(transfer.messages(str(tmp_path / "worker")))
    assert len(messages) == 3
    (tmp_path / "models").write_text("not a folder")
    with transfer.Receiver([job], "channel") as receiver:
        problems = [receiver.receive(job, message) for message in messages]
    assert "the model of trial 1 cannot be kept" in problems[0] and problems[1:] == [None, None]


def test_a_deploy_net_that_could_not_be_made_has_its_reason(tmp_path, monkeypatch):
    folder = models.ModelFolder(models_of(monkeypatch, tmp_path))
    folder.put(
        description(20, 0.5),
        lambda file: file.write(b"weights"),
        {"prototxt": None, "notes": [], "problem": "the output depends on the labels"},
    )
    with pytest.raises(InputError, match="no deploy net .the output depends on the labels."):
        models.find("1").deploy_net  # noqa: B018 - the property raises


@pytest.mark.parametrize(
    "damaged", ["{", "[1]", "null", "[]", "{}", '{"model": 5, "at_snapshot": null, "deploy": null}']
)
def test_a_damaged_record_of_models_counts_as_no_model(tmp_path, monkeypatch, damaged):
    path = models_of(monkeypatch, tmp_path)
    keep_in(path, "1")
    with open(os.path.join(path, "model.json"), "w") as file:
        file.write(damaged)
    assert models.find("1") is None and "model.json cannot be read (it is d" in models.damage("1")
    folder = models.ModelFolder(path)
    assert folder.iteration is None and folder.damage == models.damage("1")
    keep_in(path, "1")
    assert models.find("1") and models.damage("1") is None


def test_the_folders_of_models_are_for_their_user_only(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir(mode=0o755)
    path = models_of(monkeypatch, tmp_path / "home")
    keep_in(path, "1")
    for folder in (path, os.path.dirname(path)):
        assert os.stat(folder).st_mode & 0o777 == 0o700


def test_a_trial_is_named_by_its_first_digits_in_any_case(tmp_path, monkeypatch):
    path = models_of(monkeypatch, tmp_path)
    for trial_id in ("4edc24b6-0000", "4edc3000-0000"):
        keep_in(os.path.join(os.path.dirname(path), trial_id), trial_id)
    assert models.starting_with("4EDC24") == ["4edc24b6-0000"]
    assert models.starting_with("4edc24b60") == ["4edc24b6-0000"]
    assert len(models.starting_with("4")) == 2
    assert models.starting_with("") == models.starting_with("-") == []


def test_the_weights_are_written_although_there_is_no_deploy_net(tmp_path, monkeypatch, invoke):
    trial = made_up()
    monkeypatch.setenv("LRBENCH_HOME", str(tmp_path))
    folder = models.ModelFolder(models.folder(trial.id))
    problem = {"prototxt": None, "notes": [], "problem": "it has a reason"}
    described = description(20, 0.5, trial=trial.id)
    folder.put(described, lambda file: file.write(b"weights"), problem)
    out = str(tmp_path / "out.caffemodel")
    done = invoke("weights", trial.id, "--out", out, "--deploy", str(tmp_path / "d.prototxt"))
    assert done.returncode == 2 and "it has a reason" in done.stderr
    assert content(out) == b"weights"
    for same in (out, os.path.join(str(tmp_path), ".", "out.caffemodel")):
        done = invoke("weights", trial.id, "--out", out, "--deploy", same)
        assert done.returncode == 2 and "--out and --deploy both name" in done.stderr
        assert content(out) == b"weights"
