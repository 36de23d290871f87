"""A trial's own snapshots: it resumes from the newest one after an interruption or a crash."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from lrbench_caffe import files
from lrbench_caffe.paths import make_private

if TYPE_CHECKING:
    import caffe

MAX_SHARE = 0.02  # of a training's time, spent on its snapshots
FIRST_COST = 0.02  # seconds that the first snapshot is expected to take
# A snapshot is at most this many times as large as the weights: it holds them and up to two
# histories of the optimizer, and the rest is reserve.
MAX_COPIES = 4
_STATE = "state.json"


class Snapshot(NamedTuple):
    """A snapshot with what was measured before it.

    Attributes:
        solverstate: The path of its .solverstate.
        rows: The rows up to the snapshot, as dicts.
        losses: The losses of the mini-batches since the last row.
    """

    solverstate: str
    rows: list[dict[str, Any]]
    losses: list[float]


class Snapshots:
    """The newest snapshot of a trial, in a folder of its own.

    The folder is locked, so that a process that is about to end does not write where its successor
    reads.

    Attributes:
        prefix: The snapshot_prefix that the solver must have.
    """

    def __init__(self, folder: str) -> None:
        """Open the folder, which is made if needed; wait while another process trains the trial."""
        make_private(os.path.abspath(folder))
        self.prefix = os.path.join(folder, "snapshot")
        self._folder = folder
        self._lock = open(os.path.join(folder, "lock"), "w")  # noqa: SIM115 - until the process ends
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._taken, self._cost = time.monotonic(), FIRST_COST

    def latest(self) -> Snapshot | None:
        """Return the newest complete snapshot, or None."""
        with contextlib.suppress(FileNotFoundError), open(self._path(_STATE)) as file:
            state = json.load(file)
            return Snapshot(state["solverstate"], state["rows"], state["losses"])
        return None

    def due(self, solver: caffe._caffe.Solver, rows: list[dict[str, Any]]) -> bool:
        """Whether a snapshot now keeps to its share of the time, and the disk has room for it."""
        elapsed = time.monotonic() - self._taken
        return elapsed >= self._cost / MAX_SHARE and self.has_room(solver, rows)

    def has_room(self, solver: caffe._caffe.Solver, rows: list[dict[str, Any]]) -> bool:
        """Whether the disk has room for a snapshot with these rows, and for as many rows again.

        Caffe aborts on a full disk; it is better to train on without a snapshot. The rows that
        follow need room too, because the journal may be on the same disk.
        """
        weights = sum(4 * blob.count for layer in solver.net.layers for blob in layer.blobs)
        return shutil.disk_usage(self._folder).free > MAX_COPIES * weights + 2 * len(
            json.dumps(rows)
        )

    def take(
        self, solver: caffe._caffe.Solver, rows: list[dict[str, Any]], losses: list[float]
    ) -> bool:
        """Take a snapshot, which replaces the previous one once it is completely on the disk.

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
        name = "snapshot_iter_%d" % solver.iter
        state = {
            "iteration": solver.iter,
            "solverstate": self._path(name + ".solverstate"),
            "rows": rows,
            "losses": losses,
        }
        is_taken = self._record(name, state)
        latest = self.latest()
        self._remove_all_but(latest and os.path.basename(latest.solverstate))
        self._taken, self._cost = time.monotonic(), time.monotonic() - started
        return is_taken

    def _record(self, name: str, state: dict[str, Any]) -> bool:
        """Make a snapshot of Caffe's the newest one; return whether the disk has room for that."""
        try:
            for part in (name + ".caffemodel", name + ".solverstate", "."):
                _sync(self._path(part))
            with files.open_output(self._path(_STATE)) as file:
                file.write(json.dumps(state).encode())
        except OSError:
            return False
        return True

    def _remove_all_but(self, solverstate: str | None) -> None:
        """Remove the files of all snapshots but the one with this .solverstate."""
        stem = os.path.splitext(solverstate)[0] if solverstate else None
        for name in os.listdir(self._folder):
            if name.startswith("snapshot_iter_") and os.path.splitext(name)[0] != stem:
                os.remove(self._path(name))

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)


def _sync(path: str) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
