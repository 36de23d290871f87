"""Calls of Dask that end, even if the other side never answers."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrbench_caffe.study.stop import Stop

ANSWER_SECONDS = 60
# By the number of requests to stop: a user who insists does not wait for an answer.
_SECONDS_AFTER_REQUESTS = (ANSWER_SECONDS, 10, 1)
_POLL_SECONDS = 0.1
_LONGEST_STEP = 5  # seconds


class LinkLost(Exception):
    """Dask does not answer, or answers with an error. The message is the reason."""


class RunningClock:
    """Counts the seconds in which this process ran.

    The time in which it was stopped (Ctrl-Z) or the machine slept does not count: afterwards, the
    silence of others has no meaning. It is read at least once in _LONGEST_STEP seconds.
    """

    def __init__(self) -> None:
        self._last, self._seconds = time.monotonic(), 0.0

    def seconds(self) -> float:
        """Return the seconds since the clock was made."""
        now = time.monotonic()
        self._seconds += min(now - self._last, _LONGEST_STEP)
        self._last = now
        return self._seconds


def call(
    function: Callable[..., Any],
    *arguments: Any,
    stop: Stop | None = None,
    seconds: float = ANSWER_SECONDS,
    **options: Any,
) -> Any:
    """Call a function of Dask, and wait for it for a limited time.

    The function runs in a thread of its own. If it does not return in time, the thread is left to
    itself, and ends with the process.

    Args:
        function: The function.
        *arguments: Its arguments.
        stop: Shortens the time, with each request.
        seconds: The time.
        **options: Its keyword arguments.

    Returns:
        What the function returns.

    Raises:
        LinkLost: It has not returned in time, or it has raised an error.
    """
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(function(*arguments, **options))
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    clock, requests, deadline = RunningClock(), 0, seconds
    while not wait([outcome], timeout=_POLL_SECONDS).done:
        if stop and stop.requests > requests:
            requests = min(stop.requests, len(_SECONDS_AFTER_REQUESTS) - 1)
            deadline = min(deadline, clock.seconds() + _SECONDS_AFTER_REQUESTS[requests])
        if clock.seconds() >= deadline:
            raise LinkLost("no answer within %d s" % seconds)
    error = outcome.exception()
    if error is not None:  # Dask raises errors of many kinds
        raise LinkLost(" ".join(str(error).split()) or type(error).__name__)
    return outcome.result()
