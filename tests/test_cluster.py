"""A study on a Dask cluster: a real scheduler and real workers, in processes of their own."""

import json
import os
import signal
import subprocess
import sys

import nets
import pytest
from conftest import ROOT, needs_caffe
from studies import DIGITS, EXPECTED, expected, keys, pause_training, start, wait_until
from trials import trial as made_up

pytest.importorskip("distributed", reason="needs Dask: run the tests with `make test`")
import distributed

from lrbench_caffe.study import cluster as clusters
from lrbench_caffe.study import worker as workers
from lrbench_caffe.study.stop import Stop
from lrbench_caffe.trial import Job


@pytest.fixture
def cluster(tmp_path):
    """Start a scheduler and workers of one thread each.

    cluster(workers=3, **environment) returns the scheduler's address and all processes, the
    scheduler first. The environment variables are for the scheduler.
    """
    processes = []
    file = str(tmp_path / "scheduler.json")

    def run(module, *arguments, **environment):
        with open(str(tmp_path / "dask.log"), "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, "--scheduler-file", file, *arguments],
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=dict(os.environ, PYTHONPATH=ROOT, **environment),
            )
        processes.append(process)

    def start_cluster(workers=3, **environment):
        options = ("--port", "0", "--no-dashboard", "--host", "127.0.0.1")
        run("distributed.cli.dask_scheduler", *options, **environment)
        wait_until(lambda: os.path.exists(file) and os.path.getsize(file))
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard")
        for _ in range(workers):
            run("distributed.cli.dask_worker", *options, "--local-directory", str(tmp_path))
        with open(file) as opened:
            return json.load(opened)["address"], processes

    yield start_cluster
    for process in reversed(processes):
        process.kill()
        process.wait()


@needs_caffe
def test_a_killed_worker_costs_its_trial_the_time_since_the_last_snapshot(
    cluster, name, command, trials
):
    address, (_, *workers) = cluster(workers=3)
    study = start(*command(name, "--cluster", address, "--max-iter", "2000"))

    def has_early_snapshot(folder):
        path = os.path.join(folder, "state.json")
        if not os.path.exists(path):
            return False
        with open(path) as file:
            return json.load(file)["iteration"] <= 1500

    # The worker is killed while its training is paused, so that the training cannot end before.
    parents = [worker.pid for worker in workers]
    parent, training, folder = pause_training(parents, has_early_snapshot)
    workers[parents.index(parent)].kill()
    os.kill(training, signal.SIGCONT)
    _, errors = study.communicate(timeout=300)
    assert study.returncode == 0, errors
    recorded = trials(name)
    assert {trial.state for trial in recorded} == {"finished"}
    assert keys(recorded) == expected(max_iter=2000), "each row is recorded once"
    (resumed,) = [trial for trial in recorded if trial.id == os.path.basename(folder)]
    assert resumed.attempt == 2 and resumed.resumed_at
    assert sum(trial.attempt == 1 for trial in recorded) >= 2, "the other workers continued"
    later = [row for row in resumed.rows if row.iteration > resumed.resumed_at]
    assert {row.resumed_at for row in later} == {resumed.resumed_at}
    assert not os.path.exists("/proc/%d" % training), "no training outlives its worker"


@needs_caffe
def test_a_study_whose_program_was_killed_can_be_resumed(cluster, name, command, trials):
    address, _ = cluster(workers=2)
    study = start(*command(name, "--cluster", address))
    wait_until(
        lambda: any(trial.rows and trial.rows[-1].iteration >= 100 for trial in trials(name))
    )
    study.kill()
    study.communicate()
    again = start(*command(name, "--cluster", address))
    _, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    assert keys(trials(name)) == EXPECTED
    assert {trial.state for trial in trials(name)} == {"finished"}


@needs_caffe
def test_ctrl_c_interrupts_a_local_cluster_and_the_study_resumes(name, lrbench, command, trials):
    """Ctrl-C reaches every process of the terminal, the workers among them."""
    arguments = command(name, "--cluster", "local", "--jobs", "2")
    study = start(*arguments, start_new_session=True)

    def two_run():
        running = [trial for trial in trials(name) if trial.state == "running" and trial.rows]
        return sum(trial.rows[-1].iteration >= 50 for trial in running) == 2

    wait_until(two_run)
    os.killpg(study.pid, signal.SIGINT)
    _, errors = study.communicate(timeout=120)
    assert study.returncode == 130 and "Traceback" not in errors, errors
    interrupted = [trial for trial in trials(name) if trial.state == "interrupted"]
    assert interrupted and all(trial.error is None for trial in interrupted)
    assert lrbench("study", "run", name, "--cluster", "local", "--jobs", "2").returncode == 0
    assert keys(trials(name)) == EXPECTED
    ids = {trial.id for trial in interrupted}
    resumed = [trial for trial in trials(name) if trial.id in ids]
    assert all(trial.attempt == 2 and trial.resumed_at >= 50 for trial in resumed)


@needs_caffe
def test_a_training_whose_workers_all_die_has_failed(cluster, name, digits, tmp_path, trials):
    path = nets.write(tmp_path, nets.solver(max_iter=10**6, test_interval=100))
    address, (_, worker) = cluster(workers=1, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0")
    study = start("study", "run", name, path, "--data", digits, "--cluster", address)
    wait_until(lambda: any(trial.rows for trial in trials(name)))
    worker.kill()
    _, errors = study.communicate(timeout=120)
    (trial,) = trials(name)
    assert study.returncode == 1 and "Traceback" not in errors, errors
    assert trial.state == "failed" and "its Dask workers died" in trial.error and trial.rows


@needs_caffe
def test_a_study_that_loses_its_scheduler_can_be_resumed(
    cluster, name, digits, lrbench, tmp_path, trials
):
    path = nets.write(tmp_path, nets.solver(max_iter=5000, test_interval=100))
    address, (scheduler, _) = cluster(workers=1)
    study = start("study", "run", name, path, "--data", digits, "--cluster", address)
    wait_until(lambda: any(trial.rows for trial in trials(name)))
    scheduler.kill()
    _, errors = study.communicate(timeout=200)
    assert study.returncode == 1 and "Traceback" not in errors, errors
    assert "lost the Dask cluster" in errors and "run the same command again" in errors
    assert trials(name)[0].state == "interrupted"
    assert lrbench("study", "run", name).returncode == 0
    assert trials(name)[0].rows[-1].iteration == 5000


def test_an_unreachable_cluster_is_reported_in_one_line(name, lrbench, digits):
    done = lrbench("study", "run", name, DIGITS, "--data", digits, "--cluster", "tcp://127.0.0.1:1")
    assert done.returncode == 2 and "dask scheduler" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_worker_needs_no_psycopg2():
    code = "import sys; sys.modules['psycopg2'] = None; import lrbench_caffe.study.worker"
    environment = dict(os.environ, PYTHONPATH=ROOT)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=100)


def _begin_and_fail_elsewhere(job, channel):
    """Send what two executions of a job send if the worker of the first one dies.

    The second one cannot begin, for example because its worker does not have the data.
    """
    queue = distributed.Queue(channel, client=distributed.get_client())
    first, second = workers._Sender(queue, job.id), workers._Sender(queue, job.id)
    first.on_event("begin", made_up(top1=(), state="running"))
    first.on_event("row", made_up().rows[0])
    second.send("problem", "no data here")
    second.send("done", None)


def test_a_training_that_cannot_begin_on_its_second_worker_has_failed(monkeypatch):
    monkeypatch.setattr(workers, "train_job", _begin_and_fail_elsewhere)
    events = []

    def record(job, kind, content):
        if kind != "note":
            events.append((kind, content))

    options = {"processes": False, "n_workers": 1, "threads_per_worker": 1}
    with distributed.Client(dashboard_address=None, **options) as client:
        clusters._Trainings(client, (), [Job("x", id="1")], Stop(), record).run()
    (_, _), (_, row), (kind, trial) = events
    assert (kind, trial.state, trial.error) == ("end", "failed", "no data here")
    assert trial.rows == (row,)
