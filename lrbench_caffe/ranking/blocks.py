"""Blocks of comparable trials, and titles that distinguish them.

Results can be compared if the trials have the same dataset, the same network and the same solver
settings. The settings include max_iter: a short training is not compared with a full one.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple, Tuple, cast

from lrbench_caffe.trial import FINISHED, SAMPLE_FIELDS, Dataset, Network, Trial

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# Solver fields that do not change what a network learns.
IGNORED_SETTINGS = (
    "display",
    "snapshot",
    "snapshot_after_train",
    "snapshot_format",
    "debug_info",
    "solver_mode",
    "device_id",
    "average_loss",
    "test_initialization",
    "test_compute_loss",
    "snapshot_diff",
    "layer_wise_reduce",
)
# Caffe's defaults. A setting that has one counts as none; earlier versions recorded both.
DEFAULT_SETTINGS = {
    "type": "SGD",
    "iter_size": 1,
    "momentum": 0.0,
    "weight_decay": 0.0,
    "regularization_type": "L2",
    "clip_gradients": -1.0,
    "momentum2": 0.999,
    "rms_decay": 0.99,
    "delta": 1e-8,
}
_INPUT_SETTINGS = {"weights", "stages", "level"}.union(*SAMPLE_FIELDS.values())
_FILES = ("weights", "mean_file")  # each a name and a digest
HASH_DIGITS = 8  # of a network's hash in a title

Settings = Tuple[Tuple[str, object], ...]
Task = Tuple[Dataset, Network]


class Block(NamedTuple):
    """Trials whose results can be compared.

    Attributes:
        title: The network, the dataset, the number of iterations, and what else distinguishes the
            block from the other blocks, e.g. "LeNet on mnist, 10000 iterations (batch_size=50)".
        dataset: The dataset.
        network: The network.
        max_iter: The number of iterations of its trainings; None if it was not recorded.
        differences: The solver settings (name, value) that differ between the blocks of its task.
        trials: The trials.
    """

    title: str
    dataset: Dataset
    network: Network
    max_iter: int | None
    differences: Settings
    trials: tuple[Trial, ...]


def group_by_task(trials: Iterable[Trial]) -> dict[Task, list[Trial]]:
    """Group trials by (dataset, network), in the order in which these tasks first appear."""
    tasks: dict[Task, list[Trial]] = {}
    members: dict[int, list[Trial]] = {}  # by the id of the setup, which trials share
    for trial in trials:
        setup = trial.setup
        if id(setup) not in members:
            members[id(setup)] = tasks.setdefault((setup.dataset, setup.network), [])
        members[id(setup)].append(trial)
    return tasks


def group_comparable(trials: Iterable[Trial]) -> list[Block]:
    """Group trials into blocks whose results can be compared.

    Args:
        trials: Trials of any tasks.

    Returns:
        The blocks, task after task in the order in which the tasks first appear. Of the blocks of
        a task, those with a finished trial come first, and of these the longest trainings.
    """
    tasks = group_by_task(trials)
    titles = task_titles(list(tasks))
    return [
        block for task, members in tasks.items() for block in _blocks(task, titles[task], members)
    ]


def _blocks(task: Task, title: str, trials: Iterable[Trial]) -> list[Block]:
    """The blocks of one task in their order."""
    groups: dict[Settings, list[Trial]] = defaultdict(list)
    settings: dict[int, Settings] = {}  # by the id of the solver's dict, which trials share
    for trial in trials:
        solver = trial.setup.solver
        if id(solver) not in settings:
            settings[id(solver)] = _settings(solver)
        groups[settings[id(solver)]].append(trial)
    dataset, network = task
    blocks = []
    solvers = [members[0].setup.solver for members in groups.values()]
    for members, differences in zip(groups.values(), differing_settings(solvers)):
        max_iter = cast("int | None", members[0].setup.solver.get("max_iter"))
        block_title = _block_title(title, max_iter, differences)
        blocks.append(Block(block_title, dataset, network, max_iter, differences, tuple(members)))
    return sorted(blocks, key=_position)


def _position(block: Block) -> tuple[bool, int, int, str]:
    finished = sum(trial.state == FINISHED and trial.best is not None for trial in block.trials)
    return not finished, -(block.max_iter or 0), -finished, block.title


def _block_title(title: str, max_iter: int | None, differences: Settings) -> str:
    if max_iter is not None:
        title += ", %d iterations" % max_iter
    others = settings_text(item for item in differences if item[0] != "max_iter")
    return "%s (%s)" % (title, others) if others else title


def task_titles(tasks: Sequence[Task]) -> dict[Task, str]:
    """Return a title for each task, such as "LeNet on mnist".

    If two of the networks, or two of the datasets, have the same name, they are called by
    :func:`network_label` or :func:`dataset_label`.

    Args:
        tasks: The tasks, as (dataset, network).
    """
    datasets, networks = {dataset for dataset, _ in tasks}, {network for _, network in tasks}
    dataset_names = [dataset.name for dataset in datasets]
    network_names = [name for name, _ in {(network.name, network.hash) for network in networks}]
    return {
        (dataset, network): "%s on %s"
        % (
            network_label(network) if network_names.count(network.name) > 1 else network.name,
            dataset_label(dataset) if dataset_names.count(dataset.name) > 1 else dataset.name,
        )
        for dataset, network in tasks
    }


def network_label(network: Network) -> str:
    """Return a network's name with the first digits of its hash, e.g. "LeNet@3f2a9c11"."""
    return "%s@%s" % (network.name, network.hash[:HASH_DIGITS])


def shape_text(shape: Sequence[int] | None) -> str | None:
    """Return the shape of a sample as text; None if it is unknown.

    >>> shape_text((1, 28, 28))
    '1x28x28'
    """
    return "x".join(map(str, shape)) if shape else None


def dataset_label(dataset: Dataset) -> str:
    """Return a dataset's name with the shape of a sample and the numbers of samples.

    >>> dataset_label(Dataset("digits", (1, 8, 8), 1397, 400))
    'digits@1x8x8/1397/400'
    """
    facts = (shape_text(dataset.shape), dataset.train_samples, dataset.test_samples)
    return "%s@%s" % (dataset.name, "/".join("?" if fact is None else str(fact) for fact in facts))


def names_remarks(tasks: Iterable[Task]) -> list[str]:
    """Return a sentence for each name that two networks or two datasets have."""
    tasks = list(tasks)
    labels: dict[tuple[str, str], set[str]] = defaultdict(set)
    for dataset, network in tasks:
        labels["network", network.name].add(network_label(network))
        labels["dataset", dataset.name].add(dataset_label(dataset))
    return [
        "%d %ss have the name %s: choose one of them with --%s %s"
        % (len(group), kind, name, kind, " or ".join(sorted(group)))
        for (kind, name), group in labels.items()
        if len(group) > 1
    ]


def _settings(solver: Mapping[str, object]) -> Settings:
    """The solver settings that may change what a network learns, as a hashable value."""
    return tuple(
        (name, _content(value) if _plain_name(name) in _FILES else _hashable(value))
        for name, value in sorted(solver.items())
        if name not in IGNORED_SETTINGS
        and (name not in DEFAULT_SETTINGS or value != DEFAULT_SETTINGS[name])
    )


def is_input_setting(name: str) -> bool:
    """Return whether a setting belongs to what a training begins with, beside its net and solver.

    >>> is_input_setting("test_mean_file_2")
    True
    """
    return _plain_name(name) in _INPUT_SETTINGS


@functools.lru_cache(maxsize=None)  # a ranking asks for each setting of each trial
def _plain_name(name: str) -> str:
    """The name of a field without "test_" for the test net, and the number of a data layer."""
    return re.sub(r"^test_|_[0-9]+$", "", name)


def has_input_settings(solver: Mapping[str, object]) -> bool:
    """Return whether settings say what a training begins with; earlier versions did not."""
    return "scale" in solver


def file_contents(solver: Mapping[str, object], name: str) -> object:
    """Return the contents of files that a setting names, as digests; empty without any."""
    return _content(solver.get(name) or ())


def _content(value: object) -> object:
    """The digest of a file without its name, which may change; of several files each."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_content, value))
    return str(value).rpartition("@")[2]


def _hashable(value: object) -> object:
    return tuple(map(_hashable, value)) if isinstance(value, (list, tuple)) else value


def differing_settings(solvers: Iterable[Mapping[str, object]]) -> list[Settings]:
    """Return for each solver those of its settings that are not the same in all solvers."""
    solvers = list(solvers)
    all_settings = [_settings(solver) for solver in solvers]
    differing = {
        name for settings in all_settings for name, _ in set(settings) ^ set(all_settings[0])
    }
    return [
        tuple((name, _hashable(solver.get(name))) for name, _ in settings if name in differing)
        for solver, settings in zip(solvers, all_settings)
    ]


def settings_text(settings: Iterable[tuple[str, object]]) -> str:
    """Return settings as text.

    >>> settings_text([("type", "SGD"), ("test_iter", (4,)), ("weights", ["a.caffemodel"])])
    'type=SGD test_iter=[4] weights=[a.caffemodel]'
    """
    return " ".join("%s=%s" % (name, setting_text(value)) for name, value in settings)


def setting_text(value: object) -> str:
    """Return the value of a setting as text."""
    if isinstance(value, (list, tuple)):
        return "[%s]" % ", ".join(map(str, value))
    return str(value)
