"""The part of :mod:`lrbench_caffe.study.cluster` that runs in a Dask worker: train one job.

A worker needs no database. It sends the events of its training through a Dask queue, and receives
orders through a Dask variable of the same name.

Beside the events that :mod:`lrbench_caffe.study.events` describes, it sends these:

``"start"``
    The first event of an execution: the address of its worker (str).
``"unsuitable"``
    Instead of "problem": why this worker cannot train anything (str).
``"alive"``
    A sign of life, every ALIVE_SECONDS.
``"done"``
    The execution is over. If it has sent neither "end" nor one of the problems, it was given
    up.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import distributed
from distributed import Queue, Variable

from lrbench_caffe import __version__
from lrbench_caffe.errors import UnusableCaffe
from lrbench_caffe.study import pooled, process, transfer
from lrbench_caffe.study.link import LinkLost, RunningClock, call
from lrbench_caffe.study.stop import Stop
from lrbench_caffe.trial import Evaluation, Trial, to_dict

if TYPE_CHECKING:
    from lrbench_caffe.study.events import Verdict
    from lrbench_caffe.trial import Job

# The period of three things: heartbeats in the orders, polls of the orders, and progress events.
HEARTBEAT_SECONDS = 1
ALIVE_SECONDS = 5
_SILENCE_SECONDS = 60  # without a heartbeat: the program that runs the study must have died
_ORDERS_TIMEOUT = 10  # seconds


def train_job(job: Job, channel: str, version: str | None = None) -> None:
    """Train a job in a child process of this Dask worker.

    Args:
        job: The job to train.
        channel: The name of the queue for its events and of the variable with its orders.
        version: The version of the program that runs the study (None: one that does not send it).
    """
    # Without a link to the scheduler nobody receives the training's events: it is given up.
    with contextlib.suppress(LinkLost):
        _train(job, channel, version)


def _train(job: Job, channel: str, version: str | None) -> None:
    client, stop = distributed.get_client(), Stop()
    sender = _Sender(call(Queue, channel, client=client), job.id)
    sender.send("start", distributed.get_worker().address)
    if version != __version__:
        sender.send("unsuitable", _version_problem(version))
    else:
        orders = _Orders(Variable(channel, client=client), stop, sender)
        with orders:

            def on_event(kind: str, content: Any) -> Verdict | None:
                if not (kind == "end" and orders.gave_up):
                    if kind == "end":
                        transfer.send(job, channel, lambda part: sender.send("model", part))
                    sender.on_event(kind, content)
                return orders.verdict(job.id)

            def train(*arguments: Any, **options: Any) -> None:
                try:
                    process.run(*arguments, **options)
                except UnusableCaffe as error:
                    sender.send("unsuitable", str(error))

            pooled.run(job, stop, on_event, _patience(channel), train)
    sender.send("done", None)


def _version_problem(version: str | None) -> str:
    return (
        "the worker has lrbench_caffe %s, but the study is run by %s: install the same version on "
        "both" % (__version__, version or "an earlier version")
    )


@functools.lru_cache(maxsize=16)  # the studies whose trainings a worker has at the same time
def _patience(channel: str) -> pooled.Patience:
    """The Patience of a study's trainings on this worker."""
    return pooled.Patience()


class _Sender:
    """Sends the events of one execution of a job as ``[job_id, execution, kind, content]``.

    The execution is a unique id, because Dask may execute a job twice.
    """

    def __init__(self, queue: Any, job_id: str | None) -> None:
        self._queue, self._job_id, self.execution = queue, job_id, uuid.uuid4().hex
        self._last_progress = 0.0

    def send(self, kind: str, content: Any) -> None:
        call(self._queue.put, [self._job_id, self.execution, kind, content])

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

    Requests to stop are passed on to a Stop. The thread also sends the signs of life. The orders
    are a dict with four keys: ``stop`` is the number of requests to stop, ``verdicts`` has the
    verdicts by job id, ``superseded`` lists the executions that no longer count, and ``beat``
    changes with each heartbeat.

    Attributes:
        gave_up: Whether the training was stopped because its program does not need it here: it is
            silent, or has another execution.
    """

    def __init__(self, variable: Any, stop: Stop, sender: _Sender) -> None:
        self.gave_up = False
        self._variable, self._stop, self._sender = variable, stop, sender
        self._orders: dict[str, Any] = {"beat": None, "stop": 0, "verdicts": {}, "superseded": []}
        self._clock = RunningClock()
        self._last_heartbeat = self._last_sign = 0.0
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
            if self._clock.seconds() >= self._last_sign + ALIVE_SECONDS:
                self._last_sign = self._clock.seconds()
                with contextlib.suppress(LinkLost):
                    self._sender.send("alive", None)

    def _poll(self) -> None:
        with contextlib.suppress(LinkLost):
            orders = call(self._variable.get, timeout=_ORDERS_TIMEOUT, seconds=_ORDERS_TIMEOUT)
            if orders["beat"] != self._orders["beat"]:
                self._last_heartbeat = self._clock.seconds()
            self._orders = orders
        silent = self._clock.seconds() > self._last_heartbeat + _SILENCE_SECONDS
        superseded = self._sender.execution in self._orders["superseded"]
        self.gave_up = self.gave_up or silent or superseded
        # A training that is superseded takes no snapshot: its successor waits for the folder.
        requests = max(self._orders["stop"], int(silent), 2 * superseded)
        for _ in range(requests - self._stop.requests):
            self._stop()
