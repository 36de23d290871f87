"""On which set of samples numbers are chosen, and on which they are reported, as sentences."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lrbench_caffe.trial import Trial


def sets_of(trial: Trial) -> tuple[str, str] | None:
    """Return the sets on which a trial's best row is chosen and reported, None without a Top-1."""
    best, report = trial.best, trial.setup.report
    if best is None:
        return None
    return best.measured_on, str(report) if best.has_set(report) else best.measured_on


def sets_sentence(select: str, report: str) -> str:
    """Return on which set numbers are chosen and on which they are reported.

    >>> sets_sentence("validation", "test")
    'chosen on the validation set, reported on the test set'
    >>> sets_sentence("test", "test")
    'chosen and reported on the test set, so the best is a little too high'
    """
    if select != report:
        return "chosen on the %s set, reported on the %s set" % (select, report)
    return "chosen and reported on the %s set, so the best is a little too high" % report


def sets_remarks(trials: Iterable[Trial]) -> list[str]:
    """Return a sentence for each pair of sets by which trials are compared and reported.

    Args:
        trials: The trials, each with at least its best row.

    Returns:
        The sentences; none if no trial has a Top-1.
    """
    counts = Counter(pair for pair in map(sets_of, trials) if pair is not None)
    if len(counts) == 1:
        return [sets_sentence(*pair) for pair in counts]
    return [
        "%d training%s: %s" % (count, "" if count == 1 else "s", sets_sentence(*pair))
        for pair, count in counts.items()
    ]
