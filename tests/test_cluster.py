"""A study on a Dask cluster: a real scheduler and real workers, in processes of their own, some of which die."""

import json
import os
import signal
import subprocess
import sys

import nets
import pytest
from conftest import ROOT, needs_caffe
from studies import DIGITS, EXPECTED, expected, folder_of, keys, start, trainings_of, wait_until

pytest.importorskip("distributed", reason="needs Dask: run the tests with `make test`")


@pytest.fixture
def cluster(tmp_path):
    """cluster(workers=3, ...) starts a scheduler and workers of one thread each; gives the scheduler's address and all processes."""
    processes = []

    def started(*words, **environment):
        command = [sys.executable, "-m"] + list(words)
        processes.append(
            subprocess.Popen(
                command,
                stdout=subprocess.DEVNULL,
                stderr=open(str(tmp_path / "dask.log"), "ab"),
                env=dict(os.environ, PYTHONPATH=ROOT, **environment),
            )
        )

    def start_cluster(workers=3, options=(), **environment):
        file = str(tmp_path / "scheduler.json")
        started(
            "distributed.cli.dask_scheduler",
            "--port",
            "0",
            "--no-dashboard",
            "--host",
            "127.0.0.1",
            "--scheduler-file",
            file,
            **environment,
        )
        wait_until(lambda: os.path.exists(file) and os.path.getsize(file))
        for _ in range(workers):
            started(
                "distributed.cli.dask_worker",
                "--scheduler-file",
                file,
                "--nthreads",
                "1",
                "--no-nanny",
                "--no-dashboard",
                "--local-directory",
                str(tmp_path),
                *options,
            )
        with open(file) as opened:
            return json.load(opened)["address"], processes

    yield start_cluster
    for process in reversed(processes):
        process.kill()
        process.wait()


@needs_caffe
def test_a_worker_that_is_killed_costs_its_trial_the_time_since_its_snapshot(
    cluster, name, command, trials
):
    address, (_, *workers) = cluster(workers=3)
    # Trainings that are long enough to be stopped on their way on any machine.
    study = start(*command(name, "--cluster", address, "--max-iter", "2000"))

    def stopped():
        """A worker, its training, stopped after its first snapshot, and the trial."""
        for worker in workers:
            for child in trainings_of(worker.pid):
                os.kill(child, signal.SIGSTOP)
                folder = folder_of(child)
                if folder and os.path.exists(os.path.join(folder, "state.json")):
                    return worker, child, os.path.basename(folder)
                os.kill(child, signal.SIGCONT)
        return None

    victim, child, cut_off = wait_until(stopped)
    victim.kill()
    os.kill(child, signal.SIGCONT)
    output = study.communicate(timeout=200)
    assert study.returncode == 0, output[1]
    found = trials(name)
    assert {trial.state for trial in found} == {"finished"}
    assert keys(found) == expected(max_iter=2000), "each row is there once"
    (again,) = [trial for trial in found if trial.id == cut_off]
    assert again.attempt == 2 and again.resumed_at
    later = [row for row in again.rows if row.iteration > again.resumed_at]
    assert {row.resumed_at for row in later} == {again.resumed_at}
    assert not os.path.exists("/proc/%d" % child), "no training outlives its worker"


@needs_caffe
def test_kill_9_of_the_program_that_runs_the_study_leaves_it_to_be_gone_on_with(
    cluster, name, command, trials
):
    address, _ = cluster(workers=2)
    study = start(*command(name, "--cluster", address))
    wait_until(
        lambda: any(trial.rows and trial.rows[-1].iteration >= 100 for trial in trials(name))
    )
    study.kill()
    study.communicate()
    again = start(*command(name, "--cluster", address))
    output = again.communicate(timeout=200)
    assert again.returncode == 0, output[1]
    assert keys(trials(name)) == EXPECTED and {trial.state for trial in trials(name)} == {
        "finished"
    }


@needs_caffe
def test_a_local_cluster_ends_politely_with_ctrl_c_and_goes_on(name, lrbench, command, trials):
    """Ctrl-C reaches every process of the terminal, the workers among them."""
    study = subprocess.Popen(
        [sys.executable, "-m", "lrbench_caffe"]
        + command(name, "--cluster", "local", "--jobs", "2"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=ROOT),
        universal_newlines=True,
        start_new_session=True,
    )
    wait_until(
        lambda: (
            sum(bool(trial.rows) and trial.rows[-1].iteration >= 50 for trial in trials(name)) >= 2
        )
    )
    os.killpg(study.pid, signal.SIGINT)
    output = study.communicate(timeout=60)
    assert study.returncode == 130 and "Traceback" not in output[1], output[1]
    cut = [trial for trial in trials(name) if trial.state == "interrupted"]
    assert cut and all(trial.error is None for trial in cut)
    assert lrbench("study", "run", name, "--cluster", "local", "--jobs", "2").returncode == 0
    assert keys(trials(name)) == EXPECTED
    resumed = [trial for trial in trials(name) if trial.id in {trial.id for trial in cut}]
    assert all(trial.attempt == 2 and trial.resumed_at >= 50 for trial in resumed)


@needs_caffe
def test_a_training_whose_workers_all_die_is_marked_as_failed(
    cluster, name, digits, tmp_path, trials
):
    path = nets.write(tmp_path, nets.solver(max_iter=10**6, test_interval=100))
    address, (_, worker) = cluster(workers=1, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0")
    study = start("study", "run", name, path, "--data", digits, "--cluster", address)
    wait_until(lambda: any(trial.rows for trial in trials(name)))
    worker.kill()
    output = study.communicate(timeout=60)
    (trial,) = trials(name)
    assert study.returncode == 1 and "Traceback" not in output[1], output[1]
    assert trial.state == "failed" and "its Dask workers died" in trial.error and trial.rows


@needs_caffe
def test_a_scheduler_that_is_lost_ends_the_study_with_a_sentence(
    cluster, name, digits, lrbench, tmp_path, trials
):
    path = nets.write(tmp_path, nets.solver(max_iter=10**6, test_interval=100))
    address, (scheduler, worker) = cluster(workers=1)
    study = start(
        "study", "run", name, path, "--data", digits, "--max-iter", "5000", "--cluster", address
    )
    wait_until(lambda: any(trial.rows for trial in trials(name)))
    scheduler.kill()
    output = study.communicate(timeout=100)
    assert study.returncode == 1 and "Traceback" not in output[1], output[1]
    assert "was lost" in output[1] and "run the study again" in output[1]
    assert trials(name)[0].state == "interrupted"
    assert (
        lrbench("study", "run", name).returncode == 0 and trials(name)[0].rows[-1].iteration == 5000
    )


def test_a_cluster_that_is_not_there_is_said_in_a_sentence(name, lrbench, digits):
    done = lrbench("study", "run", name, DIGITS, "--data", digits, "--cluster", "tcp://127.0.0.1:1")
    assert (
        done.returncode == 2
        and "dask scheduler" in done.stderr
        and len(done.stderr.splitlines()) == 1
    )
