"""Sketches: a curve as one line of text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"


def sketch(values: Sequence[float], width: int, lowest: float = 0.0) -> str:
    """Return a curve as a line of blocks.

    Args:
        values: The values of the curve at equal distances. A value that is not finite leaves a gap.
        width: The largest number of characters. Each stands for the mean of as many values.
        lowest: The value of the lowest block; no value is below it. The highest block is the
            maximum.

    Example:
        >>> sketch([0, 1, 2, 3, 4, 5, 6, 7], width=8)
        '▁▂▃▄▅▆▇█'
        >>> sketch([1.0, float("nan"), 0.0], width=8)
        '█ ▁'
        >>> sketch([98, 99, 100], width=8, lowest=98)
        '▁▅█'
    """
    width = min(width, len(values))
    edges = [n * len(values) // width for n in range(width + 1)] if width else [0]
    means = [_mean(values[start:end]) for start, end in zip(edges, edges[1:])]
    height = max((mean for mean in means if mean is not None), default=lowest) - lowest
    return "".join(" " if mean is None else _block(mean - lowest, height) for mean in means)


def _mean(values: Sequence[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None


def _block(value: float, highest: float) -> str:
    share = value / highest if highest > 0 else 0.0
    return BLOCKS[round(share * (len(BLOCKS) - 1))]
