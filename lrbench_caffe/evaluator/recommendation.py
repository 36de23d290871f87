"""Recommendation: the best policies in a database for a task or similar ones (sections IV, VI).

A task is a dataset and a network. If the database has little evidence for the task itself, or none,
its other tasks are compared with it: their input, classes, training samples, network, optimizer and
batch. Each result comes with its evidence: the trainings, iterations and seeds that it rests on.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from lrbench_caffe.database import standings
from lrbench_caffe.errors import InputError
from lrbench_caffe.evaluator import similarity
from lrbench_caffe.evaluator.query import DATASET_FACTS, Query, query_by_names, query_from_setup
from lrbench_caffe.ranking import ranges
from lrbench_caffe.trial import TEST_SET

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lrbench_caffe.database.standings import (
        ConstantRate,
        Selectable,
        Standing,
        TrainedTask,
    )
    from lrbench_caffe.evaluator.similarity import Comparison

__all__ = [
    "GoodRange",
    "Query",
    "Recommendation",
    "TaskResults",
    "deciding_set",
    "query_by_names",
    "query_from_setup",
    "recommend",
]
SIMILAR_TASKS = 3  # that are returned if there is little evidence for the task itself, or none
COMPARED_TASKS = 10  # the most similar ones without their networks, which are then compared
RATED_POLICIES = 5  # the best ones, whose rates are named
MIN_SEEDS = 2  # of a policy with enough evidence; the noise of a single seed is unknown
MIN_RATES = 3  # constant rates with the same settings that make a good range
MIN_LENGTH = 0.1  # of the needed length: shorter trainings say nothing about a task's good rates
ENOUGH_RATES = 5  # constant rates from which on the length of the trainings decides, not the number
_MEASURED = ("head", "test_net", "select", "report")
_RATE = re.compile(r"\bk[01]=([^,)]+)")  # in a policy's text


class GoodRange(NamedTuple):
    """A range of good constant rates, with its evidence.

    Attributes:
        good: The range.
        rates: The number of constant rates that were trained.
        max_iter: The number of iterations of each training; None if it was not recorded.
        seeds: The smallest number of seeds of a rate.
    """

    good: ranges.Range
    rates: int
    max_iter: int | None
    seeds: int


class TaskResults(NamedTuple):
    """What the database has for a task.

    Attributes:
        task: The task in the database.
        similarity: Similarity to the queried task from 0 to 1; 1 if it is the same.
        comparisons: The features that the similarity consists of; empty if it is the same task.
        policies: The best policies: those with enough evidence come first, and of these the highest
            mean Top-1. Enough are two seeds, trainings as long as the solver's (or if that is
            unknown, as the longest trainings of the task), and the classifier head that the solver
            measures.
        rates: The smallest and the largest rate of the best policies, or None if their text does
            not give rates.
        good_range: The good range of its constant rates with its evidence, or None if it has fewer
            than three of them or none is better than guessing. Rates of the queried task count only
            if their trainings have MIN_LENGTH of the needed length, or an unknown length.
        shortcomings: For each of the policies, what its evidence lacks; empty if it is enough.
    """

    task: TrainedTask
    similarity: float
    comparisons: tuple[Comparison, ...]
    policies: tuple[Standing, ...]
    rates: tuple[float, float] | None
    good_range: GoodRange | None = None
    shortcomings: tuple[tuple[str, ...], ...] = ()

    @property
    def good(self) -> ranges.Range | None:
        """The good range of its constant rates, or None."""
        return self.good_range.good if self.good_range else None

    @property
    def has_enough_evidence(self) -> bool:
        """Whether the best policy rests on enough trainings."""
        return bool(self.shortcomings) and not self.shortcomings[0]


class Recommendation(NamedTuple):
    """The results in a database that help with a task.

    Attributes:
        query: The queried task.
        same: Whether the results are of the queried task itself.
        tasks: The results of the task itself, or of up to :data:`SIMILAR_TASKS` other tasks, the
            most similar one first.
        similar: If the evidence for the task itself is little, the results of up to
            :data:`SIMILAR_TASKS` other tasks, the most similar one first.
    """

    query: Query
    same: bool
    tasks: tuple[TaskResults, ...]
    similar: tuple[TaskResults, ...] = ()

    @property
    def all_tasks(self) -> tuple[TaskResults, ...]:
        """The results of the task itself and of similar tasks."""
        return self.tasks + self.similar

    @property
    def has_enough_evidence(self) -> bool:
        """Whether one of the tasks has a policy that rests on enough trainings."""
        return any(results.has_enough_evidence for results in self.tasks)


def recommend(store: Selectable, query: Query, limit: int = 5) -> Recommendation:
    """Find the best policies for a task, and for similar tasks unless there is enough evidence.

    A task that was trained with another optimizer, other initial weights or another scale of the
    input counts as similar, not as the same, because its good rates differ. The same holds for a
    dataset of another size.

    Args:
        store: The database.
        query: The task.
        limit: Largest number of policies of each task.

    Returns:
        The results of the task itself if there are any, else those of similar tasks. If no policy
        of the task itself has enough evidence, the results of similar tasks are added.

    Raises:
        InputError: The database does not have a finished training, or none that can be compared.
    """
    named = _with_settings_of(store, query, list(_tasks_with_names(store, query)))
    same = [task for task in named if _is_same(task, query)]
    if same:
        results = _results(store, query, [(task, []) for task in same], limit)
        recommendation = Recommendation(query, True, results)
        if recommendation.has_enough_evidence:
            return recommendation
        similar = _similar_to_known(store, query, same)
        return recommendation._replace(similar=_results(store, query, similar, limit))
    tasks = standings.tasks(store)
    if not tasks:
        raise InputError(
            "the database does not have a finished training yet: find good rates with"
            " `lrbench range`, or import the results of others with `lrbench db import`"
        )
    query = _with_classes(query, tasks)
    similar = _most_similar(store, tasks, query)
    if not similar:
        raise InputError(
            "neither the dataset %s nor the network %s is in the database: give --solver FILE,"
            " whose task can be compared with those in the database"
            % (query.dataset.name, query.network.name)
        )
    return Recommendation(query, False, _results(store, query, similar[:SIMILAR_TASKS], limit))


def _similar_to_known(
    store: Selectable, query: Query, same: Sequence[TrainedTask]
) -> list[tuple[TrainedTask, list[Comparison]]]:
    """Find tasks that are similar to a task that the database has."""
    ids = {(task.dataset_id, task.network_id) for task in same}
    tasks = [
        task for task in standings.tasks(store) if (task.dataset_id, task.network_id) not in ids
    ]
    if not tasks:
        return []
    return _most_similar(store, tasks, _with_classes(query, [*same, *tasks]))[:SIMILAR_TASKS]


def _with_settings_of(
    store: Selectable, query: Query, tasks: list[TrainedTask]
) -> list[TrainedTask]:
    """The tasks, each with its best settings that have the query's good rates, if it has some.

    A task has the settings of its best policy. If a net was trained from random weights and from
    those of another training, only one kind helps.
    """
    if not (query.solver and tasks):
        return tasks
    same = [
        [own for own in settings if similarity.have_same_rates(own, query.solver)]
        for settings in standings.settings(store, tasks)
    ]
    return [
        task._replace(settings=settings[0]) if settings else task
        for task, settings in zip(tasks, same)
    ]


def _tasks_with_names(store: Selectable, query: Query) -> Iterable[TrainedTask]:
    network = query.network.hash or query.network.name
    return standings.tasks(store, query.dataset.name, network)


def _is_same(task: TrainedTask, query: Query) -> bool:
    """Whether a task with the right names also has the query's dataset sizes and good rates."""
    for field in DATASET_FACTS:
        ours, theirs = getattr(query.dataset, field), getattr(task.dataset, field)
        if None not in (ours, theirs) and ours != theirs:
            return False
    return not query.solver or similarity.have_same_rates(task.settings, query.solver)


def _with_classes(query: Query, tasks: Iterable[TrainedTask]) -> Query:
    """The query with the number of classes that the database has for its dataset."""
    if query.classes is not None:
        return query
    classes = (task.classes for task in tasks if task.dataset == query.dataset)
    return query._replace(classes=next(classes, None))


def _most_similar(
    store: Selectable, tasks: Iterable[TrainedTask], query: Query
) -> list[tuple[TrainedTask, list[Comparison]]]:
    """Compare tasks with the query; the networks' layers only for the most similar tasks.

    The result is empty if nothing of the query is known that can be compared.
    """
    similar = _sorted((task, similarity.compare_data_and_solver(query, task)) for task in tasks)
    similar = similar[:COMPARED_TASKS]
    if not (similar[0][1] or query.network.prototxt):
        return []
    prototxts = {}
    if query.network.prototxt:
        prototxts = standings.prototxts(store, [task.network for task, _ in similar])
    return _sorted(
        (
            task,
            [
                *comparisons,
                similarity.compare_networks(query, task, prototxts.get(task.network.hash)),
            ],
        )
        for task, comparisons in similar
    )


def _sorted(
    compared: Iterable[tuple[TrainedTask, list[Comparison]]],
) -> list[tuple[TrainedTask, list[Comparison]]]:
    """Sort tasks by their similarity, the most similar one first."""
    return sorted(
        compared,
        key=lambda pair: (-similarity.average(pair[1]), pair[0].dataset_id, pair[0].network_id),
    )


def _results(
    store: Selectable,
    query: Query,
    compared: Sequence[tuple[TrainedTask, list[Comparison]]],
    limit: int,
) -> tuple[TaskResults, ...]:
    tasks = [task for task, _ in compared]
    lengths = _needed_lengths(store, query, tasks)
    settings = _settings_with_same_rates(store, query, tasks)
    policies = _best_policies(store, query, tasks, lengths, settings, limit)
    constants = standings.constant_rates(store, tasks, settings)
    good_ranges = [
        _good_range(
            query,
            task,
            _of_the_same_head(query, task, constants[n]),
            # Other tasks may be much shorter. Their rates only begin a range test.
            min_length=0 if comparisons else MIN_LENGTH * lengths[n],
        )
        for n, (task, comparisons) in enumerate(compared)
    ]
    return tuple(
        TaskResults(
            task=task,
            similarity=similarity.average(comparisons),
            comparisons=tuple(comparisons),
            policies=tuple(policies[n]),
            rates=_rates(policies[n]),
            good_range=good_range,
            shortcomings=tuple(
                _shortcomings(standing, query, lengths[n]) for standing in policies[n]
            ),
        )
        for n, ((task, comparisons), good_range) in enumerate(zip(compared, good_ranges))
    )


def _needed_lengths(store: Selectable, query: Query, tasks: Sequence[TrainedTask]) -> list[int]:
    """The length of trainings with enough evidence for each task.

    It is the solver's max_iter, or if that is unknown, the length of the task's longest trainings.
    """
    length = query.solver.get("max_iter")
    return [length] * len(tasks) if length else standings.longest_trainings(store, tasks)


def _best_policies(
    store: Selectable,
    query: Query,
    tasks: Sequence[TrainedTask],
    lengths: Sequence[int],
    settings: Sequence[Sequence[Mapping[str, Any]]] | None,
    limit: int,
) -> list[list[Standing]]:
    """Find the best policies of each task, those with enough evidence first."""
    enough = standings.best_policies(
        store,
        tasks,
        limit,
        min_seeds=MIN_SEEDS,
        settings=settings,
        min_iterations=lengths,
        measured=_measured(query.solver) if query.solver else None,
    )
    best = standings.best_policies(store, tasks, limit, settings=settings)
    policies = [
        (first + [entry for entry in others if entry not in first])[:limit]
        for first, others in zip(enough, best)
    ]
    return standings.with_seeds(store, tasks, policies)


def _settings_with_same_rates(
    store: Selectable, query: Query, tasks: Sequence[TrainedTask]
) -> list[list[dict[str, Any]]] | None:
    """The settings of each task whose good rates are those that help.

    If the query has no solver, it is None for all settings: the table of the policies then shows
    how each was trained.
    """
    if not query.solver:
        return None
    wanted = [similarity.reference(query.solver, task.settings) for task in tasks]
    return [
        [own for own in settings if similarity.have_same_rates(own, like)]
        for like, settings in zip(wanted, standings.settings(store, tasks))
    ]


def _shortcomings(standing: Standing, query: Query, length: int) -> tuple[str, ...]:
    """What the evidence for a policy lacks; empty if it is enough.

    Args:
        standing: The policy's results.
        query: The task for which policies are wanted.
        length: The length of trainings with enough evidence.
    """
    reasons = []
    if standing.top1.n < MIN_SEEDS:
        reasons.append("it has one seed")
    if (standing.max_iter or 0) < length:
        longer = "the solver trains" if query.solver.get("max_iter") else "others were trained"
        reasons.append("%s %d iterations" % (longer, length))
    if query.solver:
        ours, theirs = _measured(query.solver), _measured(standing.settings)
        if ours.get("select") != theirs.get("select"):
            reasons.append("it was chosen on another set, %s" % deciding_set(standing))
        elif ours != theirs:
            reasons.append("it was measured at another classifier head")
        reasons += [
            "it began with %s, yours with %s" % pair
            for pair in similarity.beginning_differences(standing.settings, query.solver)
        ]
    return tuple(reasons)


def _measured(solver: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a solver that determine what is measured, and by which set is chosen."""
    return {name: solver[name] for name in _MEASURED if solver.get(name) is not None}


def deciding_set(standing: Standing) -> str:
    """Return the set on which the trainings of a policy are compared, which has its Top-1."""
    return str(standing.settings.get("select") or TEST_SET)


def _rates(policies: Iterable[Standing]) -> tuple[float, float] | None:
    """Find the smallest and the largest rate above 0 in the texts of the first policies."""
    first = itertools.islice(policies, RATED_POLICIES)
    rates = [float(text) for entry in first for text in _RATE.findall(entry.policy)]
    positive = [rate for rate in rates if rate > 0]
    return (min(positive), max(positive)) if positive else None


def _of_the_same_head(
    query: Query, task: TrainedTask, constants: Iterable[ConstantRate]
) -> list[ConstantRate]:
    """The constant rates without those of another head of the query's own network."""
    if not query.solver or task.network.hash != query.network.hash:
        return list(constants)
    return [c for c in constants if _measured(c.settings) == _measured(query.solver)]


def _good_range(
    query: Query, task: TrainedTask, constants: Iterable[ConstantRate], min_length: float
) -> GoodRange | None:
    """Find the good range among constant rates that were trained with the same settings.

    The optimizer, the initial weights and the scale of the input are the query's, if the task was
    trained with those, or else those of the task's best policy. Of several settings with
    ENOUGH_RATES rates, those with the longest trainings are used; else those with the most rates.

    Args:
        query: The query.
        task: The task.
        constants: Its constant rates.
        min_length: The least number of iterations of a training that counts.
    """
    groups: dict[str, list[ConstantRate]] = {}
    like = similarity.reference(query.solver, task.settings)
    for constant in constants:
        is_long = constant.settings.get("max_iter", min_length) >= min_length
        if is_long and similarity.have_same_rates(constant.settings, like):
            key = repr(sorted(constant.settings.items()))
            groups.setdefault(key, []).append(constant)

    def preference(group: list[ConstantRate]) -> tuple[int, int, int]:
        length: int = group[0].settings.get("max_iter", 0)
        return min(len(group), ENOUGH_RATES), length, len(group)

    group = max(groups.values(), key=preference, default=[])
    if len(group) < MIN_RATES:
        return None
    points = sorted(ranges.Point(constant.k0, constant.top1, False) for constant in group)
    settings = group[0].settings
    samples = settings.get("select_samples") if "select" in settings else task.dataset.test_samples
    good = ranges.good_range(points, samples, task.classes)
    if good is None:
        return None
    seeds = min(constant.seeds for constant in group)
    return GoodRange(good, len(group), group[0].settings.get("max_iter"), seeds)
