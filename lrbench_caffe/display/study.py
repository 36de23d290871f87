"""The display of a study: how far it is, the trainings that run, and a line for each that ended."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lrbench_caffe.display.console import format_duration, plain_console
from lrbench_caffe.display.printable import printable
from lrbench_caffe.display.speed import SpeedMeter
from lrbench_caffe.display.table import percent
from lrbench_caffe.trial import FAILED, INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from lrbench_caffe.trial import Evaluation, Job, Trial

LINE_SECONDS = 60  # between two status lines where the output is not a terminal
FIXED_LINES = 5  # of the picture, beside the lines of the running trainings


class StudyDisplay:
    """Shows the trainings of a study.

    On a terminal it draws a picture: the status of the study and a line for each running training.
    Elsewhere it prints the status once a minute. In both cases it prints a line for each training
    that ended. The methods may be called from several threads.
    """

    def __init__(self) -> None:
        self._console = plain_console(stderr=True)
        # Never held while printing: rich holds its own lock while it draws the picture, and the
        # picture takes this one.
        self._lock = threading.Lock()
        self._jobs = 0
        self._running: dict[str | None, _Training] = {}  # by the job's id
        self._ended: dict[str | None, str] = {}  # states by the job's id
        self._notes: set[str] = set()
        self._iterations = 0  # of all trainings, since the display began
        self._max_iter = 0  # of the training that reported last
        self._best: tuple[float, Trial] | None = None  # highest Top-1
        self._started = self._last_line = time.monotonic()
        self._live = Live(
            console=self._console,
            get_renderable=self._picture,
            refresh_per_second=4,
            transient=True,
        )

    def __enter__(self) -> StudyDisplay:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def begin(self, jobs: Sequence[Job]) -> None:
        """Begin to show the training of these jobs."""
        self._jobs, self._started = len(jobs), time.monotonic()
        if self._console.is_terminal:
            self._live.start()

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
                self._running[job.id] = _Training(content)
            elif kind == "progress":
                line = self._add_progress(self._running[job.id], content)
            elif kind == "row":
                self._add_row(self._running[job.id], content)
            elif kind == "end":
                self._running.pop(job.id, None)
                line = self._add_end(job, content)
            elif kind == "problem" and job.id not in self._ended:
                self._ended[job.id] = FAILED
                sentence = content
            elif kind == "note":
                sentence = content
        if line:
            self._print(line)
        if sentence:
            self.note(sentence)

    def _add_progress(self, training: _Training, progress: Mapping[str, Any]) -> str | None:
        """Add a progress event. Return the status line when it is due."""
        self._iterations += training.add_progress(progress["iteration"], progress["max_iter"])
        self._max_iter = training.max_iter
        due = time.monotonic() > self._last_line + LINE_SECONDS
        return "%s; %s" % self._status() if due and not self._console.is_terminal else None

    def _add_row(self, training: _Training, row: Evaluation) -> None:
        training.top1 = row.top1
        if row.top1 is not None and (self._best is None or row.top1 > self._best[0]):
            self._best = row.top1, training.trial

    def _add_end(self, job: Job, trial: Trial) -> str:
        """Add the end of a training. Return the line about it."""
        self._ended[job.id] = trial.state
        best = trial.deciding_summary
        return "%*d/%d  %-48s seed %d  %s%s%s" % (
            len(str(self._jobs)),
            len(self._ended),
            self._jobs,
            trial.policy,
            trial.setup.seed,
            trial.state,
            "  Top-1 %s %%" % percent(best.top1) if best else "",
            ": " + trial.error if trial.error else "",
        )

    def _print(self, line: str) -> None:
        self._last_line = time.monotonic()
        self._console.print(Text(printable(line)), soft_wrap=True)

    def _status(self) -> tuple[str, str]:
        """The status of the study: its trainings, and the best result."""
        states = list(self._ended.values())
        failed, interrupted = states.count(FAILED), states.count(INTERRUPTED)
        speed = self._iterations / max(time.monotonic() - self._started, 1e-9)
        left = self._iterations_left()
        trainings = "%d of %d trained%s%s, %d running, %.4g it/s%s" % (
            len(states) - interrupted,
            self._jobs,
            " (%d failed)" % failed if failed else "",
            ", %d interrupted" % interrupted if interrupted else "",
            len(self._running),
            speed,
            ", %s left" % format_duration(left / speed) if speed and left else "",
        )
        if self._best is None:
            return trainings, "nothing measured yet"
        top1, trial = self._best
        best = "best so far: Top-1 %s %%, %s, seed %d"
        return trainings, best % (percent(top1), trial.policy, trial.setup.seed)

    def _iterations_left(self) -> int:
        """The iterations to go; a waiting training is expected to be as long as the last one."""
        waiting = self._jobs - len(self._ended) - len(self._running)
        running = sum(training.iterations_left for training in self._running.values())
        return waiting * self._max_iter + running

    def _picture(self) -> Group:
        """The picture: the status, a bar, and as many running trainings as have room."""
        with self._lock:
            room = max(1, self._console.height - FIXED_LINES)
            running = list(self._running.values())
            table = Table(box=None, show_header=False, pad_edge=False, expand=True)
            table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
            table.add_column(justify="right", no_wrap=True)
            for training in running[:room]:
                trial = training.trial
                table.add_row(
                    Text(printable("  %s  seed %d" % (trial.policy, trial.setup.seed))),
                    training.status(),
                )
            if len(running) > room:
                table.add_row(Text("  and %d more" % (len(running) - room)), "")
            trainings, best = (
                Text(printable(line), no_wrap=True, overflow="ellipsis") for line in self._status()
            )
            total = self._jobs * self._max_iter
            done = max(0, total - self._iterations_left())
            bar = ProgressBar(total=total or 1, completed=done)
            return Group(trainings, best, Padding(bar, 0), table)  # padding: a line of its own


class _Training:
    """A running training."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.top1: float | None = None  # of its last evaluation
        self.iteration, self.max_iter = trial.resumed_at or 0, 0
        self._speed_meter, self._speed = SpeedMeter(), 0.0
        self._seconds_left: float | None = None

    @property
    def iterations_left(self) -> int:
        """The iterations to go; 0 until the first progress event."""
        return max(0, self.max_iter - self.iteration)

    def add_progress(self, iteration: int, max_iter: int) -> int:
        """Add a progress event. Return the number of new iterations."""
        new = max(0, iteration - self.iteration)
        self.iteration, self.max_iter = iteration, max_iter
        self._speed, self._seconds_left = self._speed_meter.update(iteration, max_iter)
        return new

    def status(self) -> str:
        """How far the training is."""
        return "%d/%d  %.4g it/s  %s%s" % (
            self.iteration,
            self.max_iter,
            self._speed,
            "" if self.top1 is None else "Top-1 %s %%  " % percent(self.top1),
            "%s left" % format_duration(self._seconds_left) if self._seconds_left else "",
        )
