"""Lists of what the database has: tasks, trials with their progress, and the trainings that wait.

A list has a line for each trial, without its rows and its network, so a million trials can be
selected from. :meth:`lrbench_caffe.database.Store.trial` reads all of one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional, Tuple

from lrbench_caffe.database import selection as filters
from lrbench_caffe.database import studies
from lrbench_caffe.database.reader import trial_ids_query
from lrbench_caffe.errors import InputError, abbreviated, nearest
from lrbench_caffe.lines import Membership, TaskLine, TrialLine
from lrbench_caffe.trial import Dataset, Job, Network, from_dict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrbench_caffe.database.store import Store

SHORT = 8  # digits of an id in a list, or more if trials differ only in later ones
_ID_LENGTH = 36
_MAX_MATCHES = 5  # ids in a message

_CHOSEN = """
    SELECT id, started_at FROM trial
    WHERE id IN (%s) AND (%%(ids)s::uuid[] IS NULL OR id = ANY (%%(ids)s::uuid[]))
        AND (%%(host)s IS NULL OR host = %%(host)s)
        AND (%%(since)s IS NULL OR started_at >= to_timestamp(%%(since)s))"""

# Whatever is looked up for a trial is looked up by its id, so a short list of many trials is fast.
_TRIALS = """
    SELECT trial.id::text, policy.text AS policy, seed, state, best.top1,
           best.iteration AS iterations, host, origin.name AS origin, error, attempt,
           network.name AS network, network.hash, dataset.name AS dataset, shape, train_samples,
           test_samples, study.name AS study, solver ->> 'max_iter' AS max_iter,
           reached.iteration AS reached,
           extract(epoch FROM trial.started_at)::double precision AS started,
           extract(epoch FROM ended_at)::double precision AS ended,
           (SELECT near.id::text FROM trial near WHERE near.id < chosen.id
            ORDER BY near.id DESC LIMIT 1) AS before,
           (SELECT near.id::text FROM trial near WHERE near.id > chosen.id
            ORDER BY near.id LIMIT 1) AS after
    FROM (%s ORDER BY started_at DESC, id LIMIT %%(limit)s) AS chosen
    JOIN trial ON trial.id = chosen.id JOIN policy ON policy.id = policy_id
    JOIN network ON network.id = network_id JOIN dataset ON dataset.id = dataset_id
    LEFT JOIN origin ON origin.id = origin_id
    LEFT JOIN study_trial ON trial_id = chosen.id LEFT JOIN study ON study.id = study_id
    LEFT JOIN LATERAL (
        SELECT iteration FROM evaluation WHERE evaluation.trial_id = chosen.id
        ORDER BY iteration DESC LIMIT 1) AS reached ON true
    LEFT JOIN LATERAL (
        SELECT iteration, COALESCE(
            (other_sets -> (solver ->> 'report') ->> 'top1')::double precision, row.top1) AS top1
        FROM evaluation AS row WHERE row.trial_id = chosen.id AND row.top1 IS NOT NULL
        ORDER BY row.top1 DESC, iteration LIMIT 1) AS best ON true
    ORDER BY chosen.started_at DESC, chosen.id"""

_TASKS = """
    SELECT network.name AS network, network.hash, dataset.name AS dataset, shape, train_samples,
           test_samples, counted.*, best.policy, best.top1
    FROM (SELECT network_id, dataset_id, count(*) AS trials,
                 count(*) FILTER (WHERE state = 'finished') AS finished,
                 count(*) FILTER (WHERE state = 'running') AS running,
                 count(DISTINCT policy_id) AS policies,
                 extract(epoch FROM max(trial.started_at))::double precision AS started
          FROM (%s) AS chosen JOIN trial USING (id) GROUP BY network_id, dataset_id) AS counted
    JOIN network ON network.id = network_id JOIN dataset ON dataset.id = dataset_id
    LEFT JOIN LATERAL (
        -- The Top-1 of trainings with a validation set is that on this set, and is not shown.
        SELECT policy.text AS policy, CASE WHEN settings ? 'select' THEN NULL ELSE top1 END AS top1
        FROM standing JOIN policy ON policy.id = policy_id
        WHERE standing.dataset_id = counted.dataset_id AND standing.network_id = counted.network_id
        ORDER BY settings ? 'select', standing.top1 DESC, iterations LIMIT 1) AS best ON true
    ORDER BY started DESC"""

_STUDIES = "SELECT DISTINCT name FROM study JOIN study_trial ON study_id = study.id"

_STUDY_NAMES = "SELECT name FROM study ORDER BY id DESC"

_STARTING_WITH = """
    SELECT id::text FROM trial WHERE id BETWEEN %(low)s AND %(high)s
    UNION SELECT trial_id::text FROM study_trial WHERE trial_id BETWEEN %(low)s AND %(high)s
    ORDER BY 1 LIMIT %(limit)s"""

_STUDY = """
    SELECT study.name, position, job FROM study JOIN study_trial ON study_id = study.id
    WHERE trial_id = %s"""


class Selection(NamedTuple):
    """Which trials to list; a trial has to match everything.

    Attributes:
        filters: The filters of :meth:`lrbench_caffe.database.Store.trials` by their names.
        host: The machine that trained it, or None.
        since: The earliest start in seconds since the epoch, or None.
        ids: The ids of trials, or None for any.
    """

    filters: Dict[str, Optional[str]]
    host: Optional[str] = None
    since: Optional[float] = None
    ids: Optional[Tuple[str, ...]] = None

    @property
    def is_empty(self) -> bool:
        """Whether it selects all trials."""
        return not any(self.filters.values()) and self[1:] == (None, None, None)


def chosen_query(selection: Selection) -> tuple[str, dict[str, Any]]:
    """Return a query for (id, started_at) of the selected trials, and its values."""
    query, values = trial_ids_query(dict(selection.filters))
    ids = None if selection.ids is None else list(selection.ids)
    more = {"ids": ids, "host": selection.host, "since": selection.since}
    return _CHOSEN % query, {**values, **more}


def count(store: Store, selection: Selection) -> int:
    """Return the number of the selected trials."""
    query, values = chosen_query(selection)
    (line,) = store.select("SELECT count(*) AS trials FROM (%s) AS chosen" % query, values)
    number: int = line.trials
    return number


def trials(store: Store, selection: Selection, limit: int | None = None) -> list[TrialLine]:
    """Return the selected trials, those that started last first.

    Args:
        store: The database.
        selection: Which trials.
        limit: The largest number of trials, or None.
    """
    query, values = chosen_query(selection)
    lines = store.select(_TRIALS % query, dict(values, limit=limit))
    return [
        TrialLine(
            id=line.id,
            short_id=_short(line.id, (line.before, line.after)),
            state=line.state,
            policy=line.policy,
            top1=line.top1,
            iterations=line.iterations,
            seed=line.seed,
            network=Network(line.network, line.hash, ""),
            dataset=_dataset(line),
            reached=line.reached,
            max_iter=line.max_iter and int(line.max_iter),
            started=line.started,
            ended=line.ended,
            host=line.host,
            study=line.study,
            origin=line.origin,
            error=line.error,
            attempt=line.attempt,
        )
        for line in lines
    ]


def tasks(store: Store, selection: Selection) -> list[TaskLine]:
    """Return the tasks of the selected trials, the one that was trained last first."""
    query, values = chosen_query(selection)
    return [
        TaskLine(
            network=Network(line.network, line.hash, ""),
            dataset=_dataset(line),
            trials=line.trials,
            finished=line.finished,
            running=line.running,
            policies=line.policies,
            best=line.policy,
            top1=line.top1,
            started=line.started,
        )
        for line in store.select(_TASKS % query, values)
    ]


def study_names(store: Store, selection: Selection) -> list[str]:
    """Return the names of the studies that have any of the selected trials."""
    query, values = chosen_query(selection)
    condition = " WHERE trial_id IN (SELECT id FROM (%s) AS chosen)" % query
    return [line.name for line in store.select(_STUDIES + condition, values)]


def check(store: Store, selection: Selection) -> None:
    """Check that at least one trial is selected.

    Raises:
        InputError: None is. The message says which filter no trial matches.
    """
    filters.check(store, selection.filters)
    if count(store, selection):
        return
    if selection.ids is not None:
        raise InputError(
            "these trials do not match the filters, or have not begun: leave out the filters, or "
            "list trials with `lrbench ls trials`"
        )
    raise InputError("no trial of this host, or of this time, matches: leave out --host or --since")


def find_trials(store: Store, prefix: str) -> list[str]:
    """Return the ids that start with a prefix, at most a handful, waiting trials included.

    Args:
        store: The database.
        prefix: The first digits of an id; dashes and case do not matter.
    """
    digits = prefix.replace("-", "").lower()
    if not re.fullmatch("[0-9a-f]{1,32}", digits):
        return []
    limits = {"low": digits.ljust(32, "0"), "high": digits.ljust(32, "f")}
    lines = store.select(_STARTING_WITH, dict(limits, limit=_MAX_MATCHES + 1))
    return [line.id for line in lines]


def find(store: Store, name: str) -> str | None:
    """Return the id of the trial that a user names, or None for the name of a study.

    Args:
        store: The database.
        name: The name of a study, or the first digits of a trial's id.

    Raises:
        InputError: The database has neither, or several trials have such an id.
    """
    names = [line.name for line in store.select(_STUDY_NAMES)]
    if name in names:
        return None
    if find_trials(store, name):
        return find_trial(store, name)
    closest = nearest(name, names)
    raise InputError(
        "the database %s has neither a study nor a trial %s: %s"
        % (
            store.where,
            abbreviated(name),
            "did you mean the study %s?" % closest
            if closest
            else "`lrbench ls` lists the studies and the trials with their ids",
        )
    )


def has_begun(store: Store, trial_id: str) -> bool:
    """Return whether a trial has begun; otherwise it waits in its study."""
    return bool(store.select("SELECT FROM trial WHERE id = %s", [trial_id]))


def find_trial(store: Store, prefix: str) -> str:
    """Return the id that starts with a prefix.

    Raises:
        InputError: No trial has such an id, or several trials have one.
    """
    ids = find_trials(store, prefix)
    if len(ids) == 1:
        return ids[0]
    if ids:
        listed = ", ".join(ids[:_MAX_MATCHES]) + (", ..." if len(ids) > _MAX_MATCHES else "")
        raise InputError(
            "several trials have an id that starts with %s (%s): give more of it" % (prefix, listed)
        )
    raise InputError(
        "the database %s has no trial %s: `lrbench ls trials` lists the trials with their ids"
        % (store.where, abbreviated(prefix))
    )


def membership(store: Store, trial_id: str) -> Membership | None:
    """Return the place of a trial in its study, None if it does not belong to one."""
    for line in store.select(_STUDY, [trial_id]):
        stage, why = studies.reasons(store, line.name).get(trial_id, ("", ""))
        job = from_dict(Job, line.job)
        return Membership(line.name, line.position + 1, job, stage, why)
    return None


def waiting(store: Store) -> List[Tuple[str, int, bool]]:
    """Return (study, number of trainings that have not begun, whether it is running)."""
    return [
        (study.name, study.states["waiting"], study.running)
        for study in studies.summaries(store)
        if study.states.get("waiting")
    ]


def _short(trial_id: str, neighbours: Sequence[str | None]) -> str:
    """The first digits of an id that differ from the ids before and after it in their order."""
    length = SHORT
    for other in filter(None, neighbours):
        while length < _ID_LENGTH and other[:length] == trial_id[:length]:
            length += 1
    return trial_id[:length]


def _dataset(line: Any) -> Dataset:
    shape = None if line.shape is None else tuple(line.shape)
    return Dataset(line.dataset, shape, line.train_samples, line.test_samples)
