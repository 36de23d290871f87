"""The store: trials and their rows in PostgreSQL, as plain values in and out.

A trial enters the database by :meth:`Store.begin`, its rows by :meth:`Store.add`, its end by
:meth:`Store.end`. A :class:`~lrbench_caffe.database.journal.Recorder` calls these from a thread
while the training runs.

Every method is one transaction, and every transaction may be repeated without harm:

- ``begin`` leaves a trial alone that is already there, unless it is a later attempt;
- ``add`` leaves a row alone that is already there;
- ``end`` writes the same end again.

So a journal can be delivered twice, and a lost connection costs only a second try.

A trial that was cut off is resumed from its last snapshot as another attempt. Rows that the
earlier attempt measured after that snapshot are deleted, and those that are delivered later are
ignored, whatever the order in which the journals of the two attempts arrive.

Use a Store in one thread at a time. Any number of Stores may write at the same time.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from itertools import groupby
from typing import TYPE_CHECKING, Any, Callable, Collection, Iterable, Iterator, Mapping, TypeVar

import psycopg2
from psycopg2.extras import Json, NamedTupleCursor

from lrbench_caffe.database import delivery, outcomes
from lrbench_caffe.database.columns import COLUMN_LIST, EVALUATION_COLUMNS, sql_type
from lrbench_caffe.database.connection import connect, display_name, identity, reason
from lrbench_caffe.database.names import DATASET_MATCHES, NETWORK_MATCHES, ORIGIN_MATCHES
from lrbench_caffe.database.watch import watched
from lrbench_caffe.errors import (
    CannotConnect,
    ChangeRefused,
    DatabaseUnavailable,
    InputError,
    TrialDeleted,
    TrialMissing,
)
from lrbench_caffe.trial import Dataset, Evaluation, Framework, Network, Setup, Trial

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

T = TypeVar("T")

# SQLSTATE's classes of errors that are a value's own fault: data exceptions and violated
# constraints. All other errors may pass, so the same change is tried again later.
_VALUE_ERRORS = ("22", "23")
# Classes of errors that concern the whole database: its connection, its transactions, its memory,
# disk and connections, locks, shutdowns, the system and internal errors.
_DATABASE_ERRORS = ("08", "25", "53", "55", "57", "58", "XX")
_MISSING_REFERENCE = "23503"  # foreign_key_violation
_LACKING_RIGHTS = ("42501", "25006")  # insufficient_privilege, read_only_sql_transaction

# The rights that recording a trial takes, by the tables. The trigger that keeps the table standing
# runs with the rights of the user, and locks rows of dataset.
NEEDED_RIGHTS = {
    "framework": ("SELECT", "INSERT"),
    "network": ("SELECT", "INSERT"),
    "dataset": ("SELECT", "INSERT", "UPDATE"),
    "task": ("SELECT", "INSERT"),
    "policy": ("SELECT", "INSERT"),
    "trial": ("SELECT", "INSERT", "UPDATE"),
    "deleted_trial": ("SELECT",),
    "evaluation": ("SELECT", "INSERT", "DELETE"),
    "standing": ("SELECT", "INSERT", "DELETE"),
    "standing_of_trials": ("SELECT",),
}

_MISSING_RIGHTS = """
    SELECT right_name || ' on ' || string_agg(table_name, ', ') AS text
    FROM unnest(%(tables)s, %(rights)s) AS needed (table_name, right_name)
    WHERE NOT has_table_privilege(table_name, right_name) GROUP BY right_name ORDER BY 1"""

# The tables whose rows are shared by trials, each with the query and the insert for one row.
_SHARED_TABLES = {
    "framework": (
        "SELECT id FROM framework WHERE name = %(name)s AND version = %(version)s",
        "INSERT INTO framework (name, version) VALUES (%(name)s, %(version)s)"
        " ON CONFLICT DO NOTHING",
    ),
    "network": (
        "SELECT id FROM network WHERE hash = %(hash)s AND name = %(name)s",
        "INSERT INTO network (name, hash, prototxt) VALUES (%(name)s, %(hash)s, %(prototxt)s)"
        " ON CONFLICT DO NOTHING",
    ),
    "dataset": (
        "SELECT id FROM dataset WHERE name = %(name)s"
        " AND shape IS NOT DISTINCT FROM %(shape)s::integer[]"
        " AND train_samples IS NOT DISTINCT FROM %(train_samples)s"
        " AND test_samples IS NOT DISTINCT FROM %(test_samples)s",
        "INSERT INTO dataset (name, shape, train_samples, test_samples)"
        " VALUES (%(name)s, %(shape)s::integer[], %(train_samples)s, %(test_samples)s)"
        " ON CONFLICT DO NOTHING",
    ),
    "task": (
        "SELECT id FROM task WHERE classes = %(classes)s",
        "INSERT INTO task (classes) VALUES (%(classes)s) ON CONFLICT DO NOTHING",
    ),
    "policy": (
        "SELECT id FROM policy WHERE md5(text) = md5(%(text)s) AND text = %(text)s",
        "INSERT INTO policy (text, function, parameters, n_params)"
        " VALUES (%(text)s, %(function)s, %(parameters)s, %(n_params)s) ON CONFLICT DO NOTHING",
    ),
}

_BEGIN = """
    INSERT INTO trial (id, framework_id, network_id, dataset_id, task_id, policy_id, solver, seed,
                       host, attempt, resumed_at, blas, threads, started_at)
    VALUES (%(id)s, %(framework)s, %(network)s, %(dataset)s, %(task)s, %(policy)s, %(solver)s,
            %(seed)s, %(host)s, %(attempt)s, %(resumed_at)s, %(blas)s, %(threads)s,
            to_timestamp(%(started)s))
    ON CONFLICT (id) DO UPDATE SET
        attempt = excluded.attempt, resumed_at = excluded.resumed_at, host = excluded.host,
        blas = excluded.blas, threads = excluded.threads, state = 'running', ended_at = NULL,
        error = NULL, best_iteration = NULL, best_top1 = NULL
        WHERE excluded.attempt > trial.attempt"""

# Read behind _BEGIN, which waits for a transaction that deletes the trial at this moment.
_IS_DELETED = "SELECT FROM deleted_trial WHERE id = %(id)s"
_DELETED_OF = " FROM deleted_trial WHERE id = ANY (%(ids)s::uuid[])"

# A new attempt trains again what lies after its snapshot, so the earlier rows from there are void.
_DELETE_ROWS_AFTER_SNAPSHOT = (
    "DELETE FROM evaluation WHERE trial_id = %(id)s AND iteration > COALESCE(%(resumed_at)s, -1)"
)


def _array_type(column: str) -> str:
    """The type of a column's array of values; unnest() would flatten an array of arrays."""
    return "text" if sql_type(column) in ("real[]", "jsonb") else sql_type(column)


_ADD = """
    INSERT INTO evaluation (trial_id, {columns})
    SELECT %(trial)s, {values} FROM unnest({arrays}) AS new ({columns})
    WHERE NOT EXISTS (SELECT FROM trial WHERE id = %(trial)s AND attempt > %(attempt)s
                      AND new.iteration > COALESCE(trial.resumed_at, -1))
    ON CONFLICT (trial_id, iteration) DO NOTHING""".format(
    columns=COLUMN_LIST,
    values=", ".join("%s::%s" % (column, sql_type(column)) for column in EVALUATION_COLUMNS),
    arrays=", ".join(
        "%%(%s)s::%s[]" % (column, _array_type(column)) for column in EVALUATION_COLUMNS
    ),
)

_END = """
    UPDATE trial SET state = %(state)s, ended_at = to_timestamp(%(ended)s), error = %(error)s,
        (best_iteration, best_top1) = (
            SELECT iteration, top1 FROM evaluation WHERE trial_id = %(id)s AND top1 IS NOT NULL
            ORDER BY top1 DESC, iteration LIMIT 1)
    WHERE id = %(id)s AND attempt <= %(attempt)s"""

_FILTER_NAMES = (
    "id",
    "ids",
    "network",
    "dataset",
    "policy",
    "function",
    "state",
    "study",
    "origin",
)

_FILTER = (
    """(%(id)s IS NULL OR trial.id = %(id)s)
      AND (%(ids)s IS NULL OR trial.id = ANY (%(ids)s::uuid[]))
      AND (%(network)s IS NULL OR """
    + NETWORK_MATCHES
    + """)
      AND (%(dataset)s IS NULL OR """
    + DATASET_MATCHES
    + """)
      AND (%(policy)s IS NULL OR policy.text = %(policy)s)
      AND (%(function)s IS NULL OR policy.function = %(function)s)
      AND (%(state)s IS NULL OR trial.state = %(state)s)
      AND (%(study)s IS NULL OR trial.id IN (
          SELECT trial_id FROM study_trial JOIN study ON study.id = study_id
          WHERE study.name = %(study)s))
      AND (%(origin)s IS NULL OR """
    + ORIGIN_MATCHES
    + ")"
)

_TRIAL_IDS = (
    """
    SELECT trial.id FROM trial JOIN policy ON policy.id = policy_id
    JOIN network ON network.id = network_id JOIN dataset ON dataset.id = dataset_id
    WHERE """
    + _FILTER
)

# The JSON is read as text: thousands of trials have the same solver settings.
_TRIAL_COLUMNS = """
    trial.id::text, policy.text AS policy, function, parameters::text, n_params,
    framework.name AS framework, version, network_id, dataset.name AS dataset, shape,
    train_samples, test_samples, classes, solver::text, seed, host, blas, threads, state, error,
    attempt, trial.resumed_at, origin.name AS origin,
    extract(epoch FROM started_at)::double precision AS started,
    extract(epoch FROM ended_at)::double precision AS ended"""

_TRIAL_TABLES = """
    FROM trial
    JOIN policy ON policy.id = policy_id JOIN network ON network.id = network_id
    JOIN dataset ON dataset.id = dataset_id JOIN framework ON framework.id = framework_id
    LEFT JOIN task ON task.id = task_id LEFT JOIN origin ON origin.id = origin_id"""

_WHERE = (
    " WHERE "
    + _FILTER
    + """
    ORDER BY started_at, trial.id"""
)

_TRIALS = "SELECT" + _TRIAL_COLUMNS + _TRIAL_TABLES + _WHERE

# What a ranking needs of a trial's rows: the best one, without the values of classes and heads,
# and the Top-1 of the last one.
_RANKED_COLUMNS = tuple(
    column for column in EVALUATION_COLUMNS if column not in ("class_confidence", "heads")
)
_FINAL_COLUMNS = ("iteration", "lr", "top1", "measured_on", "other_sets")
_RESULTS = "SELECT%s, %s, %s%s%s%s" % (
    _TRIAL_COLUMNS,
    ", ".join("best.%s AS best_%s" % (column, column) for column in _RANKED_COLUMNS),
    ", ".join("final.%s AS final_%s" % (column, column) for column in _FINAL_COLUMNS),
    _TRIAL_TABLES,
    # LIMIT makes this an index lookup for each trial, however many rows the table has.
    """
    LEFT JOIN LATERAL (
        SELECT * FROM evaluation WHERE trial_id = trial.id AND iteration = COALESCE(
            trial.best_iteration,  -- set when the trial ends
            (SELECT iteration FROM evaluation WHERE trial_id = trial.id AND top1 IS NOT NULL
             ORDER BY top1 DESC, iteration LIMIT 1)) LIMIT 1) AS best ON true
    LEFT JOIN LATERAL (
        SELECT * FROM evaluation WHERE trial_id = trial.id AND top1 IS NOT NULL
        ORDER BY iteration DESC LIMIT 1) AS final ON true""",
    _WHERE,
)

_NETWORKS = "SELECT id, name, hash, prototxt FROM network WHERE id = ANY (%s)"
_FETCHED = 2000  # result lines at a time, so that the trials and not the lines take the memory

_ROWS = (
    """
    SELECT trial_id::text, %s FROM evaluation
    WHERE trial_id = ANY (%%s::uuid[]) ORDER BY trial_id, iteration"""
    % COLUMN_LIST
)

# The best row and the last one with a Top-1. Without a Top-1, the last row.
_BEST_ROWS = (
    """
    SELECT trial_id::text, %s FROM (
        SELECT trial.id, COALESCE(
                   best_iteration,
                   (SELECT iteration FROM evaluation WHERE trial_id = trial.id AND top1 IS NOT NULL
                    ORDER BY top1 DESC, iteration LIMIT 1)) AS best,
               (SELECT iteration FROM evaluation WHERE trial_id = trial.id
                ORDER BY top1 IS NULL, iteration DESC LIMIT 1) AS last
        FROM trial WHERE trial.id = ANY (%%s::uuid[])
        OFFSET 0) AS chosen  -- OFFSET 0: they are computed once for each trial
    JOIN evaluation ON trial_id = chosen.id AND iteration IN (best, last)
    ORDER BY trial_id, iteration"""
    % COLUMN_LIST
)


class Store:
    """The trials of one database; a context manager that closes the connection.

    All methods raise InputError if the database rejects a value, which is decided by the SQLSTATE:
    classes 22 and 23. They raise DatabaseUnavailable if the connection is lost and cannot be opened
    again, and ChangeRefused, which is a DatabaseUnavailable, if the database refuses this change
    for another reason, such as a right that the user lacks. The next call tries again.

    Args:
        dsn: The connection string of the database. Without it, ``LRBENCH_DSN`` names the
            database. Without either, the private server is used, and started on demand.
        read_only: Ask the database to refuse all changes.
        on_note: Called with each message about journals that wait for this database (None: the
            messages are logged).
        delivers: Whether to deliver these journals when the Store is opened; see
            :mod:`~lrbench_caffe.database.delivery`.
        lock_timeout: The seconds after which a call that waits for a lock raises
            DatabaseUnavailable (None: it waits until it has the lock).

    Attributes:
        where: The database's name for messages, without its password.
        identity: The database's own UUID, which it keeps whatever its address is.

    Raises:
        InputError: The database cannot be used.

    Example:
        >>> with Store() as store:
        ...     store.begin(trial)
        ...     store.add(trial.id, *trial.rows)
        ...     store.end(trial.id, "finished", time.time())
    """

    def __init__(
        self,
        dsn: str | None = None,
        read_only: bool = False,
        on_note: Callable[[str], None] | None = None,
        delivers: bool = True,
        lock_timeout: float | None = None,
    ) -> None:
        self._dsn = dsn or os.environ.get("LRBENCH_DSN")
        self._read_only, self._lock_timeout = read_only, lock_timeout
        connection = connect(self._dsn, read_only, lock_timeout)
        self._connection: Connection | None = connection
        self.where = display_name(connection.get_dsn_parameters())
        try:
            self.identity = identity(connection, self.where)
        except InputError:
            connection.close()
            raise
        if delivers:
            with contextlib.suppress(DatabaseUnavailable):  # the next call raises it again
                delivery.deliver_waiting(self, on_note or delivery.log_note)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; a later call opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def begin(self, trial: Trial) -> None:
        """Record that a trial begins, or begins again as a later attempt.

        The trial's own rows and end are not recorded here, but by :meth:`add` and :meth:`end`.

        Args:
            trial: The trial. If the database has a later attempt at it, nothing changes.

        Raises:
            TrialDeleted: The trial was deleted, and :meth:`restore` was not called.
        """
        setup = trial.setup
        shape = setup.dataset.shape
        shared: dict[str, dict[str, Any] | None] = {
            "framework": vars(setup.framework),
            "network": vars(setup.network),
            "dataset": dict(vars(setup.dataset), shape=None if shape is None else list(shape)),
            "task": None if setup.classes is None else {"classes": setup.classes},
            "policy": {
                "text": trial.policy,
                "function": trial.function,
                "parameters": Json(trial.parameters),
                "n_params": trial.n_params,
            },
        }
        values = {
            "id": trial.id,
            "solver": Json(setup.solver),
            "seed": setup.seed,
            "host": trial.host,
            "blas": trial.blas,
            "threads": trial.threads,
            "started": trial.started,
            "attempt": trial.attempt,
            "resumed_at": trial.resumed_at,
        }

        def insert(cursor: Any) -> None:
            ids = {
                table: content and _shared_row_id(cursor, table, content)
                for table, content in shared.items()
            }
            cursor.execute(_BEGIN, dict(values, **ids))
            if not cursor.rowcount:  # this attempt has begun before
                return
            cursor.execute(_IS_DELETED, values)
            if cursor.rowcount:
                raise TrialDeleted(
                    "the trial %s was deleted from the database %s, so its rows are not recorded "
                    "again: remove its journal, or bring the trial back with `lrbench db deliver "
                    "JOURNAL`" % (trial.id, self.where)
                )
            if trial.attempt > 1:
                cursor.execute(_DELETE_ROWS_AFTER_SNAPSHOT, values)

        self.transaction(insert)

    def add(self, trial_id: str, *rows: Evaluation, attempt: int = 1) -> None:
        """Record rows of a trial, visible to other connections at once.

        A row that is already there, by its iteration, is kept as it is. A row is ignored if a
        later attempt has begun and trains its iteration again.

        Args:
            trial_id: The trial's id.
            *rows: The evaluations. Metrics that are NaN or infinite are stored as NULL.
            attempt: The attempt that measured them.

        Raises:
            TrialMissing: The database does not have the trial.
        """
        values: dict[str, object] = {
            column: [_adapted(getattr(row, column)) for row in rows]
            for column in EVALUATION_COLUMNS
        }
        values.update(trial=trial_id, attempt=attempt)
        self.transaction(lambda cursor: cursor.execute(_ADD, values))

    def end(
        self, trial_id: str, state: str, ended: float, error: str | None = None, attempt: int = 1
    ) -> None:
        """Record how a trial ended, and which of its rows is the best.

        The end of an attempt is ignored if a later attempt has begun.

        Args:
            trial_id: The trial's id.
            state: One of :data:`lrbench_caffe.trial.STATES`.
            ended: When it ended, in seconds since the epoch.
            error: Why a failed, diverged or pruned trial ended. It may be any text of a log:
                what PostgreSQL cannot store is left out or replaced.
            attempt: The attempt that ended.

        Raises:
            TrialMissing: The database does not have the trial.
        """
        text = error and error.replace("\0", "").encode("utf-8", "replace").decode()
        values = {
            "id": trial_id,
            "state": state,
            "ended": ended,
            "error": text,
            "attempt": attempt,
        }

        def update(cursor: Any) -> None:
            cursor.execute(_END, values)
            if cursor.rowcount:
                return
            cursor.execute("SELECT FROM trial WHERE id = %s", [trial_id])
            if cursor.rowcount == 0:
                raise self._missing("trial " + trial_id)

        self.transaction(update)

    def restore(self, trial_ids: Iterable[str]) -> None:
        """Allow trials that were deleted to be recorded again.

        Args:
            trial_ids: The ids of the trials, deleted or not.
        """
        ids = {"ids": list(trial_ids)}
        if self.select("SELECT" + _DELETED_OF, ids):  # only an owner may delete
            self.transaction(lambda cursor: cursor.execute("DELETE" + _DELETED_OF, ids))

    def trial(self, trial_id: str) -> Trial:
        """Return the trial with this id, with all its rows.

        Raises:
            TrialMissing: The database does not have the trial.
        """
        trials = self.transaction(lambda cursor: _read_trials(cursor, _ROWS, {"id": trial_id}))
        if not trials:
            raise self._missing("trial " + trial_id)
        return trials[0]

    def trials(
        self,
        network: str | None = None,
        dataset: str | None = None,
        policy: str | None = None,
        function: str | None = None,
        state: str | None = None,
        study: str | None = None,
        best_only: bool = False,
        origin: str | None = None,
    ) -> list[Trial]:
        """Return the trials that match all the given filters, in the order in which they started.

        Args:
            network: The network's name, its hash, or NAME@HASH with the first digits of the hash.
            dataset: The dataset's name, or NAME@SHAPE/TRAIN/TEST, which selects one of several
                datasets with this name.
            policy: The policy's canonical text.
            function: The name of the policy's function.
            state: One of :data:`lrbench_caffe.trial.STATES`.
            study: The name of the study that the trials belong to.
            best_only: Read only the rows that a ranking needs: each trial's best and last row.
                Thousands of trials with all their rows take gigabytes.
            origin: Where the trials were trained: the name or the UUID of the database that they
                were imported from, or :data:`LOCAL` for those that were trained here.
        """
        filters = {
            "network": network,
            "dataset": dataset,
            "policy": policy,
            "function": function,
            "state": state,
            "study": study,
            "origin": origin,
        }
        query = _BEST_ROWS if best_only else _ROWS
        return self.transaction(lambda cursor: _read_trials(cursor, query, filters))

    def results(self, **filters: str | None) -> list[Trial]:
        """Return trials with what a ranking needs: their best and last row, in the same order.

        Fifty thousand trials take a second or two. A best row is without the confidences of the
        classes and the metrics of other heads. A last row, which a trial has if it is not the best,
        has only its Top-1. A trial without a Top-1 has no row.

        Args:
            **filters: The filters of :meth:`trials`.
        """
        return self.transaction(lambda cursor: _read_results(cursor, filters))

    def outcomes(self, metrics: Collection[str], **filters: str | None) -> list[Trial]:
        """Return trials with what decides about their ranks, in the order in which they started.

        This takes half the time of :meth:`results`. The trials have only what
        :func:`lrbench_caffe.database.outcomes.read` returns.

        Args:
            metrics: The metrics that they are ranked by.
            **filters: The filters of :meth:`trials`.
        """
        filtered = any(value is not None for value in filters.values())
        where = "WHERE trial.id IN (%s)" % _TRIAL_IDS if filtered else ""
        query = outcomes.query(metrics, where)

        def read(cursor: Any) -> list[Trial]:
            cursor.execute("SET LOCAL work_mem = '64MB'")
            with cursor.connection.cursor() as lines, cursor.connection.cursor() as second:
                lines.execute(query, _filter_values(filters))
                return outcomes.read(lines, second)

        return self.transaction(read)

    def results_of(self, trial_ids: Iterable[str]) -> dict[str, Trial]:
        """Return trials as :meth:`results` does, by their ids."""
        ids = list(trial_ids)
        trials = self.transaction(lambda cursor: _read_results(cursor, {"ids": ids}))
        return {trial.id: trial for trial in trials}

    def rows(self, trial_ids: Iterable[str]) -> dict[str, tuple[Evaluation, ...]]:
        """Return the rows of these trials by the trial's id; a trial without rows is left out."""
        ids = list(trial_ids)
        return self.transaction(lambda cursor: _read_rows(cursor, _ROWS, ids))

    def is_running(self, trial_id: str) -> bool:
        """Return whether the database has the trial, in the state running."""
        query = "SELECT FROM trial WHERE id = %s AND state = 'running'"
        return bool(self.select(query, [trial_id]))

    def writing_problem(self) -> str | None:
        """Return why no trial can be recorded over this connection, None if nothing is missing.

        Raises:
            DatabaseUnavailable: The connection is lost and cannot be opened again.
        """
        if self._read_only:
            return "this command only reads; `lrbench db deliver` delivers them"
        (server,) = self.select(
            "SELECT pg_is_in_recovery() AS standby, current_user AS user_name,"
            " current_setting('transaction_read_only') = 'on' AS read_only"
        )
        if server.standby:
            return "the server is a standby, which accepts no changes"
        if server.read_only:
            return "its transactions only read (default_transaction_read_only is on)"
        pairs = [(table, right) for table, rights in NEEDED_RIGHTS.items() for right in rights]
        tables, rights = zip(*pairs)
        lines = self.select(_MISSING_RIGHTS, {"tables": list(tables), "rights": list(rights)})
        if not lines:
            return None
        missing = "; ".join(line.text for line in lines)
        return "the user %s lacks rights (%s)" % (server.user_name, missing)

    def require_writing(self) -> None:
        """Check that trials can be recorded.

        Raises:
            CannotConnect: The user or the server cannot write.
            DatabaseUnavailable: The connection is lost and cannot be opened again.
        """
        problem = self.writing_problem()
        if problem:
            raise CannotConnect(
                "the database %s cannot record trainings: %s: name a server and a user that may "
                "write with --dsn or LRBENCH_DSN" % (self.where, problem)
            )

    def select(self, query: str, values: object = None) -> list[Any]:
        """Run a query in a transaction and return its result as a list of named tuples."""

        def fetch(cursor: Any) -> list[Any]:
            cursor.execute(query, values)
            lines: list[Any] = cursor.fetchall()
            return lines

        return self.transaction(fetch)

    def transaction(self, work: Callable[[Any], T]) -> T:
        """Run ``work(cursor)`` in one transaction and return its result.

        If the connection turns out to be lost, the whole transaction runs once more on a new
        connection. The commit may have succeeded before the connection was lost, so ``work`` has
        to be repeatable without harm.

        Args:
            work: Called with a cursor whose result lines are named tuples.

        Raises:
            InputError: The database rejects a value.
            DatabaseUnavailable: The connection is lost and cannot be opened again.
        """
        if self._connection is not None:
            with contextlib.suppress(DatabaseUnavailable):  # the server may have been restarted
                return self._run(self._connection, work)
        try:
            connection = self._connect_again()
        except InputError as error:
            raise DatabaseUnavailable(str(error)) from error
        return self._run(connection, work)

    def _run(self, connection: Connection, work: Callable[[Any], T]) -> T:
        """Run ``work(cursor)`` in one transaction, with psycopg2's errors as the program's own."""
        try:
            with watched(connection), connection, connection.cursor(
                cursor_factory=NamedTupleCursor
            ) as cursor:
                return work(cursor)
        except psycopg2.Error as error:
            if _is_missing_trial(error):
                raise self._missing("trial of a row: %s" % error.diag.message_detail) from error
            if _is_about_a_value(error):
                raise self._rejection(error) from error
            self.close()  # a new connection may have other rights, or lead to another server
            raise self._unavailable(error) from error
        except InputError:
            raise
        except ValueError as error:  # text that PostgreSQL cannot store, such as a NUL character
            raise InputError(
                "the database %s cannot hold a value: %s" % (self.where, error)
            ) from error

    @contextlib.contextmanager
    def single_transaction(self) -> Iterator[Any]:
        """Yield a cursor in one transaction that is too large to be repeated by itself.

        Raises:
            InputError: The database rejects a value, or the connection is lost. In both cases
                nothing has been changed.
        """
        with self._open_connection() as connection, connection.cursor() as cursor:
            yield cursor

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Yield the connection in a transaction that reads the database as of its beginning.

        Raises:
            InputError: The connection is lost.
        """
        with self._open_connection() as connection:
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            yield connection

    @contextlib.contextmanager
    def _open_connection(self) -> Iterator[Connection]:
        """The connection in a transaction that is not repeated when the connection is lost."""
        try:
            connection = self._connection or self._connect_again()
            with watched(connection), connection:
                yield connection
        except psycopg2.Error as error:
            if _is_about_a_value(error):
                raise self._rejection(error) from None
            self.close()
            raise InputError("%s; nothing was changed" % self._problem(error)) from None

    def _connect_again(self) -> Connection:
        """Open a new connection to the same database."""
        connection = connect(self._dsn, self._read_only, self._lock_timeout)
        try:
            new_identity = identity(connection, self.where)
            if new_identity != self.identity:
                raise InputError(
                    "the database %s is not the one that it was before: its UUID was %s and is %s"
                    % (self.where, self.identity, new_identity)
                )
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _problem(self, error: psycopg2.Error) -> str:
        if error.pgcode in _LACKING_RIGHTS:
            text = "the database %s does not allow this user to do that: %s"
        elif error.pgcode is None:
            text = "the database %s does not answer: %s"
        else:
            text = "the database %s reports an error: %s"
        return text % (self.where, reason(error))

    def _rejection(self, error: psycopg2.Error) -> InputError:
        return InputError("the database %s rejects a value: %s" % (self.where, reason(error)))

    def _unavailable(self, error: psycopg2.Error) -> DatabaseUnavailable:
        if error.pgcode is None or error.pgcode.startswith(_DATABASE_ERRORS):
            return DatabaseUnavailable(self._problem(error))
        return ChangeRefused(self._problem(error))

    def _missing(self, what: str) -> TrialMissing:
        return TrialMissing("the database %s does not have the %s" % (self.where, what))


def _is_about_a_value(error: psycopg2.Error) -> bool:
    """Whether the database will never accept the value.

    A row that is referred to may be missing because another program has just deleted it.
    """
    code = error.pgcode or ""
    return code.startswith(_VALUE_ERRORS) and code != _MISSING_REFERENCE


def _is_missing_trial(error: psycopg2.Error) -> bool:
    return error.pgcode == _MISSING_REFERENCE and error.diag.table_name == "evaluation"


def trial_ids_query(filters: dict[str, str | None]) -> tuple[str, dict[str, str | None]]:
    """Return a query for the ids of the trials that match filters.

    Args:
        filters: Filters as for :meth:`Store.trials`, by their names.

    Returns:
        The query and its values.
    """
    return _TRIAL_IDS, _filter_values(filters)


def _filter_values(filters: Mapping[str, Any]) -> dict[str, Any]:
    return {**dict.fromkeys(_FILTER_NAMES), **filters}


def _shared_row_id(cursor: Any, table: str, content: dict[str, Any]) -> int:
    """The id of the row with this content in a shared table; the row is inserted if missing.

    The row is looked up first because an insert that conflicts uses up an id. It is looked up
    again because another writer may have inserted it meanwhile. All writers go through the tables
    in the same order, so they may wait for each other but never in a circle.
    """
    query, insert = _SHARED_TABLES[table]
    cursor.execute(query, content)
    if cursor.rowcount == 0:
        cursor.execute(insert, content)
        cursor.execute(query, content)
    row_id: int = cursor.fetchone().id
    return row_id


def _adapted(
    value: float | str | tuple[float | None, ...] | dict[str, Any] | None,
) -> float | str | None:
    """A value of a row as it is sent to PostgreSQL: an array and an object as their text."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, tuple):
        items = (_finite(item) for item in value)
        return "{%s}" % ",".join("NULL" if item is None else repr(item) for item in items)
    return _finite(value)


def _finite(value: float | None) -> float | None:
    """The metric, or None where it is NaN or infinite."""
    return float(value) if value is not None and math.isfinite(value) else None


def _read_trials(cursor: Any, rows_query: str, filters: dict[str, str | None]) -> list[Trial]:
    """The trials that match filters: a query for them, one for their networks, one for rows."""
    cursor.execute(_TRIALS, _filter_values(filters))
    lines = cursor.fetchall()
    rows = _read_rows(cursor, rows_query, [line.id for line in lines])
    return _TrialReader(cursor).trials(lines, lambda line: rows.get(line.id, ()))


def _read_results(cursor: Any, filters: Mapping[str, Any]) -> list[Trial]:
    """The trials that match filters, each with what is ranked of its best and its last row."""
    cursor.execute("SET LOCAL work_mem = '64MB'")  # sorts fifty thousand trials in memory
    cursor.execute(_RESULTS, _filter_values(filters))
    trials: list[Trial] = []
    with cursor.connection.cursor(cursor_factory=NamedTupleCursor) as second_cursor:
        reader = _TrialReader(second_cursor)
        for lines in iter(lambda: cursor.fetchmany(_FETCHED), []):
            trials += reader.trials(lines, _ranked_rows)
    return trials


def _read_rows(
    cursor: Any, rows_query: str, trial_ids: list[str]
) -> dict[str, tuple[Evaluation, ...]]:
    """The rows of these trials by the trial's id, read by _ROWS or _BEST_ROWS."""
    cursor.execute(rows_query, [trial_ids])
    return {
        trial_id: tuple(_evaluation(line) for line in lines)
        for trial_id, lines in groupby(cursor, lambda line: line[0])
    }


def _evaluation(line: tuple[Any, ...]) -> Evaluation:
    """The Evaluation in a result line of _ROWS, which begins with the trial's id."""
    values: list[Any] = [tuple(value) if isinstance(value, list) else value for value in line[1:]]
    return Evaluation(*values)


def _ranked_rows(line: Any) -> tuple[Evaluation, ...]:
    """The best and the last row in a result line of _RESULTS, which ends with their columns."""
    if line.best_iteration is None:
        return ()
    start, end = -len(_RANKED_COLUMNS) - len(_FINAL_COLUMNS), -len(_FINAL_COLUMNS)
    best = Evaluation(**dict(zip(_RANKED_COLUMNS, line[start:end])))
    if line.final_iteration == line.best_iteration:
        return (best,)
    return best, Evaluation(**dict(zip(_FINAL_COLUMNS, line[end:])))


class _TrialReader:
    """Makes trials of result lines; equal setups and parameters are one value, made once."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor
        self._networks: dict[int, Network] = {}
        self._setups: dict[tuple[Any, ...], Setup] = {}
        self._objects: dict[str, dict[str, Any]] = {}

    def trials(
        self, lines: list[Any], rows: Callable[[Any], tuple[Evaluation, ...]]
    ) -> list[Trial]:
        """The trials in result lines that begin with _TRIAL_COLUMNS; rows gives a line's rows."""
        new = {line.network_id for line in lines} - set(self._networks)
        if new:
            self._cursor.execute(_NETWORKS, [list(new)])
            for line in self._cursor.fetchall():
                self._networks[line.id] = Network(line.name, line.hash, line.prototxt)
        return [self._trial(line, rows(line)) for line in lines]

    def _trial(self, line: Any, rows: tuple[Evaluation, ...]) -> Trial:
        return Trial(
            id=line.id,
            policy=line.policy,
            function=line.function,
            parameters=self._object(line.parameters),
            n_params=line.n_params,
            setup=self._setup(line),
            host=line.host,
            started=line.started,
            blas=line.blas,
            threads=line.threads,
            state=line.state,
            ended=line.ended,
            error=line.error,
            rows=rows,
            attempt=line.attempt,
            resumed_at=line.resumed_at,
            origin=line.origin,
        )

    def _object(self, text: str) -> dict[str, Any]:
        content = self._objects.get(text)
        if content is None:
            content = self._objects[text] = json.loads(text)
        return content

    def _setup(self, line: Any) -> Setup:
        shape = None if line.shape is None else tuple(line.shape)
        dataset = line.dataset, shape, line.train_samples, line.test_samples
        framework = line.framework, line.version
        key = (framework, line.network_id, dataset, line.classes, line.solver, line.seed)
        setup = self._setups.get(key)
        if setup is None:
            setup = self._setups[key] = Setup(
                framework=Framework(*framework),
                network=self._networks[line.network_id],
                dataset=Dataset(*dataset),
                classes=line.classes,
                solver=self._object(line.solver),
                seed=line.seed,
            )
        return setup
