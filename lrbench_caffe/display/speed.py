"""The speed of an activity, and the time that it still takes."""

from __future__ import annotations

import time


class SpeedMeter:
    """Measures the speed of an activity since its first report."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None

    def update(self, done: int, total: int | None) -> tuple[float, float | None]:
        """Measure the speed.

        Args:
            done: How much is done, such as the number of finished iterations.
            total: How much there is to do; None if that is unknown.

        Returns:
            How much is done per second, 0 at the first call, and the seconds left, None while they
            are unknown.
        """
        now = time.monotonic()
        if self._first is None:
            self._first = now, done
        seconds, new = now - self._first[0], done - self._first[1]
        speed = new / seconds if seconds > 0 else 0.0
        return speed, (total - done) / speed if speed and total is not None else None
