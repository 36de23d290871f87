"""The process of one training: start it, read its events, and find out how it died.

The process runs :mod:`lrbench_caffe.training.worker`. It reads a Job from its standard input and
writes one JSON line ``[kind, content]`` per event to its standard output; see
:mod:`lrbench_caffe.study.events`. Its standard error is Caffe's log.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import tempfile
from typing import TYPE_CHECKING, Any, cast

from lrbench_caffe.errors import (
    InputError,
    TrialError,
    UnusableCaffe,
    fatal_message,
    last_log_line,
)
from lrbench_caffe.paths import python_path
from lrbench_caffe.study import starter
from lrbench_caffe.study.blas import blas_environment
from lrbench_caffe.study.starter import Streams
from lrbench_caffe.trial import to_dict

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO, TextIO

    from lrbench_caffe.trial import Job

# The errors that a training reports, by the kinds of their events.
PROBLEMS: dict[str, type[InputError] | type[TrialError]] = {
    "unusable caffe": UnusableCaffe,
    "input error": InputError,
    "failure": TrialError,
}

_LOG_TAIL_BYTES = 100000  # the end of Caffe's log, which contains its last message
_EXIT_SECONDS = 5  # for a process that has closed its output
_LOST_MESSAGE = (
    "the process from which trainings start was ended, and the training with it (the system does "
    "this when memory is short)"
)

# The system has no memory, process or file left for another training.
_SHORTAGES = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)


class StartError(TrialError):
    """The system lacks something that the process of a training needs. Another try may succeed."""


@contextlib.contextmanager
def child_process(
    job: Job, threads: int | None, log: str | None, only: str | None = None
) -> Iterator[Child]:
    """Train a job in a child process, which ends with the block at the latest.

    Temporary files that an abort of Caffe leaves behind are removed with the block, too.

    Args:
        job: The job to train.
        threads: The number of BLAS threads (None: left to the environment).
        log: The file for Caffe's log (None: it is not kept).
        only: What the process does instead of a training: "describe" or "deploy", see
            :mod:`lrbench_caffe.training.worker`.

    Yields:
        The Child.

    Raises:
        InputError: The log cannot be written.
        StartError: The system cannot start the process now.
    """
    with contextlib.ExitStack() as stack:
        child = _start(job, threads, log, stack, only)
        stack.callback(child.end)
        yield child


def _start(
    job: Job,
    threads: int | None,
    log: str | None,
    stack: contextlib.ExitStack,
    only: str | None,
) -> Child:
    """Start a child; its temporary folder and its log close with the stack."""
    try:
        folder = tempfile.mkdtemp(prefix="lrbench-")
        stack.callback(_remove_folder, folder)
        file = stack.enter_context(_open_log(log, folder))
        return Child(job, _environment(folder, threads), file, only)
    except OSError as error:
        raise _start_error(error) from None


def _remove_folder(folder: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(folder)  # most are empty; unlike rmtree, this opens no file
        return
    shutil.rmtree(folder, ignore_errors=True)


def _start_error(error: OSError) -> StartError:
    if error.errno in _SHORTAGES:
        remedy = "end other programs, or run fewer trainings at a time"
    else:
        remedy = "free space in the folder for temporary files, or name another one in TMPDIR"
    reason = error.strerror or error
    return StartError("cannot start the process of the training (%s): %s" % (reason, remedy))


class Child:
    """The process of one training, and its log.

    Attributes:
        note: A message for the user about how the process was started, or None.
    """

    def __init__(
        self, job: Job, environment: dict[str, str], log: BinaryIO, only: str | None = None
    ) -> None:
        """Start the process.

        Args:
            job: The job to train.
            environment: The process's environment variables.
            log: The open file that receives Caffe's log.
            only: What the process does instead of a training.
        """
        self._log = log
        self._output_ended = self._has_begun = False
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            stdin, job_file = _pipe(theirs, ours)
            self._output, stdout = _pipe(ours, theirs)
            streams = Streams(stdin.fileno(), stdout.fileno(), log.fileno())
            self._process, self.note = starter.start(streams, environment, only)
            ours.pop_all()
        with contextlib.suppress(BrokenPipeError), job_file:
            json.dump(to_dict(job), job_file)

    def events(self) -> Iterator[tuple[str, Any]]:
        """Yield the events (kind, content) as the training emits them, until its output ends."""
        for line in self._output:
            try:
                kind, content = json.loads(line)
            except ValueError:
                break  # the process died while it wrote this line
            self._has_begun = self._has_begun or kind == "begin"
            yield kind, content
        self._output_ended = True

    def death(self) -> TrialError:
        """Return the error of a process that ended without reporting an end."""
        problem = self._cause_of_death()
        if not self._has_begun:
            problem += "; it had not begun: `lrbench about` shows whether Caffe can be imported"
        return TrialError(problem)

    def _cause_of_death(self) -> str:
        status = self._process.wait()
        log = self._log_tail()
        if status is None:
            return _LOST_MESSAGE
        if status < 0 and -status != signal.SIGABRT:
            return _killed_message(signal.Signals(-status), last_log_line(log))
        reason = fatal_message(log)
        if reason is None:
            last_line = last_log_line(log)
            message = "; its last message: %s" % last_line if last_line else " without a message"
            reason = "it exited with status %d%s" % (status, message)
        return "Caffe ended the training: %s" % reason

    def signal(self, number: int) -> None:
        """Send a signal to the process if it still exists."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def end(self) -> None:
        """Kill the process, after a moment to exit by itself if it has closed its output."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_EXIT_SECONDS if self._output_ended else 0)
        self.signal(signal.SIGKILL)
        if self._process.wait() is None:
            self._output.read()  # until the process has ended
        self._output.close()

    def _log_tail(self) -> str:
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _LOG_TAIL_BYTES))
        return self._log.read().decode(errors="replace")


def _pipe(reading: contextlib.ExitStack, writing: contextlib.ExitStack) -> tuple[TextIO, TextIO]:
    """The ends of a new pipe, each of which closes with a stack."""
    reader, writer = os.pipe()
    return reading.enter_context(os.fdopen(reader)), writing.enter_context(os.fdopen(writer, "w"))


def _open_log(path: str | None, folder: str) -> BinaryIO:
    """The file for Caffe's log; None: a file without a name in the folder."""
    if path is None:
        return cast("BinaryIO", tempfile.TemporaryFile(dir=folder))
    try:
        return open(path, "w+b")
    except OSError as error:
        raise InputError(
            "cannot write Caffe's log to %s (%s): choose another file with --log"
            % (path, error.strerror or "it is not a regular file")
        ) from None


def _environment(folder: str, threads: int | None) -> dict[str, str]:
    """The environment of the process: this program importable, its own temporary folder."""
    environment = dict(os.environ, TMPDIR=folder, PYTHONPATH=python_path(), **blas_environment())
    if threads is not None:
        for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            environment[name] = str(threads)
    return environment


def _killed_message(number: signal.Signals, last_line: str | None) -> str:
    hint = " (the system does this when memory is short)" if number == signal.SIGKILL else ""
    caffe = "; Caffe's last message: %s" % last_line if last_line else ""
    return "signal %s ended the training%s%s" % (number.name, hint, caffe)
