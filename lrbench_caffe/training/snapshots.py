"""A trial's own snapshots: where it goes on when its process, its program or its machine was cut off.

Beside a snapshot that Caffe takes for its user, the file PREFIX_iter_N.policystate keeps what a policy with memory has seen; a
trial's own snapshots need none, since they have the rows.
"""

import contextlib
import fcntl
import json
import os
import shutil
import time
from typing import NamedTuple, Optional, Tuple

from lrbench_caffe.errors import InputError
from lrbench_caffe.policies.plateau import Memory

SHARE = 0.02  # of a training's time, at most, goes into its snapshots
COPIES = 4  # of the weights are the most that a snapshot holds: themselves and what the optimizer remembers, and some more
_STATE = "state.json"


class Snapshots:
    """The newest snapshot of one trial in a folder of its own, with the rows and the losses up to there.

    The folder is locked, so that a process that is about to die does not write where its successor reads.
    """

    def __init__(self, folder):
        """Waits until no other process has the trial."""
        os.makedirs(folder, exist_ok=True)
        self._folder = folder
        self._lock = open(os.path.join(folder, "lock"), "w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.prefix = os.path.join(folder, "snapshot")  # what Caffe's snapshot_prefix has to be
        self._kept = time.monotonic(), 0.02

    def latest(self):
        """{"iteration", "solverstate", "rows", "losses"} of the newest whole snapshot, or None."""
        with contextlib.suppress(FileNotFoundError), open(
            os.path.join(self._folder, _STATE)
        ) as file:
            return json.load(file)
        return None

    def due(self, solver):
        """Whether a snapshot now costs no more than its share of the time, and finds room."""
        at, cost = self._kept
        return time.monotonic() - at >= cost / SHARE and self.room(solver)

    def room(self, solver):
        """Whether there is room for a snapshot: on a full disk Caffe would abort, and the training better goes on without."""
        weights = sum(4 * blob.count for layer in solver.net.layers for blob in layer.blobs)
        return shutil.disk_usage(self._folder).free > COPIES * weights

    def take(self, solver, rows, losses):
        """Snapshot a solver.  Only when all of it is on the disk does it take the place of the one before."""
        started = time.monotonic()
        solver.snapshot()
        name = "snapshot_iter_%d" % solver.iter
        state = {
            "iteration": solver.iter,
            "solverstate": "%s_iter_%d.solverstate" % (self.prefix, solver.iter),
            "rows": rows,
            "losses": losses,
        }
        path = os.path.join(self._folder, _STATE)
        with open(path + ".new", "w") as file:
            json.dump(state, file)
        for part in (name + ".caffemodel", name + ".solverstate", _STATE + ".new", "."):
            _flush(os.path.join(self._folder, part))
        os.replace(path + ".new", path)
        for other in os.listdir(self._folder):
            if other.startswith("snapshot_iter_") and not other.startswith(name + "."):
                os.remove(os.path.join(self._folder, other))
        self._kept = time.monotonic(), time.monotonic() - started


def _flush(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class PolicyState(NamedTuple):
    """What a policy with memory goes on from: its memory, and the mini-batch losses since the last evaluation."""

    memory: Optional[Memory]
    losses: Tuple[float, ...]


NO_STATE = PolicyState(None, ())


def write_policy_state(prefix, iteration, policy, memory, losses):
    """Write what a policy has seen up to an iteration beside the snapshot with that prefix."""
    path = "%s_iter_%d.policystate" % (prefix, iteration)
    with open(path + ".new", "w") as file:
        json.dump({"policy": str(policy), "memory": memory, "losses": losses}, file)
    os.replace(path + ".new", path)


def read_policy_state(solverstate, policy):
    """The Recalled of a policy from beside the snapshot; InputError where it is missing, or another policy's."""
    stem = solverstate[: -len(".h5")] if solverstate.endswith(".h5") else solverstate
    stem = os.path.splitext(stem)[0]
    path, instead = (
        stem + ".policystate",
        "start from its weights with --weights %s.caffemodel" % stem,
    )
    try:
        with open(path) as file:
            state = json.load(file)
        known, found = (
            state["policy"],
            PolicyState(state["memory"] and Memory(*state["memory"]), tuple(state["losses"])),
        )
    except OSError as error:
        raise InputError(
            "what %s has seen before the snapshot is not in %s (%s): put the file there, or %s"
            % (policy, path, error.strerror, instead)
        ) from None
    except (ValueError, KeyError, TypeError):
        raise InputError(
            "%s is not what LRBench wrote with the snapshot: put the right file there, or %s"
            % (path, instead)
        ) from None
    if known != str(policy):
        raise InputError(
            "the snapshot is of a training under %s: go on under that policy, or %s"
            % (known, instead)
        )
    return found
