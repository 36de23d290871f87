"""The fork server: it imports Caffe once, and forks a process for each training.

On a small net, importing Caffe takes most of the time of a training. The fork server itself never
trains, so a fork is like a process that has just imported Caffe. It runs
:mod:`lrbench_caffe.training.worker`.

:mod:`lrbench_caffe.study.starter` starts the server. Its standard input is a socket. A request is
a message ``[only, variables]`` with five file descriptors: the standard input, output and error
of the training, its current directory, and its link. The link is a socket. Through it, the server
sends the messages ``["started", null]``, ``["error", errno]`` or ``["refused", reason]``, and later
``["ended", status]``, where the status is that of :class:`subprocess.Popen`. It receives the
numbers of signals for the training. If the program closes a link, that training is killed. The
message ``null`` without file descriptors ends the server after its last training.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from typing import Any, NamedTuple

import numpy as np

from lrbench_caffe.training import worker

_MESSAGE_BYTES = 1 << 18
_DESCRIPTORS = 5
_POLL_SECONDS = 0.5  # in which the server notices that its program has ended
_THREADS_SECONDS = 1  # in which a thread that was ended leaves /proc
_THREADS_REFUSAL = (
    "this Caffe starts threads when it is imported, so each training imports it again, which takes "
    "about a second"
)


class Request(NamedTuple):
    """A request for a training.

    Attributes:
        only: What the process does instead of a training, see
            :mod:`lrbench_caffe.training.worker`.
        variables: The environment variables that may differ from those of the server; None: the
            process does not have the variable. TMPDIR is a folder of the training's own.
        streams: The file descriptors of its standard input, output and error.
        directory: The file descriptor of its current directory.
        link: The socket that connects the program and the server for this training.
    """

    only: str | None
    variables: dict[str, str | None]
    streams: list[int]
    directory: int
    link: socket.socket


def main() -> None:
    """Serve until the program ends; in a fork, run the training that was requested.

    If Caffe cannot be imported, the server ends. The training is then a fresh process, which
    reports the reason.
    """
    worker.load()
    server = _Server(socket.socket(fileno=os.dup(0)))
    request = server.run()
    if request is None:
        os._exit(0)
    worker.main(request.only, server.pid)


class _Server:
    """Forks processes, passes signals on to them, and reports how they ended.

    Attributes:
        pid: The process id of the server, also in its forks.
    """

    def __init__(self, requests: socket.socket) -> None:
        self.pid, self._program = os.getpid(), os.getppid()
        self._requests, self._retired = requests, False
        self._directory = _current_directory()
        self._trainings: dict[int, Request] = {}  # by the process id
        self._folders: list[str] = []  # for temporary files of trainings, which the program removes
        # SIGTERM may be sent to all processes of a session or a container. The program handles it.
        self._handlers = {
            number: signal.signal(number, signal.SIG_IGN)
            for number in (signal.SIGTERM, signal.SIGHUP)
        }
        self._handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        self._deaths, writer = os.pipe()
        os.set_blocking(self._deaths, False)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._own_descriptors = (self._deaths, writer)
        self._refusal = _THREADS_REFUSAL if _a_fork_would_lose_threads() else None
        gc.freeze()  # so the forks share the memory of what is imported

    def run(self) -> Request | None:
        """Serve until there is nothing left to do. In a fork, return its request at once."""
        while self._trainings or not self._retired:
            ready = self._ready()
            self._pass_signals_on(ready)
            self._report_deaths()
            if self._requests.fileno() in ready:
                message, descriptors = _receive(self._requests)
                if not message:  # the program has ended
                    break
                request = self._fork(json.loads(message), descriptors)
                if request is not None:
                    return request
            elif os.getppid() != self._program:  # a process that it has forked has the socket, too
                break
        self._end()
        return None

    def _ready(self) -> set[int]:
        """Wait for messages, for the end of a training, and for a moment at most."""
        poll = select.poll()
        poll.register(self._deaths, select.POLLIN)
        for open_socket in (self._requests, *self._links()):
            if open_socket.fileno() >= 0:  # a link that is closed has -1
                poll.register(open_socket, select.POLLIN)
        return {descriptor for descriptor, _ in poll.poll(1000 * _POLL_SECONDS)}

    def _fork(self, message: Any, descriptors: list[int]) -> Request | None:
        """Fork for a request, which is returned in the fork."""
        if len(descriptors) != _DESCRIPTORS:  # the system has no more of them, or "null"
            self._retired = self._retired or message is None
            _close(descriptors)
            return None
        *streams, directory, link = descriptors
        only, variables = message
        request = Request(only, variables, streams, directory, socket.socket(fileno=link))
        self._folders = [*filter(os.path.exists, self._folders), variables["TMPDIR"]]
        if self._refusal:
            _send(request.link, "refused", self._refusal)
            pid = None
        else:
            pid = self._try_to_fork(request)
        if pid == 0:
            self._become(request)
            return request
        if pid is None:
            request.link.close()
        else:
            self._trainings[pid] = request
            _send(request.link, "started", None)
        _close([*streams, directory])
        return None

    def _try_to_fork(self, request: Request) -> int | None:
        """Fork; send the error if that fails."""
        try:
            return os.fork()
        except OSError as error:
            _send(request.link, "error", error.errno)
            return None

    def _become(self, request: Request) -> None:
        """Turn this fork into the process of a training, as if it had been started alone."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for stream, descriptor in enumerate(request.streams):
            os.dup2(descriptor, stream)
        os.fchdir(request.directory)
        if sys.path[0] == self._directory:  # Python has put it there, as for a fresh process
            sys.path[0] = _current_directory()
        _close([*request.streams, request.directory, *self._own_descriptors])
        for open_socket in (self._requests, request.link, *self._links()):
            open_socket.close()
        for name, value in request.variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        tempfile.tempdir = None
        importlib.invalidate_caches()  # a Python layer may have been written a moment ago
        np.random.seed()  # Python's own random numbers begin anew after each fork
        with contextlib.suppress(OSError), open("/proc/self/comm", "w") as name_of_process:
            name_of_process.write("lrbench-train")

    def _links(self) -> list[socket.socket]:
        return [training.link for training in self._trainings.values()]

    def _pass_signals_on(self, ready: set[int]) -> None:
        """Send trainings the signals that their program asks for; kill one whose link is closed."""
        for pid, training in self._trainings.items():
            if training.link.fileno() in ready:
                try:
                    message = training.link.recv(_MESSAGE_BYTES)
                except OSError:
                    message = b""
                if not message:
                    training.link.close()
                os.kill(pid, int(message or signal.SIGKILL))

    def _report_deaths(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._deaths, _MESSAGE_BYTES)
        for pid in list(self._trainings):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                link = self._trainings.pop(pid).link
                _send(link, "ended", _exit_status(status))
                link.close()

    def _end(self) -> None:
        """Kill the trainings whose program has ended, and remove what it can no longer remove."""
        for pid in self._trainings:
            os.kill(pid, signal.SIGKILL)
        for pid in self._trainings:
            os.waitpid(pid, 0)
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)


def _current_directory() -> str:
    """The path of the current directory; empty, as for Python, if it was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


def _receive(requests: socket.socket) -> tuple[bytes, list[int]]:
    """A message and its file descriptors."""
    descriptors = array.array("i")
    space = socket.CMSG_SPACE(_DESCRIPTORS * descriptors.itemsize)
    message, parts, _, _ = requests.recvmsg(_MESSAGE_BYTES, space)
    for level, kind, data in parts:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return message, list(descriptors)


def _send(link: socket.socket, kind: str, content: object) -> None:
    with contextlib.suppress(OSError):  # the program has closed the link
        link.send(json.dumps([kind, content]).encode())


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _exit_status(status: int) -> int:
    """The status of os.waitpid as that of subprocess.Popen: a signal is negative."""
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _a_fork_would_lose_threads() -> bool:
    """Whether a library has threads that it does not end before a fork.

    OpenBLAS ends its threads before a fork and starts them again when it needs them.
    """
    if _threads() > 1:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    deadline = time.monotonic() + _THREADS_SECONDS
    while _threads() > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    return _threads() > 1


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


if __name__ == "__main__":
    main()
