"""The similarity of two tasks: a task of the database, compared with the queried one.

The features are the input, the classes, the training samples, the network, the optimizer, the
batch, and what a training begins with.
"""

from __future__ import annotations

import functools
import math
import operator
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from lrbench_caffe import ranking

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lrbench_caffe.database.standings import TrainedTask
    from lrbench_caffe.evaluator.query import Query

# Weight of each feature in the similarity of two tasks. Chosen: the paper only says that similar
# tasks share good policies.
WEIGHTS = {
    "input": 0.25,
    "classes": 0.2,
    "samples": 0.15,
    "network": 0.25,
    "optimizer": 0.1,
    "batch": 0.05,
    "beginning": 0.25,
}
_LAYER_TYPE = re.compile(r'^  type: "(\w+)"', re.M)  # fillers' types are indented further


class Comparison(NamedTuple):
    """One feature of a task in the database, compared with the queried task.

    Attributes:
        feature: The feature, a key of :data:`WEIGHTS`.
        score: Similarity from 0 to 1.
        description: The comparison in words, e.g. "10 classes, same as yours".
    """

    feature: str
    score: float
    description: str


def average(comparisons: Iterable[Comparison]) -> float:
    """Average the scores by WEIGHTS; 1 without comparisons, which means the same task."""
    comparisons = list(comparisons)
    weight = sum(WEIGHTS[comparison.feature] for comparison in comparisons)
    if not weight:
        return 1.0
    total = sum(WEIGHTS[comparison.feature] * comparison.score for comparison in comparisons)
    return total / weight


def compare_data_and_solver(query: Query, task: TrainedTask) -> list[Comparison]:
    """Compare all features that are known for both tasks, except the network."""
    comparisons = [
        _compare_inputs(query.dataset.shape, task.dataset.shape),
        _compare_classes(query.classes, task.classes),
        _compare_samples(query.dataset.train_samples, task.dataset.train_samples),
    ]
    if query.solver:
        comparisons.append(_compare_optimizers(query.solver, task.settings))
        comparisons.append(_compare_beginnings(query.solver, task.settings))
        comparisons.append(
            _compare_batches(query.solver.get("batch_size"), task.settings.get("batch_size"))
        )
    return [comparison for comparison in comparisons if comparison]


def _compare_inputs(
    ours: tuple[int, ...] | None, theirs: tuple[int, ...] | None
) -> Comparison | None:
    if not (ours and theirs):
        return None
    size = _ratio(_product(ours), _product(theirs))
    channels = 1.0 if ours[0] == theirs[0] else 0.5
    texts = ["x".join(str(length) for length in shape) for shape in (theirs, ours)]
    return Comparison("input", channels * (0.5 + 0.5 * size), _describe("input %s", *texts))


def _compare_classes(ours: int | None, theirs: int | None) -> Comparison | None:
    if not (ours and theirs):
        return None
    return Comparison("classes", _ratio(ours, theirs), _describe("%d classes", theirs, ours))


def _compare_samples(ours: int | None, theirs: int | None) -> Comparison | None:
    """Compare the numbers of training samples; a tenth of the samples still scores a half."""
    if not (ours and theirs):
        return None
    score = 1.0 / (1.0 + abs(math.log10(ours / theirs)))
    return Comparison("samples", score, _describe("%d training samples", theirs, ours))


def _compare_optimizers(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Comparison:
    names = optimizer(theirs), optimizer(ours)
    return Comparison("optimizer", float(names[0] == names[1]), _describe("optimizer %s", *names))


def _compare_beginnings(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Comparison | None:
    """Compare what trainings begin with; None if it is the same, as it usually is."""
    differences = beginning_differences(theirs, ours)
    if not differences:
        return None
    texts = ["%s, yours has %s" % pair for pair in differences]
    return Comparison("beginning", 0.0, ", and ".join(texts))


def _compare_batches(ours: int | None, theirs: int | None) -> Comparison | None:
    if not (ours and theirs):
        return None
    return Comparison("batch", _ratio(theirs, ours), _describe("batch size %d", theirs, ours))


def compare_networks(query: Query, task: TrainedTask, prototxt: str | None) -> Comparison:
    """Compare the networks by the types of their layers.

    Args:
        query: The queried task.
        task: The task in the database.
        prototxt: The canonical prototxt of the task's network, or None if the query has none.
    """
    if task.network.hash == query.network.hash:
        return Comparison("network", 1.0, "the same network as yours")
    if prototxt is None:
        return Comparison("network", 0.0, "another network; the layers of yours are not known")
    ours = Counter(_LAYER_TYPE.findall(query.network.prototxt))
    theirs = Counter(_LAYER_TYPE.findall(prototxt))
    common, union = sum((ours & theirs).values()), sum((ours | theirs).values())
    description = "%d of its %d layers have the types of your %d layers" % (
        common,
        sum(theirs.values()),
        sum(ours.values()),
    )
    return Comparison("network", common / union if union else 0.0, description)


def have_same_rates(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Return whether good rates are the same with two solvers' settings, all else being equal.

    Args:
        first: The settings of one solver by their names in Caffe.
        second: Those of the other.
    """
    return optimizer(first) == optimizer(second) and not beginning_differences(first, second)


def reference(solver: Mapping[str, Any], settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings whose good rates help with a solver, of a task with these settings.

    They are the solver's own if the task has the same good rates. Settings of earlier versions,
    which do not say what a training begins with, would also stand for others.

    Args:
        solver: The solver's settings by their names in Caffe; empty if not known.
        settings: Those of the task.
    """
    return solver if solver and have_same_rates(settings, solver) else settings


def beginning_differences(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Return in which of weights and scale two solvers differ, each as two descriptions.

    The trials of earlier versions do not have these settings. They differ from a solver with
    initial weights only.

    >>> beginning_differences({"scale": 0.5}, {"scale": 1.0})
    [('the input times 0.5', 'the input as it is')]
    """
    pairs = []
    if ranking.file_contents(first, "weights") != ranking.file_contents(second, "weights"):
        pairs.append((_weights_text(first), _weights_text(second)))
    both = ranking.has_input_settings(first) and ranking.has_input_settings(second)
    if both and first["scale"] != second["scale"]:
        pairs.append((_scale_text(first), _scale_text(second)))
    return pairs


def _weights_text(settings: Mapping[str, Any]) -> str:
    if not ranking.has_input_settings(settings):
        return "weights that were not recorded"
    weights = ", ".join(settings.get("weights") or ())
    return "initial weights " + weights if weights else "random initial weights"


def _scale_text(settings: Mapping[str, Any]) -> str:
    scale = settings["scale"]
    return "the input as it is" if scale == 1 else "the input times %s" % scale


def optimizer(settings: Mapping[str, Any]) -> str:
    """Describe the optimizer of a solver.

    Args:
        settings: The solver's settings by their names in Caffe.

    >>> optimizer({"type": "SGD", "momentum": 0.9})
    'SGD with momentum 0.9'
    """
    momentum = settings.get("momentum")
    name: str = settings.get("type", "SGD")
    return name + (" with momentum %g" % momentum if momentum else "")


def _describe(text: str, theirs: object, ours: object) -> str:
    """Describe a feature, e.g. "10 classes, same as yours" or "10 classes, yours has 100"."""
    return text % theirs + (", same as yours" if theirs == ours else ", yours has %s" % ours)


def _product(shape: Iterable[int]) -> int:
    return functools.reduce(operator.mul, shape)


def _ratio(first: float, second: float) -> float:
    """Divide the smaller number by the larger one."""
    return min(first, second) / max(first, second)
