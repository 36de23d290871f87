"""Text from files and databases as the terminal and the report may show it.

A name in a prototxt, an imported trial or Caffe's log can contain characters that are commands for
a terminal, or that reverse or hide the text around them. Everything that is printed passes through
:func:`printable` where it leaves the program. Files and programs get the text as it is.
"""

from __future__ import annotations

import sys
import unicodedata

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Control characters, invisible and direction-changing ones, halves of surrogate pairs, and the
# separators of lines and paragraphs.
_HIDDEN_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")


def printable(text: str) -> str:
    r"""Return a text of one line in which every character is visible.

    Each character that is not visible, such as ESC, a line break or U+202E, becomes U+FFFD.

    Example:
        >>> printable("LeNet\x1b[31m\n")
        'LeNet�[31m�'
    """
    if text.isprintable():
        return text
    return "".join(map(_visible, text))


def printable_lines(text: str) -> str:
    """Return a text of several lines in which every character is visible, as :func:`printable`."""
    return "\n".join(map(printable, text.split("\n")))


def write(text: str) -> None:
    """Write lines to standard output; a terminal gets them as :func:`printable_lines`."""
    sys.stdout.write(printable_lines(text) if sys.stdout.isatty() else text)


def _visible(character: str) -> str:
    hidden = unicodedata.category(character) in _HIDDEN_CATEGORIES
    return REPLACEMENT if hidden else character
