"""How policies stand on the tasks in the database: what a recommendation is made of, at once however many trials there are."""

from typing import NamedTuple, Optional

from lrbench_caffe.ranking import Spread
from lrbench_caffe.trial import Dataset, Network

CONSTANTS = 200  # constant rates of a task that are looked at

# The best of each (dataset, network) by one look into the index, whatever lies between two of them.
_ALL = """
    WITH RECURSIVE best AS (
        (SELECT dataset_id, network_id, settings, task_id FROM standing
         ORDER BY dataset_id, network_id, top1 DESC, iterations LIMIT 1)
        UNION ALL
        SELECT following.* FROM best, LATERAL (
            SELECT dataset_id, network_id, settings, task_id FROM standing
            WHERE (dataset_id, network_id) > (best.dataset_id, best.network_id)
            ORDER BY dataset_id, network_id, top1 DESC, iterations LIMIT 1) AS following)"""

_NAMED = """
    WITH best AS (
        SELECT found.* FROM dataset, network, LATERAL (
            SELECT dataset_id, network_id, settings, task_id FROM standing
            WHERE dataset_id = dataset.id AND network_id = network.id ORDER BY top1 DESC, iterations LIMIT 1) AS found
        WHERE dataset.name = %(dataset)s AND (network.name = %(network)s OR network.hash = %(network)s))"""

_TASKS = """
    SELECT dataset_id, network_id, dataset.name AS dataset, shape, train_samples, test_samples, network.name AS network, hash,
           classes, settings
    FROM best JOIN dataset ON dataset.id = dataset_id JOIN network ON network.id = network_id LEFT JOIN task ON task.id = task_id"""

# Of several tasks at once, since each question costs a way there and back.
_BEST = """
    SELECT pair.place, policy.text, policy.function, settings, seeds, top1, top1_std, iterations
    FROM unnest(%s, %s) WITH ORDINALITY AS pair (dataset_id, network_id, place), LATERAL (
        SELECT * FROM standing WHERE dataset_id = pair.dataset_id AND network_id = pair.network_id
        ORDER BY top1 DESC, iterations, policy_id LIMIT %s) AS best
    JOIN policy ON policy.id = policy_id ORDER BY pair.place, top1 DESC, iterations, policy_id"""

_CONSTANTS = """
    SELECT pair.place, k0, settings, top1 FROM unnest(%s, %s) WITH ORDINALITY AS pair (dataset_id, network_id, place), LATERAL (
        SELECT * FROM standing WHERE dataset_id = pair.dataset_id AND network_id = pair.network_id AND k0 IS NOT NULL
        ORDER BY k0 LIMIT %s) AS constant"""

_DATASETS = "SELECT name, shape, train_samples, test_samples FROM dataset WHERE name = %s ORDER BY id DESC LIMIT 1"
_PROTOTXTS = "SELECT hash, prototxt FROM network WHERE hash = ANY (%s)"
_NETWORKS = "SELECT name, hash, prototxt FROM network WHERE name = %(name)s OR hash = %(name)s ORDER BY id DESC LIMIT 1"


class KnownTask(NamedTuple):
    """A dataset and a network that policies were trained on; settings are those of the best of them, network has no prototxt."""

    dataset_id: int
    network_id: int
    dataset: Dataset
    network: Network
    classes: Optional[int]
    settings: dict


class Standing(NamedTuple):
    """How a policy did with these settings: Top-1 over its seeds, and the mean of #Iterations."""

    policy: str
    function: str
    settings: dict
    top1: Spread
    iterations: float


def tasks(store, dataset=None, network=None):
    """The KnownTasks of a database: all, or those of a dataset's name and a network's name or hash."""
    query = (_NAMED if dataset else _ALL) + _TASKS
    lines = store.transaction(
        lambda cursor: (
            cursor.execute(query, {"dataset": dataset, "network": network}) or cursor.fetchall()
        )
    )
    return [
        KnownTask(
            line.dataset_id,
            line.network_id,
            _dataset(line.dataset, line),
            Network(line.network, line.hash, ""),
            line.classes,
            line.settings,
        )
        for line in lines
    ]


def best_policies(store, known, many):
    """For each of these KnownTasks the Standings of so many policies, the highest mean Top-1 first."""
    found = [[] for _ in known]
    for line in _of_each(store, _BEST, known, many):
        found[line.place - 1].append(
            Standing(
                line.text,
                line.function,
                line.settings,
                Spread(line.top1, line.top1_std, line.seeds),
                line.iterations,
            )
        )
    return found


def constant_rates(store, known):
    """For each of these KnownTasks its constant rates, up to CONSTANTS of them: (k0, settings, mean Top-1)."""
    found = [[] for _ in known]
    for line in _of_each(store, _CONSTANTS, known, CONSTANTS):
        found[line.place - 1].append((line.k0, line.settings, line.top1))
    return found


def _of_each(store, query, known, many):
    pairs = [task.dataset_id for task in known], [task.network_id for task in known]
    return store.transaction(
        lambda cursor: cursor.execute(query, [*pairs, many]) or cursor.fetchall()
    )


def find_dataset(store, name):
    """The newest Dataset of this name, or None."""
    line = store.transaction(lambda cursor: cursor.execute(_DATASETS, [name]) or cursor.fetchone())
    return line and _dataset(line.name, line)


def find_network(store, name):
    """The newest Network of this name or hash, or None."""
    line = store.transaction(
        lambda cursor: cursor.execute(_NETWORKS, {"name": name}) or cursor.fetchone()
    )
    return line and Network(*line)


def prototxts(store, networks):
    """{hash: canonical prototxt} of KnownTasks' networks."""
    hashes = [network.hash for network in networks]
    return dict(
        store.transaction(lambda cursor: cursor.execute(_PROTOTXTS, [hashes]) or cursor.fetchall())
    )


def _dataset(name, line):
    return Dataset(
        name,
        None if line.shape is None else tuple(line.shape),
        line.train_samples,
        line.test_samples,
    )
