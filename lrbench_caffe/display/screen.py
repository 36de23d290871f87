"""The last lines of the terminal, which are drawn again and again while a command works.

All displays draw on the one :data:`SCREEN`, below each other. Whatever else the process prints
meanwhile appears above them. When the last display has ended, nothing of them is left. If standard
error is not a terminal, nothing is drawn.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from lrbench_caffe import interrupts
from lrbench_caffe.display.console import plain_console

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Callable, TypeVar

    from rich.console import Console
    from rich.text import Text

    D = TypeVar("D", bound="Drawing")
    # Called with the width and the height that it may use; returns lines that are not wider.
    Section = Callable[[int, int], list[Text]]

REFRESH_SECONDS = 0.2
_CLEAR_LINE, _CLEAR_BELOW = "\x1b[K", "\x1b[J"  # from the cursor on
# A line that is too long for a terminal that became narrower a moment ago is cut, not broken.
_CUT_LINES, _BREAK_LINES = "\x1b[?7l", "\x1b[?7h"
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


class _Line(NamedTuple):
    """A line on the terminal: its characters with their styles, and its width."""

    characters: str
    width: int


class Screen:
    """Draws sections of lines at the end of the terminal, and text above them.

    Its methods may be called from several threads. A section is called without a lock of the
    screen, so that it may wait for a thread that prints.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # held while the terminal is written to
        self._sections: dict[Section, float] = {}  # with the time from which each is drawn
        self._frame: list[_Line] = []  # what the terminal shows of the sections
        self._width = 0  # of the terminal when the frame was drawn
        self._terminal: _Terminal | None = None  # while there are sections
        self._ended = threading.Event()
        self._hides_cursor = True

    def show(self, section: Section, delay: float = 0.0) -> None:
        """Begin to draw a section.

        Args:
            section: Makes the lines.
            delay: The seconds until it is drawn first.
        """
        with self._lock:
            if self._terminal is None:
                self._terminal = _open_terminal(self)
            if self._terminal is None:
                return
            is_first = not self._sections
            self._sections[section] = time.monotonic() + delay
            if is_first:
                self._ended = threading.Event()
                arguments = (self._ended,)
                threading.Thread(target=self._refresh, args=arguments, daemon=True).start()
        self.draw()

    def hide(self, section: Section) -> None:
        """Stop to draw a section. The last one leaves the terminal as if it had not been drawn."""
        with self._lock:
            self._sections.pop(section, None)
            if self._sections or self._terminal is None:
                return
            self._ended.set()
            self._draw([])
            self._terminal.close()
            self._terminal = None

    def draw(self) -> None:
        """Draw the sections as they are now."""
        terminal = self._terminal
        if terminal is None:
            return
        width, height = terminal.size()
        now, room = time.monotonic(), height - 2
        lines: list[Text] = []
        for section, begins in list(self._sections.items()):
            if now >= begins:
                lines += section(width - 1, room - len(lines))[: max(0, room - len(lines))]
        frame = [_Line(terminal.rendered(line), line.cell_len) for line in lines]
        with self._lock:
            if terminal is self._terminal:
                self._draw(frame)

    def print_above(self, text: str, file: IO[str]) -> None:
        """Write whole lines to a file that is on the same terminal, above the sections."""
        with self._lock:
            frame = self._frame
            if self._terminal is not None and frame:
                self._terminal.write(_up(self._rows()) + _cleared(self._rows()))
                self._frame = []
            file.write(text)
            file.flush()
            if self._terminal is not None:
                self._draw(frame)

    def show_cursor(self) -> None:
        """Show the cursor from now on, because the process may be killed at any moment.

        This is for signal handlers: it does not wait for a thread that draws. If such a thread
        hides the cursor again, the next frame shows it.
        """
        self._hides_cursor = False
        terminal = self._terminal
        if terminal is not None:
            terminal.show_cursor()

    def _draw(self, frame: list[_Line]) -> None:
        """Write a frame over the last one. The cursor rests at the beginning of the line below."""
        assert self._terminal is not None
        if frame or self._frame:
            rows = self._rows()
            before, self._width = self._width, self._terminal.size()[0]
            # Written over lines that are broken, new ones would be joined in a wider terminal.
            clear = _CLEAR_BELOW if self._width != before else ""
            lines = [line.characters + _CLEAR_LINE + "\r\n" for line in frame]
            rest = _cleared(rows - len(frame))
            cursor = _HIDE_CURSOR if frame and self._hides_cursor else _SHOW_CURSOR
            parts = [_up(rows), clear, _CUT_LINES, *lines, rest, _BREAK_LINES, _CLEAR_LINE, cursor]
            self._terminal.write("".join(parts))
        self._frame = frame

    def _rows(self) -> int:
        """The rows of the frame; a terminal that became narrower since has broken its lines."""
        assert self._terminal is not None
        width, _ = self._terminal.size()
        return sum(max(1, -(-line.width // width)) for line in self._frame)

    def _refresh(self, ended: threading.Event) -> None:
        while not ended.wait(REFRESH_SECONDS):
            self.draw()


def _up(rows: int) -> str:
    """Commands that move the cursor to the beginning of a line above."""
    return "\r\x1b[%dA" % rows if rows > 0 else ""


def _cleared(rows: int) -> str:
    """Commands that clear rows from the cursor on, and move it back.

    They are cleared one by one: a terminal that is cleared as a whole may keep what it showed among
    the lines that have scrolled away.
    """
    return (_CLEAR_LINE + "\r\n") * rows + _up(rows)


class _Terminal:
    """The terminal of standard error, for as long as sections are drawn on it."""

    def __init__(self, console: Console, screen: Screen) -> None:
        self._console = console
        self._file = sys.stderr
        self._before = sys.stdout, sys.stderr
        # Standard output in a file or a pipe is not on the terminal.
        self._proxies: tuple[Any, ...] = tuple(
            _LinesAbove(file, screen) if file.isatty() else file for file in self._before
        )
        sys.stdout, sys.stderr = self._proxies

    def size(self) -> tuple[int, int]:
        width, height = self._console.size
        return max(2, width), height

    def rendered(self, line: Text) -> str:
        with self._console.capture() as capture:
            self._console.print(line, end="", soft_wrap=True)
        return capture.get()

    def write(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()

    def show_cursor(self) -> None:
        """Show the cursor without the file's buffer, which the thread of a handler may be using."""
        with contextlib.suppress(OSError):
            os.write(self._file.fileno(), _SHOW_CURSOR.encode())

    def close(self) -> None:
        for proxy, file in zip(self._proxies, self._before):
            if isinstance(proxy, _LinesAbove) and proxy.unfinished:
                file.write(proxy.unfinished)
        # Somebody else may have replaced them meanwhile.
        if sys.stdout is self._proxies[0]:
            sys.stdout = self._before[0]
        if sys.stderr is self._proxies[1]:
            sys.stderr = self._before[1]


def _open_terminal(screen: Screen) -> _Terminal | None:
    """The terminal of standard error, None if it is not a terminal or cannot move its cursor."""
    console = plain_console(stderr=True)
    if not sys.stderr.isatty() or not console.is_terminal or console.is_dumb_terminal:
        return None
    return _Terminal(console, screen)


class _LinesAbove:
    """A file whose lines are written above the sections of the screen.

    Attributes:
        unfinished: The beginning of a line that has not ended yet.
    """

    def __init__(self, file: Any, screen: Screen) -> None:
        self._file, self._screen = file, screen
        self._lock = threading.Lock()
        self.unfinished = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        with self._lock:
            lines, end, self.unfinished = (self.unfinished + text).rpartition("\n")
        if end:
            self._screen.print_above(lines + end, self._file)
        return len(text)

    def flush(self) -> None:
        """Do nothing: the screen flushes what it writes."""


SCREEN = Screen()
interrupts.call_before_kill(SCREEN.show_cursor)


class Drawing:
    """A context manager that draws its lines on the screen within its block.

    Attributes:
        delay: The seconds until they are drawn first.
    """

    delay = 0.0

    def __enter__(self: D) -> D:
        SCREEN.show(self._lines, self.delay)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        SCREEN.hide(self._lines)

    def _lines(self, width: int, height: int) -> list[Text]:
        """Make the lines, which are not wider than the width."""
        raise NotImplementedError
