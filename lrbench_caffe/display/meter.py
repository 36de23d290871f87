"""The look of progress: a row for each thing that moves, its numbers always at the same place."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len
from rich.text import Text

from lrbench_caffe.display.console import format_duration
from lrbench_caffe.display.printable import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

BAR_WIDTH = 12
MIN_WHAT, LEGIBLE_WHAT = 24, 36  # width of the first column: the least, and that of a policy
GAP = "  "
DONE, TO_DO = "━", "─"
DONE_STYLE, PALE_STYLE, BAD_STYLE = "cyan", "dim", "red"
# The columns behind the first, with the widths at which their usual contents do not move them.
_COLUMNS = {"bar": 0, "percent": 5, "amount": 0, "top1": 8, "curve": 0, "speed": 10, "left": 10}
# The columns that are left out where there is no room, in this order.
_LEFT_OUT = ("curve", "speed", "amount", "bar", "top1", "left")


class Meter(NamedTuple):
    """A row: what is done, and how much of it.

    Attributes:
        what: What is being done; it is shortened if it is too long.
        share: The share that is done, from 0 to 1; None if it is unknown.
        amount: What is done and all there is, such as "1,200/3,000".
        top1: The last Top-1.
        curve: A sketch of the values so far.
        speed: The speed with its unit.
        left: The time left, or how long it has taken if that is unknown.
        tail: The end of what, which is never shortened.
    """

    what: str
    share: float | None
    amount: str = ""
    top1: str = ""
    curve: str = ""
    speed: str = ""
    left: str = ""
    tail: str = ""


def count_text(done: float, total: float | None, unit: str = "") -> str:
    """Return how much is done of how much, at a width that stays the same.

    >>> count_text(120, 1000, "it"), count_text(3, None, "trials")
    ('  120/1,000 it', '3 trials')
    """
    behind = " " + unit if unit else ""
    if total is None:
        return "{:,.0f}{}".format(done, behind)
    text = "{:,.0f}".format(total)
    return "{:>{width},.0f}/{}{}".format(done, text, behind, width=len(text))


def megabytes_text(done: float, total: float | None) -> str:
    """Return how many bytes are done of how many.

    >>> megabytes_text(1.24e6, 9.9e6)
    '1.2/9.9 MB'
    """
    text = "%.1f" % (done / 1e6)
    return "%s MB" % text if total is None else "%s/%.1f MB" % (text, total / 1e6)


def speed_text(speed: float, unit: str) -> str:
    """Return a number per second with three digits.

    >>> speed_text(1234.5, "it"), speed_text(2.345, "it"), speed_text(0, "it")
    ('1,234 it/s', '2.34 it/s', '')
    """
    if not speed:
        return ""
    number = "{:,.0f}".format(speed) if speed >= 100 else "%.3g" % speed
    return "%s %s/s" % (number, unit)


def left_text(seconds: float | None) -> str:
    """Return the time left as a person reads it; empty if it is unknown."""
    return "" if seconds is None else format_duration(seconds) + " left"


def share_of(done: float, total: float | None) -> float | None:
    """Return the share that is done, None if the total is unknown."""
    return min(1.0, max(0.0, done / total)) if total else None


def meter_lines(meters: Sequence[Meter], width: int) -> list[Text]:
    """Return the lines of meters, their columns below each other.

    Args:
        meters: The rows.
        width: The largest width of a line.
    """
    longest = max((cell_len(printable(meter.what + meter.tail)) for meter in meters), default=0)
    cells = [_cells(meter) for meter in meters]
    widths = {
        name: max(least, *(row[name].cell_len for row in cells))
        for name, least in _COLUMNS.items()
        if any(row[name].cell_len for row in cells)
    }
    for name in _LEFT_OUT:
        if _room(widths, width) >= min(longest, LEGIBLE_WHAT):
            break
        widths.pop(name, None)
    what = max(1, min(_room(widths, width), max(longest, MIN_WHAT)))
    return [_line(meter, row, widths, what, width) for meter, row in zip(meters, cells)]


def course_line(text: str, curve: str, remark: str, width: int) -> Text:
    """Return a line below a meter: a number and the course that it took."""
    line = Text.assemble(printable(text), GAP, (curve, DONE_STYLE), GAP, (remark, PALE_STYLE))
    line.rstrip()
    line.truncate(width, overflow="ellipsis")
    return line


def plain_line(text: str, width: int, style: str = "") -> Text:
    """Return a line of text beside meters, shortened to a width."""
    line = Text(printable(text), style=style)
    line.truncate(width, overflow="ellipsis")
    return line


def _room(widths: dict[str, int], width: int) -> int:
    """The width that the columns leave for the first one."""
    return width - sum(len(GAP) + column for column in widths.values())


def _cells(meter: Meter) -> dict[str, Text]:
    percent = "" if meter.share is None else "%d %%" % (100 * meter.share)
    return {
        "bar": _bar(meter.share),
        "percent": Text(percent),
        "amount": Text(meter.amount),
        "top1": Text(meter.top1),
        "curve": Text(meter.curve, style=DONE_STYLE),
        "speed": Text(meter.speed, style=PALE_STYLE),
        "left": Text(meter.left),
    }


def _bar(share: float | None) -> Text:
    if share is None:
        return Text("")  # an empty bar would look like nothing done
    done = int(BAR_WIDTH * share)
    return Text.assemble((DONE * done, DONE_STYLE), (TO_DO * (BAR_WIDTH - done), PALE_STYLE))


def _line(
    meter: Meter, cells: dict[str, Text], widths: dict[str, int], what: int, width: int
) -> Text:
    line = plain_line(meter.what, max(1, what - cell_len(printable(meter.tail))))
    line.append(printable(meter.tail))
    line.pad_right(max(0, what - line.cell_len))
    for name, column in widths.items():
        padding = " " * (column - cells[name].cell_len)
        line.append(GAP)
        line.append_text(
            cells[name] + Text(padding) if name == "curve" else Text(padding) + cells[name]
        )
    line.rstrip()
    line.truncate(width, overflow="ellipsis")
    return line
