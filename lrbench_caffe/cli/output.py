"""How commands print sentences beside their tables and files."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Iterable, Sequence

from lrbench_caffe.errors import counted

if TYPE_CHECKING:
    from lrbench_caffe.database import Store
    from lrbench_caffe.display.table import Table
    from lrbench_caffe.display.view import View


def print_tables(tables: Sequence[Table], format: str, view: View, not_made: int = 0) -> None:
    """Print tables of a command that has the options --columns, --sort and --limit.

    Args:
        tables: The tables.
        format: A format of tables.
        view: What to print of each table.
        not_made: The number of rows beyond the limit that the tables do not have.
    """
    from lrbench_caffe.display import console
    from lrbench_caffe.display.view import hidden_rows

    hint = "choose columns with --columns, " + console.WIDER_OR_CSV
    console.print_tables(*tables, format=format, wanted=view, hint=hint)
    hidden = not_made + hidden_rows(tables, view.limit)
    if hidden:
        print_remarks(
            ["%s; --limit sets how many are printed" % counted(hidden, "more row")], format
        )


def print_remarks(sentences: Iterable[str], format: str) -> None:
    """Print sentences about a table in this format.

    A table in a format for programs has standard output for itself; the sentences then go to
    standard error.
    """
    from lrbench_caffe.display import console

    for sentence in sentences:
        console.print_line(sentence, aside=format != "table")


def print_written(path: str, size: str) -> None:
    """Print that a file was written.

    A file such as /dev/stdout has standard output for itself; the sentence then goes to standard
    error.
    """
    from lrbench_caffe import files
    from lrbench_caffe.display import console

    console.print_line("%s: %s" % (path, size), aside=files.is_standard_output(path))


def command_line() -> str:
    """Return the command that runs now, without the password that a DSN may have."""
    words, hides = ["lrbench"], False
    for word in sys.argv[1:]:
        if hides or word.startswith("--dsn="):
            word = "--dsn=..." if word.startswith("--dsn=") else "..."
        hides = word == "--dsn"
        words.append(word)
    return " ".join(map(shlex.quote, words))


def resuming_command(store: Store, name: str) -> str:
    """Return the command that resumes a study, as a part of a sentence."""
    from lrbench_caffe import database

    command = database.studies.command(store, name)
    if command is None:
        return "`lrbench study run %s`" % name
    return "`%s`, with the same options as before," % command
