"""Files named by a user or a prototxt: finding them, and naming them in UTF-8."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from typing import TYPE_CHECKING

from lrbench_caffe.errors import InputError
from lrbench_caffe.training import encoding

if TYPE_CHECKING:
    from collections.abc import Sequence


def find_file(
    name: str,
    folders: Sequence[str | None],
    description: str,
    hint: str = "name the folder it is in with --data",
) -> str:
    """Find a file or folder.

    Args:
        name: Its path, absolute or relative to one of the folders.
        folders: Where to look, in this order; None is skipped.
        description: What the file is, for the error message.
        hint: What to do if it is missing, for the error message.

    Returns:
        The absolute path.

    Raises:
        InputError: The file is in none of the folders; the message lists every path tried.
    """
    if os.path.isabs(name):
        paths = [name]
    else:
        paths = [os.path.join(folder, name) for folder in folders if folder is not None]
    for path in paths:
        if os.path.exists(path):
            return os.path.abspath(path)
    tried = ", ".join(dict.fromkeys(shown(os.path.abspath(path)) for path in paths))
    raise InputError(
        "%s, %s, was not found; tried %s: %s" % (description, shown(name), tried, hint)
    )


def plain_path(path: str) -> str:
    """Return a path of a file or folder in UTF-8: its own, or that of a temporary link to it.

    Caffe's Python interface, protobuf messages and the database hold paths in UTF-8 only.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        link = mirrored_path(path)
        os.symlink(os.path.abspath(path), link)
        return link
    return path


def mirrored_path(path: str) -> str:
    """Return the path of a new temporary file, which is removed with the process.

    It ends with the components of the given path, from which datasets get their names.
    """
    folder = tempfile.mkdtemp(prefix="lrbench-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    mirrored = os.path.join(folder, shown(os.path.abspath(path)).lstrip(os.sep))
    os.makedirs(os.path.dirname(mirrored), exist_ok=True)
    return mirrored


def shown(path: str) -> str:
    """Return a path for a message; bytes that are not UTF-8 are written as escapes."""
    return encoding.readable(encoding.from_path(path))
