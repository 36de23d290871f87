"""Studies in the database: lists of trials with a name, which trials they have, and who runs them."""

import dataclasses
import os
import socket
import threading
import time
import uuid
from typing import NamedTuple, Optional

from psycopg2.extras import Json, execute_values

from lrbench_caffe.database.store import Store
from lrbench_caffe.errors import DatabaseUnavailable, InputError
from lrbench_caffe.trial import Job, from_dict, to_dict

POLL_SECONDS = 1  # between two looks at whether a study is to stop
_LOCK = 0x6C726263  # "lrbc": advisory locks (this, the study's id) are held by the programs that run studies

_JOBS = """
    SELECT trial_id::text, job, COALESCE(attempt, 0) AS attempts, state
    FROM study JOIN study_trial ON study_id = study.id LEFT JOIN trial ON trial.id = trial_id
    WHERE name = %s ORDER BY position"""

_STUDIES = """
    SELECT name, extract(epoch FROM created_at)::double precision AS created, jsonb_object_agg(state, trials) AS states,
           EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = %(lock)s AND objid = counted.id
                   AND objsubid = 2 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) AS runs
    FROM (SELECT study.id, name, created_at, COALESCE(state, 'waiting') AS state, count(*) AS trials
          FROM study JOIN study_trial ON study_id = study.id LEFT JOIN trial ON trial.id = trial_id
          GROUP BY study.id, COALESCE(state, 'waiting')) AS counted
    GROUP BY id, name, created_at ORDER BY created_at DESC"""

_RUNNER = """
    SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND classid = %s AND objid = %s AND objsubid = 2 AND datname = current_database()"""

# Taken again each time: a connection that was lost has lost the lock as well.
_CLAIM = """
    SELECT pg_try_advisory_lock(%(lock)s, id) AS mine, stop_requests, set_config('application_name', %(who)s, false) AS who,
           set_config('tcp_keepalives_idle', '30', false) AS idle, set_config('tcp_keepalives_interval', '10', false) AS every
    FROM study WHERE id = %(id)s"""

_REACHED = """
    SELECT network.hash, dataset.name, iteration, max(top1) OVER (PARTITION BY trial_id ORDER BY iteration) AS top1
    FROM evaluation JOIN trial ON trial.id = trial_id
    JOIN network ON network.id = network_id JOIN dataset ON dataset.id = dataset_id
    WHERE trial_id = ANY (%s::uuid[])"""


class StudyJob(NamedTuple):
    """A trial of a study: its Job (with the trial's id), its state (None before it has begun), how many times it was started."""

    job: Job
    state: Optional[str]
    attempts: int


class StudySummary(NamedTuple):
    """A study: when it was made (seconds since the epoch), {state: how many trials}, whether a program runs it now."""

    name: str
    made: float
    states: dict
    runs: bool


def add(store, name, jobs):
    """See that a study of that name has these jobs: it is made, or made longer by those that it has not got."""

    def work(cursor):
        cursor.execute("INSERT INTO study (name) VALUES (%s) ON CONFLICT DO NOTHING", [name])
        cursor.execute("SELECT id FROM study WHERE name = %s FOR UPDATE", [name])
        study = cursor.fetchone().id
        cursor.execute("SELECT job FROM study_trial WHERE study_id = %s", [study])
        known = {from_dict(Job, line.job) for line in cursor.fetchall()}
        new = [job for job in dict.fromkeys(jobs) if job not in known]
        execute_values(
            cursor,
            "INSERT INTO study_trial (study_id, position, trial_id, job) VALUES %s",
            [
                (study, position, str(uuid.uuid4()), Json(to_dict(job)))
                for position, job in enumerate(new, len(known))
            ],
        )

    store.transaction(work)


def beginning(store, name, content):
    """What an evaluation knew when its study of that name began: content, unless that has begun before with another.

    So it takes the same decisions when it goes on, whatever the database has learnt meanwhile.  The study is made if need be.
    """

    def work(cursor):
        cursor.execute("INSERT INTO study (name) VALUES (%s) ON CONFLICT DO NOTHING", [name])
        cursor.execute(
            "UPDATE study SET beginning = COALESCE(beginning, %s) WHERE name = %s RETURNING beginning",
            [Json(content), name],
        )
        return cursor.fetchone().beginning

    return store.transaction(work)


def jobs(store, name):
    """The StudyJobs of a study in their order.  Raises InputError when there is no such study."""
    lines = store.transaction(lambda cursor: cursor.execute(_JOBS, [name]) or cursor.fetchall())
    if not lines:
        raise _missing(name)
    return [
        StudyJob(
            dataclasses.replace(from_dict(Job, line.job), id=line.trial_id),
            line.state,
            line.attempts,
        )
        for line in lines
    ]


def ids(store, name):
    """{Job: its trial's id} of a study."""
    return {dataclasses.replace(entry.job, id=None): entry.job.id for entry in jobs(store, name)}


def summaries(store):
    """A StudySummary of each study, the newest first."""
    lines = store.transaction(
        lambda cursor: cursor.execute(_STUDIES, {"lock": _LOCK}) or cursor.fetchall()
    )
    return [StudySummary(line.name, line.created, line.states, line.runs) for line in lines]


def reached(store, trial_ids):
    """(network's hash, dataset's name, iteration, highest Top-1 so far) of each evaluation of these trials."""
    return store.transaction(
        lambda cursor: cursor.execute(_REACHED, [trial_ids]) or cursor.fetchall()
    )


def stop(store, name, requests=1, waiting=lambda: None):
    """Ask the program that runs a study to end it, wherever it is: politely, with 2 requests at once.  Returns when it has ended.

    waiting is called once it was asked.  Raises InputError when nobody runs it.
    """
    study = _id(store, name)
    if not _runner(store, study):
        raise InputError("the study %s does not run: `lrbench study list` has those that do" % name)
    store.transaction(
        lambda cursor: cursor.execute(
            "UPDATE study SET stop_requests = stop_requests + %s WHERE id = %s", [requests, study]
        )
    )
    waiting()
    while _runner(store, study):
        time.sleep(POLL_SECONDS / 4)


class Claim:
    """That this program, and no other on any machine, runs a study; a context manager.

    Within the block a thread of its own sees whether somebody wants the study to stop, and calls stop() for each request.
    """

    def __init__(self, name, dsn, stop, tell):
        """Tell is called with a sentence that a person should read.  Raises InputError where another program runs the study."""
        self._name, self._stop, self._tell = name, stop, tell
        self._store = Store(dsn)
        self._id = _id(self._store, name)
        deadline = (
            time.monotonic() + 2
        )  # the server takes a moment to see that a program was killed
        while not self._look().mine:
            if time.monotonic() > deadline:
                runner = _runner(self._store, self._id)
                self._store.close()
                raise InputError(
                    "the study %s runs already (%s): wait for it, or end it with `lrbench study stop %s`"
                    % (name, runner or "elsewhere", name)
                )
            time.sleep(0.1)
        self._store.transaction(
            lambda cursor: cursor.execute(
                "UPDATE study SET stop_requests = 0 WHERE id = %s", [self._id]
            )
        )
        self._heard, self._left = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, name="claim", daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._left.set()
        self._thread.join()
        self._store.close()

    def _look(self):
        who = "lrbench on %s, process %d" % (socket.gethostname(), os.getpid())
        line = self._store.transaction(
            lambda cursor: (
                cursor.execute(_CLAIM, {"lock": _LOCK, "id": self._id, "who": who[:63]})
                or cursor.fetchone()
            )
        )
        if line is None:
            raise InputError("the study %s is no longer in the database" % self._name)
        return line

    def _watch(self):
        while not self._left.wait(POLL_SECONDS):
            if self._stop.requests:
                self._tell("ending: trainings take a last snapshot; Ctrl-C again ends them at once")
            try:
                found = self._look()
            except DatabaseUnavailable:
                continue  # the journal says so
            except InputError as error:
                self._tell(str(error))
                return self._stop()
            if not found.mine:  # while the database was away
                self._tell(
                    "another program runs the study %s now, so that it ends here" % self._name
                )
                return self._stop()
            for _ in range(found.stop_requests - self._heard):
                self._stop()
            self._heard = found.stop_requests


def _id(store, name):
    line = store.transaction(
        lambda cursor: (
            cursor.execute("SELECT id FROM study WHERE name = %s", [name]) or cursor.fetchone()
        )
    )
    if line is None:
        raise _missing(name)
    return line.id


def _runner(store, study):
    line = store.transaction(
        lambda cursor: cursor.execute(_RUNNER, [_LOCK, study]) or cursor.fetchone()
    )
    return line and line.application_name


def _missing(name):
    return InputError(
        "there is no study %s in the database: `lrbench study list` has those that are there" % name
    )
