"""The part of :mod:`lrbench_caffe.study.cluster` that runs in a Dask worker: train one job.

A worker needs no database. It sends the events of its training through a Dask queue, and receives
orders through a Dask variable of the same name.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import distributed
from distributed import Queue, Variable

from lrbench_caffe.study import pooled, transfer
from lrbench_caffe.study.stop import Stop
from lrbench_caffe.trial import Evaluation, Trial, to_dict

if TYPE_CHECKING:
    from lrbench_caffe.study.events import Verdict
    from lrbench_caffe.trial import Job

# The period of three things: heartbeats in the orders, polls of the orders, and progress events.
HEARTBEAT_SECONDS = 1
_SILENCE_SECONDS = 60  # without a heartbeat: the program that runs the study must have died
_ORDERS_TIMEOUT = 10  # seconds

_patience = pooled.Patience()  # of all trainings on this worker


def dask_setup(worker: Any) -> None:
    """Ignore Ctrl-C in the workers of a local cluster; Dask calls this when each of them starts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def train_job(job: Job, channel: str) -> None:
    """Train a job in a child process of this Dask worker.

    Args:
        job: The job to train.
        channel: The name of the queue for its events and of the variable with its orders.
    """
    client, stop = distributed.get_client(), Stop()
    sender = _Sender(Queue(channel, client=client), job.id)
    with _Orders(Variable(channel, client=client), stop) as orders:

        def on_event(kind: str, content: Any) -> Verdict | None:
            if kind == "end":
                transfer.send(job, channel, lambda part: sender.send("model", part))
            sender.on_event(kind, content)
            return orders.verdict(job.id)

        if not stop.requests:
            pooled.run(job, stop, on_event, _patience)
    sender.send("done", None)


class _Sender:
    """Sends the events of one execution of a job as ``[job_id, execution, kind, content]``.

    The execution is a unique id, because Dask may execute a job twice.
    """

    def __init__(self, queue: Any, job_id: str | None) -> None:
        self._queue, self._job_id, self._execution = queue, job_id, uuid.uuid4().hex
        self._last_progress = 0.0

    def send(self, kind: str, content: Any) -> None:
        self._queue.put([self._job_id, self._execution, kind, content])

    def on_event(self, kind: str, content: Any) -> None:
        """Send an event as JSON, unless it is a progress event too soon after the last one."""
        if kind == "progress":
            now = time.monotonic()
            if now < self._last_progress + HEARTBEAT_SECONDS:
                return
            self._last_progress = now
        if kind == "end":
            content = {"state": content.state, "ended": content.ended, "error": content.error}
        self.send(kind, to_dict(content) if isinstance(content, (Trial, Evaluation)) else content)


class _Orders:
    """The orders of the program that runs the study, polled by a thread within a ``with`` block.

    Requests to stop are passed on to a Stop. The orders are a dict with three keys: ``stop`` is
    the number of requests to stop, ``verdicts`` has the verdicts by job id, and ``beat`` changes
    with each heartbeat.
    """

    def __init__(self, variable: Any, stop: Stop) -> None:
        self._variable, self._stop = variable, stop
        self._orders: dict[str, Any] = {"beat": None, "stop": 0, "verdicts": {}}
        self._last_heartbeat = time.monotonic()
        self._closing = threading.Event()
        self._poll()
        self._thread = threading.Thread(target=self._poll_regularly, daemon=True)

    def __enter__(self) -> _Orders:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.set()
        self._thread.join()

    def verdict(self, job_id: str | None) -> Verdict | None:
        """The verdict on a job, or None."""
        verdict = self._orders["verdicts"].get(job_id)
        return tuple(verdict) if verdict else None

    def _poll_regularly(self) -> None:
        while not self._closing.wait(HEARTBEAT_SECONDS):
            self._poll()

    def _poll(self) -> None:
        with contextlib.suppress(OSError, distributed.TimeoutError):
            orders = self._variable.get(timeout=_ORDERS_TIMEOUT)
            if orders["beat"] != self._orders["beat"]:
                self._last_heartbeat = time.monotonic()
            self._orders = orders
        silent = time.monotonic() > self._last_heartbeat + _SILENCE_SECONDS
        for _ in range(max(self._orders["stop"], int(silent)) - self._stop.requests):
            self._stop()
