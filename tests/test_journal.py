"""The journal: measurements survive outages of the database and crashes of the program.

They arrive in the database exactly once.
"""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid

import pytest
from conftest import ROOT
from waiting import wait_until

from lrbench_caffe.errors import DatabaseUnavailable, InputError
from lrbench_caffe.paths import home
from lrbench_caffe.trial import Dataset, Evaluation, Framework, Network, Setup, Trial

pytest.importorskip(
    "psycopg2", reason="needs psycopg2 and PostgreSQL: run the tests with `make test`"
)
from lrbench_caffe import database


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
            and "cannot be reached" in notes[1]
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


def test_a_journal_is_delivered_only_to_its_own_database(dsn):
    path = os.path.join(home(), "journal", new_trial().id + "-1.jsonl")
    with open(path, "w") as file:
        file.write(json.dumps(["database", "another at somewhere, port 5432"]) + "\n")
    with database.Recorder(dsn):
        assert os.path.exists(path)
    os.remove(path)


def test_a_rejected_journal_is_set_aside_and_does_not_delay_others(dsn):
    trial, other, notes = (
        dataclasses.replace(new_trial(), policy="x", function="y" * 1000),
        new_trial(),
        [],
    )
    with database.Recorder(dsn, notes.append) as recorder:
        record(recorder, trial, [0])
        record(recorder, other, [0])
    assert journals() == [trial.id + "-1.jsonl.refused"] and stored(dsn, other).state == "finished"
    assert len(notes) == 1 and "rejects a value" in notes[0] and notes[0].endswith(".refused")
    with database.Recorder(dsn, notes.append):
        assert len(notes) == 1
    os.remove(os.path.join(home(), "journal", trial.id + "-1.jsonl.refused"))


@pytest.mark.parametrize("room", [0, 1, 2, 5])
def test_a_full_disk_fails_the_trial_and_keeps_its_measurements(room, dsn, small_disk, monkeypatch):
    """The journal is on a small filesystem, filled except for `room` blocks."""
    monkeypatch.setattr("lrbench_caffe.database.journal.home", lambda: str(small_disk))
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
