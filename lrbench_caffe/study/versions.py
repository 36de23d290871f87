"""Whether what a study trains is still what its trials have trained."""

from __future__ import annotations

import dataclasses
import glob
import os
from collections import defaultdict
from typing import TYPE_CHECKING

from lrbench_caffe import ranking
from lrbench_caffe.database import studies
from lrbench_caffe.errors import InputError, TrialError
from lrbench_caffe.paths import study_folder
from lrbench_caffe.study import process
from lrbench_caffe.trial import FAILED, INTERRUPTED, RUNNING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from lrbench_caffe.database import Store
    from lrbench_caffe.trial import Job, Setup, Trial

_MAX_DIFFERENCES = 3  # in a message


def check(store: Store, name: str, remedy: str) -> set[str]:
    """Check that a study's solvers, nets and data are those of its trials.

    A job that cannot be described on this machine, for example because its data is on the workers
    of a cluster, is not checked.

    Args:
        store: The database.
        name: The name of the study, which need not exist.
        remedy: What to do instead, beside undoing the change, for the message.

    Returns:
        The failed trials that differ; see :func:`is_outdated`.

    Raises:
        InputError: They differ. The message has the differences.
    """
    outdated: set[str] = set()
    if not store.select("SELECT FROM study WHERE name = %s", [name]):
        return outdated
    trials = {
        trial.id: trial
        for trial in store.trials(study=name, best_only=True)
        if trial.rows or _has_snapshot(name, trial)
    }
    if not trials:
        return outdated
    for jobs in _by_solver(store, name, trials):
        try:
            now = process.describe(dataclasses.replace(jobs[0], id=None))
        except (InputError, TrialError):
            continue
        for job in jobs:
            stored = trials[str(job.id)]
            changes = differences(stored.setup, now.setup)
            if job.policy is None and now.policy != stored.policy:
                changes.append("its schedule is %s, and was %s" % (now.policy, stored.policy))
            if is_outdated(name, stored, job.solver, changes, remedy):
                outdated.add(stored.id)
    return outdated


def is_outdated(name: str, trial: Trial, solver: str, changes: Sequence[str], remedy: str) -> bool:
    """Return whether a failed trial differs from what its study would train now.

    Its snapshots then belong to the former version, and it begins again without them. A trial that
    did not fail must not differ, unless it has neither rows nor a snapshot.

    Args:
        name: The name of the study.
        trial: The trial, with its best row at least.
        solver: The path of the solver.
        changes: How the trial differs from what would be trained now.
        remedy: What to do instead, beside undoing the change, for the message.

    Raises:
        InputError: It differs, and did not fail.
    """
    if trial.state == FAILED or not changes:
        return bool(changes)
    if trial.rows or (trial.state in (RUNNING, INTERRUPTED) and _has_snapshot(name, trial)):
        raise _changed(name, solver, changes, remedy)
    return False


def _has_snapshot(name: str, trial: Trial) -> bool:
    """Whether a trial has a snapshot on this machine."""
    folder = glob.escape(os.path.join(study_folder(name), trial.id))
    return bool(glob.glob(os.path.join(folder, "snapshot_iter_*")))


def _by_solver(store: Store, name: str, trials: Collection[str]) -> Iterable[list[Job]]:
    """The jobs of trials, in groups of the same solver and options."""
    groups: dict[Job, list[Job]] = defaultdict(list)
    for entry in studies.jobs(store, name):
        if entry.job.id in trials:
            policy = None if entry.job.policy is None else ""
            key = dataclasses.replace(entry.job, id=None, seed=None, policy=policy)
            groups[key].append(entry.job)
    return groups.values()


def differences(before: Setup, now: Setup, ignored: Collection[str] = ()) -> list[str]:
    """Return how two setups differ, as parts of a sentence; empty if results can be compared.

    A trial of an earlier version does not say what it began with, and does not differ in that.

    Args:
        before: What was trained before.
        now: What would be trained now.
        ignored: Settings that may differ.
    """
    found = []
    if before.network.hash != now.network.hash:
        found.append("its net has other layers")
    if before.dataset != now.dataset:
        labels = ranking.dataset_label(now.dataset), ranking.dataset_label(before.dataset)
        found.append("its dataset is %s, and was %s" % labels)
    ours, theirs = map(dict, ranking.differing_settings([now.solver, before.solver]))
    names = {*ours, *theirs} - {*ignored}
    if not ranking.has_input_settings(before.solver):
        names -= {*filter(ranking.is_input_setting, names)}
    for setting in sorted(names):
        values = _value_text(ours.get(setting)), _value_text(theirs.get(setting))
        found.append("%s is %s, and was %s" % (setting, *values))
    return found


def _value_text(value: object) -> str:
    return "not set" if value is None else ranking.setting_text(value)


def _changed(name: str, solver: str, changes: Sequence[str], remedy: str) -> InputError:
    """The error about a study whose trials have trained something else."""
    more = ", ..." if len(changes) > _MAX_DIFFERENCES else ""
    return InputError(
        "the study %s contains trainings of another version of %s or its net (%s%s): undo the "
        "change, or %s"
        % (name, os.path.basename(solver), "; ".join(changes[:_MAX_DIFFERENCES]), more, remedy)
    )
