"""The origins of trials: this database, and those that trials were imported from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from lrbench_caffe.errors import InputError, abbreviated

if TYPE_CHECKING:
    from lrbench_caffe.database.store import Store

_SUMMARIES = """
    SELECT database::text AS uuid, name, here, count(trial.id) AS trials
    FROM origin LEFT JOIN trial
        ON origin.id = COALESCE(trial.origin_id, (SELECT id FROM origin WHERE here))
    GROUP BY origin.id ORDER BY here DESC, name, uuid"""

_WITH_NAME = """
    SELECT database::text AS uuid FROM origin
    WHERE NOT here AND name = %s AND EXISTS (SELECT FROM trial WHERE origin_id = origin.id)
    ORDER BY id"""

_DELETE_UNUSED = """
    DELETE FROM origin
    WHERE NOT here AND NOT EXISTS (SELECT FROM trial WHERE origin_id = origin.id)"""


class OriginSummary(NamedTuple):
    """An origin in a list of origins.

    Attributes:
        uuid: The UUID of the database.
        name: Its name; several databases can have the same one.
        here: Whether it is this database.
        trials: The number of trials here that were trained there.
    """

    uuid: str
    name: str
    here: bool
    trials: int


def summaries(store: Store) -> list[OriginSummary]:
    """Return a summary of each origin, this database first."""
    return [OriginSummary(*line) for line in store.select(_SUMMARIES)]


def check_unambiguous(store: Store, origin: str) -> None:
    """Check that a name stands for one database, because an import can claim any name.

    Args:
        store: The database.
        origin: The name or the UUID of the database that trials were imported from.

    Raises:
        InputError: Several origins have the name.
    """
    uuids = [line.uuid for line in store.select(_WITH_NAME, [origin])]
    if len(uuids) > 1:
        raise InputError(
            "%d origins have the name %s: give the UUID of one of them, %s"
            % (len(uuids), abbreviated(origin), " or ".join(uuids))
        )


def delete_unused(cursor: Any) -> None:
    """Delete, within a transaction, the imported origins that have no trials."""
    cursor.execute(_DELETE_UNUSED)
