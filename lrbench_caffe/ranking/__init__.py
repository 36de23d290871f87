"""LR policy ranking (section IV): pure functions from trials to ranked policies and good ranges.

>>> from lrbench_caffe import ranking
>>> ranking.parse_criterion("top1,iterations").kind
'order'

The ranges of good constant rates are in :mod:`lrbench_caffe.ranking.ranges`.
"""

from lrbench_caffe.ranking.blocks import (
    IGNORED_SETTINGS,
    Block,
    dataset_label,
    differing_settings,
    file_contents,
    group_by_task,
    group_comparable,
    has_input_settings,
    is_input_setting,
    names_remarks,
    network_label,
    setting_text,
    settings_text,
    shape_text,
    task_titles,
)
from lrbench_caffe.ranking.criteria import METRICS, Criterion, parse_criterion
from lrbench_caffe.ranking.noise import Spread, is_tied, spread
from lrbench_caffe.ranking.ranked import (
    Ranked,
    counted_trials,
    pareto_front,
    rank,
    rank_block,
    sort_by_top1,
)
from lrbench_caffe.ranking.sets import sets_of, sets_remarks, sets_sentence

__all__ = [
    "IGNORED_SETTINGS",
    "METRICS",
    "Block",
    "Criterion",
    "Ranked",
    "Spread",
    "counted_trials",
    "dataset_label",
    "differing_settings",
    "file_contents",
    "group_by_task",
    "group_comparable",
    "has_input_settings",
    "is_input_setting",
    "is_tied",
    "names_remarks",
    "network_label",
    "pareto_front",
    "parse_criterion",
    "rank",
    "rank_block",
    "sets_of",
    "sets_remarks",
    "sets_sentence",
    "setting_text",
    "settings_text",
    "shape_text",
    "sort_by_top1",
    "spread",
    "task_titles",
]
