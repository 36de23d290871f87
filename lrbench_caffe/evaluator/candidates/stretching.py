"""Iterations of a policy, stretched to a training of another length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrbench_caffe.evaluator.candidates.rounding import iterations
from lrbench_caffe.policies.functions import MAX_ITERATION

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def period(l: int, old: int, new: int, count: Callable[[int, int], int]) -> int:
    """Stretch the period of steps or cycles.

    The result is rounded up or down: so that the last iteration belongs to the same step or cycle
    as before if possible, else to the nearest whole number.

    Args:
        l: The period in iterations.
        old: Length of the training for which l was made.
        new: Length of the other training.
        count: ``count(l, t)``: how many periods have ended at iteration t.

    >>> period(334, old=1000, new=100, count=lambda l, t: t // l)  # not 33: that is a third step
    34
    """
    rounded = {iterations(l * new // old), iterations(-(-l * new // old))}  # down and up
    choices = sorted(rounded, key=lambda choice: abs(choice * old - l * new))
    before = count(l, old - 1)
    return next((choice for choice in choices if count(choice, new - 1) == before), choices[0])


def marks(positions: Sequence[int], old: int, new: int) -> list[int]:
    """Stretch positions in a training: the steps of NSTEP, or the starts of pieces.

    Args:
        positions: Iterations in increasing order, each at least 1.
        old: Length of the training for which they were made.
        new: Length of the other training.

    Returns:
        As many iterations in increasing order. The positions before the end stay before the end, if
        the training has enough iterations, and the others stay behind it.

    >>> marks([500, 750, 760, 2000], old=1000, new=10)
    [5, 8, 9, 20]
    """
    rounded = [iterations(position * new / old) for position in positions]
    inside = sum(position < old for position in positions)
    stretched = _increasing(rounded[:inside], 1)
    for index in range(inside - 1, -1, -1):  # what was pushed to the end makes place before it
        behind = inside - 1 - index
        stretched[index] = max(index + 1, min(stretched[index], new - 1 - behind))
    first_outside = max(new, stretched[-1] + 1 if stretched else 1)
    outside = _increasing(rounded[inside:], first_outside)
    surplus = max(0, outside[-1] - MAX_ITERATION) if outside else 0
    return stretched + [position - surplus for position in outside]


def _increasing(positions: Sequence[int], first: int) -> list[int]:
    """Raise positions as little as possible so that they increase from `first`."""
    result: list[int] = []
    for position in positions:
        result.append(max(position, result[-1] + 1 if result else first))
    return result
