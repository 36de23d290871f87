"""A pool on a Dask cluster: each trial in a process of its own, as elsewhere, below whichever worker has a free thread.

The workers need this program, the data and the folder of the snapshots at the same paths, and no database: the scheduler carries
what is said.  A queue brings the events of the trainings to the program that runs the study, which records them, and a variable
brings its orders back.  A worker that dies costs its trial the time since the last snapshot, for Dask gives the trial to another.
"""

import contextlib
import dataclasses
import logging
import signal
import tempfile
import threading
import time
import uuid
from multiprocessing import resource_tracker
from urllib.parse import urlsplit

import distributed
from distributed import Client, LocalCluster, Queue, Variable

from lrbench_caffe.errors import InputError, TrialError
from lrbench_caffe.study import process
from lrbench_caffe.study.cores import usable_cores
from lrbench_caffe.trial import FAILED, to_dict

POLL_SECONDS = 0.2  # between two looks at the queue
BEAT_SECONDS = (
    1  # between two beats of the orders, two looks at them, and two progress events of a training
)
SILENCE_SECONDS = (
    60  # without a beat, the program that runs the study is gone, and its trainings end
)


class Cluster:
    """A pool, as :class:`lrbench_caffe.study.cores.Cores`: one training on each thread of a Dask cluster's workers."""

    def __init__(self, address, jobs=None, gpus=()):
        """address: a scheduler's, e.g. "tcp://host:8786", or "local" for a cluster started here, of so many jobs (None: the cores).

        gpus: the device index that a training uses on its worker, which has a resource named GPU for each training.
        """
        if len(gpus) > 1:
            raise InputError(
                "--gpu takes one index with --cluster: start a worker for each GPU, with CUDA_VISIBLE_DEVICES and "
                "--resources GPU=1, and give --gpu 0"
            )
        if jobs and address != "local":
            raise InputError(
                "--jobs is for this machine: the cluster %s trains one on each thread of its workers"
                % address
            )
        with contextlib.suppress(ValueError):
            if (
                address == "local"
                or urlsplit(address if "://" in address else "tcp://" + address).port
            ):
                self._address, self._jobs, self._gpus = address, jobs, gpus
                return
        raise InputError(
            "--cluster %s is no scheduler's address: give one such as tcp://host:8786, or local"
            % address
        )

    def run(self, jobs, stop, on_event):
        """As :meth:`lrbench_caffe.study.cores.Cores.run`, but on_event is called from this thread.

        Raises InputError when there is no such cluster, TrialError when it is lost.
        """
        with contextlib.ExitStack() as stack:
            try:
                client = stack.enter_context(self._client(stack))
            except (OSError, ValueError, distributed.TimeoutError) as error:
                raise InputError(
                    "the Dask cluster %s cannot be reached (%s): start one with `dask scheduler` and `dask worker "
                    "--nthreads 1 ADDRESS`, or use --cluster local" % (self._address, error)
                ) from None
            try:
                _Trainings(client, self._gpus, jobs, stop, on_event).run()
            except (OSError, distributed.TimeoutError) as error:
                raise TrialError(
                    "the Dask cluster %s was lost (%s): run the study again to go on"
                    % (self._address, error)
                ) from None

    def _client(self, stack):
        address = self._address
        if address == "local":
            # A Ctrl-C on the workers' terminal is not for them: they inherit what is blocked, and ignore it once they run.
            resource_tracker.ensure_running()  # which would unblock it
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                address = stack.enter_context(
                    LocalCluster(
                        n_workers=self._jobs or usable_cores(),
                        threads_per_worker=1,
                        dashboard_address="127.0.0.1:0",
                        preload=[__name__],
                        silence_logs=logging.CRITICAL,
                        local_directory=tempfile.gettempdir(),
                        resources={"GPU": 1} if self._gpus else {},
                    )
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return Client(address, timeout=20, set_as_default=False)


def dask_setup(worker):
    """Dask calls this in each worker of a local cluster as it starts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Trainings:
    """Jobs on a cluster, seen from the program that wants them trained."""

    def __init__(self, client, gpus, jobs, stop, on_event):
        self._client, self._stop, self._on_event = client, stop, on_event
        name = "lrbench-" + uuid.uuid4().hex
        self._events, self._orders = Queue(name, client=client), Variable(name, client=client)
        self._jobs = {
            job.id: dataclasses.replace(job, gpu=gpus[0]) if gpus else job for job in jobs
        }
        self._futures = {}  # by the trial's id; what has ended is taken out
        self._readers = {}  # by the trial's id: the execution that began last, and the Reader of its events
        self._verdicts = {}  # by the trial's id, for those that are to end
        self._given, self._beat = None, 0.0
        self._command = dict(resources={"GPU": 1} if gpus else None, pure=False), name

    def run(self):
        """Train the jobs until all have ended."""
        self._give_orders()
        options, name = self._command
        for job_id, job in self._jobs.items():
            self._futures[job_id] = self._client.submit(
                _train, job, name, key="%s-%s" % (name, job_id), **options
            )
        self._warn()
        while self._futures:
            for job_id, execution, kind, content in self._events.get(batch=True):
                self._hear(job_id, execution, kind, content)
            for job_id, future in list(self._futures.items()):
                if future.status in ("error", "cancelled", "lost"):
                    self._lost(job_id, future)
            self._give_orders()
            time.sleep(POLL_SECONDS)
        if self._stop.requests:
            time.sleep(2 * BEAT_SECONDS)  # so that workers see it whose trainings have not begun
        self._events.close()
        self._orders.delete()

    def _hear(self, job_id, execution, kind, content):
        """An event of an execution.  Dask may have started a job twice: the one that began last is the one that counts."""
        if job_id not in self._futures:
            return
        job = self._jobs[job_id]
        if kind == "begin":
            self._readers[job_id] = execution, process.EventReader()
        current, read = self._readers.get(job_id, (execution, process.EventReader()))
        if execution != current:
            return
        verdict = self._on_event(job, kind, read(kind, content)) if kind != "done" else None
        if verdict:
            self._verdicts.setdefault(job_id, verdict)
        if kind in ("end", "problem", "done"):
            self._forget(job_id)

    def _lost(self, job_id, future):
        """A job that Dask has given up."""
        job, (_, read) = self._jobs[job_id], self._readers.get(job_id, (None, None))
        if future.status == "error":
            error = future.exception()
            killed = isinstance(error, distributed.scheduler.KilledWorker)
            what = "its Dask workers died" if killed else "a Dask worker cannot train it"
            why = "%s (%s: %s)" % (what, type(error).__name__, error)
            if read:
                self._on_event(
                    job, "end", read("end", {"state": FAILED, "ended": time.time(), "error": why})
                )
            self._on_event(job, "problem", why)
        self._forget(job_id)

    def _forget(self, job_id):
        self._futures.pop(job_id).release()
        self._readers.pop(job_id, None)
        self._verdicts.pop(job_id, None)

    def _give_orders(self):
        """Tell the workers that somebody listens, how often a stop was requested, and which trainings are to end, and as what."""
        orders = {
            "stop": self._stop.requests,
            "verdicts": {job_id: list(verdict) for job_id, verdict in self._verdicts.items()},
        }
        if orders == self._given and time.monotonic() < self._beat + BEAT_SECONDS:
            return
        self._given, self._beat = orders, time.monotonic()
        self._orders.set(dict(orders, beat=self._beat))
        if self._stop.requests:
            for job_id in set(self._futures) - set(self._readers):  # those that wait for a worker
                self._client.cancel(self._futures[job_id])
                self._forget(job_id)

    def _warn(self):
        workers = self._client.scheduler_info()["workers"].values()
        wanted = self._command[0]["resources"] or {}
        if not any(set(wanted) <= set(worker["resources"]) for worker in workers):
            job = next(iter(self._jobs.values()))
            self._on_event(
                job,
                "note",
                "the cluster has no worker%s yet: trainings wait for one"
                % (" with a GPU (--resources GPU=1)" if wanted else ""),
            )


def _train(job, name):
    """Train a Job below this Dask worker; its events go to the queue of that name, its orders come from the variable."""
    client, execution = distributed.get_client(), uuid.uuid4().hex
    events, stop = Queue(name, client=client), process.Stop()
    told = {"progress": 0.0}

    def emit(kind, content):
        events.put([job.id, execution, kind, content])

    def on_event(kind, content):
        now = time.monotonic()
        if kind != "progress" or now >= told["progress"] + BEAT_SECONDS:
            if kind == "progress":
                told["progress"] = now
            if kind == "end":
                content = {"state": content.state, "ended": content.ended, "error": content.error}
            emit(kind, to_dict(content) if dataclasses.is_dataclass(content) else content)
        return orders.verdict(job.id)

    with _Orders(Variable(name, client=client), stop) as orders:
        if not stop.requests:
            try:
                process.run(job, stop, on_event, threads=1)
            except (InputError, TrialError) as error:
                emit("problem", str(error))
    emit("done", None)


class _Orders:
    """The orders for the trainings, as a worker sees them; a context manager with a thread that passes on requests to stop."""

    def __init__(self, variable, stop):
        self._variable, self._stop = variable, stop
        self._last = {"beat": None, "stop": 0, "verdicts": {}}
        self._heard, self._left = time.monotonic(), threading.Event()
        self._look()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._left.set()
        self._thread.join()

    def verdict(self, job_id):
        """What a job is to end as, (state, sentence), or None."""
        found = self._last["verdicts"].get(job_id)
        return found and tuple(found)

    def _watch(self):
        while not self._left.wait(BEAT_SECONDS):
            self._look()

    def _look(self):
        with contextlib.suppress(OSError, distributed.TimeoutError):
            found = self._variable.get(timeout=10)
            if found["beat"] != self._last["beat"]:
                self._heard = time.monotonic()
            self._last = found
        silent = time.monotonic() > self._heard + SILENCE_SECONDS
        for _ in range(max(self._last["stop"], int(silent)) - self._stop.requests):
            self._stop()
