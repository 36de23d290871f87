"""What a person watches while trainings run: one of them, or hundreds; plain lines where the output is no terminal."""

import threading
import time

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from lrbench_caffe.display.console import format_duration, print_tables
from lrbench_caffe.display.tables import number, percent, results
from lrbench_caffe.trial import FAILED, INTERRUPTED

LINE_SECONDS = 60  # between two lines on how far a study is, where the output is no terminal


class ProgressDisplay:
    """A bar on a terminal, and lines above it; elsewhere only the lines.  Called with (what, done, total) of what is counted.

    total is None where nobody knows; now is what else there is to tell.
    """

    def __init__(self):
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[now]}", table_column=Column(ratio=1, no_wrap=True)),
            expand=True,
            console=self._console,
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=None, now="")

    def __enter__(self):
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *error):
        if self._console.is_terminal:
            self._progress.stop()

    def __call__(self, what, done, total, now=None):
        counted = "%d/%s" % (done, "?" if total is None else total)
        self._progress.update(
            self._task,
            description=what,
            completed=done,
            total=total,
            now=counted if now is None else now,
        )

    def print_line(self, line):
        """A line above the bar."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class TrainingDisplay(ProgressDisplay):
    """What a person sees of one training: a line for each evaluation and, on a terminal, a bar that moves between them."""

    def __init__(self, format="table"):
        """format: that of the results table."""
        super().__init__()
        self._format = format
        self._rates = Rate()
        self._last = self._best = self._trial = None

    def __exit__(self, *error):
        super().__exit__(*error)
        if self._trial is not None:
            print_tables(results([self._trial]), format=self._format)

    def on_event(self, kind, content):
        """One event of :func:`lrbench_caffe.study.process.run`; the results table of a trial that ends is shown on leaving."""
        if kind == "note":
            self.print_line("note: " + content)
        elif kind == "begin":
            setup = content.setup
            self.print_line(
                "%s on %s, seed %d, under %s (trial %s)"
                % (setup.network.name, setup.dataset.name, setup.seed, content.policy, content.id)
            )
        elif kind == "progress":
            self._show(content)
        elif kind == "row":
            self._row(content)
        elif kind == "end":
            self._trial = content

    def _show(self, at):
        speed, left = self._rates.at(at["iteration"], at["max_iter"])
        top1 = (
            "  Top-1 %s %%, best %s %%" % (percent(self._last.top1), percent(self._best.top1))
            if self._last
            else ""
        )
        now = "%d/%d%s  %.4g it/s%s  lr %.4g  loss %.4g" % (
            at["iteration"],
            at["max_iter"],
            "  %s left" % format_duration(left) if left else "",
            speed,
            top1,
            at["lr"],
            at["loss"],
        )
        self("training", at["iteration"], at["max_iter"], now)

    def _row(self, row):
        self._last = row
        if self._best is None or row.top1 > self._best.top1:
            self._best = row
        self.print_line(
            "%6d: lr %-8.4g loss %s train, %.4f test  Top-1 %s %%, best %s %%"
            % (
                row.iteration,
                row.lr,
                number(row.train_loss).rjust(6),
                row.test_loss,
                percent(row.top1),
                percent(self._best.top1),
            )
        )


class StudyDisplay:
    """What a person sees of 2 or 200 trainings: how far all are, each that runs, and a line for each as it ends."""

    def __init__(self):
        self._console = Console(stderr=True)
        self._lock = threading.Lock()  # never held while printing: rich draws the picture, which takes it, under a lock of its own
        self._jobs, self._running, self._ended, self._told = 0, {}, {}, set()
        self._trained = self._max_iter = (
            0  # iterations of all that ran here; of the last that said how many it has
        )
        self._best = None
        self._started = self._spoke = time.monotonic()
        self._live = Live(
            console=self._console,
            get_renderable=self._picture,
            refresh_per_second=4,
            transient=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._live.stop()

    def begin(self, jobs):
        """These Jobs are about to be trained."""
        self._jobs, self._started = len(jobs), time.monotonic()
        if self._console.is_terminal:
            self._live.start()

    def note(self, sentence):
        """A sentence above what moves; what was said before is not said again."""
        with self._lock:
            new = sentence not in self._told
            self._told.add(sentence)
        if new:
            self._print("note: " + sentence)

    def on_event(self, job, kind, content):
        """One event of a training, as :meth:`lrbench_caffe.study.cores.Cores.run` tells it."""
        line = sentence = None
        with self._lock:
            if kind == "begin":
                self._running[job.id] = _Training(content)
            elif kind == "progress":
                line = self._progress(self._running[job.id], content)
            elif kind == "row":
                self._row(self._running[job.id], content)
            elif kind == "end":
                self._running.pop(job.id, None)
                line = self._end(job, content)
            elif kind == "problem" and job.id not in self._ended:
                self._ended[job.id] = FAILED
                sentence = content
            elif kind == "note":
                sentence = content
        if line:
            self._print(line)
        if sentence:
            self.note(sentence)

    def _progress(self, training, at):
        """Take in a progress event; returns a line where it is time for one."""
        self._trained += training.progress(at)
        self._max_iter = training.max_iter
        if not self._console.is_terminal and time.monotonic() > self._spoke + LINE_SECONDS:
            return "%s; %s" % self._lines()
        return None

    def _row(self, training, row):
        training.last, training.best = row.top1, max(row.top1, training.best or 0.0)
        if self._best is None or row.top1 > self._best[0]:
            self._best = row.top1, training.trial.policy, training.trial.setup.seed

    def _end(self, job, trial):
        """Take in the end of a training; returns the line about it."""
        self._ended[job.id] = trial.state
        return "%*d/%d  %-48s seed %d  %s%s%s" % (
            len(str(self._jobs)),
            len(self._ended),
            self._jobs,
            trial.policy,
            trial.setup.seed,
            trial.state,
            "  Top-1 %s %%" % percent(trial.best.top1) if trial.best else "",
            ": " + trial.error if trial.error else "",
        )

    def _print(self, line):
        self._spoke = time.monotonic()
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _lines(self):
        """How far the study is, in two parts: the trainings, and the best so far."""
        states = list(self._ended.values())
        failed, cut = states.count(FAILED), states.count(INTERRUPTED)
        speed, left = self._trained / max(time.monotonic() - self._started, 1e-9), self._left()
        trainings = "%d of %d trained%s%s, %d running, %.4g it/s%s" % (
            len(states) - cut,
            self._jobs,
            " (%d failed)" % failed if failed else "",
            ", %d interrupted" % cut if cut else "",
            len(self._running),
            speed,
            ", %s left" % format_duration(left / speed) if speed and left else "",
        )
        if self._best is None:
            return trainings, "nothing measured yet"
        return trainings, "best so far: Top-1 %s %%, %s, seed %d" % (
            (percent(self._best[0]),) + self._best[1:]
        )

    def _left(self):
        """The iterations to go; a training that has not begun will have as many as the others, as far as is known."""
        waiting = self._jobs - len(self._ended) - len(self._running)
        return waiting * self._max_iter + sum(training.left for training in self._running.values())

    def _picture(self):
        """What moves on a terminal: as many trainings as have room."""
        with self._lock:
            room = max(1, self._console.height - 5)
            running = list(self._running.values())
            table = Table(box=None, show_header=False, pad_edge=False, expand=True)
            table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
            table.add_column(justify="right", no_wrap=True)
            for training in running[:room]:
                table.add_row(
                    Text("  %s  seed %d" % (training.trial.policy, training.trial.setup.seed)),
                    training.now(),
                )
            if len(running) > room:
                table.add_row(Text("  and %d more" % (len(running) - room)), "")
            whole = self._jobs * self._max_iter
            trainings, best = (
                Text(line, no_wrap=True, overflow="ellipsis") for line in self._lines()
            )
            bar = Padding(
                ProgressBar(total=whole or 1, completed=max(0, whole - self._left())), 0
            )  # on a line of its own
            return Group(trainings, best, bar, table)


class _Training:
    """One that runs, as a line of the display."""

    def __init__(self, trial):
        self.trial, self.last, self.best = trial, None, None
        self.at, self.max_iter = trial.resumed_at or 0, 0
        self._rate, self._speed, self._left = Rate(), 0.0, None

    @property
    def left(self):
        """The iterations to go, as far as is known."""
        return max(0, self.max_iter - self.at)

    def progress(self, at):
        """Take in a progress event; returns how many iterations it brought."""
        brought = max(0, at["iteration"] - self.at)
        self.at, self.max_iter = at["iteration"], at["max_iter"]
        self._speed, self._left = self._rate.at(self.at, self.max_iter)
        return brought

    def now(self):
        """How far it is."""
        top1 = "" if self.last is None else "Top-1 %s %%  " % percent(self.last)
        return "%d/%d  %.4g it/s  %s%s" % (
            self.at,
            self.max_iter,
            self._speed,
            top1,
            "%s left" % format_duration(self._left) if self._left else "",
        )


class Rate:
    """Iterations a second and the time left, from when one iteration count was seen to when another is."""

    def __init__(self):
        self._first = None

    def at(self, iteration, max_iter):
        """(iterations a second, seconds left or None) now that so many are finished."""
        now = time.monotonic()
        if self._first is None:
            self._first = now, iteration
        seconds, iterations = now - self._first[0], iteration - self._first[1]
        speed = iterations / seconds if seconds > 0 else 0.0
        return speed, (max_iter - iteration) / speed if speed else None
