"""The writer: how a trial enters the database.

Every method is one transaction, and every transaction may be repeated without harm:

- ``begin`` leaves a trial alone that is already there, unless it is a later attempt;
- ``add`` leaves a row alone that is already there;
- ``end`` writes the same end again.

So a journal can be delivered twice, and a lost connection costs only a second try.

A trial that was cut off is resumed from its last snapshot as another attempt. Rows that the
earlier attempt measured after that snapshot are deleted, and those that are delivered later are
ignored, whatever the order in which the journals of the two attempts arrive.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Iterable

from psycopg2.extras import Json

from lrbench_caffe.database.columns import COLUMN_LIST, EVALUATION_COLUMNS, sql_type
from lrbench_caffe.database.session import Session
from lrbench_caffe.errors import CannotConnect, TrialDeleted

if TYPE_CHECKING:
    from lrbench_caffe.trial import Evaluation, Trial

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

# A new attempt from the beginning may have another solver, net or seed.
_SETUP = ("framework_id", "network_id", "dataset_id", "task_id", "policy_id", "solver", "seed")
_NEW_SETUP = ", ".join(
    "%s = CASE WHEN excluded.resumed_at IS NULL THEN excluded.%s ELSE trial.%s END"
    % (column, column, column)
    for column in _SETUP
)

_BEGIN = (
    """
    INSERT INTO trial (id, framework_id, network_id, dataset_id, task_id, policy_id, solver, seed,
                       host, attempt, resumed_at, blas, threads, started_at)
    VALUES (%(id)s, %(framework)s, %(network)s, %(dataset)s, %(task)s, %(policy)s, %(solver)s,
            %(seed)s, %(host)s, %(attempt)s, %(resumed_at)s, %(blas)s, %(threads)s,
            to_timestamp(%(started)s))
    ON CONFLICT (id) DO UPDATE SET
        attempt = excluded.attempt, resumed_at = excluded.resumed_at, host = excluded.host,
        blas = excluded.blas, threads = excluded.threads, state = 'running', ended_at = NULL,
        error = NULL, best_iteration = NULL, best_top1 = NULL,
        """
    + _NEW_SETUP
    + """
        WHERE excluded.attempt > trial.attempt"""
)

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


class Writer(Session):
    """A session that records trials. Arguments, attributes and errors are those of Session."""

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
