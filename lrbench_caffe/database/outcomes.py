"""The outcomes of trials: what decides about their ranks, of tens of thousands of trials at once.

A ranking compares all trials, and shows the first policies. So it reads little of each trial here,
and later all of those that it shows, by :meth:`lrbench_caffe.database.Store.results_of`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from lrbench_caffe.database import reader
from lrbench_caffe.database.columns import EVALUATION_COLUMNS
from lrbench_caffe.trial import Dataset, Evaluation, Framework, Network, Setup, Trial

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

# What is always read of a trial's best row: by it, policies with equal means are put in order, and
# the sets are named on which numbers are chosen and reported. A metric is read if the ranking is by
# it.
_ALWAYS = ("iteration", "lr", "top1", "top5", "test_loss", "measured_on", "other_sets")

# Thousands of trials have the same solver. It is sent where it differs from the trial before.
_QUERY = """
    SELECT trial.id::text, policy_id, origin_id, state,
           extract(epoch FROM started_at)::double precision,
           seed, framework_id, network_id, dataset_id, task_id,
           CASE WHEN solver = lag(solver) OVER (ORDER BY started_at, trial.id) THEN NULL
                ELSE solver::text END, {columns}
    FROM trial {best_row}
    {where}
    ORDER BY started_at, trial.id"""
_SETUP, _ROW = 5, 11  # where the columns of the setup and of the best row begin

# What trials share, by the tables: their columns, and their place in a result line.
_SHARED = {
    "policy": ("text, function, n_params", 1),
    "origin": ("name", 2),
    "framework": ("name, version", 6),
    "network": ("name, hash, prototxt", 7),
    "dataset": ("name, shape, train_samples, test_samples", 8),
    "task": ("classes", 9),
}


def read(cursor: Any, metrics: Collection[str], filters: Mapping[str, str | None]) -> list[Trial]:
    """Read trials, each with what is ranked of its best row.

    Args:
        cursor: A cursor.
        metrics: The metrics that trials are ranked by.
        filters: Filters as for :meth:`lrbench_caffe.database.Store.trials`, by their names.

    Returns:
        The trials, without parameters, host, end and error.
    """
    columns = (
        "best." + name if name in _ALWAYS or name in metrics else "NULL"
        for name in EVALUATION_COLUMNS
    )
    ids, values = reader.trial_ids_query(filters)
    is_filtered = any(value is not None for value in filters.values())
    query = _QUERY.format(
        columns=", ".join(columns),
        best_row=reader.BEST_ROW,
        where="WHERE trial.id IN (%s)" % ids if is_filtered else "",
    )
    cursor.execute(reader.MORE_MEMORY)
    trials: list[Trial] = []
    with cursor.connection.cursor() as lines_cursor, cursor.connection.cursor() as second_cursor:
        lines_cursor.execute(query, values)
        outcomes = _Reader(second_cursor)
        for lines in reader.portions(lines_cursor):
            trials += outcomes.trials(lines)
    return trials


class _Reader:
    """Makes trials of result lines; what they share is read and made once."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor
        self._shared: dict[str, dict[int | None, Any]] = {table: {None: None} for table in _SHARED}
        self._setups: dict[Sequence[Any], Setup] = {}
        self._solver = ""  # of the line before

    def trials(self, lines: list[tuple[Any, ...]]) -> list[Trial]:
        """Return the trials in result lines."""
        for table, (names, place) in _SHARED.items():
            known = self._shared[table]
            new = {line[place] for line in lines} - set(known)
            if new:
                statement = "SELECT id, %s FROM %s WHERE id = ANY (%%s)" % (names, table)
                self._cursor.execute(statement, [list(new)])
                known.update((row[0], row[1:]) for row in self._cursor)
        return [self._trial(line) for line in lines]

    def _trial(self, line: tuple[Any, ...]) -> Trial:
        id, policy_id, origin_id, state, started = line[:_SETUP]
        policy, function, n_params = self._shared["policy"][policy_id]
        origin = self._shared["origin"][origin_id]
        return Trial(
            id,
            policy,
            function,
            {},
            n_params,
            self._setup(*line[_SETUP:_ROW]),
            "",
            started,
            state=state,
            rows=() if line[_ROW] is None else (Evaluation(*line[_ROW:]),),
            origin=origin and origin[0],
        )

    def _setup(
        self, seed: int, framework: int, network: int, dataset: int, task: int, solver: str | None
    ) -> Setup:
        if solver is not None:
            self._solver = solver
        key = (seed, framework, network, dataset, task, self._solver)
        setup = self._setups.get(key)
        if setup is None:
            setup = self._setups[key] = self._made_setup(*key)
        return setup

    def _made_setup(
        self, seed: int, framework: int, network: int, dataset: int, task: int, solver: str
    ) -> Setup:
        shared = self._shared
        name, shape, train_samples, test_samples = shared["dataset"][dataset]
        classes = shared["task"][task]
        return Setup(
            framework=Framework(*shared["framework"][framework]),
            network=Network(*shared["network"][network]),
            dataset=Dataset(name, shape and tuple(shape), train_samples, test_samples),
            classes=classes and classes[0],
            solver=json.loads(solver),
            seed=seed,
        )
