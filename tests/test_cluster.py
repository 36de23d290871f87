"""A study on a Dask cluster: a real scheduler and real workers, in processes of their own."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import needs_caffe
from processes import parent
from studies import EXPECTED, POLICIES, ROOT, TESTS, expected, held_rows, keys, start, states
from test_pycaffe import WITHOUT_CAFFE, write_fork
from waiting import LIMIT, wait_until

pytest.importorskip("distributed", reason="needs Dask: run the tests with `make test`")
import dask
from distributed import Client

from lrbench_caffe.errors import InputError
from lrbench_caffe.study import cluster as clusters
from lrbench_caffe.study.cluster import Cluster
from lrbench_caffe.study.stop import Stop
from lrbench_caffe.trial import Job

KILLS = 40  # of workers at random moments
LOCAL_ENDS = 20  # of local clusters at random moments


class DaskCluster:
    """A scheduler and workers of one thread each, as processes.

    Attributes:
        address: The scheduler's address.
        scheduler: Its process.
        workers: The processes of the workers.
    """

    def __init__(self, folder, protocol="tcp", **environment):
        """Start the scheduler; the environment variables are for it and the workers."""
        self._folder, self._file = str(folder), str(folder / "scheduler.json")
        self._environment = environment
        options = ("--port", "0", "--no-dashboard", "--host", protocol + "://127.0.0.1")
        self.scheduler = self._run("distributed.cli.dask_scheduler", *options)
        wait_until(lambda: os.path.exists(self._file) and os.path.getsize(self._file))
        with open(self._file) as opened:
            self.address = json.load(opened)["address"]
        self.workers = []

    def _run(self, module, *arguments, path=(ROOT, TESTS)):
        with open(os.path.join(self._folder, "dask.log"), "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", module, "--scheduler-file", self._file, *arguments],
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=self._folder,
                env=dict(os.environ, PYTHONPATH=os.pathsep.join(path), **self._environment),
            )

    def have_workers(self, count):
        """Start workers until there are as many as that; return the cluster."""
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        while len(self.workers) < count:
            self.add_worker()
        return self

    def add_worker(self, **options):
        """Start one more worker; path lists the folders of its PYTHONPATH."""
        arguments = ("--nthreads", "1", "--no-nanny", "--no-dashboard")
        arguments += ("--local-directory", self._folder)
        self.workers.append(self._run("distributed.cli.dask_worker", *arguments, **options))

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


def pending(pid, number):
    """Whether a process has not received a signal yet that was sent to it."""
    with open("/proc/%d/status" % pid) as file:
        masks = [line.split()[1] for line in file if line.startswith(("SigPnd", "ShdPnd"))]
    return any(int(mask, 16) & 1 << (number - 1) for mask in masks)


@needs_caffe
def test_a_killed_worker_costs_its_trial_the_time_since_the_last_snapshot(
    cluster, name, command, trials, gate
):
    workers = cluster.have_workers(2).workers
    more = ("--seeds", "1", "--cluster", cluster.address)
    study = start(*command(name, *more, gate=gate))
    training = gate.wait(2)[0]
    wait_until(lambda: held_rows(trials(name)) == 2)
    (killed,) = [worker for worker in workers if worker.pid == parent(parent(training))]
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
@pytest.mark.long
def test_killing_workers_at_random_moments_neither_loses_nor_duplicates_rows(
    name, command, trials, tmp_path
):
    """Workers are killed while they start, while they wait and while they train."""
    (tmp_path / "cluster").mkdir()
    environment = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1000"}
    cluster = DaskCluster(tmp_path / "cluster", **environment).have_workers(2)
    clock, kills = random.Random(20), 0
    try:
        study = start(*command(name, "--max-iter", "12000", "--cluster", cluster.address))
        while study.poll() is None and kills < KILLS:
            time.sleep(clock.uniform(0.1, 4))
            killed = clock.choice(cluster.workers)
            killed.send_signal(clock.choice([signal.SIGKILL, signal.SIGTERM]))
            killed.wait()
            kills += 1
            cluster.have_workers(2)
        _, errors = study.communicate(timeout=LIMIT)
        assert study.returncode == 0, errors
        assert states(trials(name)) == ["finished"] * 4
        assert keys(trials(name)) == expected(max_iter=12000), "each row is recorded once"
        print("%d workers killed, %d rows" % (kills, len(keys(trials(name)))))
    finally:
        cluster.end()


@needs_caffe
@pytest.mark.long
def test_ending_a_local_cluster_at_random_moments_neither_loses_nor_duplicates_rows(
    name, invoke, command, trials
):
    """The signals go to all processes of the study, as those of `timeout` and systemd do."""
    clock, ends, signals = random.Random(20), 0, [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL]
    arguments = command(name, "--max-iter", "6000", "--cluster", "local", "--jobs", "2")
    study = start(*arguments, start_new_session=True)
    while study.poll() is None and ends < LOCAL_ENDS:
        time.sleep(clock.uniform(0.5, 8))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(study.pid, clock.choice(signals))
            ends += 1
        _, errors = study.communicate(timeout=LIMIT)
        assert "Traceback" not in errors, errors
        study = start(*arguments, start_new_session=True)
    study.communicate(timeout=LIMIT)
    assert invoke(*arguments).returncode == 0
    assert keys(trials(name)) == expected(max_iter=6000), "each row is recorded once"
    assert states(trials(name)) == ["finished"] * 4
    print("%d local clusters ended, %d rows" % (ends, len(keys(trials(name)))))


@needs_caffe
def test_a_validation_set_reaches_the_workers(
    cluster, name, command, trials, invoke, digits, tmp_path
):
    """A copy of the test set, so that both have the same metrics."""
    cluster.have_workers(1)
    shutil.copytree(os.path.join(digits, "digits_test_lmdb"), str(tmp_path / "copy"))
    more = ("--seeds", "1", "--max-iter", "10", "--cluster", cluster.address)
    done = invoke(*command(name, *more, "--validation", tmp_path / "copy", policies=POLICIES[:1]))
    assert done.returncode == 0, done.stderr
    assert "chosen on the validation set, reported on the test set" in done.stdout
    (trial,) = trials(name)
    assert [row.iteration for row in trial.rows] == [0, 10]
    for row in trial.rows:
        assert row.measured_on == "validation" and row.on("test").top1 == row.top1
    assert trial.setup.solver["select_samples"] == 400


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
def test_workers_that_cannot_train_are_named_and_another_one_trains(
    tmp_path, name, command, lrbench, trials
):
    """One without this program, one without Caffe, and one whose Caffe cannot be imported."""
    for folder in ("cluster", "without"):
        (tmp_path / folder).mkdir()
    (tmp_path / "without" / "sitecustomize.py").write_text(WITHOUT_CAFFE)
    fork = write_fork(tmp_path, "raise ImportError('libcudart.so.11: not found')\n")
    cluster = DaskCluster(tmp_path / "cluster")
    try:
        arguments = command(name, "--max-iter", "10", "--cluster", cluster.address)
        with Client(cluster.address, set_as_default=False) as client:
            cluster.add_worker(path=[TESTS])
            client.wait_for_workers(1)
            alone = lrbench(*arguments)
            for path in ([ROOT, str(tmp_path / "without")], [fork, ROOT], [ROOT, TESTS]):
                cluster.add_worker(path=path)
            client.wait_for_workers(4)
        done = lrbench(*arguments)
    finally:
        cluster.end()
    assert alone.returncode == 1 and "4 of 4 trainings could not begin" in alone.stderr
    assert "cannot import lrbench_caffe (ModuleNotFoundError" in alone.stderr
    assert done.returncode == 0, done.stderr
    assert states(trials(name)) == ["finished"] * 4
    notes = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    for reason, end in (
        (
            "cannot import lrbench_caffe (ModuleNotFoundError: No module named 'lrbench_caffe')",
            "other workers train",
        ),
        ("Caffe is not installed for this Python", "another worker tries"),
        ("cannot import caffe (ImportError: libcudart.so.11: not found)", "another worker tries"),
    ):
        (note,) = [note for note in notes if reason in note]
        assert "the worker tcp://" in note and note.endswith("; " + end)


def listening_sockets(pid):
    """The sockets of a process that accept connections from other machines or users."""
    owned = set()
    for name in os.listdir("/proc/%d/fd" % pid):
        target = os.readlink("/proc/%d/fd/%s" % (pid, name))
        owned.add(target.replace("socket:[", "").rstrip("]"))
    listening = []
    for protocol in ("tcp", "tcp6"):
        with open("/proc/%d/net/%s" % (pid, protocol)) as file:
            lines = [line.split() for line in file.readlines()[1:]]
        listening += [line[1] for line in lines if line[3] == "0A" and line[9] in owned]
    return listening


@needs_caffe
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_of_a_local_cluster_interrupts_it_and_the_study_resumes(
    name, invoke, command, trials, gate, number
):
    """Ctrl-C reaches every process of the terminal. `timeout` and systemd do the same."""
    more = ("--seeds", "1", "--cluster", "local", "--jobs", "2")
    study = start(*command(name, *more, gate=gate), start_new_session=True)
    gate.wait(2)
    wait_until(lambda: held_rows(trials(name)) == 2)
    assert not listening_sockets(study.pid), "nobody can connect and have code executed"
    os.killpg(study.pid, number)
    _, errors = study.communicate(timeout=LIMIT)
    assert study.returncode == 130 and "Traceback" not in errors, errors
    assert states(trials(name)) == ["interrupted"] * 2
    assert all(trial.error is None for trial in trials(name))
    gate.open()
    assert invoke("study", "run", name).returncode == 0
    assert keys(trials(name)) == expected(seeds=[1])
    assert all(trial.attempt == 2 and trial.resumed_at >= 20 for trial in trials(name))


@pytest.fixture(scope="module")
def empty_cluster(tmp_path_factory):
    """A DaskCluster without a worker."""
    cluster = DaskCluster(tmp_path_factory.mktemp("empty"))
    yield cluster
    cluster.end()


def test_a_study_on_a_cluster_without_workers_ends(
    empty_cluster, name, command, invoke, monkeypatch
):
    monkeypatch.setattr(clusters, "_PATIENCE", "0 s")
    done = invoke(*command(name, "--cluster", empty_cluster.address))
    assert done.returncode == 1
    assert "the cluster has no worker: trainings wait for one, up to 0 s" in done.stderr
    assert "nothing has trained on it for 0 s, and none of its workers can train" in done.stderr
    assert "run the same command again to resume" in done.stderr


def test_a_second_ctrl_c_ends_a_study_whose_scheduler_is_frozen(empty_cluster, name, command):
    study = start(*command(name, "--cluster", empty_cluster.address))
    while "the cluster has no worker" not in study.stderr.readline():
        assert study.poll() is None
    empty_cluster.scheduler.send_signal(signal.SIGSTOP)
    try:
        interrupt_twice(study)
        _, errors = study.communicate(timeout=LIMIT)
    finally:
        empty_cluster.scheduler.send_signal(signal.SIGCONT)
    assert study.returncode == 130 and "Traceback" not in errors, errors


def test_a_second_ctrl_c_ends_a_study_whose_scheduler_never_answers(name, command):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = "tcp://127.0.0.1:%d" % server.getsockname()[1]
        study = start(*command(name, "--cluster", address))
        connection, _ = server.accept()
        with connection:
            interrupt_twice(study)
            _, errors = study.communicate(timeout=LIMIT)
    assert study.returncode == 130 and "Traceback" not in errors, errors


def interrupt_twice(study):
    """Send two Ctrl-C; Python counts two signals as one if it has not handled the first."""
    study.send_signal(signal.SIGINT)
    wait_until(lambda: not pending(study.pid, signal.SIGINT))
    study.send_signal(signal.SIGINT)


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


@pytest.mark.parametrize("value", ["soon", "-1 s"])
def test_an_invalid_patience_is_refused(value, monkeypatch):
    monkeypatch.setattr(clusters, "_PATIENCE", value)
    with pytest.raises(InputError, match="invalid lrbench.patience %s" % value):
        Cluster("local").run([Job("x", id="1")], Stop(), lambda *event: None)


@pytest.mark.parametrize(
    "address, is_open",
    [
        ("local", False),
        ("tls://example.org:8786", False),
        ("tcp://localhost:8786", False),
        ("127.0.0.1:8786", False),
        ("tcp://[::1]:8786", False),
        ("tcp://example.org:8786", True),
        ("10.0.0.1:8786", True),
    ],
)
def test_an_open_cluster_on_another_machine_is_noted(address, is_open):
    assert clusters._is_open(address) == is_open


@pytest.fixture
def certificates(tmp_path):
    """Make certificates for TLS: Dask's configuration as environment variables.

    certificates(name) makes a certificate authority of its own.
    """
    if not shutil.which("openssl"):
        pytest.skip("needs the program openssl")

    def make(name):
        key, certificate = str(tmp_path / (name + ".key")), str(tmp_path / (name + ".pem"))
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        command += ["-subj", "/CN=" + name, "-keyout", key, "-out", certificate]
        subprocess.run(command, check=True, capture_output=True)
        environment = {"DASK_DISTRIBUTED__COMM__TLS__CA_FILE": certificate}
        for role in ("SCHEDULER", "WORKER", "CLIENT"):
            prefix = "DASK_DISTRIBUTED__COMM__TLS__%s__" % role
            environment.update({prefix + "CERT": certificate, prefix + "KEY": key})
        return environment

    return make


@needs_caffe
def test_a_cluster_with_tls_trains_for_those_who_have_its_certificate(
    tmp_path, certificates, name, command, lrbench, trials, monkeypatch
):
    mine, other = certificates("mine"), certificates("other")
    (tmp_path / "cluster").mkdir()
    cluster = DaskCluster(tmp_path / "cluster", "tls", **mine)
    try:
        assert cluster.address.startswith("tls://")
        cluster.have_workers(1)
        more = ("--seeds", "1", "--max-iter", "10", "--cluster", cluster.address)
        arguments = command(name, *more, policies=POLICIES[:1])
        monkeypatch.setattr(clusters, "_CONNECT_SECONDS", 1)
        for environment in ({}, other):
            configured = dask.config.set(dask.config.collect(paths=[], env=environment))
            refused = pytest.raises(InputError, match="distributed.comm.tls")
            with configured, refused:
                Cluster(cluster.address).run([Job("x", id="1")], Stop(), lambda *event: None)
        for variable, value in mine.items():
            monkeypatch.setenv(variable, value)
        done = lrbench(*arguments)
        assert done.returncode == 0, done.stderr
        assert keys(trials(name)) == expected([1], 10, POLICIES[:1])
    finally:
        cluster.end()
