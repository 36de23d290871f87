"""Studies in the database: named lists of trials, and the programs that run them.

At most one program runs a study at a time, on any machine: it holds an advisory lock of the
database for as long as its connection lives. Other programs ask it to stop through the column
``stop_requests``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, Callable, Dict, Mapping, NamedTuple, Optional, Sequence

from psycopg2.extras import Json, execute_values

from lrbench_caffe.database import selection
from lrbench_caffe.database.store import Store
from lrbench_caffe.errors import DatabaseUnavailable, InputError
from lrbench_caffe.trial import Job, from_dict, to_dict

if TYPE_CHECKING:
    from typing import Protocol  # Python 3.7 does not have it

    class StopSwitch(Protocol):
        """A callable that stops the trainings of a program, :class:`lrbench_caffe.study.stop.Stop`.

        Attributes:
            requests: How many times it was called. The first time, trainings end after a last
                snapshot; the second time, at once.
        """

        requests: int

        def __call__(self) -> object:
            """Request an end."""


POLL_SECONDS = 1  # between two looks at the requests to stop a study
_CLAIM_SECONDS = 2  # within which the server notices that the previous program was killed
LOCK = 0x6C726263  # "lrbc": the advisory lock of the program that runs a study is (this, study id)

# The update changes nothing, but it locks the study. If the study is being deleted, the statement
# waits and then inserts it.
_ADD_STUDY = """
    INSERT INTO study (name) VALUES (%s) ON CONFLICT (name) DO UPDATE SET name = EXCLUDED.name
    RETURNING id"""

# Beside the information, the column has the command that resumes the study.
_SET_COMMAND = """
    UPDATE study
    SET beginning = COALESCE(beginning, '{}') || jsonb_build_object('command', %s::text)
    WHERE name = %s"""

_COMMAND = "SELECT beginning ->> 'command' AS command FROM study WHERE name = %s"

_INITIAL_INFORMATION = """
    UPDATE study SET beginning = CASE
        WHEN COALESCE(beginning, '{}') - 'command' = '{}'
        THEN COALESCE(beginning, '{}') || %(content)s::jsonb ELSE beginning END
    WHERE name = %(name)s RETURNING beginning"""

_JSON_TEXTS = """
    SELECT key::jsonb::text AS key FROM unnest(%s::text[]) WITH ORDINALITY AS keys (key, place)
    ORDER BY place"""

_ADD_REASONS = """
    UPDATE study SET beginning = COALESCE(beginning, '{}') || jsonb_build_object(
        'reasons', COALESCE(beginning -> 'reasons', '{}') || %s::jsonb)
    WHERE name = %s"""

_REASONS = """
    SELECT trial_id::text, reason ->> 0 AS stage, reason ->> 1 AS why
    FROM study JOIN study_trial ON study_id = study.id,
        LATERAL (SELECT beginning -> 'reasons' -> jsonb_build_array(
            job -> 'policy', job -> 'max_iter', job -> 'seed')::text AS reason) AS recorded
    WHERE name = %s AND reason IS NOT NULL"""

_JOBS = """
    SELECT trial_id::text, job, COALESCE(attempt, 0) AS attempts, state
    FROM study JOIN study_trial ON study_id = study.id LEFT JOIN trial ON trial.id = trial_id
    WHERE name = %s ORDER BY position"""

_POLICIES = """
    SELECT job->>'policy' AS policy FROM study JOIN study_trial ON study_id = study.id
    WHERE name = %s AND job->>'policy' IS NOT NULL ORDER BY position"""

_STUDIES = """
    SELECT name, extract(epoch FROM created_at)::double precision AS created,
           jsonb_object_agg(state, trials) AS states,
           EXISTS (SELECT FROM pg_locks
                   WHERE locktype = 'advisory' AND classid = %(lock)s AND objid = counted.id
                   AND objsubid = 2 AND database = (
                       SELECT oid FROM pg_database WHERE datname = current_database())) AS runs
    FROM (SELECT study.id, name, created_at, COALESCE(state, 'waiting') AS state,
                 count(*) AS trials
          FROM study JOIN study_trial ON study_id = study.id LEFT JOIN trial ON trial.id = trial_id
          GROUP BY study.id, COALESCE(state, 'waiting')) AS counted
    GROUP BY id, name, created_at ORDER BY created_at DESC"""

_RUNNER = """
    SELECT application_name, pid FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND classid = %s AND objid = %s AND objsubid = 2
        AND datname = current_database()"""

# Run again and again: if the connection was lost, the lock was lost with it and is taken again.
_CLAIM = """
    SELECT pg_try_advisory_lock(%(lock)s, id) AS mine, stop_requests, pg_backend_pid() AS session,
           set_config('application_name', %(program)s, false),
           set_config('tcp_keepalives_idle', '30', false) AS keepalives_idle,
           set_config('tcp_keepalives_interval', '10', false) AS keepalives_interval,
           set_config('tcp_keepalives_count', '3', false) AS keepalives_count
    FROM study WHERE id = %(id)s"""

_REACHED = """
    SELECT trial_id::text, network.hash, dataset.name, measured_on, iteration,
           max(top1) OVER (PARTITION BY trial_id ORDER BY iteration) AS top1
    FROM evaluation JOIN trial ON trial.id = trial_id
    JOIN network ON network.id = network_id JOIN dataset ON dataset.id = dataset_id
    WHERE trial_id = ANY (%s::uuid[]) AND top1 IS NOT NULL"""


class StudyJob(NamedTuple):
    """A trial of a study.

    Attributes:
        job: What it trains; its id is the trial's.
        state: The trial's state, or None before it has begun.
        attempts: How many times it was started.
    """

    job: Job
    state: Optional[str]
    attempts: int


class StudySummary(NamedTuple):
    """A study in a list of studies.

    Attributes:
        name: The study's name.
        created: When it was created, in seconds since the epoch.
        states: The number of trials in each state; those that have not begun are "waiting".
        running: Whether a program runs it now.
    """

    name: str
    created: float
    states: Dict[str, int]
    running: bool


def add(store: Store, name: str, jobs: Sequence[Job]) -> None:
    """Add the jobs that a study does not have yet; a new study is created.

    Args:
        store: The database.
        name: The study's name.
        jobs: The jobs, without ids.
    """

    def insert(cursor: Any) -> None:
        cursor.execute(_ADD_STUDY, [name])
        study_id = cursor.fetchone().id
        cursor.execute("SELECT job, position FROM study_trial WHERE study_id = %s", [study_id])
        lines = cursor.fetchall()
        existing = {from_dict(Job, line.job) for line in lines}
        position = 1 + max((line.position for line in lines), default=-1)  # some may be deleted
        new = [job for job in dict.fromkeys(jobs) if job not in existing]
        execute_values(
            cursor,
            "INSERT INTO study_trial (study_id, position, trial_id, job) VALUES %s",
            [
                (study_id, position, str(uuid.uuid4()), Json(to_dict(job)))
                for position, job in enumerate(new, position)
            ],
        )

    store.transaction(insert)


def set_command(store: Store, name: str, command: str) -> None:
    """Record the command that resumes a study, unless `lrbench study run` does.

    Args:
        store: The database.
        name: The name of an existing study.
        command: The command, such as "lrbench tune solver.prototxt --study NAME".
    """
    store.transaction(lambda cursor: cursor.execute(_SET_COMMAND, [command, name]))


def command(store: Store, name: str) -> str | None:
    """Return the command that resumes a study, or None if `lrbench study run` does."""
    for line in store.select(_COMMAND, [name]):
        recorded: str | None = line.command
        return recorded
    return None


def initial_information(store: Store, name: str, content: object) -> Any:
    """Store the information with which an evaluation begins its study, and return it.

    A resumed evaluation gets the information of its first start. So it takes the same decisions
    again, whatever has been added to the database meanwhile.

    Args:
        store: The database.
        name: The study's name. The study is created if necessary.
        content: The information, as JSON can hold it. It is stored unless the study has some.

    Returns:
        The stored information, beside which there may be the "command" of :func:`set_command`.
    """

    def update(cursor: Any) -> Any:
        cursor.execute(_ADD_STUDY, [name])
        cursor.execute(_INITIAL_INFORMATION, {"content": Json(content), "name": name})
        return cursor.fetchone().beginning

    return store.transaction(update)


def add_reasons(
    store: Store, name: str, reasons: Mapping[tuple[str, int, int], tuple[str, str]]
) -> None:
    """Record why an evaluation trains what it trains.

    Args:
        store: The database.
        name: The name of an existing study.
        reasons: By (policy's text, max_iter, seed) of a training, the stage of the evaluation and
            the reason in it.
    """

    def update(cursor: Any) -> None:
        # The keys have PostgreSQL's own text of a JSON array, by which they are looked up.
        cursor.execute(
            _JSON_TEXTS,
            [[json.dumps(training) for training in reasons]],
        )
        keys = [line.key for line in cursor.fetchall()]
        cursor.execute(_ADD_REASONS, [Json(dict(zip(keys, reasons.values()))), name])

    store.transaction(update)


def reasons(store: Store, name: str) -> dict[str, tuple[str, str]]:
    """Return (stage, reason) of the trials of a study by their ids, where they were recorded."""
    lines = store.select(_REASONS, [name])
    return {line.trial_id: (line.stage, line.why) for line in lines}


def jobs(store: Store, name: str) -> list[StudyJob]:
    """Return the jobs of a study in their order.

    Raises:
        InputError: The database does not have the study.
    """
    lines = store.select(_JOBS, [name])
    if not lines:
        if store.select("SELECT FROM study WHERE name = %s", [name]):
            resume = command(store, name) or "lrbench study run %s SOLVER.prototxt" % name
            raise InputError("the study %s has no trainings yet: `%s` starts them" % (name, resume))
        raise selection.unknown_study(store, name)
    return [
        StudyJob(
            job=dataclasses.replace(from_dict(Job, line.job), id=line.trial_id),
            state=line.state,
            attempts=line.attempts,
        )
        for line in lines
    ]


def ids(store: Store, name: str) -> dict[Job, str]:
    """Return the ids of a study's trials by their jobs, which have no ids here.

    Raises:
        InputError: The database does not have the study.
    """
    return {
        dataclasses.replace(entry.job, id=None): str(entry.job.id) for entry in jobs(store, name)
    }


def policies(store: Store, name: str) -> list[str]:
    """Return the texts of the policies that a study trains; none if it does not have jobs yet."""
    lines = store.select(_POLICIES, [name])
    return [line.policy for line in lines]


def summaries(store: Store) -> list[StudySummary]:
    """Return a summary of each study, the newest first."""
    return [
        StudySummary(line.name, line.created, line.states, line.runs)
        for line in store.select(_STUDIES, {"lock": LOCK})
    ]


def reached(
    store: Store, trial_ids: Sequence[str | None]
) -> list[tuple[str, str, str, str, int, float]]:
    """Return the progress of trials.

    Returns:
        For each evaluation the trial's id, the network's hash, the dataset's name, the set that
        decides, the iteration, and the highest Top-1 of the trial up to this iteration.
    """
    return store.select(_REACHED, [trial_ids])


def stop(
    store: Store, name: str, requests: int = 1, on_waiting: Callable[[], None] = lambda: None
) -> None:
    """Ask the program that runs a study to end it, and wait until it has ended.

    Args:
        store: The database.
        name: The study's name.
        requests: 1 to end trainings after a last snapshot, 2 to end them at once.
        on_waiting: Called when the request has been made and the waiting begins.

    Raises:
        InputError: The database does not have the study, or no program runs it.
    """
    study = _study(store, name)
    if not _runner_name(store, study.id):
        raise InputError(
            "the study %s is not running: `lrbench study list` shows the studies that are" % name
        )
    # A transaction may run twice, so it sets a number that was read before.
    store.transaction(
        lambda cursor: cursor.execute(
            "UPDATE study SET stop_requests = GREATEST(stop_requests, %s) WHERE id = %s",
            [study.stop_requests + requests, study.id],
        )
    )
    on_waiting()
    while _runner_name(store, study.id):
        time.sleep(POLL_SECONDS / 4)


def runner(store: Store, name: str) -> str | None:
    """Return the name of the program that runs a study, None if none does.

    Raises:
        InputError: The database does not have the study.
    """
    return _runner_name(store, _id(store, name))


class Claim:
    """The right to run a study, which one program at a time has; a context manager.

    Within the context, a thread reads the requests to stop the study and passes each on.

    Args:
        name: The study's name.
        dsn: The database, as for :class:`~lrbench_caffe.database.store.Store`.
        stop: Called for each request to stop.
        on_note: Called with each message for the user, from the thread.

    Raises:
        InputError: The database does not have the study, or another program runs it.
    """

    def __init__(
        self, name: str, dsn: str | None, stop: StopSwitch, on_note: Callable[[str], None]
    ) -> None:
        self._name = name
        self._stop = stop
        self._on_note = on_note
        self._program = ("lrbench on %s, process %d" % (socket.gethostname(), os.getpid()))[:63]
        self._sessions: set[int] = set()  # that have tried to take the lock
        self._store = Store(dsn, delivers=False)
        try:
            self._id = _id(self._store, name)
        except InputError:
            self._store.close()
            raise
        # Requests before this claim were for other programs. They are subtracted and not reset, so
        # that a request right after the claim is not lost.
        self._passed_on = self._take()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="claim", daemon=True)

    def __enter__(self) -> Claim:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        requests = self._stop.requests
        while self._thread.is_alive() and self._stop.requests == requests:
            self._thread.join(0.05)  # seconds; the thread may wait for a frozen database
        if not self._thread.is_alive():
            self._store.close()

    def _take(self) -> int:
        """Take the lock; the lock of a program that was killed is free after a moment.

        Returns the number of requests to stop until then.
        """
        deadline = time.monotonic() + _CLAIM_SECONDS
        while True:
            claim = self._renew()
            if claim.mine:
                requests: int = claim.stop_requests
                return requests
            if time.monotonic() > deadline:
                runner = _runner_name(self._store, self._id)
                self._store.close()
                raise InputError(
                    "the study %s is already running (%s): wait for it, or end it with "
                    "`lrbench study stop %s`" % (self._name, runner or "elsewhere", self._name)
                )
            time.sleep(0.1)

    def _renew(self) -> Any:
        """Take the lock if it is free; return whether it is mine, and the requests to stop."""
        values = {"lock": LOCK, "id": self._id, "program": self._program}
        for line in self._store.select(_CLAIM, values):
            self._sessions.add(line.session)
            return line
        raise InputError("the study %s is no longer in the database" % self._name)

    def _watch(self) -> None:
        """Keep the lock and pass requests on, until the context is left."""
        while not self._left.wait(POLL_SECONDS):
            if self._stop.requests:
                self._on_note(
                    "ending: trainings take a last snapshot; Ctrl-C again ends them at once"
                )
            try:
                claim = self._renew()
                is_taken = not claim.mine and self._is_taken()
            except DatabaseUnavailable:
                continue  # the recorder reports it
            except InputError as error:
                self._end(str(error))
                return
            if is_taken:  # while the database was unavailable
                self._end(
                    "another program is now running the study %s: this program stops" % self._name
                )
                return
            for _ in range(claim.stop_requests - self._passed_on):
                self._stop()
            self._passed_on = claim.stop_requests

    def _is_taken(self) -> bool:
        """Whether another program has the lock.

        After a network cut, the server keeps an earlier session of this program for a minute.
        """
        runner = _runner(self._store, self._id)
        if runner is None:
            return False
        return not (runner.pid in self._sessions and runner.application_name == self._program)

    def _end(self, note: str) -> None:
        self._on_note(note)
        self._stop()


def _id(store: Store, name: str) -> int:
    study_id: int = _study(store, name).id
    return study_id


def _study(store: Store, name: str) -> Any:
    """A study: its id and the requests to stop it so far."""
    for line in store.select("SELECT id, stop_requests FROM study WHERE name = %s", [name]):
        return line
    raise selection.unknown_study(store, name)


def _runner_name(store: Store, study_id: int) -> str | None:
    """The name of the program that runs a study, or None."""
    runner = _runner(store, study_id)
    return runner and runner.application_name


def _runner(store: Store, study_id: int) -> Any:
    """The session that runs a study: its application_name and its pid; or None."""
    return next(iter(store.select(_RUNNER, [LOCK, study_id])), None)
