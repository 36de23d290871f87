"""The display of a single activity: how much of it is done, or that the program waits for it."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Callable, Optional

from lrbench_caffe.display.console import format_duration, plain_console, print_to
from lrbench_caffe.display.meter import (
    Meter,
    count_text,
    left_text,
    megabytes_text,
    meter_lines,
    share_of,
    speed_text,
)
from lrbench_caffe.display.screen import SCREEN, Drawing
from lrbench_caffe.display.speed import SpeedMeter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.text import Text

# Called with what is being done, how much of it is done, and how much there is (None: unknown).
ProgressCallback = Callable[[str, int, Optional[int]], None]

BYTES = ("downloading ", "importing ")  # the beginnings of activities that are counted in bytes
WAITING_DELAY = 1.0  # seconds that a user waits without a question


class ProgressDisplay(Drawing):
    """A bar on a terminal, with lines above it. Elsewhere only the lines are printed.

    It is a context manager, and it is called as a progress callback:

        with ProgressDisplay() as progress:
            progress("writing images", 100, 1000)
    """

    delay = 0.3  # a bar that is gone at once would only flicker

    def __init__(self) -> None:
        self._console = plain_console(stderr=True)
        self._meter = Meter("", None)
        self._speed_meter = SpeedMeter()
        self._began = time.monotonic()  # the activity

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """Move the bar.

        Args:
            what: What is being done. Texts that begin with one of :data:`BYTES` are counted in
                bytes.
            done: How much of it is done.
            total: How much there is to do; None if that is unknown.
        """
        if what != self._meter.what:
            self._speed_meter = SpeedMeter()
            self._began = time.monotonic()
        speed, seconds_left = self._speed_meter.update(done, total)
        in_bytes = what.startswith(BYTES)
        self._meter = Meter(
            what,
            share_of(done, total),
            amount=megabytes_text(done, total) if in_bytes else count_text(done, total),
            speed=speed_text(speed / 1e6, "MB") if in_bytes else speed_text(speed, ""),
            left=left_text(seconds_left),
        )

    def print_line(self, line: str, indent: int = 0) -> None:
        """Print a line above the bar, see :func:`lrbench_caffe.display.console.print_to`."""
        print_to(self._console, line, indent)

    def _lines(self, width: int, height: int) -> list[Text]:
        meter = self._meter
        if meter.share is None:  # how long it has taken shows that the program works
            meter = meter._replace(left=format_duration(time.monotonic() - self._began))
        return meter_lines([meter] if meter.what else [], width)


@contextlib.contextmanager
def waiting(activity: str) -> Iterator[None]:
    """Show on a terminal, within the block, that the program waits for something.

    Nothing is shown if it takes less than a second.

    Args:
        activity: What it waits for, such as "starting PostgreSQL".
    """
    began = time.monotonic()

    def lines(width: int, height: int) -> list[Text]:
        elapsed = format_duration(time.monotonic() - began)
        return meter_lines([Meter(activity + " ...", None, left=elapsed)], width)

    SCREEN.show(lines, WAITING_DELAY)
    try:
        yield
    finally:
        SCREEN.hide(lines)
