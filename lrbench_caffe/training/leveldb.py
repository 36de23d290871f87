"""LevelDB, Caffe's default backend: one process at a time can open a database.

Trainings of LRBench that read the same LevelDB wait for each other. Each locks the folder before
Caffe opens the database, with a lock that LevelDB itself does not use.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, Any

from caffe.proto import caffe_pb2

from lrbench_caffe.errors import InputError
from lrbench_caffe.training import encoding
from lrbench_caffe.training.locking import wait_for_lock
from lrbench_caffe.training.net import layers_in_phase

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

# Files are closed in the order of their numbers when a process ends. A folder that is locked has a
# higher number than LevelDB's files, so that the next training finds LevelDB's own lock released.
_LAST_FILE = 512


class Databases:
    """The LevelDBs that a training reads.

    Args:
        solver: A resolved SolverParameter.

    Raises:
        InputError: Caffe could not open a LevelDB: two layers read it, it is not a LevelDB, or this
            user cannot write to it.
    """

    def __init__(self, solver: caffe_pb2.SolverParameter) -> None:
        # All trainings lock in the same order. Otherwise two could wait for each other.
        self._unlocked = sorted(_leveldbs(solver).items())
        for path, layer in self._unlocked:
            _check_folder(path, layer)

    def try_lock(self) -> bool:
        """Lock the databases for the life of this process.

        Returns:
            Whether all are locked; if not, another training reads one of them.

        Raises:
            InputError: A program other than LRBench has opened a database.
        """
        while self._unlocked:
            path, layer = self._unlocked[0]
            if not _try_lock_folder(path):
                return False
            _check_unused(path, layer)
            del self._unlocked[0]
        return True

    def lock(self, stop: threading.Event, emit: Callable[[str, Any], object]) -> bool:
        """Lock the databases for the life of this process; wait while other trainings read them.

        Args:
            stop: Set to end the wait.
            emit: Receives one "note" if the training has to wait.

        Returns:
            Whether all are locked; False after a stop.

        Raises:
            InputError: A program other than LRBench has opened a database.
        """
        sentence = (
            "another training reads the LEVELDB %s, which one process at a time can open: waiting "
            "until it ends (trainings can share an LMDB)"
        )
        return wait_for_lock(self.try_lock, stop, lambda: sentence % self._unlocked[0][0], emit)


def _leveldbs(solver: caffe_pb2.SolverParameter) -> dict[str, str]:
    """The real path of each LevelDB that a training opens, and the name of the layer.

    Raises:
        InputError: Two layers open the same LevelDB.
    """
    states = solver.test_state or [None] * len(solver.test_net_param)
    layers = layers_in_phase(solver.train_net_param, caffe_pb2.TRAIN, solver.train_state)
    for net, state in zip(solver.test_net_param, states):
        layers += layers_in_phase(net, caffe_pb2.TEST, state)
    opened: dict[str, str] = {}
    for layer in layers:
        param = layer.data_param
        if layer.type == "Data" and param.backend == caffe_pb2.DataParameter.LEVELDB:
            path, name = os.path.realpath(param.source), encoding.readable(layer.name)
            if path in opened:
                raise InputError(
                    "the layers %r and %r both read the LEVELDB %s, which Caffe can open once "
                    "only: copy it for one of them, or make an LMDB" % (opened[path], name, path)
                )
            opened[path] = name
    return opened


def _check_folder(path: str, layer: str) -> None:
    """Raise InputError if Caffe cannot open a folder as a LevelDB, which takes write permission."""
    if not os.path.exists(os.path.join(path, "CURRENT")):
        raise InputError(
            "layer %r reads %s as LEVELDB, the default backend, but it is not a LevelDB: set its "
            "backend, or make it with Caffe's convert_imageset" % (layer, path)
        )
    if not os.access(path, os.W_OK | os.X_OK):
        raise InputError(
            "layer %r reads the LEVELDB %s, which Caffe can open only if it can write to the "
            "folder: make it writable, copy it, or make an LMDB" % (layer, path)
        )


def _try_lock_folder(path: str) -> bool:
    """Lock a folder for the life of this process unless another process has locked it."""
    folder = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(folder)
        return False
    except OSError:
        return True  # a file system without such locks: LevelDB's own lock decides
    with contextlib.suppress(OSError):  # a low limit of open files
        fcntl.fcntl(folder, fcntl.F_DUPFD_CLOEXEC, _LAST_FILE)
    return True


def _check_unused(path: str, layer: str) -> None:
    """Raise InputError if another program has opened a LevelDB: it holds LevelDB's own lock."""
    try:
        file = os.open(os.path.join(path, "LOCK"), os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(
            "layer %r reads the LEVELDB %s, whose file LOCK cannot be written (%s): make it "
            "writable, copy it, or make an LMDB" % (layer, path, error.strerror)
        ) from None
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise InputError(
            "layer %r reads the LEVELDB %s, which another program has opened, and one process at "
            "a time can: end that program, or make an LMDB" % (layer, path)
        ) from None
    finally:
        os.close(file)
