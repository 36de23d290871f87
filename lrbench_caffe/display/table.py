"""A table as a value, and its values as a person reads them."""

from __future__ import annotations

import re
from typing import Any, Callable, NamedTuple

from lrbench_caffe.ranking import Spread

_NEGATIVE_ZERO = re.compile(r"^-(0(?:\.0+)?)$")  # a small difference, rounded


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: The title that a person reads; None if only programs get the column.
        name: The name that a program reads; None if only people get the column.
        text: A function from a value that is not None to its text.
        right: Whether the text is aligned right.
    """

    title: str | None
    name: str | None
    text: Callable[[Any], str] = str
    right: bool = False


class Table(NamedTuple):
    """A table.

    Attributes:
        title: The title, or None.
        columns: The columns.
        rows: Tuples with a value for each column. An unknown value is None; a mean over seeds is a
            Spread.
    """

    title: str | None
    columns: tuple[Column, ...]
    rows: tuple[tuple[object, ...], ...]


def percent(share: float) -> str:
    """Return a share of 1 in percent, as the paper prints accuracies.

    >>> percent(0.9933)
    '99.33'
    """
    return "%.2f" % (100 * share)


def number(value: float | None) -> str:
    """Return a metric with four decimals, as in the paper, or a dash for None."""
    return "-" if value is None else "%.4f" % value


def cell(column: Column, value: object) -> str:
    """Return a value as a person reads it in a column.

    >>> cell(Column("Top-1 %", "top1", percent), Spread(0.9933, 0.0002, 5))
    '99.33 ± 0.02'
    """
    if isinstance(value, Spread):
        mean = cell(column, value.mean)
        return mean if value.deviation is None else mean + " ± " + column.text(value.deviation)
    return "-" if value is None else _NEGATIVE_ZERO.sub(r"\1", column.text(value))


def displayed(table: Table) -> tuple[list[Column], list[list[str]]]:
    """Return the columns of a table that a person reads, and the texts of its rows in them."""
    shown = [n for n, column in enumerate(table.columns) if column.title is not None]
    columns = [table.columns[n] for n in shown]
    return columns, [[cell(table.columns[n], row[n]) for n in shown] for row in table.rows]
