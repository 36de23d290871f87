"""Deletion: what goes, what stays, and that it does not come back."""

import dataclasses
import os
import uuid

import pytest
from trials import record, trial
from waiting import wait_until

from lrbench_caffe.errors import DatabaseUnavailable, InputError, TrialDeleted
from lrbench_caffe.paths import home, study_folder
from lrbench_caffe.trial import RUNNING, Job

pytest.importorskip(
    "psycopg2", reason="needs psycopg2 and PostgreSQL: run the tests with `make test`"
)
from lrbench_caffe import database as databases
from lrbench_caffe import kept
from lrbench_caffe.database import deletion, delivery, exchange, studies
from lrbench_caffe.database.listing import Selection

SIN2 = "SIN2(k0=0.005, k1=0.08, l=100)"


def selected(**filters):
    return Selection(filters)


def ids(store):
    return sorted(entry.id for entry in store.trials())


def counts(store):
    """The number of rows of each table that belongs to trials."""
    tables = ("trial", "evaluation", "standing", "study_trial")
    return [store.select("SELECT count(*) FROM %s" % table)[0][0] for table in tables]


def standings_are_current(store):
    columns = "policy_id, seeds, top1, iterations"
    return store.select("SELECT %s FROM standing ORDER BY 1" % columns) == store.select(
        "SELECT %s FROM standing_of_trials ORDER BY 1" % columns
    )


def put_file(folder):
    """Create a folder with a file."""
    os.makedirs(folder)
    with open(os.path.join(folder, "a.solverstate"), "w") as file:
        file.write("weights")
    return folder


def in_study(store, name, *entries):
    """Record trials as those of a study, the last of which waits."""
    jobs = [
        Job("s.prototxt", policy=entry.policy, seed=entry.setup.seed, max_iter=n)
        for n, entry in enumerate(entries)
    ]
    studies.add(store, name, [*jobs, Job("s.prototxt", policy="FIX(k0=9.0)")])
    planned = [entry.job.id for entry in studies.jobs(store, name)]
    return record(
        store, *(dataclasses.replace(entry, id=new) for entry, new in zip(entries, planned))
    )


def test_trials_are_deleted_with_rows_standings_places_and_files(store):
    first, second = in_study(store, "s" + uuid.uuid4().hex, trial(), trial(SIN2, seed=2))
    (other,) = record(store, trial(seed=3))
    study = studies.summaries(store)[0].name
    snapshots = put_file(os.path.join(study_folder(study), first.id))
    model = put_file(os.path.join(home(), "models", first.id))
    untouched = put_file(os.path.join(home(), "models", second.id))
    assert kept.files_of(first.id, study) == [snapshots, model]
    plan = deletion.plan_trials(store, Selection({"policy": "FIX(k0=0.01)"}, ids=(first.id,)))
    assert (plan.ids, plan.rows, plan.folders) == ([first.id], 2, (snapshots, model))
    assert deletion.delete(store, plan) == []
    assert ids(store) == sorted([second.id, other.id]) and counts(store) == [2, 4, 2, 2]
    assert standings_are_current(store)
    assert not os.path.exists(snapshots) and not os.path.exists(model)
    assert os.path.exists(untouched)
    kept.remove([untouched])


def test_a_study_from_which_trials_were_deleted_can_grow(store):
    in_study(store, "first", trial(), trial(SIN2, seed=2))
    deletion.delete(store, deletion.plan_trials(store, selected(policy="FIX(k0=0.01)")))
    new = [Job("s.prototxt", policy="FIX(k0=%d)" % n) for n in (1, 2)]
    studies.add(store, "first", new)
    assert [entry.job.policy for entry in studies.jobs(store, "first")] == [
        SIN2,
        "FIX(k0=9.0)",
        *(job.policy for job in new),
    ]


def test_a_study_is_deleted_with_the_trainings_that_wait(store):
    name = "s" + uuid.uuid4().hex
    in_study(store, name, trial(), trial(SIN2))
    record(store, trial(seed=7))
    folder = study_folder(name)
    put_file(os.path.join(folder, "x"))
    plan = deletion.plan_study(store, name)
    assert (len(plan.trials), plan.rows, len(plan.waiting)) == (2, 4, 1)
    assert deletion.delete(store, plan) == []
    assert counts(store) == [1, 2, 1, 0] and standings_are_current(store)
    assert studies.summaries(store) == [] and not os.path.exists(folder)
    with pytest.raises(InputError, match="has no study " + name):
        deletion.plan_study(store, name)


@pytest.mark.parametrize("name", ["..", ".", "../studies", "a/b"])
def test_a_name_that_is_not_one_of_a_folder_removes_no_folder(store, name):
    folder = put_file(os.path.join(study_folder("kept"), "x"))
    in_study(store, name, trial())
    plan = deletion.plan_study(store, name)
    assert plan.folders == ()
    deletion.delete(store, plan)
    assert os.listdir(folder) and ids(store) == []
    kept.remove([study_folder("kept")])


def test_running_trials_stay(store):
    running, finished = record(store, trial(state=RUNNING), trial(seed=2))
    plan = deletion.plan_trials(store, selected(network="net"))
    assert plan.ids == [finished.id] and [entry.id for entry in plan.running] == [running.id]
    deletion.delete(store, plan)
    assert ids(store) == [running.id]
    with pytest.raises(InputError, match=r"1 trial is running, .* \(%s on host\)" % running.id[:8]):
        deletion.plan_trials(store, Selection({}, ids=(running.id,)))


def test_an_imported_trial_that_was_running_elsewhere_can_be_deleted(store, dsn, tmp_path):
    from conftest import new_database_on

    with new_database_on(dsn) as other, databases.Store(other) as there:
        record(there, trial(state=RUNNING))
        exchange.export_trials(str(tmp_path / "rows"), other, {})
    exchange.import_trials(str(tmp_path / "rows"), store._dsn)
    deletion.delete(store, deletion.plan_trials(store, selected()))
    assert ids(store) == []


def test_a_claimed_study_is_not_deleted_nor_are_its_trials(store, database):
    class Stop:
        requests = 0

    in_study(store, "first", trial())
    plans = [deletion.plan_study(store, "first"), deletion.plan_trials(store, selected())]
    with studies.Claim("first", database, Stop(), print):
        with pytest.raises(InputError, match=r"the study first is running \(lrbench on .* end it"):
            deletion.plan_study(store, "first")
        with pytest.raises(InputError, match="1 trial is running"):
            deletion.plan_trials(store, selected())
        for plan in plans:  # claimed between the plan and the deletion
            with pytest.raises(InputError, match="the study first is running now: nothing was"):
                deletion.delete(store, plan)
    assert len(ids(store)) == 1


def test_a_trial_that_was_resumed_since_the_plan_is_not_deleted(store):
    (entry,) = record(store, trial(state="interrupted"))
    plan = deletion.plan_trials(store, selected())
    store.begin(dataclasses.replace(entry, state=RUNNING, attempt=2))
    with pytest.raises(InputError, match="the trial %s is running now: nothing was" % entry.id):
        deletion.delete(store, plan)
    assert ids(store) == [entry.id]


def test_a_study_with_trials_that_are_newer_than_the_plan_is_not_deleted(store):
    in_study(store, "first", trial())
    plan = deletion.plan_study(store, "first")
    studies.add(store, "first", [Job("s.prototxt", policy=SIN2)])
    with pytest.raises(InputError, match="the study first has new trials: nothing was deleted"):
        deletion.delete(store, plan)
    assert len(studies.jobs(store, "first")) == 3


def test_force_deletes_the_trial_of_a_lost_machine_but_not_one_that_is_trained(database, invoke):
    """The second trial is written by a program of this machine, the third is in a claimed study."""

    class Stop:
        requests = 0

    lost, written = trial(state=RUNNING), trial(state=RUNNING, seed=2)
    with databases.Recorder(database) as recorder, databases.Store(database) as store:
        journal = recorder.journal()
        journal.on_event("begin", dataclasses.replace(written, rows=()))
        wait_until(lambda: store.is_running(written.id))
        record(store, lost)
        (claimed,) = in_study(store, "first", trial(state=RUNNING, seed=3))
        delete = ["db", "delete", "--state", "running", "--yes", "--dsn", database]
        delete_study = ["study", "delete", "first", "--yes", "--dsn", database]
        refused = invoke(*delete)
        assert refused.returncode == 2 and "if the machine is lost, add --force" in refused.stderr
        with studies.Claim("first", database, Stop(), print):
            done = invoke(*delete, "--force")
            assert "deleted: 1 trial with 2 rows" in done.stdout, done.stderr
            assert "2 trials are running" in done.stdout and "--force" not in done.stdout
            assert ids(store) == sorted([written.id, claimed.id])
            running = invoke(*delete_study, "--force")
            assert running.returncode == 2 and "the study first is running" in running.stderr
        journal.on_event("end", written.ended_as("finished", 1700000100.0))
        assert "add --force" in invoke(*delete_study).stderr and claimed.id in ids(store)
        assert invoke(*delete_study, "--force").returncode == 0 and claimed.id not in ids(store)


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_journal_of_another_machine_does_not_bring_a_deleted_trial_back(
    database, invoke, monkeypatch, tmp_path, dsn, attempt
):
    """The other machine records the rest of an attempt, or another attempt, after the deletion."""
    monkeypatch.setenv("LRBENCH_HOME", str(tmp_path / "lost"))
    entry, notes = trial(state=RUNNING, top1=(0.1, 0.2, 0.3)), []
    with databases.Recorder(database, notes.append) as recorder, databases.Store(database) as store:
        journal = recorder.journal(attempts=attempt - 1)
        if attempt == 2:
            record(store, dataclasses.replace(entry, ended=1700000009.0, state="interrupted"))
        else:
            journal.on_event("begin", dataclasses.replace(entry, rows=()))
            journal.on_event("row", entry.rows[0])
            wait_until(lambda: ids(store) and len(store.trial(entry.id).rows) == 1)
        monkeypatch.setenv("LRBENCH_HOME", str(tmp_path / "other"))
        deletion.delete(store, deletion.plan_trials(store, selected(), force=True))
        monkeypatch.setenv("LRBENCH_HOME", str(tmp_path / "lost"))
        if attempt == 2:
            journal.on_event("begin", dataclasses.replace(entry, rows=()))
        for row in entry.rows[1:]:
            journal.on_event("row", row)
        journal.on_event("end", entry.ended_as("finished", 1700000100.0))
    (path,) = [path for path in databases.undelivered() if entry.id in path]
    assert any("was deleted from the database" in note and path in note for note in notes)
    again = invoke("db", "deliver", "--dsn", database)
    assert again.returncode == 4 and "1 journal refused" in again.stdout
    with databases.Store(database) as store:
        assert ids(store) == [] and not counts(store)[1]
    restored = invoke("db", "deliver", path, "--dsn", database)
    assert restored.returncode == 0, restored.stderr
    with databases.Store(database) as store:
        assert store.trial(entry.id).rows == entry.rows[attempt - 1 :]
    assert os.listdir(os.path.dirname(path)) == []


def test_a_backup_restores_a_deleted_trial_which_then_can_be_resumed(store, database, tmp_path):
    (entry,) = record(store, trial(state="interrupted"))
    backup = str(tmp_path / "backup.jsonl")
    exchange.export_trials(backup, database, {})
    deletion.delete(store, deletion.plan_trials(store, selected()))
    with pytest.raises(TrialDeleted, match="so its rows are not recorded again"):
        store.begin(dataclasses.replace(entry, attempt=2))
    exchange.import_trials(backup, database, restore=True)
    store.begin(dataclasses.replace(entry, attempt=2))
    assert store.is_running(entry.id)


def refused_journal(database):
    """A trial whose second row the database has refused; its journal is left."""
    entry = trial(state=RUNNING)
    rows = [entry.rows[0], dataclasses.replace(entry.rows[1], top1=2.0)]
    with databases.Recorder(database) as recorder:
        journal = recorder.journal()
        journal.on_event("begin", dataclasses.replace(entry, rows=()))
        for row in rows:
            journal.on_event("row", row)
        journal.on_event("end", entry.ended_as("finished", 1700000100.0))
    (waiting,) = [path for path in delivery.waiting_journals() if path.trial == entry.id]
    return entry, waiting.path


def test_a_journal_with_rows_of_a_deleted_trial_is_removed_and_does_not_come_back(
    database, invoke, dsn
):
    from conftest import new_database_on

    entry, path = refused_journal(database)
    with new_database_on(dsn) as other:
        _, foreign = refused_journal(other)
        with databases.Store(database) as store:
            plan = deletion.plan_trials(store, Selection({}, ids=(entry.id,)))
            assert deletion.delete(store, plan) == []
        assert not os.path.exists(path) and not os.path.exists(path + delivery.REASON)
        assert os.path.exists(foreign), "it belongs to another database"
        assert "0 events delivered" in invoke("db", "deliver", "--dsn", database).stdout
        with databases.Store(database) as store:
            assert ids(store) == []
        os.remove(foreign)
        os.remove(foreign + delivery.REASON)


def test_a_trial_whose_journal_is_written_is_running(database):
    entry = trial(state=RUNNING)
    with databases.Recorder(database) as recorder:
        journal = recorder.journal()
        journal.on_event("begin", dataclasses.replace(entry, rows=()))
        assert delivery.written_trials() == {entry.id}
        with databases.Store(database) as store:
            record(store, dataclasses.replace(entry, ended=1700000009.0, state="interrupted"))
            with pytest.raises(InputError, match="1 trial is running"):
                deletion.plan_trials(store, selected())
        journal.on_event("end", entry.ended_as("finished", 1700000100.0))


def test_a_user_who_may_not_delete_deletes_nothing(store, database):
    record(store, trial())
    name = "user_" + uuid.uuid4().hex
    grant = "CREATE ROLE %s LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO %s" % (name, name)
    store.transaction(lambda cursor: cursor.execute(grant))
    try:
        with databases.Store(database + " user=" + name) as reader:
            plan = deletion.plan_trials(reader, selected())
            with pytest.raises(DatabaseUnavailable, match="does not allow this user"):
                deletion.delete(reader, plan)
        assert len(ids(store)) == 1
    finally:
        drop = "DROP OWNED BY %s; DROP ROLE %s" % (name, name)
        store.transaction(lambda cursor: cursor.execute(drop))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "needs the ids of trials or a filter such as --study NAME; --all deletes all"),
        (["--all", "--state", "failed"], "--all deletes all trials: leave out the ids and filters"),
        (["--state", "finished"], "nothing was deleted, because nobody can be asked here: add --y"),
        (["--state", "pruned", "--yes"], "does not have trials in the state 'pruned'"),
        (["abcdef0123", "--yes"], "has no trial 'abcdef0123': `lrbench ls trials` lists"),
    ],
)
def test_nothing_is_deleted_by_accident(store, database, invoke, arguments, message):
    record(store, trial(), trial(SIN2, seed=2))
    done = invoke("db", "delete", *arguments, "--dsn", database)
    assert done.returncode == 2 and message in done.stderr and len(ids(store)) == 2


def test_the_command_prints_what_goes_and_deletes_it(store, database, invoke):
    entries = record(store, *(trial(seed=seed) for seed in range(1, 9)))
    done = invoke("db", "delete", entries[0].id[:8], entries[1].id, "--yes", "--dsn", database)
    lines = done.stdout.splitlines()
    assert lines[0] == "to delete: 2 trials with 4 rows" and entries[1].id[:8] in lines[4]
    assert lines[-1] == "deleted: 2 trials with 4 rows" and len(ids(store)) == 6
    done = invoke("db", "delete", "--all", "--yes", "--dsn", database)
    assert "and 1 more trial" in done.stdout and ids(store) == []
