"""The values everyone passes around: a trial, its rows and what it was measured on.

A trial is one training of one network on one dataset under one learning rate policy with one seed.  Everything here is an
immutable value that knows neither Caffe nor PostgreSQL; :func:`to_dict` and :func:`from_dict` turn a value into what JSON can
hold and back, which is how trials cross processes and files.
"""

import dataclasses
import functools
import typing
from dataclasses import dataclass, field
from typing import Dict, NamedTuple, Optional, Tuple

RUNNING, FINISHED, DIVERGED, PRUNED, INTERRUPTED, FAILED = STATES = (
    "running",
    "finished",
    "diverged",
    "pruned",
    "interrupted",
    "failed",
)


@dataclass(frozen=True)
class Framework:
    """The deep learning framework that trained, e.g. ``Framework("Caffe", "1.0.0")``."""

    name: str
    version: str


@dataclass(frozen=True)
class Network:
    """A network: its name, its canonical prototxt (no data layers, no comments) and the SHA-256 of that text in hex."""

    name: str
    hash: str
    prototxt: str


@dataclass(frozen=True)
class Dataset:
    """A dataset: its name, the shape (channels, height, width) of a sample as stored, and its sample counts.

    What a data layer does not tell without reading all of its data (LevelDB, Python layers) is None.
    """

    name: str
    shape: Optional[Tuple[int, ...]]
    train_samples: Optional[int]
    test_samples: Optional[int]


@dataclass(frozen=True)
class Setup:
    """What a trial is run with beside its policy: what the paper's database is organised by (section IV).

    classes is the learning task (the number of classes, None where the net does not say); solver holds the SolverParameter's
    fields by Caffe's names, with ``batch_size`` and ``test_batch_size`` beside them; seed is Caffe's random_seed.
    """

    framework: Framework
    network: Network
    dataset: Dataset
    classes: Optional[int]
    solver: Dict[str, object] = field(hash=False)
    seed: int


@dataclass(frozen=True)
class Evaluation:
    """One row: the whole test set evaluated once (section III).

    iteration counts the finished iterations; lr is the rate of the iteration about to be run; train_loss is the mean of the
    mini-batch losses since the last evaluation (None before the first); accuracies are shares of 1.  ac, cd and cdac are None
    when no sample is classified correctly, ld when there is no train_loss.  resumed_at is the iteration of the snapshot that the
    training last went on from, after which its batches come in another order (None: it ran through).  class_confidence is the
    average confidence of each class (None for one without a correct sample; None as a whole where it was not measured).
    """

    iteration: int
    lr: float
    train_loss: Optional[float]
    test_loss: float
    top1: float
    top5: float
    ac: Optional[float]
    cd: Optional[float]
    cdac: Optional[float]
    ld: Optional[float]
    resumed_at: Optional[int] = None
    class_confidence: Optional[Tuple[Optional[float], ...]] = None


class Summary(NamedTuple):
    """The paper's eight metrics of a trial (section III): iterations is #Iterations, n_params is #Param."""

    top1: float
    top5: float
    ac: Optional[float]
    cd: Optional[float]
    cdac: Optional[float]
    ld: Optional[float]
    iterations: int
    n_params: int


@dataclass(frozen=True)
class Trial:
    """One training: what it ran with, its rows in the order of their iterations, and how it ended.

    id is a UUID in text; policy is the canonical text of the policy, function, parameters and n_params its parts; started and
    ended are seconds since the epoch; error says in one sentence why a failed, diverged or pruned trial ended.  blas names the
    library and its kernels, e.g. "openblas 0.3.13 SkylakeX", and threads how many it used (None where that is not known): the last
    digits of a training depend on them.  attempt counts the times it was started, from 1, and resumed_at is the iteration that
    this attempt went on from (None: from the beginning).  origin names the database that it was imported from (None: trained
    here).
    """

    id: str
    policy: str
    function: str
    parameters: Dict[str, object] = field(hash=False)
    n_params: int
    setup: Setup
    host: str
    started: float
    blas: Optional[str] = None
    threads: Optional[int] = None
    state: str = RUNNING
    ended: Optional[float] = None
    error: Optional[str] = None
    rows: Tuple[Evaluation, ...] = ()
    attempt: int = 1
    resumed_at: Optional[int] = None
    origin: Optional[str] = None

    @property
    def best(self) -> Optional[Evaluation]:
        """The row with the highest Top-1, the earliest one on a tie (None without rows)."""
        return max(self.rows, key=lambda row: (row.top1, -row.iteration), default=None)

    @property
    def summary(self) -> Optional[Summary]:
        """The eight metrics at the best row (None without rows)."""
        best = self.best
        return best and Summary(
            best.top1,
            best.top5,
            best.ac,
            best.cd,
            best.cdac,
            best.ld,
            best.iteration,
            self.n_params,
        )

    def with_row(self, row: Evaluation) -> "Trial":
        """The trial with one more row at its end."""
        return dataclasses.replace(self, rows=self.rows + (row,))

    def ended_as(self, state: str, ended: float, error: Optional[str] = None) -> "Trial":
        """The trial at its end."""
        return dataclasses.replace(self, state=state, ended=ended, error=error)


@dataclass(frozen=True)
class Job:
    """What to train: a solver prototxt and what changes of it for this trial.

    policy is a policy's text (None: the prototxt's own lr_policy); seed is Caffe's random_seed (None: the prototxt's, or a new
    one); data is the folder that relative paths are looked up in first; gpu is a device index (None: as the prototxt says);
    max_iter and test_interval (None: the prototxt's) count iterations; resume is a .solverstate, weights a .caffemodel to start
    from; until_top1 ends the trial at the first evaluation that reaches it; snapshot_prefix replaces the solver's, and asks for a
    snapshot after training; stages and level are those of ``caffe train``.  A trial of a study also has an id and a folder of its
    own for the snapshots that it goes on from; the solver's own snapshots are not taken there, since trials would overwrite each
    other's.
    """

    solver: str
    policy: Optional[str] = None
    seed: Optional[int] = None
    data: Optional[str] = None
    gpu: Optional[int] = None
    max_iter: Optional[int] = None
    resume: Optional[str] = None
    weights: Optional[str] = None
    until_top1: Optional[float] = None
    snapshot_prefix: Optional[str] = None
    stages: Tuple[str, ...] = ()
    level: int = 0
    id: Optional[str] = None
    folder: Optional[str] = None
    test_interval: Optional[int] = None


def to_dict(value) -> dict:
    """A value of this module as nested dicts and lists that JSON can hold."""
    return dataclasses.asdict(value)


def from_dict(cls, content: dict):
    """The value of type cls that :func:`to_dict` made content from, also after a way through JSON."""
    kinds = _kinds(cls)
    return cls(**{name: _restored(kinds[name], value) for name, value in content.items()})


_kinds = functools.lru_cache(maxsize=None)(
    typing.get_type_hints
)  # which takes longer than all the rest


def _restored(kind, value):
    if dataclasses.is_dataclass(kind) and value is not None:
        return from_dict(kind, value)
    if isinstance(value, (list, tuple)):  # JSON has no tuples
        return tuple(_restored(kind.__args__[0], item) for item in value)
    return value
