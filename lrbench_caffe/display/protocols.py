"""The types of the values that tables show, for packages that display does not import.

This module is for type checkers only: nothing imports it at run time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lrbench_caffe.ranking import Ranked, Spread
    from lrbench_caffe.ranking.ranges import Curve, Range
    from lrbench_caffe.trial import Dataset, Network, Trial


class StudySummary(Protocol):
    """A :class:`lrbench_caffe.database.studies.StudySummary`."""

    @property
    def name(self) -> str:
        """The name of the study."""

    @property
    def created(self) -> float:
        """When the study was created, in seconds since the epoch."""

    @property
    def states(self) -> Mapping[str, int]:
        """The number of trials in each state."""

    @property
    def running(self) -> bool:
        """Whether a program is running the study."""


class JournalSummary(Protocol):
    """A :class:`lrbench_caffe.database.journals.JournalSummary`."""

    @property
    def path(self) -> str:
        """The file."""

    @property
    def state(self) -> str:
        """Whether it waits, was refused or is damaged."""

    @property
    def database(self) -> str | None:
        """The name of its database."""

    @property
    def trial(self) -> str | None:
        """The id of its trial."""

    @property
    def policy(self) -> str | None:
        """The policy's text."""

    @property
    def seed(self) -> int | None:
        """Caffe's random_seed."""

    @property
    def rows(self) -> Sequence[Mapping[str, object]]:
        """Its evaluations, as dicts."""

    @property
    def reason(self) -> str | None:
        """Why it was refused."""


class OriginSummary(Protocol):
    """A :class:`lrbench_caffe.database.origins.OriginSummary`."""

    @property
    def uuid(self) -> str:
        """The UUID of the database."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def here(self) -> bool:
        """Whether it is this database."""

    @property
    def trials(self) -> int:
        """The number of its trials."""


class Task(Protocol):
    """A :class:`lrbench_caffe.database.standings.TrainedTask`."""

    @property
    def dataset(self) -> Dataset:
        """The dataset."""

    @property
    def network(self) -> Network:
        """The network."""


class Standing(Protocol):
    """A :class:`lrbench_caffe.database.standings.Standing`."""

    @property
    def policy(self) -> str:
        """The policy's text."""

    @property
    def settings(self) -> Mapping[str, object]:
        """The solver settings of its trainings."""

    @property
    def top1(self) -> Spread:
        """Top-1 over the seeds."""

    @property
    def iterations(self) -> float:
        """The mean of #Iterations over the seeds."""

    @property
    def seeds(self) -> Sequence[int]:
        """The seeds of its trainings."""


class TaskResults(Protocol):
    """A :class:`lrbench_caffe.evaluator.recommendation.TaskResults`."""

    @property
    def task(self) -> Task:
        """The task."""

    @property
    def similarity(self) -> float:
        """The similarity to the queried task, from 0 to 1."""

    @property
    def policies(self) -> Sequence[Standing]:
        """The best policies."""

    @property
    def shortcomings(self) -> Sequence[Sequence[str]]:
        """What the evidence for each of the policies lacks."""


class RangeTest(Protocol):
    """A :class:`lrbench_caffe.evaluator.range_test.RangeTest`."""

    @property
    def title(self) -> str:
        """The title."""

    @property
    def trials(self) -> Sequence[Trial]:
        """The trials."""

    @property
    def curves(self) -> Sequence[Curve]:
        """Top-1 against the rate after several numbers of iterations."""

    @property
    def good(self) -> Range | None:
        """The range of good rates."""

    @property
    def epoch(self) -> float | None:
        """The number of iterations in an epoch."""

    @property
    def swept(self) -> bool:
        """Whether one training with a growing rate was measured."""


class TriedTraining(Protocol):
    """A :class:`lrbench_caffe.evaluator.tuner.Tried`."""

    @property
    def stage(self) -> str:
        """The stage of the search."""

    @property
    def why(self) -> str:
        """The reason for the training."""

    @property
    def trial(self) -> Trial:
        """The trial."""


class Tuned(Protocol):
    """A :class:`lrbench_caffe.evaluator.tuner.Tuned`."""

    @property
    def ranked(self) -> Sequence[Ranked]:
        """The policies that were trained at the length of the result."""

    @property
    def tried(self) -> Sequence[TriedTraining]:
        """The trainings of the search in their order."""
