"""What a user wants to see of a table: its columns, the order of its rows, and how many."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, NamedTuple, Optional, Tuple

from lrbench_caffe.display.table import KEY, Column, Table
from lrbench_caffe.errors import InputError, suggestion
from lrbench_caffe.ranking import Spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PROGRAM_FORMATS = ("csv", "json")


class View(NamedTuple):
    """What to show of a table.

    Attributes:
        columns: The names of the columns in their order; none for all.
        sort: The name of the column to sort by, with "-" before it for the largest value first.
            None: the order that the table has.
        limit: The number of rows; None for all.
    """

    columns: Tuple[str, ...] = ()
    sort: Optional[str] = None
    limit: Optional[int] = None


ALL = View()


def view(tables: Sequence[Table], wanted: View, format: str) -> list[Table]:
    """Return tables with the columns and rows of a view.

    Args:
        tables: Tables with the same columns.
        wanted: The view, applied to each table.
        format: One of :data:`lrbench_caffe.display.formats.FORMATS`. People and programs may get
            different columns of one name, such as a policy with and without a note.

    Raises:
        InputError: A table does not have a column of this name.
    """
    viewed = [_sorted(table, wanted.sort) if wanted.sort else table for table in tables]
    if wanted.limit is not None:
        viewed = [table._replace(rows=table.rows[: wanted.limit]) for table in viewed]
    if wanted.columns:
        viewed = [_with_columns(table, wanted.columns, format) for table in viewed]
    return viewed


def hidden_rows(tables: Iterable[Table], limit: int | None) -> int:
    """Return how many rows of these tables a limit hides."""
    return 0 if limit is None else sum(max(0, len(table.rows) - limit) for table in tables)


def _sorted(table: Table, sort: str) -> Table:
    name, descending = (sort[1:], True) if sort.startswith("-") else (sort, False)
    position = _position(table, "--sort", name, programs=True)
    known = [row for row in table.rows if _sort_value(row[position]) is not None]
    unknown = tuple(row for row in table.rows if _sort_value(row[position]) is None)
    known.sort(key=lambda row: _sort_key(row[position]), reverse=descending)
    return table._replace(rows=(*known, *unknown))


def _sort_value(value: object) -> object:
    return value.mean if isinstance(value, Spread) else value


def _sort_key(value: object) -> tuple[float, str]:
    """A key by which numbers and times come in their order, and texts behind them in theirs."""
    value = _sort_value(value)
    if isinstance(value, (int, float)):
        return float(value), ""
    if isinstance(value, datetime.datetime):
        return value.timestamp(), ""
    return float("inf"), str(value)


def _with_columns(table: Table, names: Sequence[str], format: str) -> Table:
    programs = format in PROGRAM_FORMATS
    positions = [_position(table, "--columns", name, programs) for name in names]
    columns = tuple(
        _chosen(table.columns[position], name) for position, name in zip(positions, names)
    )
    rows = tuple(tuple(row[position] for position in positions) for row in table.rows)
    return Table(table.title, columns, rows)


def _chosen(column: Column, name: str) -> Column:
    """A column that was asked for: it is shown in all formats and never left out."""
    return column._replace(
        title=name if column.title is None else column.title,
        name=column.name or name,
        importance=KEY,
        needed=True,
    )


def _position(table: Table, option: str, name: str, programs: bool) -> int:
    """The position of the column with a name; of two columns, that for programs or for people."""
    positions = [n for n, column in enumerate(table.columns) if column.key == name]
    if not positions:
        names = list(dict.fromkeys(column.key for column in table.columns if column.key))
        raise InputError("%s: unknown column %r%s" % (option, name[:60], suggestion(name, names)))
    for n in positions:
        column = table.columns[n]
        if (column.name if programs else column.title) is not None:
            return n
    return positions[0]
