"""The best policy of a ranking in a sentence: by how much, whether that is noise, and its cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lrbench_caffe import ranking
from lrbench_caffe.display.tables import METRIC_COLUMNS, metric_text
from lrbench_caffe.errors import counted
from lrbench_caffe.policies import parse_or_none

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrbench_caffe.ranking import Criterion, Ranked

_UNITS = {"top1": " points", "top5": " points"}


class Verdict(NamedTuple):
    """What a ranking says about its best policy.

    Attributes:
        entry: The entry of the best policy.
        text: Its Top-1, its cost, and how it compares with the others.
    """

    entry: Ranked
    text: str


def of_ranking(entries: Sequence[Ranked], criterion: Criterion) -> Verdict | None:
    """Return the verdict on the entries of one block.

    Args:
        entries: The result of :func:`lrbench_caffe.ranking.rank`.
        criterion: What they are ranked by.

    Returns:
        None if no entry has a rank.
    """
    ranked = [entry for entry in entries if entry.rank is not None]
    if not ranked:
        return None
    best, others = ranked[0], ranked[1:]
    return Verdict(best, " ".join(filter(None, (_result(best), _lead(best, others, criterion)))))


def _result(entry: Ranked) -> str:
    """The Top-1 and the cost of an entry."""
    top1, iterations = (metric_text(name, entry.metrics[name]) for name in ("top1", "iterations"))
    seeds = counted(len(entry.trials), "seed")
    return "Top-1 %s %% after %s iterations, %s." % (top1, iterations, seeds)


def _lead(best: Ranked, others: Sequence[Ranked], criterion: Criterion) -> str:
    """How the best entry compares with the others."""
    if not others:
        return "It is the only policy with a finished trial."
    if criterion.kind == "pareto":
        return ""
    tied = [entry for entry in others if best.tied and entry.rank == best.rank]
    if tied:
        return _tie(best, tied)
    metric = next(iter(criterion.weights))
    if criterion.kind == "weights" or best.deciding[metric].mean is None:
        return "The next policy is %s." % others[0].label
    return _difference(best, others, metric)


def _tie(best: Ranked, tied: Sequence[Ranked]) -> str:
    if len(tied) == 1:
        text = "It is tied with %s: the difference is within the noise of the seeds. "
        text %= tied[0].label
    else:
        text = (
            "It is tied with %d other policies: the differences are within the noise of the seeds. "
        )
        text %= len(tied)
    costs = [entry.metrics["iterations"].mean or 0 for entry in (best, *tied)]
    least = min(costs)
    if costs[0] > least:
        cheapest = tied[costs.index(least) - 1]
        text += "%s needs the fewest iterations of them: %s" % (cheapest.label, _result(cheapest))
    elif costs.count(least) == 1:
        text += "It needs the fewest iterations of them."
    return text.strip()


def _title(metric: str) -> str:
    """The title of a metric's column, without its unit."""
    return (METRIC_COLUMNS[metric].title or metric).replace(" %", "")


def _difference(best: Ranked, others: Sequence[Ranked], metric: str) -> str:
    """The lead of the best entry in the metric that decides, and whether it is noise."""
    column, title = METRIC_COLUMNS[metric], _title(metric)
    if best.deciding != best.metrics:
        title += " on the set that decides"
    first, second = best.deciding[metric], others[0].deciding[metric]
    equal = [entry.label for entry in others if entry.deciding[metric].mean == first.mean]
    if equal:
        have = equal[0] + " has" if len(equal) == 1 else "%d other policies have" % len(equal)
        return "%s the same %s." % (have, title)
    if first.mean is None or second.mean is None:
        return "The next policy is %s." % others[0].label
    lead = column.text(abs(first.mean - second.mean)) + _UNITS.get(metric, "")
    if first.deviation is None or second.deviation is None:
        noise = "whether this is noise is unknown with one seed. Train more seeds."
    elif ranking.is_tied(first, second):
        noise = "this is within the noise of the seeds."
    else:
        noise = "more than the noise of the seeds."
    return "It is better than the next policy, %s, by %s in %s: %s" % (
        others[0].label,
        lead,
        title,
        noise,
    )


def remarks(rankings: Sequence[Sequence[Ranked]], criterion: Criterion) -> list[str]:
    """Return the verdict on a ranking as sentences for the terminal.

    Pareto fronts have the sentence that explains their ranks. Several other rankings have none:
    each table begins with its best policy.

    Args:
        rankings: The ranked entries of each block.
        criterion: What they are ranked by.
    """
    if criterion.kind == "pareto":
        return [_fronts(rankings, criterion)] if rankings else []
    verdict = of_ranking(rankings[0], criterion) if len(rankings) == 1 else None
    if verdict is None:
        return []
    policy = verdict.entry.policy
    lines = 'lr_policy: "%s"' % policy if parse_or_none(policy) else policy
    return ["best: " + lines, verdict.text]


def _fronts(rankings: Sequence[Sequence[Ranked]], criterion: Criterion) -> str:
    """What the ranks of Pareto fronts mean."""
    metrics = " and ".join(_title(metric) for metric in criterion.weights)
    text = "rank 1 is the Pareto front for %s" % metrics
    if any(entry.tied for entries in rankings for entry in entries):
        text += "; a policy with = has a worse mean than another one of its rank, within the noise"
    return text
