"""Filters that select nothing: commands refuse them, and name the nearest existing name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrbench_caffe.database.names import LOCAL
from lrbench_caffe.database.reader import trial_ids_query
from lrbench_caffe.errors import InputError, abbreviated, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrbench_caffe.database.store import Store

MAX_NAMES = 5000  # that are compared with an unknown name, the newest first
_MAX_LISTED = 5  # names in a message

# How a message describes the trials of a filter, by its name. Filters are checked in this order.
_DESCRIPTIONS = {
    "study": "of the study %s",
    "dataset": "on the dataset %s",
    "network": "of the network %s",
    "function": "under the function %s",
    "policy": "under the policy %s",
    "state": "in the state %s",
    "origin": "from the origin %s",
}
_TRAINED_HERE = "that were trained here"

_NAMES = {
    "study": "SELECT name FROM study ORDER BY id DESC LIMIT %s",
    "dataset": """
        SELECT name FROM dataset WHERE EXISTS (SELECT FROM trial WHERE dataset_id = dataset.id)
        GROUP BY name ORDER BY max(id) DESC LIMIT %s""",
    "network": """
        SELECT name FROM network WHERE EXISTS (SELECT FROM trial WHERE network_id = network.id)
        GROUP BY name ORDER BY max(id) DESC LIMIT %s""",
    "function": """
        SELECT function FROM policy WHERE EXISTS (SELECT FROM trial WHERE policy_id = policy.id)
        GROUP BY function ORDER BY max(id) DESC LIMIT %s""",
    "policy": """
        SELECT text FROM policy WHERE EXISTS (SELECT FROM trial WHERE policy_id = policy.id)
        ORDER BY id DESC LIMIT %s""",
    "state": "SELECT DISTINCT state FROM trial LIMIT %s",
    "origin": """
        SELECT name FROM origin
        WHERE NOT here AND EXISTS (SELECT FROM trial WHERE origin_id = origin.id)
        GROUP BY name ORDER BY max(id) DESC LIMIT %s""",
}

# How to list the names that are too many, or too long, for a message.
_LISTS = {
    "study": "`lrbench study list` shows the existing studies",
    "policy": "`lrbench rank` shows the existing policies",
}


def check(store: Store, filters: Mapping[str, str | None]) -> None:
    """Check that filters select at least one trial.

    Args:
        store: The database.
        filters: The filters of :meth:`lrbench_caffe.database.Store.trials` by their names.

    Raises:
        InputError: They select nothing. The message names the filter that no trial matches, and
            the nearest existing name if there is one.
    """
    values = _set_filters(filters)
    if _selects(store, values):
        return
    unmatched = [name for name, value in values.items() if not _selects(store, {name: value})]
    if unmatched[:1] != ["study"] and not _selects(store, {}):
        raise InputError(no_trials(store))
    for name in unmatched:
        raise InputError(_unmatched(store, name, values[name]))
    descriptions = (_description(name, value) for name, value in values.items())
    raise InputError(
        "the database does not have trials %s: leave out one of these filters"
        % " and ".join(descriptions)
    )


def no_trials(store: Store) -> str:
    """Return the sentence about a database without trials."""
    return (
        "the database %s does not have any trials: train with `lrbench train`, import results "
        "with `lrbench db import`, or name another database with --dsn or LRBENCH_HOME"
        % store.where
    )


def remarks(store: Store, filters: Mapping[str, str | None]) -> list[str]:
    """Return a sentence for each filter that no trial matches; none if the database is empty.

    They are for a command that does not need matching trials.

    Args:
        store: The database.
        filters: The filters of :meth:`lrbench_caffe.database.Store.trials` by their names.
    """
    if not _selects(store, {}):
        return []
    return [
        _unmatched(store, name, value)
        for name, value in _set_filters(filters).items()
        if not _selects(store, {name: value})
    ]


def unknown_study(store: Store, name: str) -> InputError:
    """Return the error of a study that the database does not have."""
    return InputError("the database has no study %s: %s" % (name, _instead(store, "study", name)))


def _set_filters(filters: Mapping[str, str | None]) -> dict[str, str]:
    """The filters that have a value, in the order of _DESCRIPTIONS."""
    values = ((name, filters.get(name)) for name in _DESCRIPTIONS)
    return {name: value for name, value in values if value is not None}


def _selects(store: Store, filters: Mapping[str, str]) -> bool:
    query, values = trial_ids_query(dict(filters))
    return bool(store.select("SELECT EXISTS (%s) AS selected" % query, values)[0].selected)


def _unmatched(store: Store, name: str, value: str) -> str:
    """The sentence about a filter that no trial matches."""
    if name == "study":
        if not store.select("SELECT FROM study WHERE name = %s", [value]):
            return str(unknown_study(store, value))
        return "no trial of the study %s has begun: `lrbench study run %s` starts them" % (
            value,
            value,
        )
    if name == "origin" and value == LOCAL:
        return "the database does not have trials %s: leave out --local" % _TRAINED_HERE
    return "the database does not have trials %s: %s" % (
        _description(name, value),
        _instead(store, name, value),
    )


def _description(name: str, value: str) -> str:
    if name == "origin" and value == LOCAL:
        return _TRAINED_HERE
    return _DESCRIPTIONS[name] % abbreviated(value)


def _instead(store: Store, kind: str, value: str) -> str:
    """What to use instead of an unknown name: the nearest existing name, or how to find one."""
    names = _names(store, kind)
    closest = None if kind == "state" else nearest(value, names)
    if closest is not None:
        return "did you mean %s?" % closest
    if kind in _LISTS:
        return _LISTS[kind]
    if not names:
        return "nothing was imported into it"
    more = len(names) - _MAX_LISTED
    listed = ", ".join(names[:_MAX_LISTED])
    return "it has %s%s" % (listed, " and %d more" % more if more > 0 else "")


def _names(store: Store, kind: str) -> list[str]:
    return [line[0] for line in store.select(_NAMES[kind], [MAX_NAMES])]
