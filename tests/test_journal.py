"""The journal: what was measured survives a database that goes away and a program that dies, and arrives once."""

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

from lrbench_caffe.errors import DatabaseUnavailable, InputError
from lrbench_caffe.paths import home
from lrbench_caffe.trial import Dataset, Evaluation, Framework, Network, Setup, Trial

pytest.importorskip(
    "psycopg2", reason="needs psycopg2 and PostgreSQL: run the tests with `make test`"
)
from lrbench_caffe import database


def a_trial():
    setup = Setup(
        Framework("Caffe", "1.0.0"),
        Network("net", "0" * 64, "layer {}"),
        Dataset("digits", (1, 8, 8), 10, 10),
        10,
        {},
        1,
    )
    return Trial(str(uuid.uuid4()), "FIX(k0=0.1)", "FIX", {"k0": 0.1}, 1, setup, "here", 1e9)


def a_row(iteration):
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
def soon(monkeypatch):
    """A database that went away is asked again at once."""
    monkeypatch.setattr("lrbench_caffe.database.journal.RETRY_SECONDS", 0.1)


def in_the_end(condition, seconds=30):
    """Wait until something is so; fails when it does not come about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def record(recorder, trial, rows, end="finished"):
    journal = recorder.journal()
    assert journal.on_event("begin", trial) is None
    for iteration in rows:
        assert journal.on_event("row", a_row(iteration)) is None
    if end:
        journal.on_event("end", trial.ended_as(end, 1e9 + 5))
    return journal


def test_a_recorded_trial_is_in_the_database_row_by_row_and_leaves_no_journal(dsn):
    trial = a_trial()
    with database.Recorder(dsn) as recorder:
        journal = record(recorder, trial, [0], end=None)
        in_the_end(lambda: stored_or_none(dsn, trial) and stored(dsn, trial).rows == (a_row(0),))
        assert stored(dsn, trial).state == "running"
        journal.on_event("row", a_row(5))
        journal.on_event("end", trial.ended_as("finished", 1e9 + 5))
    assert (
        stored(dsn, trial).rows == (a_row(0), a_row(5))
        and stored(dsn, trial).state == "finished"
        and journals() == []
    )


def test_a_server_that_is_away_slows_nothing_and_gets_all_of_it_later(dsn):
    """A named server is not started on demand: while it is down rows wait in the journal, until lrbench next uses it."""
    trial, told = a_trial(), []
    with database.Recorder(dsn, told.append) as recorder:
        journal = record(recorder, trial, [0], end=None)
        database.server.stop()
        try:
            for iteration in range(1, 200):
                journal.on_event("row", a_row(iteration))
            journal.on_event("end", trial.ended_as("finished", 1e9 + 5))
            recorder.__exit__()
        finally:
            database.server.start()
        assert (
            "trainings go on" in told[0]
            and "cannot be reached" in told[1]
            and journals() == [trial.id + "-1.jsonl"]
        )
    with database.Recorder(dsn):
        assert journals() == []
    found = stored(dsn, trial)
    assert found.rows == tuple(a_row(i) for i in range(200)) and found.state == "finished"


def test_a_server_that_comes_back_while_the_trial_runs_gets_the_rows_in_their_order(dsn, soon):
    trial, told = a_trial(), []
    with database.Recorder(dsn, told.append) as recorder:
        journal = record(recorder, trial, [], end=None)
        in_the_end(lambda: stored_or_none(dsn, trial))
        database.server.stop()
        journal.on_event("row", a_row(1))
        in_the_end(lambda: told)
        database.server.start()
        journal.on_event("row", a_row(2))
        in_the_end(lambda: stored(dsn, trial).rows == (a_row(1), a_row(2)))
        journal.on_event("end", trial.ended_as("finished", 1e9 + 5))
    assert "is back" in told[-1] and journals() == []


def test_connections_that_are_cut_in_mid_transaction_lose_and_double_nothing(dsn, soon):
    """The server ends every connection of lrbench, again and again, while rows are delivered."""
    trials, cut = [a_trial() for _ in range(8)], threading.Event()

    def cut_always():
        import psycopg2

        with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            while not cut.is_set():
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                    "AND application_name LIKE 'lrbench%'"
                )
                time.sleep(0.03)

    with database.Recorder(dsn) as recorder:
        knife = threading.Thread(target=cut_always)
        knife.start()
        for trial in trials:
            record(recorder, trial, range(100))
        cut.set()
        knife.join()
    for trial in trials:
        assert (
            stored(dsn, trial).rows == tuple(a_row(i) for i in range(100))
            and stored(dsn, trial).state == "finished"
        )
    assert journals() == []


def test_a_program_that_was_killed_leaves_an_interrupted_trial_with_all_its_rows(dsn):
    """kill -9 with the last line torn, as a crash may leave it: at the next start all whole lines are in the database."""
    code = (
        "import sys, time, os; sys.path.insert(0, 'tests'); import test_journal as t\n"
        "trial = t.a_trial(); recorder = t.database.Recorder(sys.argv[1]); t.database.server.stop()\n"  # rows are in the journal only
        "journal = t.record(recorder, trial, range(3), end=None)\n"
        "open(os.path.join(t.home(), 'journal', trial.id + '-1.jsonl'), 'a').write('[\"row\", {\"iterat')\n"
        "print(trial.id, flush=True); time.sleep(60)"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", code, dsn],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=dict(os.environ, PYTHONPATH=ROOT),
        universal_newlines=True,
    )
    trial_id = program.stdout.readline().strip()
    database.server.start()
    with database.Recorder(dsn):
        assert journals() == [trial_id + "-1.jsonl"], (
            "the journal of a program that lives is its own"
        )
    program.send_signal(signal.SIGKILL)
    program.communicate()
    with database.Recorder(dsn):
        assert journals() == []
    with database.Store(dsn) as store:
        found = store.trial(trial_id)
    assert found.state == "interrupted" and [row.iteration for row in found.rows] == [0, 1, 2]


def test_a_trial_that_begins_again_on_another_worker_leaves_no_trace_of_what_was_lost(dsn):
    trial = a_trial()
    with database.Recorder(dsn) as recorder:
        journal = record(recorder, trial, [0, 5, 10], end=None)
        journal.on_event("begin", dataclasses.replace(trial, resumed_at=5))
        resumed = dataclasses.replace(a_row(10), resumed_at=5, top1=0.75)
        for row in (a_row(0), a_row(5), resumed):
            journal.on_event("row", row)
        journal.on_event("end", trial.ended_as("finished", 1e9 + 5))
    found = stored(dsn, trial)
    assert (
        found.rows == (a_row(0), a_row(5), resumed)
        and found.attempt == 2
        and found.state == "finished"
        and journals() == []
    )


def test_a_journal_goes_to_the_database_that_it_was_written_for(dsn):
    path = os.path.join(home(), "journal", a_trial().id + "-1.jsonl")
    with open(path, "w") as file:
        file.write(json.dumps(["database", "another at somewhere, port 5432"]) + "\n")
    with database.Recorder(dsn):
        assert os.path.exists(path)
    os.remove(path)


def test_a_journal_that_the_database_refuses_is_put_aside_and_stops_nobody(dsn):
    trial, other, told = (
        dataclasses.replace(a_trial(), policy="x", function="y" * 1000),
        a_trial(),
        [],
    )
    with database.Recorder(dsn, told.append) as recorder:
        record(recorder, trial, [0])
        record(recorder, other, [0])
    assert journals() == [trial.id + "-1.jsonl.refused"] and stored(dsn, other).state == "finished"
    assert len(told) == 1 and "refuses a value" in told[0] and told[0].endswith(".refused")
    with database.Recorder(dsn, told.append):
        assert len(told) == 1
    os.remove(os.path.join(home(), "journal", trial.id + "-1.jsonl.refused"))


@pytest.mark.parametrize("room", [0, 1, 2, 5])
def test_a_full_disk_ends_the_trial_with_a_sentence_and_keeps_what_was_measured(
    room, dsn, small_disk, monkeypatch
):
    """The journal is on a small filesystem of its own, filled up but for so many of its pages."""
    monkeypatch.setattr("lrbench_caffe.database.journal.home", lambda: str(small_disk))
    trial, verdict, measured = a_trial(), None, []
    with database.Recorder(dsn) as recorder:
        with open(str(small_disk / "filler"), "wb", buffering=0) as filler:
            free = os.statvfs(str(small_disk))
            filler.write(b"x" * ((free.f_bavail - room) * free.f_bsize))
        journal = recorder.journal()
        verdict = journal.on_event("begin", trial)
        while verdict is None and len(measured) < 1000:
            measured.append(a_row(len(measured)))
            verdict = journal.on_event("row", measured[-1])
        assert (
            verdict[0] == "failed"
            and "No space left on device" in verdict[1]
            and "make room" in verdict[1]
        )
        journal.on_event("end", trial.ended_as(verdict[0], 1e9 + 5, verdict[1]))
    found = stored(dsn, trial)
    assert found.state == "failed" and found.error == verdict[1] and found.rows == tuple(measured)
    assert os.listdir(str(small_disk / "journal")) == []
