"""Run studies: train each trial once, even if a trial, the program or the machine dies.

A pool trains the trials, see :class:`lrbench_caffe.study.interfaces.Pool`. The program that runs
the study records what they measure.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import time
import uuid
from typing import TYPE_CHECKING, Any, TypeVar

from lrbench_caffe import database, models, policies
from lrbench_caffe.database import studies
from lrbench_caffe.errors import CannotConnect, DatabaseUnavailable, InputError, Undelivered
from lrbench_caffe.paths import study_folder
from lrbench_caffe.study import versions
from lrbench_caffe.study.events import first_verdict
from lrbench_caffe.study.kept import BestOfPolicies
from lrbench_caffe.study.pruning import Pruner
from lrbench_caffe.study.stop import interruptible
from lrbench_caffe.training import patience
from lrbench_caffe.trial import FAILED, INTERRUPTED, RUNNING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from lrbench_caffe.study.events import OnJobEvent, Verdict
    from lrbench_caffe.study.interfaces import Display, Pool
    from lrbench_caffe.study.stop import Stop
    from lrbench_caffe.trial import Job, Trial

T = TypeVar("T")

RETRY_SECONDS = 10  # between two attempts to reach a database that is away
_POLL_SECONDS = 0.1

# The states of the trials that a study still has to train; None: the trial has not begun.
UNFINISHED: tuple[str | None, ...] = (None, RUNNING, INTERRUPTED)


def run_jobs(
    jobs: Iterable[Job], pool: Pool, display: Display, dsn: str | None = None
) -> list[Trial]:
    """Train jobs that do not belong to a study, and record them.

    Args:
        jobs: The jobs to train.
        pool: Trains them.
        display: Shows their progress.
        dsn: The PostgreSQL database (None: the default one).

    Returns:
        The Trials that have begun, in the order in which they ended.

    Raises:
        InputError: The database or the pool cannot be used.
        KeyboardInterrupt: After Ctrl-C. Everything measured before is recorded.
    """
    trials = []

    def collect(job: Job, kind: str, content: Any) -> None:
        if kind == "end":
            trials.append(content)

    jobs = [dataclasses.replace(job, id=str(uuid.uuid4())) for job in jobs]
    with interruptible() as stop, database.Recorder(dsn, display.note, stop) as recorder:
        _train(jobs, {}, pool, stop, recorder, [collect], display)
    return trials


def run_study(
    name: str,
    pool: Pool,
    display: Display,
    jobs: Iterable[Job] = (),
    dsn: str | None = None,
    *,
    prune: float | None = None,
    retry_failed: bool = False,
    watchers: Sequence[OnJobEvent] = (),
    others: bool = True,
    model: bool = True,
) -> None:
    """Start a study or resume it.

    Trials that have ended are not trained again. Interrupted trials resume from their last
    snapshot, or start again if they have none. The model of the best trial of each policy is kept.

    Args:
        name: The name of the study.
        pool: Trains the trials.
        display: Shows their progress.
        jobs: Jobs to add to the study; those that it already has are not added again. They may be
            empty if the study exists.
        dsn: The PostgreSQL database (None: the default one).
        prune: The margin of a :class:`lrbench_caffe.study.pruning.Pruner`, as a share of 1 (None:
            no trial is pruned).
        retry_failed: Whether failed trials are trained once more.
        watchers: Functions that also receive all events and may return verdicts, see
            :mod:`lrbench_caffe.study.events`.
        others: Whether to train the study's other unfinished trials beside those of jobs.
        model: Whether the trials keep their models.

    Raises:
        InputError: The study does not exist, another program runs it, a job cannot be trained, what
            it trains has changed since, or the database or the pool cannot be used.
        KeyboardInterrupt: After Ctrl-C or a request to stop. Everything measured before is
            recorded.
    """
    jobs = [checked_job(job) for job in jobs]
    with claimed_study(name, display.note, dsn, create=bool(jobs)) as study:
        study.check_versions(display.note, "give a new study another name")
        study.train(
            pool,
            display,
            jobs,
            prune=prune,
            retry_failed=retry_failed,
            watchers=watchers,
            others=others,
            model=model,
        )


@contextlib.contextmanager
def claimed_study(
    name: str,
    on_note: Callable[[str], None],
    dsn: str | None = None,
    create: bool = True,
    command: str | None = None,
) -> Iterator[ClaimedStudy]:
    """Claim a study for this program, for any number of rounds of trainings in the block.

    No other program can run the study within the block. Ctrl-C and requests to stop end the round
    that trains, or keep the next one from beginning.

    Args:
        name: The name of the study.
        on_note: Called with each message for the user, from any thread.
        dsn: The PostgreSQL database (None: the default one).
        create: Whether to create the study if it does not exist.
        command: The command that resumes the study (None: ``lrbench study run``, or that of the
            program that ran it before).

    Yields:
        The ClaimedStudy.

    Raises:
        InputError: The name is invalid, the study does not exist, another program runs it, or the
            database cannot be used.
        KeyboardInterrupt: At the end of the block, after Ctrl-C or a request to stop.
    """
    checked_study_name(name)
    with _resumable(name), interruptible() as stop:
        with database.Store(dsn, on_note=on_note) as store:
            store.require_writing()
            if create:
                studies.add(store, name, [])
            claim = studies.Claim(name, dsn, stop, on_note)
        with claim:
            if command is not None:
                with database.Store(dsn) as store:
                    studies.set_command(store, name, command)
            yield ClaimedStudy(name, dsn, stop)


@contextlib.contextmanager
def _resumable(name: str) -> Iterator[None]:
    """Give an interruption of a study its message."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command resumes the study %s" % name) from None


class ClaimedStudy:
    """A study that this program runs; made by :func:`claimed_study`."""

    def __init__(self, name: str, dsn: str | None, stop: Stop) -> None:
        self._name, self._dsn, self._stop = name, dsn, stop
        self._folder = study_folder(name)
        self._outdated: set[str] = set()  # trials whose snapshots belong to a former version

    def check_versions(self, on_note: Callable[[str], None], remedy: str) -> None:
        """Check that what the study trains is what its trials have trained.

        Args:
            on_note: Called with each message for the user.
            remedy: What to do instead, beside undoing the change, for the message.

        Raises:
            InputError: It is not; see :func:`lrbench_caffe.study.versions.check`.
            KeyboardInterrupt: After Ctrl-C or a request to stop.
        """
        self._outdated |= self.in_database(
            lambda store: versions.check(store, self._name, remedy), on_note
        )

    def begin_anew(self, trial: str) -> None:
        """Let a failed trial begin from the start, without its snapshots, if it is retried."""
        self._outdated.add(trial)

    def train(
        self,
        pool: Pool,
        display: Display,
        jobs: Sequence[Job],
        *,
        prune: float | None = None,
        retry_failed: bool = False,
        watchers: Sequence[OnJobEvent] = (),
        others: bool = True,
        model: bool = True,
    ) -> None:
        """Train a round of trials, see :func:`run_study`.

        Args:
            pool: As for run_study.
            display: As for run_study; one for each round.
            jobs: As for run_study, each as :func:`checked_job` returns it.
            prune: As for run_study.
            retry_failed: As for run_study.
            watchers: As for run_study.
            others: As for run_study.
            model: As for run_study.

        Raises:
            InputError: The study has no trials, or the database or the pool cannot be used.
            KeyboardInterrupt: After Ctrl-C or a request to stop.
        """
        trainable = (*UNFINISHED, FAILED) if retry_failed else UNFINISHED

        def read(store: database.Store) -> tuple[list[studies.StudyJob], list[OnJobEvent]]:
            studies.add(store, self._name, jobs)
            entries = studies.jobs(store, self._name)
            receivers = [_remove_snapshots, self._kept_models(store, entries), *watchers]
            if prune is not None:
                ended = [entry.job.id for entry in entries if entry.state not in trainable]
                receivers.append(Pruner(prune, studies.reached(store, ended)).on_event)
            return entries, receivers

        def open_recorder() -> database.Recorder:
            return database.Recorder(self._dsn, display.note, self._stop)

        # The recorder comes first: it delivers what a program that died has left behind.
        with self._when_available(open_recorder, display.note) as recorder:
            entries, receivers = self.in_database(read, display.note)
            pending = [
                _in_folder(entry.job, self._folder, model)
                for entry in entries
                if entry.state in trainable
                and (others or dataclasses.replace(entry.job, id=None) in jobs)
            ]
            for job in pending:
                if job.id in self._outdated and job.folder:
                    shutil.rmtree(job.folder, ignore_errors=True)
                    self._outdated.remove(job.id)
            attempts = {entry.job.id: entry.attempts for entry in entries}
            _train(pending, attempts, pool, self._stop, recorder, receivers, display)
        self._check_stop()

    def in_database(self, work: Callable[[database.Store], T], on_note: Callable[[str], None]) -> T:
        """Run ``work(store)``. While the database is away, wait for it, and run it again.

        Args:
            work: Reads or changes the database; it may be repeated without harm.
            on_note: Called with each message for the user.

        Returns:
            What it returns.

        Raises:
            KeyboardInterrupt: After Ctrl-C or a request to stop, which end the waiting.
        """

        def open_store() -> T:
            with database.Store(self._dsn) as store:
                return work(store)

        return self._when_available(open_store, on_note)

    def _when_available(self, work: Callable[[], T], on_note: Callable[[str], None]) -> T:
        """Return what work() returns; while it cannot use the database, wait and call it again."""
        is_away = False
        while True:
            self._check_stop()
            try:
                result = work()
            except Undelivered:  # the database answers, and its answer is the result
                raise
            except (CannotConnect, DatabaseUnavailable) as error:
                if not is_away:
                    on_note(
                        "%s; the study %s waits for the database, and Ctrl-C ends the waiting"
                        % (error, self._name)
                    )
                is_away = True
                self._wait(RETRY_SECONDS)
            else:
                if is_away:
                    on_note("the database is back: the study %s continues" % self._name)
                return result

    def _wait(self, seconds: float) -> None:
        """Wait until the time has passed or a stop is requested."""
        end = time.monotonic() + seconds
        while not self._stop.requests and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)

    def _kept_models(
        self, store: database.Store, entries: Sequence[studies.StudyJob]
    ) -> OnJobEvent:
        """The watcher that removes models, which begins with those of trials that have ended."""
        ids = models.with_models(str(entry.job.id) for entry in entries)
        trials = store.trials(study=self._name, best_only=True) if ids else []
        return BestOfPolicies(trial for trial in trials if trial.id in ids).on_event

    def _check_stop(self) -> None:
        """End the rounds after a request to stop."""
        if self._stop.requests:
            raise KeyboardInterrupt


def _train(
    jobs: Sequence[Job],
    attempts: dict[str | None, int],
    pool: Pool,
    stop: Stop,
    recorder: database.Recorder,
    watchers: Sequence[OnJobEvent],
    display: Display,
) -> None:
    """Train jobs on a pool.

    Each event goes to the trial's journal, the watchers and the display, in this order. The first
    verdict of the journal or a watcher ends the trial.

    Args:
        jobs: The jobs to train.
        attempts: How often each trial was started before, by its id.
        pool: Trains the jobs.
        stop: Ends the trainings on request.
        recorder: Records the trials.
        watchers: Functions that receive all events.
        display: Shows the progress.
    """
    if not jobs:
        return
    journals = {job.id: recorder.journal(attempts.get(job.id, 0)) for job in jobs}

    def on_event(job: Job, kind: str, content: Any) -> Verdict | None:
        verdicts = [journals[job.id].on_event(kind, content)]
        verdicts += [watcher(job, kind, content) for watcher in watchers]
        display.on_event(job, kind, content)
        return first_verdict(verdicts)

    display.begin(jobs)
    pool.run(jobs, stop, on_event)


def _remove_snapshots(job: Job, kind: str, content: Any) -> None:
    """Watch for the end of a trial that will not be resumed, and remove its snapshots."""
    if kind == "end" and content.state not in (*UNFINISHED, FAILED) and job.folder:
        shutil.rmtree(job.folder, ignore_errors=True)


def _in_folder(job: Job, study_folder: str, model: bool) -> Job:
    """The job with the folders for its snapshots and, if it keeps them, for its models."""
    assert job.id is not None, "each job of a study has a trial id"
    return dataclasses.replace(
        job,
        folder=os.path.join(study_folder, job.id),
        model_folder=models.folder(job.id) if model else None,
    )


def checked_study_name(name: str) -> str:
    """Return the name of a study.

    Args:
        name: The name that a user chose.

    Returns:
        The same name.

    Raises:
        InputError: The name is invalid.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise InputError(
            "invalid study name %r: expected up to 100 of the letters a-z and A-Z, digits, dots, "
            "dashes and underscores, the first a letter or a digit" % name
        )
    return name


def checked_job(job: Job) -> Job:
    """Return a job with absolute paths, so that it can be resumed from another current directory.

    Raises:
        InputError: The job can never be trained.
    """
    if not os.path.isfile(job.solver):
        raise InputError("solver %s not found: give the path of a solver prototxt" % job.solver)
    if job.data is not None and not os.path.isdir(job.data):
        raise InputError(
            "data folder %s not found: create it with `lrbench data`, or name another with --data"
            % job.data
        )
    checked = absolute_paths(job)
    if checked.validation is not None and not os.path.exists(checked.validation):
        raise InputError(
            "the validation set %s was not found: give the path of an existing one"
            % checked.validation
        )
    if job.policy is not None:
        policies.check(job.policy)  # the training reads the length of an epoch from its data
    patience.check(job)
    return checked


def absolute_paths(job: Job) -> Job:
    """Return a job with absolute paths; its validation set may be relative to its data folder."""
    validation = job.validation
    if validation is not None and job.data is not None and not os.path.exists(validation):
        validation = os.path.join(job.data, validation)
    return dataclasses.replace(
        job,
        solver=os.path.abspath(job.solver),
        data=job.data and os.path.abspath(job.data),
        validation=validation and os.path.abspath(validation),
    )
