"""The origins of trials: this database, and those that trials were imported from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from lrbench_caffe.errors import InputError

if TYPE_CHECKING:
    from lrbench_caffe.database.store import Store

_SUMMARIES = """
    SELECT database::text AS uuid, name, here, count(trial.id) AS trials
    FROM origin LEFT JOIN trial
        ON origin.id = COALESCE(trial.origin_id, (SELECT id FROM origin WHERE here))
    GROUP BY origin.id ORDER BY here DESC, name, uuid"""

_MATCHING = """
    SELECT id, database::text AS uuid FROM origin
    WHERE NOT here AND (database::text = %(origin)s OR name = %(origin)s) ORDER BY id FOR UPDATE"""


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


def delete(store: Store, origin: str) -> int:
    """Delete an origin with all trials that were imported from it, in one transaction.

    Trials that were trained here are not affected, whatever an import says.

    Args:
        store: The database.
        origin: The name or the UUID of the database that the trials were imported from.

    Returns:
        The number of trials that were deleted.

    Raises:
        InputError: The database does not have the origin, several origins have the name, or it is
            this database.
    """

    def work(cursor: Any) -> int:
        cursor.execute(_MATCHING, {"origin": origin})
        lines = cursor.fetchall()
        if not lines:
            raise InputError(
                "nothing was imported from the origin %s: `lrbench db origins` lists the origins"
                % origin
            )
        if len(lines) > 1:
            uuids = " or ".join(line.uuid for line in lines)
            raise InputError("%d origins have the name %s: give %s" % (len(lines), origin, uuids))
        cursor.execute("DELETE FROM trial WHERE origin_id = %s", [lines[0].id])
        deleted: int = cursor.rowcount
        cursor.execute("DELETE FROM origin WHERE id = %s", [lines[0].id])
        return deleted

    return store.transaction(work)
