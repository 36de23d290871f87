"""Starts the processes of trainings: forks of a fork server, or else fresh processes.

A program has one fork server, see :mod:`lrbench_caffe.training.fork_server`. Its first training
starts the server. A process inherits much from the one that starts it. The server is therefore used
only for trainings that would inherit the same from this program as the server did; otherwise
another one replaces it.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from typing import Any, NamedTuple

# No library reads these variables when it is imported, so a fork may have other values than its
# server. pytest changes its own for each test.
_LATE_VARIABLES = ("TMPDIR", "PYTEST_CURRENT_TEST")
_LATE_PREFIX = "LRBENCH_"

_MESSAGE_BYTES = 1 << 16
_LIMITS = sorted(getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_"))
# The lines of /proc/thread-self/status with what a process inherits.
_INHERITED = ("Umask", "Uid", "Gid", "Groups", "SigIgn", "CapEff", "Cpus_allowed_list")


class Streams(NamedTuple):
    """The file descriptors that a process gets as its standard streams."""

    stdin: int
    stdout: int
    stderr: int


class Started(NamedTuple):
    """A process that was started.

    Attributes:
        process: The process, a fresh one or a fork.
        note: A message for the user, None if there is none.
    """

    process: subprocess.Popen[bytes] | Fork
    note: str | None = None


class Fork:
    """The process of a training that a fork server has forked, with methods as those of Popen."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._status: int | None = None
        self._ended = False

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, unless it has ended."""
        with contextlib.suppress(OSError):  # it has ended, and the server has closed the link
            self._link.send(b"%d" % number)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end of the process.

        Args:
            timeout: The seconds to wait (None: any time).

        Returns:
            The status as that of Popen; None if the fork server has ended before. Then the process
            ends within a second.

        Raises:
            subprocess.TimeoutExpired: The process has not ended in this time.
        """
        if not self._ended:
            self._link.settimeout(timeout)
            try:
                _, self._status = _receive(self._link) or ("ended", None)
            except (socket.timeout, BlockingIOError):
                raise subprocess.TimeoutExpired("the training", timeout or 0) from None
            self._ended = True
            self._link.close()
        return self._status


def start(streams: Streams, environment: dict[str, str], only: str | None) -> Started:
    """Start the process of a training, which runs :mod:`lrbench_caffe.training.worker`.

    It has a session of its own, which keeps Ctrl-C away from it. SIGINT stays blocked until it has
    a handler for it.

    Args:
        streams: Its standard streams. They stay open here.
        environment: Its environment variables.
        only: What it does instead of a training.

    Raises:
        OSError: The system cannot start the process.
    """
    fork, note = _servers.fork(streams, environment, only)
    if fork is not None:
        return Started(fork)
    options = ["--" + only] if only else []
    return Started(_fresh("worker", options, environment, *streams), note)


def _fresh(
    module: str, options: list[str], environment: dict[str, str], *streams: int
) -> subprocess.Popen[bytes]:
    """Start a module of lrbench_caffe.training as a fresh process."""
    stdin, stdout, stderr = streams
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "lrbench_caffe.training." + module, *options],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=environment,
            start_new_session=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class _Server:
    """The fork server of this program, and what it has inherited."""

    def __init__(self, environment: dict[str, str], inherited: object) -> None:
        self.inherited, self._environment = inherited, environment
        self.refusal: str | None = None
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                streams = (theirs.fileno(), subprocess.DEVNULL, subprocess.DEVNULL)
                self._process = _fresh("fork_server", [], environment, *streams)
        except BaseException:
            self._requests.close()
            raise

    def ended(self) -> bool:
        """Whether the server has ended, for example because it was killed."""
        return self._process.poll() is not None

    def request(
        self, streams: Streams, environment: dict[str, str], only: str | None, link: socket.socket
    ) -> None:
        """Ask for a fork, which the server's end of a link is for.

        Raises:
            OSError: The server has ended.
        """
        names = filter(_is_late, {*environment, *self._environment})
        message = [only, {name: environment.get(name) for name in names}]
        directory = os.open(".", os.O_PATH)
        try:
            descriptors = array.array("i", [*streams, directory, link.fileno()])
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)
            self._requests.sendmsg([json.dumps(message).encode()], [rights])
        finally:
            os.close(directory)

    def retire(self) -> None:
        """Let the server end after its last training."""
        with contextlib.suppress(OSError):
            self._requests.send(json.dumps(None).encode())

    def close(self) -> None:
        """End the server, and wait until it has ended."""
        self._requests.close()
        self._process.wait()


class _Servers:
    """The fork server that this program uses, and earlier ones that still have trainings."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._current: _Server | None = None
        self._retired: list[_Server] = []

    def fork(
        self, streams: Streams, environment: dict[str, str], only: str | None
    ) -> tuple[Fork | None, str | None]:
        """Fork a process.

        Returns:
            The Fork; None if there is not a server that can fork, and a message for the user if
            that is new.
        """
        with self._lock:
            server = self._server(environment)
        if server.refusal:
            return None, None
        link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs, contextlib.suppress(OSError):  # the server was killed just now
                server.request(streams, environment, only, theirs)
            answer = _receive(link)
            if answer and answer[0] == "started":
                return Fork(link), None
            if answer and answer[0] == "error":
                raise OSError(answer[1], os.strerror(answer[1]))
        except BaseException:
            link.close()
            raise
        link.close()
        return None, self._refused(server, answer[1] if answer else None)

    def _server(self, environment: dict[str, str]) -> _Server:
        """The server for processes with this environment, which is started if need be."""
        inherited = _inherited(environment)
        self._retired = [server for server in self._retired if not server.ended()]
        if self._current is not None:
            if self._current.inherited == inherited and (
                self._current.refusal or not self._current.ended()
            ):
                return self._current
            self._current.retire()
            self._retired.append(self._current)
            self._current = None
        self._current = _Server(environment, inherited)
        return self._current

    def _refused(self, server: _Server, reason: str | None) -> str | None:
        """Remember that a server refuses to fork; return the reason if that is new."""
        with self._lock:
            if reason is None or server.refusal:
                return None
            server.refusal = reason
        server.retire()
        return reason

    def close(self) -> None:
        """End all servers."""
        current = [self._current] if self._current is not None else []
        for server in (*current, *self._retired):
            server.close()


def _receive(link: socket.socket) -> tuple[str, Any] | None:
    """A message of the server, None if it has ended."""
    try:
        message = link.recv(_MESSAGE_BYTES)
    except ConnectionResetError:  # a signal came too late for the server, whose message is next
        message = link.recv(_MESSAGE_BYTES)
    return tuple(json.loads(message)) if message else None


def _is_late(name: str) -> bool:
    return name in _LATE_VARIABLES or name.startswith(_LATE_PREFIX)


def _inherited(environment: dict[str, str]) -> object:
    """What a process with this environment inherits from this thread, to be compared."""
    with open("/proc/thread-self/status") as status:
        lines = tuple(line for line in status if line.startswith(_INHERITED))
    return (
        {name: value for name, value in environment.items() if not _is_late(name)},
        lines,
        [resource.getrlimit(limit) for limit in _LIMITS],
        os.getpriority(os.PRIO_PROCESS, 0),
        _directory_of_modules(),
        sys.executable,
    )


def _directory_of_modules() -> str | None:
    """The current directory; None if it has no modules, which `python3 -m` would import first.

    A fork imports what its server has found, but may have another current directory.
    """
    path = os.readlink("/proc/self/cwd")
    try:
        with os.scandir(".") as entries:
            has_modules = any(map(_is_module, entries))
    except OSError:
        return path
    return path if has_modules else None


def _is_module(entry: os.DirEntry[str]) -> bool:
    if entry.is_dir():
        return os.path.exists(os.path.join(entry.path, "__init__.py"))
    return entry.name.endswith((".py", ".so"))


_servers = _Servers()


def _forget_servers() -> None:
    """Leave the servers to the parent of this process, which has forked it."""
    global _servers
    _servers = _Servers()


os.register_at_fork(after_in_child=_forget_servers)
atexit.register(lambda: _servers.close())
