"""Trials on their way between databases: JSON Lines, a text file with a JSON object in each line.

Every line is an object with one key, which says what it is:

    {"lrbench": {"version": 1, "made": "2026-01-31T12:00:00Z"}}     the first line
    {"origin": {"database": UUID, "name": ...}}                     a database that trials were trained into
    {"framework": {"name": ..., "version": ...}}
    {"network": {"name": ..., "hash": SHA-256 of prototxt, "prototxt": ...}}
    {"dataset": {"name": ..., "shape": [1, 28, 28], "train_samples": ..., "test_samples": ...}}
    {"policy": {"text": ..., "function": ..., "parameters": {...}, "n_params": ...}}
    {"trial": {"id": UUID, "origin": 1, "framework": 1, "network": 1, "dataset": 1, "policy": 1, ...}}
    {"rows": [[iteration, lr, train_loss, test_loss, top1, top5, ac, cd, cdac, ld, resumed_at, class_confidence], ...]}
    {"end": {"trials": N, "sha256": of all lines before, in hex}}   the last line

A trial's numbers count the lines of that kind above it, from 1.  "rows" belong to the trial above them, in the order of their
iterations; a trial with many has several such lines.  What is unknown is null; times are seconds since the epoch.
"""

import datetime
import hashlib
import io
import json
import os
import tempfile
from typing import NamedTuple

from psycopg2.extras import NamedTupleCursor

from lrbench_caffe.database import incoming
from lrbench_caffe.database.incoming import ROW, TRIAL, VERSION
from lrbench_caffe.database.store import Store, filter_clause
from lrbench_caffe.errors import InputError

NUMBERS_A_LINE = (
    20000  # of rows, so that no line is too long for an import, however many classes there are
)
BATCH = 8 << 20  # bytes of COPY data that wait in memory


class Imported(NamedTuple):
    """What an import did: trials in the file, how many of them are new, and how many were brought up to date."""

    trials: int
    new: int
    updated: int


_TRIALS = """
    SELECT trial.id::text AS id, COALESCE(origin_id, (SELECT id FROM origin WHERE here)) AS origin, framework_id AS framework,
           network_id AS network, dataset_id AS dataset, policy_id AS policy, task.classes, solver, seed, host, attempt,
           trial.resumed_at, blas, threads, state, extract(epoch FROM started_at)::float8 AS started,
           extract(epoch FROM ended_at)::float8 AS ended, error
    FROM trial LEFT JOIN task ON task.id = task_id
    WHERE trial.id IN (%s) ORDER BY started_at, trial.id"""

_SHARED = {  # in the order in which an import may need them
    "origin": "SELECT database::text, name FROM origin WHERE id = %s",
    "framework": "SELECT name, version FROM framework WHERE id = %s",
    "network": "SELECT name, hash, prototxt FROM network WHERE id = %s",
    "dataset": "SELECT name, shape, train_samples, test_samples FROM dataset WHERE id = %s",
    "policy": "SELECT text, function, parameters, n_params FROM policy WHERE id = %s",
}

_ROWS = (
    "SELECT trial_id::text, %s FROM evaluation WHERE trial_id = ANY (%%s::uuid[]) ORDER BY trial_id, iteration"
    % ", ".join(ROW)
)


def export_trials(path, dsn, filters, name=None, progress=None):
    """Write the trials that fit filters (as of Store.trials) to a file; returns how many.

    name is what others will see as the origin of trials that were trained here.  progress is called with (what, done, total).
    Raises InputError when the file cannot be written.
    """
    folder = os.path.dirname(os.path.abspath(path))
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".lrbench-", delete=False) as file:
            try:
                with Store(dsn, read_only=True) as store, store.snapshot() as connection:
                    trials = _export(
                        _Writer(file), connection, filters, name, progress or (lambda *_: None)
                    )
            except BaseException:
                os.remove(file.name)
                raise
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(file.name, 0o666 & ~umask)
        os.replace(file.name, path)
    except OSError as error:
        raise InputError(
            "the export cannot be written to %s (%s): name another file" % (path, error.strerror)
        ) from None
    return trials


class _Writer:
    """Writes lines and knows the checksum of those that it has written."""

    def __init__(self, file):
        self._file, self.checksum = file, hashlib.sha256()

    def line(self, kind, content):
        data = (
            json.dumps({kind: content}, ensure_ascii=False, separators=(",", ":")) + "\n"
        ).encode()
        self._file.write(data)
        self.checksum.update(data)


def _export(writer, connection, filters, name, progress):
    made = datetime.datetime.utcnow().strftime("%Y-%m-%dT%H:%M:%SZ")
    writer.line("lrbench", {"version": VERSION, "made": made})
    numbers = {kind: {} for kind in _SHARED}
    done = 0
    chosen, values = filter_clause(filters)
    with connection.cursor() as cursor, connection.cursor(
        "trials", cursor_factory=NamedTupleCursor
    ) as trials:
        cursor.execute("SELECT id FROM origin WHERE here")
        (here,) = cursor.fetchone()
        trials.execute(_TRIALS % chosen, values)
        while True:
            batch = trials.fetchmany(500)
            if not batch:
                break
            cursor.execute(_ROWS, [[trial.id for trial in batch]])
            rows = {}
            for line in cursor:
                rows.setdefault(line[0], []).append(line[1:])
            for trial in batch:
                content = trial._asdict()
                for kind, query in _SHARED.items():
                    known, key = numbers[kind], content[kind]
                    if key not in known:
                        cursor.execute(query, [key])
                        shared = dict(
                            zip((column.name for column in cursor.description), cursor.fetchone())
                        )
                        if kind == "origin" and key == here and name:
                            shared["name"] = name
                        writer.line(kind, shared)
                        known[key] = len(known) + 1
                    content[kind] = known[key]
                writer.line("trial", content)
                found = rows.get(trial.id, ())
                size = max(1, NUMBERS_A_LINE // (len(ROW) + (trial.classes or 0)))
                for start in range(0, len(found), size):
                    writer.line("rows", found[start : start + size])
            done += len(batch)
            progress("exporting trials", done, None)
    writer.line("end", {"trials": done, "sha256": writer.checksum.hexdigest()})
    return done


_STAGE = """
    CREATE TEMP TABLE new_origin (key integer, database uuid, name text) ON COMMIT DROP;
    CREATE TEMP TABLE new_framework (key integer, name text, version text) ON COMMIT DROP;
    CREATE TEMP TABLE new_network (key integer, name text, hash text, prototxt text) ON COMMIT DROP;
    CREATE TEMP TABLE new_dataset (key integer, name text, shape integer[], train_samples bigint, test_samples bigint)
        ON COMMIT DROP;
    CREATE TEMP TABLE new_policy (key integer, text text, function text, parameters jsonb, n_params integer) ON COMMIT DROP;
    CREATE TEMP TABLE new_trial (line integer, id uuid, origin integer, framework integer, network integer, dataset integer,
        policy integer, classes integer, solver jsonb, seed bigint, host text, attempt integer, resumed_at integer, blas text,
        threads integer, state text, started float8, ended float8, error text, best_iteration integer, best_top1 float8)
        ON COMMIT DROP;
    CREATE TEMP TABLE new_row (trial_id uuid, iteration integer, lr float8, train_loss float8, test_loss float8, top1 float8,
        top5 float8, ac float8, cd float8, cdac float8, ld float8, resumed_at integer, class_confidence real[]) ON COMMIT DROP"""

# The shared rows by their content: made where they are missing, in the order in which all writers go through the tables.
_MERGE = """
    INSERT INTO origin (database, name) SELECT DISTINCT ON (database) database, name FROM new_origin ORDER BY database
        ON CONFLICT (database) DO NOTHING;
    INSERT INTO framework (name, version) SELECT DISTINCT name, version FROM new_framework ORDER BY 1, 2 ON CONFLICT DO NOTHING;
    INSERT INTO network (name, hash, prototxt) SELECT DISTINCT name, hash, prototxt FROM new_network ORDER BY 2, 1
        ON CONFLICT DO NOTHING;
    INSERT INTO dataset (name, shape, train_samples, test_samples)
        SELECT DISTINCT name, shape, train_samples, test_samples FROM new_dataset ORDER BY 1, 2, 3, 4 ON CONFLICT DO NOTHING;
    INSERT INTO task (classes) SELECT DISTINCT classes FROM new_trial WHERE classes IS NOT NULL ORDER BY 1 ON CONFLICT DO NOTHING;
    INSERT INTO policy (text, function, parameters, n_params)
        SELECT DISTINCT ON (text) text, function, parameters, n_params FROM new_policy ORDER BY text ON CONFLICT DO NOTHING"""

# Where the lines of each kind went: small tables, which the planner knows, in place of one join of everything.
_PLACES = """
    CREATE TEMP TABLE origin_at ON COMMIT DROP AS
        SELECT key, CASE WHEN here THEN NULL ELSE id END AS id FROM new_origin JOIN origin USING (database);
    CREATE TEMP TABLE framework_at ON COMMIT DROP AS SELECT key, id FROM new_framework JOIN framework USING (name, version);
    CREATE TEMP TABLE network_at ON COMMIT DROP AS SELECT key, id FROM new_network JOIN network USING (hash, name);
    CREATE TEMP TABLE dataset_at ON COMMIT DROP AS
        SELECT key, id FROM new_dataset n JOIN dataset d ON d.name = n.name AND d.shape IS NOT DISTINCT FROM n.shape
            AND d.train_samples IS NOT DISTINCT FROM n.train_samples AND d.test_samples IS NOT DISTINCT FROM n.test_samples;
    CREATE TEMP TABLE policy_at ON COMMIT DROP AS SELECT key, id FROM new_policy JOIN policy USING (text);
    ANALYZE origin_at; ANALYZE framework_at; ANALYZE network_at; ANALYZE dataset_at; ANALYZE policy_at;
    CREATE TEMP TABLE merged ON COMMIT DROP AS
        SELECT new_trial.*, o.id AS origin_id, f.id AS framework_id, n.id AS network_id, d.id AS dataset_id, task.id AS task_id,
               p.id AS policy_id
        FROM new_trial
        JOIN origin_at o ON o.key = origin JOIN framework_at f ON f.key = framework JOIN network_at n ON n.key = network
        JOIN dataset_at d ON d.key = dataset JOIN policy_at p ON p.key = policy
        LEFT JOIN task ON task.classes = new_trial.classes;
    ANALYZE merged"""

_TWICE = (
    "SELECT max(line), id::text FROM new_trial GROUP BY id HAVING count(*) > 1 ORDER BY 1 LIMIT 1"
)

_OTHER = """
    SELECT line, id::text FROM merged JOIN trial USING (id)
    WHERE trial.policy_id <> merged.policy_id OR trial.network_id <> merged.network_id OR trial.dataset_id <> merged.dataset_id
       OR trial.seed <> merged.seed ORDER BY line LIMIT 1"""

# A trial that still ran when it was imported, of which the file knows more.
_FORGET = """
    DELETE FROM trial USING merged WHERE trial.id = merged.id AND trial.origin_id IS NOT NULL AND trial.state = 'running'
        AND (merged.state <> 'running' OR merged.attempt > trial.attempt
             OR (SELECT max(iteration) FROM new_row WHERE trial_id = trial.id)
                > COALESCE((SELECT max(iteration) FROM evaluation WHERE trial_id = trial.id), -1))"""

_TAKE = """
    DELETE FROM merged USING trial WHERE trial.id = merged.id;
    INSERT INTO trial (id, framework_id, network_id, dataset_id, task_id, policy_id, solver, seed, host, attempt, resumed_at, blas,
                       threads, state, started_at, ended_at, best_iteration, best_top1, error, origin_id)
    SELECT id, framework_id, network_id, dataset_id, task_id, policy_id, solver, seed, host, attempt, resumed_at, blas, threads,
           state, to_timestamp(started), to_timestamp(ended), best_iteration, best_top1, error, origin_id FROM merged"""

_TAKE_ROWS = """
    INSERT INTO evaluation (trial_id, iteration, lr, train_loss, test_loss, top1, top5, ac, cd, cdac, ld, resumed_at,
                            class_confidence)
    SELECT new_row.* FROM new_row WHERE trial_id IN (SELECT id FROM merged)"""


def import_trials(path, dsn, progress=None):
    """Import the trials of an export, as one transaction; returns an Imported.

    A trial that is there already stays as it is, unless it still ran when it was imported.  Raises InputError with the number of
    the line for a file that is not right, and has changed nothing then.
    """
    report = progress or (lambda *_: None)
    try:
        with open(path, "rb") as file, Store(dsn) as store, store.unrepeated() as cursor:
            cursor.execute(_STAGE)
            staged = _Staged(cursor)
            size = os.fstat(file.fileno()).st_size
            for kind, line, content in incoming.read(file, lambda at: report("reading", at, size)):
                staged.add(kind, line, content)
            staged.flush()
            report("merging", size, size)
            cursor.execute("ANALYZE new_trial; ANALYZE new_row; ANALYZE new_policy")
            cursor.execute(_TWICE)
            for line, trial in cursor.fetchall():
                raise incoming.wrong(path, line, "the trial %s is there twice" % trial)
            cursor.execute(_MERGE)
            cursor.execute(_PLACES)
            cursor.execute(_OTHER)
            for line, trial in cursor.fetchall():
                raise incoming.wrong(
                    path,
                    line,
                    "the database has a trial %s already, of another policy, task or seed" % trial,
                )
            cursor.execute(_FORGET)
            updated = cursor.rowcount
            cursor.execute(_TAKE)
            new = cursor.rowcount
            cursor.execute(_TAKE_ROWS)
            return Imported(staged.trials, new - updated, updated)
    except OSError as error:
        raise InputError(
            "%s cannot be read (%s): name a file that `lrbench db export` has written"
            % (path, error.strerror)
        ) from None


class _Staged:
    """Checked lines on their way into the temporary tables, by COPY, some megabytes at a time."""

    def __init__(self, cursor):
        self._cursor = cursor
        self._waiting = {kind: io.StringIO() for kind in list(_SHARED) + ["trial", "row"]}
        self._counts = dict.fromkeys(_SHARED, 0)
        self._trial = self._best = None
        self.trials = 0

    def add(self, kind, line, content):
        if kind == "rows":
            id, waiting = self._trial["id"], self._waiting["row"]
            for row in content:
                waiting.write(id + "\t" + _copied(row))
                if self._best is None or row[4] > self._best[4]:
                    self._best = row
        elif kind == "trial":
            self._write_trial()
            self._trial, self._best = dict(content, line=line), None
            self.trials += 1
        else:
            self._counts[kind] += 1
            self._waiting[kind].write(_copied([self._counts[kind]] + list(content.values())))
        if (
            self._waiting["row"].tell()
            + self._waiting["trial"].tell()
            + self._waiting["policy"].tell()
            > BATCH
        ):
            self.flush(whole=False)

    def _write_trial(self):
        if self._trial is not None:
            best = self._best if self._trial["state"] != "running" and self._best else (None,) * 5
            values = (
                [self._trial["line"]] + [self._trial[name] for name in TRIAL] + [best[0], best[4]]
            )
            self._waiting["trial"].write(_copied(values))
            self._trial = None

    def flush(self, whole=True):
        """Send what waits; whole: also the last trial, whose rows are all there."""
        if whole:
            self._write_trial()
        for kind, waiting in self._waiting.items():
            if waiting.tell():
                waiting.seek(0)
                self._cursor.copy_expert("COPY new_%s FROM STDIN" % kind, waiting)
                waiting.seek(0)
                waiting.truncate()


_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def _copied(values):
    """A line of COPY's text format."""
    return (
        "\t".join(
            [
                "\\N"
                if value is None
                else repr(value)
                if type(value) is float
                else str(value)
                if type(value) is int
                else _text(value)
                for value in values
            ]
        )
        + "\n"
    )


def _text(value):
    if isinstance(value, str):
        return value.translate(_ESCAPES)
    if isinstance(value, list):
        return "{%s}" % ",".join("NULL" if item is None else repr(item) for item in value)
    return json.dumps(value).translate(_ESCAPES)
