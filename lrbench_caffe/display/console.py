"""The terminal's output: tables, messages, and events as lines of JSON.

What moves while trainings run is in :mod:`lrbench_caffe.display.progress`.
"""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from lrbench_caffe import models
from lrbench_caffe.display.formats import render
from lrbench_caffe.display.layout import fitted, table_lines, unlimited, wrapped
from lrbench_caffe.display.printable import printable, write
from lrbench_caffe.display.view import ALL, view
from lrbench_caffe.trial import TEST_SET, Evaluation, Trial, to_dict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lrbench_caffe.display.layout import Layout
    from lrbench_caffe.display.table import Table
    from lrbench_caffe.display.view import View


# A percentage, or a word, or words in quotes, with what is next to them.
_WORD = re.compile(r"(?:Top-1 )?[0-9.]+ %\S*|(?:`[^`]*`|\"[^\"]*\"|\S)+")
WIDER_OR_CSV = "use a wider window, or --format csv"


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
    *tables: Table, format: str = "table", wanted: View = ALL, hint: str = WIDER_OR_CSV
) -> None:
    """Print tables to standard output.

    On a terminal that is too narrow, the format "table" leaves out the least important columns,
    and a line names them. In a file or a pipe it has all columns.

    Args:
        *tables: The tables. Formats other than "table" need tables with the same columns.
        format: One of :data:`lrbench_caffe.display.formats.FORMATS`.
        wanted: The columns and rows to print.
        hint: How to see the columns without room, as the end of a sentence.

    Raises:
        InputError: A table does not have a column of the view.
    """
    viewed = view(tables, wanted, format)
    if format != "table":
        write(render(viewed, format))
        sys.stdout.flush()  # a reader that has gone ends the command before its remarks
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
        print_line("no room for %s: %s" % (", ".join(left_out), hint))


def _write_whole(table: Table) -> None:
    """Write a table with a line for each row, however long it is."""
    title = [printable(table.title)] if table.title else []
    heading, body = table_lines(unlimited(table))
    sys.stdout.write("".join(line.rstrip() + "\n" for line in [*title, *heading, *body]))


def _print_layout(console: Console, title: str | None, layout: Layout) -> None:
    if title:
        text = at_words(printable(title), console.width)
        console.print(Text(text, style="italic"), soft_wrap=True)
    if not layout.fits:
        _print_records(console, layout)
        return
    heading, body = table_lines(layout)
    console.print(Text("\n".join(heading), style="bold"), soft_wrap=True)
    console.print(Text("\n".join(body)), soft_wrap=True)


def _print_records(console: Console, layout: Layout) -> None:
    """Print the cells of each row below one another, where they do not fit side by side."""
    for row in layout.rows:
        console.print()
        for column, title, (text,) in zip(layout.columns, layout.titles, row):
            line = "%s: %s" % (" ".join(title), text)
            lines = [line] if column.right else wrapped(line, console.width, column.policy)
            console.print(Text("\n".join(lines)), soft_wrap=True)
    console.print()


def is_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return Console().is_terminal


def print_json(content: object) -> None:
    """Print a value as JSON, for programs."""
    write(json.dumps(content, indent=1) + "\n")


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Print facts below one another: (name, value) each. Long values are wrapped on a terminal."""
    texts = [(printable(name), printable(str(value))) for name, value in facts]
    console = plain_console(stderr=False)
    indent = max((len(name) for name, _ in texts), default=0) + 2
    for name, value in texts:
        # A policy's break keeps lists together; in other texts it is the same as any space.
        lines = (
            wrapped(value, max(1, console.width - indent), policy=True)
            if console.is_terminal
            else (value,)
        )
        text = ("\n" + " " * indent).join(lines)
        console.print(Text(name.ljust(indent) + text), soft_wrap=True)


def model_text(model: models.Model, kept: bool = False) -> str:
    """Return where a model is, after which iteration it was kept, and why.

    Args:
        model: The model.
        kept: Whether the place is that in LRBENCH_HOME even if the model is where the user wanted
            it, too.
    """
    top1, name = model.metrics["top1"], model.content["measured_on"]
    if model.chosen == models.LAST or top1 is None:
        reason = "the last one, because no Top-1 is measured"
    else:
        on_set = "" if name in (None, TEST_SET) else " on the set %s" % name
        reason = "Top-1 %.2f %%%s" % (100 * top1, on_set)
    path = None if kept else models.copy_of(model)
    return "%s (iteration %d, %s)" % (path or model.path, model.iteration, reason)


def print_line(line: str, aside: bool = False) -> None:
    """Print a line of text, as :func:`lrbench_caffe.display.printable.printable`.

    A terminal that is too narrow gets it in several lines, see :func:`at_words`.

    Args:
        line: The text.
        aside: Whether to print to standard error, because a program reads standard output.
    """
    print_to(plain_console(aside), line)


def print_to(console: Console, line: str, indent: int = 0) -> None:
    """Print a line of text to a console, as :func:`print_line`.

    Args:
        console: A console of :func:`plain_console`.
        line: The text.
        indent: The number of spaces before the second line and later ones on a narrow terminal.
    """
    text = printable(line)
    if console.is_terminal:
        text = at_words(text, console.width, indent)
    console.print(Text(text), soft_wrap=True)


def at_words(text: str, width: int, indent: int = 0) -> str:
    r"""Return a sentence in lines that are not wider than a terminal, broken at spaces.

    Commands in `backquotes` and "quoted" texts stay whole, because they are to be copied, and so do
    words, such as paths. A word that is wider than the terminal continues the line before it.

    >>> at_words("3 of 4 trials wait: `lrbench study run first` starts them", 30)
    '3 of 4 trials wait:\n`lrbench study run first`\nstarts them'
    >>> at_words("1/2  FIX(k0=0.1)  finished  Top-1 99.00 %", 30, indent=5)
    '1/2  FIX(k0=0.1)  finished\n     Top-1 99.00 %'
    """
    margin = " " * indent
    lines: list[str] = []
    end = 0  # of the last word
    for match in _WORD.finditer(text):
        gap, word = text[end : match.start()], match.group()
        used = (cell_len(lines[-1]) - 1) % width + 1 if lines else 0  # of its last row
        if not lines:
            lines.append(gap + word)
        elif used + len(gap) + cell_len(word) <= width or indent + cell_len(word) > width:
            lines[-1] += gap + word
        else:
            lines.append(margin + word)
        end = match.end()
    return "\n".join(lines)


def print_hint(line: str) -> None:
    """Print a line to standard output that is paler than the rest, for people at a terminal."""
    console = plain_console(stderr=False)
    console.print(Text(printable(line), style="dim"), soft_wrap=True)


def plain_console(stderr: bool) -> Console:
    """Return a console that prints texts as they are: ``[b]`` and ``:x:`` are not special."""
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def print_event_and_model(kind: str, content: Any) -> None:
    """Print an event as :func:`print_event` does, and before the "end" the model that was kept."""
    model = models.find(content.id) if kind == "end" else None
    if model is not None:
        fields = {name: getattr(model, name) for name in ("path", "iteration", "chosen", "metrics")}
        print_event("model", fields)
    print_event(kind, content)


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
