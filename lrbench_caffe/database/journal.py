"""The journal: what was measured is on the local disk before it goes to PostgreSQL, so that no server's fate can lose it.

Each trial has a file of its own in the folder ``journal`` of LRBench's home, one JSON line an event, flushed to disk line by
line, locked (flock) while its program lives, and removed once the database has all of it.  A file that is left and not locked
is of a program that died or of a database that was away: :func:`replay` delivers it.  Delivering twice does no harm.
"""
import contextlib
import fcntl
import glob
import json
import os
import tempfile
import time
from collections import deque

from lrbench_caffe.database.store import DatabaseUnavailable, Store
from lrbench_caffe.errors import InputError, TrialError
from lrbench_caffe.home import home
from lrbench_caffe.trial import INTERRUPTED, Evaluation, Trial, from_dict, to_dict

RETRY_SECONDS = 10  # between two tries to reach a database that is away
CUT_OFF = "the program that recorded it ended before the trial did"


class Recorder:
    """Records one trial after the other, each event in the journal first and then in the database; a context manager.

    While the database is away events wait in the journal, and training goes on.
    """

    def __init__(self, dsn=None):
        """dsn as for Store.  Raises InputError when the database or the journal cannot be used.

        Delivers what earlier programs left; notes has a sentence for each journal that the database refuses.
        """
        self._folder = os.path.join(home(), "journal")
        try:
            os.makedirs(self._folder, exist_ok=True)
            tempfile.TemporaryFile(dir=self._folder).close()
        except OSError as error:
            raise InputError("the journal's folder %s cannot be written (%s): name another place with LRBENCH_HOME"
                             % (self._folder, error.strerror)) from None
        self._store = Store(dsn)
        self.notes = replay(self._store)
        self._file = None
        self._waiting = deque()
        self._next_try = 0.0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._file is not None:  # a trial that was cut off: its journal goes the way of those that the dead leave
            self._file.close()
            replay(self._store)
        self._store.close()

    def begin(self, trial):
        """A Trial begins.  Raises TrialError, as the others do, when the journal cannot be written."""
        with _told(self._folder):
            self._file = open(os.path.join(self._folder, "%s-%d.jsonl" % (trial.id, trial.attempt)), "xb", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._write(["database", self._store.where])
        self._attempt = trial.attempt
        self._record("begin", to_dict(trial))

    def add(self, trial_id, row):
        """A trial has one more Evaluation."""
        self._record("row", dict(to_dict(row), trial=trial_id, attempt=self._attempt))

    def end(self, trial):
        """A Trial has ended as it says.  Returns None, or a sentence when its events wait for the database to come back."""
        self._next_try = 0.0
        self._record("end", {"trial": trial.id, "state": trial.state, "ended": trial.ended, "error": trial.error,
                             "attempt": trial.attempt})
        path, waiting = self._file.name, len(self._waiting)
        self._file.close()
        self._file = None
        self._waiting.clear()
        if not waiting:
            os.remove(path)
            return None
        return ("the database %s cannot be reached: %d events of this trial wait in %s and are delivered when lrbench next uses it"
                % (self._store.where, waiting, path))

    def _record(self, kind, content):
        self._write([kind, content])
        self._waiting.append((kind, content))
        if time.monotonic() < self._next_try:
            return
        try:
            while self._waiting:
                _deliver(self._store, *self._waiting[0])
                self._waiting.popleft()
        except DatabaseUnavailable:
            self._next_try = time.monotonic() + RETRY_SECONDS

    def _write(self, line):
        left = (json.dumps(line) + "\n").encode()
        with _told(self._file.name):
            while left:
                left = left[self._file.write(left):]
            os.fsync(self._file.fileno())


def replay(store):
    """Deliver the journals that programs which are gone have left for the store's database.

    A trial whose program died before its end is recorded as interrupted.  A journal that the database refuses is put aside, and
    the list that is returned has a sentence for it.  What a database that goes away does not take is left for the next time.
    """
    refused = []
    for path in sorted(glob.glob(os.path.join(home(), "journal", "*.jsonl"))):
        with contextlib.suppress(FileNotFoundError, BlockingIOError), open(path) as file:  # taken by another, or still written
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            events = list(_events(file))
            if events[:1] != [["database", store.where]]:
                continue
            try:
                for kind, content in events[1:]:
                    _deliver(store, kind, content)
                begun = [content for kind, content in events if kind == "begin"]
                if begun and events[-1][0] != "end":
                    store.end(begun[0]["id"], INTERRUPTED, os.path.getmtime(path), CUT_OFF, begun[0].get("attempt", 1))
            except DatabaseUnavailable:
                break
            except InputError as error:
                os.rename(path, path + ".refused")
                refused.append("%s; what could not be recorded is kept in %s.refused" % (error, path))
            else:
                os.remove(path)
    return refused


def _events(file):
    """The events of a journal up to a line that is torn, as the last one may be after a crash."""
    for line in file:
        try:
            yield json.loads(line)
        except ValueError:
            return


def _deliver(store, kind, content):
    content = dict(content)
    if kind == "begin":
        store.begin(from_dict(Trial, content))
    elif kind == "row":
        trial, attempt = content.pop("trial"), content.pop("attempt", 1)
        store.add(trial, from_dict(Evaluation, content), attempt)
    else:
        store.end(content.pop("trial"), **content)


@contextlib.contextmanager
def _told(path):
    try:
        yield
    except OSError as error:
        raise TrialError("the journal %s cannot be written (%s): make room or name another place with LRBENCH_HOME; what was "
                         "measured so far is kept" % (path, error.strerror)) from None
