"""The journal: what was measured is on the local disk before it goes to PostgreSQL, so that no server's fate can lose it.

Each attempt at a trial has a file of its own in the folder ``journal`` of LRBench's home: one JSON line an event, flushed to disk
line by line, locked (flock) while it is written, and removed once the database has all of it.  A thread of the program delivers
its files, so that no training waits for the database.  A file that is left and not locked is of a program that died or of a
database that was away: the next program delivers it.  Delivering twice does no harm.
"""

import contextlib
import dataclasses
import errno
import fcntl
import glob
import json
import os
import tempfile
import threading
import time
from itertools import groupby

from lrbench_caffe.database.store import Store
from lrbench_caffe.errors import DatabaseUnavailable, InputError
from lrbench_caffe.paths import home
from lrbench_caffe.trial import FAILED, INTERRUPTED, Evaluation, Trial, from_dict, to_dict

RETRY_SECONDS = 10  # between two tries to reach a database that is away
BATCH_BYTES = 1 << 20  # about what is read and delivered at a time
CUT_OFF = "the program that recorded it ended before the trial did"


class Recorder:
    """Records trials, any number at a time: the folder of journals and the thread that delivers them; a context manager.

    While the database is away events wait in the journals.  On leaving, all that can be delivered has been.
    """

    def __init__(self, dsn=None, tell=lambda sentence: None):
        """Dsn as for Store; tell is called, from any thread, with a sentence that a person should read.

        Delivers what earlier programs left.  Raises InputError when the database or the folder cannot be used.
        """
        self._folder = os.path.join(home(), "journal")
        try:
            os.makedirs(self._folder, exist_ok=True)
            tempfile.TemporaryFile(dir=self._folder).close()
        except OSError as error:
            raise InputError(
                "the journal's folder %s cannot be written (%s): name another place with LRBENCH_HOME"
                % (self._folder, error.strerror)
            ) from None
        self._store, self._tell, self._away = Store(dsn), tell, False
        self._files, self._lock = [], threading.Lock()
        self._work, self._closing = threading.Event(), threading.Event()
        self._deliver_what_is_left()
        self._thread = threading.Thread(target=self._deliver_always, name="journal", daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for file in self._open_files():  # of trials that were cut off
            file.close()
        self._closing.set()
        self._work.set()
        self._thread.join()
        waiting = sum(file.waiting() for file in self._open_files())
        if waiting:
            self._tell(
                "the database %s cannot be reached: %d events wait in %s and are delivered when lrbench next uses it"
                % (self._store.where, waiting, self._folder)
            )
        self._store.close()

    def journal(self, attempts=0):
        """A :class:`Journal` for a trial of which the database knows so many attempts."""
        return Journal(self._new_file, attempts, self._store.where)

    def _new_file(self, trial):
        file = _File(
            os.path.join(self._folder, "%s-%d.jsonl" % (trial.id, trial.attempt)), self._work.set
        )
        with self._lock:
            self._files.append(file)
        return file

    def _open_files(self):
        with self._lock:
            return list(self._files)

    def _deliver_always(self):
        while not self._closing.is_set():
            self._work.wait()
            self._work.clear()
            if not self._deliver_all():
                self._closing.wait(RETRY_SECONDS)
                self._work.set()
        self._deliver_all()

    def _deliver_all(self):
        """Deliver what is new; returns whether the database took it."""
        try:
            for file in self._open_files():
                if self._deliver(file):
                    with self._lock:
                        self._files.remove(file)
        except DatabaseUnavailable as error:
            if not self._away:
                self._tell(
                    "%s; trainings go on, and what they measure waits in %s" % (error, self._folder)
                )
            self._away = True
            return False
        if self._away:
            self._tell("the database %s is back" % self._store.where)
        self._away = False
        return True

    def _deliver(self, file):
        """Deliver what is new in a file; returns whether that was all there will ever be, and the file is gone."""
        closed = file.closed  # before a last look at what is in it
        try:
            with contextlib.suppress(
                FileNotFoundError
            ):  # where there was no room for a file, or another program has delivered it
                for lines in file.new_lines():
                    self._deliver_events(file, [json.loads(line.decode()) for line in lines])
                    file.delivered += sum(map(len, lines))
            if not closed:
                return False
            self._deliver_events(file, file.unwritten)
            if file.trial and not file.ended:
                self._store.end(
                    file.trial.id, INTERRUPTED, file.touched, CUT_OFF, file.trial.attempt
                )
            with contextlib.suppress(
                FileNotFoundError
            ):  # another program may have delivered it too
                os.remove(file.path)
        except DatabaseUnavailable:
            raise
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
        ) as error:  # the database refuses it, or it is not a journal
            with contextlib.suppress(OSError):
                os.rename(file.path, file.path + ".refused")
            self._tell("%s; what could not be recorded is kept in %s.refused" % (error, file.path))
        except OSError as error:
            self._tell(
                "the journal %s cannot be read (%s): it is tried again"
                % (file.path, error.strerror)
            )
            return False
        return True

    def _deliver_events(self, file, events):
        for kind, group in groupby(events, key=lambda event: event[0]):
            contents = [content for _, content in group]
            if kind == "begin":
                file.trial = from_dict(Trial, contents[0])
                self._store.begin(file.trial)
            elif kind == "row":
                rows = [from_dict(Evaluation, content) for content in contents]
                self._store.add(file.trial.id, *rows, attempt=file.trial.attempt)
            elif kind == "end":
                end = contents[0]
                self._store.end(
                    file.trial.id, end["state"], end["ended"], end["error"], file.trial.attempt
                )
                file.ended = True

    def _deliver_what_is_left(self):
        for path in sorted(glob.glob(os.path.join(self._folder, "*.jsonl"))):
            with contextlib.suppress(FileNotFoundError, BlockingIOError), open(
                path, "rb"
            ) as held:  # taken by another, or written
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if held.readline() != _line("database", self._store.where):
                    continue
                file = _File(path, left=True)
                try:
                    self._deliver(file)
                except DatabaseUnavailable:
                    return


class Journal:
    """The journal of one trial, from attempt to attempt: it listens to the events of :func:`lrbench_caffe.study.process.run`."""

    def __init__(self, new_file, attempts, database):
        self._new_file, self._attempts, self._database = new_file, attempts, database
        self._file = self._verdict = None

    def on_event(self, kind, content):
        """Record an event: it is on the disk before this returns.

        Returns None, or where there is no room (FAILED, a sentence): what the training is to end as.
        """
        try:
            if kind == "begin":
                if self._file is not None:  # it begins again on another worker
                    self._file.close()
                self._attempts += 1
                trial = dataclasses.replace(content, attempt=self._attempts)
                self._file, self._verdict = self._new_file(trial), None
                self._file.write(("database", self._database), ("begin", to_dict(trial)))
            elif kind == "row":
                self._file.write(("row", to_dict(content)))
            elif kind == "end":
                self._file.write(
                    (
                        "end",
                        {"state": content.state, "ended": content.ended, "error": content.error},
                    )
                )
                self._file.close()
        except OSError as error:
            self._verdict = (
                FAILED,
                (
                    "the journal %s cannot be written (%s): make room, or name another place with LRBENCH_HOME; "
                    "what was measured so far is kept" % (self._file.path, error.strerror)
                ),
            )
        return self._verdict


class _File:
    """The journal of one attempt: its trial writes it, and the Recorder's thread reads it as far as it has delivered it."""

    def __init__(self, path, written=lambda: None, left=False):
        """Written is called after each change; left: the file is there, and nobody writes it any more."""
        self.path, self.closed, self._written = path, left, written
        self.touched = os.path.getmtime(path) if left else time.time()
        self.trial, self.delivered, self.ended = None, 0, False
        self.unwritten = []  # events that found no room
        self._file, self._size = None, 0

    def write(self, *events):
        """Write events, (kind, content), and flush them to the disk.  Raises OSError, once, where there is no room.

        What found none, and all after it, is kept here.
        """
        self.touched = time.time()
        if self.unwritten:
            self.unwritten.extend(events)
            return
        line = b"".join(_line(*event) for event in events)
        try:
            if self._file is None:
                self._file = open(self.path, "xb", buffering=0)
                fcntl.flock(self._file, fcntl.LOCK_EX)
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
            self._size += len(line)
        except OSError:
            self.unwritten.extend(events)
            if self._file is not None:
                self._file.truncate(self._size)  # no torn line
                self._file.seek(self._size)
            raise
        self._written()

    def close(self):
        """Nothing more will be written.  What found no room may find some now, and is else held until it is delivered."""
        if self.closed:
            return
        again, self.unwritten = self.unwritten, []
        for event in again:
            with contextlib.suppress(OSError):
                self.write(event)
        if self._file is not None:
            self._file.close()
        self.closed = True
        self._written()

    def new_lines(self):
        """Lists of whole lines, from where it was delivered to.

        What follows the last end of a line may be torn, by a crash or since it is being written just now, and is left out.
        """
        with open(self.path, "rb") as file:
            file.seek(self.delivered)
            torn = b""
            for block in iter(lambda: file.read(BATCH_BYTES), b""):
                lines = (torn + block).splitlines(keepends=True)
                torn = b"" if lines[-1].endswith(b"\n") else lines.pop()
                yield lines

    def waiting(self):
        """How many events have not been delivered."""
        with contextlib.suppress(FileNotFoundError):
            return sum(map(len, self.new_lines())) + len(self.unwritten)
        return len(self.unwritten)


def _line(kind, content):
    return (json.dumps([kind, content]) + "\n").encode()
