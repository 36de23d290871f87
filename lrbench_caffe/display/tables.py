"""Tables as values: title, columns and rows, made here and rendered here in the formats that people paste.

The terminal's rendering is :func:`lrbench_caffe.display.console.show`.
"""

import csv
import io
import json
import re
import time
from typing import Callable, NamedTuple, Optional, Tuple

from lrbench_caffe.ranking import Spread
from lrbench_caffe.trial import FINISHED, STATES

FORMATS = ("table", "markdown", "csv", "json", "latex")
_ZERO = re.compile(r"^-(0(?:\.0+)?)$")  # a difference that rounds to it has no sign


class Column(NamedTuple):
    """A column: its title for people and its name for programs (None: not shown to them), how a value reads, its side."""

    title: Optional[str]
    name: Optional[str]
    text: Callable = str
    right: bool = False


class Table(NamedTuple):
    """A table: rows are tuples of raw values, None for what is not known, a Spread for a mean over seeds."""

    title: Optional[str]
    columns: Tuple[Column, ...]
    rows: Tuple[Tuple, ...]


def percent(share):
    """A share of 1 as the paper prints accuracies: 99.33."""
    return "%.2f" % (100 * share)


def number(value):
    """A metric with the paper's four digits, a dash where there is none."""
    return "-" if value is None else "%.4f" % value


def cell(column, value):
    """A value as a person reads it in this column."""
    if isinstance(value, Spread):
        return cell(column, value.mean) + (
            " ± " + column.text(value.deviation) if value.deviation is not None else ""
        )
    return "-" if value is None else _ZERO.sub(r"\1", column.text(value))


# The paper's metrics as in its Tables VII to IX, by the names of a Summary's fields.
METRICS = (
    Column("LD", "ld", number, True),
    Column("#Iter", "iterations", lambda value: "%.0f" % value, True),
    Column("Top-1 %", "top1", percent, True),
    Column("Top-5 %", "top5", percent, True),
    Column("AC", "ac", number, True),
    Column("CD", "cd", number, True),
    Column("CDAC", "cdac", number, True),
    Column("#Param", "n_params", lambda value: "%.0f" % value, True),
)


def results(trials, title=None, seeds=False):
    """A table of trials, one line each: the policy and the paper's eight metrics at the evaluation with the highest Top-1.

    seeds: people see the seed too, as programs always do.
    """
    columns = (
        Column("policy", None),
        Column(None, "policy"),
        Column(None, "dataset"),
        Column(None, "network"),
        Column("seed" if seeds else None, "seed", str, True),
        Column(None, "state"),
    ) + METRICS
    rows = []
    for trial in trials:
        note = "" if trial.state == FINISHED else " (%s)" % trial.state
        measured = [
            getattr(trial.summary, column.name) if trial.summary else None for column in METRICS
        ]
        rows.append(
            (
                trial.policy + note,
                trial.policy,
                trial.setup.dataset.name,
                trial.setup.network.name,
                trial.setup.seed,
                trial.state,
                *measured,
            )
        )
    return Table(title, columns, tuple(rows))


def studies(found):
    """A table of studies as :func:`lrbench_caffe.database.studies.summaries` gives them: a column for each state."""
    states = ("waiting",) + STATES
    columns = (
        Column("study", None),
        Column(None, "study"),
        Column(None, "runs"),
        Column("made", "made", lambda made: time.strftime("%Y-%m-%d %H:%M", time.localtime(made))),
        *(Column(state, state, lambda n: str(n or ""), True) for state in states),
    )
    rows = (
        (
            study.name + (" (runs)" if study.runs else ""),
            study.name,
            study.runs,
            study.made,
            *(study.states.get(state, 0) for state in states),
        )
        for study in found
    )
    return Table(None, columns, tuple(rows))


def ranking(task, ranked):
    """A table of one task's ranked policies; tied ones have the same rank with a = behind it."""
    dataset, network = task
    columns = (
        Column("rank", None),
        Column(None, "rank"),
        Column(None, "tied"),
        Column("policy", None),
        Column(None, "policy"),
        Column(None, "settings"),
        Column(None, "dataset"),
        Column(None, "network"),
        Column("seeds", "seeds", str, True),
    ) + METRICS
    rows = []
    for entry in ranked:
        shown = "-" if entry.rank is None else "%d%s" % (entry.rank, "=" if entry.tied else "")
        rows.append(
            (
                shown,
                entry.rank,
                entry.tied,
                entry.label + states_note(entry.others),
                entry.policy,
                " ".join("%s=%s" % item for item in entry.settings),
                dataset.name,
                network.name,
                len(entry.trials),
                *(_fixed(entry.metrics[column.name], column.name) for column in METRICS),
            )
        )
    return Table("%s on %s" % (network.name, dataset.name), columns, tuple(rows))


def range_test(test):
    """A table of a :class:`lrbench_caffe.evaluator.range_test.RangeTest`: Top-1 by k0 after numbers of iterations, or by lr."""

    def after(curve):
        return "after %d%s" % (
            curve.iteration,
            " (%.3g epochs)" % (curve.iteration / test.epoch) if test.epoch else "",
        )

    rate = "lr" if test.swept else "k0"
    columns = (
        Column(rate, rate, repr, True),
        Column("good", None),
        Column(None, "good"),
        *(
            Column(
                "Top-1 %" if test.swept else after(curve),
                "top1_%d" % curve.iteration,
                percent,
                True,
            )
            for curve in test.curves
        ),
        Column("", None),
        Column(None, "diverged"),
    )
    tops = [{point.k0: point.top1 for point in curve.points} for curve in test.curves]
    rows = []
    for k0, _, diverged in test.curves[-1].points if test.curves else ():
        good = test.good is not None and test.good.low <= k0 <= test.good.high
        rows.append(
            (
                k0,
                "*" if good else "",
                good,
                *(top1.get(k0) for top1 in tops),
                "diverged" if diverged else "",
                diverged,
            )
        )
    return Table(test.title if test.swept else "%s: Top-1 %%" % test.title, columns, tuple(rows))


def tuning(tuned):
    """A table of what a :class:`lrbench_caffe.evaluator.tuner.Tuned` was found by: every training in its order, and why."""
    columns = (
        Column("tried", "stage"),
        Column("policy", None),
        Column(None, "policy"),
        Column("max_iter", "max_iter", str, True),
        Column("seed", "seed", str, True),
        Column(None, "state"),
        Column("Top-1 %", "top1", percent, True),
        Column("why", "why"),
    )
    rows = []
    for one in tuned.tried:
        trial = one.trial
        note = "" if trial.state == FINISHED else " (%s)" % trial.state
        rows.append(
            (
                one.stage,
                trial.policy + note,
                trial.policy,
                trial.setup.solver["max_iter"],
                trial.setup.seed,
                trial.state,
                trial.best and trial.best.top1,
                one.why,
            )
        )
    return Table(None, columns, tuple(rows))


def standings(task, found):
    """A table of :class:`lrbench_caffe.database.standings.Standing` values on a task: policies, and how they were trained."""
    columns = (
        Column("policy", "policy"),
        Column(None, "dataset"),
        Column(None, "network"),
        Column("seeds", "seeds", str, True),
        *(column for column in METRICS if column.name in ("top1", "iterations")),
        *(Column(name, name, str, True) for name in ("max_iter", "type", "batch_size")),
    )
    rows = (
        (
            one.policy,
            task.dataset.name,
            task.network.name,
            one.top1.n,
            one.iterations,
            one.top1,
            one.settings.get("max_iter"),
            one.settings.get("type", "SGD"),
            one.settings.get("batch_size"),
        )
        for one in found
    )
    return Table("%s on %s" % (task.network.name, task.dataset.name), columns, tuple(rows))


def states_note(others):
    """What trials that do not count came to: " (1 failed, 2 running)", or nothing."""
    states = [trial.state for trial in others]
    return (
        " (%s)" % ", ".join("%d %s" % (states.count(state), state) for state in sorted(set(states)))
        if states
        else ""
    )


def _fixed(found, name):
    return found._replace(deviation=None) if name == "n_params" else found  # no seed changes it


def render(tables, format):
    """Tables with the same columns as text in one of FORMATS but "table"."""
    if format in ("csv", "json"):
        return {"csv": _csv, "json": _json}[format](tables)
    return "\n".join({"markdown": _markdown, "latex": _latex}[format](table) for table in tables)


def displayed(table):
    """(columns, rows of text) as a person reads them."""
    shown = [n for n, column in enumerate(table.columns) if column.title is not None]
    return [table.columns[n] for n in shown], [
        [cell(table.columns[n], row[n]) for n in shown] for row in table.rows
    ]


def _records(table):
    """The rows as programs read them: dicts by the columns' names; a Spread is two, its deviation with _std."""
    for row in table.rows:
        record = {}
        for column, value in zip(table.columns, row):
            if column.name and isinstance(value, Spread):
                record.update({column.name: value.mean, column.name + "_std": value.deviation})
            elif column.name:
                record[column.name] = value
        yield record


def _json(tables):
    return json.dumps([record for table in tables for record in _records(table)], indent=1) + "\n"


def _csv(tables):
    records = [record for table in tables for record in _records(table)]
    out = io.StringIO()
    names = (
        records[0]
        if records
        else [column.name for table in tables[:1] for column in table.columns if column.name]
    )
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def _markdown(table):
    columns, rows = displayed(table)

    def escaped(text):
        return _one_line(re.sub(r"([\\|<>*_`&])", r"\\\1", text))

    lines = [
        "| %s |" % " | ".join(column.title for column in columns),
        "| %s |" % " | ".join("---:" if column.right else "---" for column in columns),
    ]
    lines += ["| %s |" % " | ".join(escaped(text) for text in row) for row in rows]
    if table.title:
        lines = ["**%s**" % escaped(table.title), ""] + lines
    return "\n".join(lines) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
}
_LATEX.update({character: "\\" + character for character in "&%$#_{}"})


def _latex(table):
    """A tabular for the package booktabs."""
    columns, rows = displayed(table)

    def escaped(text):
        return _one_line("".join(_LATEX.get(character, character) for character in text))

    lines = ["%% %s" % _one_line(table.title)] if table.title else []
    lines += [
        "\\begin{tabular}{%s}" % "".join("r" if column.right else "l" for column in columns),
        "\\toprule",
        " & ".join(escaped(column.title) for column in columns) + r" \\",
        "\\midrule",
    ]
    lines += [" & ".join(escaped(text) for text in row) + r" \\" for row in rows]
    return "\n".join(lines + ["\\bottomrule", "\\end{tabular}"]) + "\n"


def _one_line(text):
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text)
