"""The journal: what was measured survives a database that goes away and a program that dies, and arrives once."""
import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import time
import uuid

import pytest

from conftest import ROOT
from lrbench_caffe.errors import InputError, TrialError
from lrbench_caffe.home import home
from lrbench_caffe.trial import Dataset, Evaluation, Framework, Network, Setup, Trial

pytest.importorskip("psycopg2", reason="needs psycopg2 and PostgreSQL: run the tests with `make test`")
from lrbench_caffe import database  # noqa: E402


def a_trial():
    setup = Setup(Framework("Caffe", "1.0.0"), Network("net", "0" * 64, "layer {}"), Dataset("digits", (1, 8, 8), 10, 10), 10, {}, 1)
    return Trial(str(uuid.uuid4()), "FIX(k0=0.1)", "FIX", {"k0": 0.1}, 1, setup, "here", 1e9)


def a_row(iteration):
    return Evaluation(iteration, 0.1, 1.0, 1.0, 0.5, 0.5, 0.5, 0.1, 0.1, 0.0)


def stored(dsn, trial):
    with database.Store(dsn) as store:
        return store.trial(trial.id)


def journals():
    folder = os.path.join(home(), "journal")
    return os.listdir(folder) if os.path.isdir(folder) else []


def test_a_recorded_trial_is_in_the_database_row_by_row_and_leaves_no_journal(dsn):
    trial = a_trial()
    with database.Recorder(dsn) as record:
        record.begin(trial)
        record.add(trial.id, a_row(0))
        assert stored(dsn, trial).rows == (a_row(0),) and stored(dsn, trial).state == "running"
        record.add(trial.id, a_row(5))
        assert record.end(trial.ended_as("finished", 1e9 + 5)) is None
    assert stored(dsn, trial).rows == (a_row(0), a_row(5)) and stored(dsn, trial).state == "finished" and journals() == []


def test_a_server_that_is_away_stops_nothing_and_gets_all_of_it_later(dsn):
    """A named server is not started on demand: while it is down rows wait in the journal, until lrbench next uses it."""
    trial = a_trial()
    with database.Recorder(dsn) as record:
        record.begin(trial)
        record.add(trial.id, a_row(0))
        database.server.stop()
        try:
            started = time.monotonic()
            for iteration in range(1, 200):
                record.add(trial.id, a_row(iteration))
            assert time.monotonic() - started < 10
            told = record.end(trial.ended_as("finished", 1e9 + 5))
        finally:
            database.server.start()
    assert "200 events" in told and journals() == [trial.id + "-1.jsonl"]
    with database.Recorder(dsn):
        assert journals() == []
    found = stored(dsn, trial)
    assert found.rows == tuple(a_row(i) for i in range(200)) and found.state == "finished"


def test_a_server_that_comes_back_while_the_trial_runs_gets_the_rows_in_their_order(dsn, monkeypatch):
    monkeypatch.setattr("lrbench_caffe.database.journal.RETRY_SECONDS", 0)
    trial = a_trial()
    with database.Recorder(dsn) as record:
        record.begin(trial)
        database.server.stop()
        record.add(trial.id, a_row(1))
        database.server.start()
        record.add(trial.id, a_row(2))
        assert stored(dsn, trial).rows == (a_row(1), a_row(2))
        assert record.end(trial.ended_as("finished", 1e9 + 5)) is None


def test_a_program_that_was_killed_leaves_an_interrupted_trial_with_all_its_rows(dsn):
    """kill -9 with the last line torn, as a crash may leave it: at the next start all whole lines are in the database."""
    code = ("import sys, time, os; sys.path.insert(0, 'tests'); import test_journal as t\n"
            "trial = t.a_trial(); record = t.database.Recorder(sys.argv[1]); record.begin(trial)\n"
            "record._next_try = float('inf')\n"  # as while the database is away: rows are in the journal only
            "for i in range(3): record.add(trial.id, t.a_row(i))\n"
            "record._file.write(b'[\"row\", {\"iterat'); print(trial.id, flush=True); time.sleep(60)")
    program = subprocess.Popen([sys.executable, "-c", code, dsn], stdout=subprocess.PIPE, cwd=ROOT,
                               env=dict(os.environ, PYTHONPATH=ROOT), universal_newlines=True)
    trial_id = program.stdout.readline().strip()
    with database.Recorder(dsn):
        assert journals() == [trial_id + "-1.jsonl"], "the journal of a program that lives is its own"
    program.send_signal(signal.SIGKILL)
    program.communicate()
    with database.Recorder(dsn):
        assert journals() == []
    with database.Store(dsn) as store:
        found = store.trial(trial_id)
    assert found.state == "interrupted" and [row.iteration for row in found.rows] == [0, 1, 2]


def test_a_journal_goes_to_the_database_that_it_was_written_for(dsn, tmp_path):
    trial = a_trial()
    path = os.path.join(home(), "journal", trial.id + "-1.jsonl")
    with open(path, "w") as file:
        file.write(json.dumps(["database", "another at somewhere, port 5432"]) + "\n")
    with database.Recorder(dsn):
        assert os.path.exists(path)
    os.remove(path)


def test_a_journal_that_the_database_refuses_is_put_aside_and_stops_nobody(dsn):
    trial = dataclasses.replace(a_trial(), policy="x", function="y" * 1000)
    with pytest.raises(InputError, match="refuses a value"):
        with database.Recorder(dsn) as record:
            record.begin(trial)
    assert journals() == [trial.id + "-1.jsonl.refused"]
    with database.Recorder(dsn) as record:
        assert record.notes == []
    os.remove(os.path.join(home(), "journal", trial.id + "-1.jsonl.refused"))


def test_a_journal_that_cannot_be_written_ends_the_trial_with_a_sentence_and_keeps_what_was_measured(dsn):
    """No room, here because the system limits the size of a file."""
    trial = a_trial()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with database.Recorder(dsn) as record:
        record.begin(trial)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1900, limits[1]))
        try:
            with pytest.raises(TrialError, match="File too large.*LRBENCH_HOME"):
                for iteration in range(100):
                    record.add(trial.id, a_row(iteration))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert journals() == []
    assert stored(dsn, trial).state == "interrupted" and len(stored(dsn, trial).rows) == iteration
