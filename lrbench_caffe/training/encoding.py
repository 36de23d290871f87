"""Text of prototxts that is not UTF-8: held as str, written back byte for byte, and shown.

Caffe reads names and paths as bytes. Protobuf's Python messages hold only valid text, and so does
PostgreSQL. Within a message, each byte that is not part of valid UTF-8 is therefore one character
of a private range of Unicode.
"""

from __future__ import annotations

import os
import re
from typing import Any

from google.protobuf import text_encoding, text_format

_FIRST = 0x10F700  # the character of byte 0; only bytes from 128 on can be invalid
# Undecodable bytes after "surrogateescape", and characters of the private range in a user's text.
_UNDECODED = re.compile("[\udc80-\udcff\U0010f780-\U0010f7ff]")
_PRIVATE = re.compile("[\U0010f780-\U0010f7ff]")
# The private characters as octal escapes of their UTF-8, which text_format prints.
_PRINTED = re.compile(r"\\364\\217\\(23[67])\\(2[0-7]{2})")
_LITERAL = re.compile(r'"((?:[^"\\]|\\.)*)"')


def decode(content: bytes) -> str:
    r"""Return bytes as the text of a message.

    >>> encode(decode(b"caf\xe9")) == b"caf\xe9"
    True
    """
    text = content.decode("utf-8", "surrogateescape")
    return _UNDECODED.sub(
        lambda match: "".join(
            chr(_FIRST + byte) for byte in match.group().encode("utf-8", "surrogateescape")
        ),
        text,
    )


def encode(text: str) -> bytes:
    """Return the bytes of the text of a message: the inverse of :func:`decode`."""
    restored = _PRIVATE.sub(lambda match: chr(0xDC00 + ord(match.group()) - _FIRST), text)
    return restored.encode("utf-8", "surrogateescape")


def from_path(path: str) -> str:
    """Return a path of Python's as the text of a message."""
    return decode(os.fsencode(path))


def to_path(text: str) -> str:
    """Return a path in a message as a path that Python can open."""
    return os.fsdecode(encode(text))


def readable(text: str) -> str:
    r"""Return the text of a message for people and for the database.

    If it is not UTF-8, its bytes beyond ASCII are written as escapes. So is NUL in any text.

    >>> print(readable(decode(b"caf\xe9")))
    caf\xe9
    """
    if _PRIVATE.search(text):
        text = encode(text).decode("ascii", "backslashreplace")
    return text.replace("\0", r"\x00")


def printed(message: Any) -> str:
    """Return a message as a prototxt in ASCII that Caffe reads with the original bytes."""
    return _PRINTED.sub(_original_byte, text_format.MessageToString(message))


def _original_byte(match: re.Match[str]) -> str:
    high, low = (int(digits, 8) for digits in match.groups())
    return "\\%03o" % ((high - 0o234) * 64 + low - 0o200)


def parse_printed(text: str, message: Any) -> Any:
    """Parse a prototxt that Caffe or :func:`printed` has written into a message, and return it."""
    return text_format.Parse(_LITERAL.sub(_decoded_literal, text), message)


def _decoded_literal(match: re.Match[str]) -> str:
    content: bytes = text_encoding.CUnescape(match.group(1))
    return '"%s"' % text_encoding.CEscape(decode(content).encode(), False)
