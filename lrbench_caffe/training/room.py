"""The room that a snapshot of Caffe's takes on the disk.

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


def snapshot_bytes(solver: caffe._caffe.Solver, param: caffe_pb2.SolverParameter) -> int:
    """Return the bytes that a snapshot takes, rounded up.

    Args:
        solver: The Caffe solver.
        param: The resolved SolverParameter.
    """
    weights = sum(4 * blob.count for layer in solver.net.layers for blob in layer.blobs)
    copies = 1 + bool(param.snapshot_diff) + _HISTORIES.get(param.type, 1)
    return int(weights * copies * (1 + _RESERVE_SHARE)) + _RESERVE_BYTES


def check(folder: str, needed: int, replaced: str) -> None:
    """Check that a snapshot can be written.

    Args:
        folder: The folder of the snapshot.
        needed: The bytes that it takes.
        replaced: The beginning of its paths, up to the dot. Files there will be overwritten.

    Raises:
        OSError: The disk is full, or the folder is missing or cannot be written.
    """
    room = shutil.disk_usage(folder).free
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    for ending in ("caffemodel", "solverstate", "caffemodel.h5", "solverstate.h5"):
        with contextlib.suppress(OSError):
            room += os.path.getsize("%s.%s" % (replaced, ending))
    if room < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
