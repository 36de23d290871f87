"""Studies: each trial is trained once, whatever happens to it or to the program that runs it."""

import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import nets
import pytest
import simulation
from conftest import ROOT, needs_caffe, private_home
from studies import DIGITS, EXPECTED, MAX_ITER, POLICIES, expected, held_rows, keys, start, states
from terminal import Terminal
from trials import record
from trials import trial as made_up
from waiting import LIMIT, wait_until

from lrbench_caffe.paths import home

pytest.importorskip(
    "psycopg2", reason="needs psycopg2 and PostgreSQL: run the tests with `make test`"
)
pytest.importorskip("rich", reason="needs rich: run the tests with `make test`")
import psycopg2

from lrbench_caffe import database, study
from lrbench_caffe.database import Store, studies
from lrbench_caffe.display.progress import StudyDisplay
from lrbench_caffe.errors import InputError
from lrbench_caffe.study import pooled
from lrbench_caffe.study.cores import Cores, parse_gpus
from lrbench_caffe.study.pruning import Pruner
from lrbench_caffe.study.stop import Stop
from lrbench_caffe.trial import Job


@needs_caffe
def test_a_study_trains_each_trial_once(name, invoke, command, trials):
    assert invoke(*command(name)).returncode == 0
    first = trials(name)
    assert keys(first) == EXPECTED and states(first) == ["finished"] * 4
    assert {trial.threads for trial in first} == {1}
    assert all("openblas" in trial.blas for trial in first)
    assert invoke(*command(name)).returncode == 0
    assert trials(name) == first, "finished trials are not trained again"
    new = ("--seeds", "1", "--policy", "EXP(k0=0.05, gamma=0.995)")
    assert invoke(*command(name, *new)).returncode == 0
    assert trials(name)[:4] == first and len(trials(name)) == 5, "new trials are added"
    assert "finished" in invoke("study", "list").stdout
    assert POLICIES[1] in invoke("study", "show", name).stdout


@needs_caffe
def test_killing_the_study_repeatedly_neither_loses_nor_duplicates_rows(
    name, invoke, command, trials, gate, kill
):
    """It is killed before its trainings begin, while two of them run, and after one has ended."""
    study = start(*command(name, gate=gate))
    wait_until(lambda: name + " (runs)" in invoke("study", "list").stdout)
    kill(study, gate)
    study = start(*command(name, "--jobs", "2", gate=gate))
    gate.wait(2)
    wait_until(lambda: held_rows(trials(name)) == 2)
    kill(study, gate)
    study = start(*command(name, "--jobs", "2", gate=gate))
    gate.release(gate.wait(2)[0])
    wait_until(lambda: "finished" in states(trials(name)))
    kill(study, gate)
    gate.open()
    assert invoke("study", "run", name).returncode == 0
    check_repeatedly_killed(name, trials(name))
    resumed = [trial for trial in trials(name) if trial.resumed_at is not None]
    assert resumed, "some trainings resumed from a snapshot"


@needs_caffe
@pytest.mark.long
def test_killing_the_study_at_random_moments_neither_loses_nor_duplicates_rows(
    name, invoke, command, trials, kill
):
    clock = random.Random(20)
    for _ in range(20):
        study = start(*command(name, "--jobs", "2", "--max-iter", "2000"))
        time.sleep(clock.uniform(0.5, 5))
        kill(study)
    assert invoke(*command(name, "--max-iter", "2000")).returncode == 0
    check_repeatedly_killed(name, trials(name), max_iter=2000)


def check_repeatedly_killed(name, trials, max_iter=MAX_ITER):
    assert keys(trials) == expected(max_iter=max_iter)
    assert states(trials) == ["finished"] * 4
    rows = [row for trial in trials for row in trial.rows]
    assert all(row.train_loss is not None for row in rows if row.iteration > 0)
    for row in rows:  # each row records whether its training had been resumed before
        assert row.resumed_at is None or row.resumed_at <= row.iteration
    folder = os.path.join(home(), "studies", name)
    assert os.listdir(folder) == [], "snapshots of finished trials are removed"


@needs_caffe
def test_ctrl_c_interrupts_a_study_which_then_resumes(name, invoke, command, trials, gate):
    study = start(*command(name, "--seeds", "1", "--jobs", "1", gate=gate))
    gate.wait()
    wait_until(lambda: held_rows(trials(name)))
    study.send_signal(signal.SIGINT)
    _, errors = study.communicate(timeout=LIMIT)
    assert study.returncode == 130 and "Traceback" not in errors
    last = "lrbench: interrupted: the same command resumes the study %s" % name
    assert errors.splitlines()[-1] == last
    (interrupted,) = trials(name)
    assert interrupted.state == "interrupted"
    gate.open()
    assert invoke("study", "run", name).returncode == 0
    resumed = next(trial for trial in trials(name) if trial.id == interrupted.id)
    assert resumed.state == "finished" and resumed.attempt == 2
    assert resumed.resumed_at >= interrupted.rows[-1].iteration
    before = len(interrupted.rows)
    assert resumed.rows[:before] == interrupted.rows, "earlier rows stay as they were measured"
    assert {row.resumed_at for row in resumed.rows[before:]} == {resumed.resumed_at}
    assert keys(trials(name)) == expected(seeds=[1])


@needs_caffe
def test_a_trial_that_caffe_aborts_leaves_the_others_running(
    name, tmp_path, digits, invoke, trials
):
    """A kernel larger than its image is one of many errors that only a CHECK of Caffe finds."""
    net = nets.net(body=nets.BODY.replace("kernel_size: 3", "kernel_size: 30"))
    broken = nets.write(tmp_path, net_text=net)
    options = ("--policy", "FIX(k0=0.01)", "--data", digits)
    assert invoke("study", "run", name, broken, *options).returncode == 1
    done = invoke("study", "run", name, DIGITS, "--max-iter", "50", *options)
    assert done.returncode == 1
    assert "1 of 2 trainings failed: `lrbench study run" in done.stderr
    by_network = {trial.setup.network.name: trial for trial in trials(name)}
    failed = by_network.pop("small")
    assert failed.state == "failed" and "Check failed" in failed.error
    assert [trial.state for trial in by_network.values()] == ["finished"]
    assert "failed: FIX(k0=0.01) with seed 1: Caffe ended the training: Check failed" in done.stdout


@needs_caffe
def test_a_study_takes_its_own_snapshots_and_not_those_of_the_solver(
    name, tmp_path, digits, trials, gate
):
    """Whatever their format and interval. The solver's settings are still recorded."""
    more = 'snapshot: 7 snapshot_prefix: "%s" snapshot_format: HDF5' % (tmp_path / "users")
    net = nets.net(head=nets.ACCURACY + nets.LOSS + gate.layer)
    path = nets.write(tmp_path, nets.solver(max_iter=60, test_interval=10, more=more), net)
    study = start("study", "run", name, path, "--data", digits)
    gate.wait()
    study.send_signal(signal.SIGINT)
    study.communicate(timeout=LIMIT)
    (trial,) = trials(name)
    assert trial.state == "interrupted" and trial.setup.solver["snapshot"] == 7
    files = os.listdir(os.path.join(home(), "studies", name, trial.id))
    assert any(file.endswith(".json") for file in files)
    assert any(file.endswith(".solverstate") for file in files)
    assert not list(tmp_path.glob("users*"))


@needs_caffe
def test_a_running_study_cannot_be_run_a_second_time(name, invoke, command, gate, kill):
    study = start(*command(name, gate=gate))
    gate.wait()
    second = invoke("study", "run", name)
    assert second.returncode == 2 and "already running" in second.stderr
    kill(study, gate)


@needs_caffe
def test_a_study_does_not_need_the_folder_of_the_solvers_snapshots(
    name, tmp_path, digits, dsn, trials
):
    """Its trials have their snapshots below LRBENCH_HOME; `train` would refuse this solver."""
    text = nets.solver(max_iter=20, more='snapshot: 10 snapshot_prefix: "no/such/folder/ours"')
    job = Job(nets.write(tmp_path, text), policy="FIX(k0=0.1)", data=digits, seed=1)
    with StudyDisplay() as display:
        study.run_study(name, Cores(1), display, [job], dsn)
    assert [trial.state for trial in trials(name)] == ["finished"]


@needs_caffe
def test_a_training_whose_process_cannot_start_leaves_the_others_running(
    name, tmp_path, digits, dsn, trials, monkeypatch
):
    """While the second of three would start, the folder for temporary files is missing."""
    path = nets.write(tmp_path, nets.solver(max_iter=20))
    jobs = [Job(path, policy="FIX(k0=%s)" % k0, data=digits, seed=1) for k0 in (0.1, 0.2, 0.3)]
    usable, problems = tempfile.gettempdir(), []
    monkeypatch.setattr(pooled, "PATIENCE_SECONDS", 0)

    def watch(job, kind, content):
        if kind == "end" and not problems:
            monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
        elif kind == "problem":
            problems.append((job.policy, content))
            monkeypatch.setattr(tempfile, "tempdir", usable)

    with StudyDisplay() as display:
        study.run_study(name, Cores(1), display, jobs, dsn, watchers=[watch])
    ((policy, problem),) = problems
    assert policy == "FIX(k0=0.2)" and "cannot start the process of the training" in problem
    assert [(trial.policy, trial.state) for trial in trials(name)] == [
        ("FIX(k0=0.1)", "finished"),
        ("FIX(k0=0.3)", "finished"),
    ]


@needs_caffe
def test_trainings_that_cannot_begin_are_reported_once_and_tried_again(
    name, tmp_path, invoke, dsn, trials
):
    """They cannot begin here because the data folder does not contain the LMDB of the net."""
    jobs = [
        Job(DIGITS, policy="FIX(k0=0.01)", seed=seed, max_iter=50, data=str(tmp_path))
        for seed in (1, 2, 3)
    ]
    with Store(dsn) as store:
        studies.add(store, name, jobs)
    done = invoke("study", "run", name)
    assert done.returncode == 1 and done.stderr.count("was not found") == 1
    assert "3 of 3 trainings could not begin" in done.stderr
    assert "3 of 3 trials have not begun" in invoke("study", "show", name).stdout
    assert trials(name) == []


@needs_caffe
@pytest.mark.parametrize(
    "options, message",
    [
        (["--data", "not-there"], "not found"),
        (["--data", "."], "was not found"),
        (["--head", "zz"], "does not have the head 'zz'"),
        (["--policy", "POLY(k0=0.02, p=1, l=20)"], "has no rate after iteration 20"),
        (["--policy", "POLY(k0=0.02, p=1, l=1 epoch)"], "has no rate after iteration 22"),
    ],
)
def test_a_training_that_can_never_begin_is_not_recorded(
    name, tmp_path, digits, invoke, dsn, options, message
):
    """It would stay in the study, whose other trainings are fine."""
    command = ["study", "run", name, DIGITS, "--policy", "FIX(k0=0.01)", "--max-iter", "50"]
    if "--data" not in options:
        command += ["--data", digits]
    done = invoke(*command, *options)
    assert done.returncode == 2 and message in done.stderr
    with Store(dsn) as store, pytest.raises(InputError, match="no study"):
        studies.jobs(store, name)


def test_drawing_the_terminal_does_not_block_trainings_that_end(monkeypatch):
    """If locks were taken in another order, the display and the trainings would deadlock."""

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("lrbench_caffe.display.screen.REFRESH_SECONDS", 0.001)
    jobs = [Job("x", id=str(n)) for n in range(200)]

    def train(job, display):
        display.on_event(job, "begin", made_up())
        display.on_event(job, "progress", {"iteration": 5, "max_iter": 10})
        display.on_event(job, "note", "note of " + job.id)
        display.on_event(job, "end", made_up().ended_as("finished", 1e9))

    def show():
        with StudyDisplay() as display:
            display.begin(jobs)
            with ThreadPoolExecutor(20) as threads:
                list(threads.map(lambda job: train(job, display), jobs))

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    thread.join(LIMIT)
    assert not thread.is_alive()
    assert screen.text.count("finished") == 200 and screen.text.count("note of") == 200


@needs_caffe
def test_a_training_killed_by_a_signal_has_failed_and_can_be_tried_again(
    name, invoke, command, trials, gate
):
    more = ("--seeds", "1", "--policy", "FIX(k0=0.02)")
    study = start(*command(name, *more, "--jobs", "1", gate=gate))
    for number, killed in ((signal.SIGKILL, 1), (signal.SIGSEGV, 2)):
        (training,) = gate.wait()
        wait_until(lambda: held_rows(trials(name)) == killed)
        os.kill(training, number)
        wait_until(lambda: states(trials(name)).count("failed") == killed)
    gate.open()
    _, errors = study.communicate(timeout=LIMIT)
    assert study.returncode == 1 and "Traceback" not in errors
    assert states(trials(name)) == ["failed", "failed", "finished"]
    failed = [trial.error for trial in trials(name) if trial.state == "failed"]
    assert all("Caffe's last message: " in error for error in failed)
    assert ["SIGKILL" in error for error in failed] == [True, False]
    assert ["SIGSEGV" in error for error in failed] == [False, True]
    assert invoke("study", "run", name).returncode == 1, "a failed trial is not trained by itself"
    assert invoke("study", "run", name, "--retry-failed").returncode == 0
    assert states(trials(name)) == ["finished"] * 3
    by_policies = [trial for trial in trials(name) if trial.policy in POLICIES]
    assert keys(by_policies) == expected(seeds=[1])


@needs_caffe
def test_study_stop_interrupts_a_study_which_then_resumes(name, invoke, command, trials, gate):
    study = start(*command(name, "--seeds", "1", "--jobs", "1", gate=gate))
    gate.wait()
    assert name + " (runs)" in invoke("study", "list").stdout
    stopped = invoke("study", "stop", name)
    assert stopped.returncode == 0 and "has stopped" in stopped.stdout
    study.communicate(timeout=LIMIT)
    assert study.returncode == 130 and states(trials(name)) == ["interrupted"]
    again = invoke("study", "stop", name)
    assert again.returncode == 2 and "is not running" in again.stderr
    gate.open()
    assert invoke("study", "run", name).returncode == 0
    assert keys(trials(name)) == expected(seeds=[1])


@needs_caffe
def test_a_database_server_that_goes_away_costs_no_rows(dsn, name, command, trials, gate):
    """Naming the server keeps the study from starting it on demand."""
    study = start(*command(name, "--dsn", dsn, "--jobs", "2", gate=gate))
    held = gate.wait(2)
    wait_until(lambda: held_rows(trials(name)) == 2)
    database.server.stop()
    try:
        for training in held:
            gate.release(training)
        journal = os.path.join(home(), "journal")
        reported = next((line for line in study.stderr if journal in line), None)
        gate.wait(2)  # the other two trainings do not end while the server is away
    finally:
        database.server.start()
        gate.open()
    _, errors = study.communicate(timeout=LIMIT)
    assert study.returncode == 0, errors
    assert reported, "the study reports where its rows wait"
    assert keys(trials(name)) == EXPECTED and {trial.attempt for trial in trials(name)} == {1}


@needs_caffe
def test_a_full_disk_fails_the_trainings_and_a_retry_completes_them(
    dsn, name, digits, small_disk, tmp_path, trials
):
    # The rows are more than a pipe holds, so the training cannot end before the disk is full.
    path = nets.write(tmp_path, nets.solver(max_iter=500, test_interval=2, test_iter=1))
    command = [sys.executable, "-m", "lrbench_caffe", "study", "run", name, path]
    command += ["--data", digits, "--policy", POLICIES[0]]
    options = {
        "env": dict(os.environ, PYTHONPATH=ROOT, LRBENCH_HOME=str(small_disk), LRBENCH_DSN=dsn),
        "timeout": LIMIT,
    }
    free = os.statvfs(str(small_disk))
    with open(str(small_disk / "filler"), "wb", buffering=0) as filler:
        filler.write(b"x" * ((free.f_bavail - 4) * free.f_bsize))
    full = subprocess.run(command, capture_output=True, text=True, **options)
    (failed,) = trials(name)
    assert full.returncode == 1 and "Traceback" not in full.stderr
    assert failed.state == "failed"
    assert "No space left" in failed.error and "LRBENCH_HOME" in failed.error
    assert failed.rows and failed.rows[-1].iteration < 500, "rows that fit are kept"
    os.remove(str(small_disk / "filler"))
    retry = subprocess.run([*command, "--retry-failed"], stdout=subprocess.DEVNULL, **options)
    assert retry.returncode == 0
    (done,) = trials(name)
    assert done.state == "finished"
    assert [row.iteration for row in done.rows] == list(range(0, 501, 2))


@needs_caffe
def test_a_hopeless_training_is_pruned_with_a_reason(name, invoke, command, trials):
    policies = ["FIX(k0=%s)" % rate for rate in ("0.01", "0.02", "0.03", "0.000000001")]
    # The rows are more than a pipe holds, so the training cannot end before it is pruned.
    options = ("--seeds", "1", "--jobs", "1", "--prune", "0.3", "--max-iter", "3000")
    assert invoke(*command(name, *options, policies=policies)).returncode == 0
    by_policy = {trial.policy: trial for trial in trials(name)}
    hopeless = by_policy.pop("FIX(k0=1e-09)")
    assert hopeless.state == "pruned" and "the median of 3 others" in hopeless.error
    assert hopeless.rows and hopeless.rows[-1].iteration < 3000
    assert states(by_policy.values()) == ["finished"] * 3
    assert "(pruned)" in invoke("study", "run", name).stdout, "and is not trained again"


def verdicts(pruner, trial_id, *shares):
    """What a Pruner returns for a trial whose evaluations have these Top-1, and for its end."""
    job, trial = Job("x", id=trial_id), made_up(top1=shares)
    pruner.on_event(job, "begin", trial)
    return [pruner.on_event(job, "row", row) for row in trial.rows]


def test_the_median_of_an_even_number_of_trials_is_between_the_two_in_the_middle():
    pruner = Pruner(0.2)
    for trial_id, share in zip("abcd", (0.2, 0.2, 0.6, 0.6)):
        verdicts(pruner, trial_id, share)
    assert verdicts(pruner, "e", 0.3) == [None]
    ((state, reason),) = verdicts(pruner, "f", 0.05)
    assert state == "pruned" and "below 30.00 %, the median of 5 others" in reason


def test_a_trial_that_begins_again_is_not_its_own_rival():
    """A trial begins again when its worker dies. Here all workers die at the second evaluation."""
    pruner = Pruner(0.1)
    for _ in range(4):
        assert verdicts(pruner, "a", 0.5, 0.9) == [None, None]
    verdicts(pruner, "b", 0.5, 0.9)
    assert verdicts(pruner, "c", 0.1, 0.1) == [None, None], "it has two rivals, and needs three"
    verdicts(pruner, "d", 0.5, 0.9)
    assert [verdict and verdict[0] for verdict in verdicts(pruner, "c", 0.1)] == ["pruned"]


def test_trials_that_ended_before_are_rivals(store):
    ended = [made_up(top1=(0.1, 0.9, 0.5)) for _ in range(3)]
    record(store, *ended)
    reached = studies.reached(store, [trial.id for trial in ended])
    (first, _, third) = verdicts(Pruner(0.2, reached), "new", 0.1, 0.9, 0.1)
    assert first is third is None, "its best Top-1 so far counts, and that of the others"
    (_, _, verdict) = verdicts(Pruner(0.2, reached), "new", 0.1, 0.7, 0.6)
    assert verdict is None
    (_, _, verdict) = verdicts(Pruner(0.1, reached), "new", 0.1, 0.75, 0.75)
    assert verdict == (
        "pruned",
        "at iteration 200 its best Top-1, 75.00 %, was more than 10 points below 90.00 %, the "
        "median of 3 others",
    )


class ClaimAskedToStop(studies.Claim):
    """A claim with a request to stop that arrives as soon as other programs know of the claim."""

    def _take(self):
        requests = super()._take()
        self._store.transaction(
            lambda cursor: cursor.execute("UPDATE study SET stop_requests = stop_requests + 1")
        )
        return requests


@pytest.mark.parametrize("claim", [studies.Claim, ClaimAskedToStop])
def test_requests_to_stop_count_from_the_claim_on(claim, database, store):
    studies.add(store, "claimed", [])
    store.transaction(lambda cursor: cursor.execute("UPDATE study SET stop_requests = 2"))
    stop, asked = Stop(), claim is ClaimAskedToStop
    with claim("claimed", database, stop, lambda note: None):
        if asked:
            wait_until(lambda: stop.requests)
    assert stop.requests == int(asked)


def test_a_study_knows_the_command_that_resumes_it(database, store, lrbench):
    studies.add(store, "waiting", [Job("x.prototxt")])
    arguments = ["study", "show", "waiting", "--dsn", database]
    sentence = "1 of 1 trials have not begun: %s starts them"
    assert sentence % "`lrbench study run waiting`" in lrbench(*arguments).stdout
    command = "lrbench tune x.prototxt --study waiting"
    studies.set_command(store, "waiting", command)
    assert studies.initial_information(store, "waiting", {"good": 1})["good"] == 1
    assert studies.initial_information(store, "waiting", {"good": 2})["good"] == 1
    assert studies.command(store, "waiting") == command
    shown = lrbench(*arguments).stdout
    assert sentence % ("`%s`, with the same options as before," % command) in shown


COUNT_ROWS = """
    SELECT count(*) AS trials, min(rows) AS fewest
    FROM (SELECT count(*) AS rows FROM evaluation GROUP BY trial_id) AS counts"""


@pytest.mark.parametrize(
    "count, room", [(40, math.inf), pytest.param(10000, 2**32, marks=pytest.mark.long)]
)
def test_a_large_study_is_recorded_completely_in_little_memory(count, room, dsn):
    """Each trial has 280 evaluations. Only the training function is simulated.

    The short variant writes to a real disk, where the thread that delivers the journal often reads
    an incomplete line.
    """
    with private_home(room):
        *_, megabytes = simulation.measure(database.server.start(), count, 280)
        with database.Store() as store:
            (summary,) = database.studies.summaries(store)
            rows = store.transaction(lambda cursor: cursor.execute(COUNT_ROWS) or cursor.fetchone())
    assert summary.states == {"finished": count} and (rows.trials, rows.fewest) == (count, 280)
    assert megabytes < 300


def test_each_gpu_trains_one_job_at_a_time():
    """Without a GPU: which device index each training gets, and when.

    A training ends only when three run, so the three GPUs must be in use at the same time.
    """
    busy, devices, lock = set(), set(), threading.Lock()
    three_run = threading.Barrier(3, timeout=LIMIT)

    def training(job, stop, on_event, threads):
        with lock:
            assert job.gpu not in busy and threads == 1
            busy.add(job.gpu)
            devices.add(job.gpu)
        three_run.wait()
        with lock:
            busy.remove(job.gpu)

    problems = []
    Cores(gpus=parse_gpus("0,2,3"), train=training).run(
        [Job("x", id=str(n)) for n in range(51)],
        Stop(),
        lambda job, kind, content: problems.append(content),
    )
    assert devices == {0, 2, 3} and problems == []


@pytest.mark.parametrize("text", ["", "x", "0,", "-1", "0;1", "99999"])
def test_invalid_gpus_are_refused(text):
    with pytest.raises(InputError, match="expected indexes such as 0 or 0,1, or all"):
        parse_gpus(text)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("run", "no/name"), "invalid study name"),
        (("run", "präfix"), "expected up to 100 of the letters a-z and A-Z, digits"),
        (("run", "not-there"), "no study not-there"),
        (("show", "not-there"), "no study"),
        (("run", "x", "--policy", "FIX(k0=0.1)"), "--policy needs a solver"),
        (("run", "x", "not-there.prototxt"), "solver not-there.prototxt not found"),
        (("run", "x", DIGITS, "--policy", "FOX(k0=0.1)"), "did you mean FIX"),
        (("run", "x", "--gpu", "a"), "expected indexes"),
        (("run", "x", "--cluster", "local", "--gpu", "0,1"), "one index with --cluster"),
        (("stop", "not-there"), "no study"),
        (("run", "x", "--seeds", "2"), "--seeds needs a solver"),
        (("run", "x", "--cluster", "bad:address"), "expected a scheduler's address"),
        (("run", "x", "--cluster", "tcp://127.0.0.1:1", "--jobs", "2"), "omit --jobs"),
    ],
)
def test_invalid_arguments_are_refused_in_one_line(arguments, message, invoke):
    done = invoke("study", *arguments)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1


def test_all_gpus_are_those_that_cuda_sees(monkeypatch, tmp_path):
    """Without a GPU: a program in the place of nvidia-smi lists four."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nfor n in 0 1 2 3; do echo GPU $n: H100; done\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert parse_gpus("all") == (0, 1, 2, 3)
    for visible, gpus in (
        ("3,1", (0, 1)),  # CUDA numbers them from 0
        ("GPU-8932f937, 2", (0, 1)),
        ("0,7,1", (0,)),  # and stops at a wrong one
        ("0,0", (0,)),
        ("1,-1,2", (0,)),
        ("1,²", (0,)),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert parse_gpus("all") == gpus
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,7")
    with monkeypatch.context() as without_program:
        without_program.setenv("PATH", "")
        assert parse_gpus("all") == (0, 1), "some containers have no nvidia-smi"
    for hidden in ("", "-1", "none"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        with pytest.raises(InputError, match="CUDA_VISIBLE_DEVICES=%s names no GPU" % hidden):
            parse_gpus("all")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    program.write_text("#!/bin/sh\necho No devices were found\n")
    with pytest.raises(InputError, match="nvidia-smi lists no GPU"):
        parse_gpus("all")


def test_a_study_that_is_being_deleted_is_created_again(store, database, name):
    """The deletion has locked the study, and ends while another program adds to it."""
    studies.add(store, name, [])
    deletion = psycopg2.connect(database)
    cursor = deletion.cursor()
    cursor.execute("SELECT FROM study WHERE name = %s FOR UPDATE", [name])
    cursor.execute("DELETE FROM study WHERE name = %s", [name])
    with Store(database) as another:
        adding = threading.Thread(target=studies.add, args=(another, name, [Job("/a.prototxt")]))
        adding.start()
        wait_until(lambda: store.select("SELECT FROM pg_locks WHERE NOT granted"))
        deletion.commit()
        adding.join()
    deletion.close()
    assert [entry.job.solver for entry in studies.jobs(store, name)] == ["/a.prototxt"]


def test_a_request_to_stop_counts_once_though_its_transaction_runs_twice(
    store, database, name, monkeypatch
):
    """The commit succeeds, but the connection is lost before the answer."""
    studies.add(store, name, [])
    once, stop = store.transaction, Stop()

    def twice(work):
        once(work)
        return once(work)

    with studies.Claim(name, database, stop, lambda note: None):
        monkeypatch.setattr(store, "transaction", twice)
        stopping = threading.Thread(target=studies.stop, args=(store, name))
        stopping.start()
        wait_until(lambda: stop.requests)
    stopping.join()
    assert stop.requests == 1
