"""A trial resumes wherever its folder is, and whatever has happened to its newest snapshot."""

import glob
import json
import os
import re
import shutil
import signal
import uuid

import nets
import pytest
from conftest import needs_caffe
from gate import Gate
from studies import start
from waiting import LIMIT

pytest.importorskip(
    "psycopg2", reason="needs psycopg2 and PostgreSQL: run the tests with `make test`"
)
from lrbench_caffe import database

pytestmark = needs_caffe
HELD_AT = 25
NEWEST = 30  # an interrupted training trains on to its next evaluation


@pytest.fixture(scope="module")
def interrupted(dsn, digits, tmp_path_factory):
    """The folder of an LRBENCH_HOME with a study whose training was interrupted, and its name.

    The training has two snapshots.
    """
    folder, name = tmp_path_factory.mktemp("interrupted"), "study-" + uuid.uuid4().hex
    (folder / "gate").mkdir()
    gate = Gate(folder / "gate", HELD_AT, snapshot=True)
    net = nets.net(head=nets.ACCURACY + nets.LOSS + gate.layer)
    solver = nets.write(folder, nets.solver(max_iter=40, test_interval=10), net)
    before, os.environ["LRBENCH_HOME"] = os.environ["LRBENCH_HOME"], str(folder / "home")
    try:
        process = start("study", "run", name, solver, "--data", digits, "--dsn", dsn)
        gate.wait()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LIMIT)
    finally:
        os.environ["LRBENCH_HOME"] = before
    gate.open()
    assert len(iterations(str(folder / "home"))) == 2
    assert iterations(str(folder / "home"))[-1] == NEWEST
    return str(folder / "home"), name


def trial_folder(home):
    (folder,) = glob.glob(os.path.join(home, "studies", "*", "*"))
    return folder


def iterations(home):
    names = os.listdir(trial_folder(home))
    return sorted(int(re.findall(r"\d+", name)[0]) for name in names if name.endswith(".json"))


@pytest.fixture
def moved(interrupted, tmp_path, monkeypatch, dsn):
    """Another LRBENCH_HOME with the study; the first one does not exist meanwhile."""
    first, name = interrupted
    aside = first + "-aside"
    home = str(tmp_path / "another" / "home")
    shutil.copytree(first, home)
    os.rename(first, aside)
    monkeypatch.setenv("LRBENCH_HOME", home)
    yield home, name
    os.rename(aside, first)


def damage(home, iteration, ending, how):
    path = os.path.join(trial_folder(home), "snapshot_iter_%d%s" % (iteration, ending))
    if how == "missing":
        os.remove(path)
        return
    with open(path, "rb") as file:
        content = file.read()
    half = len(content) // 2
    if how == "changed":
        content = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
    with open(path, "wb") as file:
        file.write({"truncated": content[:half], "empty": b""}.get(how, content))


def latest(home):
    """The iteration of the snapshot that a training would resume from, and its notes."""
    from lrbench_caffe.training.snapshots import Snapshots

    notes = []
    snapshot = Snapshots(trial_folder(home)).latest(lambda kind, note: notes.append(note))
    return snapshot and snapshot.iteration, notes


@pytest.mark.parametrize(
    "ending, how",
    [(".caffemodel", how) for how in ("missing", "truncated", "empty", "changed")]
    + [(".solverstate", how) for how in ("missing", "truncated", "empty", "changed")]
    + [(".json", how) for how in ("truncated", "empty")],
)
def test_a_snapshot_that_cannot_be_read_means_the_one_before(moved, ending, how):
    home, _ = moved
    older = iterations(home)[0]
    assert latest(home) == (NEWEST, [])
    damage(home, NEWEST, ending, how)
    iteration, (note,) = latest(home)
    assert iteration == older and "iteration 30" in note
    assert note.endswith("cannot be used: the training resumes from iteration %d" % older)
    assert latest(home) == (older, []), "the damaged one was removed"
    damage(home, older, ending, how)
    iteration, (note,) = latest(home)
    assert iteration is None and note.endswith("the training resumes from the beginning")
    assert not glob.glob(os.path.join(trial_folder(home), "snapshot_iter_*"))


def former(home, **changes):
    """Make the newest snapshot one of an earlier version, with absolute paths of another home."""
    folder = trial_folder(home)
    older = glob.glob(os.path.join(folder, "*iter_%d.*" % iterations(home)[0]))
    newest = os.path.join(folder, "snapshot_iter_%d" % NEWEST)
    with open(newest + ".json") as file:
        state = json.load(file)
    del state["checksums"]
    state.update({"solverstate": "/moved/snapshot_iter_%d.solverstate" % NEWEST}, **changes)
    with open(os.path.join(folder, "state.json"), "w") as file:
        json.dump(state, file)
    for path in [*older, newest + ".json"]:
        os.remove(path)


def test_a_snapshot_of_an_earlier_version_is_used(moved):
    home, _ = moved
    former(home)
    assert latest(home) == (NEWEST, []) and iterations(home) == [NEWEST]


@pytest.mark.parametrize("changes", [{"rows": None}, {"iteration": 29}])
def test_a_damaged_snapshot_of_an_earlier_version_means_the_beginning(moved, changes):
    home, _ = moved
    former(home, **changes)
    iteration, (note,) = latest(home)
    assert iteration is None and "of an earlier version" in note and "the beginning" in note


@pytest.fixture
def resume(moved, invoke, dsn):
    """Resume the study in its moved home: returns the trial and what was printed."""
    _, name = moved

    def run():
        done = invoke("study", "run", name, "--dsn", dsn)
        assert done.returncode == 0, done.stdout + done.stderr
        with database.Store(dsn) as store:
            (trial,) = store.trials(study=name)
            # The next test resumes the same trial.
            store.transaction(
                lambda cursor: cursor.execute("UPDATE trial SET state = 'interrupted'")
            )
        return trial, done.stdout + done.stderr

    return run


def test_a_study_in_a_moved_home_resumes(resume):
    trial, output = resume()
    assert trial.state == "finished" and trial.resumed_at == NEWEST
    assert [row.iteration for row in trial.rows] == [0, 10, 20, 30, 40]
    assert "cannot be used" not in output


def test_a_study_whose_newest_snapshot_is_damaged_resumes_from_the_one_before(moved, resume):
    older = iterations(moved[0])[0]
    damage(moved[0], NEWEST, ".solverstate", "truncated")
    trial, output = resume()
    assert trial.state == "finished" and trial.resumed_at == older
    assert [row.iteration for row in trial.rows] == [0, 10, 20, 30, 40]
    assert "the training resumes from iteration %d" % older in " ".join(output.split())


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("command", ["study", "range"])
def test_a_failed_training_resumes_unless_its_solver_has_changed(
    tmp_path, digits, dsn, name, invoke, trials, command, changed
):
    """A snapshot of the former solver would mix the two."""
    (tmp_path / "gate").mkdir()
    gate = Gate(tmp_path / "gate", HELD_AT, snapshot=True)
    net = nets.net(head=nets.ACCURACY + nets.LOSS + gate.layer)
    text = nets.solver(max_iter=40, test_interval=10)
    arguments = {
        "study": ["study", "run", name, nets.write(tmp_path, text, net), "--retry-failed"],
        "range": ["range", nets.write(tmp_path, text, net), "--study", name, "--max-iter", "40"],
    }[command]
    arguments += ["--data", digits, "--jobs", "1"]
    process = start(*arguments, "--dsn", dsn)
    (training,) = gate.wait()
    os.kill(training, signal.SIGKILL)
    gate.open()
    process.communicate(timeout=LIMIT)
    (failed,) = (trial for trial in trials(name) if trial.state == "failed")
    if changed:
        nets.write(tmp_path, text.replace("momentum: 0.9", "momentum: 0.5"), net)
        if command == "range":  # its other rates are measured: only failed ones begin anew
            invoke("db", "delete", "--study", name, "--state", "finished", "--yes")
    assert invoke(*arguments).returncode == 0
    (retried,) = (trial for trial in trials(name) if trial.id == failed.id)
    assert retried.state == "finished" and retried.attempt == 2
    assert (retried.resumed_at is None) == changed
    assert retried.setup.solver["momentum"] == (0.5 if changed else 0.9)
