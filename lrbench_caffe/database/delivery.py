"""The delivery of journals: how their events reach a database, and which database that is.

A journal waits if the program that wrote it ended before the database had all of its events. Every
:class:`~lrbench_caffe.database.store.Store` delivers the journals that wait for its database when
it is opened, so every command does. A Store that cannot write reports them.

A waiting journal belongs to a database

- if its first line has the UUID of the database, whatever the address of the database is now;
- if an earlier version wrote it, without a UUID, and the database has its trial;
- if an earlier version wrote it, and the address in its first line is the database's, unless that
  is a loopback address, where a tunnel may lead to any database;
- if the user names the journal and the database.

A change that the database refuses now, for example because a right is missing, does not hold up the
other journals. If the database does not have the trial, because an older backup was restored, the
journal is delivered from its beginning. If the trial was deleted by this program, the journal is
refused, unless the user names it.

Rows with a value that the database rejects are kept in a journal ``*.refused``, and
``*.refused.txt`` has the reason; the other rows and the end of the trial are recorded. A journal
that is damaged, or whose trial is rejected, becomes ``*.refused`` as a whole. Refused journals are
delivered again on request only. A journal without the reason was refused by an earlier version,
which also refused journals when the user lacked rights; it is delivered again.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import glob
import json
import logging
import os
import re
import uuid
from itertools import groupby
from typing import IO, TYPE_CHECKING, Any, Callable, Iterator, List, NamedTuple, Optional, Sequence

from lrbench_caffe import files
from lrbench_caffe.database.journal_file import ENDING, Event, JournalFile, encode, folder
from lrbench_caffe.errors import (
    ChangeRefused,
    DatabaseUnavailable,
    InputError,
    TrialMissing,
    counted,
)
from lrbench_caffe.trial import INTERRUPTED, Evaluation, Trial, from_dict

if TYPE_CHECKING:
    from collections.abc import Collection

    from lrbench_caffe.database.writer import Writer

REFUSED, REASON = ".refused", ".txt"  # appended to the names of journals
ID_LENGTH = 36  # characters of a trial's id, with which the name of its journal begins
_INTERRUPTED_ERROR = "the program that recorded it ended before the trial did"
_LOOPBACK = re.compile(r" at (localhost|127\.[0-9.]+|::1), port [0-9,]+$")


class WaitingJournal(NamedTuple):
    """A journal that no program writes any more.

    Attributes:
        path: The file.
        database: The UUID of its database; None if an earlier version wrote it.
        name: The name that the database had for messages; None if the file is not a journal.
        trial: The id of its trial; None if it is not in the file.
    """

    path: str
    database: Optional[str]
    name: Optional[str]
    trial: Optional[str]


class Delivery(NamedTuple):
    """The result of a delivery.

    Attributes:
        events: How many events were delivered.
        refused: The journals that the database refuses, each with the reason.
        others: The journals that belong to other databases.
        problem: Why journals of this database still wait, or None.
    """

    events: int
    refused: List[str]
    others: List[WaitingJournal]
    problem: Optional[str]


@functools.lru_cache(maxsize=None)
def log_note(note: str) -> None:
    """Log a message for the user; a program logs the same message once.

    Without a configuration, the module logging prints it to standard error.
    """
    logging.getLogger("lrbench_caffe").warning("note: %s", note)


def deliver_waiting(
    store: Writer,
    on_note: Callable[[str], None],
    paths: Sequence[str] = (),
    again: bool = False,
) -> Delivery:
    """Deliver the journals that wait for a database.

    Args:
        store: The database.
        on_note: Called with each message for the user.
        paths: The journals to deliver, whatever database they belong to, and although their trials
            were deleted; by default those of the journal folder that belong to this database.
        again: Whether to deliver the journals again that the database has refused.

    Raises:
        DatabaseUnavailable: The connection was lost before anything was delivered.
    """
    waiting = list(waiting_journals(paths))
    others = [journal for journal in waiting if not (paths or _belongs_to(journal, store))]
    own = [
        journal
        for journal in waiting
        if journal not in others and (again or not _is_refused_for_a_reason(journal.path))
    ]
    if not own:
        return Delivery(0, [], others, None)
    problem = store.writing_problem()
    delivered, refused, done = 0, [], 0
    for journal in own if problem is None else ():
        try:
            if paths and journal.trial is not None:
                store.restore([journal.trial])
            events, refusal = _deliver_locked(store, journal.path, on_note)
        except DatabaseUnavailable as error:
            problem = str(error)
            if isinstance(error, ChangeRefused):  # the others may be accepted
                continue
            break
        delivered, done = delivered + events, done + 1
        if refusal:
            refused.append(refusal)
    if delivered:
        on_note(
            "delivered to the database %s: %s that waited in %s"
            % (store.where, counted(delivered, "event"), folder())
        )
    if problem:
        on_note(
            "still waiting in %s: %s for the database %s, which cannot record now: %s"
            % (folder(), counted(len(own) - done, "journal"), store.where, problem)
        )
    return Delivery(delivered, refused, others, problem)


def _deliver_locked(
    store: Writer, path: str, on_note: Callable[[str], None]
) -> tuple[int, str | None]:
    """Deliver a waiting journal; return the number of delivered events, and why it is refused."""
    with contextlib.suppress(FileNotFoundError), locked(path) as opened:
        if opened is not None:  # else another program delivers it at this moment
            file = JournalFile(path, leftover=True)
            events = file.undelivered_events()
            done = deliver(store, file, on_note)
            if file.refusal or not done:
                events = max(0, events - len(file.refused_rows)) if file.refused_rows else 0
            return events, file.refusal
    return 0, None


def waiting_journals(paths: Sequence[str] = ()) -> Iterator[WaitingJournal]:
    """Yield the journals that no program writes any more.

    Args:
        paths: The journals; by default those of the journal folder.

    Raises:
        InputError: One of paths cannot be read or is not a journal.
    """
    pattern = os.path.join(glob.escape(folder()), "*" + ENDING)
    for path in paths or sorted(glob.glob(pattern) + glob.glob(pattern + REFUSED)):
        try:
            with locked(path) as file:
                journal = file and _header(path, file)
        except OSError as error:
            if paths:
                raise InputError(
                    "cannot read the journal %s (%s): name a file of the folder %s"
                    % (path, error.strerror, folder())
                ) from None
            continue
        if journal and (journal.name is not None or not paths):
            yield journal
        elif paths:
            raise InputError(
                "%s is not a journal, or a running program writes it: name a file of the folder %s"
                % (path, folder())
            )


def waiting_of(store: Writer, trial_ids: Collection[str]) -> list[WaitingJournal]:
    """Return the journals that wait for a database with events of these trials."""
    return [
        journal
        for journal in waiting_journals()
        if journal.trial in trial_ids and _belongs_to(journal, store)
    ]


def written_trials() -> set[str]:
    """Return the ids of the trials whose journals a program of this machine writes now."""
    trials = set()
    pattern = os.path.join(glob.escape(folder()), "*" + ENDING)
    for path in glob.glob(pattern) + glob.glob(pattern + REFUSED):
        with contextlib.suppress(OSError), locked(path) as file:
            if file is None:
                trials.add(os.path.basename(path)[:ID_LENGTH])
    return trials


def _header(path: str, file: IO[bytes]) -> WaitingJournal | None:
    """What the first two lines of a journal contain; None if the first one is not complete."""
    first, second = file.readline(), file.readline()
    if not first.endswith(b"\n"):  # it is written at this moment, or no event was ever accepted
        return None
    database = name = trial = None
    with contextlib.suppress(ValueError, TypeError, KeyError):
        kind, content = json.loads(first.decode())
        if kind == "database" and isinstance(content, dict):
            database, name = str(uuid.UUID(content["id"])), str(content["name"])
        elif kind == "database":
            name = str(content)
        _, content = json.loads(second.decode())
        trial = str(uuid.UUID(content["id"]))
    return WaitingJournal(path, database, name, trial)


def _belongs_to(journal: WaitingJournal, store: Writer) -> bool:
    if journal.database is not None:
        return journal.database == store.identity
    if journal.name is None:
        return False
    if journal.name == store.where and not _LOOPBACK.search(journal.name):
        return True
    query = "SELECT FROM trial WHERE id = %s::uuid AND origin_id IS NULL"
    return journal.trial is not None and bool(store.select(query, [journal.trial]))


def _is_refused_for_a_reason(path: str) -> bool:
    with contextlib.suppress(OSError):
        return path.endswith(REFUSED) and os.path.getsize(path + REASON) > 0  # 0 on a full disk
    return False


@contextlib.contextmanager
def locked(path: str) -> Iterator[IO[bytes] | None]:
    """Yield a journal, opened and locked; None if another program writes or delivers it."""
    with open(path, "r+b") as file:  # on NFS, only a file that can be written can be locked
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield file


def deliver(store: Writer, file: JournalFile, on_note: Callable[[str], None]) -> bool:
    """Deliver what is new in a journal, and remove the journal when the database has all of it.

    Args:
        store: The database.
        file: The journal. If the database rejects a value, ``file.refusal`` has the reason, and
            the journal is set aside.
        on_note: Called with each message for the user.

    Returns:
        Whether nothing of the journal is left to deliver.

    Raises:
        DatabaseUnavailable: The database cannot record anything now.
    """
    closed = file.closed  # read first: a line that is written after this must not be missed
    try:
        try:
            _deliver_new_events(store, file, closed)
        except TrialMissing:
            file.delivered, file.trial, file.ended, file.refused_rows = 0, None, False, []
            _deliver_new_events(store, file, closed)
        if not closed:
            return False
        if file.refused_rows:
            _keep_refused_rows(file)
            raise InputError(file.refused_rows[0][1])
        with contextlib.suppress(FileNotFoundError):
            os.remove(file.path)
        if _is_refused_for_a_reason(file.path):
            os.remove(file.path + REASON)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        # The database rejects a value (InputError is a ValueError), or this is not a journal.
        _set_aside(file, error)
        on_note("%s; what could not be recorded is kept in %s" % (file.refusal, file.path))
    except OSError as error:
        on_note(
            "the journal %s cannot be read or removed (%s): it is tried again"
            % (file.path, error.strerror)
        )
        return False
    return True


def _keep_refused_rows(file: JournalFile) -> None:
    """Remove all events from a journal but the trial's beginning and the refused rows."""
    with contextlib.suppress(OSError):  # without room on the disk, it keeps all of them
        with open(file.path, "rb") as journal:
            beginning = journal.readline() + journal.readline()
        rows = [encode("row", row) for row, _ in file.refused_rows]
        with files.open_output(file.path) as output:
            output.write(beginning + b"".join(rows))


def _set_aside(file: JournalFile, error: Exception) -> None:
    """Rename a journal that is refused, and write the reason beside it."""
    file.refusal = (
        str(error)
        if isinstance(error, InputError)
        else "the journal %s is damaged (%s: %s)" % (file.path, type(error).__name__, error)
    )
    if not file.path.endswith(REFUSED):
        with contextlib.suppress(OSError):
            path = file.path + REFUSED
            while os.path.exists(path):  # an earlier attempt was refused, too
                path = path[: -len(REFUSED)] + "-again" + REFUSED
            os.rename(file.path, path)
            file.path = path
    # If there is no room for the reason, the journal is tried again later.
    with contextlib.suppress(OSError), open(file.path + REASON, "w", encoding="utf-8") as text:
        text.write(file.refusal + "\n")


def _deliver_new_events(store: Writer, file: JournalFile, closed: bool) -> None:
    """Deliver what is new in a journal, and the end of a closed one."""
    # There is no file where the disk was full, or where another program has delivered it.
    with contextlib.suppress(FileNotFoundError):
        for lines in file.undelivered_lines():
            _deliver_events(store, file, [json.loads(line.decode()) for line in lines])
            file.delivered += sum(map(len, lines))
    if closed:
        _deliver_end(store, file)


def _deliver_events(store: Writer, file: JournalFile, events: Sequence[Event]) -> None:
    """Deliver events, consecutive rows in one transaction."""
    for kind, group in groupby(events, key=lambda event: event[0]):
        contents = [content for _, content in group]
        if kind == "begin":
            file.trial = from_dict(Trial, contents[0])
            store.begin(file.trial)
        elif kind == "row":
            _deliver_rows(store, file, contents)
        elif kind == "end":
            end = contents[0]
            _end(store, file, end["state"], end["ended"], end["error"])
            file.ended = True


def _deliver_rows(store: Writer, file: JournalFile, contents: Sequence[dict[str, Any]]) -> None:
    """Deliver rows in one transaction, or each in its own if the database rejects one of them."""
    trial = _begun_trial(file)
    rows = [from_dict(Evaluation, content) for content in contents]
    try:
        store.add(trial.id, *rows, attempt=trial.attempt)
    except TrialMissing:
        raise
    except InputError as error:
        if len(contents) == 1:
            file.refused_rows.append((contents[0], str(error)))
            return
        for content in contents:
            _deliver_rows(store, file, [content])


def _deliver_end(store: Writer, file: JournalFile) -> None:
    """Deliver the events that are not in the file, and an end if the trial has none.

    The trial has its end if another program has delivered the journal.
    """
    _deliver_events(store, file, file.unwritten)
    if file.trial and not file.ended and store.is_running(file.trial.id):
        _end(store, file, INTERRUPTED, file.last_change, _INTERRUPTED_ERROR)


def _end(store: Writer, file: JournalFile, state: str, ended: float, error: Any) -> None:
    trial = _begun_trial(file)
    store.end(trial.id, state, ended, error, trial.attempt)


def _begun_trial(file: JournalFile) -> Trial:
    """The trial of a journal whose beginning has been delivered."""
    if file.trial is None:
        raise ValueError("the journal %s does not begin with a trial" % file.path)
    return file.trial
