"""The display of a study: how far it is, the trainings that run, and a line for each that ended."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.cells import cell_len

from lrbench_caffe.display.console import plain_console, print_to
from lrbench_caffe.display.meter import (
    BAD_STYLE,
    PALE_STYLE,
    Meter,
    count_text,
    left_text,
    meter_lines,
    plain_line,
    share_of,
    speed_text,
)
from lrbench_caffe.display.printable import printable
from lrbench_caffe.display.screen import SCREEN
from lrbench_caffe.display.sketch import sketch
from lrbench_caffe.display.speed import SpeedMeter
from lrbench_caffe.display.table import percent
from lrbench_caffe.trial import FAILED, INTERRUPTED, RUNNING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import TypeVar

    from rich.text import Text

    from lrbench_caffe.trial import Evaluation, Job, Trial

    Display = TypeVar("Display", bound="StudyDisplay")

LINE_SECONDS = 60  # between two status lines where the output is not a terminal
POLICY, MIN_POLICY = 48, 12  # width of the column of policies, and on a narrow terminal
INDENT = 4  # of the second line of a text that is wider than the terminal
CURVE_WIDTH = 12  # characters of a sketch


class Counts(NamedTuple):
    """The trainings of a study by their state: together they are all of them.

    Attributes:
        done: Those that ended and need nothing else; some may have diverged or been pruned.
        failed: Those that failed or could not begin.
        interrupted: Those that a stop has ended, and that can be resumed.
        running: Those that run.
        waiting: Those that have not begun yet.
    """

    done: int
    failed: int
    interrupted: int
    running: int
    waiting: int


class StudyDisplay:
    """Shows the trainings of a study.

    On a terminal it draws the status of the study and a row for each running training. Elsewhere it
    prints the status once a minute. In both cases it prints a line for each training that ended.
    The methods may be called from several threads.
    """

    def __init__(self) -> None:
        self._console = plain_console(stderr=True)
        self._lock = threading.Lock()  # never held while something is printed
        self._states: dict[
            str | None, str
        ] = {}  # of the trainings that have begun, by the job's id
        self._jobs = 0
        self._policy_width = POLICY  # of the longest one
        self._running: dict[str | None, _Training] = {}  # by the job's id
        self._notes: set[str] = set()
        self._iterations = 0  # of all trainings, since the display began
        self._lengths: dict[str | None, int] = {}  # of the trainings that have begun
        self._length = 0  # of the training that began last; the next ones are expected to have it
        self._best: tuple[float, Trial] | None = None  # highest Top-1
        self._started = self._last_line = time.monotonic()

    def __enter__(self: Display) -> Display:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._hide()

    def _show(self) -> None:
        SCREEN.show(self._lines)

    def _hide(self) -> None:
        SCREEN.hide(self._lines)

    def begin(self, jobs: Sequence[Job]) -> None:
        """Begin to show the training of these jobs."""
        self._jobs, self._started = len(jobs), time.monotonic()
        policies = (cell_len(printable(job.policy or "")) for job in jobs)
        self._policy_width = max([POLICY, *policies])
        self._show()

    def note(self, sentence: str) -> None:
        """Print a sentence above the picture, unless it was printed before."""
        with self._lock:
            new = sentence not in self._notes
            self._notes.add(sentence)
        if new:
            self._print("note: " + sentence)

    def on_event(self, job: Job, kind: str, content: Any) -> None:
        """Show an event of a training: see :meth:`lrbench_caffe.study.cores.Cores.run`."""
        line = sentence = None
        with self._lock:
            if kind == "begin":
                self._states[job.id] = RUNNING
                self._running[job.id] = _Training(content)
                self._lengths[job.id] = self._length = content.length
            elif kind == "progress" and job.id in self._running:
                line = self._add_progress(self._running[job.id], content)
            elif kind == "row" and job.id in self._running:
                self._add_row(self._running[job.id], content)
            elif kind == "end":
                line = self._add_end(job, content)
            elif kind == "problem" and self._states.get(job.id, RUNNING) == RUNNING:
                self._running.pop(job.id, None)
                self._states[job.id] = FAILED
                sentence = content
            elif kind == "note":
                sentence = content
        if line:
            self._print(line)
        if sentence:
            self.note(sentence)

    def counts(self) -> Counts:
        """Return how many trainings are in each state."""
        with self._lock:
            return self._counts()

    def _counts(self) -> Counts:
        states = list(self._states.values())
        failed, interrupted, running = map(states.count, (FAILED, INTERRUPTED, RUNNING))
        return Counts(
            done=len(states) - failed - interrupted - running,
            failed=failed,
            interrupted=interrupted,
            running=running,
            waiting=self._jobs - len(states),
        )

    def _add_progress(self, training: _Training, progress: Mapping[str, Any]) -> str | None:
        """Add a progress event. Return the status line when it is due."""
        self._iterations += training.add_progress(progress["iteration"], progress["max_iter"])
        due = time.monotonic() > self._last_line + LINE_SECONDS
        return self._status_line() if due and not self._console.is_terminal else None

    def _add_row(self, training: _Training, row: Evaluation) -> None:
        """Add a row."""
        training.add_top1(row.top1)
        if row.top1 is not None and (self._best is None or row.top1 > self._best[0]):
            self._best = row.top1, training.trial

    def _add_end(self, job: Job, trial: Trial) -> str:
        """Add the end of a training. Return the line about it."""
        self._running.pop(job.id, None)
        self._states[job.id] = trial.state
        best = trial.deciding_summary
        counts = self._counts()
        ended = self._jobs - counts.running - counts.waiting
        beginning = "%*d/%d  " % (len(str(self._jobs)), ended, self._jobs)
        return "%s%s seed %d  %s%s%s" % (
            beginning,
            self._policy_cell(trial, len(beginning)),
            trial.setup.seed,
            trial.state,
            "  Top-1 %s %%" % percent(best.top1) if best else "",
            ": " + trial.error if trial.error else "",
        )

    def _policy_cell(self, trial: Trial, used: int) -> str:
        """The policy of a training that ended, in a column that leaves room for its Top-1.

        Args:
            trial: The trial.
            used: The number of characters before the column.
        """
        self._policy_width = max(self._policy_width, cell_len(printable(trial.policy)))
        width = self._policy_width
        if self._console.is_terminal:
            longest_rest = " seed %d  %s  Top-1 99.99 %%" % (trial.setup.seed, INTERRUPTED)
            width = min(width, max(MIN_POLICY, self._console.width - used - len(longest_rest)))
        cell = plain_line(trial.policy, width)
        cell.pad_right(width - cell.cell_len)
        return cell.plain

    def _print(self, line: str) -> None:
        self._last_line = time.monotonic()
        print_to(self._console, line, INDENT)

    def _status_line(self) -> str:
        """The status of the study where the output is not a terminal."""
        speed, left = self._speed()
        parts = [counts_text(self._counts()), speed_text(speed, "it"), left_text(left)]
        return "%s; %s" % (", ".join(filter(None, parts)), self._best_text())

    def _best_text(self) -> str:
        if self._best is None:
            return "nothing measured yet"
        top1, trial = self._best
        text = "best so far: Top-1 %s %%, %s, seed %d"
        return text % (percent(top1), trial.policy, trial.setup.seed)

    def _speed(self) -> tuple[float, float | None]:
        """The iterations per second of all trainings, and the seconds left."""
        speed = self._iterations / max(time.monotonic() - self._started, 1e-9)
        left = self._iterations_left()
        return speed, left / speed if speed and left else None

    def _iterations_left(self) -> int:
        """The iterations to go."""
        running = sum(training.iterations_left for training in self._running.values())
        return self._iterations_waiting() + running

    def _iterations_waiting(self) -> int:
        """The iterations of the trainings that wait, expected to be as long as the last one."""
        return self._counts().waiting * self._length

    def _lines(self, width: int, height: int) -> list[Text]:
        """The status of the study, and as many running trainings as have room."""
        with self._lock:
            return self._picture(width, height, [self._meter()], [self._best_text()])

    def _picture(
        self, width: int, height: int, meters: list[Meter], sentences: list[str]
    ) -> list[Text]:
        """The lines of the study, with the meters and sentences about the whole of it."""
        counts = self._counts()
        running = list(self._running.values())
        room = max(1, height - len(meters) - len(sentences) - 1)
        shown = running if len(running) <= room else running[: room - 1]
        rows = meter_lines([*meters, *(training.meter() for training in shown)], width)
        style = BAD_STYLE if counts.failed else ""
        lines = rows[: len(meters)] + [plain_line(sentence, width) for sentence in sentences]
        lines += [plain_line(counts_text(counts), width, style), *rows[len(meters) :]]
        if len(shown) < len(running):
            more = "  and %d more that run" % (len(running) - len(shown))
            lines.append(plain_line(more, width, PALE_STYLE))
        return lines

    def _meter(self) -> Meter:
        """How far the study is."""
        total = sum(self._lengths.values()) + self._iterations_waiting()
        done = max(0, total - self._iterations_left())
        speed, left = self._speed()
        return Meter(
            "all trainings",
            share_of(done, total) or 0.0,  # their length is unknown before the first begins
            amount=count_text(done, total) if total else "",
            speed=speed_text(speed, "it"),
            left=left_text(left),
        )


class _Training:
    """A running training."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.iteration, self.max_iter = trial.resumed_at or 0, trial.length
        self._top1: list[float] = []  # of its evaluations
        self._speed_meter, self._speed = SpeedMeter(), 0.0
        self._seconds_left: float | None = None

    @property
    def iterations_left(self) -> int:
        """The iterations to go."""
        return max(0, self.max_iter - self.iteration)

    def add_progress(self, iteration: int, max_iter: int) -> int:
        """Add a progress event. Return the number of new iterations."""
        new = max(0, iteration - self.iteration)
        self.iteration, self.max_iter = iteration, max_iter
        self._speed, self._seconds_left = self._speed_meter.update(iteration, max_iter)
        return new

    def add_top1(self, top1: float | None) -> None:
        """Add the Top-1 of an evaluation."""
        if top1 is not None:
            self._top1.append(top1)

    def meter(self) -> Meter:
        """How far the training is."""
        return Meter(
            "  " + self.trial.policy,
            share_of(self.iteration, self.max_iter) or 0.0,
            amount=count_text(self.iteration, self.max_iter) if self.max_iter else "",
            top1=percent(self._top1[-1]) + " %" if self._top1 else "-",
            curve=sketch(self._top1, CURVE_WIDTH).ljust(CURVE_WIDTH),
            speed=speed_text(self._speed, "it"),
            left=left_text(self._seconds_left),
            tail="  seed %d" % self.trial.setup.seed,
        )


def counts_text(counts: Counts) -> str:
    """Return the numbers of trainings by their state, and how many they are together.

    >>> counts_text(Counts(done=3, failed=0, interrupted=0, running=2, waiting=8))
    '3 done, 2 running, 8 waiting of 13 trainings'
    """
    parts = ["%d %s" % pair for pair in zip(counts, Counts._fields) if pair[0]]
    return "%s of %d trainings" % (", ".join(parts) or "0 done", sum(counts))
