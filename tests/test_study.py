"""Studies: a list of trials with a name survives what happens to its trials and to itself, and trains each of them once."""
import os
import random
import signal
import subprocess
import sys
import time
import uuid

import pytest

import nets
from conftest import ROOT, needs_caffe
from lrbench_caffe.home import home

pytest.importorskip("psycopg2", reason="needs psycopg2 and PostgreSQL: run the tests with `make test`")
from lrbench_caffe import database  # noqa: E402

POLICIES = ("FIX(k0=0.01)", "SIN2(k0=0.005, k1=0.08, l=100)")
DIGITS = os.path.join(ROOT, "solvers", "digits_solver.prototxt")


@pytest.fixture
def name():
    return "study-" + uuid.uuid4().hex


@pytest.fixture
def trials(dsn):
    """What is stored of a study: trials(name)."""
    def stored(name):
        with database.Store(dsn) as store:
            return store.trials(study=name)
    return stored


@pytest.fixture
def command(digits):
    """The words that run a study of the digits under POLICIES with two seeds."""
    def words(name, *more):
        policies = [word for policy in POLICIES for word in ("--policy", policy)]
        return ["study", "run", name, DIGITS, "--data", digits, "--seeds", "2"] + policies + list(more)
    return words


def keys(trials):
    return sorted((trial.policy, trial.setup.seed, row.iteration) for trial in trials for row in trial.rows)


EXPECTED = sorted((policy, seed, iteration) for policy in POLICIES for seed in (1, 2) for iteration in range(0, 601, 50))


def start(*words):
    """The command line in a process group of its own, to be killed with all that it started."""
    return subprocess.Popen([sys.executable, "-m", "lrbench_caffe"] + list(words), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env=dict(os.environ, PYTHONPATH=ROOT), universal_newlines=True)


@needs_caffe
def test_a_study_trains_each_trial_once(name, lrbench, command, trials):
    assert lrbench(*command(name)).returncode == 0
    first = trials(name)
    assert keys(first) == EXPECTED and {trial.state for trial in first} == {"finished"}
    assert {trial.threads for trial in first} == {1} and all("openblas" in trial.blas for trial in first)
    assert lrbench(*command(name)).returncode == 0
    assert trials(name) == first, "what has finished is not run again"
    assert lrbench(*command(name, "--policy", "EXP(k0=0.05, gamma=0.995)")).returncode == 0
    assert trials(name)[:4] == first and len(trials(name)) == 6, "what is new is added"
    assert "finished" in lrbench("study", "list").stdout and POLICIES[1] in lrbench("study", "show", name).stdout


@needs_caffe
def test_kill_9_of_the_whole_study_again_and_again_loses_and_doubles_nothing(name, lrbench, command, trials):
    clock = random.Random(3)
    for _ in range(4):
        study = start(*command(name, "--jobs", "2"))
        time.sleep(clock.uniform(1.5, 4))
        study.kill()
        study.communicate()
    done = lrbench(*command(name))
    assert done.returncode == 0, done.stderr
    found = trials(name)
    assert keys(found) == EXPECTED and {trial.state for trial in found} == {"finished"}
    assert all(row.train_loss is not None for trial in found for row in trial.rows if row.iteration > 0)
    for trial in found:
        for row in trial.rows:  # in the row: whether it is of a training that ran through
            assert row.resumed_at is None or row.resumed_at <= row.iteration
    folder = os.path.join(home(), "studies", name)
    assert os.listdir(folder) == ["lock"], "snapshots of trials that are done are removed"


@needs_caffe
def test_ctrl_c_ends_a_study_politely_and_it_goes_on_where_it_was(name, lrbench, command, trials):
    study = start(*command(name, "--jobs", "1"))
    deadline = time.monotonic() + 60
    while not any(row.iteration >= 100 for trial in trials(name) for row in trial.rows):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    study.send_signal(signal.SIGINT)
    output = study.communicate(timeout=30)
    assert study.returncode == 130 and "Traceback" not in output[1]
    cut = [trial for trial in trials(name) if trial.state == "interrupted"]
    assert len(cut) == 1
    assert lrbench("study", "run", name).returncode == 0
    resumed = next(trial for trial in trials(name) if trial.id == cut[0].id)
    assert resumed.attempt == 2 and resumed.resumed_at >= cut[0].rows[-1].iteration and resumed.state == "finished"
    assert resumed.rows[:len(cut[0].rows)] == cut[0].rows, "rows from before stay as they were measured"
    assert {row.resumed_at for row in resumed.rows[len(cut[0].rows):]} == {resumed.resumed_at}
    assert keys(trials(name)) == EXPECTED


@needs_caffe
def test_a_trial_that_caffe_aborts_leaves_the_others_running(name, tmp_path, digits, lrbench, trials):
    """A kernel larger than its image is one of many things that only a CHECK finds."""
    broken = nets.write(tmp_path, net_text=nets.net(body=nets.BODY.replace("kernel_size: 3", "kernel_size: 30")))
    assert lrbench("study", "run", name, broken, "--policy", "FIX(k0=0.01)", "--data", digits).returncode == 0
    assert lrbench("study", "run", name, DIGITS, "--policy", "FIX(k0=0.01)", "--max-iter", "50", "--data", digits).returncode == 0
    states = {trial.setup.network.name: (trial.state, trial.error) for trial in trials(name)}
    assert states["small"][0] == "failed" and "Check failed" in states["small"][1]
    assert [state for network, (state, _) in states.items() if network != "small"] == ["finished"]


@needs_caffe
def test_the_solvers_own_snapshots_do_not_get_in_the_way(name, tmp_path, digits, lrbench, trials):
    """Not taken in a study, whatever their format and interval, and on record as the solver has them."""
    more = 'snapshot: 100000 snapshot_prefix: "%s" snapshot_format: HDF5' % (tmp_path / "users")
    path = nets.write(tmp_path, nets.solver(max_iter=1000000, test_interval=500, more=more))
    study = start("study", "run", name, path, "--data", digits)
    deadline = time.monotonic() + 60
    while not any(row.iteration >= 1000 for trial in trials(name) for row in trial.rows):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    study.send_signal(signal.SIGINT)
    study.communicate(timeout=30)
    trial, = trials(name)
    assert trial.state == "interrupted" and trial.setup.solver["snapshot"] == 100000
    kept = os.listdir(os.path.join(home(), "studies", name, trial.id))
    assert "state.json" in kept and any(file.endswith(".solverstate") for file in kept)
    assert not list(tmp_path.glob("users*"))


@needs_caffe
def test_a_study_that_runs_is_not_run_a_second_time(name, lrbench, command):
    study = start(*command(name))
    try:
        while not os.path.exists(os.path.join(home(), "studies", name, "lock")):
            time.sleep(0.05)
        time.sleep(0.2)
        second = lrbench("study", "run", name)
        assert second.returncode == 2 and "runs already" in second.stderr
    finally:
        study.send_signal(signal.SIGINT)
        study.communicate(timeout=30)


@pytest.mark.parametrize("words, sentence", [
    (("run", "no/name"), "no name for a study"), (("run", "not-there"), "no study not-there"), (("show", "not-there"), "no study"),
    (("run", "x", "--policy", "FIX(k0=0.1)"), "--policy needs a solver"),
])
def test_what_cannot_be_run_is_said_in_a_sentence(words, sentence, lrbench):
    done = lrbench("study", *words)
    assert done.returncode == 2 and sentence in done.stderr and len(done.stderr.splitlines()) == 1
