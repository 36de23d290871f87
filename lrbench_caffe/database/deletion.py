"""Deletion of trials and studies, with the files that they keep on this machine.

A trial that is running is not deleted. A trial is running if the database says so, unless a journal
of this machine shows that its program has ended; if a program has claimed its study; or if a
program of this machine writes its journal. The first of these can be overruled, because the machine
may be lost. A study is locked while its trials are deleted, so no program can start it meanwhile.

The journals of this machine that wait for this database with rows of a deleted trial are removed
with it. The database keeps the id of a trial that was trained here, so a journal of another machine
does not bring the trial back: it is refused (:mod:`~lrbench_caffe.database.delivery`).

An origin goes with the last trial that was imported from it.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, NamedTuple, Optional, Tuple

from lrbench_caffe import kept
from lrbench_caffe.database import delivery, listing, origins, studies
from lrbench_caffe.errors import InputError, counted
from lrbench_caffe.lines import TrialLine
from lrbench_caffe.trial import RUNNING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lrbench_caffe.database.store import Store

_MAX_RUNNING = 3  # trials in a message

_ROWS = "SELECT count(*) AS rows FROM evaluation WHERE trial_id = ANY (%s::uuid[])"

_WAITING = """
    SELECT trial_id::text FROM study JOIN study_trial ON study_id = study.id
    WHERE name = %s AND NOT EXISTS (SELECT FROM trial WHERE trial.id = trial_id)"""

# The locks of the studies are held until the end of the transaction.
_LOCK_STUDIES = """
    SELECT name, pg_try_advisory_xact_lock(%(lock)s, id) AS locked
    FROM study WHERE name = ANY (%(names)s) ORDER BY id FOR UPDATE"""

_LOCK_TRIALS = """
    SELECT id::text, state, attempt FROM trial WHERE id = ANY (%s::uuid[]) ORDER BY id FOR UPDATE"""

_NEW_TRIALS = """
    SELECT FROM study JOIN study_trial ON study_id = study.id
    WHERE name = %s AND trial_id <> ALL (%s::uuid[])"""

_DELETE_PLACES = "DELETE FROM study_trial WHERE trial_id = ANY (%s::uuid[])"
_DELETE_TRIALS = "DELETE FROM trial WHERE id = ANY (%s::uuid[])"
_REMEMBER = "INSERT INTO deleted_trial (id) SELECT unnest(%s::uuid[]) ON CONFLICT DO NOTHING"
_DELETE_STUDY = "DELETE FROM study WHERE name = %s"


class Deletion(NamedTuple):
    """What a deletion removes.

    Attributes:
        trials: The trials, those that started last first.
        rows: The number of their rows.
        folders: The folders of their snapshots and models on this machine.
        running: Selected trials that stay because they are running.
        forced: Whether trials that run only as the database says are deleted.
        study: The study that is deleted as a whole, or None.
        waiting: The ids of its trainings that have not begun.
    """

    trials: Tuple[TrialLine, ...]
    rows: int
    folders: Tuple[str, ...]
    running: Tuple[TrialLine, ...]
    forced: bool
    study: Optional[str] = None
    waiting: Tuple[str, ...] = ()

    @property
    def ids(self) -> list[str]:
        """The ids of the trials."""
        return [trial.id for trial in self.trials]


def plan_trials(store: Store, chosen: listing.Selection, force: bool = False) -> Deletion:
    """Plan the deletion of the selected trials; those that are running are left out.

    Args:
        store: The database.
        chosen: Which trials.
        force: Whether to delete trials that run as the database says, such as those of a machine
            that is lost. A trial of a claimed study or with a journal that a program of this
            machine writes stays in any case.

    Raises:
        InputError: No trial is selected, all selected trials are running, or several origins have
            the name that selects them.
    """
    listing.check(store, chosen)
    origin = chosen.filters.get("origin")
    if origin:
        origins.check_unambiguous(store, origin)
    trials = listing.trials(store, chosen)
    live = _live(store, trials, force)
    doomed = tuple(trial for trial in trials if trial.id not in live)
    running = tuple(trial for trial in trials if trial.id in live)
    if not doomed:
        raise InputError(running_sentence(running, "nothing is deleted", force))
    return _plan(store, doomed, running, force)


def plan_study(store: Store, name: str, force: bool = False) -> Deletion:
    """Plan the deletion of a study with all its trials.

    Args:
        store: The database.
        name: The name of the study.
        force: As for :func:`plan_trials`.

    Raises:
        InputError: The database does not have the study, a program runs it, or a trial of it is
            running.
    """
    runner = studies.runner(store, name)
    if runner is not None:
        raise InputError(
            "the study %s is running (%s): end it with `lrbench study stop %s` before it is deleted"
            % (name, runner, name)
        )
    trials = listing.trials(store, listing.Selection({"study": name}))
    live = _live(store, trials, force)
    if live:
        running = [trial for trial in trials if trial.id in live]
        end = "the study %s is not deleted" % name
        raise InputError(running_sentence(running, end, force))
    waiting = tuple(line.trial_id for line in store.select(_WAITING, [name]))
    if delivery.written_trials().intersection(waiting):
        raise InputError(
            "a training of the study %s has begun and is not in the database yet: the study is not "
            "deleted; try again when the training has ended" % name
        )
    return _plan(store, tuple(trials), (), force, name)._replace(waiting=waiting)


def delete(store: Store, deletion: Deletion) -> list[str]:
    """Delete trials, their rows, the journals with their waiting rows, and their files.

    Args:
        store: The database.
        deletion: The plan.

    Returns:
        A sentence for each thing that could not be removed.

    Raises:
        InputError: A trial has begun to run since the plan was made. Nothing is deleted then.
        DatabaseUnavailable: The connection is lost, or the user may not delete.
    """
    with _locked_journals(store, [*deletion.ids, *deletion.waiting]) as journals:
        store.transaction(lambda cursor: _delete_rows(cursor, deletion))
        left = [path for path in journals if not _removed(path)]
    left += kept.remove(deletion.folders)
    return ["%s could not be removed: remove it by hand" % path for path in left]


def running_sentence(running: Sequence[TrialLine], end: str, forced: bool) -> str:
    """Return the sentence about trials that are in use.

    Args:
        running: The trials.
        end: What follows from that.
        forced: Whether only trials are in use that are not deleted in any case.
    """
    named = ", ".join("%s on %s" % (trial.short_id, trial.host) for trial in running[:_MAX_RUNNING])
    more = ", ..." if len(running) > _MAX_RUNNING else ""
    remedy = "end the program first"
    if not forced:
        remedy += (
            "; if it was killed, run `lrbench db deliver` on its machine; if the machine is lost, "
            "add --force"
        )
    return "%s running, or in a study that is running (%s%s): %s; %s" % (
        _are(len(running)),
        named,
        more,
        end,
        remedy,
    )


def _are(count: int) -> str:
    return "%s %s" % (counted(count, "trial"), "is" if count == 1 else "are")


def _plan(
    store: Store,
    doomed: tuple[TrialLine, ...],
    running: tuple[TrialLine, ...],
    forced: bool,
    study: str | None = None,
) -> Deletion:
    (line,) = store.select(_ROWS, [[trial.id for trial in doomed]])
    folders = [folder for trial in doomed for folder in kept.files_of(trial.id, trial.study)]
    whole = kept.folder_of(study) if study is not None else None
    folders += [whole] if whole else []
    return Deletion(doomed, line.rows, tuple(folders), running, forced, study)


def _live(store: Store, trials: Sequence[TrialLine], force: bool) -> set[str]:
    """The ids of the trials that a program records, or may still record unless this is forced."""
    claimed = {study.name for study in studies.summaries(store) if study.running}
    written = delivery.written_trials()
    in_use = {trial.id for trial in trials if trial.id in written or trial.study in claimed}
    return in_use if force else in_use | _running(store, trials)


def _running(store: Store, trials: Sequence[TrialLine]) -> set[str]:
    """The ids of the trials that run as the database says, and may really do so."""
    running = [trial for trial in trials if trial.state == RUNNING and trial.origin is None]
    journals = delivery.waiting_of(store, {trial.id for trial in running})
    ended = {os.path.basename(journal.path).split(".")[0] for journal in journals}
    return {trial.id for trial in running if "%s-%d" % (trial.id, trial.attempt) not in ended}


def _delete_rows(cursor: Any, deletion: Deletion) -> None:
    """Delete within one transaction, which locks the studies and the trials first."""
    names = {trial.study for trial in deletion.trials if trial.study}
    names |= {deletion.study} if deletion.study else set()
    cursor.execute(_LOCK_STUDIES, {"lock": studies.LOCK, "names": sorted(names)})
    claimed = [line.name for line in cursor.fetchall() if not line.locked]
    if claimed:
        raise InputError(
            "the study %s is running now: nothing was deleted; end it with `lrbench study stop %s`"
            % (claimed[0], claimed[0])
        )
    planned = {trial.id: (trial.state, trial.attempt) for trial in deletion.trials}
    cursor.execute(_LOCK_TRIALS, [deletion.ids])
    for line in cursor.fetchall():
        if line.state == RUNNING and planned[line.id] != (RUNNING, line.attempt):
            raise InputError("the trial %s is running now: nothing was deleted" % line.id)
    cursor.execute(_NEW_TRIALS, [deletion.study, [*deletion.ids, *deletion.waiting]])
    if cursor.rowcount:
        raise InputError(
            "the study %s has new trials: nothing was deleted; repeat the command to delete them "
            "too" % deletion.study
        )
    cursor.execute(_DELETE_PLACES, [deletion.ids])
    cursor.execute(_DELETE_TRIALS, [deletion.ids])
    own = [trial.id for trial in deletion.trials if trial.origin is None]
    cursor.execute(_REMEMBER, [[*own, *deletion.waiting]])
    if any(trial.origin for trial in deletion.trials):
        origins.delete_unused(cursor)
    if deletion.study is not None:
        cursor.execute(_DELETE_STUDY, [deletion.study])


@contextlib.contextmanager
def _locked_journals(store: Store, trial_ids: Sequence[str]) -> Iterator[list[str]]:
    """The paths of the journals of these trials that wait for a database.

    Within the block they are locked, so no program delivers them.
    """
    with contextlib.ExitStack() as stack:
        paths = []
        for journal in delivery.waiting_of(store, trial_ids):
            with contextlib.suppress(OSError):
                if stack.enter_context(delivery.locked(journal.path)) is not None:
                    paths.append(journal.path)
        yield paths


def _removed(journal: str) -> bool:
    """Remove a journal and the reason beside it; return whether the journal is gone."""
    for path in (journal, journal + delivery.REASON):
        with contextlib.suppress(OSError):
            os.remove(path)
    return not os.path.exists(journal)
