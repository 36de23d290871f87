"""The pool of a Dask cluster: one training on each thread of its workers.

A worker trains a job in a child process, see :mod:`lrbench_caffe.study.worker`. It needs this
program, the data and the folder of the snapshots at the same paths as here. It needs neither a
database nor psycopg2: it sends events through the scheduler to the program that runs the study,
which records them. A worker with other files sends its models in the same way. If a worker dies,
Dask gives its trial to another worker, which resumes from the last snapshot.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import signal
import tempfile
import time
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import distributed

try:
    from multiprocessing import resource_tracker
except ImportError:  # its name before Python 3.8
    from multiprocessing import (  # type: ignore[attr-defined, no-redef]
        semaphore_tracker as resource_tracker,
    )
from distributed import Client, LocalCluster, Queue, Variable

from lrbench_caffe.errors import InputError, TrialError
from lrbench_caffe.study import transfer, worker
from lrbench_caffe.study.cores import usable_cores
from lrbench_caffe.study.events import EventReader, ended_early
from lrbench_caffe.study.interfaces import Pool
from lrbench_caffe.trial import FAILED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrbench_caffe.study.events import OnJobEvent, Verdict
    from lrbench_caffe.study.stop import Stop
    from lrbench_caffe.trial import Job

_POLL_SECONDS = 0.2  # between two reads of the event queue
_CONNECT_SECONDS = 20


class Cluster(Pool):
    """Trains jobs on the workers of a Dask cluster, each with one BLAS thread."""

    def __init__(self, address: str, jobs: int | None = None, gpus: Sequence[int] = ()) -> None:
        """Set up the pool; it connects to the cluster when it runs.

        Args:
            address: The address of a scheduler, such as "tcp://host:8786", or "local" for a cluster
                that is started on this machine.
            jobs: The number of workers of a local cluster (None: one per usable core).
            gpus: At most one device index, which every training uses on its worker. Each worker
                must then have a Dask resource GPU.

        Raises:
            InputError: The arguments do not fit together, or the address is invalid.
        """
        if len(gpus) > 1:
            raise InputError(
                "--gpu takes one index with --cluster: start a worker for each GPU, with "
                "CUDA_VISIBLE_DEVICES and --resources GPU=1, and give --gpu 0"
            )
        if jobs and address != "local":
            raise InputError(
                "--jobs applies to this machine, but the cluster %s runs one training on each "
                "thread of its workers: omit --jobs" % address
            )
        if address != "local" and not _has_port(address):
            raise InputError(
                "invalid --cluster %s: expected a scheduler's address such as tcp://host:8786, "
                "or local" % address
            )
        self._address, self._jobs, self._gpus = address, jobs, gpus

    def run(self, jobs: Sequence[Job], stop: Stop, on_event: OnJobEvent) -> None:
        """Train every job, see :meth:`lrbench_caffe.study.interfaces.Pool.run`.

        on_event is called from this thread only.

        Raises:
            InputError: The cluster cannot be reached.
            TrialError: The connection to the cluster was lost.
        """
        with contextlib.ExitStack() as stack:
            try:
                client = stack.enter_context(self._client(stack))
            except (OSError, ValueError, distributed.TimeoutError) as error:
                raise InputError(
                    "cannot reach the Dask cluster %s (%s): start one with `dask scheduler` and "
                    "`dask worker --nthreads 1 ADDRESS`, or use --cluster local"
                    % (self._address, error)
                ) from None
            try:
                _Trainings(client, self._gpus, jobs, stop, on_event).run_with_models()
            except (OSError, distributed.TimeoutError) as error:
                # A client that is closed while it tries to reconnect would log a traceback.
                logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
                raise TrialError(
                    "lost the Dask cluster %s (%s): run the same command again to resume"
                    % (self._address, error)
                ) from None

    def _client(self, stack: contextlib.ExitStack) -> Any:
        """A Dask client; a local cluster is started for it, which ends with the stack."""
        address: Any = self._address
        if address == "local":
            address = stack.enter_context(self._local_cluster())
        return Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)

    def _local_cluster(self) -> Any:
        # Ctrl-C in the terminal must not reach the workers. They inherit the blocked signal, and
        # ignore it once they run dask_setup.
        resource_tracker.ensure_running()  # starting it later would unblock the signal
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return LocalCluster(
                n_workers=self._jobs or usable_cores(),
                threads_per_worker=1,
                dashboard_address="127.0.0.1:0",
                preload=[worker.__name__],
                silence_logs=logging.CRITICAL,
                local_directory=tempfile.gettempdir(),
                resources={"GPU": 1} if self._gpus else {},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _has_port(address: str) -> bool:
    """Whether an address is valid and names a port."""
    try:
        return bool(urlsplit(address if "://" in address else "tcp://" + address).port)
    except ValueError:
        return False


class _Execution(NamedTuple):
    """The execution of a job whose events count: the one that began last."""

    id: str
    reader: EventReader


class _Trainings:
    """The trainings of jobs on a cluster, as the program that runs the study controls them."""

    def __init__(
        self,
        client: Any,
        gpus: Sequence[int],
        jobs: Sequence[Job],
        stop: Stop,
        on_event: OnJobEvent,
    ) -> None:
        self._client, self._stop, self._on_event = client, stop, on_event
        self._channel = "lrbench-" + uuid.uuid4().hex
        self._events = Queue(self._channel, client=client)
        self._orders = Variable(self._channel, client=client)
        self._sent_orders: dict[str, Any] | None = None
        self._heartbeat = 0.0
        self._resources = {"GPU": 1} if gpus else None
        self._jobs: dict[str, Job] = {}
        for job in jobs:
            assert job.id is not None, "each job of a pool has a trial id"
            self._jobs[job.id] = dataclasses.replace(job, gpu=gpus[0]) if gpus else job
        # The following are keyed by job id; jobs that have ended are removed.
        self._futures: dict[str, Any] = {}
        self._executions: dict[str, _Execution] = {}
        self._verdicts: dict[str, Verdict] = {}
        # Why an execution of a job could not begin, after another one had begun.
        self._problems: dict[str, str] = {}

    def run_with_models(self) -> None:
        """Train the jobs until all have ended; receive their models from workers elsewhere."""
        with transfer.Receiver(self._jobs.values(), self._channel) as self._models:
            self.run()

    def _receive_model(self, job_id: str, part: Any) -> None:
        """Receive a part of a model, which comes before the end of its training."""
        problem = self._models.receive(self._jobs[job_id], part)
        if problem is not None:
            self._on_event(self._jobs[job_id], "note", problem)

    def run(self) -> None:
        """Train the jobs until all have ended."""
        self._send_orders()
        for job_id, job in self._jobs.items():
            self._futures[job_id] = self._client.submit(
                worker.train_job,
                job,
                self._channel,
                key="%s-%s" % (self._channel, job_id),
                resources=self._resources,
                pure=False,
            )
        self._note_missing_workers()
        while self._futures:
            # Read before the events: a worker sends them all before its future ends.
            ended = {
                job_id: future
                for job_id, future in self._futures.items()
                if future.status in ("finished", "error", "cancelled", "lost")
            }
            for job_id, execution_id, kind, content in self._events.get(batch=True):
                self._receive(job_id, execution_id, kind, content)
            for job_id, future in ended.items():
                if job_id in self._futures:
                    self._give_up(job_id, future)
            self._send_orders()
            time.sleep(_POLL_SECONDS)
        if self._stop.requests:
            # Workers that have received a job but not begun it must read the request first.
            time.sleep(2 * worker.HEARTBEAT_SECONDS)
        self._events.close()
        self._orders.delete()

    def _receive(self, job_id: str, execution_id: str, kind: str, content: Any) -> None:
        """Pass an event on, unless its job has ended or has begun again in another execution."""
        if job_id not in self._futures:
            return
        if kind == "begin":
            self._executions[job_id] = _Execution(execution_id, EventReader())
        execution = self._executions.get(job_id) or _Execution(execution_id, EventReader())
        if execution_id != execution.id:
            if kind == "problem":  # the execution that could not begin may be the last one
                self._problems[job_id] = content
            return
        verdict = self._verdicts.get(job_id)
        if kind == "end" and verdict and ended_early(content["state"], content["error"]):
            # The worker did not have the verdict yet.
            content = dict(content, state=verdict[0], error=verdict[1])
        if kind == "model":
            self._receive_model(job_id, content)
        elif kind != "done":
            content = execution.reader.read(kind, content)
            verdict = self._on_event(self._jobs[job_id], kind, content)
            if verdict:
                self._verdicts.setdefault(job_id, verdict)
        if kind in ("end", "problem", "done"):
            self._forget(job_id)

    def _give_up(self, job_id: str, future: Any) -> None:
        """Report a job that has no end although Dask no longer executes it."""
        if future.status == "error":
            error = future.exception()
            killed = isinstance(error, distributed.scheduler.KilledWorker)
            problem = "its Dask workers died" if killed else "a Dask worker could not train it"
            self._fail(job_id, "%s (%s: %s)" % (problem, type(error).__name__, error))
        elif job_id in self._problems:
            self._fail(job_id, self._problems[job_id])
        self._forget(job_id)

    def _fail(self, job_id: str, problem: str) -> None:
        """Report a problem: as the end of the training if it has begun."""
        job, execution = self._jobs[job_id], self._executions.get(job_id)
        if execution is None:
            self._on_event(job, "problem", problem)
        else:
            end = {"state": FAILED, "ended": time.time(), "error": problem}
            self._on_event(job, "end", execution.reader.read("end", end))

    def _forget(self, job_id: str) -> None:
        self._futures.pop(job_id).release()
        self._executions.pop(job_id, None)
        self._verdicts.pop(job_id, None)
        self._problems.pop(job_id, None)

    def _send_orders(self) -> None:
        """Send the orders that :class:`lrbench_caffe.study.worker._Orders` describes.

        They are sent when they change and with each heartbeat. After a request to stop, jobs that
        have not begun are cancelled.
        """
        orders = {
            "stop": self._stop.requests,
            "verdicts": {job_id: list(verdict) for job_id, verdict in self._verdicts.items()},
        }
        next_heartbeat = self._heartbeat + worker.HEARTBEAT_SECONDS
        if orders == self._sent_orders and time.monotonic() < next_heartbeat:
            return
        self._sent_orders, self._heartbeat = orders, time.monotonic()
        self._orders.set(dict(orders, beat=self._heartbeat))
        if self._stop.requests:
            for job_id in set(self._futures) - set(self._executions):
                self._client.cancel(self._futures[job_id])
                self._forget(job_id)

    def _note_missing_workers(self) -> None:
        required = set(self._resources or {})
        workers = self._client.scheduler_info()["workers"].values()
        if not any(required <= set(info["resources"]) for info in workers):
            kind = " with a GPU (--resources GPU=1)" if required else ""
            message = "the cluster has no worker%s yet: trainings wait for one" % kind
            self._on_event(next(iter(self._jobs.values())), "note", message)
