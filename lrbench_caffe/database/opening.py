"""Opens connections. A signal ends the wait for a server that accepts them and does not answer.

While libpq waits, Python runs no signal handler. Therefore a thread of its own opens a connection
for the main thread, which waits for it in short steps.
"""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any

import psycopg2

from lrbench_caffe import interrupts, waits

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

_POLL_SECONDS = 0.1
_QUIET_SECONDS = 1  # before the wait is shown, because most connections open at once


def open_connection(where: str, dsn: str | None = None, **options: Any) -> Connection:
    """Open a connection. In the main thread, a signal that ends the program ends the wait.

    Args:
        where: The database's name for messages.
        dsn: The connection string, for psycopg2.
        **options: The parameters of the connection, for psycopg2.

    Raises:
        psycopg2.Error: The connection cannot be opened.
        KeyboardInterrupt: A signal came first. If the connection opens later, it is closed.
    """
    if threading.current_thread() is not threading.main_thread():
        return psycopg2.connect(dsn, **options)
    opened: Future[Connection] = Future()

    def run() -> None:
        try:
            opened.set_result(psycopg2.connect(dsn, **options))
        except BaseException as error:
            opened.set_exception(error)

    signals = interrupts.count()
    try:
        threading.Thread(target=run, name="connection", daemon=True).start()
        _wait(opened, signals, where)
    except BaseException:
        opened.add_done_callback(_close)
        raise
    return opened.result()


def _wait(opened: Future[Connection], signals: int, where: str) -> None:
    """Wait until a connection is open or has failed, or until a signal comes."""
    began, is_shown = time.monotonic(), False
    with contextlib.ExitStack() as stack:
        while not wait([opened], timeout=_POLL_SECONDS).done:
            interrupts.check(signals)
            if not is_shown and time.monotonic() - began > _QUIET_SECONDS:
                stack.enter_context(waits.waiting("connecting to %s" % where))
                is_shown = True


def _close(opened: Future[Connection]) -> None:
    if opened.exception() is None:
        opened.result().close()
