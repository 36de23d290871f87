"""Export and import: trials are moved between databases as JSON Lines.

:mod:`lrbench_caffe.database.export_format` describes the file.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from itertools import groupby
from typing import IO, TYPE_CHECKING, Any, Callable, Iterator, NamedTuple, Optional

from psycopg2.extras import NamedTupleCursor

from lrbench_caffe import files
from lrbench_caffe.database import incoming, merging, selection
from lrbench_caffe.database.columns import COLUMN_LIST, EVALUATION_COLUMNS, exported_row
from lrbench_caffe.database.export_format import SHARED_FIELDS, VERSION
from lrbench_caffe.database.reader import trial_ids_query
from lrbench_caffe.database.store import Store
from lrbench_caffe.errors import InputError

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

Progress = Callable[[str, int, Optional[int]], None]

NUMBERS_PER_LINE = 20000  # of rows, so that the lines are short enough for any number of classes
_TRIALS_PER_BATCH = 500

# Named as TRIAL_FIELDS, in their order.
_TRIALS = """
    SELECT trial.id::text AS id,
           COALESCE(origin_id, (SELECT id FROM origin WHERE here)) AS origin,
           framework_id AS framework, network_id AS network, dataset_id AS dataset,
           policy_id AS policy, task.classes, solver, seed, host, attempt, trial.resumed_at, blas,
           threads, state, extract(epoch FROM started_at)::float8 AS started,
           -- The clocks of the machines that started and ended a trial may differ.
           extract(epoch FROM CASE WHEN ended_at < started_at THEN started_at ELSE ended_at END)
               ::float8 AS ended, error
    FROM trial LEFT JOIN task ON task.id = task_id
    WHERE trial.id IN (%s) ORDER BY started_at, trial.id"""

_SHARED = {
    kind: "SELECT %s FROM %s WHERE id = %%s" % (", ".join(fields), kind)
    for kind, fields in SHARED_FIELDS.items()
}

_ROWS = (
    """
    SELECT trial_id::text, %s FROM evaluation
    WHERE trial_id = ANY (%%s::uuid[]) ORDER BY trial_id, iteration"""
    % COLUMN_LIST
)


class Imported(NamedTuple):
    """The result of an import.

    Attributes:
        trials: How many trials the file has.
        new: How many of them were new to the database.
        updated: How many of them were brought up to date.
    """

    trials: int
    new: int
    updated: int


def export_trials(
    path: str,
    dsn: str | None,
    filters: dict[str, str | None],
    name: str | None = None,
    progress: Progress | None = None,
) -> int:
    """Export trials to a file, all as of the same moment.

    Args:
        path: The file. It is replaced only when the export is complete; see
            :func:`lrbench_caffe.files.open_output`.
        dsn: The database, as for :class:`~lrbench_caffe.database.store.Store`.
        filters: The filters of :meth:`~lrbench_caffe.database.store.Store.trials` by their names.
        name: The origin that others read for the trials that were trained here; the database's
            own name by default.
        progress: Called with what is done, how many trials have been exported, and None.

    Returns:
        How many trials were exported.

    Raises:
        InputError: No trial matches the filters, the file cannot be written, or the database
            cannot be used.
        BrokenPipeError: The path is a pipe whose reader has closed it.
    """
    with Store(dsn, read_only=True) as store:
        selection.check(store, filters)
        with store.snapshot() as connection, files.reported_errors(
            path, "export"
        ), files.open_output(path) as file:
            return _export(file, connection, filters, name, progress or _ignore)


def import_trials(
    path: str,
    dsn: str | None,
    progress: Progress | None = None,
    restore: bool = False,
    on_note: Callable[[str], None] | None = None,
) -> Imported:
    """Import the trials of an export, in one transaction.

    A trial that the database already has stays as it is, unless it was still running when it was
    imported, and the file is of the same origin. A file cannot add or change trials whose origin,
    according to the file, is this database.

    Args:
        path: The export.
        dsn: The database, as for :class:`~lrbench_caffe.database.store.Store`.
        progress: Called with what is done, how much of it, and the total: first with bytes of the
            file, then with the number of its trials and None.
        restore: Add trials of this database that it has lost: the file is a backup of one's own.
        on_note: Called with a message if trials that are here differ in the file.

    Raises:
        InputError: The file cannot be read or is not a valid export, or the database cannot be
            used. Nothing has been imported.
    """
    report = progress or _ignore
    try:
        with open(path, "rb") as file, Store(dsn) as store, store.single_transaction() as cursor:
            size = os.fstat(file.fileno()).st_size
            reading = "importing %s" % os.path.basename(path)
            staging = merging.Staging(cursor)
            lines = incoming.read(file, lambda position: report(reading, position, size))
            for kind, line, content in lines:
                staging.add(kind, line, content)
            staging.finish()
            report("merging trials", staging.trials, None)
            new, updated, different = merging.merge(cursor, path, restore)
    except OSError as error:
        raise InputError(
            "%s cannot be read (%s): name a file that `lrbench db export` has written"
            % (path, error.strerror)
        ) from None
    if different and on_note is not None:
        differ = "1 trial differs" if different == 1 else "%d trials differ" % different
        on_note("%s from the file: the database keeps its own version" % differ)
    return Imported(staging.trials, new, updated)


def _ignore(activity: str, done: int, total: int | None) -> None:
    """Report no progress."""


def _export(
    file: IO[bytes],
    connection: Connection,
    filters: dict[str, str | None],
    name: str | None,
    progress: Progress,
) -> int:
    """Write the whole export; return how many trials it has."""
    writer = _Writer(file)
    made = datetime.datetime.utcnow().strftime("%Y-%m-%dT%H:%M:%SZ")
    writer.write("lrbench", {"version": VERSION, "made": made})
    exported = 0
    ids_query, values = trial_ids_query(filters)
    with connection.cursor() as cursor, connection.cursor(
        "trials", cursor_factory=NamedTupleCursor
    ) as trials:
        shared = _SharedLines(writer, cursor, name)
        trials.execute(_TRIALS % ids_query, values)
        for batch in _batches(trials):
            rows = _read_rows(cursor, [trial.id for trial in batch])
            for trial in batch:
                references = {
                    kind: shared.number(kind, getattr(trial, kind)) for kind in SHARED_FIELDS
                }
                writer.write("trial", dict(trial._asdict(), **references))
                _write_rows(writer, rows.get(trial.id, []), trial.classes or 0)
            exported += len(batch)
            progress("exporting trials", exported, None)
    writer.write("end", {"trials": exported, "sha256": writer.checksum.hexdigest()})
    return exported


class _Writer:
    """Writes the lines of an export and keeps their checksum."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.checksum = hashlib.sha256()

    def write(self, kind: str, content: object) -> None:
        text = json.dumps({kind: content}, ensure_ascii=False, separators=(",", ":"))
        line = (text + "\n").encode()
        self._file.write(line)
        self.checksum.update(line)


class _SharedLines:
    """The lines that trials share: each is written once, before the first trial that needs it."""

    def __init__(self, writer: _Writer, cursor: Any, name: str | None) -> None:
        self._writer = writer
        self._cursor = cursor
        self._name = name
        self._numbers: dict[str, dict[int, int]] = {kind: {} for kind in _SHARED}
        cursor.execute("SELECT id FROM origin WHERE here")
        (self._here,) = cursor.fetchone()

    def number(self, kind: str, row_id: int) -> int:
        """The number in the file of a row, by its id in the database."""
        numbers = self._numbers[kind]
        if row_id not in numbers:
            self._cursor.execute(_SHARED[kind], [row_id])
            content = dict(zip(SHARED_FIELDS[kind], self._cursor.fetchone()))
            if kind == "origin" and row_id == self._here and self._name:
                content["name"] = self._name
            self._writer.write(kind, content)
            numbers[row_id] = len(numbers) + 1
        return numbers[row_id]


def _batches(cursor: Any) -> Iterator[list[Any]]:
    """The result of a query, some lines at a time."""
    return iter(lambda: cursor.fetchmany(_TRIALS_PER_BATCH), [])


def _read_rows(cursor: Any, trial_ids: list[str]) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of these trials by the trial's id, each a tuple in EVALUATION_COLUMNS' order."""
    cursor.execute(_ROWS, [trial_ids])
    return {
        trial_id: [line[1:] for line in lines]
        for trial_id, lines in groupby(cursor, lambda line: line[0])
    }


def _write_rows(writer: _Writer, rows: list[tuple[Any, ...]], classes: int) -> None:
    """Write a trial's rows in lines of at most NUMBERS_PER_LINE numbers."""
    size = max(1, NUMBERS_PER_LINE // (len(EVALUATION_COLUMNS) + classes))
    for start in range(0, len(rows), size):
        writer.write("rows", [exported_row(row) for row in rows[start : start + size]])
