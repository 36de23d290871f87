"""The terminal's output: tables, messages, and events as lines of JSON.

What moves while trainings run is in :mod:`lrbench_caffe.display.progress`.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from lrbench_caffe.display.formats import render
from lrbench_caffe.display.layout import parts
from lrbench_caffe.display.printable import printable, write
from lrbench_caffe.display.table import displayed
from lrbench_caffe.trial import Evaluation, Trial, to_dict

if TYPE_CHECKING:
    from lrbench_caffe.display.table import Table

WIDE = 110  # columns of a terminal from which on tables are padded
FILE_WIDTH = 200  # largest number of columns of a table in a file or a pipe


def format_duration(seconds: float) -> str:
    """Return a duration as a person reads it.

    >>> [format_duration(seconds) for seconds in (42, 362, 4200)]
    ['42 s', '6:02', '1:10:00']
    """
    whole_seconds = round(seconds)
    if whole_seconds < 60:
        return "%d s" % whole_seconds
    hours, rest = divmod(whole_seconds, 3600)
    if hours:
        return "%d:%02d:%02d" % (hours, rest // 60, rest % 60)
    return "%d:%02d" % (rest // 60, rest % 60)


def print_tables(*tables: Table, format: str = "table") -> None:
    """Print tables to standard output.

    Args:
        *tables: The tables. Formats other than "table" need tables with the same columns.
        format: One of :data:`lrbench_caffe.display.formats.FORMATS`. Tables in the format "table"
            have no padding where it would not fit, and several parts where even that is too wide.
            They have up to FILE_WIDTH columns in a file or a pipe.
    """
    if format != "table":
        write(render(tables, format))
        sys.stdout.flush()  # a reader that has gone ends the command before its remarks
        return
    for table in tables:
        _print_table(table)


def _rich_table(table: Table) -> RichTable:
    columns, rows = displayed(table)
    rich_table = RichTable(
        title=Text(printable(table.title)) if table.title else None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for column in columns:
        rich_table.add_column(
            Text(printable(column.title or "")),
            justify="right" if column.right else "left",
            no_wrap=column.right,
            overflow="fold",
        )
    for row in rows:
        rich_table.add_row(*(Text(printable(text)) for text in row))
    return rich_table


def _print_table(table: Table) -> None:
    console = Console()
    if console.is_terminal:
        padding, tables = 1, parts(table, console.width, gap=3)
        if console.width < WIDE or len(tables) > 1:
            padding, tables = 0, parts(table, console.width, gap=1)
        for part in tables:
            rich_table = _rich_table(part)
            rich_table.padding = (0, padding)
            console.print(rich_table)
        return
    console = Console(width=FILE_WIDTH)
    with console.capture() as capture:
        console.print(_rich_table(table))
    sys.stdout.write("".join(line.rstrip() + "\n" for line in capture.get().splitlines()))


def print_line(line: str, aside: bool = False) -> None:
    """Print a line of text, as :func:`lrbench_caffe.display.printable.printable`.

    Args:
        line: The text.
        aside: Whether to print to standard error, because a program reads standard output.
    """
    plain_console(aside).print(Text(printable(line)), soft_wrap=True)


def plain_console(stderr: bool) -> Console:
    """Return a console that prints texts as they are: ``[b]`` and ``:x:`` are not special."""
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def print_event(kind: str, content: Any) -> None:
    """Print an event of a training as a line of JSON, for programs.

    Args:
        kind: The kind of the event, the value of "event" in the line.
        content: A Trial, printed without its rows, which are events of their own; an Evaluation;
            the text of a note; or a dict.
    """
    if isinstance(content, Trial):
        summary = content.summary
        fields = dict(to_dict(content), summary=summary and summary._asdict())
        fields.pop("rows")
        fields["setup"]["network"].pop("prototxt")
    elif isinstance(content, Evaluation):
        fields = to_dict(content)
    elif kind == "note":
        fields = {"text": content}
    else:
        fields = content
    sys.stdout.write(json.dumps(dict({"event": kind}, **fields)) + "\n")
    sys.stdout.flush()
