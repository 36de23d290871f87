"""A trial's own snapshots: it resumes from the newest one after an interruption or a crash.

A snapshot at iteration N consists of Caffe's ``snapshot_iter_N.caffemodel`` and ``.solverstate``,
and of ``snapshot_iter_N.json`` with the rows so far and the checksums of the other two. The newest
two are kept: if one of the newest's files is missing or damaged, the trial resumes from the other.
The folder may be moved; no path in it is used. Earlier versions kept one snapshot, with
``state.json``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from lrbench_caffe import files
from lrbench_caffe.paths import make_private
from lrbench_caffe.training import room
from lrbench_caffe.training.locking import wait_for_lock
from lrbench_caffe.training.solverstate import snapshot_iteration, with_weights
from lrbench_caffe.trial import Evaluation, from_dict

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    import caffe

MAX_SHARE = 0.02  # of a training's time, spent on its snapshots
FIRST_COST = 0.02  # seconds that the first snapshot is expected to take
# A snapshot is at most this many times as large as the weights: it holds them and up to two
# histories of the optimizer, and the rest is reserve.
MAX_COPIES = 4
KEPT = 2  # snapshots
# The errors of reading a snapshot that is not whole.
_DAMAGES = (OSError, ValueError, KeyError, TypeError, AttributeError)
_PARTS = (".caffemodel", ".solverstate")  # Caffe's files
_STATE = ".json"
_FORMER_STATE = "state.json"
_BLOCK_BYTES = 1 << 20  # read at a time


class Snapshot(NamedTuple):
    """A snapshot with what was measured before it.

    Attributes:
        iteration: Its iteration.
        rows: The rows up to the snapshot, as dicts.
        losses: The losses of the mini-batches since the last row.
    """

    iteration: int
    rows: list[dict[str, Any]]
    losses: list[float]


class Snapshots:
    """The newest snapshots of a trial, in a folder of its own.

    The folder is locked, so that a process that is about to end does not write where its successor
    reads.

    Attributes:
        prefix: The snapshot_prefix that the solver must have.
    """

    def __init__(self, folder: str) -> None:
        """Open the folder, which is made if needed."""
        make_private(os.path.abspath(folder))
        self.prefix = os.path.join(folder, "snapshot")
        self._folder = folder
        self._lock = open(os.path.join(folder, "lock"), "w")  # noqa: SIM115 - until the process ends
        self._taken, self._cost = time.monotonic(), FIRST_COST

    def lock(self, stop: threading.Event, emit: Callable[[str, Any], object]) -> bool:
        """Lock the folder for the life of this process; wait while another one trains the trial.

        Args:
            stop: Set to end the wait.
            emit: Receives one "note" if the training has to wait.

        Returns:
            Whether the folder is locked; False after a stop.
        """
        sentence = (
            "another process still trains this trial: waiting until it ends; if nothing else ends "
            "it, look for the process that has opened %s" % self._lock.name
        )
        return wait_for_lock(self._try_lock, stop, lambda: sentence, emit)

    def _try_lock(self) -> bool:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def latest(self, emit: Callable[[str, Any], object]) -> Snapshot | None:
        """Return the newest complete snapshot, or None. Damaged snapshots are removed.

        Args:
            emit: Receives a "note" about each snapshot that is damaged.
        """
        problems = []
        snapshot = None
        try:
            self._convert_former()
        except _DAMAGES as error:
            problems.append("of an earlier version (%s)" % _description(error))
        for iteration in self._iterations():
            try:
                snapshot = self._read(iteration)
                break
            except _DAMAGES as error:
                problems.append("at iteration %d (%s)" % (iteration, _description(error)))
                self._remove(iteration)
        if problems:
            emit(
                "note",
                "the snapshot %s cannot be used: the training resumes from %s"
                % (
                    " and that ".join(problems),
                    "the beginning" if snapshot is None else "iteration %d" % snapshot.iteration,
                ),
            )
        return snapshot

    @contextlib.contextmanager
    def solverstate(self, snapshot: Snapshot) -> Iterator[str]:
        """Yield the path from which a solver restores a snapshot.

        Caffe writes the absolute path of the weights into a .solverstate. If the folder was moved
        since then, the file is a copy with the present path.
        """
        weights, state = (self._path(_name(snapshot.iteration) + part) for part in _PARTS)
        copy = self._path("resumed.solverstate")
        with open(state, "rb") as file:
            content = file.read()
        moved = with_weights(content, weights)
        if moved == content:
            yield state
            return
        with files.open_output(copy) as output:
            output.write(moved)
        try:
            yield copy
        finally:
            os.remove(copy)

    def due(self, solver: caffe._caffe.Solver, rows: list[dict[str, Any]]) -> bool:
        """Whether a snapshot now keeps to its share of the time, and the disk has room for it."""
        elapsed = time.monotonic() - self._taken
        return elapsed >= self._cost / MAX_SHARE and self.has_room(solver, rows)

    def has_room(self, solver: caffe._caffe.Solver, rows: list[dict[str, Any]]) -> bool:
        """Whether the disk has room for a snapshot with these rows, and for as many rows again.

        Caffe aborts on a full disk; it is better to train on without a snapshot. The rows that
        follow need room too, because the journal may be on the same disk.
        """
        needed = MAX_COPIES * room.weight_bytes(solver) + 2 * len(json.dumps(rows))
        return shutil.disk_usage(self._folder).free > needed

    def take(
        self, solver: caffe._caffe.Solver, rows: list[dict[str, Any]], losses: list[float]
    ) -> bool:
        """Take a snapshot. Once it is completely on the disk, only the one before is kept, too.

        If the disk has no room for it, the previous one remains.

        Args:
            solver: The Caffe solver, whose snapshot_prefix is that of this object.
            rows: The rows so far, as dicts.
            losses: The losses of the mini-batches since the last row.

        Returns:
            Whether the snapshot was taken.
        """
        started = time.monotonic()
        solver.snapshot()
        name = _name(solver.iter)
        is_taken = True
        try:
            for part in (*(name + part for part in _PARTS), "."):
                _sync(self._path(part))
            self._write(Snapshot(solver.iter, rows, losses))
        except OSError:
            is_taken = False
        self._remove_others(self._iterations()[:KEPT])
        self._taken, self._cost = time.monotonic(), time.monotonic() - started
        return is_taken

    def _iterations(self) -> list[int]:
        """The iterations of the snapshots, the newest first."""
        names = os.listdir(self._folder)
        matches = [re.fullmatch(r"snapshot_iter_(\d+)\.json", name) for name in names]
        return sorted((int(match.group(1)) for match in matches if match), reverse=True)

    def _write(self, snapshot: Snapshot) -> None:
        """Write what makes Caffe's files a snapshot."""
        name = _name(snapshot.iteration)
        checksums = {part: _checksum(self._path(name + part)) for part in _PARTS}
        with files.open_output(self._path(name + _STATE)) as file:
            file.write(json.dumps(dict(snapshot._asdict(), checksums=checksums)).encode())

    def _read(self, iteration: int) -> Snapshot:
        """Read a snapshot, and check that it is whole."""
        name = _name(iteration)
        with open(self._path(name + _STATE)) as file:
            state = json.load(file)
        for part in _PARTS:
            if _checksum(self._path(name + part)) != state["checksums"][part]:
                raise ValueError("%s is damaged" % (name + part))
        return _checked(Snapshot(iteration, state["rows"], state["losses"]))

    def _convert_former(self) -> None:
        """Give the snapshot of an earlier version the form of this one."""
        path = self._path(_FORMER_STATE)
        if not os.path.exists(path):
            return
        try:
            with open(path) as file:
                state = json.load(file)
            snapshot = _checked(Snapshot(state["iteration"], state["rows"], state["losses"]))
            solverstate = self._path(_name(snapshot.iteration) + _PARTS[1])
            if snapshot_iteration(solverstate) != snapshot.iteration:
                raise ValueError("%s belongs to another iteration" % os.path.basename(solverstate))
            self._write(snapshot)
        finally:
            os.remove(path)

    def _remove(self, iteration: int) -> None:
        for part in (_STATE, *_PARTS):  # first what makes it a snapshot
            with contextlib.suppress(OSError):
                os.remove(self._path(_name(iteration) + part))

    def _remove_others(self, kept: list[int]) -> None:
        """Remove all snapshots but these, and what unfinished ones have left."""
        names = {_name(iteration) for iteration in kept}
        for other in os.listdir(self._folder):
            if other.startswith("snapshot_iter_") and other.split(".")[0] not in names:
                os.remove(self._path(other))

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)


def _checked(snapshot: Snapshot) -> Snapshot:
    """The snapshot, if its rows can be restored."""
    for row in snapshot.rows:
        from_dict(Evaluation, row)
    return snapshot._replace(losses=[float(loss) for loss in snapshot.losses])


def _name(iteration: int) -> str:
    return "snapshot_iter_%d" % iteration


def _checksum(path: str) -> list[int]:
    """The size and the CRC-32 of a file."""
    size = checksum = 0
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(_BLOCK_BYTES), b""):
            size, checksum = size + len(block), zlib.crc32(block, checksum)
    return [size, checksum]


def _description(error: Exception) -> str:
    """Why a snapshot cannot be read."""
    if isinstance(error, OSError) and error.filename:
        return "%s: %s" % (os.path.basename(error.filename), error.strerror)
    if isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError):
        return str(error)
    return "its rows are not complete"


def _sync(path: str) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
