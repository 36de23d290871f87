"""Finds the model of a trial or a study that a user names, or the reason why there is none."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING

from lrbench_caffe import database, models, ranking
from lrbench_caffe.errors import InputError, counted
from lrbench_caffe.policies import parse_or_none
from lrbench_caffe.study.kept import best_of
from lrbench_caffe.trial import RUNNING, Trial

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrbench_caffe.database import Store
    from lrbench_caffe.models import Model

_ID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_MAX_LISTED = 3


def weights(trial: Trial | str, policy: str | None = None, dsn: str | None = None) -> Model:
    """Return the model that a trial or a study has kept on this machine.

    Args:
        trial: A Trial; the id of one, or its first digits; or the name of a study. Of a study, it
            is the model of the best trial of the best policy.
        policy: The policy of a study whose model is wanted (None: the best one that has a model).
        dsn: The PostgreSQL database (None: the default one).

    Returns:
        The Model: the path of its weights, its iteration and its metrics.

    Raises:
        InputError: There is no such trial or study, or it has not kept a model. The message has
            the reason.

    Example:
        >>> trial = lrbench_caffe.train("solver.prototxt")  # doctest: +SKIP
        >>> lrbench_caffe.weights(trial).path  # doctest: +SKIP
        '/home/user/.local/share/lrbench/models/4edc24b6-.../iter_250.caffemodel'
    """
    if isinstance(trial, Trial):
        trial = trial.id
    if re.fullmatch(_ID, trial) and policy is None:
        model = models.find(trial)  # without the database, which may be another one
        if model is not None:
            return model
    with database.Store(dsn) as store:
        if store.select("SELECT FROM study WHERE name = %s", [trial]):
            return _of_study(store, trial, policy)
        if policy is not None:
            raise database.selection.unknown_study(store, trial)
        trial_id = _complete(store, trial)
        model = models.find(trial_id)
        if model is None:
            raise InputError("trial %s has no model: %s" % (trial_id, _reason(store, trial_id)))
        return model


def _complete(store: Store, start: str) -> str:
    """The id of the trial whose id starts like this, in the database or with a model."""
    ids = {*database.listing.find_trials(store, start), *models.starting_with(start)}
    if len(ids) == 1:
        return ids.pop()
    if not ids:
        raise InputError(
            "the database %s has neither a study nor a trial %s: `lrbench study list` shows the "
            "studies, and a trial is named by its id or by the first digits of it"
            % (store.where, start)
        )
    raise InputError(
        "several trials have an id that starts with %s, for example %s: give more digits"
        % (start, ", ".join(sorted(ids)[:_MAX_LISTED]))
    )


def _reason(store: Store, trial_id: str) -> str:
    """Why a trial has no model, as a part of a sentence."""
    damage = models.damage(trial_id)
    if damage:
        return damage
    if not database.listing.has_begun(store, trial_id):
        return "it has not begun"
    trial = store.trial(trial_id)
    if trial.origin is not None:
        return "it was imported from %s, and models are not exported" % trial.origin
    if trial.state == RUNNING:
        return "it has none yet, and keeps the first one at one of its next rows"
    studies = "SELECT name FROM study JOIN study_trial ON study_id = study.id WHERE trial_id = %s"
    for study in (line.name for line in store.select(studies, [trial_id])):
        rivals = [
            other
            for other in store.trials(study=study, policy=trial.policy, best_only=True)
            if models.find(other.id)
        ]
        if rivals:
            return "the study %s keeps the best one of each policy, here that of trial %s" % (
                study,
                best_of(rivals).id,
            )
        return (
            "the study %s keeps the best one of each policy, and `lrbench tune` that of its result "
            "only; or it was trained with --no-model, or on another machine" % study
        )
    if not any(row.top1 is not None for row in trial.rows) and trial.setup.has_test_net:
        return "it ended before its first row"
    place = ""
    if trial.host != socket.gethostname():
        place = ", or on the machine %s" % trial.host
    return "it was trained with --no-model, by a command that keeps none, with another %s%s" % (
        "LRBENCH_HOME",
        place,
    )


def _of_study(store: Store, study: str, policy: str | None) -> Model:
    """The model of the best trial of a policy of a study, by default of the best policy."""
    trials = store.trials(study=study, best_only=True)
    if policy is not None:
        policy = str(parse_or_none(policy) or policy)
        trials = [trial for trial in trials if trial.policy == policy]
        if not trials:
            raise InputError(
                "the study %s has no trial under %s: `lrbench study show %s` lists its policies"
                % (study, policy, study)
            )
    blocks = [
        block
        for block in ranking.group_comparable(trials)
        if any(models.find(trial.id) for trial in block.trials)
    ]
    of_policy = "" if policy is None else " under %s" % policy
    if not blocks:
        raise InputError(
            "the study %s has no model%s on this machine: %s"
            % (study, of_policy, _reason_of_study(trials))
        )
    if len(blocks) > 1:
        raise InputError(
            "the study %s has models of trainings that cannot be compared (%s): name a trial, for "
            "example %s"
            % (
                study,
                "; ".join(block.title for block in blocks),
                next(trial.id for trial in blocks[0].trials if models.find(trial.id)),
            )
        )
    for entry in ranking.rank_block(blocks[0]):
        of_policy_kept = (trial for trial in blocks[0].trials if trial.policy == entry.policy)
        kept = [trial for trial in of_policy_kept if models.find(trial.id)]
        model = models.find(best_of(kept).id) if kept else None
        if model is not None:
            return model
    raise InputError("the models of the study %s were removed meanwhile: try again" % study)


def _reason_of_study(trials: Sequence[Trial]) -> str:
    if not trials:
        return "none of its trials has begun"
    if all(trial.origin for trial in trials):
        return "its trials were imported, and models are not exported"
    damage = next(filter(None, (models.damage(trial.id) for trial in trials)), None)
    if damage:
        return "%s; training the study again under another name keeps new ones" % damage
    return (
        "its %s %s trained with --no-model, by `lrbench range`, by an earlier version, or with "
        "another LRBENCH_HOME"
        % (counted(len(trials), "trial"), "was" if len(trials) == 1 else "were")
    )
