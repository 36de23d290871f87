"""One trial, one process: starts the training loop beside this process, listens to it, and records what it measures.

Caffe aborts its process on a failed CHECK; here that ends the trial and nothing else.
"""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

from lrbench_caffe import database
from lrbench_caffe.errors import InputError, TrialError, fatal_message, last_log_line
from lrbench_caffe.trial import FAILED, INTERRUPTED, Evaluation, Job, Trial, from_dict, to_dict

AVX512 = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
LAST_WORDS = 100000  # bytes at the end of Caffe's log in which its last message is looked for


def train(
    solver,
    policy=None,
    dsn=None,
    on_event=lambda kind, content: None,
    threads=None,
    log=None,
    **options,
):
    """Train a solver prototxt under a policy and return the Trial: its rows, its summary, its state.

    policy is a Policy or its text; None is the prototxt's own.  options are the other fields of
    :class:`lrbench_caffe.trial.Job`, e.g. ``seed=1, data="..."``.  Rows go to the database as they are measured: dsn's, else
    ``LRBENCH_DSN``'s, else the private one.  on_event, threads and log are those of :func:`run`, and so are the errors; Ctrl-C ends
    the trial as interrupted, which is recorded, and raises KeyboardInterrupt.
    """
    paths = {
        name: os.fspath(value) for name, value in options.items() if isinstance(value, os.PathLike)
    }
    job = Job(
        solver=os.fspath(solver),
        policy=None if policy is None else str(policy),
        **dict(options, **paths),
    )
    with interruptible() as stop, database.Recorder(
        dsn, lambda sentence: on_event("note", sentence)
    ) as recorder:
        journal = recorder.journal()

        def hear(kind, content):
            unwritten = journal.on_event(kind, content)
            return on_event(kind, content) or unwritten

        trial = run(job, stop, hear, threads, log)
    if stop.requests:
        raise KeyboardInterrupt
    return trial


def describe(job):
    """The Trial that a Job is about to be, as far as it is known before it begins: the setup, and the policy's canonical text.

    Nothing is trained and nothing recorded.  Raises as :func:`run`, and KeyboardInterrupt after Ctrl-C.
    """
    begun = []

    def look(kind, content):
        if kind == "begin":
            begun.append(content)
            return INTERRUPTED, "it was only looked at"
        return None

    with interruptible() as stop:
        run(job, stop, look, threads=1)
    if stop.requests:
        raise KeyboardInterrupt
    return begun[0]


def run(job, stop, on_event, threads=None, log=None):
    """Train one Job in a process of its own and return the Trial as it ended; None when it was stopped before it had begun.

    stop is a :class:`Stop`.  on_event is called with each event: "note" (a sentence), "begin" (a Trial), "progress" (a dict), "row"
    (an Evaluation), "end" (the Trial).  What it returns is None, or (state, sentence): the training then ends, politely, as that.
    threads: how many threads BLAS uses (None: as the environment says); log: a file that Caffe's log is kept in.

    Raises InputError for what cannot be trained, TrialError when the training fails on its way, after the "end" of a trial that
    had begun.
    """
    if importlib.util.find_spec("caffe") is None:
        raise InputError(
            "this Python (%s) cannot import caffe: start lrbench with docker/run, or with the Python that Caffe is "
            "installed for" % sys.executable
        )
    read, end, problem, verdict = EventReader(), None, None, None
    with _child(job, threads, log, stop) as child:
        for kind, content in child.events():
            if kind == "end":
                end = content
            elif kind in _PROBLEMS:
                problem = _PROBLEMS[kind](content)
            else:
                wanted = on_event(kind, read(kind, content))
                if wanted and not verdict:
                    verdict = wanted
                    child.signal(signal.SIGINT)
        if not (end or problem or stop.requests):
            problem = child.death()
    if read.trial is None:
        if problem:
            raise problem
        return None
    state, error = (
        (FAILED, str(problem))
        if problem
        else (end["state"], end["error"])
        if end
        else (INTERRUPTED, None)
    )
    if verdict and state in (FAILED, INTERRUPTED):
        state, error = verdict
    trial = read("end", {"state": state, "ended": time.time(), "error": error})
    on_event("end", trial)
    if state == FAILED:
        raise problem or TrialError(error)
    return trial


_PROBLEMS = {"input error": InputError, "failure": TrialError}


class EventReader:
    """Turns the events of a training, whose content travels as JSON, into values; trial is the Trial up to now (None before)."""

    trial = None

    def __call__(self, kind, content):
        """The content of an event as :func:`run` tells it: a Trial for "begin" and "end", an Evaluation for "row"."""
        if kind == "begin":
            content = self.trial = from_dict(Trial, content)
        elif kind == "row":
            content = from_dict(Evaluation, content)
            self.trial = self.trial.with_row(content)
        elif kind == "end":
            content = self.trial = self.trial.ended_as(**content)
        return content


class Stop:
    """Ends trainings from outside: the first request politely, after which they say how they ended, the second at once."""

    def __init__(self):
        self.requests = 0
        self._children = set()

    def __call__(self, *_):
        """Request an end; usable as a signal handler."""
        self.requests += 1
        for child in list(self._children):
            child.signal(signal.SIGINT if self.requests == 1 else signal.SIGKILL)

    @contextlib.contextmanager
    def reaching(self, child):
        """Requests within the block reach this child; so does one that came before."""
        self._children.add(child)
        if self.requests:
            child.signal(signal.SIGINT if self.requests == 1 else signal.SIGKILL)
        try:
            yield child
        finally:
            self._children.discard(child)


@contextlib.contextmanager
def interruptible():
    """A Stop that SIGINT, SIGTERM and SIGHUP of this process call within the block, unless it ignores them (as under nohup).

    Only in the main thread; elsewhere nothing calls it.
    """
    stop = Stop()
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {
            number: signal.signal(number, stop)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if signal.getsignal(number) != signal.SIG_IGN
        }
    try:
        if getattr(
            before.get(signal.SIGINT), "called", False
        ):  # the command line's, whose exception was swallowed
            raise KeyboardInterrupt
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def blas_environment(flags=None):
    """The environment that makes OpenBLAS use the fastest kernels this processor has: {} where it finds them itself.

    Debian 11's OpenBLAS 0.3.13 does not know newer AMD cores and leaves their AVX-512 idle; its SkylakeX kernels need nothing but
    these flags.  flags: those of the processor (None: this machine's).  What the environment says already is kept.
    """
    if "OPENBLAS_CORETYPE" in os.environ:
        return {}
    if flags is None:
        with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    return {"OPENBLAS_CORETYPE": "SkylakeX"} if set((flags or "").split()) >= AVX512 else {}


@contextlib.contextmanager
def _child(job, threads, log, stop):
    """A _Child that does not outlive the block, nor do the temporary files that an abort of Caffe leaves."""
    with tempfile.TemporaryDirectory(prefix="lrbench-") as folder, _opened(
        log or os.path.join(folder, "log")
    ) as log:
        child = _Child(job, threads, folder, log)
        try:
            with stop.reaching(child):
                yield child
        finally:
            child.end()


def _opened(path):
    try:
        return open(path, "w+b")
    except OSError as error:
        raise InputError(
            "Caffe's log cannot be written to %s: %s" % (path, error.strerror)
        ) from None


class _Child:
    """The process of one trial, and its log."""

    def __init__(self, job, threads, folder, log):
        package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        environment = dict(os.environ, TMPDIR=folder, PYTHONPATH=path, **blas_environment())
        if threads is not None:
            environment.update(
                OPENBLAS_NUM_THREADS=str(threads),
                OMP_NUM_THREADS=str(threads),
                MKL_NUM_THREADS=str(threads),
            )
        self._log, self._silent = log, False
        # A session of its own, so that Ctrl-C reaches it once and only through Stop.
        # SIGINT waits until it knows what to do with one.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lrbench_caffe.training.solver"],
                stdin=subprocess.PIPE,
                stderr=log,
                stdout=subprocess.PIPE,
                env=environment,
                start_new_session=True,
                universal_newlines=True,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
            json.dump(to_dict(job), stdin)

    def events(self):
        """The events of the training as it emits them, (kind, content), until it ends."""
        for line in self._process.stdout:
            try:
                yield json.loads(line)
            except ValueError:
                break  # a line cut off by the end of the process
        self._silent = True

    def death(self):
        """The TrialError of a process that ended without saying how."""
        status = self._process.wait()
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - LAST_WORDS))
        log = self._log.read().decode(errors="replace")
        if status < 0 and -status != signal.SIGABRT:
            said = last_log_line(log)
            return TrialError(
                "the training was ended by the signal %s%s%s"
                % (
                    signal.Signals(-status).name,
                    ", as the system does when memory is short"
                    if -status == signal.SIGKILL
                    else "",
                    "; Caffe's last message: %s" % said if said else "",
                )
            )
        return TrialError(
            "Caffe ended the training: %s"
            % (fatal_message(log) or "it left with status %d and no message" % status)
        )

    def signal(self, number):
        """Send a signal to the process if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def end(self):
        """Leave no process behind: give one that has said its last word the time to go, and kill what is left."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5 if self._silent else 0)
        self.signal(signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()
