"""The lines of lists: a trial, a task, or a trial's place in a study, in a few values."""

from __future__ import annotations

from typing import NamedTuple, Optional

from lrbench_caffe.trial import Dataset, Job, Network


class TrialLine(NamedTuple):
    """A trial in a list.

    Attributes:
        id: The trial's id.
        short_id: The first digits of the id, which no other trial has.
        state: Its state.
        policy: The text of its policy.
        top1: The reported Top-1 of its best row so far, or None.
        iterations: The iteration of that row.
        seed: Its seed.
        network: Its network, with an empty prototxt.
        dataset: Its dataset.
        reached: The iteration of its last row, or None.
        max_iter: The number of iterations that it is to train, None if it was not recorded.
        started: When it started, in seconds since the epoch.
        ended: When it ended, or None.
        host: The machine that trained it.
        study: The study that it belongs to, or None.
        origin: The database that it was imported from, or None.
        error: Why it failed, diverged or was pruned, or None.
        attempt: How many times it was started.
    """

    id: str
    short_id: str
    state: str
    policy: str
    top1: Optional[float]
    iterations: Optional[int]
    seed: int
    network: Network
    dataset: Dataset
    reached: Optional[int]
    max_iter: Optional[int]
    started: float
    ended: Optional[float]
    host: str
    study: Optional[str]
    origin: Optional[str]
    error: Optional[str]
    attempt: int = 1


class TaskLine(NamedTuple):
    """A task in a list.

    Attributes:
        network: The network, with an empty prototxt.
        dataset: The dataset.
        trials: The number of its trials.
        finished: The number of those that are finished.
        running: The number of those that are running.
        policies: The number of policies that were trained.
        best: The policy with the highest mean Top-1 over its seeds, or None.
        top1: This mean.
        started: When the last trial started, in seconds since the epoch.
    """

    network: Network
    dataset: Dataset
    trials: int
    finished: int
    running: int
    policies: int
    best: Optional[str]
    top1: Optional[float]
    started: float


class Membership(NamedTuple):
    """The place of a trial in a study.

    Attributes:
        study: The name of the study.
        position: Its number in the study, from 1.
        job: What it trains.
        stage: For a search, the stage that asked for it; "" if that was not recorded.
        why: The reason for it in this stage.
    """

    study: str
    position: int
    job: Job
    stage: str
    why: str
