"""A table as a value, and its values as a person reads them."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, Callable, NamedTuple

from lrbench_caffe.ranking import Spread

_NEGATIVE_ZERO = re.compile(r"^-(0(?:\.0+)?)$")  # a small difference, rounded

KEY = 100  # importance of a column that is never left out
ROUNDING = 1e-12  # a deviation below this share of the mean is a rounding error
MAX_DECIMALS = 6  # of a small deviation


@dataclasses.dataclass(frozen=True)
class Fixed:
    """A function from a number to its text with a fixed number of decimals.

    Attributes:
        decimals: The number of decimals.
        factor: The text is that of the value times this factor.
    """

    decimals: int
    factor: float = 1

    def __call__(self, value: float | None) -> str:
        """Return the text of a value, or a dash for None."""
        return "-" if value is None else "%.*f" % (self.decimals, self.factor * value)

    def spread(self, spread: Spread) -> str:
        """Return the text of a mean and its deviation, such as "98.67 ± 0.29".

        The deviation has two significant digits, but only one of them if that takes more decimals
        than ``decimals``. The mean is rounded to the same place.
        """
        if spread.mean is None or spread.deviation is None:
            return self(spread.mean)
        mean, deviation = self.factor * spread.mean, self.factor * spread.deviation
        if deviation <= ROUNDING * abs(mean):
            decimals, deviation = self.decimals, 0.0
        else:
            place = -math.floor(math.log10(float("%.1e" % deviation)))
            decimals = place + 1 if place < self.decimals else place
        if decimals > MAX_DECIMALS:
            return "%.*f ± %.0e" % (self.decimals, mean, deviation)
        # round() also rounds to tens and hundreds, which the format does not.
        return " ± ".join(
            _unsigned_zero("%.*f" % (max(0, decimals), round(value, decimals)))
            for value in (mean, deviation)
        )


# A share of 1 in percent, as the paper prints accuracies: percent(0.9933) is "99.33".
percent = Fixed(2, factor=100)
# A metric with four decimals, as in the paper.
number = Fixed(4)
# A number of iterations.
whole = Fixed(0)


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: The title that a person reads; None if only programs get the column.
        name: The name that a program reads; None if only people get the column.
        text: A function from a value that is not None to its text.
        right: Whether the column has numbers: they are aligned right and never wrapped.
        importance: On a terminal that is too narrow, the columns of the least importance are left
            out first, and of equal ones the last. Columns of the importance KEY always stay.
        policy: Whether the column has policies, which are wrapped between their parameters.
        needed: Whether a terminal shows the column even if it has no values.
        choice: The name by which a user chooses the column, if it is not the name or the title.
    """

    title: str | None
    name: str | None
    text: Callable[[Any], str] = str
    right: bool = False
    importance: int = 50
    policy: bool = False
    needed: bool = False
    choice: str | None = None

    @property
    def key(self) -> str:
        """The name by which a user chooses the column; "" if it cannot be chosen."""
        return self.choice or self.name or re.sub(r"[^a-z]+", "", (self.title or "").lower())


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


def policy_columns(importance: int = KEY) -> tuple[Column, Column]:
    """Return the column of policies that people read, and the one that programs read.

    The first may have a note behind a policy. The second is its canonical text alone.
    """
    return Column("policy", None, importance=importance, policy=True), Column(None, "policy")


def cell(column: Column, value: object) -> str:
    """Return a value as a person reads it in a column.

    >>> cell(Column("Top-1 %", "top1", percent), Spread(0.98667, 0.00289, 3))
    '98.67 ± 0.29'
    >>> cell(Column("#Iter", "iterations", whole), Spread(433.3, 161.4, 3))
    '430 ± 160'
    """
    if isinstance(value, Spread):
        if isinstance(column.text, Fixed):
            return column.text.spread(value)
        mean = cell(column, value.mean)
        return mean if value.deviation is None else mean + " ± " + column.text(value.deviation)
    return "-" if value is None else _unsigned_zero(column.text(value))


def _unsigned_zero(text: str) -> str:
    return _NEGATIVE_ZERO.sub(r"\1", text)


def displayed(table: Table) -> tuple[list[Column], list[list[str]]]:
    """Return the columns of a table that a person reads, and the texts of its rows in them."""
    shown = [n for n, column in enumerate(table.columns) if column.title is not None]
    columns = [table.columns[n] for n in shown]
    return columns, [[cell(table.columns[n], row[n]) for n in shown] for row in table.rows]
