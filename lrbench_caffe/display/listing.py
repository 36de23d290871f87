"""What `ls` and `show` print: lists of tasks and trials, and everything about one trial."""

from __future__ import annotations

import datetime
import time
from typing import TYPE_CHECKING

from lrbench_caffe import ranking
from lrbench_caffe.display.console import format_duration
from lrbench_caffe.display.table import KEY, Column, Table, number, percent, policy_columns
from lrbench_caffe.display.tables import LENGTH, METRICS, SEED, local_time
from lrbench_caffe.trial import RUNNING, to_dict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lrbench_caffe.lines import Membership, TaskLine, TrialLine
    from lrbench_caffe.trial import Evaluation, Trial

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_OLD = 60 * 86400  # seconds after which a date is easier to read than a number of days
_TOP1 = next(column for column in METRICS if column.name == "top1")
# The metrics of a row, which are not over seeds.
_ROW_METRICS = tuple(column for column in METRICS if column.name not in ("iterations", "n_params"))


def age(seconds: float) -> str:
    """Return how long ago something was.

    >>> [age(seconds) for seconds in (0.4, 42, 3599, 7300, 200000)]
    ['now', '42 s ago', '59 min ago', '2 h ago', '2 d ago']
    """
    for size, unit in _UNITS:
        if seconds >= size:
            return "%d %s ago" % (seconds // size, unit)
    return "now"


def _started(when: datetime.datetime) -> str:
    seconds = time.time() - when.timestamp()
    return age(seconds) if seconds < _OLD else when.strftime("%Y-%m-%d")


def _time(seconds: float | None) -> datetime.datetime | None:
    return None if seconds is None else datetime.datetime.fromtimestamp(seconds).astimezone()


def _share(part: int, total: int) -> str:
    return "%d/%d (%d %%)" % (part, total, 100 * part // total)


def trials(lines: Sequence[TrialLine]) -> Table:
    """Return a table of trials.

    Args:
        lines: The result of :func:`lrbench_caffe.database.listing.trials`.
    """
    titles = ranking.task_titles(
        list(dict.fromkeys((line.dataset, line.network) for line in lines))
    )
    columns = (
        Column("id", None, importance=KEY),
        Column(None, "id"),
        Column("state", "state", importance=KEY),
        *policy_columns(),
        _TOP1,
        Column("at", "iterations", str, True, 70),
        Column("seed", "seed", str, True, SEED),
        Column("progress", None, str, True, 91),
        Column("started", "started", _started, True, 80),
        Column("task", None, importance=75),
        Column(None, "network"),
        Column(None, "dataset"),
        Column("study", "study", importance=60),
        Column(None, "reached", right=True),
        LENGTH._replace(title=None),
        Column(None, "ended", local_time),
        Column(None, "host"),
        Column(None, "origin"),
        Column(None, "error"),
    )
    rows = (
        (
            line.short_id,
            line.id,
            line.state,
            line.policy,
            line.policy,
            line.top1,
            line.iterations,
            line.seed,
            _progress(line),
            _time(line.started),
            titles[line.dataset, line.network],
            line.network.name,
            line.dataset.name,
            line.study,
            line.reached,
            line.max_iter,
            _time(line.ended),
            line.host,
            line.origin,
            line.error,
        )
        for line in lines
    )
    return Table(None, columns, tuple(rows))


def _progress(line: TrialLine) -> str:
    """How far a running trial is, as of its last row; "" for other trials."""
    if line.state != RUNNING:
        return ""
    return _share(line.reached or 0, line.max_iter) if line.max_iter else str(line.reached or 0)


def tasks(lines: Sequence[TaskLine]) -> Table:
    """Return a table of tasks, each with its best policy.

    Args:
        lines: The result of :func:`lrbench_caffe.database.listing.tasks`.
    """
    titles = ranking.task_titles([(line.dataset, line.network) for line in lines])
    columns = (
        Column("task", None, importance=KEY),
        Column(None, "network"),
        Column(None, "network_hash"),
        Column(None, "dataset"),
        Column("trials", "trials", str, True, KEY),
        Column("finished", "finished", str, True, 70),
        Column("running", "running", lambda count: str(count or ""), True, 90),
        Column("policies", "policies", str, True, 60),
        _TOP1,
        Column("best policy", "policy", importance=KEY, policy=True),
        Column("trained", "started", _started, True, 80),
    )
    rows = (
        (
            titles[line.dataset, line.network],
            line.network.name,
            line.network.hash,
            line.dataset.name,
            line.trials,
            line.finished,
            line.running,
            line.policies,
            line.top1,
            line.best,
            _time(line.started),
        )
        for line in lines
    )
    return Table(None, columns, tuple(rows))


def rows(trial: Trial) -> Table:
    """Return a table of the rows of a trial; the best one has a star.

    Args:
        trial: The trial with all its rows.
    """
    sets = list(dict.fromkeys(name for row in trial.rows for name in row.other_sets or ()))
    columns = (
        Column("iteration", "iteration", str, True, KEY),
        Column("best", None, importance=95),
        Column(None, "best"),
        Column("lr", "lr", lambda rate: "%.4g" % rate, True, 90),
        Column("train loss", "train_loss", number, True, 85),
        Column("test loss", "test_loss", number, True, 80),
        *_ROW_METRICS,
        *(Column("Top-1 %% (%s)" % name, "top1_" + name, percent, True, 92) for name in sets),
        Column("resumed at", "resumed_at", str, True, 75),
        Column(None, "measured_on"),
    )
    title = "rows, measured on the set %s" % trial.rows[0].measured_on if sets else None
    return Table(title, columns, tuple(_row(trial, row, sets) for row in trial.rows))


def _row(trial: Trial, row: Evaluation, sets: Sequence[str]) -> tuple[object, ...]:
    best = trial.best is not None and row.iteration == trial.best.iteration
    others = row.other_sets or {}
    return (
        row.iteration,
        "*" if best else "",
        best,
        row.lr,
        row.train_loss,
        row.test_loss,
        *(getattr(row, column.name or "") for column in _ROW_METRICS),
        *(others.get(name, {}).get("top1") for name in sets),
        row.resumed_at,
        row.measured_on,
    )


def facts(
    trial: Trial, place: Membership | None, files: Mapping[str, str | None]
) -> list[tuple[str, object]]:
    """Return the facts of a trial beside its rows: (name, value) each.

    Args:
        trial: The trial with all its rows.
        place: Its place in a study, or None.
        files: The paths of its files by what they are; None where there are none.
    """
    setup, started = trial.setup, _time(trial.started)
    assert started is not None
    facts: list[tuple[str, object]] = [
        ("trial", trial.id),
        ("state", trial.state),
        ("reason", trial.error),
        ("progress", _progress_of(trial)),
        ("policy", trial.policy),
        ("seed", setup.seed),
        ("best Top-1", _best_text(trial)),
        ("network", ranking.network_label(setup.network)),
        ("dataset", ranking.dataset_label(setup.dataset)),
        ("classes", setup.classes),
        ("settings", ranking.settings_text(sorted(setup.solver.items()))),
        *_place_facts(place),
        ("started", local_time(started)),
        *_end_facts(trial),
        ("host", trial.host),
        ("framework", "%s %s" % (setup.framework.name, setup.framework.version)),
        ("BLAS", trial.blas),
        ("BLAS threads", trial.threads),
        ("imported from", trial.origin),
        *files.items(),
    ]
    return [(name, value) for name, value in facts if value is not None]


def _best_text(trial: Trial) -> str | None:
    summary = trial.summary
    if summary is None or trial.best is None:
        return None
    text = "%s %% at iteration %d" % (percent(summary.top1), summary.iterations)
    if not trial.best.other_sets:
        return text
    chosen = "chosen on the set %s" % trial.best.measured_on
    return "%s, on the set %s, %s" % (text, trial.setup.report, chosen)


def _progress_of(trial: Trial) -> str | None:
    reached, max_iter = trial.rows[-1].iteration if trial.rows else 0, _max_iter(trial)
    if trial.state != RUNNING or max_iter is None:
        return None
    return _share(reached, max_iter)


def _max_iter(trial: Trial) -> int | None:
    max_iter = trial.setup.solver.get("max_iter")
    return max_iter if isinstance(max_iter, int) else None


def _end_facts(trial: Trial) -> list[tuple[str, object]]:
    facts: list[tuple[str, object]] = []
    ended = _time(trial.ended)
    if ended is not None and trial.ended is not None:
        facts.append(("ended", local_time(ended)))
        facts.append(("took", format_duration(trial.ended - trial.started)))
    if trial.attempt > 1:
        resumed = "began again from iteration 0"
        if trial.resumed_at is not None:
            resumed = "resumed at iteration %d" % trial.resumed_at
        facts.append(("attempts", "%d; the last one %s" % (trial.attempt, resumed)))
    return facts


def _place_facts(place: Membership | None) -> list[tuple[str, object]]:
    if place is None:
        return []
    why = "%s: %s" % (place.stage, place.why) if place.stage else None
    return [
        ("study", "%s, training %d" % (place.study, place.position)),
        ("tried for", why),
        ("solver", place.job.solver),
        ("data", place.job.data),
    ]


def waiting_facts(trial_id: str, place: Membership) -> list[tuple[str, object]]:
    """Return the facts of a training that waits in its study."""
    facts: list[tuple[str, object]] = [
        ("trial", trial_id),
        ("state", "waiting"),
        ("policy", place.job.policy),
        ("seed", place.job.seed),
        ("max_iter", place.job.max_iter),
        *_place_facts(place),
    ]
    return [(name, value) for name, value in facts if value is not None]


def as_json(
    trial: Trial, place: Membership | None, files: Mapping[str, str | None]
) -> dict[str, object]:
    """Return a trial as a value that JSON can hold, with its study and its files."""
    return {
        **to_dict(trial),
        "summary": trial.summary and trial.summary._asdict(),
        "study": place and place.study,
        "stage": (place and place.stage) or None,
        "why": (place and place.why) or None,
        **files,
    }
