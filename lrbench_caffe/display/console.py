"""The screen: tables, sentences, lines of JSON.  What moves while trainings run is in :mod:`lrbench_caffe.display`."""

import json
import re
import sys

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lrbench_caffe.display.tables import displayed, render
from lrbench_caffe.trial import Evaluation, Trial, to_dict

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # in a name, they would command the terminal


def format_duration(seconds):
    """Seconds as a person says them: 42 s, 6:02, 1:10:00."""
    seconds = int(round(seconds))
    if seconds < 60:
        return "%d s" % seconds
    hours, rest = divmod(seconds, 3600)
    return (
        "%d:%02d:%02d" % (hours, rest // 60, rest % 60)
        if hours
        else "%d:%02d" % (rest // 60, rest % 60)
    )


def print_tables(*tables, format="table"):
    """Print tables in one of :data:`lrbench_caffe.display.tables.FORMATS`.

    As "table" closer on a narrow terminal; where the output is no terminal they are as wide as they need to be.
    """
    if format != "table":
        sys.stdout.write(render(tables, format))
        return
    for table in tables:
        _show(_drawn(table))


def _drawn(table):
    columns, rows = displayed(table)
    drawn = Table(
        title=table.title and Text(table.title),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for n, column in enumerate(columns):
        drawn.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=column.right or None,
            overflow="fold",
        )
    for row in rows:
        drawn.add_row(*(Text(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)) for text in row))
    return drawn


def _show(table):
    console = Console()
    if console.is_terminal:
        if console.width < 110:
            table.padding = 0
        console.print(table)
        return
    console = Console(width=200)
    with console.capture() as text:
        console.print(table)
    sys.stdout.write("".join(line.rstrip() + "\n" for line in text.get().splitlines()))


def print_line(line, aside=False):
    """Print a sentence; aside: to standard error, where standard output is for a program."""
    Console(highlight=False, markup=False, soft_wrap=True, stderr=aside).print(line)


def print_event(kind, content):
    """One event as a line of JSON on standard output, for programs; a trial's rows are events of their own."""
    if isinstance(content, Trial):
        summary = content.summary and content.summary._asdict()
        content = dict(to_dict(content), summary=summary)
        content.pop("rows")
        content["setup"]["network"].pop("prototxt")
    elif isinstance(content, Evaluation):
        content = to_dict(content)
    elif kind == "note":
        content = {"text": content}
    sys.stdout.write(json.dumps(dict({"event": kind}, **content)) + "\n")
    sys.stdout.flush()
