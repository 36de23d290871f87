"""The screen: tables, sentences, lines of JSON.  What moves while trainings run is in :mod:`lrbench_caffe.display`."""
import json
import sys
import time

from rich import box
from rich.console import Console
from rich.table import Table

from lrbench_caffe import tables
from lrbench_caffe.trial import FINISHED, STATES, Evaluation, Trial, to_dict

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


def results_table(trials, title=None, seeds=False):
    """A table of trials, one line each: the policy and the paper's eight metrics at the evaluation with the highest Top-1."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("policy", overflow="fold")
    for name, _ in METRICS:
        table.add_column(name, justify="right", no_wrap=True)
    if seeds:
        table.add_column("seed", justify="right")
    for trial in trials:
        cells = [cell(trial.summary) if trial.summary else "-" for _, cell in METRICS]
        note = "" if trial.state == FINISHED else " (%s)" % trial.state
        table.add_row(trial.policy + note, *cells + [str(trial.setup.seed)] * seeds)
    return table


def studies_table(studies):
    """A table of studies as :func:`lrbench_caffe.database.studies.summaries` gives them: a column for each state."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("study", overflow="fold")
    table.add_column("made")
    for state in ("waiting",) + STATES:
        table.add_column(state, justify="right")
    for study in studies:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(study.made))
        name = study.name + (" (runs)" if study.runs else "")
        table.add_row(name, when, *(str(study.states.get(state, "")) for state in ("waiting",) + STATES))
    return table


def from_value(table):
    """A :class:`lrbench_caffe.tables.Table` as one for the terminal."""
    columns, rows = tables.people(table)
    shown = Table(title=table.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        shown.add_column(column.title, justify="right" if column.right else "left", no_wrap=column.right, overflow="fold")
    for row in rows:
        shown.add_row(*row)
    return shown


def show(table):
    """Print a table, closer on a narrow terminal; where the output is no terminal it is as wide as it needs to be."""
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


def say(line):
    """Print a sentence."""
    Console(highlight=False, markup=False, soft_wrap=True).print(line)


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
