"""The columns of the table ``evaluation``, listed once.

The columns are the fields of :class:`lrbench_caffe.trial.Evaluation` in their order. The store,
the export and the import build their statements from this list. The table itself has one more
column, ``trial_id``. ``schema.sql`` is written by hand; a test compares it with this list.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from lrbench_caffe.trial import Evaluation

if TYPE_CHECKING:
    from collections.abc import Sequence

EVALUATION_COLUMNS = tuple(field.name for field in dataclasses.fields(Evaluation))
COLUMN_LIST = ", ".join(EVALUATION_COLUMNS)

_SQL_TYPES = {
    "iteration": "integer",
    "resumed_at": "integer",
    "class_confidence": "real[]",
    "heads": "jsonb",
}


def sql_type(column: str) -> str:
    """Return the SQL type that holds the values of an evaluation column."""
    return _SQL_TYPES.get(column, "float8")


def exported_row(row: Sequence[Any]) -> Sequence[Any]:
    """Return a row as an export holds it: without the heads if the net has only one."""
    return row[:-1] if row[-1] is None else row


def imported_row(row: list[Any]) -> list[Any]:
    """Return a row of an export with a value for every column."""
    return [*row, None] if len(row) == len(EVALUATION_COLUMNS) - 1 else row
