"""LR policy ranking (section IV): pure functions from trials to ranked policies and good ranges.

>>> from lrbench_caffe import ranking
>>> ranking.parse_criterion("top1,iterations").kind
'order'
"""

from lrbench_caffe.ranking.ranked import (
    METRICS,
    Criterion,
    Ranked,
    Spread,
    counted_trials,
    group_by_task,
    is_tied,
    pareto_front,
    parse_criterion,
    rank,
    sort_by_top1,
    spread,
)

__all__ = [
    "METRICS",
    "Criterion",
    "Ranked",
    "Spread",
    "counted_trials",
    "group_by_task",
    "is_tied",
    "pareto_front",
    "parse_criterion",
    "rank",
    "sort_by_top1",
    "spread",
]
