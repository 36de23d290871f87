"""The reader: the trials of the database as values.

Each function reads in a transaction of the caller.
"""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any, Callable, Iterator, Mapping

from psycopg2.extras import NamedTupleCursor

from lrbench_caffe.database.columns import COLUMN_LIST, EVALUATION_COLUMNS
from lrbench_caffe.database.names import DATASET_MATCHES, NETWORK_MATCHES, ORIGIN_MATCHES
from lrbench_caffe.trial import Dataset, Evaluation, Framework, Network, Setup, Trial

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

# LIMIT makes this an index lookup for each trial, however many rows the table has.
BEST_ROW = """
    LEFT JOIN LATERAL (
        SELECT * FROM evaluation WHERE trial_id = trial.id AND iteration = COALESCE(
            trial.best_iteration,  -- set when the trial ends
            (SELECT iteration FROM evaluation WHERE trial_id = trial.id AND top1 IS NOT NULL
             ORDER BY top1 DESC, iteration LIMIT 1)) LIMIT 1) AS best ON true"""

# What a ranking needs of a trial's rows: the best one, without the values of classes and heads,
# and the Top-1 of the last one.
_RANKED_COLUMNS = tuple(
    column for column in EVALUATION_COLUMNS if column not in ("class_confidence", "heads")
)
_FINAL_COLUMNS = ("iteration", "lr", "top1", "measured_on", "other_sets")
_RESULTS = "SELECT%s, %s, %s%s%s%s%s" % (
    _TRIAL_COLUMNS,
    ", ".join("best.%s AS best_%s" % (column, column) for column in _RANKED_COLUMNS),
    ", ".join("final.%s AS final_%s" % (column, column) for column in _FINAL_COLUMNS),
    _TRIAL_TABLES,
    BEST_ROW,
    """
    LEFT JOIN LATERAL (
        SELECT * FROM evaluation WHERE trial_id = trial.id AND top1 IS NOT NULL
        ORDER BY iteration DESC LIMIT 1) AS final ON true""",
    _WHERE,
)

_NETWORKS = "SELECT id, name, hash, prototxt FROM network WHERE id = ANY (%s)"
_FETCHED = 2000  # result lines at a time, so that the trials and not the lines take the memory
MORE_MEMORY = "SET LOCAL work_mem = '64MB'"  # sorts fifty thousand trials in memory

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


def portions(cursor: Any) -> Iterator[list[Any]]:
    """Yield the result lines of a cursor, some thousand at a time."""
    return iter(lambda: cursor.fetchmany(_FETCHED), [])


def trial_ids_query(
    filters: Mapping[str, str | None],
) -> tuple[str, dict[str, str | None]]:
    """Return a query for the ids of the trials that match filters.

    Args:
        filters: Filters as for :meth:`Store.trials`, by their names.

    Returns:
        The query and its values.
    """
    return _TRIAL_IDS, _filter_values(filters)


def _filter_values(filters: Mapping[str, Any]) -> dict[str, Any]:
    return {**dict.fromkeys(_FILTER_NAMES), **filters}


def read_trials(
    cursor: Any, filters: dict[str, str | None], best_only: bool = False
) -> list[Trial]:
    """Read trials: a query for them, one for their networks, one for their rows.

    Args:
        cursor: A cursor whose result lines are named tuples.
        filters: Filters as for :meth:`Store.trials`, by their names, or ``id``.
        best_only: Whether to read only the best and the last row of each trial.
    """
    cursor.execute(_TRIALS, _filter_values(filters))
    lines = cursor.fetchall()
    rows = read_rows(cursor, [line.id for line in lines], best_only)
    return _TrialReader(cursor).trials(lines, lambda line: rows.get(line.id, ()))


def read_results(cursor: Any, filters: Mapping[str, Any]) -> list[Trial]:
    """Read trials, each with what is ranked of its best and its last row.

    Args:
        cursor: A cursor whose result lines are named tuples.
        filters: Filters as for :meth:`Store.trials`, by their names.
    """
    cursor.execute(MORE_MEMORY)
    cursor.execute(_RESULTS, _filter_values(filters))
    trials: list[Trial] = []
    with cursor.connection.cursor(cursor_factory=NamedTupleCursor) as second_cursor:
        reader = _TrialReader(second_cursor)
        for lines in portions(cursor):
            trials += reader.trials(lines, _ranked_rows)
    return trials


def read_rows(
    cursor: Any, trial_ids: list[str], best_only: bool = False
) -> dict[str, tuple[Evaluation, ...]]:
    """Read the rows of trials by the trial's id; a trial without rows is left out.

    Args:
        cursor: A cursor.
        trial_ids: The ids of the trials.
        best_only: Whether to read only the best and the last row of each trial.
    """
    cursor.execute(_BEST_ROWS if best_only else _ROWS, [trial_ids])
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
