"""What the eight metrics mean (section III of the paper), for ``lrbench metrics``."""

from __future__ import annotations

from typing import NamedTuple

from lrbench_caffe.errors import InputError, suggestion
from lrbench_caffe.ranking.criteria import METRICS


class Entry(NamedTuple):
    """What a metric means.

    Attributes:
        name: Its name in ``--by``, in the database and in CSV.
        title: Its title in the paper's tables.
        meaning: What it measures, in a phrase.
        formula: How it is computed.
        use: What a user learns from it, in a sentence.
    """

    name: str
    title: str
    meaning: str
    formula: str
    use: str

    @property
    def better(self) -> str:
        """Which values are better, "higher" or "lower"."""
        return "higher" if METRICS[self.name] else "lower"


_ENTRIES = (
    Entry(
        "top1",
        "Top-1",
        "accuracy: the share of the samples whose most probable class is the label",
        "|C| / N, where C are the correctly classified of N samples",
        "The answer to most questions. A tie between classes counts as an error.",
    ),
    Entry(
        "top5",
        "Top-5",
        "the share of the samples whose label is among the five most probable classes",
        "the number of samples with fewer than 5 classes before the label, divided by N",
        "Interesting with many classes; with five classes or fewer it is always 1.",
    ),
    Entry(
        "iterations",
        "#Iterations",
        "the cost: the iteration of the evaluation with the highest Top-1",
        "the earliest evaluation with the highest Top-1 of the training",
        "A policy with the same accuracy after fewer iterations is cheaper.",
    ),
    Entry(
        "ac",
        "AC",
        "average confidence: the mean probability of the right class where the net is right",
        "mean of conf_i over C, where conf_i = p_i[y_i]",
        "Near 1 the net is sure of what it classifies correctly.",
    ),
    Entry(
        "cd",
        "CD",
        "confidence deviation: how much the confidence varies between samples",
        "population standard deviation of conf_i over C",
        "A low value means that the net is about equally sure of all samples.",
    ),
    Entry(
        "cdac",
        "CDAC",
        "confidence deviation across classes: how much it varies between classes",
        "population standard deviation of the classes' mean confidences",
        "A high value means that some classes are learned much less well than others.",
    ),
    Entry(
        "ld",
        "LD",
        "loss difference between the test set and the training",
        "|test loss - train loss|",
        "A high value is a sign of overfitting.",
    ),
    Entry(
        "n_params",
        "#Param",
        "the number of the policy's parameters",
        "counted in the policy's text; each step of NSTEP counts",
        "Of two policies that are equal otherwise, the one with fewer is easier to tune.",
    ),
)


def entries() -> tuple[Entry, ...]:
    """Return what the metrics mean, the one that users ask for first in front."""
    return _ENTRIES


def entry(name: str) -> Entry:
    """Return what a metric means.

    Args:
        name: Its name or its title, in any case.

    Raises:
        InputError: The metric is unknown.

    Example:
        >>> entry("Top-1").name
        'top1'
    """
    for candidate in _ENTRIES:
        if name.lower() in (candidate.name, candidate.title.lower()):
            return candidate
    raise InputError("unknown metric %r%s" % (name[:60], suggestion(name, METRICS)))
