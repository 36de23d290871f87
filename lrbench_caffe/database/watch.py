"""A limit for the calls of libpq, which waits without a limit for a database that is frozen.

While libpq waits, Python runs no signal handler, so Ctrl-C has no effect either. A thread watches
the calls in progress:

- If a call has lasted :func:`patience` seconds, the server is asked for an answer on a new
  connection. A server that answers is busy, or holds a lock; the call continues. If the server does
  not answer, the call is cut off.
- If signals are recorded (:mod:`lrbench_caffe.interrupts`), a call of the main thread is cut off
  soon after a signal that ends the program. Python then runs the handler of the signal, and the
  call ends with KeyboardInterrupt.

A call is cut off by shutting its connection down, which libpq reports as an error.

This is not psycopg2's wait callback, the usual way to get both: it holds for the connections of the
whole process, and excludes COPY.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Iterator

import psycopg2

from lrbench_caffe import interrupts
from lrbench_caffe.errors import InputError, abbreviated

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

VARIABLE = "LRBENCH_DB_TIMEOUT"
_DEFAULT = 30.0  # seconds
_LONGEST_PROBE = 10.0  # seconds
_TICK = 0.2  # seconds between two looks at the calls in progress
_INTERRUPTED = "interrupted by a signal"


def patience() -> float:
    """Return the seconds after which a database that does not answer is given up.

    Raises:
        InputError: The environment variable LRBENCH_DB_TIMEOUT is invalid.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return _DEFAULT
    with contextlib.suppress(ValueError):
        seconds = float(text)
        if 0 < seconds <= threading.TIMEOUT_MAX:
            return seconds
    raise InputError(
        "%s: invalid value %s, expected a number of seconds above 0, for example 30"
        % (VARIABLE, abbreviated(text))
    )


def connect_timeout() -> int:
    """Return libpq's limit for opening a connection to one host, in seconds."""
    return max(2, math.ceil(min(_LONGEST_PROBE, patience())))  # libpq's shortest is 2


def answers(host: str, port: str, seconds: float) -> bool:
    """Return whether a PostgreSQL server accepts connections.

    Args:
        host: Its host, or the folder of its Unix socket.
        port: Its port.
        seconds: How long to wait for the answer.
    """
    try:
        with _open(host, port, seconds) as client:
            # PostgreSQL's SSLRequest, which is answered by one byte.
            client.sendall(struct.pack("!ii", 8, 80877103))
            return client.recv(1) in (b"N", b"S")
    except (OSError, ValueError):
        return False


def _open(host: str, port: str, seconds: float) -> socket.socket:
    if not host.startswith("/"):
        return socket.create_connection((host, int(port)), seconds)
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        client.settimeout(seconds)
        client.connect(os.path.join(host, ".s.PGSQL." + port))
    except BaseException:
        client.close()
        raise
    return client


@contextlib.contextmanager
def watched(connection: Connection) -> Iterator[None]:
    """Limit the calls of a connection within the block.

    Raises:
        psycopg2.OperationalError: The server does not answer; the connection is lost.
        KeyboardInterrupt: A signal has interrupted a call; the connection is lost.
    """
    call = None if connection.closed else _Call(connection)
    if call is None:
        yield
        return
    try:
        with _watcher.watching(call):
            yield
    except psycopg2.Error as error:
        if call.cut_off_because == _INTERRUPTED:  # psycopg2 may swallow the handler's exception
            raise KeyboardInterrupt from None
        if call.cut_off_because:
            raise psycopg2.OperationalError(call.cut_off_because) from error
        raise
    finally:
        call.close()


class _Call:
    """Calls of one connection that are in progress.

    Attributes:
        due: When the server is asked for an answer, by the monotonic clock.
        cut_off_because: Why the calls were cut off, or None.
    """

    def __init__(self, connection: Connection) -> None:
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        options = connection.info
        self._host = options.dsn_parameters.get("hostaddr") or options.host
        self._port = str(options.port)
        self._patience = patience()
        self._lock = threading.Lock()  # the connection must not be shut down after the call
        self._in_main_thread = threading.current_thread() is threading.main_thread()
        self.due = time.monotonic() + self._patience
        self._signals = interrupts.count()  # Python has handled the earlier ones
        self._is_interrupted = False
        self.cut_off_because: str | None = None

    def check_signals(self) -> None:
        """Cut the calls of the main thread off if it has not handled a signal for a whole tick."""
        if self._is_interrupted:
            self.cut_off(_INTERRUPTED)
        self._is_interrupted = self._in_main_thread and interrupts.count() > self._signals

    def check_server(self) -> None:
        """Cut the calls off if the server does not answer."""
        if not answers(self._host, self._port, min(self._patience, _LONGEST_PROBE)):
            self.cut_off(
                "no answer for %g s, and none on a new connection (%s sets the time)"
                % (self._patience, VARIABLE)
            )
        self.due = time.monotonic() + self._patience

    def cut_off(self, reason: str) -> None:
        """Shut the connection down, unless the calls have ended."""
        with self._lock, contextlib.suppress(OSError):  # it is closed already
            if self._socket.fileno() >= 0:
                self.cut_off_because = reason
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the watching."""
        with self._lock:
            self._socket.close()


class _Watcher:
    """The thread that watches the calls in progress. It sleeps while there are none."""

    def __init__(self) -> None:
        self._calls: set[_Call] = set()
        self._began = threading.Condition()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def watching(self, call: _Call) -> Iterator[None]:
        """Watch calls within the block."""
        with self._began:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._watch, name="database", daemon=True)
                self._thread.start()
            self._calls.add(call)
            self._began.notify()
        try:
            yield
        finally:
            with self._began:
                self._calls.discard(call)

    def _watch(self) -> None:
        while True:
            with self._began:
                self._began.wait_for(lambda: self._calls)
                calls = list(self._calls)
            for call in calls:
                self._look_at(call)
            time.sleep(_TICK)

    def _look_at(self, call: _Call) -> None:
        call.check_signals()
        if time.monotonic() > call.due:
            call.due = math.inf
            threading.Thread(target=call.check_server, name="probe", daemon=True).start()


_watcher = _Watcher()
