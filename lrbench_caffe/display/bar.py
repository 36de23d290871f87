"""The display of a count: a bar on a terminal, and lines above it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Optional

from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column
from rich.text import Text

from lrbench_caffe.display.console import plain_console
from lrbench_caffe.display.printable import printable

if TYPE_CHECKING:
    from types import TracebackType
    from typing import TypeVar

    Display = TypeVar("Display", bound="ProgressDisplay")

# Called with what is being done, how much of it is done, and how much there is (None: unknown).
ProgressCallback = Callable[[str, int, Optional[int]], None]


class ProgressDisplay:
    """A bar on a terminal, with lines above it. Elsewhere only the lines are printed.

    It is a context manager, and it is called as a progress callback:

        with ProgressDisplay() as progress:
            progress("writing images", 100, 1000)
    """

    def __init__(self) -> None:
        self._console = plain_console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=12),
            TextColumn(
                "{task.fields[status]}",
                markup=False,
                table_column=Column(ratio=1, no_wrap=True),
            ),
            expand=True,
            console=self._console,
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=None, status="")

    def __enter__(self: Display) -> Display:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._progress.stop()

    def __call__(self, what: str, done: int, total: int | None, status: str | None = None) -> None:
        """Move the bar.

        Args:
            what: What is being done.
            done: How much of it is done.
            total: How much there is to do; None if that is unknown.
            status: The text behind the bar; None for "done/total".
        """
        if status is None:
            status = "%d/%s" % (done, "?" if total is None else total)
        self._progress.update(
            self._task,
            description=printable(what),
            completed=done,
            total=total,
            status=printable(status),
        )

    def print_line(self, line: str) -> None:
        """Print a line above the bar."""
        self._console.print(Text(printable(line)), soft_wrap=True)
