"""The errors that a user sees, and the parts that their messages are made of.

A message says what is wrong, where, and what to do instead, in one sentence:
``SIN: invalid k0=-1, expected a learning rate above 0, for example 0.01``.
"""

from __future__ import annotations

import difflib
import errno
import re
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

_MAX_LENGTH = 500  # characters of Caffe's log in a message
# A part of a fatal message of Caffe that does not say what to do, and what to add to it.
_HINTS = (
    (
        "mdb_status == 0 (12 vs. 0)",
        "the LMDBs do not fit into the address space that a process may use, raise the limit "
        "(ulimit -v), or make the LMDBs again with a smaller map, as `lrbench data` does",
    ),
    (
        "proto.SerializeToOstream",
        "the snapshot could not be written; free space on its disk, or name another place with "
        "--snapshot-prefix",
    ),
    (
        "cudaSuccess (2 vs. 0)",
        "the GPU has no memory left; end other programs on it (`nvidia-smi` lists them), train "
        "fewer nets at the same time (--jobs), or choose a smaller batch_size",
    ),
    (
        "cudaSuccess (35 vs. 0)",
        "there is no NVIDIA driver, or it is too old for this Caffe's CUDA; a Caffe with CUDA "
        "needs a driver even to train on the CPU",
    ),
    (
        "no kernel image is available",
        "this Caffe is not compiled for this card; use one that is, or train on the CPU",
    ),
)
# The severity and the date, from glog 0.5 on with the year, then time, thread, file and line.
_GLOG_PREFIX = r"%s(?:\d{4})?\d{4} [^\]]*\] "


class InputError(ValueError):
    """The user's input is invalid. The message is one sentence: what, where, what to do instead."""


class UnusableCaffe(InputError):
    """Trainings on this machine cannot use its Caffe, whatever they train."""


class CannotConnect(InputError):
    """The database cannot be reached or used, because of its name or because of an outage."""


class TrialMissing(InputError):
    """The database does not have the trial, for example because an older backup was restored."""


class TrialDeleted(InputError):
    """The trial was deleted from the database. A journal with its rows does not bring it back."""


class TrialError(RuntimeError):
    """A training failed. The message is one sentence that includes Caffe's last log message."""


class DatabaseUnavailable(RuntimeError):
    """The database cannot be reached, or lost the connection. The operation can be repeated."""


class ChangeRefused(DatabaseUnavailable):
    """The database answers, but refuses this change now. Another change may succeed."""


class Undelivered(DatabaseUnavailable):
    """Everything was measured, but the database does not have all of it. Journals have the rest."""


class JournalsRefused(Undelivered):
    """The database rejects values that were measured. It does so however long a program waits."""


def in_one_line(error: BaseException) -> str:
    r"""Return an error of a library with its type, in one line.

    >>> in_one_line(ValueError("no such\nthing"))
    'ValueError: no such thing'
    """
    return " ".join(("%s: %s" % (type(error).__name__, error)).split())


def abbreviated(value: object) -> str:
    """Return a value as text that is short enough for a message; a str is quoted.

    Example:
        >>> abbreviated([5000, 7000]), abbreviated("FIX")
        ('[5000, 7000]', "'FIX'")
    """
    try:
        text = value if isinstance(value, str) else repr(value)
    except ValueError:  # an int with more digits than Python prints
        text = "a very large number"
    if len(text) > 63:
        return repr(text[:60] + "...")
    return repr(text) if isinstance(value, str) else text


def suggestion(name: object, valid: Collection[str]) -> str:
    """Return the end of a message about an unknown name.

    Args:
        name: The unknown name.
        valid: The valid names.

    Returns:
        The valid name that resembles name most, or else all valid names.

    Example:
        >>> suggestion("SIM2", ["STEP", "SIN2"])
        ': did you mean SIN2?'
        >>> suggestion("HILL", ["STEP", "SIN2"])
        ': expected one of STEP, SIN2'
    """
    closest = nearest(str(name)[:40], valid, cutoff=0.5)
    if closest is not None:
        return ": did you mean %s?" % closest
    return ": expected %s%s" % ("one of " if len(valid) > 1 else "", ", ".join(valid))


def nearest(name: str, valid: Collection[str], cutoff: float = 0.7) -> str | None:
    """Return the valid name that resembles a name most, or None. Case does not matter.

    Args:
        name: The unknown name.
        valid: The valid names.
        cutoff: The least similarity, from 0 to 1.

    Example:
        >>> nearest("frist", ["second", "First"])
        'First'
    """
    upper = [candidate.upper() for candidate in valid]
    closest = difflib.get_close_matches(name.upper(), upper, n=1, cutoff=cutoff)
    return next((candidate for candidate in valid if candidate.upper() in closest), None)


def disk_problem(error: Exception, folder: str, needed: int | None = None) -> str:
    """Return why a file could not be written, as a part of a message.

    Args:
        error: The error of the system, or of LMDB, which reports a full disk in several ways.
        folder: The folder of the file. What was written of the file must have been removed.
        needed: Bytes that the file needs, None if that is not known.
    """
    free = shutil.disk_usage(folder).free
    if needed is not None and free < needed:
        return "the disk of %s is full: %s are needed and %s are free" % (
            folder,
            megabytes(needed),
            megabytes(free),
        )
    if getattr(error, "errno", None) == errno.ENOSPC:
        return "the disk of %s is full" % folder
    return getattr(error, "strerror", None) or str(error)


def counted(number: int, noun: str) -> str:
    """Return a number of things, with a regular noun.

    Example:
        >>> counted(1, "journal"), counted(2, "journal")
        ('1 journal', '2 journals')
    """
    return "%d %s%s" % (number, noun, "" if number == 1 else "s")


def megabytes(size: int) -> str:
    """Return a number of bytes in MB.

    Example:
        >>> megabytes(170052171), megabytes(34000)
        ('170 MB', '0.034 MB')
    """
    return "%s MB" % (round(size / 1e6) if size >= 1e7 else "%.2g" % (size / 1e6))


def fatal_message(log: str) -> str | None:
    r"""Return the last fatal message in Caffe's log, in one line, None if there is none.

    A fatal message of glog may have several lines. It ends at the stack trace, which starts with
    ``***``.

    Example:
        >>> fatal_message("F1126 10:00:00.000000 7 net.cpp:88] Check failed: a < b\n*** Aborted")
        'Check failed: a < b'
    """
    lines = log.splitlines()
    fatal = [i for i, line in enumerate(lines) if re.match(_GLOG_PREFIX % "F", line)]
    if not fatal:
        return None
    message = [lines[fatal[-1]].split("] ", 1)[1]]
    for line in lines[fatal[-1] + 1 :]:
        if line.startswith("***"):
            break
        message.append(line)
    text = _one_line(" ".join(message))
    return ": ".join([text, *(hint for part, hint in _HINTS if part in text)])


def last_log_line(log: str) -> str | None:
    """Return the last line of Caffe's log without glog's prefix, None if the log is empty."""
    lines = [line for line in log.splitlines() if line.strip()]
    if not lines:
        return None
    return _one_line(re.sub("^" + _GLOG_PREFIX % "[IWEF]", "", lines[-1]))


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_MAX_LENGTH]
