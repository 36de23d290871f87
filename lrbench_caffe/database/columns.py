"""The columns of the table ``evaluation``, listed once.

The columns are the fields of :class:`lrbench_caffe.trial.Evaluation` in their order. The store,
the export and the import build their statements from this list. The table itself has one more
column, ``trial_id``. ``schema.sql`` is written by hand; a test compares it with this list.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from lrbench_caffe.trial import TEST_SET, Evaluation

if TYPE_CHECKING:
    from collections.abc import Sequence

EVALUATION_COLUMNS = tuple(field.name for field in dataclasses.fields(Evaluation))
COLUMN_LIST = ", ".join(EVALUATION_COLUMNS)

_SQL_TYPES = {
    "iteration": "integer",
    "resumed_at": "integer",
    "class_confidence": "real[]",
    "heads": "jsonb",
    "measured_on": "text",
    "other_sets": "jsonb",
}
# The last columns of an export, which are left out from the end while they have these values.
_TAIL = (("heads", None), ("measured_on", TEST_SET), ("other_sets", None))
TAIL_VALUES = tuple(value for _, value in _TAIL)
WIDTH_WITHOUT_TAIL = len(EVALUATION_COLUMNS) - len(_TAIL)
assert EVALUATION_COLUMNS[WIDTH_WITHOUT_TAIL:] == tuple(name for name, _ in _TAIL)


def sql_type(column: str) -> str:
    """Return the SQL type that holds the values of an evaluation column."""
    return _SQL_TYPES.get(column, "float8")


def exported_row(row: Sequence[Any]) -> Sequence[Any]:
    """Return a row as an export holds it: without the values of the tail that are the usual ones.

    Earlier versions of the program read such a row as long as nothing of the tail is left.
    """
    width = len(row)
    while width > WIDTH_WITHOUT_TAIL and row[width - 1] == TAIL_VALUES[width - len(row) - 1]:
        width -= 1
    return row[:width]


def imported_row(row: list[Any]) -> list[Any]:
    """Return a row of an export with a value for every column."""
    return [*row, *TAIL_VALUES[len(row) - WIDTH_WITHOUT_TAIL :]]
