"""A study on a Dask cluster: a real scheduler and real workers, in processes of their own."""

import json
import os
import signal
import subprocess
import sys

import pytest
from conftest import needs_caffe
from studies import EXPECTED, POLICIES, ROOT, TESTS, expected, held_rows, keys, start, states
from trials import trial as made_up
from waiting import LIMIT, wait_until

pytest.importorskip("distributed", reason="needs Dask: run the tests with `make test`")
import distributed

from lrbench_caffe.study import worker as workers
from lrbench_caffe.study.stop import Stop
from lrbench_caffe.study.trainings import Trainings
from lrbench_caffe.trial import Job


class DaskCluster:
    """A scheduler and workers of one thread each, as processes.

    Attributes:
        address: The scheduler's address.
        scheduler: Its process.
        workers: The processes of the workers.
    """

    def __init__(self, folder, **environment):
        """Start the scheduler; the environment variables are for it."""
        self._folder, self._file = str(folder), str(folder / "scheduler.json")
        options = ("--port", "0", "--no-dashboard", "--host", "127.0.0.1")
        self.scheduler = self._run("distributed.cli.dask_scheduler", *options, **environment)
        wait_until(lambda: os.path.exists(self._file) and os.path.getsize(self._file))
        with open(self._file) as opened:
            self.address = json.load(opened)["address"]
        self.workers = []

    def _run(self, module, *arguments, **environment):
        path = os.pathsep.join([ROOT, TESTS])
        with open(os.path.join(self._folder, "dask.log"), "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", module, "--scheduler-file", self._file, *arguments],
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=dict(os.environ, PYTHONPATH=path, **environment),
            )

    def have_workers(self, count):
        """Start workers until there are as many as that; return the cluster."""
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard")
        options += ("--local-directory", self._folder)
        while len(self.workers) < count:
            self.workers.append(self._run("distributed.cli.dask_worker", *options))
        return self

    def end(self):
        for process in [*self.workers, self.scheduler]:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A DaskCluster whose workers the tests may kill."""
    cluster = DaskCluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.end()


@pytest.fixture
def failing_cluster(tmp_path):
    """A DaskCluster of its own that does not repeat a training whose worker has died."""
    (tmp_path / "cluster").mkdir()
    environment = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
    cluster = DaskCluster(tmp_path / "cluster", **environment)
    yield cluster.have_workers(1)
    cluster.end()


def parent(pid):
    """The process id of a process's parent."""
    with open("/proc/%d/stat" % pid) as file:
        return int(file.read().rsplit(")", 1)[1].split()[1])


@needs_caffe
def test_a_killed_worker_costs_its_trial_the_time_since_the_last_snapshot(
    cluster, name, command, trials, gate
):
    workers = cluster.have_workers(2).workers
    more = ("--seeds", "1", "--cluster", cluster.address)
    study = start(*command(name, *more, gate=gate))
    training = gate.wait(2)[0]
    wait_until(lambda: held_rows(trials(name)) == 2)
    (killed,) = [worker for worker in workers if worker.pid == parent(training)]
    killed.kill()
    killed.wait()
    wait_until(lambda: not os.path.exists("/proc/%d" % training))  # none outlives its worker
    gate.open()
    _, errors = study.communicate(timeout=LIMIT)
    assert study.returncode == 0, errors
    recorded = trials(name)
    assert states(recorded) == ["finished"] * 2
    assert keys(recorded) == expected(seeds=[1]), "each row is recorded once"
    other, resumed = sorted(recorded, key=lambda trial: trial.attempt)
    assert (other.attempt, resumed.attempt) == (1, 2), "the other worker continued"
    assert resumed.resumed_at
    later = [row for row in resumed.rows if row.iteration > resumed.resumed_at]
    assert {row.resumed_at for row in later} == {resumed.resumed_at}


@needs_caffe
def test_a_study_whose_program_was_killed_can_be_resumed(
    cluster, name, command, trials, gate, kill
):
    """Its workers still train when the study is started again."""
    arguments = command(name, "--cluster", cluster.have_workers(2).address, gate=gate)
    study = start(*arguments)
    gate.wait(2)
    wait_until(lambda: held_rows(trials(name)) == 2)
    kill(study)
    again = start(*arguments)
    gate.open()
    _, errors = again.communicate(timeout=LIMIT)
    assert again.returncode == 0, errors
    assert keys(trials(name)) == EXPECTED
    assert states(trials(name)) == ["finished"] * 4


@needs_caffe
def test_ctrl_c_interrupts_a_local_cluster_and_the_study_resumes(
    name, invoke, command, trials, gate
):
    """Ctrl-C reaches every process of the terminal, the workers among them."""
    more = ("--seeds", "1", "--cluster", "local", "--jobs", "2")
    study = start(*command(name, *more, gate=gate), start_new_session=True)
    gate.wait(2)
    wait_until(lambda: held_rows(trials(name)) == 2)
    os.killpg(study.pid, signal.SIGINT)
    _, errors = study.communicate(timeout=LIMIT)
    assert study.returncode == 130 and "Traceback" not in errors, errors
    assert states(trials(name)) == ["interrupted"] * 2
    assert all(trial.error is None for trial in trials(name))
    gate.open()
    assert invoke("study", "run", name).returncode == 0
    assert keys(trials(name)) == expected(seeds=[1])
    assert all(trial.attempt == 2 and trial.resumed_at >= 20 for trial in trials(name))


@needs_caffe
def test_a_training_whose_workers_all_die_has_failed(failing_cluster, name, command, trials, gate):
    more = ("--seeds", "1", "--cluster", failing_cluster.address)
    study = start(*command(name, *more, gate=gate, policies=POLICIES[:1]))
    gate.wait()
    wait_until(lambda: held_rows(trials(name)))
    failing_cluster.workers[0].kill()
    _, errors = study.communicate(timeout=LIMIT)
    (trial,) = trials(name)
    assert study.returncode == 1 and "Traceback" not in errors, errors
    assert trial.state == "failed" and "its Dask workers died" in trial.error and trial.rows


@needs_caffe
def test_a_study_that_loses_its_scheduler_can_be_resumed(
    failing_cluster, name, command, invoke, trials, gate
):
    more = ("--seeds", "1", "--cluster", failing_cluster.address)
    study = start(*command(name, *more, gate=gate))
    gate.wait()
    wait_until(lambda: held_rows(trials(name)))
    failing_cluster.scheduler.kill()
    _, errors = study.communicate(timeout=LIMIT)
    assert study.returncode == 1 and "Traceback" not in errors, errors
    assert "lost the Dask cluster" in errors and "run the same command again" in errors
    assert states(trials(name)) == ["interrupted"]
    gate.open()
    assert invoke("study", "run", name).returncode == 0
    assert keys(trials(name)) == expected(seeds=[1])


def test_an_unreachable_cluster_is_reported_in_one_line(name, lrbench, command):
    done = lrbench(*command(name, "--cluster", "tcp://127.0.0.1:1"))
    assert done.returncode == 2 and "dask scheduler" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_worker_needs_no_psycopg2():
    code = "import sys; sys.modules['psycopg2'] = None; import lrbench_caffe.study.worker"
    environment = dict(os.environ, PYTHONPATH=ROOT)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def _begin_and_fail_elsewhere(job, channel, version):
    """Send what two executions of a job send if the worker of the first one dies.

    The second one cannot begin, for example because its worker does not have the data.
    """
    queue = distributed.Queue(channel, client=distributed.get_client())
    first, second = workers._Sender(queue, job.id), workers._Sender(queue, job.id)
    first.send("start", "inproc://first")
    first.on_event("begin", made_up(top1=(), state="running"))
    first.on_event("row", made_up().rows[0])
    second.send("start", "inproc://second")
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
        Trainings(client, (), [Job("x", id="1")], Stop(), record, 600).run()
    (_, _), (_, row), (kind, trial) = events
    assert (kind, trial.state, trial.error) == ("end", "failed", "no data here")
    assert trial.rows == (row,)
