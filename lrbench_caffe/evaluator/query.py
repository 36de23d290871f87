"""The query of a recommendation: the task for which policies are wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from lrbench_caffe.database import standings
from lrbench_caffe.trial import Dataset, Network

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lrbench_caffe.database.standings import Selectable
    from lrbench_caffe.trial import Setup

DATASET_FACTS = ("shape", "train_samples", "test_samples")  # fields beside the name


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


def query_by_names(store: Selectable, dataset: str, network: str) -> Query:
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
