"""The values that all components use: a trial, its rows, and the setup it was measured on.

A trial is one training of one network on one dataset with one learning rate policy and one seed.
The values are immutable and depend on neither Caffe nor PostgreSQL. :func:`to_dict` and
:func:`from_dict` convert them to and from nested dicts that JSON can hold. Trials pass between
processes and are stored in files in that form.

:func:`from_dict` evaluates the annotations, so they are written for Python 3.7 (Optional, Tuple).
"""

import dataclasses
import functools
import typing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Dict, NamedTuple, Optional, Tuple, Type, TypeVar, Union

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import DataclassInstance

T = TypeVar("T")

RUNNING = "running"
FINISHED = "finished"  # reached max_iter or until_top1, or stopped improving (patience)
DIVERGED = "diverged"  # the loss is not finite, or the net is stuck at chance
PRUNED = "pruned"  # stopped because it was hopeless
INTERRUPTED = "interrupted"  # stopped by the user
FAILED = "failed"  # stopped by an error
STATES = (RUNNING, FINISHED, DIVERGED, PRUNED, INTERRUPTED, FAILED)

HEAD_METRICS = ("top1", "top5", "ac", "cd", "cdac")  # the metrics of each head of a net
SET_METRICS = ("test_loss", *HEAD_METRICS, "ld")  # the metrics on each set of samples
TEST_SET = "test"  # the name of the set if there is only one
# The messages of data layers, and those of their fields that change the samples, in Caffe's words.
# Caffe ignores the scale, mirror and so on of the other messages.
SAMPLE_FIELDS = {
    "transform_param": (
        "scale",
        "mirror",
        "crop_size",
        "mean_file",
        "mean_value",
        "force_color",
        "force_gray",
    ),
    "image_data_param": ("new_height", "new_width", "is_color", "shuffle"),
    "hdf5_data_param": ("shuffle",),
    "window_data_param": (
        "fg_threshold",
        "bg_threshold",
        "fg_fraction",
        "context_pad",
        "crop_mode",
    ),
}


@dataclass(frozen=True)
class Framework:
    """The deep learning framework of a training, for example ``Framework("Caffe", "1.0.0")``.

    Attributes:
        name: Its name.
        version: Its version.
    """

    name: str
    version: str


@dataclass(frozen=True)
class Network:
    """A network.

    Attributes:
        name: The name in the prototxt.
        hash: The SHA-256 of prototxt in hexadecimal.
        prototxt: The canonical prototxt: without data layers and comments.
    """

    name: str
    hash: str
    prototxt: str


@dataclass(frozen=True)
class Dataset:
    """A dataset.

    shape and the numbers of samples are None for a data source that must be read completely to
    determine them (LevelDB, Python layers).

    Attributes:
        name: The name.
        shape: The shape (channels, height, width) of a stored sample.
        train_samples: The number of training samples.
        test_samples: The number of test samples.
    """

    name: str
    shape: Optional[Tuple[int, ...]]
    train_samples: Optional[int]
    test_samples: Optional[int]


@dataclass(frozen=True)
class Setup:
    """What a trial runs with except its policy: the keys of the paper's database (section IV).

    Attributes:
        framework: The deep learning framework.
        network: The network.
        dataset: The dataset.
        classes: The learning task: the number of classes, None if the net does not define it.
        solver: The fields of Caffe's SolverParameter by name, without those that have Caffe's
            default; ``batch_size`` and ``test_batch_size``; what the training begins with, see
            :mod:`lrbench_caffe.training.inputs`;
            ``head``, the head that is ranked by, where it does not follow from
            the net that is trained; ``test_net``, the index of the test net, if it is not the
            first, None if there is none; and ``select`` and ``report``, the sets that decide and
            that are reported, if they differ, with ``select_samples``, the number of samples of the
            first.
        seed: Caffe's random_seed.
    """

    framework: Framework
    network: Network
    dataset: Dataset
    classes: Optional[int]
    solver: Dict[str, object] = field(hash=False)
    seed: int

    @property
    def has_test_net(self) -> bool:
        """Whether the solver has a test net, without which only the train loss is recorded."""
        return self.solver.get("test_net", 0) is not None

    @property
    def report(self) -> Optional[str]:
        """The set on which the metrics are reported, None if it is the one that decides."""
        report = self.solver.get("report")
        return None if report is None else str(report)

    @property
    def epoch(self) -> Optional[float]:
        """The iterations in an epoch, None if the number of training samples is unknown."""
        samples, batch_size = self.dataset.train_samples, self.solver.get("batch_size")
        iter_size = self.solver.get("iter_size", 1)
        if not (samples and isinstance(batch_size, int) and isinstance(iter_size, int)):
            return None
        return samples / (batch_size * iter_size)

    @property
    def deciding_samples(self) -> Optional[int]:
        """The number of samples of the set that decides, None if it is unknown."""
        if self.solver.get("select") is None:
            return self.dataset.test_samples
        samples = self.solver.get("select_samples")
        return samples if isinstance(samples, int) else None


@dataclass(frozen=True)
class Evaluation:
    """One row of a trial: one evaluation of the whole test set (section III).

    A solver may have several test nets, each with its own set of samples. The metrics are those on
    the set by which decisions are made; ``other_sets`` has those on the others.

    What a net does not define is None: a training without a test net has its train loss only, and a
    classifier without probabilities has neither confidences nor deviations.

    Attributes:
        iteration: The number of finished iterations.
        lr: The learning rate of the next iteration.
        train_loss: The mean loss of the mini-batches since the last evaluation, None before the
            first mini-batch.
        test_loss: The mean loss over the test set.
        top1: Top-1 accuracy, from 0 to 1.
        top5: Top-5 accuracy, from 0 to 1.
        ac: Average confidence. ac, cd and cdac are None if no sample is classified correctly, or if
            the head has no probabilities.
        cd: Confidence deviation.
        cdac: Confidence deviation across classes.
        ld: Loss difference, None without one of the losses.
        resumed_at: The iteration of the snapshot from which the training was resumed last, after
            which its batches come in another order. None if it was not resumed.
        class_confidence: The average confidence of each class, None for a class without a correctly
            classified sample. None as a whole if it was not measured.
        heads: top1, top5, ac, cd and cdac of the other heads of the test net by their names. None
            if there are none.
        measured_on: The name of the set that the metrics are measured on.
        other_sets: test_loss, top1, top5, ac, cd, cdac and ld on the other sets by their names.
            None if there are none.
    """

    iteration: int
    lr: float
    train_loss: Optional[float] = None
    test_loss: Optional[float] = None
    top1: Optional[float] = None
    top5: Optional[float] = None
    ac: Optional[float] = None
    cd: Optional[float] = None
    cdac: Optional[float] = None
    ld: Optional[float] = None
    resumed_at: Optional[int] = None
    class_confidence: Optional[Tuple[Optional[float], ...]] = None
    heads: Optional[Dict[str, Dict[str, Optional[float]]]] = field(default=None, hash=False)
    measured_on: str = TEST_SET
    other_sets: Optional[Dict[str, Dict[str, Optional[float]]]] = field(default=None, hash=False)

    def has_set(self, name: Optional[str]) -> bool:
        """Return whether the row has metrics on another set of this name."""
        return name is not None and name in (self.other_sets or {})

    def on(self, name: Optional[str]) -> "Evaluation":
        """Return the row with the metrics on the set of this name, or itself if it has none.

        The class confidences and the other heads are recorded for one set only, so the row of
        another set is without them.
        """
        if name is None or not self.has_set(name):
            return self
        others = dict(self.other_sets or {})
        metrics: Dict[str, Any] = others.pop(name)
        others[self.measured_on] = {metric: getattr(self, metric) for metric in SET_METRICS}
        return dataclasses.replace(
            self,
            measured_on=name,
            other_sets=others,
            class_confidence=None,
            heads=None,
            **metrics,
        )


class Summary(NamedTuple):
    """The paper's eight metrics of a trial (section III).

    Attributes:
        top1: Top-1 accuracy, from 0 to 1.
        top5: Top-5 accuracy, from 0 to 1.
        ac: Average confidence.
        cd: Confidence deviation.
        cdac: Confidence deviation across classes.
        ld: Loss difference.
        iterations: #Iterations, the iteration of the evaluation with the highest Top-1.
        n_params: #Param, the number of the policy's parameters.
    """

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
    """One training: its setup, its rows, and how it ended.

    Attributes:
        id: A UUID as text.
        policy: The canonical text of the policy.
        function: The policy's function.
        parameters: The policy's parameters by name.
        n_params: The policy's #Param.
        setup: What it ran with except the policy.
        host: The name of the machine.
        started: When it started, in seconds since the epoch.
        blas: The BLAS library and its kernels, for example "openblas 0.3.13 SkylakeX". The last
            digits of a training depend on blas and threads. None if unknown.
        threads: The number of BLAS threads, None if unknown.
        state: One of STATES.
        ended: When it ended, in seconds since the epoch, None while it runs.
        error: Why a failed, diverged or pruned trial ended, or a finished one whose patience ran
            out, in one sentence.
        rows: The evaluations in order.
        attempt: How many times it was started, from 1.
        resumed_at: The iteration from which this attempt resumed, None if it began at 0.
        origin: The database from which it was imported, None if it was trained here.
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
    def ended_early(self) -> bool:
        """Whether the trial finished before its max_iter; the trial needs its last row."""
        max_iter = self.setup.solver.get("max_iter")
        is_shorter = isinstance(max_iter, int) and self.rows and self.rows[-1].iteration < max_iter
        return self.state == FINISHED and bool(is_shorter)

    @property
    def length(self) -> int:
        """The iterations that the trial was planned for, or else those of its rows."""
        last = self.rows[-1].iteration if self.rows else 0
        max_iter = self.setup.solver.get("max_iter")
        return max(last, max_iter) if isinstance(max_iter, int) else last

    @property
    def best(self) -> Optional[Evaluation]:
        """The row with the highest Top-1, the earliest if several have it, None without a Top-1.

        The Top-1 is that on the set that decides.
        """
        best, highest = None, -1.0
        for row in self.rows:  # a loop, because a ranking asks tens of thousands of trials
            if row.top1 is not None and row.top1 > highest:
                best, highest = row, row.top1
        return best

    @property
    def top1_curve(self) -> Tuple[Tuple[int, float], ...]:
        """(iteration, Top-1) of each row that has a Top-1, in order."""
        return tuple((row.iteration, row.top1) for row in self.rows if row.top1 is not None)

    @property
    def summary(self) -> Optional[Summary]:
        """The eight metrics on the reported set at the best row, None without a Top-1."""
        return self._summary(self.reported)

    @property
    def deciding_summary(self) -> Optional[Summary]:
        """The eight metrics on the deciding set at the best row, None without a Top-1.

        Trials are compared by these. They are those of :attr:`summary` if there is only one set.
        """
        return self._summary(self.best)

    @property
    def reported(self) -> Optional[Evaluation]:
        """The best row with the metrics on the reported set, None without a Top-1."""
        best = self.best
        return None if best is None else best.on(self.setup.report)

    @property
    def final(self) -> Optional[Evaluation]:
        """The last row that has a Top-1, with the metrics on the reported set.

        Its Top-1 was not chosen, so it is not too high as the highest one of many evaluations is.
        """
        last = next((row for row in reversed(self.rows) if row.top1 is not None), None)
        return None if last is None else last.on(self.setup.report)

    def _summary(self, row: Optional[Evaluation]) -> Optional[Summary]:
        if row is None or row.top1 is None or row.top5 is None:
            return None
        metrics = (row.top1, row.top5, row.ac, row.cd, row.cdac, row.ld)
        return Summary(*metrics, row.iteration, self.n_params)

    def with_row(self, row: Evaluation) -> "Trial":
        """Return the trial with one more row at the end."""
        return dataclasses.replace(self, rows=(*self.rows, row))

    def ended_as(self, state: str, ended: float, error: Optional[str] = None) -> "Trial":
        """Return the trial with its end.

        Args:
            state: One of STATES except RUNNING.
            ended: When it ended, in seconds since the epoch.
            error: Why it failed, diverged, was pruned or ended early, in one sentence.
        """
        return dataclasses.replace(self, state=state, ended=ended, error=error)


@dataclass(frozen=True)
class Job:
    """What to train: a solver prototxt, and the changes to it for one trial.

    None stands for the prototxt's own value if nothing else is stated.

    Attributes:
        solver: The path of the solver prototxt.
        policy: The text of the policy. None: the prototxt's lr_policy.
        seed: Caffe's random_seed. None: the prototxt's, or else a new one.
        data: The folder in which relative paths are looked up first.
        gpu: The index of the GPU.
        max_iter: The number of iterations.
        resume: The path of a .solverstate from which to resume, None to begin at iteration 0.
        weights: The path of a .caffemodel with the initial weights.
        until_top1: The trial ends at the first evaluation with at least this Top-1 accuracy.
        snapshot_prefix: Replaces the solver's snapshot_prefix, and requests a snapshot after the
            training.
        stages: The stages of ``caffe train --stage``.
        level: The level of ``caffe train --level``.
        id: The trial's UUID, set for a trial of a study.
        folder: A folder for the snapshots from which a trial of a study resumes. Such a trial does
            not take the solver's own snapshots, since trials would overwrite each other's.
        test_interval: The number of iterations between two evaluations.
        head: The head of the test net whose metrics are those of the trial. None: it is read from
            the net.
        test_net: The test net whose metrics are reported: the name of its set, or its index.
        select: The set by which decisions are made: its name, or the index of its test net. None:
            the validation set if there is one, else the set that is reported.
        validation: The path of a validation set, which a copy of the first test net measures.
        patience: The trial ends when patience_metric has not improved for this long: a number of
            evaluations, or a text such as "2000 iterations" or "3 epochs".
        patience_metric: "top1", "test_loss" or "train_loss". None: "top1".
        min_delta: The smallest improvement of patience_metric that counts. None: any does.
        verbose: Whether "display" events have the loss and the rate of single iterations.
        model_folder: A folder in which the trial's best model is kept. None: it is not kept.
        keep_best: The start of the names of two files, which also get the best model and its
            description: PREFIX.caffemodel and PREFIX.json.
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
    head: Optional[str] = None
    test_net: Union[int, str] = 0
    select: Optional[str] = None
    validation: Optional[str] = None
    patience: Union[int, str, None] = None
    patience_metric: Optional[str] = None
    min_delta: Optional[float] = None
    verbose: bool = False
    model_folder: Optional[str] = None
    keep_best: Optional[str] = None


def to_dict(value: "DataclassInstance") -> Dict[str, Any]:
    """Return a dataclass of this module as nested dicts, lists and tuples that JSON can hold.

    Example:
        >>> to_dict(Framework("Caffe", "1.0.0"))
        {'name': 'Caffe', 'version': '1.0.0'}
    """
    return dataclasses.asdict(value)


def from_dict(cls: Type[T], content: Dict[str, Any]) -> T:
    """Return the value from which :func:`to_dict` made content, also after a round trip by JSON.

    Args:
        cls: The dataclass of the value.
        content: Its fields by name. Fields with a default may be left out.

    Example:
        >>> from_dict(Dataset, {"name": "digits", "shape": [1, 8, 8], "train_samples": 1397,
        ...                     "test_samples": 400})
        Dataset(name='digits', shape=(1, 8, 8), train_samples=1397, test_samples=400)
    """
    types = _field_types(cls)
    return cls(**{name: _restored(types[name], value) for name, value in content.items()})


# The cache is for speed: get_type_hints takes longer than the rest of from_dict.
_field_types: "Callable[[type], Dict[str, Any]]" = functools.lru_cache(maxsize=None)(
    typing.get_type_hints
)


def _restored(field_type: Any, value: Any) -> Any:
    """A field's value with dicts as dataclasses, and lists as tuples, which JSON does not have."""
    is_class = isinstance(field_type, type) and dataclasses.is_dataclass(field_type)
    if is_class and value is not None:
        return from_dict(field_type, value)
    if isinstance(value, (list, tuple)):
        return tuple(_restored(field_type.__args__[0], item) for item in value)
    return value
