"""Ranking criteria: metrics in order, metrics with weights, or the metrics of a Pareto front."""

from __future__ import annotations

import math
from typing import NamedTuple

from lrbench_caffe.errors import InputError, suggestion

# The eight metrics (section III) by the field names of a Summary: whether a larger value is better.
METRICS = {
    "ld": False,
    "iterations": False,
    "top1": True,
    "top5": True,
    "ac": True,
    "cd": False,
    "cdac": False,
    "n_params": False,
}
MAX_WEIGHT = 1e9
ACCURACY_AND_COST = "top1,iterations"


class Criterion(NamedTuple):
    """What policies are ranked by.

    Attributes:
        kind: "order" ranks by the first metric and breaks ties by the next one, "weights" ranks by
            the weighted sum of the metrics, "pareto" ranks by Pareto fronts.
        weights: The metrics by their names in METRICS, in the order in which they were given, with
            their weights. Every weight is 1 unless kind is "weights".
    """

    kind: str
    weights: dict[str, float]


def parse_criterion(text: str) -> Criterion:
    """Return the criterion that a text describes.

    >>> parse_criterion("top1,iterations")
    Criterion(kind='order', weights={'top1': 1.0, 'iterations': 1.0})
    >>> parse_criterion("top1=3,iterations=1")
    Criterion(kind='weights', weights={'top1': 3.0, 'iterations': 1.0})
    >>> parse_criterion("pareto:top1,cdac")
    Criterion(kind='pareto', weights={'top1': 1.0, 'cdac': 1.0})

    Args:
        text: Metrics in order ("top1,iterations"), metrics with weights ("top1=3,iterations=1"), or
            the metrics of a Pareto front ("pareto:top1,iterations"). "pareto" alone stands for the
            accuracy and its cost, that is "pareto:top1,iterations".

    Raises:
        InputError: A metric is unknown or listed twice, a weight is invalid, or the text has
            weights for some of its metrics only or for a Pareto front.
    """
    kind, metrics = "order", text
    prefix, _, front = text.partition(":")
    if prefix == "pareto":
        kind, metrics = "pareto", front or ACCURACY_AND_COST
    weights: dict[str, float] = {}
    for part in metrics.split(","):
        name, equals, weight = part.partition("=")
        name = name.strip()
        if name not in METRICS:
            raise InputError(
                "%r is not a metric to rank by%s" % (name[:60], suggestion(name, METRICS))
            )
        if name in weights:
            raise InputError("%s is listed twice in %r: list each metric once" % (name, text))
        weights[name] = _parse_weight(name, weight) if equals else 1.0
    n_weights = metrics.count("=")
    if n_weights and (kind == "pareto" or n_weights != len(weights)):
        raise InputError(
            "%r mixes ways to rank: give every metric a weight (top1=3,iterations=1), or none of "
            "them (top1,iterations or pareto:top1,iterations)" % text
        )
    return Criterion("weights" if n_weights else kind, weights)


def _parse_weight(name: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight < MAX_WEIGHT:
        raise InputError(
            "%s: invalid weight %r, expected a number above 0 and below %g, for example 3"
            % (name, text[:40], MAX_WEIGHT)
        )
    return weight
