"""The comparison of a target's trials with the published numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrbench_caffe.display.table import KEY, Column, Table, policy_columns
from lrbench_caffe.display.tables import METRICS, SEEDS, states_note
from lrbench_caffe.paper.scaling import scaled_policies
from lrbench_caffe.paper.targets import scaled_title
from lrbench_caffe.ranking import Spread, counted_trials, spread
from lrbench_caffe.trial import FINISHED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lrbench_caffe.paper.targets import Published, Target
    from lrbench_caffe.trial import Trial

PUBLISHED_SEEDS = 5  # trainings behind each mean of the paper
_COLUMNS = METRICS[:-1]  # without #Param, which no training measures
_NAMES = [column.name for column in _COLUMNS if column.name]


def counted_trials_under(policy: str, trials: Iterable[Trial]) -> list[Trial]:
    """Return the trials under a policy that count, one for each seed.

    See :func:`lrbench_caffe.ranking.counted_trials`.
    """
    return counted_trials(trial for trial in trials if trial.policy == policy)


def comparison_table(target: Target, trials: Sequence[Trial], scale: float) -> Table:
    """Return a table with up to three rows for each policy: ours, published, and the difference.

    "ours" has the mean and the sample standard deviation over the seeds, each at the evaluation
    with the highest Top-1. A value that the paper does not print is None, and so is the difference
    to a misprint. At a scale below 1, the difference of #Iter is to the published value times the
    scale.

    Args:
        target: The table or figure.
        trials: Its trials.
        scale: The scale at which they were trained.
    """
    columns = (
        *policy_columns(),
        Column("", "line", importance=KEY),
        Column(None, "scale"),
        Column("seeds", "seeds", str, True, SEEDS),
    )
    published_rows = {published.policy: published for published in target.published}
    rows: list[tuple[object, ...]] = []
    for text, policy in scaled_policies(target, scale).items():
        counted = counted_trials_under(policy, trials)
        ours = {name: spread(getattr(trial.summary, name) for trial in counted) for name in _NAMES}
        others = [trial for trial in trials if trial.policy == policy and trial.state != FINISHED]
        label = policy + states_note(others)
        rows.append((label, policy, "ours", scale, len(counted), *ours.values()))
        if text in published_rows:
            published = published_rows[text]
            values = [_published_value(published, name) for name in _NAMES]
            differences = [_difference(published, name, ours[name].mean, scale) for name in _NAMES]
            rows.append(("", text, "published", 1, None, *values))
            rows.append(("", policy, "difference", scale, None, *differences))
    return Table(scaled_title(target, scale), columns + _COLUMNS, tuple(rows))


def _published_value(published: Published, name: str) -> Spread | float | None:
    value = published.metrics.get(name)
    if name == "top1" and published.top1_std is not None:
        return Spread(value, published.top1_std, PUBLISHED_SEEDS)
    return value


def _difference(published: Published, name: str, ours: float | None, scale: float) -> float | None:
    if ours is None or name not in published.metrics or name in published.slips:
        return None
    return ours - published.metrics[name] * (scale if name == "iterations" else 1)
