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
from lrbench_caffe.display.layout import BORDERS, GAP, fitted, unlimited, wrapped
from lrbench_caffe.display.printable import printable, write
from lrbench_caffe.display.view import ALL, view
from lrbench_caffe.trial import Evaluation, Trial, to_dict

if TYPE_CHECKING:
    from lrbench_caffe.display.layout import Layout
    from lrbench_caffe.display.table import Table
    from lrbench_caffe.display.view import View


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


def print_tables(
    *tables: Table, format: str = "table", wanted: View = ALL, choosable: bool = False
) -> None:
    """Print tables to standard output.

    On a terminal that is too narrow, the format "table" leaves out the least important columns,
    and a line names them. In a file or a pipe it has all columns.

    Args:
        *tables: The tables. Formats other than "table" need tables with the same columns.
        format: One of :data:`lrbench_caffe.display.formats.FORMATS`.
        wanted: The columns and rows to print.
        choosable: Whether the command has the option --columns.

    Raises:
        InputError: A table does not have a column of the view.
    """
    viewed = view(tables, wanted, format)
    if format != "table":
        write(render(viewed, format))
        return
    console = Console()
    if not console.is_terminal:
        for table in viewed:
            _write_whole(table)
        return
    left_out: dict[str, None] = {}
    for table in viewed:
        layout = fitted(table, console.width)
        _print_layout(console, table.title, layout)
        left_out.update(dict.fromkeys(column.key for column in layout.left_out))
    if left_out:
        print_line(
            "no room for %s: %suse a wider window, or --format csv"
            % (", ".join(left_out), "choose columns with --columns, " if choosable else "")
        )


def _write_whole(table: Table) -> None:
    """Write a table with a line for each row, however long it is."""
    layout = unlimited(table)
    width = sum(layout.widths) + layout.gap * len(layout.widths) + len(table.title or "") + BORDERS
    console = Console(width=width)
    with console.capture() as capture:
        _print_layout(console, table.title, layout)
    sys.stdout.write("".join(line.rstrip() + "\n" for line in capture.get().splitlines()))


def _print_layout(console: Console, title: str | None, layout: Layout) -> None:
    if title:
        console.print(Text(printable(title), style="italic"), soft_wrap=True)
    if not layout.fits:
        _print_records(console, layout)
    elif layout.columns:
        console.print(_rich_table(layout))


def _rich_table(layout: Layout) -> RichTable:
    rich_table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    rich_table.padding = (0, 1) if layout.gap == GAP else (0, 1, 0, 0)
    for column, lines, width in zip(layout.columns, layout.titles, layout.widths):
        rich_table.add_column(
            Text("\n".join(lines)),
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="ignore",
            width=width,
        )
    for row in layout.rows:
        rich_table.add_row(*(Text("\n".join(lines)) for lines in row))
    return rich_table


def _print_records(console: Console, layout: Layout) -> None:
    """Print the cells of each row below one another, where they do not fit side by side."""
    for row in layout.rows:
        console.print()
        for column, title, (text,) in zip(layout.columns, layout.titles, row):
            line = "%s: %s" % (" ".join(title), text)
            lines = [line] if column.right else wrapped(line, console.width, column.policy)
            console.print(Text("\n".join(lines)), soft_wrap=True)
    console.print()


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
