"""Journals that wait or were refused, as values to look at. Nothing is delivered here."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from lrbench_caffe.database import delivery
from lrbench_caffe.errors import InputError

WAITS, REFUSED, DAMAGED = "waits", "refused", "damaged"  # the states of journals


class JournalSummary(NamedTuple):
    """A journal that no program writes any more.

    Attributes:
        path: The file.
        state: WAITS, or REFUSED if its database has rejected it, or DAMAGED.
        database: The name that its database had for messages; None if it is not in the file.
        trial: The id of its trial, None if it is not in the file.
        policy: The policy's text, None if it is not in the file.
        seed: Caffe's random_seed, None if it is not in the file.
        rows: Its evaluations as dicts. A refused journal has only those that were rejected.
        reason: Why it was refused, or None.
    """

    path: str
    state: str
    database: Optional[str]
    trial: Optional[str]
    policy: Optional[str]
    seed: Optional[int]
    rows: List[Dict[str, Any]]
    reason: Optional[str]


def summaries(paths: Sequence[str] = ()) -> list[JournalSummary]:
    """Return a summary of each journal.

    Args:
        paths: The journals; by default those of the journal folder.

    Raises:
        InputError: One of paths cannot be read or is not a journal.
    """
    return [_summary(journal) for journal in delivery.waiting_journals(paths)]


def _summary(journal: delivery.WaitingJournal) -> JournalSummary:
    reason = None
    with contextlib.suppress(OSError), open(
        journal.path + delivery.REASON, encoding="utf-8", errors="replace"
    ) as file:
        reason = file.read().strip()
    events = _events(journal.path)
    trial = next((content for kind, content in events if kind == "begin"), {})
    state = REFUSED if journal.path.endswith(delivery.REFUSED) else WAITS
    return JournalSummary(
        path=journal.path,
        state=DAMAGED if journal.name is None or not trial else state,
        database=journal.name,
        trial=journal.trial,
        policy=trial.get("policy"),
        seed=trial.get("setup", {}).get("seed"),
        rows=[content for kind, content in events if kind == "row"],
        reason=reason,
    )


def _events(path: str) -> list[tuple[str, dict[str, Any]]]:
    """The events of a journal that can be read."""
    events = []
    try:
        with open(path, "rb") as file:
            for line in file:
                with contextlib.suppress(ValueError, TypeError):
                    kind, content = json.loads(line.decode())
                    if isinstance(content, dict):
                        events.append((kind, content))
    except FileNotFoundError:  # it has just been delivered
        return []
    except OSError as error:
        raise InputError(
            "cannot read the journal %s (%s): correct its permissions"
            % (os.path.abspath(path), error.strerror)
        ) from None
    return events
