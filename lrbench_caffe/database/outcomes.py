"""The outcomes of trials: what decides about their ranks, of tens of thousands of trials at once.

A ranking compares all trials, and shows the first policies. So it reads little of each trial here,
and later all of those that it shows, by :meth:`lrbench_caffe.database.Store.results_of`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from lrbench_caffe.database.columns import EVALUATION_COLUMNS
from lrbench_caffe.trial import Dataset, Evaluation, Framework, Network, Setup, Trial

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

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
    FROM trial
    -- LIMIT makes this an index lookup for each trial, however many rows the table has.
    LEFT JOIN LATERAL (
        SELECT * FROM evaluation WHERE trial_id = trial.id AND iteration = COALESCE(
            trial.best_iteration,  -- set when the trial ends
            (SELECT iteration FROM evaluation WHERE trial_id = trial.id AND top1 IS NOT NULL
             ORDER BY top1 DESC, iteration LIMIT 1)) LIMIT 1) AS best ON true
    {where}
    ORDER BY started_at, trial.id"""
_SETUP, _ROW = 5, 11  # where the columns of the setup and of the best row begin
_FETCHED = 2000  # result lines at a time, so that the trials and not the lines take the memory

# What trials share, by the tables: their columns, and their place in a result line.
_SHARED = {
    "policy": ("text, function, n_params", 1),
    "origin": ("name", 2),
    "framework": ("name, version", 6),
    "network": ("name, hash, prototxt", 7),
    "dataset": ("name, shape, train_samples, test_samples", 8),
    "task": ("classes", 9),
}


def query(metrics: Collection[str], where: str) -> str:
    """Return the query for :func:`read`.

    Args:
        metrics: The metrics that trials are ranked by.
        where: The clause that selects trials, or "".
    """
    columns = (
        "best." + name if name in _ALWAYS or name in metrics else "NULL"
        for name in EVALUATION_COLUMNS
    )
    return _QUERY.format(columns=", ".join(columns), where=where)


def read(cursor: Any, second: Any) -> list[Trial]:
    """Read the result of a query.

    Args:
        cursor: A cursor that has executed :func:`query`.
        second: Another cursor, for what trials share.

    Returns:
        The trials, each with what is ranked of its best row. They are without parameters, host, end
        and error.
    """
    reader = _Reader(second)
    trials: list[Trial] = []
    for lines in iter(lambda: cursor.fetchmany(_FETCHED), []):
        trials += reader.trials(lines)
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
