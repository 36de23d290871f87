"""LR policy ranking (section IV): pure functions from trials to ranked policies and good ranges.

>>> from lrbench_caffe import ranking
>>> ranking.parse_criterion("top1,iterations").kind
'order'
"""
from lrbench_caffe.ranking.ranked import (METRICS, Criterion, Ranked, Spread, alike, by_task, by_top1, counting, criterion,
                                          pareto_front, rank, spread)

__all__ = ["METRICS", "Criterion", "Ranked", "Spread", "alike", "by_task", "by_top1", "counting", "criterion", "pareto_front", "rank",
           "spread"]
