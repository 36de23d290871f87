"""The rounding of a candidate's numbers to what a person would write."""

from __future__ import annotations

import math

from lrbench_caffe.policies.functions import MAX_ITERATION

DIGITS = 3  # significant digits of a rate, a power or a speed
MIN_FACTOR = 1e-30  # after one iteration with a smaller gamma, the rate is zero for Caffe


def short(value: float) -> float:
    """Round to three significant digits.

    >>> short(0.0123456)
    0.0123
    """
    return float("%.*g" % (DIGITS, value))


def factor(value: float) -> float:
    """Round a gamma from 0 to 1; above 0.5, its distance to 1 keeps three significant digits.

    >>> factor(0.21544), factor(0.99900499)
    (0.215, 0.999005)
    """
    if value <= 0.5:
        return short(max(value, MIN_FACTOR))
    distance = 1 - value
    return round(value, DIGITS - 1 - math.floor(math.log10(distance))) if distance else 1.0


def iterations(value: float) -> int:
    """Round to whole iterations that a policy accepts: at least 1."""
    return min(max(1, round(value)), MAX_ITERATION)
