"""Writing files: a file is complete or it is not there, and a failure leaves nothing behind.

All that a user gets as a file is written here: exports, reports, pictures, pages, downloads and the
parts of a snapshot that are not Caffe's.

- A regular file is written under a temporary name beside its place. It takes its place when it is
  complete, so that a failure leaves the previous file as it was. The permissions of the previous
  file are kept.
- A link stays a link: the file that it points to is replaced.
- A device, a pipe, or an open descriptor such as ``/dev/stdout`` is written into.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
import uuid
from typing import IO, TYPE_CHECKING, ContextManager

from lrbench_caffe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = ".lrbench-"  # of temporary names
_STANDARD_OUTPUT = 1
_MAX_LINKS = 40  # to follow, as in Linux
# The errors of a rename to a file that can be written, but not replaced. Its folder may be
# read-only, or have the sticky bit; or the file is a mount point, as in a container.
_NOT_REPLACEABLE = (errno.EACCES, errno.EBUSY, errno.EPERM, errno.EROFS, errno.EXDEV)


def write(path: str, data: bytes, description: str, instead: str = "name another file") -> None:
    """Write a file as a whole.

    Args:
        path: The file, see :func:`open_output`.
        data: Its content.
        description: What the file is, for the error message, such as "report".
        instead: What to do if it cannot be written, for the error message.

    Raises:
        InputError: The file cannot be written.
        BrokenPipeError: The path is a pipe whose reader has closed it.
    """
    with reported_errors(path, description, instead), open_output(path) as file:
        file.write(data)


@contextlib.contextmanager
def reported_errors(
    path: str, description: str, instead: str = "name another file"
) -> Iterator[None]:
    """Turn errors of the system within the block into a message about the file.

    Args:
        path: The file that the block writes.
        description: What the file is, such as "report".
        instead: What to do if it cannot be written.

    Raises:
        InputError: The system refuses something within the block.
        BrokenPipeError: The reader of a pipe has closed it. This is not an error of the input.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(
            "cannot write the %s to %s (%s): %s"
            % (description, path, error.strerror or error, instead)
        ) from None


def open_output(path: str) -> ContextManager[IO[bytes]]:
    """Open a file to write; as a context manager, which completes the file.

    If an exception leaves the context, a regular file is as it was before, or is not there. There
    is one exception: a file that can be written but not replaced, for example in a read-only
    folder, is overwritten at the end of the context, and a full disk may cut it off.

    Args:
        path: The file. A link is followed. What is not a regular file is written into.

    Returns:
        A context manager that yields the open file, which can be written but not read.

    Raises:
        OSError: The file cannot be written, also at the end of the context.
    """
    descriptor = _own_descriptor(path)
    if descriptor is not None:
        # Another open() would start at the beginning of the file that the shell has opened.
        return os.fdopen(os.dup(descriptor), "wb")
    if _is_special(path):
        return open(path, "wb", opener=_open_existing)
    return _replacement(os.path.realpath(path))


def is_standard_output(path: str) -> bool:
    """Return whether a path, such as /dev/stdout, is the standard output of this process."""
    return _own_descriptor(path) == _STANDARD_OUTPUT


def check_writable(path: str) -> None:
    """Check, before a long computation, that :func:`open_output` can write a file.

    Raises:
        OSError: The file cannot be written.
    """
    if _own_descriptor(path) is not None:
        return
    names_folder = path.endswith(os.sep)
    path = os.path.realpath(path)
    target = path if os.path.exists(path) else os.path.dirname(path)
    if os.path.isdir(path) or names_folder:
        number = errno.EISDIR
    elif not os.path.exists(target):
        number = errno.ENOENT
    elif not os.access(target, os.W_OK):  # a pipe is not opened: it would wait for its reader
        number = errno.EACCES
    else:
        return
    raise OSError(number, os.strerror(number))


def _own_descriptor(path: str) -> int | None:
    """The open descriptor of this process that a path such as /dev/stdout stands for, or None."""
    own = os.path.realpath("/proc/self/fd")
    for _ in range(_MAX_LINKS):
        folder, name = os.path.split(path)
        folder = os.path.realpath(folder)
        if folder == own and name.isdigit():
            return int(name)
        path = os.path.join(folder, name)
        if not os.path.islink(path):
            return None
        path = os.path.join(folder, os.readlink(path))
    return None


def _is_special(path: str) -> bool:
    """Whether a path cannot be a regular file: it is a folder or a device, or ends in a slash."""
    if not os.path.basename(path):
        return True
    with contextlib.suppress(FileNotFoundError):
        return not stat.S_ISREG(os.stat(path).st_mode)
    return False


def _open_existing(path: str, flags: int) -> int:
    """Open a device or a pipe, without the flags that create or truncate a file."""
    return os.open(path, os.O_WRONLY | os.O_NOCTTY)


@contextlib.contextmanager
def _replacement(path: str) -> Iterator[IO[bytes]]:
    """A temporary file, which takes the place of a file when the block ends."""
    folder, mode = os.path.dirname(path), 0o666
    previous: os.stat_result | None = None
    with contextlib.suppress(FileNotFoundError):
        previous = os.stat(path)
        with open(path, "r+b"):  # a file that is protected from writing is not replaced either
            pass
        if not os.access(folder, os.W_OK | os.X_OK):
            folder, mode, previous = tempfile.gettempdir(), 0o600, None
    temporary = os.path.join(folder, PREFIX + uuid.uuid4().hex)
    try:
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            if previous is not None:
                _copy_permissions(previous, file.fileno())
            yield file
            file.flush()
            os.fsync(file.fileno())
        _move(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.remove(temporary)


def _copy_permissions(previous: os.stat_result, descriptor: int) -> None:
    """Give an open file the mode of another, and its group and owner if this user may do so."""
    for owner, group in ((-1, previous.st_gid), (previous.st_uid, -1)):
        with contextlib.suppress(OSError):
            os.fchown(descriptor, owner, group)
    os.fchmod(descriptor, stat.S_IMODE(previous.st_mode))


def _move(temporary: str, path: str) -> None:
    """Move a complete file to its place, or copy its content where a file cannot be replaced."""
    try:
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in _NOT_REPLACEABLE or not os.path.isfile(path):
            raise
        with open(temporary, "rb") as source, open(path, "r+b") as target:
            shutil.copyfileobj(source, target)
            target.truncate()
            target.flush()
            os.fsync(target.fileno())
