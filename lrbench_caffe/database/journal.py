"""The journal: every measurement is on the local disk before it is sent to PostgreSQL.

How a row travels from the training to PostgreSQL:

1. The training's process sends each evaluation as an event to the program that started it.
2. The program passes the event to the trial's :class:`Journal`. ``on_event`` appends it to a file
   of this attempt in the folder ``journal`` of LRBench's home, and flushes the file to the disk.
   Only then does it return.
3. A thread of the :class:`Recorder` reads what is new in the program's journals and passes it to
   :class:`~lrbench_caffe.database.store.Store`, which commits it.
4. When the database has the trial's end, the journal is removed.

No training waits for the database. During an outage the thread tries again every
``RETRY_SECONDS``, and the events wait in the journals. If the program ends before the database is
back, the journals remain. The next Recorder for the same database delivers every journal that is
not locked: its program has ended. If such a journal has no end, its trial is recorded as
interrupted at the time of its last event.

What is guaranteed:

- An event that ``on_event`` has accepted outlives a crash of the program, of the database server
  or of the connection. A line that a crash has torn was never accepted; it is left out.
- Each row is stored once, because repeating a delivery does no harm.
- Rows arrive in the order in which they were measured.
- A journal that the database rejects does not hold up the others: it is kept as ``*.refused``.
- On a full disk, the trial ends as failed. The events without room stay in memory and are
  delivered from there. They are lost only if there is still no room at the end of the trial, and
  the database is unavailable until the program ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import glob
import json
import os
import tempfile
import threading
from itertools import groupby
from typing import Any, Callable, Sequence

from lrbench_caffe.database.journal_file import Event, JournalFile, encode
from lrbench_caffe.database.store import Store
from lrbench_caffe.errors import DatabaseUnavailable, InputError
from lrbench_caffe.paths import home
from lrbench_caffe.trial import FAILED, INTERRUPTED, Evaluation, Trial, from_dict, to_dict

RETRY_SECONDS = 10  # between two attempts to reach a database that is unavailable
_INTERRUPTED_ERROR = "the program that recorded it ended before the trial did"


class Recorder:
    """Records any number of trials at a time; a context manager.

    It owns the folder of the journals and the thread that delivers them. On leaving the context,
    everything has been delivered, unless the database is unavailable.

    Args:
        dsn: The database, as for :class:`~lrbench_caffe.database.store.Store`.
        on_note: Called with each message for the user, from any thread.

    Raises:
        InputError: The database or the folder of the journals cannot be used.

    Example:
        >>> with Recorder() as recorder:
        ...     journal = recorder.journal()
        ...     journal.on_event("begin", trial)
        ...     journal.on_event("row", evaluation)
        ...     journal.on_event("end", trial.ended_as("finished", time.time()))
    """

    def __init__(
        self, dsn: str | None = None, on_note: Callable[[str], None] = lambda note: None
    ) -> None:
        self._folder = os.path.join(home(), "journal")
        try:
            os.makedirs(self._folder, exist_ok=True)
            tempfile.TemporaryFile(dir=self._folder).close()
        except OSError as error:
            raise InputError(
                "the journal's folder %s cannot be written (%s): set LRBENCH_HOME to another folder"
                % (self._folder, error.strerror)
            ) from None
        self._store = Store(dsn)
        self._on_note = on_note
        self._unavailable = False
        self._files: list[JournalFile] = []
        self._lock = threading.Lock()  # guards _files
        self._work, self._closing = threading.Event(), threading.Event()
        self._deliver_leftovers()
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
        self._thread.join()
        waiting = sum(file.undelivered_events() for file in self._open_files())
        if waiting:
            self._on_note(
                "the database %s cannot be reached: %d events wait in %s, and are delivered when "
                "lrbench next uses this database" % (self._store.where, waiting, self._folder)
            )
        self._store.close()

    def journal(self, attempts: int = 0) -> Journal:
        """Return a journal for one trial.

        Args:
            attempts: How many attempts at this trial the database has.
        """
        return Journal(self._new_file, attempts, self._store.where)

    def _new_file(self, trial: Trial) -> JournalFile:
        name = "%s-%d.jsonl" % (trial.id, trial.attempt)
        file = JournalFile(os.path.join(self._folder, name), self._work.set)
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
        """Deliver what is new in all journals; return whether the database was available."""
        try:
            for file in self._open_files():
                if self._deliver(file):
                    with self._lock:
                        self._files.remove(file)
        except DatabaseUnavailable as error:
            if not self._unavailable:
                self._on_note(
                    "%s; trainings continue, and their measurements wait in %s"
                    % (error, self._folder)
                )
            self._unavailable = True
            return False
        if self._unavailable:
            self._on_note("the database %s is back" % self._store.where)
        self._unavailable = False
        return True

    def _deliver(self, file: JournalFile) -> bool:
        """Deliver what is new in a journal; return whether nothing of it is left to deliver."""
        closed = file.closed  # read first: a line that is written after this must not be missed
        try:
            # There is no file where the disk was full, or where another program has delivered it.
            with contextlib.suppress(FileNotFoundError):
                for lines in file.undelivered_lines():
                    self._deliver_events(file, [json.loads(line.decode()) for line in lines])
                    file.delivered += sum(map(len, lines))
            if not closed:
                return False
            self._deliver_end(file)
            with contextlib.suppress(FileNotFoundError):
                os.remove(file.path)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # The database rejects a value (InputError is a ValueError), or this is not a journal.
            with contextlib.suppress(OSError):
                os.rename(file.path, file.path + ".refused")
            self._on_note(
                "%s; what could not be recorded is kept in %s.refused" % (error, file.path)
            )
        except OSError as error:
            self._on_note(
                "the journal %s cannot be read (%s): it is tried again"
                % (file.path, error.strerror)
            )
            return False
        return True

    def _deliver_events(self, file: JournalFile, events: Sequence[Event]) -> None:
        """Deliver events, consecutive rows in one transaction."""
        for kind, group in groupby(events, key=lambda event: event[0]):
            contents = [content for _, content in group]
            if kind == "begin":
                file.trial = from_dict(Trial, contents[0])
                self._store.begin(file.trial)
            elif kind == "row":
                trial = _begun_trial(file)
                rows = [from_dict(Evaluation, content) for content in contents]
                self._store.add(trial.id, *rows, attempt=trial.attempt)
            elif kind == "end":
                end = contents[0]
                self._end(file, end["state"], end["ended"], end["error"])
                file.ended = True

    def _deliver_end(self, file: JournalFile) -> None:
        """Deliver the events that are not in the file, and an end if the trial has none."""
        self._deliver_events(file, file.unwritten)
        if file.trial and not file.ended:
            self._end(file, INTERRUPTED, file.last_change, _INTERRUPTED_ERROR)

    def _end(self, file: JournalFile, state: str, ended: float, error: str | None) -> None:
        trial = _begun_trial(file)
        self._store.end(trial.id, state, ended, error, trial.attempt)

    def _deliver_leftovers(self) -> None:
        """Deliver the journals for this database whose programs have ended."""
        for path in sorted(glob.glob(os.path.join(self._folder, "*.jsonl"))):
            # Another program may deliver the file at this moment, or may still write it.
            with contextlib.suppress(FileNotFoundError, BlockingIOError), open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if file.readline() != encode("database", self._store.where):
                    continue
                try:
                    self._deliver(JournalFile(path, leftover=True))
                except DatabaseUnavailable:
                    return


def _begun_trial(file: JournalFile) -> Trial:
    """The trial of a journal whose beginning has been delivered."""
    if file.trial is None:
        raise ValueError("the journal %s does not begin with a trial" % file.path)
    return file.trial


class Journal:
    """The journal of one trial over all its attempts; made by :meth:`Recorder.journal`.

    Args:
        new_file: Makes the file of a new attempt at the trial.
        attempts: How many attempts at the trial the database has.
        database: The name of the database that the trial is recorded in.
    """

    def __init__(
        self, new_file: Callable[[Trial], JournalFile], attempts: int, database: str
    ) -> None:
        self._new_file = new_file
        self._attempts = attempts
        self._database = database
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
        trial = dataclasses.replace(trial, attempt=self._attempts)
        self._file, self._verdict = self._new_file(trial), None
        self._file.write(("database", self._database), ("begin", to_dict(trial)))

    def _current_file(self) -> JournalFile:
        if self._file is None:
            raise RuntimeError("a training's first event must be its beginning")
        return self._file
