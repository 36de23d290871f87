"""Waits for a lock that another training holds, until it is free or this training is stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

POLL_SECONDS = 0.1


def wait_for_lock(
    try_lock: Callable[[], bool],
    stop: threading.Event,
    describe: Callable[[], str],
    emit: Callable[[str, Any], object],
) -> bool:
    """Wait until a lock is taken.

    Args:
        try_lock: Takes the lock if it is free, and returns whether it did.
        stop: Set to end the wait.
        describe: Returns the sentence for the user, if the training has to wait.
        emit: Receives the sentence as one "note".

    Returns:
        Whether the lock is taken; False after a stop.
    """
    waits = 0
    while not try_lock():
        if waits == 1:  # at first, the process before this one may be about to end
            emit("note", describe())
        if stop.wait(POLL_SECONDS):
            return False
        waits += 1
    return True
