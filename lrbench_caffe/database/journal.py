"""The journal: every measurement is on the local disk before it is sent to PostgreSQL.

How a row travels from the training to PostgreSQL:

1. The training's process sends each evaluation as an event to the program that started it.
2. The program passes the event to the trial's :class:`Journal`. ``on_event`` appends it to a file
   of this attempt in the folder ``journal`` of LRBench's home, and flushes the file to the disk.
   Only then does it return.
3. A thread of the :class:`Recorder` reads what is new in the program's journals and passes it to
   :class:`~lrbench_caffe.database.store.Store`, which commits it.
4. When the database has the trial's end, the journal is removed.

No training waits for the database. While the database cannot record anything, because it does not
answer, is frozen or locked, or the user has lost the right to write, the thread tries again every
``RETRY_SECONDS``, and the events wait in the journals. If the program ends before that, the
journals remain, and :mod:`~lrbench_caffe.database.delivery` delivers them when the database is
opened the next time. If such a journal has no end, its trial is recorded as interrupted at the time
of its last event.

What is guaranteed:

- An event that ``on_event`` has accepted outlives a crash of the program, of the database server
  or of the connection. A line that a crash has torn was never accepted; it is left out.
- Each row is stored once, because repeating a delivery does no harm.
- Rows arrive in the order in which they were measured.
- If the database has lost the trial, because an older backup was restored, the journal is delivered
  from its beginning.
- A journal with a value that the database rejects does not hold up the others: it is kept as
  ``*.refused``, with the reason.
- On a full disk, the trial ends as failed. The events without room stay in memory and are
  delivered from there. They are lost only if there is still no room at the end of the trial, and
  the database is unavailable until the program ends.
"""

from __future__ import annotations

import dataclasses
import glob
import os
import tempfile
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, Callable

from lrbench_caffe.database.delivery import REFUSED, deliver
from lrbench_caffe.database.journal_file import ENDING, JournalFile, folder
from lrbench_caffe.database.store import Store
from lrbench_caffe.database.watch import patience
from lrbench_caffe.errors import ChangeRefused, DatabaseUnavailable, InputError, counted
from lrbench_caffe.paths import make_private
from lrbench_caffe.trial import FAILED, Trial, to_dict

if TYPE_CHECKING:
    from lrbench_caffe.database.studies import StopSwitch

QUIET_SECONDS = 2  # of waiting for the database at the end, until a message says so
RETRY_SECONDS = 10  # between two attempts to reach a database that is unavailable
_left_behind: set[str] = set()  # the journals that Recorders of this program could not deliver


def undelivered() -> list[str]:
    """Return the journals of this program that are not in the database, those refused included."""
    paths = (path for journal in _left_behind for path in (journal, journal + REFUSED))
    return sorted(path for path in paths if os.path.exists(path))


def undelivered_trials() -> set[str]:
    """Return the ids of the trials with journals of this program that are not in the database."""
    return {os.path.basename(path)[: len(str(uuid.UUID(int=0)))] for path in undelivered()}


def _path(trial_id: str, attempt: int) -> str:
    return os.path.join(folder(), "%s-%d%s" % (trial_id, attempt, ENDING))


def _has_journal(trial_id: str, attempt: int) -> bool:
    """Whether there is a journal of the attempt, a refused one included."""
    return bool(glob.glob(glob.escape(_path(trial_id, attempt)) + "*"))


class Recorder:
    """Records any number of trials at a time; a context manager.

    It owns the thread that delivers their journals. On leaving the context, everything has been
    delivered, unless the database cannot record it now or rejects a value.

    Args:
        dsn: The database, as for :class:`~lrbench_caffe.database.store.Store`.
        on_note: Called with each message for the user, from any thread.
        stop: A request to this switch, after the context is left, ends the waiting for the
            database; the rest remains in the journals.

    Raises:
        InputError: The database or the folder of the journals cannot be used, or the user may not
            write to the database.

    Example:
        >>> with Recorder() as recorder:
        ...     journal = recorder.journal()
        ...     journal.on_event("begin", trial)
        ...     journal.on_event("row", evaluation)
        ...     journal.on_event("end", trial.ended_as("finished", time.time()))
    """

    def __init__(
        self,
        dsn: str | None = None,
        on_note: Callable[[str], None] = lambda note: None,
        stop: StopSwitch | None = None,
    ) -> None:
        self._folder = folder()
        try:
            make_private(self._folder)
            tempfile.TemporaryFile(dir=self._folder).close()
        except OSError as error:
            raise InputError(
                "the journal's folder %s cannot be written (%s): set LRBENCH_HOME to another folder"
                % (self._folder, error.strerror)
            ) from None
        self._store = Store(dsn, on_note=on_note, lock_timeout=patience())
        try:
            self._store.require_writing()
        except BaseException:
            self._store.close()
            raise
        self._on_note, self._stop = on_note, stop
        self._problem: str | None = None  # why nothing can be delivered now
        self._files: list[JournalFile] = []
        self._lock = threading.Lock()  # guards _files
        self._work, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._deliver_until_closed, name="journal")
        self._thread.daemon = True
        self._thread.start()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._open_files():  # of trials that were cut off
            file.close()
        self._closing.set()
        self._work.set()
        delivers_no_more = self._wait_for_thread()
        files = self._open_files()
        _left_behind.update(file.path for file in files)
        lost = sum(len(file.unwritten) for file in files)
        waiting = sum(file.undelivered_events() for file in files) - lost
        problem = self._problem or "the database %s does not have all events" % self._store.where
        if waiting:
            self._on_note(
                "%s; %d events wait in %s, and are delivered when lrbench next uses this database"
                % (problem, waiting, self._folder)
            )
        if lost:
            self._on_note("%s; %d events are lost, because the disk is full" % (problem, lost))
        if delivers_no_more:
            self._store.close()

    def _wait_for_thread(self) -> bool:
        """Wait until the thread has ended; return False if a request to stop ended the waiting.

        The thread ends in any case: it waits neither for a lock nor for a frozen database for ever.
        """
        requests = self._stop.requests if self._stop else 0
        quiet_until = time.monotonic() + QUIET_SECONDS
        while self._thread.is_alive():
            self._thread.join(0.05)
            if self._stop and self._stop.requests > requests:
                return False
            if time.monotonic() > quiet_until:
                quiet_until = float("inf")
                self._on_note(
                    "waiting for the database %s to record %s; Ctrl-C leaves them in %s"
                    % (self._store.where, self._undelivered_text(), self._folder)
                )
        return True

    def _undelivered_text(self) -> str:
        return counted(sum(file.undelivered_events() for file in self._open_files()), "event")

    def journal(self, attempts: int = 0) -> Journal:
        """Return a journal for one trial.

        Args:
            attempts: How many attempts at this trial the database has.
        """
        return Journal(self._new_file, attempts, self._store.identity, self._store.where)

    def _new_file(self, trial: Trial) -> JournalFile:
        file = JournalFile(_path(trial.id, trial.attempt), self._work.set)
        with self._lock:
            self._files.append(file)
        return file

    def _open_files(self) -> list[JournalFile]:
        with self._lock:
            return list(self._files)

    def _deliver_until_closed(self) -> None:
        """Deliver what is new whenever there is something new: the thread's whole work."""
        while not self._closing.is_set():
            self._work.wait()
            self._work.clear()
            if not self._deliver_all():
                self._closing.wait(RETRY_SECONDS)
                self._work.set()
        self._deliver_all()

    def _deliver_all(self) -> bool:
        """Deliver what is new in all journals; return whether the database could record it."""
        refused: ChangeRefused | None = None
        try:
            for file in self._open_files():
                try:
                    self._deliver(file)
                except ChangeRefused as error:  # the others may be accepted
                    refused = error
            if refused:
                raise refused
        except DatabaseUnavailable as error:
            if self._problem is None:
                self._on_note(
                    "%s; trainings continue, and their measurements wait in %s"
                    % (error, self._folder)
                )
            self._problem = str(error)
            return False
        if self._problem is not None:
            self._on_note("the database %s is back" % self._store.where)
        self._problem = None
        return True

    def _deliver(self, file: JournalFile) -> None:
        path = file.path
        if deliver(self._store, file, self._on_note):
            with self._lock:
                self._files.remove(file)
            if file.refusal:
                _left_behind.add(path)


class Journal:
    """The journal of one trial over all its attempts; made by :meth:`Recorder.journal`.

    Args:
        new_file: Makes the file of a new attempt at the trial.
        attempts: How many attempts at the trial the database has.
        identity: The UUID of the database that the trial is recorded in.
        name: The name of that database for messages.
    """

    def __init__(
        self, new_file: Callable[[Trial], JournalFile], attempts: int, identity: str, name: str
    ) -> None:
        self._new_file = new_file
        self._attempts = attempts
        self._database = {"id": identity, "name": name}
        self._file: JournalFile | None = None
        self._verdict: tuple[str, str] | None = None

    def on_event(self, kind: str, content: Any) -> tuple[str, str] | None:
        """Record an event of the training; it is on the disk when this returns.

        Args:
            kind: ``begin``, ``row`` or ``end``. Events of other kinds are not recorded.
            content: The event's content: for ``begin`` and ``end`` the trial, for ``row`` an
                evaluation.

        Returns:
            None, or, if the disk is full, how the training has to end: the state FAILED and the
            error.
        """
        try:
            if kind == "begin":
                self._begin(content)
            elif kind == "row":
                self._current_file().write(("row", to_dict(content)))
            elif kind == "end":
                end = {"state": content.state, "ended": content.ended, "error": content.error}
                self._current_file().write(("end", end))
                self._current_file().close()
        except OSError as error:
            message = (
                "the journal %s cannot be written (%s): free disk space, or set LRBENCH_HOME to a "
                "folder on another disk; everything measured so far is kept"
            )
            self._verdict = (FAILED, message % (self._current_file().path, error.strerror))
        return self._verdict

    def _begin(self, trial: Trial) -> None:
        """Begin the file of a new attempt; an earlier attempt was lost with its worker."""
        if self._file is not None:
            self._file.close()
        self._attempts += 1
        while _has_journal(trial.id, self._attempts):  # of a program whose events still wait
            self._attempts += 1
        trial = dataclasses.replace(trial, attempt=self._attempts)
        self._file, self._verdict = self._new_file(trial), None
        self._file.write(("database", self._database), ("begin", to_dict(trial)))

    def _current_file(self) -> JournalFile:
        if self._file is None:
            raise RuntimeError("a training's first event must be its beginning")
        return self._file
