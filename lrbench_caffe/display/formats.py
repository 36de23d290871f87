"""Tables as text: Markdown, CSV, JSON and LaTeX.

The format "table" is for the terminal: see :func:`lrbench_caffe.display.console.print_tables`.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import re
from typing import TYPE_CHECKING

from lrbench_caffe.display.printable import REPLACEMENT, printable
from lrbench_caffe.display.table import displayed
from lrbench_caffe.ranking import Spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from lrbench_caffe.display.table import Column, Table

FORMATS = ("table", "markdown", "csv", "json", "latex")


def render(tables: Sequence[Table], format: str) -> str:
    """Return tables as text.

    In Markdown and LaTeX, which people read, the tables follow one another. CSV and JSON, which
    programs read, have one list of the rows of all tables, with raw values by column names.

    Args:
        tables: Tables with the same columns.
        format: "markdown", "csv", "json" or "latex".
    """
    if format == "csv":
        return _csv(tables)
    if format == "json":
        return _json(tables)
    render_table = {"markdown": _markdown, "latex": _latex}[format]
    return "\n".join(map(render_table, tables))


def _records(table: Table) -> Iterator[dict[str, object]]:
    """The rows as dicts by the columns' names.

    A Spread is a mean and, as NAME_std, a deviation. A time has the form of ISO 8601.
    """
    for row in table.rows:
        record: dict[str, object] = {}
        for column, value in zip(table.columns, row):
            if column.name and isinstance(value, Spread):
                record[column.name] = value.mean
                record[column.name + "_std"] = value.deviation
            elif column.name and isinstance(value, datetime.datetime):
                record[column.name] = value.isoformat(timespec="seconds")
            elif column.name:
                record[column.name] = value
        yield record


def _json(tables: Iterable[Table]) -> str:
    return json.dumps([record for table in tables for record in _records(table)], indent=1) + "\n"


def _csv(tables: Sequence[Table]) -> str:
    records = [record for table in tables for record in _records(table)]
    if records:
        names = list(records[0])
    else:
        names = [column.name for table in tables[:1] for column in table.columns if column.name]
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def _markdown(table: Table) -> str:
    columns, rows = displayed(table)
    lines = ["**%s**" % _markdown_text(table.title), ""] if table.title else []
    lines += [
        "| %s |" % " | ".join(_one_line(_title(column)).replace("|", r"\|") for column in columns),
        "| %s |" % " | ".join("---:" if column.right else "---" for column in columns),
    ]
    lines += ["| %s |" % " | ".join(map(_markdown_text, row)) for row in rows]
    return "\n".join(lines) + "\n"


def _markdown_text(text: str) -> str:
    return re.sub(r"([\\|<>*_`&])", r"\\\1", _one_line(text))


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
}
_LATEX.update({character: "\\" + character for character in "&%$#_{}"})


def _latex(table: Table) -> str:
    """A tabular for the LaTeX package booktabs."""
    columns, rows = displayed(table)
    lines = ["%% %s" % _one_line(table.title)] if table.title else []
    lines += [
        "\\begin{tabular}{%s}" % "".join("r" if column.right else "l" for column in columns),
        "\\toprule",
        _latex_row(map(_title, columns)),
        "\\midrule",
    ]
    lines += map(_latex_row, rows)
    return "\n".join(lines + ["\\bottomrule", "\\end{tabular}"]) + "\n"


def _latex_row(texts: Iterable[str]) -> str:
    return " & ".join(map(_latex_text, texts)) + r" \\"


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in _one_line(text))


def _title(column: Column) -> str:
    return column.title or ""


def _one_line(text: str) -> str:
    """A text with a space for each character that is not visible: LaTeX has no U+FFFD."""
    return printable(text).replace(REPLACEMENT, " ")
