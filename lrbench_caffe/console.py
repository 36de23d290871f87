"""The screen: progress of trainings, tables of trials.  What a person reads goes through here, and only here."""
import json
import sys
import threading
import time

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from lrbench_caffe.trial import FINISHED, Evaluation, Trial, to_dict

# A results table's columns: title and how a Summary reads in it, as in the paper's Tables VII to IX.
METRICS = (
    ("LD", lambda summary: number(summary.ld)),
    ("#Iter", lambda summary: str(summary.iterations)),
    ("Top-1 %", lambda summary: percent(summary.top1)),
    ("Top-5 %", lambda summary: percent(summary.top5)),
    ("AC", lambda summary: number(summary.ac)),
    ("CD", lambda summary: number(summary.cd)),
    ("CDAC", lambda summary: number(summary.cdac)),
    ("#Param", lambda summary: str(summary.n_params)),
)


def percent(share):
    """A share of 1 as the paper prints accuracies: 99.33."""
    return "%.2f" % (100 * share)


def number(value):
    """A metric with the paper's four digits, a dash where there is none."""
    return "-" if value is None else "%.4f" % value


def duration(seconds):
    """Seconds as a person says them: 42 s, 6:02, 1:10:00."""
    seconds = int(round(seconds))
    if seconds < 60:
        return "%d s" % seconds
    hours, rest = divmod(seconds, 3600)
    return "%d:%02d:%02d" % (hours, rest // 60, rest % 60) if hours else "%d:%02d" % (rest // 60, rest % 60)


def results_table(trials, title=None):
    """A table of trials, one line each: the policy and the paper's eight metrics at the evaluation with the highest Top-1."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("policy", overflow="fold")
    for name, _ in METRICS:
        table.add_column(name, justify="right", no_wrap=True)
    for trial in trials:
        cells = [cell(trial.summary) if trial.summary else "-" for _, cell in METRICS]
        note = "" if trial.state == FINISHED else " (%s)" % trial.state
        table.add_row(trial.policy + note, *cells)
    return table


def show(renderable):
    """Print a table; where the output is no terminal it is as wide as it needs to be."""
    console = Console()
    if console.is_terminal:
        console.print(renderable)
        return
    console = Console(width=200)
    with console.capture() as text:
        console.print(renderable)
    sys.stdout.write("".join(line.rstrip() + "\n" for line in text.get().splitlines()))


def say(line):
    """Print a sentence."""
    Console(highlight=False, markup=False, soft_wrap=True).print(line)


class Bar:
    """A bar for work that is counted: called with (what, done, total); total is None where nobody knows."""

    def __init__(self):
        console = Console(stderr=True)
        self._progress = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=console,
                                  disable=not console.is_terminal, transient=True)
        self._task = self._progress.add_task("", total=None)

    def __enter__(self):
        self._progress.start()
        return self

    def __exit__(self, *error):
        self._progress.stop()

    def __call__(self, what, done, total):
        self._progress.update(self._task, description=what, completed=done, total=total)


class TrainingDisplay:
    """What a person sees of one training: a line for each evaluation and, on a terminal, a bar that moves between them."""

    def __init__(self):
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[now]}"),
            console=self._console, disable=not self._console.is_terminal, transient=True)
        self._task = self._progress.add_task("starting Caffe", total=None, now="")
        self._rates = Rate()
        self._last = self._best = None

    def __enter__(self):
        self._progress.start()
        return self

    def __exit__(self, *error):
        self._progress.stop()

    def listen(self, kind, content):
        """One event of :func:`lrbench_caffe.process.run`."""
        if kind == "note":
            self._say("note: " + content)
        elif kind == "begin":
            setup = content.setup
            self._say("%s on %s, seed %d, under %s (trial %s)" % (
                setup.network.name, setup.dataset.name, setup.seed, content.policy, content.id))
        elif kind == "progress":
            self._show(content)
        elif kind == "row":
            self._row(content)

    def _show(self, at):
        speed, left = self._rates.at(at["iteration"], at["max_iter"])
        now = "%.4g it/s  lr %.6g  loss %.4g%s%s" % (
            speed, at["lr"], at["loss"], "  Top-1 %s %%, best %s %%" % (percent(self._last.top1), percent(self._best.top1))
            if self._last else "", "  %s left" % duration(left) if left else "")
        self._progress.update(self._task, completed=at["iteration"], total=at["max_iter"], description="training", now=now)

    def _row(self, row):
        self._last = row
        if self._best is None or row.top1 > self._best.top1:
            self._best = row
        self._say("iteration %6d  lr %-10.6g train loss %s  test loss %.4f  Top-1 %s %%  best %s %% at %d" % (
            row.iteration, row.lr, number(row.train_loss).rjust(6), row.test_loss, percent(row.top1),
            percent(self._best.top1), self._best.iteration))

    def _say(self, line):
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class StudyDisplay:
    """What a person sees of many trainings: a bar of all iterations, and a line for each training as it ends."""

    def __init__(self, jobs):
        self._console = Console(stderr=True)
        self._jobs, self._done, self._at, self._best = jobs, 0, {}, None
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[now]}"),
            console=self._console, disable=not self._console.is_terminal, transient=True)
        self._task = self._progress.add_task("starting Caffe", total=1, now="")
        self._rates = Rate()
        self._lock = threading.Lock()

    def __enter__(self):
        self._progress.start()
        return self

    def __exit__(self, *error):
        self._progress.stop()

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
                self._say("note: " + content)

    def _show(self, max_iter):
        iterations, total = sum(self._at.values()), max_iter * len(self._jobs)
        speed, left = self._rates.at(iterations, total)
        best = "" if self._best is None else ", best Top-1 %s %%" % percent(self._best)
        now = "%d of %d trained, %.4g it/s%s%s" % (
            self._done, len(self._jobs), speed, best, ", %s left" % duration(left) if left else "")
        self._progress.update(self._task, completed=iterations, total=total, description="training", now=now)

    def _end(self, trial):
        top1 = trial.best.top1 if trial.best else 0.0
        self._best = max(top1, self._best or 0.0)
        self._say("%2d/%d  %-48s %s  Top-1 %s %%%s" % (
            self._done, len(self._jobs), trial.policy, trial.state, percent(top1), ": " + trial.error if trial.error else ""))

    def _say(self, line):
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


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
