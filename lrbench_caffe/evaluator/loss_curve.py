"""What the test loss of a finished trial says about the policies to try next (figure 5).

Pure functions of a trial with all its rows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lrbench_caffe.trial import Trial

MIN_IMPROVEMENT = 0.01  # of the lowest loss so far: a smaller improvement does not count
MAX_PLATEAU_START = 0.8  # of the training: a plateau that begins later is not used
FALL_SHARE = 0.9  # of the whole fall of the loss: where its steep beginning ends


def plateau_start(trial: Trial) -> float | None:
    """Find where the test loss of a trial stopped improving (figure 5).

    Args:
        trial: A trial with rows.

    Returns:
        The start of the plateau as a share of the training, or None if the loss improved until the
        end or never.
    """
    lowest, iteration = None, 0
    for evaluated, test_loss in _curve(trial):
        if lowest is None or test_loss < lowest * (1 - MIN_IMPROVEMENT):
            lowest, iteration = test_loss, evaluated
    start = iteration / trial.length
    return start if 0 < start <= MAX_PLATEAU_START else None


def longest_wait(trial: Trial, end: float) -> float:
    """Measure the longest wait for a new lowest test loss: PLATEAU needs at least this patience.

    Args:
        trial: A trial with rows.
        end: Where to stop looking, as a share of the training.

    Returns:
        The wait as a share of the training.
    """
    length = trial.length
    lowest, improved_at, longest = math.inf, 0, 0
    for iteration, test_loss in _curve(trial):
        if test_loss < lowest and iteration <= end * length:
            longest = max(longest, iteration - improved_at)
            lowest, improved_at = test_loss, iteration
    return longest / length


def warmup_length(trial: Trial) -> int:
    """Measure how long the steep beginning of a trial lasts: a warm-up takes as long.

    Args:
        trial: A trial with rows.

    Returns:
        The iteration at which :data:`FALL_SHARE` of the fall of the test loss is over; the last one
        without test losses.
    """
    curve = _curve(trial)
    if curve:
        first, lowest = curve[0][1], min(test_loss for _, test_loss in curve)
        limit = first - FALL_SHARE * (first - lowest)
        for iteration, test_loss in curve:
            if iteration and test_loss <= limit:
                return iteration
    return trial.rows[-1].iteration


def _curve(trial: Trial) -> list[tuple[int, float]]:
    """(iteration, test loss) of each row that has a test loss."""
    return [(row.iteration, row.test_loss) for row in trial.rows if row.test_loss is not None]
