"""Files named by a user or a prototxt: finding them, and reading prototxts as messages."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from google.protobuf import text_format

from lrbench_caffe.errors import InputError

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
    tried = dict.fromkeys(os.path.abspath(path) for path in paths)
    raise InputError(
        "%s, %s, was not found; tried %s: %s" % (description, name, ", ".join(tried), hint)
    )


def read_message(path: str, message: Any, description: str) -> Any:
    """Parse a prototxt into a protobuf message.

    Args:
        path: The prototxt; its comments may be in any encoding.
        message: An empty message of the right type, which is filled.
        description: What the file is, for the error message.

    Returns:
        The message.

    Raises:
        InputError: The file cannot be read or parsed.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return text_format.Parse(file.read(), message)
    except OSError as error:
        raise InputError(
            "cannot read the %s %s: %s" % (description, path, error.strerror)
        ) from None
    except (text_format.ParseError, ValueError) as error:
        raise InputError("%s is not a valid %s: %s" % (path, description, error)) from None
