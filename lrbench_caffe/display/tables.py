"""The tables of this program as values: results, studies, rankings, range tests and tuning.

Their text is made by :mod:`lrbench_caffe.display.formats` and, for the terminal,
:mod:`lrbench_caffe.display.console`.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, cast

from lrbench_caffe.display.table import Column, Table, number, percent
from lrbench_caffe.trial import DIVERGED, FAILED, FINISHED, STATES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lrbench_caffe.display.protocols import RangeTest, Standing, StudySummary, Task, Tuned
    from lrbench_caffe.ranking import Ranked
    from lrbench_caffe.ranking.ranges import Curve
    from lrbench_caffe.trial import Dataset, Network, Trial


def _rounded(value: float) -> str:
    return "%.0f" % value


# The metrics in the order of the paper's Tables VII to IX, by the field names of a Summary.
METRICS = (
    Column("LD", "ld", number, True),
    Column("#Iter", "iterations", _rounded, True),
    Column("Top-1 %", "top1", percent, True),
    Column("Top-5 %", "top5", percent, True),
    Column("AC", "ac", number, True),
    Column("CD", "cd", number, True),
    Column("CDAC", "cdac", number, True),
    Column("#Param", "n_params", _rounded, True),
)
_METRIC_COLUMNS = {column.name: column for column in METRICS if column.name}


def results(trials: Iterable[Trial], title: str | None = None, seeds: bool = False) -> Table:
    """Return a table of trials: the policy and the eight metrics of each.

    The metrics are those of the evaluation with the highest Top-1.

    Args:
        trials: The trials, in the order of the rows.
        title: The title of the table.
        seeds: Whether people read the seed. Programs always do.
    """
    columns = (
        Column("policy", None),
        Column(None, "policy"),
        Column(None, "dataset"),
        Column(None, "network"),
        Column("seed" if seeds else None, "seed", str, True),
        Column(None, "state"),
    )
    return Table(title, columns + METRICS, tuple(map(_results_row, trials)))


def _results_row(trial: Trial) -> tuple[object, ...]:
    summary = trial.summary
    metrics = (getattr(summary, name) if summary else None for name in _METRIC_COLUMNS)
    return (
        _policy_and_state(trial),
        trial.policy,
        trial.setup.dataset.name,
        trial.setup.network.name,
        trial.setup.seed,
        trial.state,
        *metrics,
    )


def _policy_and_state(trial: Trial) -> str:
    """The policy with the state behind it, unless the trial is finished."""
    return trial.policy + ("" if trial.state == FINISHED else " (%s)" % trial.state)


def studies(summaries: Iterable[StudySummary]) -> Table:
    """Return a table of studies: the number of trials in each state.

    Args:
        summaries: The result of :func:`lrbench_caffe.database.studies.summaries`.
    """
    states = ("waiting",) + STATES
    columns = (
        Column("study", None),
        Column(None, "study"),
        Column(None, "runs"),
        Column("made", "made", _local_time),
        *(Column(state, state, _count, True) for state in states),
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


def _local_time(time: datetime.datetime) -> str:
    """A time with the name of its zone; some zones have no name but their offset."""
    return time.strftime("%Y-%m-%d %H:%M %Z")


def _count(number: int) -> str:
    return str(number or "")


def ranking(task: tuple[Dataset, Network], ranked: Iterable[Ranked]) -> Table:
    """Return a table of the ranked policies of one task.

    Tied policies have the same rank, with a "=" behind it: "1=".

    Args:
        task: The dataset and the network.
        ranked: The result of :func:`lrbench_caffe.ranking.rank`.
    """
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
    )
    rows = tuple(_ranking_row(entry, dataset, network) for entry in ranked)
    return Table("%s on %s" % (network.name, dataset.name), columns + METRICS, rows)


def _ranking_row(entry: Ranked, dataset: Dataset, network: Network) -> tuple[object, ...]:
    rank = "-" if entry.rank is None else "%d%s" % (entry.rank, "=" if entry.tied else "")
    n_params = entry.metrics["n_params"]._replace(deviation=None)  # the same for each seed
    metrics = dict(entry.metrics, n_params=n_params)
    return (
        rank,
        entry.rank,
        entry.tied,
        entry.label + states_note(entry.others),
        entry.policy,
        " ".join("%s=%s" % item for item in entry.settings),
        dataset.name,
        network.name,
        len(entry.trials),
        *(metrics[name] for name in _METRIC_COLUMNS),
    )


def range_test(test: RangeTest) -> Table:
    """Return a table of a range test: Top-1 after several numbers of iterations for each rate.

    Args:
        test: A :class:`lrbench_caffe.evaluator.range_test.RangeTest`. If it swept the rate, the
            table has a single Top-1 for each rate, and no states.
    """
    rate = "lr" if test.swept else "k0"
    columns = (
        Column(rate, rate, repr, True),
        Column("good", None),
        Column(None, "good"),
        *(_curve_column(curve, test) for curve in test.curves),
        Column("", None),
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


def standings(task: Task, policies: Iterable[Standing]) -> Table:
    """Return a table of the best policies of a task and the solver settings of their trainings.

    Args:
        task: A :class:`lrbench_caffe.database.standings.TrainedTask`.
        policies: The :class:`lrbench_caffe.database.standings.Standing` of each policy.
    """
    columns = (
        Column("policy", "policy"),
        Column(None, "dataset"),
        Column(None, "network"),
        Column("seeds", "seeds", str, True),
        _METRIC_COLUMNS["iterations"],
        _METRIC_COLUMNS["top1"],
        *(Column(name, name, str, True) for name in ("max_iter", "type", "batch_size")),
    )
    rows = (
        (
            standing.policy,
            task.dataset.name,
            task.network.name,
            standing.top1.n,
            standing.iterations,
            standing.top1,
            standing.settings.get("max_iter"),
            standing.settings.get("type", "SGD"),
            standing.settings.get("batch_size"),
        )
        for standing in policies
    )
    return Table("%s on %s" % (task.network.name, task.dataset.name), columns, tuple(rows))


def states_note(others: Sequence[Trial]) -> str:
    """Return the states of trials that do not count, such as " (1 failed, 2 running)", or ""."""
    states = [trial.state for trial in others]
    if not states:
        return ""
    counts = ("%d %s" % (states.count(state), state) for state in sorted(set(states)))
    return " (%s)" % ", ".join(counts)
