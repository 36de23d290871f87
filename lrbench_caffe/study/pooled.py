"""One training of a pool: its errors become events, and it waits if its process cannot start."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from lrbench_caffe.errors import InputError, TrialError
from lrbench_caffe.study import process
from lrbench_caffe.study.child import StartError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrbench_caffe.study.events import OnEvent, Verdict
    from lrbench_caffe.study.stop import Stop
    from lrbench_caffe.trial import Job

RETRY_SECONDS = 1  # between two tries to start a process
PATIENCE_SECONDS = 60  # after which trainings are reported as not begun


class Patience:
    """How long the trainings of a pool wait for a system that cannot start their processes.

    They share it. If the shortage is short, none of them is lost. If it lasts, they do not wait one
    after the other.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shortage_began: float | None = None

    def lasts(self) -> bool:
        """Return whether a training should wait; the first call begins a shortage."""
        with self._lock:
            if self._shortage_began is None:
                self._shortage_began = time.monotonic()
            return time.monotonic() < self._shortage_began + PATIENCE_SECONDS

    def restore(self) -> None:
        """Forget the shortage: a process has started."""
        with self._lock:
            self._shortage_began = None


def run(
    job: Job,
    stop: Stop,
    on_event: OnEvent,
    patience: Patience,
    train: Callable[..., object] = process.run,
) -> None:
    """Train a job for a pool, with one BLAS thread.

    Args:
        job: The job to train.
        stop: Ends the training on request.
        on_event: Receives the events of the training, among them "problem" if it cannot begin.
        patience: How long it waits if its process cannot start.
        train: The function that trains, called like :func:`lrbench_caffe.study.process.run`.
    """
    begun = noted = False

    def forward(kind: str, content: Any) -> Verdict | None:
        nonlocal begun
        if kind == "begin":
            begun = True
            patience.restore()
        return on_event(kind, content)

    while not stop.requests:
        try:
            train(job, stop, forward, threads=1)
            return
        except StartError as error:
            if not patience.lasts():
                on_event("problem", str(error))
                return
            if not noted:
                on_event("note", "%s; trainings wait up to %d s" % (error, PATIENCE_SECONDS))
            noted = True
            time.sleep(RETRY_SECONDS)
        except (InputError, TrialError) as error:
            if not begun:  # else the trial's end has the error
                on_event("problem", str(error))
            return
