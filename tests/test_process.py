"""One trial in a process of its own: how Python code trains it, describes it and ends it."""

import dataclasses
import os
import resource
import subprocess
import sys
import tempfile
import types

import nets
import pytest
from conftest import ROOT, needs_caffe
from trials import trial as made_up
from waiting import LIMIT

pytest.importorskip(
    "psycopg2", reason="needs psycopg2 and PostgreSQL: run the tests with `make test`"
)

import lrbench_caffe
from lrbench_caffe.errors import InputError, TrialError
from lrbench_caffe.study import failures, pooled, process
from lrbench_caffe.study.child import StartError
from lrbench_caffe.study.events import EventReader
from lrbench_caffe.study.process import describe
from lrbench_caffe.study.stop import Stop, interruptible
from lrbench_caffe.trial import Job, to_dict

# Imports the program as a script in a clone does: neither PYTHONPATH nor the current folder help.
DESCRIBE = """
import sys
sys.path.insert(0, sys.argv[1])
from lrbench_caffe.study import process
from lrbench_caffe.trial import Job
print(process.describe(Job(sys.argv[2], policy="FIX(k0=0.010)", data=sys.argv[3])).policy)
"""


@needs_caffe
@pytest.mark.parametrize("argument", ["on_event", "listen"])
def test_train_reports_its_events_under_the_old_argument_name_too(argument, tmp_path, digits, dsn):
    """The argument on_event was called listen."""
    kinds = []
    path = nets.write(tmp_path, nets.solver(max_iter=20))
    receiver = {argument: lambda kind, content: kinds.append(kind)}
    trial = lrbench_caffe.train(path, data=digits, seed=1, **receiver)
    assert trial.state == "finished" and len(trial.rows) == kinds.count("row") > 0
    assert kinds.index("begin") < kinds.index("row") and kinds[-1] == "end"


@needs_caffe
def test_train_ends_with_the_verdict_that_a_receiver_returns(tmp_path, digits, dsn):
    def prune(kind, content):
        return ("pruned", "enough") if kind == "row" else None

    path = nets.write(tmp_path, nets.solver(max_iter=10**6))
    trial = lrbench_caffe.train(path, data=digits, on_event=prune)
    assert (trial.state, trial.error) == ("pruned", "enough") and trial.rows


@needs_caffe
def test_a_training_finds_the_program_where_its_parent_found_it(tmp_path, digits):
    path = nets.write(tmp_path)
    others = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    environment = dict(
        os.environ,
        PYTHONPATH=os.pathsep.join(
            folder for folder in others if folder and not os.path.samefile(folder, ROOT)
        ),
    )
    done = subprocess.run(
        [sys.executable, "-c", DESCRIBE, ROOT, path, digits],
        cwd=str(tmp_path),
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.stdout == "FIX(k0=0.01)\n", done.stderr


READ_IMAGES = """
import sys
from lrbench_caffe.training import worker

worker.load()
import caffe
import numpy as np

print("skimage" in sys.modules)
image = np.linspace(0, 1, 48, dtype=np.float32).reshape(4, 4, 3)
small = caffe.io.resize_image(image, (2, 2))
print(small.shape, float(small.min()) < float(small.max()))
print(caffe.io.skimage.img_as_float(np.full(1, 255, np.uint8)))
import skimage
print(skimage is sys.modules["skimage"], skimage.__version__ > "0")
"""


@needs_caffe
def test_a_training_imports_scikit_image_when_it_reads_images():
    done = subprocess.run(
        [sys.executable, "-c", READ_IMAGES],
        env=dict(os.environ, PYTHONPATH=ROOT),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.stdout.splitlines() == ["False", "(2, 2, 3) True", "[1.]", "True True"], done.stderr


@needs_caffe
def test_a_job_that_is_only_described_leaves_no_files(tmp_path, digits, monkeypatch):
    """A training that is interrupted takes its last snapshot; this one must not begin."""
    solver = nets.solver().replace("snapshot_after_train: false", "snapshot: 1")
    path = nets.write(tmp_path, solver + 'snapshot_prefix: "%s/described"' % tmp_path)
    before = sorted(os.listdir(str(tmp_path)))
    monkeypatch.chdir(tmp_path)
    trial = describe(Job(path, data=digits))
    assert (trial.policy, trial.rows) == ("FIX(k0=0.01)", ())
    assert sorted(os.listdir(str(tmp_path))) == before


@needs_caffe
def test_a_job_that_cannot_be_trained_cannot_be_described(tmp_path, digits):
    path = nets.write(tmp_path, nets.solver('lr_policy: "stepp"'))
    with pytest.raises(lrbench_caffe.InputError, match="did you mean step"):
        describe(Job(path, data=digits))


@needs_caffe
def test_a_log_that_cannot_be_written_is_refused(tmp_path, digits, dsn):
    log = str(tmp_path / "missing" / "caffe.log")
    with pytest.raises(lrbench_caffe.InputError, match="cannot write Caffe's log .* with --log"):
        lrbench_caffe.train(nets.write(tmp_path), data=digits, log=log)


@needs_caffe
def test_a_training_whose_process_cannot_start_is_an_error_in_one_sentence(monkeypatch, tmp_path):
    """The folder for temporary files is missing; then, no file can be opened for its output."""
    job = Job(nets.write(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(TrialError, match=r"cannot start .* \(No such file .* name another one"):
        process.describe(job)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, hard))  # room for the log
    try:
        with pytest.raises(TrialError, match=r"\(Too many open files\): end other programs"):
            process.describe(job)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert os.listdir(str(folder)) == []


@pytest.mark.parametrize("error", [InputError("no data"), TrialError("no process")])
@pytest.mark.parametrize("begun", [False, True])
def test_only_a_training_that_has_not_begun_has_a_problem(error, begun):
    """The error of a training that has begun is in its end."""
    events = []

    def train(job, stop, on_event, threads):
        if begun:
            on_event("begin", made_up(state="running"))
            on_event("end", made_up(state="failed", error=str(error)))
        raise error

    def record(kind, content):
        events.append(kind)

    pooled.run(Job("x", id="1"), Stop(), record, pooled.Patience(), train)
    assert events == (["begin", "end"] if begun else ["problem"])


@pytest.mark.parametrize(
    "shortages, stops, expected",
    [
        (2, False, ["note", "begin"]),
        (10**6, True, ["note"]),
        (10**6, False, ["note", "problem", "problem"]),
    ],
)
def test_trainings_wait_for_a_system_that_cannot_start_them_but_not_one_after_the_other(
    shortages, stops, expected, monkeypatch
):
    """The clock of this test advances by 20 seconds with each wait."""
    events, tries, stop, patience, now = [], [], Stop(), pooled.Patience(), [0]

    def wait(seconds):
        now[0] += 20
        if stops:
            stop()

    clock = types.SimpleNamespace(sleep=wait, monotonic=lambda: now[0])
    monkeypatch.setattr(pooled, "time", clock)

    def train(job, stop, on_event, threads):
        tries.append(job.id)
        if len(tries) <= shortages:
            raise StartError("no process is left")
        on_event("begin", made_up(state="running"))

    def record(kind, content):
        events.append(kind)

    for job_id in "ab" if expected[-1] == "problem" else "a":
        pooled.run(Job("x", id=job_id), stop, record, patience, train)
    assert events == expected
    assert "".join(tries) in ("aaa", "a", "aaaab")


def test_trials_that_failed_are_named_with_their_error_once():
    killed = [made_up("FIX(k0=0.1)", seed=n, state="failed", error="killed") for n in range(1, 6)]
    aborted = made_up("FIX(k0=1)", state="failed", error="Check failed: a < b")
    trials = [made_up(), *killed, aborted]
    assert failures.lines(trials) == [
        "failed: FIX(k0=0.1) with seed 1, FIX(k0=0.1) with seed 2, FIX(k0=0.1) with seed 3 "
        "and 2 others: killed",
        "failed: FIX(k0=1.0) with seed 1: Check failed: a < b",
    ]
    assert failures.lines(killed[:4])[0].endswith("seed 3 and 1 other: killed")
    assert failures.common_error(killed) == "killed"
    assert failures.common_error(trials) == "the first one: killed"
    with pytest.raises(TrialError, match="^6 of 7 trainings failed: try again$"):
        failures.raise_if_any(trials, "try again")
    failures.raise_if_any([made_up()], "try again")


def test_a_stop_that_comes_first_keeps_a_block_from_ending_normally():
    with pytest.raises(KeyboardInterrupt), interruptible() as stop:
        stop()
        stop()
        assert stop.requests == 2


def test_events_that_travelled_as_json_are_values_again():
    trial = made_up()
    rows, begun = trial.rows, dataclasses.replace(trial, rows=(), state="running")
    reader = EventReader()
    assert reader.read("note", "text") == "text"
    assert reader.read("begin", to_dict(begun)) == begun == reader.trial
    assert tuple(reader.read("row", to_dict(row)) for row in rows) == rows == reader.trial.rows
    end = reader.read("end", {"state": "finished", "ended": 2.0, "error": None})
    assert (end.state, end.ended, end.rows) == ("finished", 2.0, rows)
