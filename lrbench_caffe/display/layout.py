"""The layout of a table on a terminal: which columns have room, how wide they are, where they wrap.

Numbers are never cut. Texts are wrapped at spaces, policies between their parameters. Columns that
do not fit are left out, the least important ones first.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len, chop_cells

from lrbench_caffe.display.printable import printable
from lrbench_caffe.display.table import KEY, displayed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lrbench_caffe.display.table import Column, Table

BORDERS = 2  # characters beside a table
GAP, NARROW_GAP = 3, 2  # characters between two columns
LEGIBLE = 30  # width to which a text is wrapped before columns are left out for its sake
_EMPTY = ("", "-")  # the texts of a cell without a value
# Where a policy may be wrapped: at spaces, but neither within a list of numbers nor after the
# number in a note such as "(2 diverged)".
_POLICY_BREAK = re.compile(r" (?![^\[\]]*\])(?<!\(\d )(?<!\(\d\d )")

# Where a title may be wrapped: "Top-1 %" is one word, and so is "(2.29 epochs)".
_TITLE_BREAK = re.compile(r" (?!%)(?![^()]*\))")


class Layout(NamedTuple):
    """A table as it fits a terminal.

    Attributes:
        columns: The columns that are shown.
        titles: The lines of their titles.
        rows: For each row the lines of each cell.
        widths: The width of each column.
        gap: The number of characters between two columns.
        left_out: The columns without room.
        fits: Whether even the narrowest form of these columns fits. If not, the cells are not
            wrapped, and the rows have to be shown below one another.
    """

    columns: tuple[Column, ...]
    titles: tuple[tuple[str, ...], ...]
    rows: tuple[tuple[tuple[str, ...], ...], ...]
    widths: tuple[int, ...]
    gap: int
    left_out: tuple[Column, ...] = ()
    fits: bool = True


class _Widths(NamedTuple):
    """The widths that a column may have.

    Attributes:
        whole: That of the longest text.
        legible: One in which it is easy to read.
        least: The smallest one.
    """

    whole: int
    legible: int
    least: int


def unlimited(table: Table) -> Layout:
    """Return the layout of a table with a line for each row and all of its columns."""
    columns, rows = displayed(table)
    return _layout(columns, rows, [_widths(*entry).whole for entry in _by_column(columns, rows)])


def fitted(table: Table, width: int) -> Layout:
    """Return the layout of a table on a terminal.

    Columns without any value are left out first, without being counted as left out.

    Args:
        table: The table.
        width: The width of the terminal in characters.
    """
    columns, rows = _without_empty(*displayed(table))
    widths = [_widths(*entry) for entry in _by_column(columns, rows)]
    room = width - BORDERS
    for gap in (GAP, NARROW_GAP):
        if _total([column.whole for column in widths], gap) <= room:
            return _layout(columns, rows, [column.whole for column in widths], gap)
    kept = _kept(columns, [column.legible for column in widths], room)
    left_out = tuple(column for n, column in enumerate(columns) if n not in kept)
    columns = [columns[n] for n in kept]
    rows = [[row[n] for n in kept] for row in rows]
    widths = [widths[n] for n in kept]
    final = [column.legible for column in widths]
    if _total(final, NARROW_GAP) > room:
        final = [column.least for column in widths]
        final = _widened(columns, final, [column.legible for column in widths], room)
    if _total(final, NARROW_GAP) > room:
        whole = [column.whole for column in widths]
        return _layout(columns, rows, whole)._replace(left_out=left_out, fits=False)
    final = _widened(columns, final, [column.whole for column in widths], room)
    return _layout(columns, rows, final, NARROW_GAP)._replace(left_out=left_out)


def table_lines(layout: Layout) -> tuple[list[str], list[str]]:
    """Return the lines of a table: those of its titles, and those from the rule on."""
    rule = " " + "─" * _total(layout.widths, layout.gap)
    body = [line for row in layout.rows for line in _row_lines(row, layout)]
    return ["", *_row_lines(layout.titles, layout, bottom=True)], [rule, *body, ""]


def _row_lines(
    cells: Sequence[Sequence[str]], layout: Layout, bottom: bool = False
) -> Iterator[str]:
    """The lines of a row; its cells begin in the first line, or end in the last one."""
    height = max(map(len, cells), default=0)
    for n in range(height):
        texts = []
        for lines, column, width in zip(cells, layout.columns, layout.widths):
            place = n - (height - len(lines)) if bottom else n
            text = lines[place] if 0 <= place < len(lines) else ""
            padding = " " * (width - cell_len(text))
            texts.append(padding + text if column.right else text + padding)
        yield (" " + (" " * layout.gap).join(texts)).rstrip()


def wrapped(text: str, width: int, policy: bool = False) -> tuple[str, ...]:
    """Return a text as lines that are not wider than a width.

    A word, or a parameter of a policy, that is wider than a line is broken.

    >>> wrapped("SIN2(k0=0.005, k1=0.08, l=100)", 17, policy=True)
    ('SIN2(k0=0.005,', 'k1=0.08, l=100)')
    """
    if cell_len(text) <= width:
        return (text,)
    pieces = _POLICY_BREAK.split(text) if policy else text.split(" ")
    return _filled([part for piece in pieces for part in _parts(piece, width, policy)], width)


def _parts(piece: str, width: int, policy: bool) -> Sequence[str]:
    """A piece of a text in parts that are not wider than a width."""
    if cell_len(piece) <= width:
        return (piece,)
    return wrapped(piece, width) if policy else chop_cells(piece, width)


def _by_column(
    columns: Sequence[Column], rows: Sequence[Sequence[str]]
) -> list[tuple[Column, list[str]]]:
    """Each column with the texts of its cells."""
    return [(column, [row[n] for row in rows]) for n, column in enumerate(columns)]


def _without_empty(
    columns: list[Column], rows: list[list[str]]
) -> tuple[list[Column], list[list[str]]]:
    """The columns that have a value in any row, all of them if there are no rows."""
    kept = [
        n
        for n, (column, cells) in enumerate(_by_column(columns, rows))
        if not rows or column.needed or any(cell not in _EMPTY for cell in cells)
    ]
    return [columns[n] for n in kept], [[row[n] for n in kept] for row in rows]


def _widths(column: Column, cells: Sequence[str]) -> _Widths:
    title = printable(column.title or "")
    texts = [printable(cell) for cell in cells]
    whole = max(map(cell_len, [title, *texts]))
    title_word = max(map(cell_len, _title_words(column)))
    if column.right:
        least = max([title_word, *map(cell_len, texts)])
        return _Widths(whole, least, least)
    pieces = [cell_len(piece) for text in texts for piece in text.split(" ")]
    least = max(title_word, min(LEGIBLE, max(pieces, default=1)), 1)
    return _Widths(whole, max(least, min(whole, LEGIBLE)), least)


def _title_words(column: Column) -> list[str]:
    return _TITLE_BREAK.split(printable(column.title or ""))


def _filled(words: Sequence[str], width: int) -> tuple[str, ...]:
    """Words as lines of which none is wider than a width, if no word is."""
    lines = list(words[:1])
    for word in words[1:]:
        if cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return tuple(lines)


def _total(widths: Sequence[int], gap: int) -> int:
    return sum(widths) + gap * max(0, len(widths) - 1)


def _kept(columns: Sequence[Column], widths: Sequence[int], room: int) -> list[int]:
    """The positions of the columns that stay."""
    kept = list(range(len(columns)))
    while _total([widths[n] for n in kept], NARROW_GAP) > room:
        candidates = [n for n in kept if columns[n].importance < KEY]
        if not candidates:
            break
        kept.remove(min(candidates, key=lambda n: (columns[n].importance, -n)))
    return kept


def _widened(
    columns: Sequence[Column], widths: Sequence[int], wanted: Sequence[int], room: int
) -> list[int]:
    """Give columns the room that is left, the most important ones first."""
    widths = list(widths)
    spare = room - _total(widths, NARROW_GAP)
    for n in sorted(range(len(columns)), key=lambda n: -columns[n].importance):
        more = max(0, min(spare, wanted[n] - widths[n]))
        widths[n] += more
        spare -= more
    return widths


def _layout(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], widths: Sequence[int], gap: int = GAP
) -> Layout:
    def lines(text: str, n: int) -> tuple[str, ...]:
        return wrapped(printable(text), widths[n], columns[n].policy)

    return Layout(
        tuple(columns),
        tuple(_filled(_title_words(column), width) for column, width in zip(columns, widths)),
        tuple(tuple(lines(text, n) for n, text in enumerate(row)) for row in rows),
        tuple(widths),
        gap,
    )
