"""The file of a journal: the events of one attempt at a trial, one JSON line each.

The lines are ``["database", {"id": UUID, "name": NAME}]``, ``["begin", TRIAL]``, then
``["row", EVALUATION]`` for each evaluation, then
``["end", {"state": ..., "ended": ..., "error": ...}]``. The UUID is the database's own, see
:attr:`lrbench_caffe.database.store.Store.identity`; earlier versions wrote ``["database", NAME]``.
Every line is flushed to the disk before the next event. The program that writes the file locks it
(flock) until its last line is written.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from typing import IO, TYPE_CHECKING, Any, Callable, Iterator, Tuple

from lrbench_caffe.paths import home

if TYPE_CHECKING:
    from lrbench_caffe.trial import Trial

Event = Tuple[str, Any]

ENDING = ".jsonl"  # of the names of journals

BATCH_BYTES = 1 << 20  # about how much is read and delivered at a time


class JournalFile:
    """The journal of one attempt at a trial.

    The thread that receives the training's events writes the file. The Recorder's thread reads it
    and keeps here how much of it the database has.

    Args:
        path: The file. It is created by the first write.
        on_change: Called after each successful write, and when the file is closed.
        leftover: The file exists already, and the program that wrote it has ended.

    Attributes:
        path: The file.
        closed: Whether nothing more will be written.
        last_change: When the last event came, in seconds since the epoch.
        unwritten: Events for which there was no room on the disk.
        delivered: How many bytes of the file the database has.
        trial: The trial, once its beginning has been delivered.
        ended: Whether the trial's end has been delivered.
        refused_rows: The rows that the database rejects, as dicts, each with the reason.
        refusal: Why the journal was set aside, or None.
    """

    def __init__(
        self, path: str, on_change: Callable[[], None] = lambda: None, leftover: bool = False
    ) -> None:
        self.path = path
        self.closed = leftover
        self.last_change = os.path.getmtime(path) if leftover else time.time()
        self.unwritten: list[Event] = []
        self.delivered = 0
        self.trial: Trial | None = None
        self.ended = False
        self.refused_rows: list[tuple[dict[str, Any], str]] = []
        self.refusal: str | None = None
        self._on_change = on_change
        self._file: IO[bytes] | None = None
        self._size = 0

    def write(self, *events: Event) -> None:
        """Write events and flush them to the disk.

        If there is no room, these events and all later ones are kept in ``unwritten``.

        Args:
            *events: Pairs of an event's kind and its content.

        Raises:
            OSError: There is no room on the disk. This is raised once; later calls only add to
                ``unwritten``.
        """
        self.last_change = time.time()
        if self.unwritten:
            self.unwritten.extend(events)
            return
        lines = b"".join(encode(*event) for event in events)
        try:
            self._append(lines)
        except OSError:
            self.unwritten.extend(events)
            if self._file is not None:  # remove a line that was written in part
                self._file.truncate(self._size)
                self._file.seek(self._size)
            raise
        self._on_change()

    def _append(self, lines: bytes) -> None:
        if self._file is None:
            self._file = open(self.path, "xb", 0, opener=_open_private)  # noqa: SIM115
            fcntl.flock(self._file, fcntl.LOCK_EX)
        if self._file.write(lines) < len(lines):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(self._file.fileno())
        self._size += len(lines)

    def close(self) -> None:
        """Close the file: nothing more will be written.

        Unwritten events are tried once more. Those that still find no room stay in memory until
        they are delivered.
        """
        if self.closed:
            return
        events, self.unwritten = self.unwritten, []
        for event in events:
            with contextlib.suppress(OSError):
                self.write(event)
        if self._file is not None:
            self._file.close()
        self.closed = True
        self._on_change()

    def undelivered_lines(self) -> Iterator[list[bytes]]:
        """Yield the complete lines that follow the delivered ones, in lists of about a megabyte.

        A last line without its line end is left out: it is being written at this moment, or was
        torn by a crash.

        Raises:
            FileNotFoundError: The file does not exist.
        """
        with open(self.path, "rb") as file:
            file.seek(self.delivered)
            incomplete = b""
            for block in iter(lambda: file.read(BATCH_BYTES), b""):
                lines = (incomplete + block).splitlines(keepends=True)
                incomplete = b"" if lines[-1].endswith(b"\n") else lines.pop()
                yield lines

    def undelivered_events(self) -> int:
        """Return the number of events that the database does not have yet."""
        lines = 0
        with contextlib.suppress(FileNotFoundError):
            lines = sum(map(len, self.undelivered_lines()))
        header = 1 if lines and not self.delivered else 0  # the line that names the database
        return lines - header + len(self.unwritten)


def _open_private(path: str, flags: int) -> int:
    """Open a file; a new one is for its user only."""
    return os.open(path, flags, 0o600)


def encode(kind: str, content: object) -> bytes:
    """Return the line of an event."""
    return (json.dumps([kind, content]) + "\n").encode()


def folder() -> str:
    """Return the folder of the journals."""
    return os.path.join(home(), "journal")
