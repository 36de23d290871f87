"""Recommendation: the best policies in a database for a task or similar ones (sections IV, VI).

A task is a dataset and a network. If the database does not have results for the task itself, its
tasks are compared with it: their input, classes, training samples, network, optimizer and batch.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from lrbench_caffe.database import standings
from lrbench_caffe.errors import InputError
from lrbench_caffe.ranking import ranges
from lrbench_caffe.trial import Dataset, Network

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lrbench_caffe.database import Store
    from lrbench_caffe.database.standings import Standing, TrainedTask
    from lrbench_caffe.trial import Setup

SIMILAR_TASKS = 3  # that are returned if the database does not have the task itself
COMPARED_TASKS = 10  # the most similar ones without their networks, which are then compared
MIN_RATES = 3  # constant rates with the same settings that make a good range
ENOUGH_RATES = 5  # constant rates from which on the length of the trainings decides, not the number
# Weight of each feature in the similarity of two tasks. Chosen: the paper only says that similar
# tasks share good policies.
WEIGHTS = {
    "input": 0.25,
    "classes": 0.2,
    "samples": 0.15,
    "network": 0.25,
    "optimizer": 0.1,
    "batch": 0.05,
}
_RATE = re.compile(r"\bk[01]=([^,)]+)")  # in a policy's text
_LAYER_TYPE = re.compile(r'^  type: "(\w+)"', re.M)  # fillers' types are indented further


class Query(NamedTuple):
    """The task for which policies are wanted. Unknown values are None or "".

    Attributes:
        dataset: The dataset to train on.
        network: The network to train.
        classes: Number of classes.
        solver: The solver's settings by their names in Caffe; empty if not known.
    """

    dataset: Dataset
    network: Network
    classes: int | None = None
    solver: Mapping[str, Any] = {}


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


class TaskResults(NamedTuple):
    """What the database has for a task.

    Attributes:
        task: The task in the database.
        similarity: Similarity to the queried task from 0 to 1; 1 if it is the same.
        comparisons: The features that the similarity consists of; empty if it is the same task.
        policies: The best policies, the highest mean Top-1 first.
        good: The good range of its constant rates, or None if it has fewer than three of them or
            none is better than guessing.
        rates: The smallest and the largest rate of the best policies, or None if their text does
            not give rates.
    """

    task: TrainedTask
    similarity: float
    comparisons: tuple[Comparison, ...]
    policies: tuple[Standing, ...]
    good: ranges.Range | None
    rates: tuple[float, float] | None


class Recommendation(NamedTuple):
    """The results in a database that help with a task.

    Attributes:
        query: The queried task.
        same: Whether the results are of the queried task itself.
        tasks: The results of the task itself, or of up to :data:`SIMILAR_TASKS` other tasks, the
            most similar one first.
    """

    query: Query
    same: bool
    tasks: tuple[TaskResults, ...]


def query_by_names(store: Store, dataset: str, network: str) -> Query:
    """Make a query from names.

    Args:
        store: The database, which completes the query if it has the dataset or the network.
        dataset: Name of the dataset.
        network: Name of the network, or its hash. A name stands for all networks with that name.
    """
    newest = standings.find_network(store, network)
    if newest is None or newest.hash != network:
        newest = Network(network, "", newest.prototxt if newest else "")
    unknown = Dataset(dataset, None, None, None)
    return Query(standings.find_dataset(store, dataset) or unknown, newest)


def query_from_setup(setup: Setup, dataset: str | None = None, network: str | None = None) -> Query:
    """Make a query from a solver.

    Args:
        setup: What the solver trains.
        dataset: Name of the dataset, if it differs from the one in the setup.
        network: Name of the network, if it differs from the one in the setup.
    """
    return Query(
        dataclasses.replace(setup.dataset, name=dataset or setup.dataset.name),
        Network(network, "", setup.network.prototxt) if network else setup.network,
        setup.classes,
        setup.solver,
    )


def recommend(store: Store, query: Query, limit: int = 5) -> Recommendation:
    """Find the best policies for a task, or else for similar tasks.

    A task that was trained with another optimizer counts as similar, not as the same, because its
    good rates differ.

    Args:
        store: The database.
        query: The task.
        limit: Largest number of policies of each task.

    Returns:
        The results of the task itself if there are any, else those of similar tasks.

    Raises:
        InputError: The database does not have a finished training, or none that can be compared.
    """
    same = [task for task in _tasks_with_names(store, query) if _is_same(task, query)]
    if same:
        results = _results(store, [(task, []) for task in same], limit)
        return Recommendation(query, True, results)
    tasks = standings.tasks(store)
    if not tasks:
        raise InputError(
            "the database does not have a finished training yet: find good rates with"
            " `lrbench range`, or import the results of others with `lrbench db import`"
        )
    if query.classes is None:
        query = query._replace(classes=_classes_of_dataset(tasks, query.dataset))
    similar = _most_similar(store, tasks, query)
    return Recommendation(query, False, _results(store, similar[:SIMILAR_TASKS], limit))


def _tasks_with_names(store: Store, query: Query) -> Iterable[TrainedTask]:
    network = query.network.hash or query.network.name
    return standings.tasks(store, query.dataset.name, network)


def _is_same(task: TrainedTask, query: Query) -> bool:
    """Whether a task with the right names also has the query's input shape and optimizer."""
    shapes = {task.dataset.shape, query.dataset.shape} - {None}
    return len(shapes) < 2 and (
        not query.solver or optimizer(task.settings) == optimizer(query.solver)
    )


def _classes_of_dataset(tasks: Iterable[TrainedTask], dataset: Dataset) -> int | None:
    return next((task.classes for task in tasks if task.dataset == dataset), None)


def _most_similar(
    store: Store, tasks: Iterable[TrainedTask], query: Query
) -> list[tuple[TrainedTask, list[Comparison]]]:
    """Compare tasks with the query; the networks' layers only for the most similar tasks."""
    similar = _sorted((task, _compare_data_and_solver(query, task)) for task in tasks)
    similar = similar[:COMPARED_TASKS]
    if not (similar[0][1] or query.network.prototxt):
        raise InputError(
            "neither the dataset %s nor the network %s is in the database: give --solver FILE,"
            " whose task can be compared with those in the database"
            % (query.dataset.name, query.network.name)
        )
    prototxts = {}
    if query.network.prototxt:
        prototxts = standings.prototxts(store, [task.network for task, _ in similar])
    return _sorted(
        (
            task,
            [*comparisons, _compare_networks(query, task, prototxts.get(task.network.hash))],
        )
        for task, comparisons in similar
    )


def _sorted(
    compared: Iterable[tuple[TrainedTask, list[Comparison]]],
) -> list[tuple[TrainedTask, list[Comparison]]]:
    """Sort tasks by their similarity, the most similar one first."""
    return sorted(
        compared, key=lambda pair: (-_similarity(pair[1]), pair[0].dataset_id, pair[0].network_id)
    )


def _results(
    store: Store, compared: Sequence[tuple[TrainedTask, list[Comparison]]], limit: int
) -> tuple[TaskResults, ...]:
    tasks = [task for task, _ in compared]
    policies = standings.best_policies(store, tasks, limit)
    constants = standings.constant_rates(store, tasks)
    return tuple(
        TaskResults(
            task,
            _similarity(comparisons),
            tuple(comparisons),
            tuple(policies[n]),
            _good_range(task, constants[n]),
            _rates(policies[n]),
        )
        for n, (task, comparisons) in enumerate(compared)
    )


def _rates(policies: Iterable[Standing]) -> tuple[float, float] | None:
    """Find the smallest and the largest rate above 0 in the texts of policies."""
    rates = [float(text) for entry in policies for text in _RATE.findall(entry.policy)]
    positive = [rate for rate in rates if rate > 0]
    return (min(positive), max(positive)) if positive else None


def _good_range(
    task: TrainedTask, constants: Iterable[tuple[float, Mapping[str, Any], float]]
) -> ranges.Range | None:
    """Find the good range among constant rates that were trained with the same settings.

    The optimizer is that of the task's best policy. Of several settings with ENOUGH_RATES rates,
    those with the longest trainings are used; else those with the most rates.

    Args:
        task: The task.
        constants: (k0, settings, Top-1) of each constant rate.
    """
    groups: dict[str, tuple[int, list[ranges.Point]]] = {}
    for k0, settings, top1 in constants:
        if optimizer(settings) == optimizer(task.settings):
            key = repr(sorted(settings.items()))
            _, points = groups.setdefault(key, (settings.get("max_iter", 0), []))
            points.append(ranges.Point(k0, top1, False))
    _, points = max(
        groups.values(),
        key=lambda group: (min(len(group[1]), ENOUGH_RATES), group[0], len(group[1])),
        default=(0, []),
    )
    if len(points) < MIN_RATES:
        return None
    return ranges.good_range(sorted(points), task.dataset.test_samples, task.classes)


def _similarity(comparisons: Iterable[Comparison]) -> float:
    """Average the scores by WEIGHTS; 1 without comparisons, which means the same task."""
    comparisons = list(comparisons)
    weight = sum(WEIGHTS[comparison.feature] for comparison in comparisons)
    if not weight:
        return 1.0
    total = sum(WEIGHTS[comparison.feature] * comparison.score for comparison in comparisons)
    return total / weight


def _compare_data_and_solver(query: Query, task: TrainedTask) -> list[Comparison]:
    """Compare all features that are known for both tasks, except the network."""
    comparisons = [
        _compare_inputs(query.dataset.shape, task.dataset.shape),
        _compare_classes(query.classes, task.classes),
        _compare_samples(query.dataset.train_samples, task.dataset.train_samples),
    ]
    if query.solver:
        comparisons.append(_compare_optimizers(query.solver, task.settings))
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


def _compare_batches(ours: int | None, theirs: int | None) -> Comparison | None:
    if not (ours and theirs):
        return None
    return Comparison("batch", _ratio(theirs, ours), _describe("batch size %d", theirs, ours))


def _compare_networks(query: Query, task: TrainedTask, prototxt: str | None) -> Comparison:
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


def explanations(recommendation: Recommendation) -> list[list[str]]:
    """Explain the results of a recommendation.

    Args:
        recommendation: From :func:`recommend`.

    Returns:
        For each of its tasks a list of sentences: why it is there, its good rates, and the rates
        of its best policies.
    """
    return [_explanation(results, recommendation) for results in recommendation.tasks]


def _explanation(results: TaskResults, recommendation: Recommendation) -> list[str]:
    query = recommendation.query
    name = "%s on %s" % (results.task.network.name, results.task.dataset.name)
    if recommendation.same:
        sentences = ["%s: the database has results for this task" % name]
    else:
        reasons = [comparison.description for comparison in results.comparisons]
        if not query.dataset.shape:
            reasons.append("the input shape of %s is not known" % query.dataset.name)
        own_name = "%s on %s" % (query.network.name, query.dataset.name)
        sentences = [
            "%s is %.0f %% similar to %s: %s"
            % (name, 100 * results.similarity, own_name, "; ".join(reasons))
        ]
    if results.good:
        low, high, best, _ = results.good
        sentences.append("its good constant rates go from %r to %r, best %r" % (low, high, best))
    if results.rates:
        sentences.append("the rates of its best policies go from %r to %r" % results.rates)
    return sentences
