"""Recommendation: the best known policies for a task, else those for tasks that are like it, and why they are (sections IV, VI)."""

import dataclasses
import functools
import math
import operator
import re
from collections import Counter
from typing import NamedTuple, Optional, Tuple

from lrbench_caffe.database import standings
from lrbench_caffe.database.standings import KnownTask, Standing
from lrbench_caffe.errors import InputError
from lrbench_caffe.ranking import ranges
from lrbench_caffe.trial import Dataset, Network

SIMILAR = 3  # tasks that are shown where the task itself is not known
RATES = 5  # constant ones that tell a range, at least; of so many, longer trainings tell it better than more
LOOKED_AT = 10  # tasks, the most alike by all else, whose networks are compared layer by layer
# How much each likeness counts; chosen, since the paper only says that similar tasks share good policies.
WEIGHTS = {
    "input": 0.25,
    "classes": 0.2,
    "samples": 0.15,
    "network": 0.25,
    "optimizer": 0.1,
    "batch": 0.05,
}
_RATE = re.compile(r"\bk[01]=([^,)]+)")  # in a policy's text
_LAYER = re.compile(
    r'^  type: "(\w+)"', re.M
)  # of a canonical prototxt: fillers' types are further in


class Query(NamedTuple):
    """The task that a policy is wanted for; what is not known is None or "".  solver has its solver's settings by Caffe's names."""

    dataset: Dataset
    network: Network
    classes: Optional[int] = None
    solver: dict = {}


class Likeness(NamedTuple):
    """In what a known task is like the wanted one: a name of WEIGHTS, a share of 1, and in words."""

    name: str
    share: float
    words: str


class Known(NamedTuple):
    """A task with what is known of it: how like the wanted one it is and in what (the same: 1, in nothing), its best policies.

    The rates to start from: good is the Range of its constant rates (None: fewer than three are known); rates are the smallest and
    the largest of its best policies (None: only Caffe knows their schedules).
    """

    task: KnownTask
    share: float
    likenesses: Tuple[Likeness, ...]
    policies: Tuple[Standing, ...]
    good: Optional[ranges.Range]
    rates: Optional[Tuple[float, float]]


class Recommendation(NamedTuple):
    """What is known for a task: the task itself (same), or up to SIMILAR others, the most alike first."""

    wanted: Query
    same: bool
    known: Tuple[Known, ...]


def query_by_names(store, dataset, network):
    """The Wanted task of these names, a network also by its hash, as far as the database knows the two."""
    found = standings.find_network(store, network)
    if found is None or found.hash != network:  # of all networks with this name
        found = Network(network, "", found.prototxt if found else "")
    return Query(
        standings.find_dataset(store, dataset) or Dataset(dataset, None, None, None), found
    )


def query_from_setup(setup, dataset=None, network=None):
    """The Wanted task of a :class:`lrbench_caffe.trial.Setup`; its dataset and network go by these names where given."""
    return Query(
        dataclasses.replace(setup.dataset, name=dataset or setup.dataset.name),
        Network(network, "", setup.network.prototxt) if network else setup.network,
        setup.classes,
        setup.solver,
    )


def recommend(store, task, many=5):
    """The Recommendation of so many policies for a Wanted task.  Raises InputError where the database knows nothing of use.

    With another optimizer it is another task, for whose rates it says no more than a similar one.
    """
    same = [
        known
        for known in standings.tasks(
            store, task.dataset.name, task.network.hash or task.network.name
        )
        if len({known.dataset.shape, task.dataset.shape} - {None}) < 2
        and not (task.solver and optimizer(known.settings) != optimizer(task.solver))
    ]
    if same:
        return Recommendation(task, True, _known(store, [(known, ()) for known in same], many))
    known = standings.tasks(store)
    if not known:
        raise InputError(
            "no training in the database has finished yet: `lrbench range` finds good rates, and `lrbench db import` "
            "brings those of others"
        )
    if task.classes is None:  # as where the dataset was trained on
        task = task._replace(
            classes=next((other.classes for other in known if other.dataset == task.dataset), None)
        )
    alike = _sorted((candidate, _likenesses(task, candidate)) for candidate in known)[:LOOKED_AT]
    if not (alike[0][1] or task.network.prototxt):
        raise InputError(
            "neither the dataset %s nor the network %s is in the database: give --solver FILE, whose task can be "
            "compared with those that are" % (task.dataset.name, task.network.name)
        )
    texts = (
        standings.prototxts(store, [candidate.network for candidate, _ in alike])
        if task.network.prototxt
        else {}
    )
    alike = _sorted(
        (candidate, likenesses + [_of_networks(task, candidate, texts.get(candidate.network.hash))])
        for candidate, likenesses in alike
    )
    return Recommendation(task, False, _known(store, alike[:SIMILAR], many))


def _sorted(alike):
    return sorted(
        alike, key=lambda pair: (-_share(pair[1]), pair[0].dataset_id, pair[0].network_id)
    )


def _known(store, alike, many):
    """The Known values of (KnownTask, Likenesses) pairs."""
    tasks = [task for task, _ in alike]
    known = []
    for (task, likenesses), policies, rates in zip(
        alike, standings.best_policies(store, tasks, many), standings.constant_rates(store, tasks)
    ):
        used = [
            rate
            for found in policies
            for rate in map(float, _RATE.findall(found.policy))
            if rate > 0
        ]
        known.append(
            Known(
                task,
                _share(likenesses),
                tuple(likenesses),
                tuple(policies),
                _good(task, rates),
                (min(used), max(used)) if used else None,
            )
        )
    return tuple(known)


def _good(task, constants):
    """The Range of the constant rates that were trained with the same settings: of RATES or more the longest, else the most.

    They are those of the task's best policy's optimizer.
    """
    groups = {}
    for k0, settings, top1 in constants:
        if optimizer(settings) == optimizer(task.settings):
            group = groups.setdefault(
                repr(sorted(settings.items())), (settings.get("max_iter", 0), [])
            )
            group[1].append(ranges.Point(k0, top1, False))
    _, points = max(
        groups.values(),
        key=lambda group: (min(len(group[1]), RATES), group[0], len(group[1])),
        default=(0, ()),
    )
    return (
        ranges.good_range(sorted(points), task.dataset.test_samples, task.classes)
        if len(points) >= 3
        else None
    )


def _share(likenesses):
    """How like a task is, from its Likenesses: their mean by WEIGHTS; of the same task 1."""
    weight = sum(WEIGHTS[found.name] for found in likenesses)
    return (
        sum(WEIGHTS[found.name] * found.share for found in likenesses) / weight if weight else 1.0
    )


def _likenesses(task, known):
    """In what a KnownTask is like the Wanted one, but for its network: as far as both are known."""
    ours, theirs = task.dataset, known.dataset
    found = []
    if ours.shape and theirs.shape:
        size = _ratio(_product(ours.shape), _product(theirs.shape))
        channels = 1.0 if ours.shape[0] == theirs.shape[0] else 0.5
        found.append(
            _compared(
                "input",
                channels * (0.5 + 0.5 * size),
                "input %s",
                *("x".join(map(str, shape)) for shape in (theirs.shape, ours.shape)),
            )
        )
    if task.classes and known.classes:
        found.append(
            _compared(
                "classes",
                _ratio(task.classes, known.classes),
                "%d classes",
                known.classes,
                task.classes,
            )
        )
    if ours.train_samples and theirs.train_samples:  # a tenth is still half as good
        share = 1.0 / (1.0 + abs(math.log10(ours.train_samples / theirs.train_samples)))
        found.append(
            _compared(
                "samples", share, "%d training samples", theirs.train_samples, ours.train_samples
            )
        )
    if task.solver:
        optimizers = [optimizer(solver) for solver in (known.settings, task.solver)]
        found.append(
            _compared("optimizer", float(optimizers[0] == optimizers[1]), "%s", *optimizers)
        )
        batches = [solver.get("batch_size") for solver in (known.settings, task.solver)]
        if all(batches):
            found.append(_compared("batch", _ratio(*batches), "batches of %d", *batches))
    return found


def _of_networks(task, known, text):
    """How much of the two networks are layers of the same kinds; text: the known one's prototxt, None where none is compared."""
    if known.network.hash == task.network.hash:
        return Likeness("network", 1.0, "the network, as yours")
    if text is None:
        return Likeness("network", 0.0, "another network, and nothing is known of yours")
    ours, theirs = (Counter(_LAYER.findall(prototxt)) for prototxt in (task.network.prototxt, text))
    common, all_layers = sum((ours & theirs).values()), sum((ours | theirs).values())
    words = "%d of its %d layers are of the same kinds as your %d" % (
        common,
        sum(theirs.values()),
        sum(ours.values()),
    )
    return Likeness("network", common / all_layers if all_layers else 0.0, words)


def optimizer(solver):
    """The optimizer of a solver's settings in words, e.g. "SGD with momentum 0.9"."""
    momentum = solver.get("momentum")
    return solver.get("type", "SGD") + (" with momentum %g" % momentum if momentum else "")


def _compared(name, share, words, theirs, ours):
    return Likeness(
        name,
        share,
        words % theirs + (", as yours" if theirs == ours else " where yours has %s" % ours),
    )


def _product(shape):
    return functools.reduce(operator.mul, shape)


def _ratio(one, other):
    return min(one, other) / max(one, other)


def _unknown(wanted):
    return (
        []
        if wanted.dataset.shape
        else ["nothing is known of the inputs of %s" % wanted.dataset.name]
    )


def explanations(found):
    """What a Recommendation says of its tasks, a list of sentences for each of them."""
    lines = []
    for known in found.known:
        task = "%s on %s" % (known.task.network.name, known.task.dataset.name)
        said = (
            ["%s: it was trained before" % task]
            if found.same
            else [
                "%s is %.0f %% like %s on %s: %s"
                % (
                    task,
                    100 * known.share,
                    found.wanted.network.name,
                    found.wanted.dataset.name,
                    "; ".join(
                        [likeness.words for likeness in known.likenesses] + _unknown(found.wanted)
                    ),
                )
            ]
        )
        if known.good:
            low, high, best, _ = known.good
            said.append(
                "constant rates are good there from %r to %r, best at %r" % (low, high, best)
            )
        if known.rates:
            said.append("the rates of its best policies go from %r to %r" % known.rates)
        lines.append(said)
    return lines
