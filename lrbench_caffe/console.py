"""The screen: progress of trainings, tables of trials.  What a person reads goes through here, and only here."""
import json
import re
import sys
import threading
import time

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column, Table
from rich.text import Text

from lrbench_caffe.tables import number, people, percent, render, results
from lrbench_caffe.trial import Evaluation, Trial, to_dict

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # in a name, they would command the terminal


def duration(seconds):
    """Seconds as a person says them: 42 s, 6:02, 1:10:00."""
    seconds = int(round(seconds))
    if seconds < 60:
        return "%d s" % seconds
    hours, rest = divmod(seconds, 3600)
    return "%d:%02d:%02d" % (hours, rest // 60, rest % 60) if hours else "%d:%02d" % (rest // 60, rest % 60)


def show(*tables, format="table"):
    """Print tables in one of :data:`lrbench_caffe.tables.FORMATS`.

    As "table" closer on a narrow terminal; where the output is no terminal they are as wide as they need to be.
    """
    if format != "table":
        sys.stdout.write(render(tables, format))
        return
    for table in tables:
        _show(_drawn(table))


def _drawn(table):
    columns, rows = people(table)
    drawn = Table(title=table.title and Text(table.title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for n, column in enumerate(columns):
        drawn.add_column(column.title, justify="right" if column.right else "left", no_wrap=column.right or None, overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)) for text in row))
    return drawn


def _show(table):
    console = Console()
    if console.is_terminal:
        if console.width < 110:
            table.padding = 0
        console.print(table)
        return
    console = Console(width=200)
    with console.capture() as text:
        console.print(table)
    sys.stdout.write("".join(line.rstrip() + "\n" for line in text.get().splitlines()))


def say(line, aside=False):
    """Print a sentence; aside: to standard error, where standard output is for a program."""
    Console(highlight=False, markup=False, soft_wrap=True, stderr=aside).print(line)


class Bar:
    """A bar on a terminal, and lines above it; elsewhere only the lines.  Called with (what, done, total) of what is counted.

    total is None where nobody knows; now is what else there is to tell.
    """

    def __init__(self):
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=12),
            TextColumn("{task.fields[now]}", table_column=Column(ratio=1, no_wrap=True)),
            expand=True, console=self._console, transient=True)
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
        self._progress.update(self._task, description=what, completed=done, total=total, now=counted if now is None else now)

    def say(self, line):
        """A line above the bar."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class TrainingDisplay(Bar):
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
            show(results([self._trial]), format=self._format)

    def listen(self, kind, content):
        """One event of :func:`lrbench_caffe.process.run`; the results table of a trial that ends is shown on leaving."""
        if kind == "note":
            self.say("note: " + content)
        elif kind == "begin":
            setup = content.setup
            self.say("%s on %s, seed %d, under %s (trial %s)" % (
                setup.network.name, setup.dataset.name, setup.seed, content.policy, content.id))
        elif kind == "progress":
            self._show(content)
        elif kind == "row":
            self._row(content)
        elif kind == "end":
            self._trial = content

    def _show(self, at):
        speed, left = self._rates.at(at["iteration"], at["max_iter"])
        top1 = "  Top-1 %s %%, best %s %%" % (percent(self._last.top1), percent(self._best.top1)) if self._last else ""
        now = "%d/%d%s  %.4g it/s%s  lr %.4g  loss %.4g" % (
            at["iteration"], at["max_iter"], "  %s left" % duration(left) if left else "", speed, top1, at["lr"], at["loss"])
        self("training", at["iteration"], at["max_iter"], now)

    def _row(self, row):
        self._last = row
        if self._best is None or row.top1 > self._best.top1:
            self._best = row
        self.say("%6d: lr %-8.4g loss %s train, %.4f test  Top-1 %s %%, best %s %%" % (
            row.iteration, row.lr, number(row.train_loss).rjust(6), row.test_loss, percent(row.top1), percent(self._best.top1)))


class StudyDisplay(Bar):
    """What a person sees of many trainings: a bar of all iterations, and a line for each training as it ends."""

    def __init__(self, jobs):
        super().__init__()
        self._jobs, self._done, self._at, self._best = jobs, 0, {}, None
        self._rates = Rate()
        self._lock = threading.Lock()

    def listen(self, index, kind, content):
        """One event of :func:`lrbench_caffe.study.run`."""
        with self._lock:
            if kind == "progress":
                self._at[index] = content["iteration"]
                self._show(content["max_iter"])
            elif kind == "end":
                self._done += 1
                self._end(content)
            elif kind == "note":
                self.say("note: " + content)

    def _show(self, max_iter):
        iterations, total = sum(self._at.values()), max_iter * len(self._jobs)
        speed, left = self._rates.at(iterations, total)
        best = "" if self._best is None else ", best Top-1 %s %%" % percent(self._best)
        now = "%d of %d trained, %.4g it/s%s%s" % (
            self._done, len(self._jobs), speed, best, ", %s left" % duration(left) if left else "")
        self("training", iterations, total, now)

    def _end(self, trial):
        top1 = trial.best.top1 if trial.best else 0.0
        self._best = max(top1, self._best or 0.0)
        self.say("%2d/%d  %-48s %s  Top-1 %s %%%s" % (
            self._done, len(self._jobs), trial.policy, trial.state, percent(top1), ": " + trial.error if trial.error else ""))


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


def print_json(kind, content):
    """One event as a line of JSON on standard output, for programs; a trial's rows are events of their own."""
    if isinstance(content, Trial):
        summary = content.summary and content.summary._asdict()
        content = dict(to_dict(content), summary=summary)
        content.pop("rows")
        content["setup"]["network"].pop("prototxt")
    elif isinstance(content, Evaluation):
        content = to_dict(content)
    elif kind == "note":
        content = {"text": content}
    sys.stdout.write(json.dumps(dict({"event": kind}, **content)) + "\n")
    sys.stdout.flush()
