"""Recommendation: the best policies in a database for a task or similar ones (sections IV, VI).

A task is a dataset and a network. If the database has little evidence for the task itself, or none,
its other tasks are compared with it: their input, classes, training samples, network, optimizer and
batch. Each result comes with its evidence: the trainings, iterations and seeds that it rests on.
"""

from __future__ import annotations

import functools
import math
import operator
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from lrbench_caffe import ranking
from lrbench_caffe.database import standings
from lrbench_caffe.errors import InputError, counted
from lrbench_caffe.ranking import ranges
from lrbench_caffe.trial import TEST_SET, Dataset, Network

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lrbench_caffe.database import Store
    from lrbench_caffe.database.standings import ConstantRate, Standing, TrainedTask
    from lrbench_caffe.trial import Setup

SIMILAR_TASKS = 3  # that are returned if there is little evidence for the task itself, or none
COMPARED_TASKS = 10  # the most similar ones without their networks, which are then compared
DATASET_FACTS = ("shape", "train_samples", "test_samples")  # fields beside the name
MIN_SEEDS = 2  # of a policy with enough evidence; the noise of a single seed is unknown
LISTED_SEEDS = 10  # the most seeds that a sentence lists
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
            than three of them or none is better than guessing.
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
        return not self.shortcomings[0]


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


def query_by_names(store: Store, dataset: str, network: str) -> Query:
    """Make a query from names.

    Args:
        store: The database, which completes the query if it has the dataset or the network.
        dataset: Name of the dataset, or NAME@SHAPE/TRAIN/TEST. A name stands for all datasets with
            that name.
        network: Name of the network, its hash, or NAME@HASH. A name stands for all networks with
            that name.
    """
    newest = standings.find_network(store, network)
    if newest is None:
        newest = Network(network, "", "")
    elif newest.name == network:
        newest = Network(network, "", newest.prototxt)
    return Query(_common_dataset(dataset, standings.find_datasets(store, dataset)), newest)


def _common_dataset(name: str, datasets: Sequence[Dataset]) -> Dataset:
    """What is the same in all of these datasets."""
    if not datasets:
        return Dataset(name, None, None, None)
    shapes, train_samples, test_samples = (
        {getattr(dataset, field) for dataset in datasets} for field in DATASET_FACTS
    )
    return Dataset(
        datasets[0].name,
        shapes.pop() if len(shapes) == 1 else None,
        train_samples.pop() if len(train_samples) == 1 else None,
        test_samples.pop() if len(test_samples) == 1 else None,
    )


def query_from_setup(setup: Setup, dataset: str | None = None, network: str | None = None) -> Query:
    """Make a query from a solver.

    Args:
        setup: What the solver trains.
        dataset: Name of the dataset, if it differs from the one in the setup. The numbers of its
            samples are then unknown.
        network: Name of the network, if it differs from the one in the setup.
    """
    own = setup.dataset
    if dataset and dataset != own.name:
        own = Dataset(dataset, own.shape, None, None)
    return Query(
        own,
        setup.network
        if network in (None, setup.network.name)
        else Network(str(network), "", setup.network.prototxt),
        setup.classes,
        setup.solver,
    )


def recommend(store: Store, query: Query, limit: int = 5) -> Recommendation:
    """Find the best policies for a task, and for similar tasks unless there is enough evidence.

    A task that was trained with another optimizer counts as similar, not as the same, because its
    good rates differ. The same holds for a dataset of another size.

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
    same = [task for task in _tasks_with_names(store, query) if _is_same(task, query)]
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
    store: Store, query: Query, same: Sequence[TrainedTask]
) -> list[tuple[TrainedTask, list[Comparison]]]:
    """Find tasks that are similar to a task that the database has."""
    ids = {(task.dataset_id, task.network_id) for task in same}
    tasks = [
        task for task in standings.tasks(store) if (task.dataset_id, task.network_id) not in ids
    ]
    if not tasks:
        return []
    return _most_similar(store, tasks, _with_classes(query, [*same, *tasks]))[:SIMILAR_TASKS]


def _tasks_with_names(store: Store, query: Query) -> Iterable[TrainedTask]:
    network = query.network.hash or query.network.name
    return standings.tasks(store, query.dataset.name, network)


def _is_same(task: TrainedTask, query: Query) -> bool:
    """Whether a task with the right names also has the query's dataset sizes and optimizer."""
    for field in DATASET_FACTS:
        ours, theirs = getattr(query.dataset, field), getattr(task.dataset, field)
        if None not in (ours, theirs) and ours != theirs:
            return False
    return not query.solver or optimizer(task.settings) == optimizer(query.solver)


def _with_classes(query: Query, tasks: Iterable[TrainedTask]) -> Query:
    """The query with the number of classes that the database has for its dataset."""
    if query.classes is not None:
        return query
    classes = (task.classes for task in tasks if task.dataset == query.dataset)
    return query._replace(classes=next(classes, None))


def _most_similar(
    store: Store, tasks: Iterable[TrainedTask], query: Query
) -> list[tuple[TrainedTask, list[Comparison]]]:
    """Compare tasks with the query; the networks' layers only for the most similar tasks.

    The result is empty if nothing of the query is known that can be compared.
    """
    similar = _sorted((task, _compare_data_and_solver(query, task)) for task in tasks)
    similar = similar[:COMPARED_TASKS]
    if not (similar[0][1] or query.network.prototxt):
        return []
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
    store: Store,
    query: Query,
    compared: Sequence[tuple[TrainedTask, list[Comparison]]],
    limit: int,
) -> tuple[TaskResults, ...]:
    tasks = [task for task, _ in compared]
    lengths = _needed_lengths(store, query, tasks)
    policies = _best_policies(store, query, tasks, lengths, limit)
    constants = standings.constant_rates(store, tasks)
    good_ranges = [
        _good_range(task, _of_the_same_head(query, task, constants[n]))
        for n, task in enumerate(tasks)
    ]
    return tuple(
        TaskResults(
            task=task,
            similarity=_similarity(comparisons),
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


def _needed_lengths(store: Store, query: Query, tasks: Sequence[TrainedTask]) -> list[int]:
    """The length of trainings with enough evidence for each task.

    It is the solver's max_iter, or if that is unknown, the length of the task's longest trainings.
    """
    length = query.solver.get("max_iter")
    return [length] * len(tasks) if length else standings.longest_trainings(store, tasks)


def _best_policies(
    store: Store, query: Query, tasks: Sequence[TrainedTask], lengths: Sequence[int], limit: int
) -> list[list[Standing]]:
    """Find the best policies of each task, those with enough evidence first."""
    enough = standings.best_policies(
        store,
        tasks,
        limit,
        min_seeds=MIN_SEEDS,
        min_iterations=lengths,
        measured=_measured(query.solver) if query.solver else None,
    )
    best = standings.best_policies(store, tasks, limit)
    policies = [
        (first + [standing for standing in others if standing not in first])[:limit]
        for first, others in zip(enough, best)
    ]
    return standings.with_seeds(store, tasks, policies)


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
    return tuple(reasons)


def _measured(solver: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a solver that determine what is measured, and by which set is chosen."""
    names = ("head", "test_net", "select", "report")
    return {name: solver[name] for name in names if solver.get(name) is not None}


def deciding_set(standing: Standing) -> str:
    """Return the set on which the trainings of a policy are compared, which has its Top-1."""
    return str(standing.settings.get("select") or TEST_SET)


def sets_remarks(recommendation: Recommendation) -> list[str]:
    """Return a sentence for each set on which the policies of a recommendation are chosen."""
    sets = dict.fromkeys(
        (deciding_set(standing), standing.settings.get("report"))
        for results in recommendation.all_tasks
        for standing in results.policies
    )
    return [
        ranking.sets_sentence(select, select)
        if report is None
        else "chosen on the %s set, which has these numbers: `lrbench rank` has those on the %s set"
        % (select, report)
        for select, report in sets
    ]


def evidence(standing: Standing) -> str:
    """Describe what the results of a policy rest on.

    >>> from lrbench_caffe.ranking import Spread
    >>> settings, top1 = {"max_iter": 600}, Spread(0.98, 0.01, 2)
    >>> evidence(standings.Standing("FIX(k0=0.1)", "FIX", settings, top1, 500.0, seeds=(1, 2)))
    '2 trainings of 600 iterations with seeds 1, 2'
    """
    count = standing.top1.n
    length = "" if standing.max_iter is None else " of %d iterations" % standing.max_iter
    seeds = ", ".join(map(str, standing.seeds[:LISTED_SEEDS]))
    if len(standing.seeds) > LISTED_SEEDS:
        seeds += ", ..."
    with_seeds = " with seed%s %s" % ("" if count == 1 else "s", seeds) if seeds else ""
    return counted(count, "training") + length + with_seeds


def _rates(policies: Iterable[Standing]) -> tuple[float, float] | None:
    """Find the smallest and the largest rate above 0 in the texts of policies."""
    rates = [float(text) for entry in policies for text in _RATE.findall(entry.policy)]
    positive = [rate for rate in rates if rate > 0]
    return (min(positive), max(positive)) if positive else None


def _of_the_same_head(
    query: Query, task: TrainedTask, constants: Iterable[ConstantRate]
) -> list[ConstantRate]:
    """The constant rates without those of another head of the query's own network."""
    if not query.solver or task.network.hash != query.network.hash:
        return list(constants)
    return [c for c in constants if _measured(c.settings) == _measured(query.solver)]


def _good_range(task: TrainedTask, constants: Iterable[ConstantRate]) -> GoodRange | None:
    """Find the good range among constant rates that were trained with the same settings.

    The optimizer is that of the task's best policy. Of several settings with ENOUGH_RATES rates,
    those with the longest trainings are used; else those with the most rates.

    Args:
        task: The task.
        constants: Its constant rates.
    """
    groups: dict[str, list[ConstantRate]] = {}
    for constant in constants:
        if optimizer(constant.settings) == optimizer(task.settings):
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


def titles(recommendation: Recommendation) -> list[str]:
    """Return a title for each task of a recommendation, such as "LeNet on mnist"."""
    tasks = [(results.task.dataset, results.task.network) for results in recommendation.all_tasks]
    by_task = ranking.task_titles(tasks)
    return [by_task[task] for task in tasks]


def explanations(recommendation: Recommendation) -> list[list[str]]:
    """Explain the results of a recommendation.

    Args:
        recommendation: From :func:`recommend`.

    Returns:
        For each of its tasks, and then for each of its similar tasks, a list of sentences: why it
        is there, its evidence, its good rates, and the rates of its best policies.
    """
    sentences = [explain(recommendation, number) for number in range(len(recommendation.all_tasks))]
    if recommendation.same and not recommendation.has_enough_evidence:
        sentences[len(recommendation.tasks) - 1].append(
            "similar tasks follow"
            if recommendation.similar
            else "the database does not have a similar task"
        )
    return sentences


def explain(recommendation: Recommendation, number: int) -> list[str]:
    """Explain the results of one task of a recommendation.

    Args:
        recommendation: From :func:`recommend`.
        number: The position of the task, counted from 0, among all tasks of the recommendation.
    """
    results = recommendation.all_tasks[number]
    title = titles(recommendation)[number]
    if recommendation.same and number < len(recommendation.tasks):
        sentences = ["%s: the database has results for this task" % title]
    else:
        sentences = [_similarity_explanation(results, title, recommendation.query)]
    return sentences + _evidence_explanation(results) + _rates_explanation(results)


def _similarity_explanation(results: TaskResults, title: str, query: Query) -> str:
    reasons = [comparison.description for comparison in results.comparisons]
    if not query.dataset.shape:
        reasons.append("the input shape of %s is not known" % query.dataset.name)
    own_name = "%s on %s" % (query.network.name, query.dataset.name)
    return "%s is %.0f %% similar to %s: %s" % (
        title,
        100 * results.similarity,
        own_name,
        "; ".join(reasons),
    )


def _evidence_explanation(results: TaskResults) -> list[str]:
    """What the best policy rests on, and whether that is little."""
    sentences = ["its best policy is from %s" % evidence(results.policies[0])]
    if not results.has_enough_evidence:
        sentences.append("this is little evidence: %s" % ", and ".join(results.shortcomings[0]))
    return sentences


def _rates_explanation(results: TaskResults) -> list[str]:
    sentences = []
    if results.good_range:
        (low, high, best, _), count, max_iter, seeds = results.good_range
        length = "" if max_iter is None else " of %d iterations" % max_iter
        sentences.append(
            "its good constant rates go from %r to %r, best %r, from %d rates with trainings%s and"
            " %s"
            % (low, high, best, count, length, "one seed" if seeds == 1 else "%d seeds" % seeds)
        )
    if results.rates:
        sentences.append("the rates of its best policies go from %r to %r" % results.rates)
    return sentences
