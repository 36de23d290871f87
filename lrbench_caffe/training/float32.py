"""Caffe's float32 numbers as Python floats."""

from __future__ import annotations

import numpy as np


def shortest(value: float) -> float:
    """Return the shortest decimal number that rounds to the same float32.

    Caffe keeps settings and rates in single precision; this restores the number that a user wrote.

    >>> shortest(0.009999999776482582)
    0.01
    """
    return float(str(np.float32(value)))


def rounded(value: float) -> float:
    """Return the float32 nearest to a number, as a float."""
    return float(np.float32(value))
