"""The room that weights and Caffe's snapshots take on the disk.

Caffe ends its process when it cannot write a snapshot. It is better to train on without one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import caffe
    from caffe.proto import caffe_pb2

# How many values an optimizer stores for each weight. The other optimizers store one.
_HISTORIES = {"AdaDelta": 2, "Adam": 2}
_RESERVE_BYTES = 1 << 15  # for the names and parameters of layers, and for whole blocks
_RESERVE_SHARE = 0.01


def weight_bytes(solver: caffe._caffe.Solver) -> int:
    """Return the bytes of the weights of a solver's net."""
    return sum(4 * blob.count for layer in solver.net.layers for blob in layer.blobs)


def snapshot_bytes(solver: caffe._caffe.Solver, param: caffe_pb2.SolverParameter) -> int:
    """Return the bytes that a snapshot takes, rounded up.

    Args:
        solver: The Caffe solver.
        param: The resolved SolverParameter.
    """
    copies = 1 + bool(param.snapshot_diff) + _HISTORIES.get(param.type, 1)
    return int(weight_bytes(solver) * copies * (1 + _RESERVE_SHARE)) + _RESERVE_BYTES


def require(folder: str, needed: int, replaced: int = 0) -> None:
    """Check that a disk has room.

    Args:
        folder: A folder on the disk.
        needed: The bytes that will be written.
        replaced: The bytes of the files that they replace.

    Raises:
        OSError: The disk is full, or the folder is missing.
    """
    if shutil.disk_usage(folder).free + replaced < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def check_snapshot(folder: str, needed: int, replaced: str) -> None:
    """Check that a snapshot can be written.

    Args:
        folder: The folder of the snapshot.
        needed: The bytes that it takes.
        replaced: The beginning of its paths, up to the dot. Files there will be overwritten.

    Raises:
        OSError: The disk is full, or the folder is missing or cannot be written.
    """
    sizes = []
    for ending in ("caffemodel", "solverstate", "caffemodel.h5", "solverstate.h5"):
        with contextlib.suppress(OSError):
            sizes.append(os.path.getsize("%s.%s" % (replaced, ending)))
    os.stat(folder)  # raises the error of a folder that is missing
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    require(folder, needed, sum(sizes))
