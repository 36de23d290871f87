"""Whether what a study trains is still what its trials have trained."""

from __future__ import annotations

import dataclasses
import glob
import os
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


def check(store: Store, name: str, remedy: str) -> None:
    """Check that a study's solvers, nets and data are those of its trials.

    A trial that failed, or has neither rows nor a snapshot, begins again, and does not count. A job
    that cannot be described on this machine, for example because its data is on the workers of a
    cluster, is not checked.

    Args:
        store: The database.
        name: The name of the study, which need not exist.
        remedy: What to do instead, beside undoing the change, for the message.

    Raises:
        InputError: They differ. The message has the differences.
    """
    if not store.select("SELECT FROM study WHERE name = %s", [name]):
        return
    trials = {
        trial.id: trial
        for trial in store.trials(study=name, best_only=True)
        if is_measured(trial) or _has_snapshot(name, trial)
    }
    if not trials:
        return
    for job in _one_of_each_solver(store, name, trials):
        stored = trials[str(job.id)]
        try:
            now = process.describe(dataclasses.replace(job, id=None))
        except (InputError, TrialError):
            continue
        changes = differences(stored.setup, now.setup)
        if job.policy is None and now.policy != stored.policy:
            changes.append("its schedule is %s, and was %s" % (now.policy, stored.policy))
        if changes:
            raise changed(name, job.solver, changes, remedy)


def is_measured(trial: Trial) -> bool:
    """Return whether a trial has results that count: it did not fail, and has rows."""
    return trial.state != FAILED and bool(trial.rows)


def _has_snapshot(name: str, trial: Trial) -> bool:
    """Whether a trial that has not ended resumes from a snapshot on this machine."""
    folder = os.path.join(study_folder(name), trial.id)
    return trial.state in (RUNNING, INTERRUPTED) and bool(glob.glob(folder + "/snapshot_iter_*"))


def _one_of_each_solver(store: Store, name: str, trials: Collection[str]) -> Iterable[Job]:
    """The first job with each solver and options, of those of the trials."""
    jobs: dict[Job, Job] = {}
    for entry in studies.jobs(store, name):
        if entry.job.id in trials:
            policy = None if entry.job.policy is None else ""
            key = dataclasses.replace(entry.job, id=None, seed=None, policy=policy)
            jobs.setdefault(key, entry.job)
    return jobs.values()


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
        names -= {*ranking.INPUT_SETTINGS}
    for setting in sorted(names):
        values = _value_text(ours.get(setting)), _value_text(theirs.get(setting))
        found.append("%s is %s, and was %s" % (setting, *values))
    return found


def _value_text(value: object) -> str:
    return "not set" if value is None else ranking.setting_text(value)


def changed(name: str, solver: str, changes: Sequence[str], remedy: str) -> InputError:
    """Return the error about a study whose trials have trained something else.

    Args:
        name: The name of the study.
        solver: The path of the solver.
        changes: The differences.
        remedy: What to do instead, beside undoing the change.
    """
    more = ", ..." if len(changes) > _MAX_DIFFERENCES else ""
    return InputError(
        "the study %s contains trainings of another version of %s or its net (%s%s): undo the "
        "change, or %s"
        % (name, os.path.basename(solver), "; ".join(changes[:_MAX_DIFFERENCES]), more, remedy)
    )
