"""One trial in a process of its own: :func:`train` records it, :func:`run` only trains it.

Caffe aborts its process when a check fails. In a process of its own that ends the trial only.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import signal
import sys
import time
import uuid
from typing import TYPE_CHECKING, Any

from lrbench_caffe import models
from lrbench_caffe.errors import InputError, TrialError, UnusableCaffe
from lrbench_caffe.study.child import PROBLEMS, child_process
from lrbench_caffe.study.events import EventReader, first_verdict, has_stopped_improving
from lrbench_caffe.study.stop import Stop, interruptible
from lrbench_caffe.trial import FAILED, INTERRUPTED, Job

if TYPE_CHECKING:
    from lrbench_caffe.policies import Policy
    from lrbench_caffe.study.child import Child
    from lrbench_caffe.study.events import OnEvent, Verdict
    from lrbench_caffe.trial import Trial

__all__ = ["describe", "run", "train"]


def train(
    solver: str | os.PathLike[str],
    policy: Policy | str | None = None,
    dsn: str | None = None,
    on_event: OnEvent = lambda kind, content: None,
    threads: int | None = None,
    log: str | None = None,
    model: bool = True,
    **options: Any,
) -> Trial:
    """Train a solver prototxt under a learning rate policy, and record the trial in the database.

    The model of its best row is kept; :func:`lrbench_caffe.weights` finds it.

    Args:
        solver: The path of a solver prototxt.
        policy: A Policy or its text (None: the lr_policy of the prototxt).
        dsn: The PostgreSQL database for the rows, which are written as they are measured (None:
            that of the environment variable ``LRBENCH_DSN``, else the private database).
        on_event: Receives the events of the training, see :mod:`lrbench_caffe.study.events`. It
            may return a verdict that ends the training.
        threads: The number of BLAS threads (None: left to the environment).
        log: The file for Caffe's log (None: it is not kept).
        model: Whether the model of the best row is kept below LRBENCH_HOME. With ``keep_best``, the
            start of the names of two files, it is written there, too.
        **options: The other fields of :class:`lrbench_caffe.trial.Job`, such as ``seed=1`` or
            ``data="data"``.

    Returns:
        The Trial as it ended: its rows, its summary and its state.

    Raises:
        InputError: The solver cannot be trained, or the database cannot be used.
        TrialError: The training failed.
        KeyboardInterrupt: Ctrl-C ended the trial, which is recorded as interrupted.

    Example:
        >>> trial = train("solver.prototxt", "FIX(k0=0.01)", seed=1)  # doctest: +SKIP
        >>> trial.state, trial.summary.top1  # doctest: +SKIP
        ('finished', 0.98)
    """
    from lrbench_caffe import database  # Dask workers import this module without psycopg2

    on_event = options.pop("listen", on_event)  # a former name of on_event
    unknown = sorted(options.keys() - {field.name for field in dataclasses.fields(Job)})
    if unknown:
        raise TypeError("train() got an unexpected keyword argument %r" % unknown[0])
    paths = {
        name: os.fspath(value) for name, value in options.items() if isinstance(value, os.PathLike)
    }
    options.update(paths, policy=None if policy is None else str(policy))
    job = _keeping_model(Job(os.fspath(solver), **options), model)

    def note(message: str) -> None:
        on_event("note", message)

    with interruptible() as stop, database.Recorder(dsn, note, stop) as recorder:
        journal = recorder.journal()

        def record(kind: str, content: Any) -> Verdict | None:
            verdicts = [journal.on_event(kind, content), on_event(kind, content)]
            return first_verdict(verdicts)

        trial = run(job, stop, record, threads, log)
    assert trial is not None  # only a stop prevents a trial, and interruptible() raises then
    return trial


def _keeping_model(job: Job, model: bool) -> Job:
    """The job with the places for its best model, which are below its id."""
    if job.keep_best is not None:
        if not model:
            raise InputError(
                "give --keep-best or --no-model, not both: one keeps the best model, the other none"
            )
        job = dataclasses.replace(job, keep_best=models.check_prefix(job.keep_best))
    trial = job.id or str(uuid.uuid4())
    return dataclasses.replace(job, id=trial, model_folder=models.folder(trial) if model else None)


def describe(job: Job) -> Trial:
    """Return the Trial that a job would start, without training or recording anything.

    Args:
        job: The job to describe.

    Returns:
        The Trial without rows: its setup, and its policy in canonical text.

    Raises:
        InputError: The job cannot be trained. The folder of its snapshots is not checked.
        TrialError: Caffe failed before the training could begin.
        KeyboardInterrupt: After Ctrl-C.
    """
    check_caffe()
    reader = EventReader()
    with interruptible() as stop, child_process(
        job, threads=1, log=None, only="describe"
    ) as child, stop.reaching(child):
        _, problem, _ = _forward_events(child, reader, lambda kind, content: None)
        if not (reader.trial or problem or stop.requests):
            problem = child.death()
    if reader.trial is None:
        assert problem is not None  # only a stop prevents both, and interruptible() raises then
        raise problem
    return reader.trial


def run(
    job: Job,
    stop: Stop,
    on_event: OnEvent,
    threads: int | None = None,
    log: str | None = None,
) -> Trial | None:
    """Train a job in a process of its own, without recording it.

    Args:
        job: The job to train.
        stop: Ends the training on request.
        on_event: Receives the events of the training, see :mod:`lrbench_caffe.study.events`. It
            may return a verdict that ends the training.
        threads: The number of BLAS threads (None: left to the environment).
        log: The file for Caffe's log (None: it is not kept).

    Returns:
        The Trial as it ended; None if it was stopped before it began.

    Raises:
        UnusableCaffe: This machine's Caffe cannot be used.
        InputError: The job cannot be trained.
        TrialError: The training failed. If it had begun, its "end" was emitted first.
    """
    check_caffe()
    reader = EventReader()
    with child_process(job, threads, log) as child, stop.reaching(child):
        if child.note:
            on_event("note", child.note)
        end, problem, verdict = _forward_events(child, reader, on_event)
        if not (end or problem or stop.requests):
            problem = child.death()
    if reader.trial is None:
        if problem:
            raise problem
        return None
    state, error = _final_state(end, problem, verdict)
    trial: Trial = reader.read("end", {"state": state, "ended": time.time(), "error": error})
    on_event("end", trial)
    if state == FAILED:
        raise problem or TrialError(error)
    return trial


def check_caffe() -> None:
    """Raise UnusableCaffe if Caffe is not installed for this Python."""
    if importlib.util.find_spec("caffe") is None:
        raise UnusableCaffe(
            "Caffe is not installed for this Python (%s): start the program with docker/run, or "
            "with the Python that Caffe is installed for" % sys.executable
        )


def _forward_events(
    child: Child, reader: EventReader, on_event: OnEvent
) -> tuple[dict[str, Any] | None, InputError | TrialError | None, Verdict | None]:
    """Pass a child's events on until its output ends; interrupt it at the first verdict.

    Returns:
        The content of its "end", the problem that it reported, and the verdict, each or None.
    """
    end: dict[str, Any] | None = None
    problem: InputError | TrialError | None = None
    verdict: Verdict | None = None
    for kind, content in child.events():
        if kind == "end":
            end = content
        elif kind in PROBLEMS:
            problem = PROBLEMS[kind](content)
        else:
            event_verdict = on_event(kind, reader.read(kind, content))
            if event_verdict and not verdict:
                verdict = event_verdict
                child.signal(signal.SIGINT)
    return end, problem, verdict


def _final_state(
    end: dict[str, Any] | None,
    problem: InputError | TrialError | None,
    verdict: Verdict | None,
) -> tuple[str, str | None]:
    """The state and the error of a trial, from what :func:`_forward_events` returned."""
    if problem:
        state, error = FAILED, str(problem)
    elif end:
        state, error = end["state"], end["error"]
    else:
        state, error = INTERRUPTED, None
    if verdict and (has_stopped_improving(state, error) or state in (FAILED, INTERRUPTED)):
        return verdict
    return state, error
