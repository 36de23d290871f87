"""Failed trainings in messages: which failed, and why.

A result that is drawn from trials names those that failed, because they are missing from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrbench_caffe.errors import TrialError, counted
from lrbench_caffe.trial import FAILED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lrbench_caffe.trial import Trial

_MAX_NAMES = 3  # of trainings with the same error, in a line


def failed_trials(trials: Iterable[Trial]) -> list[Trial]:
    """Return the trials that failed, in their order."""
    return [trial for trial in trials if trial.state == FAILED]


def lines(trials: Iterable[Trial]) -> list[str]:
    """Return a line for each error with which trials failed; it names the first of these trials.

    Example:
        ``failed: FIX(k0=0.1) with seed 1: Caffe ended the training: Check failed: a < b``
    """
    groups: dict[str, list[Trial]] = {}
    for trial in failed_trials(trials):
        groups.setdefault(_error(trial), []).append(trial)
    return ["failed: %s: %s" % (_names(group), error) for error, group in groups.items()]


def common_error(trials: Iterable[Trial]) -> str:
    """Return why trials failed, for a message about all of them.

    Args:
        trials: The trials, of which at least one failed.

    Returns:
        The error that they have in common, or else that of the first one.
    """
    errors = [_error(trial) for trial in failed_trials(trials)]
    return ("the first one: " if len(set(errors)) > 1 else "") + errors[0]


def raise_if_any(trials: Sequence[Trial], remedy: str) -> None:
    """Raise an error if any of the trials failed.

    Args:
        trials: The trials that a command has asked for.
        remedy: What to do, as the last part of the message.

    Raises:
        TrialError: A trial failed.
    """
    failed = failed_trials(trials)
    if failed:
        raise TrialError("%d of %d trainings failed: %s" % (len(failed), len(trials), remedy))


def _error(trial: Trial) -> str:
    return trial.error or "the reason was not recorded"


def _names(trials: Sequence[Trial]) -> str:
    """The policies and seeds of the first trials, and the number of the others."""
    names = ["%s with seed %d" % (trial.policy, trial.setup.seed) for trial in trials[:_MAX_NAMES]]
    more = len(trials) - len(names)
    return ", ".join(names) + (" and %s" % counted(more, "other") if more else "")
