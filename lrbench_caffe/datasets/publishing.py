"""How the files of a dataset get their names: all of them, or none, by one process at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lrbench_caffe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


@contextmanager
def locked(
    folder: str, stem: str, instead: str = "name a folder that you can write to"
) -> Iterator[None]:
    """Make the folder and let one process at a time write a dataset there.

    The system releases the lock of a process that is killed. A message ends with what to do
    instead.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        lock = open(os.path.join(folder, ".%s.lock" % stem), "w")  # noqa: SIM115 - closed below
    except OSError as error:
        raise InputError(
            "cannot write to %s (%s): %s" % (folder, error.strerror, instead)
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def publish(
    files: Sequence[str], older: Sequence[str], partial: str, write: Callable[[str], None]
) -> None:
    """Write files in a hidden folder, move older ones away, then give the new ones their names.

    Args:
        files: The paths of the files.
        older: The paths of all files that an older set may have.
        partial: The hidden folder, in the folder of the files.
        write: Writes the files, by their names, into the folder that it is called with.

    Raises:
        OSError: The files cannot be written. Older ones are back in their places.
    """
    new, old = os.path.join(partial, "new"), os.path.join(partial, "old")
    shutil.rmtree(partial, ignore_errors=True)  # left by a conversion that was killed
    published = []
    try:
        os.makedirs(new)
        os.makedirs(old)
        write(new)
        for path in older:
            if os.path.exists(path):
                os.rename(path, os.path.join(old, os.path.basename(path)))
        for path in files:
            os.rename(os.path.join(new, os.path.basename(path)), path)
            published.append(path)
    except BaseException:
        for path in published:
            os.rename(path, os.path.join(new, os.path.basename(path)))
        for path in older:
            aside = os.path.join(old, os.path.basename(path))
            if os.path.exists(aside):
                os.rename(aside, path)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
