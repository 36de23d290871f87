"""The journal: measurements survive outages of the database and crashes of the program.

They arrive in the database exactly once.
"""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
import uuid

import nets
import pytest
from conftest import ROOT, needs_caffe, new_database_on
from waiting import wait_until

from lrbench_caffe.errors import DatabaseUnavailable, InputError
from lrbench_caffe.paths import home
from lrbench_caffe.trial import Dataset, Evaluation, Framework, Network, Setup, Trial

pytest.importorskip(
    "psycopg2", reason="needs psycopg2 and PostgreSQL: run the tests with `make test`"
)
import psycopg2

from lrbench_caffe import database
from lrbench_caffe.database import delivery
from lrbench_caffe.database.journal import Journal
from lrbench_caffe.database.journal_file import JournalFile, encode


def new_trial():
    setup = Setup(
        Framework("Caffe", "1.0.0"),
        Network("net", "0" * 64, "layer {}"),
        Dataset("digits", (1, 8, 8), 10, 10),
        10,
        {},
        1,
    )
    return Trial(str(uuid.uuid4()), "FIX(k0=0.1)", "FIX", {"k0": 0.1}, 1, setup, "here", 1e9)


def new_row(iteration):
    return Evaluation(iteration, 0.1, 1.0, 1.0, 0.5, 0.5, 0.5, 0.1, 0.1, 0.0)


def stored(dsn, trial):
    with database.Store(dsn) as store:
        return store.trial(trial.id)


def journals():
    folder = os.path.join(home(), "journal")
    return os.listdir(folder) if os.path.isdir(folder) else []


def stored_or_none(dsn, trial):
    with contextlib.suppress(InputError, DatabaseUnavailable):
        return stored(dsn, trial)
    return None


@pytest.fixture
def quick_retry(monkeypatch):
    """The Recorder tries an unavailable database again at once."""
    monkeypatch.setattr("lrbench_caffe.database.journal.RETRY_SECONDS", 0.1)


def record(recorder, trial, rows, end="finished"):
    journal = recorder.journal()
    assert journal.on_event("begin", trial) is None
    for iteration in rows:
        assert journal.on_event("row", new_row(iteration)) is None
    if end:
        journal.on_event("end", trial.ended_as(end, 1e9 + 5))
    return journal


def test_a_trial_reaches_the_database_row_by_row_and_its_journal_is_removed(dsn):
    trial = new_trial()
    with database.Recorder(dsn) as recorder:
        journal = record(recorder, trial, [0], end=None)
        wait_until(lambda: stored_or_none(dsn, trial) and stored(dsn, trial).rows == (new_row(0),))
        assert stored(dsn, trial).state == "running"
        journal.on_event("row", new_row(5))
        journal.on_event("end", trial.ended_as("finished", 1e9 + 5))
    assert (
        stored(dsn, trial).rows == (new_row(0), new_row(5))
        and stored(dsn, trial).state == "finished"
        and journals() == []
    )


def test_a_training_does_not_wait_for_a_stopped_server_which_gets_everything_later(dsn):
    """A named server is not started on demand.

    While it is down, rows wait in the journal until lrbench next uses this database.
    """
    trial, notes = new_trial(), []
    with database.Recorder(dsn, notes.append) as recorder:
        journal = record(recorder, trial, [0], end=None)
        database.server.stop()
        try:
            for iteration in range(1, 200):
                journal.on_event("row", new_row(iteration))
            journal.on_event("end", trial.ended_as("finished", 1e9 + 5))
            recorder.__exit__()
        finally:
            database.server.start()
        assert (
            "trainings continue" in notes[0]
            and "events wait in" in notes[1]
            and journals() == [trial.id + "-1.jsonl"]
        )
    with database.Recorder(dsn):
        assert journals() == []
    recorded = stored(dsn, trial)
    assert recorded.rows == tuple(new_row(i) for i in range(200)) and recorded.state == "finished"


def test_a_server_that_is_restarted_during_a_trial_gets_the_rows_in_their_order(dsn, quick_retry):
    trial, notes = new_trial(), []
    with database.Recorder(dsn, notes.append) as recorder:
        journal = record(recorder, trial, [], end=None)
        wait_until(lambda: stored_or_none(dsn, trial))
        database.server.stop()
        journal.on_event("row", new_row(1))
        wait_until(lambda: notes)
        database.server.start()
        journal.on_event("row", new_row(2))
        wait_until(lambda: stored(dsn, trial).rows == (new_row(1), new_row(2)))
        journal.on_event("end", trial.ended_as("finished", 1e9 + 5))
    assert "is back" in notes[-1] and journals() == []


def test_connections_cut_during_transactions_neither_lose_nor_duplicate_rows(dsn, quick_retry):
    """The server repeatedly ends every connection of lrbench while rows are delivered."""
    trials, cut = [new_trial() for _ in range(8)], threading.Event()

    def cut_connections():
        import psycopg2

        with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            while not cut.is_set():
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE pid <> pg_backend_pid() AND application_name LIKE 'lrbench%'"
                )
                time.sleep(0.03)

    with database.Recorder(dsn) as recorder:
        cutter = threading.Thread(target=cut_connections)
        cutter.start()
        for trial in trials:
            record(recorder, trial, range(100))
        cut.set()
        cutter.join()
    for trial in trials:
        assert (
            stored(dsn, trial).rows == tuple(new_row(i) for i in range(100))
            and stored(dsn, trial).state == "finished"
        )
    assert journals() == []


def test_a_killed_program_leaves_an_interrupted_trial_with_all_its_rows(dsn):
    """After kill -9 with a torn last line, the next Recorder delivers all complete lines."""
    code = """
import os, sys
sys.path.insert(0, "tests")
import test_journal

trial = test_journal.new_trial()
recorder = test_journal.database.Recorder(sys.argv[1])
test_journal.database.server.stop()  # so that the rows are only in the journal
test_journal.record(recorder, trial, range(3), end=None)
path = os.path.join(test_journal.home(), "journal", trial.id + "-1.jsonl")
open(path, "a").write('["row", {"iterat')
print(trial.id, flush=True)
sys.stdin.read()
"""
    program = subprocess.Popen(
        [sys.executable, "-c", code, dsn],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=dict(os.environ, PYTHONPATH=ROOT),
        universal_newlines=True,
    )
    trial_id = program.stdout.readline().strip()
    database.server.start()
    with database.Recorder(dsn):
        assert journals() == [trial_id + "-1.jsonl"], (
            "the journal of a running program is left alone"
        )
    program.send_signal(signal.SIGKILL)
    program.communicate()
    with database.Recorder(dsn):
        assert journals() == []
    with database.Store(dsn) as store:
        recorded = store.trial(trial_id)
    assert recorded.state == "interrupted" and [row.iteration for row in recorded.rows] == [0, 1, 2]


def test_a_trial_resumed_on_another_worker_replaces_the_rows_after_its_snapshot(dsn):
    trial = new_trial()
    with database.Recorder(dsn) as recorder:
        journal = record(recorder, trial, [0, 5, 10], end=None)
        journal.on_event("begin", dataclasses.replace(trial, resumed_at=5))
        resumed = dataclasses.replace(new_row(10), resumed_at=5, top1=0.75)
        for row in (new_row(0), new_row(5), resumed):
            journal.on_event("row", row)
        journal.on_event("end", trial.ended_as("finished", 1e9 + 5))
    recorded = stored(dsn, trial)
    assert (
        recorded.rows == (new_row(0), new_row(5), resumed)
        and recorded.attempt == 2
        and recorded.state == "finished"
        and journals() == []
    )


def execute(dsn, statement):
    connection = psycopg2.connect(dsn)
    with connection, connection.cursor() as cursor:
        cursor.execute(statement)
    connection.close()


def leave_journal(dsn, header=None, trial=None):
    """Leave the journal of a finished trial behind, as a program without its database does."""
    trial = trial or new_trial()
    with database.Store(dsn, delivers=False) as store:
        identity, name = store.identity, store.where
    path = os.path.join(home(), "journal", trial.id + "-1.jsonl")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    journal = Journal(lambda _: JournalFile(path), 0, identity, name)
    journal.on_event("begin", trial)
    journal.on_event("row", new_row(0))
    journal.on_event("end", trial.ended_as("finished", 1e9 + 5))
    if header is not None:
        with open(path) as file:
            lines = file.read().split("\n", 1)
        with open(path, "w") as file:
            file.write(encode("database", header).decode() + lines[1])
    return trial, path


def waiting_notes(dsn, **options):
    notes = []
    database.Store(dsn, on_note=notes.append, **options).close()
    return notes


def test_a_journal_finds_its_database_under_any_address(dsn):
    trial, _ = leave_journal(dsn)
    other_address = dsn.replace("/postgresql'", "/postgresql/.'")
    (note,) = waiting_notes(other_address)
    assert "3 events that waited in" in note and journals() == []
    assert stored(dsn, trial).rows == (new_row(0),) and stored(dsn, trial).state == "finished"


def test_a_journal_does_not_go_to_another_database_under_the_same_address(dsn):
    with database.Store(dsn) as store:
        another = {"id": str(uuid.uuid4()), "name": store.where}
    trial, path = leave_journal(dsn, another)
    assert waiting_notes(dsn) == [] and os.path.exists(path)
    with database.Store(dsn) as store:
        result = delivery.deliver_waiting(store, print)
        assert [journal.path for journal in result.others] == [path] and result.events == 0
        named = delivery.deliver_waiting(store, print, [path])
    assert named.events == 3 and stored(dsn, trial).state == "finished" and journals() == []


def test_a_journal_of_an_earlier_version_is_delivered_where_its_database_is_certain(dsn):
    with database.Store(dsn, delivers=False) as store:
        same_address, _ = leave_journal(dsn, store.where)
        begun, _ = leave_journal(dsn, "lrbench at localhost, port 5599")
        store.begin(begun)
        unknown, path = leave_journal(dsn, "lrbench at localhost, port 5599")
    waiting_notes(dsn)
    assert stored(dsn, same_address).state == stored(dsn, begun).state == "finished"
    assert stored_or_none(dsn, unknown) is None and os.path.exists(path)
    with database.Store(dsn) as store:
        store.where = "lrbench at localhost, port 5599"  # perhaps a tunnel to another database
        assert [j.path for j in delivery.deliver_waiting(store, print).others] == [path]
    os.remove(path)


@pytest.mark.parametrize("command", [["rank"], ["study", "list"], ["db", "shell"]])
def test_every_command_that_opens_the_database_delivers(lrbench, dsn, tmp_path, command):
    trial, _ = leave_journal(dsn)
    done = lrbench(*command, cwd=str(tmp_path), stdin=subprocess.DEVNULL)
    assert done.returncode == 0 and "3 events that waited" in done.stderr
    assert stored(dsn, trial).state == "finished" and journals() == []


def test_a_command_that_only_reads_reports_what_waits(lrbench, dsn, tmp_path):
    trial, path = leave_journal(dsn)
    done = lrbench("db", "export", tmp_path / "export.jsonl")
    assert done.returncode == 0 and "1 journal for" in done.stderr
    assert "only reads; `lrbench db deliver` delivers them" in done.stderr and os.path.exists(path)
    assert "waiting 1 journal" in lrbench("db", "status").stdout
    delivered = lrbench("db", "deliver")
    assert delivered.returncode == 0 and journals() == []
    assert "3 events delivered, 0 journals refused" in delivered.stdout
    assert stored(dsn, trial).state == "finished"
    wrong = lrbench("db", "deliver", tmp_path / "export.jsonl")
    assert wrong.returncode == 2 and "is not a journal" in wrong.stderr


@pytest.fixture
def limited_user(database):
    """A user of a new database who may record: the address, the name, and the owner's address."""
    from lrbench_caffe.database.store import Store
    from lrbench_caffe.database.writer import NEEDED_RIGHTS

    Store(database).close()
    name = "user_" + uuid.uuid4().hex
    execute(
        database,
        "CREATE ROLE %s LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO %s" % (name, name),
    )
    for table, rights in NEEDED_RIGHTS.items():
        execute(database, "GRANT %s ON %s TO %s" % (", ".join(rights), table, name))
    yield database + " user=" + name, name, database
    execute(database, "DROP OWNED BY %s; DROP ROLE %s" % (name, name))


def test_a_right_that_is_lost_during_a_training_costs_no_rows(limited_user, quick_retry):
    address, user, owner = limited_user
    trial, notes = new_trial(), []
    with database.Recorder(address, notes.append) as recorder:
        journal = record(recorder, trial, [0], end=None)
        wait_until(lambda: stored_or_none(owner, trial) and stored(owner, trial).rows)
        execute(owner, "REVOKE INSERT ON evaluation FROM " + user)
        journal.on_event("row", new_row(1))
        wait_until(lambda: notes)
        execute(owner, "GRANT INSERT ON evaluation TO " + user)
        wait_until(lambda: len(stored(owner, trial).rows) == 2)
        execute(owner, "REVOKE INSERT ON evaluation FROM " + user)
        journal.on_event("row", new_row(2))
        journal.on_event("end", trial.ended_as("finished", 1e9 + 5))
    path = os.path.join(home(), "journal", trial.id + "-1.jsonl")
    assert "permission denied for table evaluation; trainings continue" in notes[0]
    assert "is back" in notes[1] and "2 events wait in" in notes[-1]
    assert path in database.undelivered() and journals() == [os.path.basename(path)]
    (reported,) = waiting_notes(address)
    assert "1 journal for" in reported and "lacks rights (INSERT on evaluation)" in reported
    execute(owner, "GRANT INSERT ON evaluation TO " + user)
    waiting_notes(address)
    assert path not in database.undelivered() and journals() == []
    assert stored(owner, trial).rows == tuple(map(new_row, range(3)))
    assert stored(owner, trial).state == "finished"


@pytest.fixture
def database_with_limit(dsn):
    """A database that rejects some rows, in which somebody has added a constraint."""
    with new_database_on(dsn) as address:
        execute(address, "ALTER TABLE evaluation ADD CONSTRAINT short CHECK (iteration < 2)")
        yield address


@needs_caffe
def test_a_command_that_could_not_record_everything_ends_with_status_3(
    lrbench, invoke, limited_user, digits, tmp_path
):
    """Row level security refuses the rows of a user who has all rights on the table."""
    address, _, owner = limited_user
    execute(owner, "ALTER TABLE evaluation ENABLE ROW LEVEL SECURITY")
    solver = nets.write(tmp_path, nets.solver(max_iter=2, test_interval=2))
    done = lrbench("train", solver, "--data", digits, "--dsn", address)
    assert done.returncode == 3 and "row-level security" in done.stdout + done.stderr
    assert "the rows of 1 training wait in " in done.stderr
    refused = lrbench("db", "deliver", "--dsn", address)
    assert refused.returncode == 3 and "row-level security" in refused.stderr
    nowhere = "host=127.0.0.1 port=1"
    away = invoke("db", "deliver", "--dsn", nowhere)
    assert away.returncode == 3 and away.stderr.endswith("; 1 journal left\n"), away.stderr
    execute(owner, "ALTER TABLE evaluation DISABLE ROW LEVEL SECURITY")
    delivered = lrbench("db", "deliver", "--dsn", address)
    assert delivered.returncode == 0 and journals() == []
    assert invoke("db", "deliver", "--dsn", nowhere).returncode == 2, "nothing waits"
    with database.Store(owner) as store:
        ((state, rows),) = [(trial.state, len(trial.rows)) for trial in store.trials()]
    assert state == "finished" and rows == 2


@needs_caffe
def test_a_command_whose_rows_the_database_rejects_ends_with_status_4(
    lrbench, invoke, database_with_limit, digits, tmp_path
):
    """A loop that waits for status 3 to pass would never end."""
    solver = nets.write(tmp_path, nets.solver(max_iter=2, test_interval=2))
    done = lrbench("train", solver, "--data", digits, "--dsn", database_with_limit)
    assert done.returncode == 4, done.stderr
    assert "the database refuses rows of 1 training" in done.stderr
    again = invoke("db", "deliver", "--dsn", database_with_limit)
    assert again.returncode == 4 and "the database refuses journals" in again.stderr
    execute(database_with_limit, "ALTER TABLE evaluation DROP CONSTRAINT short")
    assert invoke("db", "deliver", "--dsn", database_with_limit).returncode == 0
    with database.Store(database_with_limit) as store:
        assert [len(trial.rows) for trial in store.trials()] == [2] and journals() == []


def test_a_rejected_journal_is_set_aside_with_the_reason_and_does_not_delay_others(dsn):
    trial, other, notes = (
        dataclasses.replace(new_trial(), policy="x", function="y" * 1000),
        new_trial(),
        [],
    )
    with database.Recorder(dsn, notes.append) as recorder:
        record(recorder, trial, [0])
        record(recorder, other, [0])
    path = os.path.join(home(), "journal", trial.id + "-1.jsonl.refused")
    assert sorted(journals()) == [os.path.basename(path), os.path.basename(path) + ".txt"]
    assert stored(dsn, other).state == "finished" and path in database.undelivered()
    assert len(notes) == 1 and "rejects a value" in notes[0] and notes[0].endswith(".refused")
    with open(path + ".txt") as reason:
        assert reason.read().strip() in notes[0]
    with database.Recorder(dsn, notes.append):
        assert len(notes) == 1
    with database.Store(dsn) as store:
        again = delivery.deliver_waiting(store, notes.append, again=True)
    assert len(again.refused) == 1 and os.path.exists(path) and len(notes) == 2
    for name in journals():
        os.remove(os.path.join(home(), "journal", name))


def test_a_refused_journal_is_delivered_when_the_cause_is_gone(dsn):
    """Earlier versions refused journals of users without rights, and wrote no reason."""
    first, path = leave_journal(dsn)
    os.rename(path, path + ".refused")
    second, path = leave_journal(dsn)
    os.rename(path, path + ".refused")
    with open(path + ".refused.txt", "w") as reason:
        reason.write("a trigger")
    waiting_notes(dsn)
    assert stored(dsn, first).state == "finished" and stored_or_none(dsn, second) is None
    with database.Store(dsn) as store:
        assert delivery.deliver_waiting(store, print, again=True).events == 3
    assert stored(dsn, second).state == "finished" and journals() == []


def test_an_end_that_another_program_has_delivered_is_kept(dsn):
    """The journal of a trial that has ended is not locked while it waits for the database."""
    trial = new_trial()
    path = os.path.join(home(), "journal", trial.id + "-1.jsonl")
    with database.Store(dsn) as store:
        file = JournalFile(path)
        journal = Journal(lambda _: file, 0, store.identity, store.where)
        journal.on_event("begin", trial)
        assert not delivery.deliver(store, file, print)
        journal.on_event("end", trial.ended_as("finished", 1e9 + 5))
        waiting_notes(dsn)
        assert delivery.deliver(store, file, print)
        assert store.trial(trial.id).state == "finished" and journals() == []


@pytest.mark.parametrize("room", [0, 1, 2, 5])
def test_a_full_disk_fails_the_trial_and_keeps_its_measurements(room, dsn, small_disk, monkeypatch):
    """The journal is on a small filesystem, filled except for `room` blocks."""
    monkeypatch.setenv("LRBENCH_HOME", str(small_disk))
    trial, verdict, measured = new_trial(), None, []
    with database.Recorder(dsn) as recorder:
        with open(str(small_disk / "filler"), "wb", buffering=0) as filler:
            free = os.statvfs(str(small_disk))
            filler.write(b"x" * ((free.f_bavail - room) * free.f_bsize))
        journal = recorder.journal()
        verdict = journal.on_event("begin", trial)
        while verdict is None and len(measured) < 1000:
            measured.append(new_row(len(measured)))
            verdict = journal.on_event("row", measured[-1])
        assert (
            verdict[0] == "failed"
            and "No space left on device" in verdict[1]
            and "free disk space" in verdict[1]
        )
        journal.on_event("end", trial.ended_as(verdict[0], 1e9 + 5, verdict[1]))
    recorded = stored(dsn, trial)
    assert (
        recorded.state == "failed"
        and recorded.error == verdict[1]
        and recorded.rows == tuple(measured)
    )
    assert os.listdir(str(small_disk / "journal")) == []
