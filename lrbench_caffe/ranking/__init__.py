"""LR policy ranking (section IV): pure functions from trials to ranked policies and good ranges.

>>> from lrbench_caffe import ranking
>>> ranking.parse_criterion("top1,iterations").kind
'order'

The ranges of good constant rates are in :mod:`lrbench_caffe.ranking.ranges`.
"""

from lrbench_caffe.ranking.criteria import METRICS, Criterion, parse_criterion
from lrbench_caffe.ranking.noise import Spread, is_tied, spread
from lrbench_caffe.ranking.ranked import (
    IGNORED_SETTINGS,
    Ranked,
    counted_trials,
    group_by_task,
    pareto_front,
    rank,
    sort_by_top1,
)

__all__ = [
    "IGNORED_SETTINGS",
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
