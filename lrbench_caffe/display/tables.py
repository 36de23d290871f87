"""The tables of this program as values: results, studies, rankings, range tests and tuning.

Their text is made by :mod:`lrbench_caffe.display.formats` and, for the terminal,
:mod:`lrbench_caffe.display.console`.
"""

from __future__ import annotations

import datetime
import math
import os
from typing import TYPE_CHECKING, cast

from lrbench_caffe import ranking
from lrbench_caffe.display.table import (
    KEY,
    Column,
    Table,
    cell,
    number,
    percent,
    policy_columns,
    whole,
)
from lrbench_caffe.trial import (
    DIVERGED,
    FAILED,
    FINISHED,
    INTERRUPTED,
    RUNNING,
    STATES,
    TEST_SET,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from lrbench_caffe.display.protocols import (
        JournalSummary,
        OriginSummary,
        RangeTest,
        Standing,
        StudySummary,
        TaskResults,
        Tuned,
    )
    from lrbench_caffe.ranking import Block, Ranked, Spread
    from lrbench_caffe.ranking.ranges import Curve
    from lrbench_caffe.trial import Dataset, Network, Trial


# The metrics in the order of the paper's Tables VII to IX, by the field names of a Summary.
METRICS = (
    Column("LD", "ld", number, True, 60),
    Column("#Iter", "iterations", whole, True, 78),
    Column("Top-1 %", "top1", percent, True, KEY),
    Column("Top-5 %", "top5", percent, True, 40),
    Column("AC", "ac", number, True, 50),
    Column("CD", "cd", number, True, 45),
    Column("CDAC", "cdac", number, True, 55),
    Column("#Param", "n_params", whole, True, 30),
)
# Of the last evaluation, beside the highest of all.
FINAL_TOP1 = Column("final %", "final_top1", percent, True, 65)
WAITING = "waiting"  # the state of a training that has not begun
SEEDS, INTERVAL, SEED = 80, 75, 90  # importances
STAGE = Column("tried", "stage", importance=86)  # of a search
WHY = Column("why", "why", importance=65)
LENGTH = Column("length", "max_iter", str, True, 85)  # of a training in iterations
METRIC_COLUMNS = {column.name: column for column in (*METRICS, FINAL_TOP1)}
_RESULT_METRICS = (*METRICS[:3], FINAL_TOP1, *METRICS[3:])
# On which sets the numbers are chosen and reported, and the Top-1 by which they are chosen.
_SET_COLUMNS = tuple(Column(None, name) for name in ("selected_on", "reported_on", "selected_top1"))
# Instead of an interval.
ONE_SEED = "one seed"
EQUAL_VALUES = "equal values"
_INTERVAL = Column("95 % interval", None, str, True, INTERVAL)  # of the mean Top-1
_INTERVAL_ENDS = (Column(None, "top1_low"), Column(None, "top1_high"))
# Of the states of trials in a list of studies: problems are left out last.
_STATE_IMPORTANCE = {FAILED: 90, INTERRUPTED: 80, RUNNING: 70, WAITING: 70, FINISHED: 60}
# What identifies a task beside the names.
_TASK_COLUMNS = tuple(
    Column(None, name) for name in ("network_hash", "shape", "train_samples", "test_samples")
)


def results(
    trials: Iterable[Trial],
    title: str | None = None,
    seeds: bool = False,
    settings: str = "",
    reasons: Mapping[str, tuple[str, str]] | None = None,
) -> Table:
    """Return a table of trials: the policy, the eight metrics and the final Top-1 of each.

    The metrics are those of the evaluation with the highest Top-1 on the set that decides, on the
    set that is reported. The final Top-1 is that of the last evaluation.

    Args:
        trials: The trials, in the order of the rows.
        title: The title of the table.
        seeds: Whether people read the seed. Programs always do.
        settings: The settings that distinguish the trials from those of other tables.
        reasons: For the trials of a search, its stage and the reason for each by the trial's id.
    """
    trials = list(trials)
    columns = (
        *policy_columns(),
        Column(None, "dataset"),
        Column(None, "network"),
        Column("seed" if seeds else None, "seed", str, True, SEED),
        Column(None, "state"),
        _selected_top1(trials),
        *_RESULT_METRICS,
        LENGTH if reasons else LENGTH._replace(title=None),
        *((STAGE, WHY) if reasons else ()),
        Column(None, "settings"),
        *_TASK_COLUMNS,
        *_SET_COLUMNS,
    )
    rows = (
        _results_row(trial, settings, reasons.get(trial.id, ("", "")) if reasons else ())
        for trial in trials
    )
    return Table(title, columns, tuple(rows))


def _selected_top1(trials: Iterable[Trial]) -> Column:
    """The Top-1 on the set that decides, a column that people read if another set is reported."""
    pairs = {pair for pair in map(ranking.sets_of, trials) if pair and pair[0] != pair[1]}
    names = {select for select, _ in pairs}
    name = names.pop() if len(names) == 1 else "deciding"
    title = "%s Top-1 %%" % name if pairs else None
    return Column(title, None, percent, True, KEY, choice="selected_top1")


def _results_row(trial: Trial, settings: str, reason: tuple[str, ...]) -> tuple[object, ...]:
    summary, deciding = trial.summary, trial.deciding_summary
    values: dict[str | None, object] = {"final_top1": trial.final and trial.final.top1}
    values.update(summary._asdict() if summary else {})
    return (
        _policy_and_state(trial),
        trial.policy,
        trial.setup.dataset.name,
        trial.setup.network.name,
        trial.setup.seed,
        trial.state,
        deciding and deciding.top1,
        *(values.get(column.name) for column in _RESULT_METRICS),
        trial.setup.solver.get("max_iter"),
        *reason,
        settings,
        *_task_values(trial.setup.dataset, trial.setup.network),
        *(ranking.sets_of(trial) or (None, None)),
        deciding and deciding.top1,
    )


def _task_values(dataset: Dataset, network: Network) -> tuple[object, ...]:
    """The values of _TASK_COLUMNS."""
    shape = ranking.shape_text(dataset.shape)
    return network.hash, shape, dataset.train_samples, dataset.test_samples


def study(
    name: str, trials: Sequence[Trial], reasons: Mapping[str, tuple[str, str]] | None = None
) -> list[Table]:
    """Return a table for each block of comparable trials of a study, the best trial first.

    Args:
        name: The name of the study.
        trials: The trials, each with at least its best row.
        reasons: As for :func:`results`.
    """
    title = "study %s" % name
    return [
        results(
            ranking.sort_by_top1(block.trials),
            "%s: %s" % (title, block.title),
            seeds=True,
            settings=ranking.settings_text(block.differences),
            reasons=reasons,
        )
        for block in ranking.group_comparable(trials)
    ] or [results((), title, seeds=True)]


def _policy_and_state(trial: Trial) -> str:
    """The policy with the state behind it, unless the trial is finished."""
    return trial.policy + ("" if trial.state == FINISHED else " (%s)" % trial.state)


def studies(summaries: Iterable[StudySummary]) -> Table:
    """Return a table of studies: the number of trials in each state.

    Args:
        summaries: The result of :func:`lrbench_caffe.database.studies.summaries`.
    """
    states = (WAITING, *STATES)
    columns = (
        Column("study", None, importance=KEY),
        Column(None, "study"),
        Column(None, "runs"),
        Column("made", "made", local_time, importance=40),
        *(Column(state, state, _count, True, _STATE_IMPORTANCE.get(state, 50)) for state in states),
    )
    rows = (
        (
            study.name + (" (runs)" if study.running else ""),
            study.name,
            study.running,
            datetime.datetime.fromtimestamp(study.created).astimezone(),
            *(study.states.get(state, 0) for state in states),
        )
        for study in summaries
    )
    return Table(None, columns, tuple(rows))


def journals(summaries: Iterable[JournalSummary]) -> Table:
    """Return a table of journals.

    Args:
        summaries: The result of :func:`lrbench_caffe.database.journals.summaries`.
    """
    columns = (
        Column("journal", None),
        Column(None, "path"),
        Column("state", "state"),
        Column("trial", None),
        Column(None, "trial"),
        Column(None, "policy"),
        Column(None, "seed"),
        Column("rows", "rows", str, True),
        Column("database", "database"),
        Column("reason", "reason"),
    )
    rows = (
        (
            os.path.basename(journal.path),
            journal.path,
            journal.state,
            None if journal.policy is None else "%s, seed %s" % (journal.policy, journal.seed),
            journal.trial,
            journal.policy,
            journal.seed,
            len(journal.rows),
            journal.database,
            journal.reason,
        )
        for journal in summaries
    )
    return Table(None, columns, tuple(rows))


def origins(summaries: Iterable[OriginSummary]) -> Table:
    """Return a table of the databases in which trials were trained.

    Args:
        summaries: The result of :func:`lrbench_caffe.database.origins.summaries`.
    """
    columns = (
        Column("origin", None),
        Column(None, "origin"),
        Column(None, "here"),
        Column("UUID", "database"),
        Column("trials", "trials", str, True),
    )
    rows = (
        (line.name + (" (here)" if line.here else ""), line.name, line.here, line.uuid, line.trials)
        for line in summaries
    )
    return Table(None, columns, tuple(rows))


def journal_rows(summary: JournalSummary) -> Table:
    """Return a table of the evaluations in a journal, with the numbers as they were measured."""
    names = ("iteration", "lr", "train_loss", "test_loss", "top1", "top5", "ac", "cd", "cdac", "ld")
    columns = tuple(Column(name, name, str, True) for name in names)
    rows = (tuple(row.get(name) for name in names) for row in summary.rows)
    return Table("%s: %s" % (summary.state, summary.path), columns, tuple(rows))


def metric_text(name: str, spread: Spread) -> str:
    """Return the mean and the deviation of a metric as the tables show them.

    >>> metric_text("top1", Spread(0.98667, 0.00289, 3))
    '98.67 \u00b1 0.29'
    """
    return cell(METRIC_COLUMNS[name], spread)


def local_time(time: datetime.datetime) -> str:
    """Return a time with the name of its zone; some zones have no name but their offset."""
    return time.strftime("%Y-%m-%d %H:%M %Z")


def _count(number: int) -> str:
    return str(number or "")


def ranked(block: Block, entries: Iterable[Ranked], by: Collection[str] = ("top1",)) -> Table:
    """Return a table of the ranked policies of one block.

    Tied policies have the same rank, with a "=" behind it: "1=".

    Args:
        block: The block, one of :func:`lrbench_caffe.ranking.group_comparable`.
        entries: The result of :func:`lrbench_caffe.ranking.rank` for the trials of the block.
        by: The metrics that decided, which a narrow terminal shows too.
    """
    metrics = [
        column._replace(importance=KEY) if column.name in by else column for column in METRICS
    ]
    place = [column.name for column in metrics].index("top1") + 1
    metrics[place:place] = [_INTERVAL, FINAL_TOP1]
    columns = (
        Column("rank", None, importance=KEY),
        Column(None, "rank"),
        Column(None, "tied"),
        *policy_columns(),
        Column(None, "settings"),
        Column(None, "dataset"),
        Column(None, "network"),
        Column("seeds", "seeds", str, True, SEEDS),
        _selected_top1(block.trials),
        *metrics,
        *_INTERVAL_ENDS,
        LENGTH._replace(title=None),
        *_TASK_COLUMNS,
        *_SET_COLUMNS,
    )
    rows = tuple(_ranked_row(entry, block, metrics) for entry in entries)
    return Table(block.title, columns, rows)


def _ranked_row(entry: Ranked, block: Block, metrics: Iterable[Column]) -> tuple[object, ...]:
    rank = "-" if entry.rank is None else "%d%s" % (entry.rank, "=" if entry.tied else "")
    n_params = entry.metrics["n_params"]._replace(deviation=None)  # the same for each seed
    low, high = _share_interval(entry.metrics["top1"]) if entry.trials else (None, None)
    values: dict[str | None, object] = {None: _interval_text(len(entry.trials), (low, high))}
    values.update(entry.metrics, n_params=n_params, final_top1=entry.final_top1)
    return (
        rank,
        entry.rank,
        entry.tied,
        entry.policy + states_note(entry.others),
        entry.policy,
        ranking.settings_text(block.differences),
        block.dataset.name,
        block.network.name,
        len(entry.trials),
        entry.deciding["top1"],
        *(values[column.name] for column in metrics),
        low,
        high,
        block.max_iter,
        *_task_values(block.dataset, block.network),
        *next(filter(None, map(ranking.sets_of, block.trials)), (None, None)),
        entry.deciding["top1"],
    )


def _share_interval(spread: Spread) -> tuple[float | None, float | None]:
    """Return the interval of a mean share, cut off at 0 and 1; None if it is unknown."""
    interval = spread.interval
    if interval is None:
        return None, None
    return max(0.0, interval[0]), min(1.0, interval[1])


def _interval_text(seeds: int, interval: tuple[float | None, float | None]) -> str | None:
    """The interval of the mean Top-1 in percent, or the reason why it is unknown."""
    low, high = interval
    if low is None or high is None:
        return {0: None, 1: ONE_SEED}.get(seeds, EQUAL_VALUES)
    return "%s-%s" % (percent(low), percent(high))


def tuned(result: Tuned, by: Collection[str] = ("top1",)) -> Table:
    """Return a table of the ranked policies of a search.

    Args:
        result: A :class:`lrbench_caffe.evaluator.tuner.Tuned`.
        by: The metrics of its goal.
    """
    trials = [trial for entry in result.ranked for trial in entry.trials + entry.others]
    block = ranking.group_comparable(trials)[0]
    return ranked(block, sorted(result.ranked, key=lambda entry: entry.rank or math.inf), by)


def range_test(test: RangeTest) -> Table:
    """Return a table of a range test: Top-1 after several numbers of iterations for each rate.

    Args:
        test: A :class:`lrbench_caffe.evaluator.range_test.RangeTest`. If it swept the rate, the
            table has a single Top-1 for each rate, and no states.
    """
    rate = "lr" if test.swept else "k0"
    columns = (
        Column(rate, rate, repr, True, KEY),
        Column("good", None, importance=KEY),
        Column(None, "good"),
        *(
            _curve_column(curve, test)._replace(importance=importance)
            for curve, importance in zip(test.curves, _curve_importances(len(test.curves)))
        ),
        Column("state", None, importance=KEY),
        Column(None, "diverged"),
        Column(None, "state"),
        Column(None, "error"),
    )
    top1_by_rate = [{point.k0: point.top1 for point in curve.points} for curve in test.curves]
    trials: dict[object, Trial] = {}
    if test.swept:
        rates = [point.k0 for curve in test.curves for point in curve.points]
    else:
        trials = {trial.parameters["k0"]: trial for trial in test.trials}
        rates = sorted(cast("float", k0) for k0 in trials)
    rows = []
    for k0 in rates:
        trial = trials.get(k0)
        state = trial.state if trial else None
        in_range = test.good is not None and test.good.low <= k0 <= test.good.high
        good = in_range and state != FAILED
        rows.append(
            (
                k0,
                "*" if good else "",
                good,
                *(top1.get(k0) for top1 in top1_by_rate),
                state if state in (DIVERGED, FAILED) else "",
                state == DIVERGED,
                state,
                trial.error if trial else None,
            )
        )
    return Table(test.title if test.swept else "%s: Top-1 %%" % test.title, columns, tuple(rows))


def _curve_importances(count: int) -> list[int]:
    """The last curve is that of the whole training; the others are the earlier, the less needed."""
    return [KEY if n == count - 1 else 50 + n for n in range(count)]


def _curve_column(curve: Curve, test: RangeTest) -> Column:
    if test.swept:
        title = "Top-1 %"
    else:
        epochs = " (%.3g epochs)" % (curve.iteration / test.epoch) if test.epoch else ""
        title = "after %d%s" % (curve.iteration, epochs)
    return Column(title, "top1_%d" % curve.iteration, percent, True)


def tuning(tuned: Tuned) -> Table:
    """Return a table of the trainings of a search: each of them in its order, with its reason.

    Args:
        tuned: A :class:`lrbench_caffe.evaluator.tuner.Tuned`.
    """
    columns = (
        STAGE,
        *policy_columns(),
        LENGTH,
        Column("seed", "seed", str, True, SEED),
        Column(None, "state"),
        METRIC_COLUMNS["top1"],
        WHY,
    )
    rows = []
    for training in tuned.tried:
        trial = training.trial
        best = trial.best
        rows.append(
            (
                training.stage,
                _policy_and_state(trial),
                trial.policy,
                trial.setup.solver["max_iter"],
                trial.setup.seed,
                trial.state,
                best and best.top1,
                training.why,
            )
        )
    return Table(None, columns, tuple(rows))


def standings(results: TaskResults, title: str) -> Table:
    """Return a table of the best policies of a task, with their evidence.

    Args:
        results: A :class:`lrbench_caffe.evaluator.recommendation.TaskResults`.
        title: The title of the table.
    """
    shown = ("max_iter", "type", "batch_size")
    differing = [
        ranking.settings_text(item for item in settings if item[0] not in shown)
        for settings in ranking.differing_settings(
            [standing.settings for standing in results.policies]
        )
    ]
    columns = (
        Column("policy", "policy", importance=KEY, policy=True),
        Column(None, "dataset"),
        Column(None, "network"),
        Column("seeds", "seeds", str, True, SEEDS),
        METRIC_COLUMNS["iterations"],
        METRIC_COLUMNS["top1"],
        _INTERVAL,
        *(Column(name, name, str, True) for name in shown),
        Column("settings" if any(differing) else None, "settings"),
        *_INTERVAL_ENDS,
        Column(None, "seed_numbers"),
        Column(None, "little_evidence"),
        Column(None, "similarity"),
        *_TASK_COLUMNS,
        Column(None, "selected_on"),
    )
    rows = tuple(
        _standing_row(standing, results, settings, lacks)
        for standing, settings, lacks in zip(results.policies, differing, results.shortcomings)
    )
    return Table(title, columns, rows)


def _standing_row(
    standing: Standing, results: TaskResults, settings: str, lacks: Sequence[str]
) -> tuple[object, ...]:
    dataset, network = results.task.dataset, results.task.network
    interval = _share_interval(standing.top1)
    return (
        standing.policy,
        dataset.name,
        network.name,
        standing.top1.n,
        standing.iterations,
        standing.top1,
        _interval_text(standing.top1.n, interval),
        standing.settings.get("max_iter"),
        standing.settings.get("type", "SGD"),
        standing.settings.get("batch_size"),
        settings,
        *interval,
        " ".join(map(str, standing.seeds)),
        "; ".join(lacks),
        results.similarity,
        *_task_values(dataset, network),
        standing.settings.get("select") or TEST_SET,
    )


def states_note(others: Sequence[Trial]) -> str:
    """Return the states of trials that do not count, such as " (1 failed, 2 running)", or ""."""
    states = [
        "finished without a test" if trial.state == FINISHED else trial.state for trial in others
    ]
    if not states:
        return ""
    counts = ("%d %s" % (states.count(state), state) for state in sorted(set(states)))
    return " (%s)" % ", ".join(counts)


def facts(entries: Iterable[tuple[str, object]]) -> Table:
    """Return a table of facts, for the formats of documents and programs: (name, value) each."""
    columns = (Column("fact", "name", importance=KEY), Column("value", "value", importance=KEY))
    return Table(None, columns, tuple((name, str(value)) for name, value in entries))
