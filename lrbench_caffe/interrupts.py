"""Signals that end the program, for code that has to notice them itself.

Python runs handlers in the main thread only, and not while that waits in a library, such as that of
PostgreSQL. A handler may also only record the signal. A wait that has to end then compares
:func:`count` with its value at the beginning.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Callable

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_reader: int | None = None  # the file descriptor that receives the numbers of signals
_count = 0
_restorers: list[Callable[[], object]] = []
_lock = threading.Lock()  # one thread at a time counts what the descriptor has received


@contextlib.contextmanager
def recorded() -> Iterator[None]:
    """Record signals within the block, for :func:`count`. This is for programs, not libraries.

    Only signals with a handler in Python are recorded. In other threads than the main one, nothing
    is recorded.
    """
    global _reader
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    for descriptor in (reader, writer):
        os.set_blocking(descriptor, False)
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    _reader = reader
    try:
        yield
    finally:
        _reader = None
        signal.set_wakeup_fd(previous)
        os.close(reader)
        os.close(writer)


def call_before_kill(restore: Callable[[], object]) -> None:
    """Have a function called when the next signal is going to kill the process.

    Args:
        restore: Undoes what must not outlast the process. It is called by a signal handler, so it
            must not wait for a lock.
    """
    _restorers.append(restore)


def let_kill(numbers: Iterable[int]) -> None:
    """Let the next of these signals kill the process, whatever it waits for."""
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)
    for restore in _restorers:
        restore()


def add() -> None:
    """Count a signal, for handlers that do not raise KeyboardInterrupt.

    So signals also count where they are not recorded. Others may be counted twice.
    """
    global _count
    _count += 1  # without the lock, which the main thread may hold when the handler runs


def count() -> int:
    """Return a number that grows with each signal that ends the program."""
    global _count
    reader = _reader
    if reader is not None:
        with _lock, contextlib.suppress(OSError):  # there are none, or the block has just ended
            _count += sum(number in _ENDING for number in os.read(reader, 1000))
    return _count


def check(earlier: int) -> None:
    """Raise KeyboardInterrupt if a signal has come since.

    Args:
        earlier: What :func:`count` returned before.
    """
    if count() > earlier:
        raise KeyboardInterrupt
