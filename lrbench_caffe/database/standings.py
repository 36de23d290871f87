"""How policies did on the tasks in the database: what a recommendation is made from.

The table ``standing`` has a row for each policy on a task, with the mean over its seeds. Triggers
keep it up to date, so the queries here take the same time however many trials there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Mapping, NamedTuple, Optional, Sequence, Tuple

from psycopg2.extras import Json

from lrbench_caffe.database.names import DATASET_MATCHES, NETWORK_MATCHES, ORIGIN_MATCHES
from lrbench_caffe.ranking import Spread
from lrbench_caffe.trial import Dataset, Network

if TYPE_CHECKING:
    from typing import Protocol  # Python 3.7 does not have it

    from lrbench_caffe.database.store import Store

    class Selectable(Protocol):
        """What answers the queries here: a store, or the trials of one origin in it."""

        def select(self, query: str, values: Any = None) -> list[Any]:
            """Run a query and return its result lines."""


CONSTANTS = 200  # the most constant rates that are read for a task

# The best standing of each (dataset, network). Each costs one index lookup, however many standings
# lie between two of them.
_BEST_OF_ALL_TASKS = """
        WITH RECURSIVE best AS (
            (SELECT dataset_id, network_id, settings, task_id FROM standing
             ORDER BY dataset_id, network_id, top1 DESC, iterations LIMIT 1)
            UNION ALL
            SELECT following.* FROM best, LATERAL (
                SELECT dataset_id, network_id, settings, task_id FROM standing
                WHERE (dataset_id, network_id) > (best.dataset_id, best.network_id)
                ORDER BY dataset_id, network_id, top1 DESC, iterations LIMIT 1) AS following)
        SELECT * FROM best"""

_BEST_OF_NAMED_TASKS = (
    """
        SELECT first.* FROM dataset, network, LATERAL (
            SELECT dataset_id, network_id, settings, task_id FROM standing
            WHERE dataset_id = dataset.id AND network_id = network.id
            ORDER BY top1 DESC, iterations LIMIT 1) AS first
        WHERE """
    + DATASET_MATCHES
    + " AND "
    + NETWORK_MATCHES
)

_TASKS = """
    SELECT dataset_id, network_id, dataset.name AS dataset, shape, train_samples, test_samples,
           network.name AS network, hash, classes, settings
    FROM ({best}) AS best
    JOIN dataset ON dataset.id = dataset_id JOIN network ON network.id = network_id
    LEFT JOIN task ON task.id = task_id"""

# The next queries answer for several tasks at once, because each query costs a round trip.
_BEST_POLICIES = """
    SELECT pair.place, policy_id, policy.text, policy.function, settings, seeds, top1, top1_std,
           iterations
    FROM unnest(%(datasets)s::integer[], %(networks)s::integer[], %(lengths)s::bigint[],
                %(allowed)s::jsonb[])
        WITH ORDINALITY AS pair (dataset_id, network_id, length, allowed, place), LATERAL (
        SELECT * FROM standing
        WHERE dataset_id = pair.dataset_id AND network_id = pair.network_id
            AND seeds >= %(min_seeds)s
            AND COALESCE((settings->>'max_iter')::bigint, 0) >= pair.length
            AND (allowed IS NULL OR settings IN (SELECT jsonb_array_elements(allowed)))
            AND (%(measured)s::jsonb IS NULL OR jsonb_strip_nulls(jsonb_build_object(
                 'head', settings->'head', 'test_net', settings->'test_net',
                 'select', settings->'select', 'report', settings->'report')) = %(measured)s::jsonb)
        ORDER BY top1 DESC, iterations, policy_id LIMIT %(limit)s) AS best
    JOIN policy ON policy.id = policy_id
    ORDER BY pair.place, top1 DESC, iterations, policy_id"""

_SETTINGS = """
    SELECT pair.place, settings
    FROM unnest(%(datasets)s::integer[], %(networks)s::integer[])
        WITH ORDINALITY AS pair (dataset_id, network_id, place), LATERAL (
        SELECT settings, max(top1) AS top1 FROM standing
        WHERE dataset_id = pair.dataset_id AND network_id = pair.network_id
        GROUP BY settings) AS found
    ORDER BY pair.place, top1 DESC"""

_SEEDS = """
    SELECT pair.place, policy_id, settings, seeds
    FROM unnest(%(datasets)s::integer[], %(networks)s::integer[])
        WITH ORDINALITY AS pair (dataset_id, network_id, place), LATERAL (
        SELECT policy_id, learning(solver) AS settings,
               array_agg(DISTINCT seed ORDER BY seed) AS seeds FROM trial
        WHERE dataset_id = pair.dataset_id AND network_id = pair.network_id
            AND policy_id = ANY (%(policies)s::integer[])
            AND state = 'finished' AND best_top1 IS NOT NULL
        GROUP BY policy_id, learning(solver)) AS seeds_of_policy"""

_CONSTANT_RATES = """
    SELECT pair.place, k0, settings, top1, seeds
    FROM unnest(%(datasets)s::integer[], %(networks)s::integer[], %(allowed)s::jsonb[])
        WITH ORDINALITY AS pair (dataset_id, network_id, allowed, place), LATERAL (
        SELECT * FROM standing
        WHERE dataset_id = pair.dataset_id AND network_id = pair.network_id AND k0 IS NOT NULL
            AND (allowed IS NULL OR settings IN (SELECT jsonb_array_elements(allowed)))
        ORDER BY k0 LIMIT %(limit)s) AS constant"""

_LONGEST = """
    SELECT pair.place, length
    FROM unnest(%(datasets)s::integer[], %(networks)s::integer[])
        WITH ORDINALITY AS pair (dataset_id, network_id, place), LATERAL (
        SELECT max((settings->>'max_iter')::bigint) AS length FROM standing
        WHERE dataset_id = pair.dataset_id AND network_id = pair.network_id) AS longest
    ORDER BY pair.place"""

_DATASETS = (
    "SELECT name, shape, train_samples, test_samples FROM dataset WHERE "
    + DATASET_MATCHES
    + " ORDER BY id DESC"
)

_NEWEST_NETWORK = (
    "SELECT name, hash, prototxt FROM network WHERE "
    + NETWORK_MATCHES
    + " ORDER BY id DESC LIMIT 1"
)

# In front of a query: the trials of one origin and their standings, instead of the tables.
_OF_ORIGIN = (
    """
    WITH trial AS (SELECT * FROM trial WHERE """
    + ORIGIN_MATCHES
    + """),
    standing AS (
        SELECT dataset_id, network_id, task_id, policy_id, settings,
               CASE WHEN function = 'FIX' THEN (parameters->>'k0')::float8 END AS k0,
               count(*) AS seeds, avg(best_top1) AS top1, stddev_samp(best_top1) AS top1_std,
               avg(best_iteration)::float8 AS iterations
        FROM (SELECT DISTINCT ON (dataset_id, network_id, policy_id, learning(solver), seed)
                     dataset_id, network_id, task_id, policy_id, learning(solver) AS settings,
                     best_top1, best_iteration
              FROM trial WHERE state = 'finished' AND best_top1 IS NOT NULL
              ORDER BY dataset_id, network_id, policy_id, learning(solver), seed,
                       started_at DESC) AS latest
        JOIN policy ON policy.id = policy_id
        GROUP BY dataset_id, network_id, task_id, policy_id, settings, function, parameters)"""
)

_PROTOTXTS = "SELECT hash, prototxt FROM network WHERE hash = ANY (%s)"


class OfOrigin:
    """The standings of the trials of one origin, for the functions here instead of the store.

    They are computed for each query, so a query takes longer than on the store itself.

    Args:
        store: The database.
        origin: The origin, as :meth:`lrbench_caffe.database.Store.trials` selects it.
    """

    def __init__(self, store: Store, origin: str) -> None:
        self._store = store
        self._origin = origin

    def select(self, query: str, values: Any = None) -> list[Any]:
        """Run a query on the trials and standings of the origin."""
        if isinstance(values, dict):
            return self._store.select(_OF_ORIGIN + query, dict(values, origin=self._origin))
        return self._store.select(query, values)  # of networks or datasets


def selectable(store: Store, origin: str | None) -> Selectable:
    """Return what the functions here read: the store, or the trials of one origin in it."""
    return store if origin is None else OfOrigin(store, origin)


class TrainedTask(NamedTuple):
    """A dataset and a network on which the database has finished trials.

    Attributes:
        dataset_id: The dataset's id in the database.
        network_id: The network's id in the database.
        dataset: The dataset.
        network: The network, with an empty prototxt; :func:`prototxts` reads it.
        classes: The number of classes, or None where the net does not specify it.
        settings: The solver's settings of the best policy on this task.
    """

    dataset_id: int
    network_id: int
    dataset: Dataset
    network: Network
    classes: Optional[int]
    settings: Dict[str, Any]


class Standing(NamedTuple):
    """How a policy did on a task with one set of solver settings.

    Attributes:
        policy: The policy's canonical text.
        function: The name of its function.
        settings: The solver's settings that matter for what is learned.
        top1: The highest Top-1 of a trial on the set that decides, over the seeds.
        iterations: The mean of #Iterations over the seeds.
        policy_id: The policy's id in the database.
        seeds: The seeds of its trials in ascending order; empty until :func:`with_seeds` reads
            them.
    """

    policy: str
    function: str
    settings: Dict[str, Any]
    top1: Spread
    iterations: float
    policy_id: int = 0
    seeds: Tuple[int, ...] = ()

    @property
    def max_iter(self) -> int | None:
        """The number of iterations of its trainings, or None if it was not recorded."""
        return self.settings.get("max_iter")


class ConstantRate(NamedTuple):
    """How a constant rate did on a task with one set of solver settings.

    Attributes:
        k0: The rate.
        settings: The solver's settings.
        top1: The mean Top-1 over the seeds.
        seeds: The number of seeds.
    """

    k0: float
    settings: Dict[str, Any]
    top1: float
    seeds: int


def tasks(
    store: Selectable, dataset: str | None = None, network: str | None = None
) -> list[TrainedTask]:
    """Return the tasks on which policies have been trained.

    Args:
        store: The database.
        dataset: The dataset as :meth:`lrbench_caffe.database.Store.trials` selects it; None for
            all tasks.
        network: The network as this method selects it. It is required with a dataset, and ignored
            without.
    """
    best = _BEST_OF_NAMED_TASKS if dataset else _BEST_OF_ALL_TASKS
    return [
        TrainedTask(
            dataset_id=line.dataset_id,
            network_id=line.network_id,
            dataset=_dataset(line.dataset, line),
            network=Network(line.network, line.hash, ""),
            classes=line.classes,
            settings=line.settings,
        )
        for line in store.select(_TASKS.format(best=best), {"dataset": dataset, "network": network})
    ]


def best_policies(
    store: Selectable,
    tasks: Sequence[TrainedTask],
    limit: int,
    min_seeds: int = 1,
    min_iterations: Sequence[int] = (),
    measured: Mapping[str, Any] | None = None,
    settings: Sequence[Sequence[Mapping[str, Any]]] | None = None,
) -> list[list[Standing]]:
    """Return the best policies of each task.

    Args:
        store: The database.
        tasks: The tasks.
        limit: The number of policies for each task.
        min_seeds: The smallest number of seeds.
        min_iterations: The smallest max_iter of the trainings of each task; none for any length.
        measured: The settings "head", "test_net", "select" and "report" of the trainings, each only
            if it is set; None for any.
        settings: For each task the settings of the trainings; None for any.

    Returns:
        For each task its standings, the highest mean Top-1 first.
    """
    standings: list[list[Standing]] = [[] for _ in tasks]
    filters = {
        "min_seeds": min_seeds,
        "lengths": list(min_iterations) or [0] * len(tasks),
        "measured": None if measured is None else Json(measured),
        "allowed": _of_each_task(tasks, settings),
        "limit": limit,
    }
    for line in _select_for_tasks(store, _BEST_POLICIES, tasks, filters):
        standings[line.place - 1].append(
            Standing(
                policy=line.text,
                function=line.function,
                settings=line.settings,
                top1=Spread(line.top1, line.top1_std, line.seeds),
                iterations=line.iterations,
                policy_id=line.policy_id,
            )
        )
    return standings


def _of_each_task(
    tasks: Sequence[TrainedTask], settings: Sequence[Sequence[Mapping[str, Any]]] | None
) -> list[Any]:
    """The settings of each task as an array of JSON, or NULL for any."""
    return [None] * len(tasks) if settings is None else [Json(list(own)) for own in settings]


def settings(store: Selectable, tasks: Sequence[TrainedTask]) -> list[list[dict[str, Any]]]:
    """Return the solver settings with which each task was trained, those of the best Top-1 first.

    Args:
        store: The database.
        tasks: The tasks.
    """
    found: list[list[dict[str, Any]]] = [[] for _ in tasks]
    for line in _select_for_tasks(store, _SETTINGS, tasks, {}):
        found[line.place - 1].append(line.settings)
    return found


def with_seeds(
    store: Selectable, tasks: Sequence[TrainedTask], policies: Sequence[Sequence[Standing]]
) -> list[list[Standing]]:
    """Return the standings of each task with the seeds of their trials."""
    ids = sorted({standing.policy_id for standings in policies for standing in standings})
    lines = _select_for_tasks(store, _SEEDS, tasks, {"policies": ids})

    def seeds(place: int, standing: Standing) -> tuple[int, ...]:
        key = place, standing.policy_id, standing.settings
        matching = (line.seeds for line in lines if line[:3] == key)
        return tuple(next(matching, ()))

    return [
        [standing._replace(seeds=seeds(place, standing)) for standing in standings]
        for place, standings in enumerate(policies, 1)
    ]


def constant_rates(
    store: Selectable,
    tasks: Sequence[TrainedTask],
    settings: Sequence[Sequence[Mapping[str, Any]]] | None = None,
) -> list[list[ConstantRate]]:
    """Return how constant learning rates did on each task.

    Args:
        store: The database.
        tasks: The tasks.
        settings: For each task the settings of the trainings; None for any.

    Returns:
        For each task up to CONSTANTS rates in ascending order.
    """
    rates: list[list[ConstantRate]] = [[] for _ in tasks]
    values = {"limit": CONSTANTS, "allowed": _of_each_task(tasks, settings)}
    for line in _select_for_tasks(store, _CONSTANT_RATES, tasks, values):
        rates[line.place - 1].append(ConstantRate(line.k0, line.settings, line.top1, line.seeds))
    return rates


def longest_trainings(store: Selectable, tasks: Sequence[TrainedTask]) -> list[int]:
    """Return the largest max_iter of each task; 0 if it was not recorded."""
    return [line.length or 0 for line in _select_for_tasks(store, _LONGEST, tasks, {})]


def _select_for_tasks(
    store: Selectable, query: str, tasks: Sequence[TrainedTask], values: Mapping[str, Any]
) -> list[Any]:
    """The lines of a query for all tasks; ``place`` is the task's position, counted from 1."""
    datasets = [task.dataset_id for task in tasks]
    networks = [task.network_id for task in tasks]
    return store.select(query, dict(values, datasets=datasets, networks=networks))


def find_datasets(store: Selectable, name: str) -> list[Dataset]:
    """Return the datasets with this name or label, the newest first."""
    return [_dataset(line.name, line) for line in store.select(_DATASETS, {"dataset": name})]


def find_network(store: Selectable, name: str) -> Network | None:
    """Return the newest network with this name, hash or label, or None."""
    for line in store.select(_NEWEST_NETWORK, {"network": name}):
        return Network(line.name, line.hash, line.prototxt)
    return None


def prototxts(store: Selectable, networks: Sequence[Network]) -> dict[str, str]:
    """Return the canonical prototxts of networks by their hashes."""
    return dict(store.select(_PROTOTXTS, [[network.hash for network in networks]]))


def _dataset(name: str, line: Any) -> Dataset:
    shape = None if line.shape is None else tuple(line.shape)
    return Dataset(name, shape, line.train_samples, line.test_samples)
