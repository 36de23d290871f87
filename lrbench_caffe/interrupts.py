"""Signals that end the program, for threads: Python's own handlers run in the main thread only.

They do not run while the main thread waits in a library, such as that of PostgreSQL.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_reader: int | None = None  # the file descriptor that receives the numbers of signals


@contextlib.contextmanager
def recorded() -> Iterator[None]:
    """Record signals within the block, for :func:`have_come`. This is for programs, not libraries.

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


def have_come() -> bool:
    """Return whether signals that end the program have come since the last call."""
    if _reader is None:
        return False
    with contextlib.suppress(OSError):  # there are none, or the block has just ended
        return any(number in _ENDING for number in os.read(_reader, 1000))
    return False
