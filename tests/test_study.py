"""Studies: a list of trials with a name survives what happens to its trials and to itself, and trains each of them once."""

import io
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import nets
import pytest
import simulation
from conftest import ROOT, needs_caffe, private_home
from studies import DIGITS, EXPECTED, POLICIES, keys, start, trainings_of, wait_until
from trials import trial as made_up

from lrbench_caffe.paths import home

pytest.importorskip(
    "psycopg2", reason="needs psycopg2 and PostgreSQL: run the tests with `make test`"
)
pytest.importorskip("rich", reason="needs rich: run the tests with `make test`")
from rich.console import Console
from rich.live import Live

from lrbench_caffe import database
from lrbench_caffe.display.progress import StudyDisplay
from lrbench_caffe.errors import InputError
from lrbench_caffe.study.cores import Cores, parse_gpus
from lrbench_caffe.study.process import Stop
from lrbench_caffe.trial import Job


@needs_caffe
def test_a_study_trains_each_trial_once(name, lrbench, command, trials):
    assert lrbench(*command(name)).returncode == 0
    first = trials(name)
    assert keys(first) == EXPECTED and {trial.state for trial in first} == {"finished"}
    assert {trial.threads for trial in first} == {1} and all(
        "openblas" in trial.blas for trial in first
    )
    assert lrbench(*command(name)).returncode == 0
    assert trials(name) == first, "what has finished is not run again"
    assert lrbench(*command(name, "--policy", "EXP(k0=0.05, gamma=0.995)")).returncode == 0
    assert trials(name)[:4] == first and len(trials(name)) == 6, "what is new is added"
    assert (
        "finished" in lrbench("study", "list").stdout
        and POLICIES[1] in lrbench("study", "show", name).stdout
    )


@needs_caffe
@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.long)])
def test_kill_9_of_the_whole_study_again_and_again_loses_and_doubles_nothing(
    kills, name, lrbench, command, trials
):
    clock = random.Random(kills)
    for _ in range(kills):
        study = start(*command(name, "--jobs", "2"))
        time.sleep(clock.uniform(1.5, 4))
        study.kill()
        study.communicate()
    done = lrbench(*command(name))
    assert done.returncode == 0, done.stderr
    found = trials(name)
    assert keys(found) == EXPECTED and {trial.state for trial in found} == {"finished"}
    assert all(
        row.train_loss is not None for trial in found for row in trial.rows if row.iteration > 0
    )
    for trial in found:
        for row in trial.rows:  # in the row: whether it is of a training that ran through
            assert row.resumed_at is None or row.resumed_at <= row.iteration
    folder = os.path.join(home(), "studies", name)
    assert os.listdir(folder) == [], "snapshots of trials that are done are removed"


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
    assert (
        resumed.attempt == 2
        and resumed.resumed_at >= cut[0].rows[-1].iteration
        and resumed.state == "finished"
    )
    assert resumed.rows[: len(cut[0].rows)] == cut[0].rows, (
        "rows from before stay as they were measured"
    )
    assert {row.resumed_at for row in resumed.rows[len(cut[0].rows) :]} == {resumed.resumed_at}
    assert keys(trials(name)) == EXPECTED


@needs_caffe
def test_a_trial_that_caffe_aborts_leaves_the_others_running(
    name, tmp_path, digits, lrbench, trials
):
    """A kernel larger than its image is one of many things that only a CHECK finds."""
    broken = nets.write(
        tmp_path, net_text=nets.net(body=nets.BODY.replace("kernel_size: 3", "kernel_size: 30"))
    )
    assert (
        lrbench(
            "study", "run", name, broken, "--policy", "FIX(k0=0.01)", "--data", digits
        ).returncode
        == 1
    )
    done = lrbench(
        "study",
        "run",
        name,
        DIGITS,
        "--policy",
        "FIX(k0=0.01)",
        "--max-iter",
        "50",
        "--data",
        digits,
    )
    assert (
        done.returncode == 1 and "1 of the trainings have failed: `lrbench study run" in done.stderr
    )
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
    (trial,) = trials(name)
    assert trial.state == "interrupted" and trial.setup.solver["snapshot"] == 100000
    kept = os.listdir(os.path.join(home(), "studies", name, trial.id))
    assert "state.json" in kept and any(file.endswith(".solverstate") for file in kept)
    assert not list(tmp_path.glob("users*"))


@needs_caffe
def test_a_study_that_runs_is_not_run_a_second_time(name, lrbench, command):
    study = start(*command(name))
    try:
        while not os.path.exists(os.path.join(home(), "studies", name)):
            time.sleep(0.05)
        second = lrbench("study", "run", name)
        assert second.returncode == 2 and "runs already" in second.stderr
    finally:
        study.send_signal(signal.SIGINT)
        study.communicate(timeout=30)


@needs_caffe
def test_trainings_that_cannot_begin_are_said_once_and_tried_again(
    name, tmp_path, lrbench, digits, trials
):
    """Here because the LMDB that the net names is not in the data folder."""
    words = [
        "study",
        "run",
        name,
        DIGITS,
        "--policy",
        "FIX(k0=0.01)",
        "--seeds",
        "3",
        "--max-iter",
        "50",
    ]
    done = lrbench(*words, "--data", tmp_path)
    assert (
        done.returncode == 1
        and done.stderr.count("was not found") == 1
        and "3 of the trainings could not begin" in done.stderr
    )
    assert "3 trials have not begun" in lrbench("study", "show", name).stdout and trials(name) == []
    refused = lrbench(*words, "--data", digits + "-not-there")
    assert refused.returncode == 2 and "is not there" in refused.stderr
    assert lrbench("study", "show", name).stdout.count("trials have not begun") == 1, (
        "and is not made part of the study"
    )


def test_a_terminal_that_is_drawn_while_trainings_end_does_not_hold_them_up(monkeypatch):
    """In another order of locks the picture waits for the trainings, and they for the picture."""
    monkeypatch.setattr(
        "lrbench_caffe.display.Console",
        lambda **options: Console(file=io.StringIO(), force_terminal=True),
    )
    monkeypatch.setattr(
        "lrbench_caffe.display.Live",
        lambda **options: Live(**dict(options, refresh_per_second=1000)),
    )
    jobs = [Job("x", id=str(n)) for n in range(200)]

    def train(job, shown):
        shown.on_event(job, "begin", made_up())
        shown.on_event(job, "progress", {"iteration": 5, "max_iter": 10})
        shown.on_event(job, "note", "note of " + job.id)
        shown.on_event(job, "end", made_up().ended_as("finished", 1e9))

    def watch():
        with StudyDisplay() as shown:
            shown.begin(jobs)
            with ThreadPoolExecutor(20) as threads:
                list(threads.map(lambda job: train(job, shown), jobs))

    watched = threading.Thread(target=watch, daemon=True)
    watched.start()
    watched.join(60)
    assert not watched.is_alive()


@needs_caffe
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_training_that_dies_of_a_signal_is_marked_as_failed_and_can_be_tried_again(
    number, name, lrbench, command, trials
):
    study = start(*command(name, "--jobs", "1"))
    wait_until(lambda: any(trial.rows for trial in trials(name)))
    os.kill(trainings_of(study.pid)[0], number)
    output = study.communicate(timeout=100)
    assert study.returncode == 1 and "Traceback" not in output[1]
    assert sorted(trial.state for trial in trials(name)) == ["failed"] + ["finished"] * 3
    failed = next(trial for trial in trials(name) if trial.state == "failed")
    assert signal.Signals(number).name in failed.error and "Caffe's last message: " in failed.error
    assert lrbench(*command(name)).returncode == 1, "it is not run again by itself"
    assert lrbench("study", "run", name, "--retry-failed").returncode == 0
    assert keys(trials(name)) == EXPECTED and {trial.state for trial in trials(name)} == {
        "finished"
    }


@needs_caffe
def test_study_stop_ends_it_from_elsewhere_and_it_goes_on(name, lrbench, command, trials):
    study = start(*command(name, "--jobs", "1"))
    wait_until(lambda: any(trial.rows for trial in trials(name)))
    assert name + " (runs)" in lrbench("study", "list").stdout
    stopped = lrbench("study", "stop", name)
    assert stopped.returncode == 0 and "has stopped" in stopped.stdout
    study.communicate(timeout=10)
    assert study.returncode == 130 and "interrupted" in {trial.state for trial in trials(name)}
    again = lrbench("study", "stop", name)
    assert again.returncode == 2 and "does not run" in again.stderr
    assert lrbench("study", "run", name).returncode == 0 and keys(trials(name)) == EXPECTED


@needs_caffe
def test_a_server_that_goes_away_in_mid_study_costs_nothing(dsn, name, lrbench, command, trials):
    """A server that is named is not started on demand."""
    study = start(*command(name, "--dsn", dsn))
    wait_until(lambda: any(trial.rows for trial in trials(name)))
    database.server.stop()
    time.sleep(3)
    database.server.start()
    output = study.communicate(timeout=100)
    assert study.returncode == 0, output[1]
    assert "trainings go on" in output[1]
    assert keys(trials(name)) == EXPECTED and {trial.attempt for trial in trials(name)} == {1}


@needs_caffe
def test_a_full_disk_fails_the_trainings_with_a_sentence_and_leaves_the_rest_well(
    dsn, name, digits, small_disk, tmp_path, trials
):
    path = nets.write(tmp_path, nets.solver(max_iter=500, test_interval=5))
    environment = dict(os.environ, PYTHONPATH=ROOT, LRBENCH_HOME=str(small_disk), LRBENCH_DSN=dsn)
    free = os.statvfs(str(small_disk))
    with open(str(small_disk / "filler"), "wb", buffering=0) as filler:
        filler.write(b"x" * ((free.f_bavail - 4) * free.f_bsize))
    words = [
        sys.executable,
        "-m",
        "lrbench_caffe",
        "study",
        "run",
        name,
        path,
        "--data",
        digits,
        "--policy",
        POLICIES[0],
    ]
    full = subprocess.run(
        words,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=100,
    )
    (failed,) = trials(name)
    assert full.returncode == 1 and "Traceback" not in full.stderr
    assert (
        failed.state == "failed"
        and "No space left" in failed.error
        and "LRBENCH_HOME" in failed.error
    )
    assert failed.rows and failed.rows[-1].iteration < 500, "what found room"
    os.remove(str(small_disk / "filler"))
    assert (
        subprocess.run(
            words + ["--retry-failed"], env=environment, stdout=subprocess.DEVNULL, timeout=100
        ).returncode
        == 0
    )
    (done,) = trials(name)
    assert done.state == "finished" and [row.iteration for row in done.rows] == list(
        range(0, 501, 5)
    )


@needs_caffe
def test_a_hopeless_training_is_pruned_and_says_why(name, lrbench, digits, trials):
    policies = ["FIX(k0=0.01)", "FIX(k0=0.02)", "FIX(k0=0.03)", "FIX(k0=0.000000001)"]
    words = [word for policy in policies for word in ("--policy", policy)]
    done = lrbench(
        "study",
        "run",
        name,
        DIGITS,
        "--data",
        digits,
        "--jobs",
        "1",
        "--prune",
        "0.3",
        "--max-iter",
        "200",
        *words,
    )
    assert done.returncode == 0
    states = {trial.policy: trial for trial in trials(name)}
    hopeless = states.pop("FIX(k0=1e-09)")
    assert (
        hopeless.state == "pruned" and "the median of 3 others" in hopeless.error and hopeless.rows
    )
    assert hopeless.rows[-1].iteration < 200 and {trial.state for trial in states.values()} == {
        "finished"
    }
    assert "(pruned)" in lrbench("study", "run", name).stdout, "and is not run again"


@pytest.mark.parametrize(
    "many, room", [(100, math.inf), pytest.param(10000, 2**32, marks=pytest.mark.long)]
)
def test_a_study_of_many_trials_records_each_of_them_in_little_memory(many, room, dsn):
    """Of 280 evaluations each; the training function is simulated, and nothing else.

    The few are on a real disk, where the thread that delivers the journal often finds a line half written.
    """
    with private_home(room):
        *_, megabytes = simulation.measure(database.server.start(), many, 280)
        with database.Store() as store:
            (summary,) = database.studies.summaries(store)
            rows = store.transaction(
                lambda cursor: (
                    cursor.execute(
                        "SELECT count(*) AS trials, min(rows) AS least FROM (SELECT count(*) AS rows FROM evaluation GROUP BY trial_id) AS counted"
                    )
                    or cursor.fetchone()
                )
            )
    assert summary.states == {"finished": many} and (rows.trials, rows.least) == (many, 280)
    assert megabytes < 300


def test_gpus_have_a_training_each():
    """As far as it goes without a GPU: which index each training gets, and when."""
    busy, seen, lock = set(), set(), threading.Lock()

    def training(job, stop, listen, threads):
        with lock:
            assert job.gpu not in busy and threads == 1
            busy.add(job.gpu)
            seen.add(job.gpu)
        time.sleep(0.01)
        with lock:
            busy.remove(job.gpu)

    problems = []
    Cores(gpus=parse_gpus("0,2,3"), train=training).run(
        [Job("x", id=str(n)) for n in range(50)],
        Stop(),
        lambda job, kind, content: problems.append(content),
    )
    assert seen == {0, 2, 3} and problems == []


@pytest.mark.parametrize("text", ["", "x", "0,", "-1", "0;1", "99999"])
def test_what_names_no_gpus_is_said_in_a_sentence(text):
    with pytest.raises(InputError, match="give indexes such as 0 or 0,1, or all"):
        parse_gpus(text)


@pytest.mark.parametrize(
    "words, sentence",
    [
        (("run", "no/name"), "no name for a study"),
        (("run", "not-there"), "no study not-there"),
        (("show", "not-there"), "no study"),
        (("run", "x", "--policy", "FIX(k0=0.1)"), "--policy needs a solver"),
        (("run", "x", "not-there.prototxt"), "is not there"),
        (("run", "x", DIGITS, "--policy", "FOX(k0=0.1)"), "did you mean FIX"),
        (("run", "x", "--gpu", "a"), "give indexes"),
        (("run", "x", "--cluster", "local", "--gpu", "0,1"), "one index with --cluster"),
        (("stop", "not-there"), "no study"),
        (("run", "x", "--seeds", "2"), "--seeds needs a solver"),
        (("run", "x", "--cluster", "bad:address"), "no scheduler's address"),
        (
            ("run", "x", "--cluster", "tcp://127.0.0.1:1", "--jobs", "2"),
            "--jobs is for this machine",
        ),
    ],
)
def test_what_cannot_be_run_is_said_in_a_sentence(words, sentence, lrbench):
    done = lrbench("study", *words)
    assert done.returncode == 2 and sentence in done.stderr and len(done.stderr.splitlines()) == 1
