"""The speed of a training, and the time that it still takes."""

from __future__ import annotations

import time


class SpeedMeter:
    """Measures the speed of a training since its first progress event."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None

    def update(self, iteration: int, max_iter: int) -> tuple[float, float | None]:
        """Measure the speed.

        Args:
            iteration: The number of finished iterations.
            max_iter: The number of all iterations.

        Returns:
            The iterations per second, 0 at the first call, and the seconds left, None while the
            speed is 0.
        """
        now = time.monotonic()
        if self._first is None:
            self._first = now, iteration
        seconds, iterations = now - self._first[0], iteration - self._first[1]
        speed = iterations / seconds if seconds > 0 else 0.0
        return speed, (max_iter - iteration) / speed if speed else None
