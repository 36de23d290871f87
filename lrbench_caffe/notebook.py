"""The database's trials as pandas DataFrames, and the charts, for a notebook."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Union

from lrbench_caffe.errors import InputError
from lrbench_caffe.trial import Evaluation, Summary

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from lrbench_caffe.policies import Policy
    from lrbench_caffe.trial import Trial

    Drawable = Union[str, Policy, Trial]

_ROW_FIELDS = tuple(
    field.name
    for field in dataclasses.fields(Evaluation)
    if field.name not in ("class_confidence", "heads", "other_sets")
)


def trials(rows: bool = False, dsn: str | None = None, **filters: str | None) -> pandas.DataFrame:
    """Return the trials of the database as a pandas DataFrame.

    Args:
        rows: Whether to return a line for each evaluation. By default there is a line for each
            trial, with the eight metrics at its best evaluation and the Top-1 at its end.
        dsn: The connection string of the database (None: that of the environment variable
            ``LRBENCH_DSN``, else the private database).
        **filters: Which trials: ``study``, ``dataset``, ``network``, ``function``, ``policy`` and
            ``state``, as in ``lrbench rank``.

    Returns:
        Shares are from 0 to 1, and times are in UTC. The column ``trial`` has the trials' ids.

    Raises:
        InputError: pandas is not installed, a filter selects nothing, or the database cannot be
            used.

    Example:
        >>> best = trials(dataset="digits")  # doctest: +SKIP
        >>> best.groupby("policy").top1.agg(["mean", "std", "count"])  # doctest: +SKIP
    """
    frame = _pandas()
    recorded = _recorded(dsn, filters, best_only=not rows)
    if rows:
        lines = [_row_line(trial, row) for trial in recorded for row in trial.rows]
        return frame.DataFrame(lines, columns=["trial", "policy", "seed", *_ROW_FIELDS])
    table = frame.DataFrame([_trial_line(trial) for trial in recorded])
    for column in ("started", "ended"):
        table[column] = frame.to_datetime(table[column], unit="s", utc=True)
    return table


def plot(
    *what: Drawable, max_iter: int | None = None, dsn: str | None = None, **filters: str | None
) -> Figure:
    """Draw policies, or trials.

    Args:
        *what: Policies or their texts, whose rates are drawn against the iteration; or trials,
            whose rates and Top-1 are drawn. Without any, the trials of the database are drawn.
        max_iter: The last iteration to draw of policies (None: what shows their shapes).
        dsn: The database, as in :func:`trials`.
        **filters: Which trials of the database, as in :func:`trials`.

    Returns:
        A matplotlib figure. A notebook shows it if it is the last value of a cell.

    Raises:
        InputError: A policy is invalid, there is nothing to draw, or policies and trials are mixed.

    Example:
        >>> figure = plot("SIN2(k0=0.01, k1=0.06, l=2000)", "FIX(k0=0.01)")
        >>> figure.savefig("rates.pdf")  # doctest: +SKIP
    """
    from lrbench_caffe.policies import Policy
    from lrbench_caffe.report import plots
    from lrbench_caffe.trial import Trial

    chosen: list[Any] = list(what) or _recorded(dsn, filters, best_only=False)
    if all(isinstance(item, Trial) for item in chosen):
        return plots.curves_figure(chosen, "Learning rate and Top-1")
    if any(isinstance(item, Trial) for item in chosen):
        raise InputError("plot() draws policies or trials, not both: call it once for each")
    policies = [Policy.parse(item) if isinstance(item, str) else item for item in chosen]
    return plots.rates_figure(policies, max_iter)


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise InputError(
            "trials() needs pandas, which is not installed: python3 -m pip install pandas"
        ) from None
    return pandas


def _recorded(dsn: str | None, filters: dict[str, str | None], best_only: bool) -> list[Trial]:
    from lrbench_caffe import database

    with database.Store(dsn) as store:
        database.selection.check(store, filters)
        return store.trials(best_only=best_only, **filters)


def _trial_line(trial: Trial) -> dict[str, object]:
    summary = trial.summary
    metrics = summary._asdict() if summary else dict.fromkeys(Summary._fields)
    return {
        "trial": trial.id,
        "policy": trial.policy,
        "function": trial.function,
        "seed": trial.setup.seed,
        "state": trial.state,
        **metrics,
        "final_top1": trial.final.top1 if trial.final else None,
        "n_params": trial.n_params,
        "network": trial.setup.network.name,
        "dataset": trial.setup.dataset.name,
        "max_iter": trial.setup.solver.get("max_iter"),
        "host": trial.host,
        "started": trial.started,
        "ended": trial.ended,
        "origin": trial.origin,
    }


def _row_line(trial: Trial, row: Evaluation) -> tuple[object, ...]:
    values = (getattr(row, name) for name in _ROW_FIELDS)
    return (trial.id, trial.policy, trial.setup.seed, *values)
