"""Merges the checked lines of an export into the database.

The lines are first copied into temporary tables (``new_...``), by COPY, some megabytes at a time.
Then they are merged with the tables of the database by their content, in a few statements.
"""

from __future__ import annotations

import io
import json
from typing import Any, Iterable

from lrbench_caffe.database.columns import (
    COLUMN_LIST,
    EVALUATION_COLUMNS,
    imported_row,
    sql_type,
)
from lrbench_caffe.database.export_format import SHARED_KINDS, TRIAL_FIELDS
from lrbench_caffe.database.incoming import line_error
from lrbench_caffe.trial import RUNNING

COPY_BATCH_CHARACTERS = 8 << 20  # of COPY data that wait in memory

_ITERATION, _TOP1 = EVALUATION_COLUMNS.index("iteration"), EVALUATION_COLUMNS.index("top1")

_CREATE_STAGING_TABLES = """
    CREATE TEMP TABLE new_origin (key integer, database uuid, name text) ON COMMIT DROP;
    CREATE TEMP TABLE new_framework (key integer, name text, version text) ON COMMIT DROP;
    CREATE TEMP TABLE new_network (key integer, name text, hash text, prototxt text)
        ON COMMIT DROP;
    CREATE TEMP TABLE new_dataset (key integer, name text, shape integer[], train_samples bigint,
        test_samples bigint) ON COMMIT DROP;
    CREATE TEMP TABLE new_policy (key integer, text text, function text, parameters jsonb,
        n_params integer) ON COMMIT DROP;
    CREATE TEMP TABLE new_trial (line integer, id uuid, origin integer, framework integer,
        network integer, dataset integer, policy integer, classes integer, solver jsonb,
        seed bigint, host text, attempt integer, resumed_at integer, blas text, threads integer,
        state text, started float8, ended float8, error text, best_iteration integer,
        best_top1 float8) ON COMMIT DROP;
    CREATE TEMP TABLE new_row (trial_id uuid, %s) ON COMMIT DROP""" % ", ".join(
    "%s %s" % (column, sql_type(column)) for column in EVALUATION_COLUMNS
)

_ANALYZE_STAGING_TABLES = "ANALYZE new_trial; ANALYZE new_row; ANALYZE new_policy"

# Insert the shared rows that are missing. All writers go through the tables in the same order.
_INSERT_SHARED_ROWS = """
    INSERT INTO origin (database, name)
        SELECT DISTINCT ON (database) database, name FROM new_origin ORDER BY database
        ON CONFLICT (database) DO NOTHING;
    INSERT INTO framework (name, version)
        SELECT DISTINCT name, version FROM new_framework ORDER BY 1, 2 ON CONFLICT DO NOTHING;
    INSERT INTO network (name, hash, prototxt)
        SELECT DISTINCT name, hash, prototxt FROM new_network ORDER BY 2, 1 ON CONFLICT DO NOTHING;
    INSERT INTO dataset (name, shape, train_samples, test_samples)
        SELECT DISTINCT name, shape, train_samples, test_samples FROM new_dataset
        ORDER BY 1, 2, 3, 4 ON CONFLICT DO NOTHING;
    INSERT INTO task (classes)
        SELECT DISTINCT classes FROM new_trial WHERE classes IS NOT NULL ORDER BY 1
        ON CONFLICT DO NOTHING;
    INSERT INTO policy (text, function, parameters, n_params)
        SELECT DISTINCT ON (text) text, function, parameters, n_params FROM new_policy ORDER BY text
        ON CONFLICT DO NOTHING"""

# The ids of the shared rows by the number of their line, in small tables of which PostgreSQL's
# planner has statistics. One join of everything would take much longer.
_RESOLVE_TRIALS = """
    CREATE TEMP TABLE origin_ids ON COMMIT DROP AS
        SELECT key, CASE WHEN here THEN NULL ELSE id END AS id
        FROM new_origin JOIN origin USING (database);
    CREATE TEMP TABLE framework_ids ON COMMIT DROP AS
        SELECT key, id FROM new_framework JOIN framework USING (name, version);
    CREATE TEMP TABLE network_ids ON COMMIT DROP AS
        SELECT key, id FROM new_network JOIN network USING (hash, name);
    CREATE TEMP TABLE dataset_ids ON COMMIT DROP AS
        SELECT key, id FROM new_dataset n JOIN dataset d
            ON d.name = n.name AND d.shape IS NOT DISTINCT FROM n.shape
            AND d.train_samples IS NOT DISTINCT FROM n.train_samples
            AND d.test_samples IS NOT DISTINCT FROM n.test_samples;
    CREATE TEMP TABLE policy_ids ON COMMIT DROP AS
        SELECT key, id FROM new_policy JOIN policy USING (text);
    ANALYZE origin_ids; ANALYZE framework_ids; ANALYZE network_ids; ANALYZE dataset_ids;
    ANALYZE policy_ids;
    CREATE TEMP TABLE merged ON COMMIT DROP AS
        SELECT new_trial.*, o.id AS origin_id, f.id AS framework_id, n.id AS network_id,
               d.id AS dataset_id, task.id AS task_id, p.id AS policy_id
        FROM new_trial
        JOIN origin_ids o ON o.key = origin JOIN framework_ids f ON f.key = framework
        JOIN network_ids n ON n.key = network JOIN dataset_ids d ON d.key = dataset
        JOIN policy_ids p ON p.key = policy
        LEFT JOIN task ON task.classes = new_trial.classes;
    ANALYZE merged"""

# The origin of trials that were trained here is NULL.
_CLAIMED_TRIAL = """
    SELECT line, merged.id::text FROM merged LEFT JOIN trial USING (id)
    WHERE merged.origin_id IS NULL AND (trial.id IS NULL OR trial.origin_id IS NOT NULL)
    ORDER BY line LIMIT 1"""

_DUPLICATE_TRIAL = """
    SELECT max(line), id::text FROM new_trial GROUP BY id HAVING count(*) > 1 ORDER BY 1 LIMIT 1"""

_OF_ANOTHER_SETUP = """
    (trial.policy_id <> merged.policy_id OR trial.network_id <> merged.network_id
     OR trial.dataset_id <> merged.dataset_id OR trial.seed <> merged.seed)"""

# Only a new attempt of a trial that did not finish may have another net or seed.
_CONFLICTING_TRIAL = (
    """
    SELECT line, merged.id::text FROM merged JOIN trial USING (id)
    WHERE (trial.attempt = merged.attempt OR merged.origin_id IS DISTINCT FROM trial.origin_id
           OR (merged.attempt > trial.attempt
               AND trial.state NOT IN ('running', 'interrupted', 'failed')))
        AND """
    + _OF_ANOTHER_SETUP
    + " ORDER BY line LIMIT 1"
)

# Whether a row of a trial that is here is missing in the file, or has other values there. Rows
# after the snapshot from which a later attempt resumed are void.
_CONTRADICTED_ROW = """
    SELECT FROM evaluation e WHERE e.trial_id = trial.id
        AND (merged.attempt = trial.attempt OR e.iteration <= COALESCE(merged.resumed_at, -1))
        AND NOT EXISTS (SELECT FROM new_row n WHERE n.trial_id = e.trial_id
            AND n.iteration = e.iteration AND (%s) IS NOT DISTINCT FROM (%s))""" % (
    ", ".join("n." + column for column in EVALUATION_COLUMNS),
    ", ".join("e." + column for column in EVALUATION_COLUMNS),
)

# An imported trial that had not finished at its import is replaced if a file of the same origin
# has more of it, and has what is here unchanged. One that had failed needs a new attempt.
_DELETE_OUTDATED_TRIALS = (
    """
    DELETE FROM trial USING merged
    WHERE trial.id = merged.id AND trial.origin_id = merged.origin_id
        AND (trial.state = 'running' AND merged.attempt >= trial.attempt
             OR trial.state IN ('failed', 'interrupted') AND merged.attempt > trial.attempt)
        AND to_timestamp(merged.started) = trial.started_at
        AND (merged.state <> 'running' OR merged.attempt > trial.attempt
             OR (SELECT max(iteration) FROM new_row WHERE trial_id = trial.id) > COALESCE(
                 (SELECT max(iteration) FROM evaluation WHERE trial_id = trial.id), -1))
        AND NOT EXISTS ("""
    + _CONTRADICTED_ROW
    + ")"
)

# Trials that are here and differ in the file, which changes nothing.
_DIFFERENT_TRIALS = """
    SELECT count(*) FROM (
        SELECT merged.id FROM merged JOIN trial USING (id)
        WHERE merged.origin_id IS DISTINCT FROM trial.origin_id OR %s
        UNION
        SELECT trial.id FROM merged JOIN trial USING (id) JOIN new_row n ON n.trial_id = trial.id
        JOIN evaluation e ON e.trial_id = n.trial_id AND e.iteration = n.iteration
        WHERE merged.attempt = trial.attempt AND (%s) IS DISTINCT FROM (%s)) AS different""" % (
    _OF_ANOTHER_SETUP,
    ", ".join("n." + column for column in EVALUATION_COLUMNS),
    ", ".join("e." + column for column in EVALUATION_COLUMNS),
)

_RESTORE = "DELETE FROM deleted_trial USING merged WHERE deleted_trial.id = merged.id"
_ARE_KNOWN_TRIALS = "SELECT EXISTS (SELECT FROM merged JOIN trial USING (id))"
_INDEX_ROWS = "CREATE INDEX ON new_row (trial_id, iteration)"

_INSERT_TRIALS = """
    DELETE FROM merged USING trial WHERE trial.id = merged.id;
    INSERT INTO trial (id, framework_id, network_id, dataset_id, task_id, policy_id, solver, seed,
                       host, attempt, resumed_at, blas, threads, state, started_at, ended_at,
                       best_iteration, best_top1, error, origin_id)
    SELECT id, framework_id, network_id, dataset_id, task_id, policy_id, solver, seed, host,
           attempt, resumed_at, blas, threads, state, to_timestamp(started), to_timestamp(ended),
           best_iteration, best_top1, error, origin_id FROM merged"""

_INSERT_ROWS = (
    """
    INSERT INTO evaluation (trial_id, %s)
    SELECT new_row.* FROM new_row WHERE trial_id IN (SELECT id FROM merged)"""
    % COLUMN_LIST
)


class Staging:
    """The temporary tables with the lines of an export.

    Args:
        cursor: A cursor in the transaction of the import.

    Attributes:
        trials: How many trials have been added.
    """

    def __init__(self, cursor: Any) -> None:
        self.trials = 0
        self._cursor = cursor
        self._waiting = {kind: io.StringIO() for kind in (*SHARED_KINDS, "trial", "row")}
        self._counts = dict.fromkeys(SHARED_KINDS, 0)
        self._trial: dict[str, Any] | None = None  # the last trial, which may get more rows
        self._best: list[Any] | None = None  # its row with the highest Top-1, the earliest on a tie
        cursor.execute(_CREATE_STAGING_TABLES)

    def add(self, kind: str, line: int, content: Any) -> None:
        """Add a checked line, as :func:`lrbench_caffe.database.incoming.read` yields it."""
        if kind == "rows":
            self._add_rows(content)
        elif kind == "trial":
            self._write_trial()
            self._trial, self._best = dict(content, line=line), None
            self.trials += 1
        else:
            self._counts[kind] += 1
            self._waiting[kind].write(_copy_line([self._counts[kind], *content.values()]))
        waiting = sum(self._waiting[table].tell() for table in ("row", "trial", "policy"))
        if waiting > COPY_BATCH_CHARACTERS:
            self._copy()

    def finish(self) -> None:
        """Copy all that is still in memory."""
        self._write_trial()
        self._copy()

    def _add_rows(self, rows: list[list[Any]]) -> None:
        assert self._trial is not None, "rows follow their trial"
        trial_id, waiting = self._trial["id"], self._waiting["row"]
        for row in rows:
            waiting.write(trial_id + "\t" + _copy_line(imported_row(row)))
            top1 = row[_TOP1]
            if top1 is not None and (self._best is None or top1 > self._best[_TOP1]):
                self._best = row

    def _write_trial(self) -> None:
        """Write the last trial, now that all its rows have been added."""
        if self._trial is None:
            return
        values = [self._trial["line"], *(self._trial[name] for name in TRIAL_FIELDS)]
        if self._best is None or self._trial["state"] == RUNNING:
            values += [None, None]
        else:
            values += [self._best[_ITERATION], self._best[_TOP1]]
        self._waiting["trial"].write(_copy_line(values))
        self._trial = None

    def _copy(self) -> None:
        for kind, waiting in self._waiting.items():
            if waiting.tell():
                waiting.seek(0)
                self._cursor.copy_expert("COPY new_%s FROM STDIN" % kind, waiting)
                waiting.seek(0)
                waiting.truncate()


def merge(cursor: Any, path: str, restore: bool = False) -> tuple[int, int, int]:
    """Merge the staged trials into the database.

    Nothing that is here is changed, except trials that had not finished when they were imported.

    Args:
        cursor: The cursor of the :class:`Staging`.
        path: The export, for messages.
        restore: Whether trials that were trained here, as the file says, are added if they are
            missing. The origin of a file cannot be verified, so this is for own backups.

    Returns:
        How many trials are new, how many were brought up to date, and how many of the others
        differ in the file.

    Raises:
        InputError: A trial is in the file twice, contradicts the database, or claims to have been
            trained here.
    """
    cursor.execute(_ANALYZE_STAGING_TABLES)
    cursor.execute(_DUPLICATE_TRIAL)
    for line, trial_id in cursor.fetchall():
        raise line_error(path, line, "the trial %s is in the file twice" % trial_id)
    cursor.execute(_INSERT_SHARED_ROWS)
    cursor.execute(_RESOLVE_TRIALS)
    cursor.execute(_CONFLICTING_TRIAL)
    for line, trial_id in cursor.fetchall():
        raise line_error(
            path,
            line,
            "the database already has a trial %s, with another policy, task or seed" % trial_id,
        )
    if restore:
        cursor.execute(_RESTORE)
    else:
        cursor.execute(_CLAIMED_TRIAL)
        for line, trial_id in cursor.fetchall():
            raise line_error(
                path,
                line,
                "the trial %s is not one that was trained here, but its origin is this database: "
                "if the file is a backup of this database, add --restore" % trial_id,
            )
    updated = different = 0
    cursor.execute(_ARE_KNOWN_TRIALS)
    if cursor.fetchone()[0]:
        cursor.execute(_INDEX_ROWS)
        cursor.execute(_DELETE_OUTDATED_TRIALS)
        updated = cursor.rowcount
        cursor.execute(_DIFFERENT_TRIALS)
        (different,) = cursor.fetchone()
    cursor.execute(_INSERT_TRIALS)
    inserted = cursor.rowcount
    cursor.execute(_INSERT_ROWS)
    return inserted - updated, updated, different


_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def _copy_line(values: Iterable[Any]) -> str:
    """A line of COPY's text format."""
    texts = [
        "\\N" if value is None else repr(value) if type(value) is float else _copy_text(value)
        for value in values
    ]
    return "\t".join(texts) + "\n"


def _copy_text(value: object) -> str:
    if type(value) is int:
        return str(value)
    if isinstance(value, str):
        return value.translate(_ESCAPES)
    if isinstance(value, list):
        return "{%s}" % ",".join("NULL" if item is None else repr(item) for item in value)
    return json.dumps(value).translate(_ESCAPES)
