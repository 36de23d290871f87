"""Stopping trainings: requests from signals, from another program, or from a Dask cluster."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING, Any

from lrbench_caffe import interrupts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrbench_caffe.study.child import Child


class Stop:
    """Ends running trainings on request.

    The first request interrupts them: each ends as "interrupted" and reports its end. The second
    request kills them. A Stop can be used as a signal handler.

    Attributes:
        requests: The number of requests so far.
    """

    def __init__(self) -> None:
        self.requests = 0
        self._children: set[Child] = set()

    def __call__(self, *_: object) -> None:
        """Request a stop; the arguments of a signal handler are ignored."""
        self.requests += 1
        for child in list(self._children):
            self._notify(child)

    @contextlib.contextmanager
    def reaching(self, child: Child) -> Iterator[None]:
        """Pass requests on to a child process within the block, including earlier ones."""
        self._children.add(child)
        if self.requests:
            self._notify(child)
        try:
            yield
        finally:
            self._children.discard(child)

    def _notify(self, child: Child) -> None:
        child.signal(signal.SIGINT if self.requests == 1 else signal.SIGKILL)


@contextlib.contextmanager
def interruptible() -> Iterator[Stop]:
    """Turn Ctrl-C and requests to terminate into requests of a Stop within the block.

    In the main thread, SIGINT, SIGTERM and SIGHUP call the Stop, except those that this process
    ignores (as under nohup). The third signal kills this process, whatever it waits for. In other
    threads signals are left alone.

    Yields:
        The Stop.

    Raises:
        KeyboardInterrupt: At the end of the block, if a stop was requested.
    """
    stop = Stop()
    handlers: dict[int, Any] = {}

    def request(*_: object) -> None:
        stop()
        interrupts.add()
        if stop.requests > 1:
            interrupts.let_kill(handlers)

    if threading.current_thread() is threading.main_thread():
        handlers = {
            number: signal.signal(number, request)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if signal.getsignal(number) != signal.SIG_IGN
        }
    try:
        # The command line's handler was called, but something swallowed its KeyboardInterrupt.
        if getattr(handlers.get(signal.SIGINT), "called", False):
            raise KeyboardInterrupt
        yield stop
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if stop.requests:
        raise KeyboardInterrupt
