"""The paper's tables and figures that can be reproduced: their policies and published numbers.

``published.csv`` holds the published numbers: accuracies in percent, as printed, and in ``slip``
the metrics that are misprints. In Table VII, the CDAC of SIN and of COS repeats their LD, and
POLY's CDAC is ten times that of its neighbours.

The paper leaves some values open, which are chosen here. Tables IIIa and V have no l; the value
2000 is taken from Tables VIII and IX. The grids of Figures 3 and 4 are chosen freely.

A target can be trained at a scale below 1: at scale 0.05, a training has 0.05 times the iterations.
"""

from __future__ import annotations

import csv
import os
import re
from typing import NamedTuple

from lrbench_caffe.display.tables import METRICS
from lrbench_caffe.errors import InputError


class Setting(NamedTuple):
    """How the paper trains a network (Table II).

    Attributes:
        solver: The path of the solver prototxt, relative to the shipped files.
        dataset: The dataset: "mnist" or "cifar10".
        pad: Pixels of padding around each image.
        max_iter: The iterations of a training.
        test_interval: The iterations between two evaluations.
        epoch: The iterations in an epoch.
    """

    solver: str
    dataset: str
    pad: int
    max_iter: int
    test_interval: int
    epoch: float


SETTINGS = {
    "LeNet": Setting("solvers/lenet_solver.prototxt", "mnist", 0, 10000, 500, 600),
    "CNN3": Setting("solvers/cnn3_solver.prototxt", "cifar10", 0, 70000, 250, 500),
    "ResNet-32": Setting("solvers/resnet32_solver.prototxt", "cifar10", 4, 64000, 500, 50000 / 128),
}
_DATASETS = {"mnist": "MNIST", "cifar10": "CIFAR-10"}


class Published(NamedTuple):
    """A row of a published table.

    Attributes:
        policy: The policy's text.
        metrics: The printed metrics by the field names of a Summary, in its units: accuracies are
            shares of 1.
        top1_std: The standard deviation of Top-1 as a share of 1; None if it is not printed.
        slips: The names of the metrics that are misprints.
        source: Where the paper prints the row.
    """

    policy: str
    metrics: dict[str, float]
    top1_std: float | None
    slips: tuple[str, ...]
    source: str


class Target(NamedTuple):
    """A table or figure that can be reproduced.

    Attributes:
        name: The name, such as "table-7".
        title: The title of its page.
        network: The name of its network in SETTINGS.
        policies: The texts of its policies, in the order of the paper.
        published: The published rows; figures other than Figure 5 have none.
    """

    name: str
    title: str
    network: str
    policies: tuple[str, ...]
    published: tuple[Published, ...] = ()

    @property
    def setting(self) -> Setting:
        """How its network is trained."""
        return SETTINGS[self.network]


_PERCENT = ("top1", "top5", "top1_std")  # columns of published.csv in percent


def _published_tables() -> dict[str, list[tuple[str, Published]]]:
    """The rows of published.csv, each with its network, by the table's number, such as "VII"."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "published.csv")
    tables: dict[str, list[tuple[str, Published]]] = {}
    with open(path, newline="") as file:
        for line in csv.DictReader(file):
            tables.setdefault(line["table"], []).append((line["network"], _published_row(line)))
    return tables


def _published_row(line: dict[str, str]) -> Published:
    columns = [column.name for column in METRICS if column.name] + ["top1_std"]
    values = {
        name: float(line[name]) / (100 if name in _PERCENT else 1)
        for name in columns
        if line.get(name)
    }
    top1_std = values.pop("top1_std", None)
    return Published(line["policy"], values, top1_std, tuple(line["slip"].split()), line["source"])


_TITLES = {
    "IIa": "FIX with three rates",
    "IIb": "STEP with three step sizes",
    "IIIa": "TRI2 with ten ranges",
    "IIIb": "STEP with ten step sizes",
    "V": "TRI2 with six ranges",
    "VI": "NSTEP with three schedules",
    "VII": "policies compared",
    "VIII": "policies compared",
    "IX": "policies compared",
}
_ARABIC = {"ii": "2", "iii": "3", "v": "5", "vi": "6", "vii": "7", "viii": "8", "ix": "9"}
# About four rates a decade, with the rates that Figure 3 marks: 0.0005, 0.001, 0.006, 0.01 and 0.1.
_RATES = (0.0001, 0.0002, 0.0003, 0.0005, 0.001, 0.002, 0.003, 0.006, 0.01, 0.02, 0.03, 0.06, 0.1)
_STEPS = (250, 500) + tuple(range(1000, 10001, 1000))


def _targets() -> dict[str, Target]:
    tables = [_table_target(table, rows) for table, rows in _published_tables().items()]
    targets = {target.name: target for target in tables}
    rates = tuple("FIX(k0=%s)" % rate for rate in _RATES)
    steps = tuple("STEP(k0=0.001, gamma=0.85, l=%d)" % step for step in _STEPS)
    nstep = targets["table-6"].published[2]
    figures = (
        Target(
            "figure-3", "Figure 3: Top-1 against the rate of FIX, CNN3 on CIFAR-10", "CNN3", rates
        ),
        Target(
            "figure-3-lenet",
            "Figure 3 for LeNet on MNIST: Top-1 against the rate of FIX",
            "LeNet",
            rates,
        ),
        Target(
            "figure-4",
            "Figure 4: Top-1 against the step size of STEP, CNN3 on CIFAR-10",
            "CNN3",
            steps,
        ),
        Target(
            "figure-5",
            "Figure 5: Top-1 and loss under NSTEP, CNN3 on CIFAR-10",
            "CNN3",
            (nstep.policy,),
            (nstep,),
        ),
    )
    targets.update((target.name, target) for target in figures)
    return targets


def _table_target(table: str, rows: list[tuple[str, Published]]) -> Target:
    network = rows[0][0]
    dataset = _DATASETS[SETTINGS[network].dataset]
    published = tuple(row for _, row in rows)
    return Target(
        name="table-" + _arabic(table),
        title="Table %s: %s, %s on %s" % (table, _TITLES[table], network, dataset),
        network=network,
        policies=tuple(row.policy for row in published),
        published=published,
    )


def _arabic(text: str) -> str:
    """A table's number in Arabic numerals: 7 for VII, 3a for IIIa. Other texts stay as they are."""
    return re.sub(r"^[ivx]+", lambda numeral: _ARABIC.get(numeral[0], numeral[0]), text.lower())


TARGETS = _targets()
FIGURE_1 = "figure-1"  # drawn without a training, so it is not a Target
NAMES = (FIGURE_1, *sorted(TARGETS))


def canonical_name(text: str) -> str:
    """Return the name of a table or figure in NAMES.

    >>> [canonical_name(text) for text in ("Table VII", "table-IIIa", "figure-3")]
    ['table-7', 'table-3a', 'figure-3']

    Raises:
        InputError: There is no such table or figure, or it cannot be reproduced.
    """
    kind, _, number = text.strip().lower().replace(" ", "-").partition("-")
    name = "%s-%s" % (kind, _arabic(number) if kind == "table" else number)
    if name not in NAMES:
        raise InputError(
            "%r is not a table or figure that can be reproduced: choose one of %s"
            % (text[:60], ", ".join(NAMES))
        )
    return name


def exact_scale(target: Target, scale: float) -> float:
    """Return the nearest scale at which a training has a whole number of iterations."""
    max_iter = target.setting.max_iter
    return float("%.10g" % (scaled_max_iter(target, scale) / max_iter))


def scaled_max_iter(target: Target, scale: float) -> int:
    """Return the iterations of a training at a scale, at least 1."""
    return max(1, round(scale * target.setting.max_iter))


def scaled_test_interval(target: Target, scale: float) -> int:
    """Return the iterations between two evaluations at a scale, at least 1."""
    return max(1, round(scale * target.setting.test_interval))


def study_name(target: Target, scale: float) -> str:
    """Return the name of a target's study and files.

    >>> study_name(TARGETS["table-8"], 0.05)
    'table-8-at-0.05'
    """
    return target.name if scale == 1 else "%s-at-%.6g" % (target.name, scale)


def scaled_title(target: Target, scale: float) -> str:
    """Return a target's title, which names the scale unless it is 1."""
    if scale == 1:
        return target.title
    return "%s, AT SCALE %.6g: %d iterations instead of %d" % (
        target.title,
        scale,
        scaled_max_iter(target, scale),
        target.setting.max_iter,
    )
