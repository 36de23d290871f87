"""The layout of a table that is wider than the terminal: parts that repeat its first columns."""

from __future__ import annotations

from lrbench_caffe.display.table import Column, Table, displayed

LEGIBLE = 30  # characters of a text column to which it may be folded
BORDERS = 2  # characters beside a table


def parts(table: Table, width: int, gap: int) -> list[Table]:
    """Return the columns of a table that people read, as one or more tables that fit a width.

    Each part begins with the columns up to "policy", or else with the first column, so that its
    rows can be identified. Only the first part has the title. Numbers are never cut.

    Args:
        table: The table.
        width: The width of the terminal in characters.
        gap: The number of characters between two columns.
    """
    columns, rows = displayed(table)
    if not columns:
        return [table]
    texts = [[column.title or "", *(row[n] for row in rows)] for n, column in enumerate(columns)]
    widths = [_needed_width(column, max(map(len, cells))) for column, cells in zip(columns, texts)]
    titles = [column.title for column in columns]
    n_keys = titles.index("policy") + 1 if "policy" in titles else 1
    keys = list(range(n_keys))
    room = width - BORDERS - sum(widths[n] + gap for n in keys) + gap
    groups: list[list[int]] = [[]]
    used = 0
    for n in range(n_keys, len(columns)):
        if groups[-1] and used + gap + widths[n] > room:
            groups.append([])
            used = 0
        groups[-1].append(n)
        used += gap + widths[n]
    return [
        Table(
            None if number else table.title,
            tuple(columns[n]._replace(name=None, text=str) for n in keys + group),
            tuple(tuple(row[n] for n in keys + group) for row in rows),
        )
        for number, group in enumerate(groups)
    ]


def _needed_width(column: Column, width: int) -> int:
    """The smallest width in which a column is legible; numbers are not folded."""
    return width if column.right else min(width, LEGIBLE)
