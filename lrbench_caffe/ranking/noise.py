"""The noise of the seeds: the spread of a metric over them, and whether two spreads differ."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

SIGNIFICANCE = 0.05  # of Welch's t-test
ROUNDING = 1e-12  # relative difference up to which two means are equal


class Spread(NamedTuple):
    """A metric over seeds, as in Tables VII to IX of the paper.

    Attributes:
        mean: The mean of the values; None if there are no values.
        deviation: The sample standard deviation, with the divisor n - 1; None for fewer than two
            values.
        n: The number of values.
    """

    mean: float | None
    deviation: float | None
    n: int


def spread(values: Iterable[float | None]) -> Spread:
    """Return the spread of the values that are not None.

    >>> spread([0.98, None, 0.99]).n
    2
    """
    numbers = [float(value) for value in values if value is not None]
    if not numbers:
        return Spread(None, None, 0)
    n = len(numbers)
    mean = math.fsum(numbers) / n
    if n == 1:
        return Spread(mean, None, 1)
    squares = math.fsum((number - mean) ** 2 for number in numbers)
    return Spread(mean, math.sqrt(squares / (n - 1)), n)


def is_tied(first: Spread, second: Spread) -> bool:
    """Return whether two means differ by no more than the noise of their seeds.

    This is Welch's t-test at the 5 % level. A spread of one value is given the deviation of the
    other spread. If both have one value, the noise is unknown and only equal means are tied.

    >>> is_tied(Spread(0.99, 0.001, 3), Spread(0.9905, 0.001, 3))
    True
    """
    if first.mean is None or second.mean is None:
        return first.mean is None and second.mean is None
    difference = abs(first.mean - second.mean)
    if difference <= ROUNDING * max(abs(first.mean), abs(second.mean)):
        return True
    pair = (first, second)
    measured = [(item.deviation, item.n) for item in pair if item.deviation is not None]
    if not measured:
        return False
    substitute, n_measured = measured[0]
    deviations = [substitute if item.deviation is None else item.deviation for item in pair]
    variances = [deviation**2 / item.n for deviation, item in zip(deviations, pair)]
    variance = sum(variances)  # of the difference of the means
    if not variance:
        return False
    if len(measured) == 2:  # the Welch-Satterthwaite equation
        freedom = variance**2 / sum(v**2 / (item.n - 1) for v, item in zip(variances, pair))
    else:
        freedom = n_measured - 1
    from scipy.special import stdtr  # imported here: it takes a tenth of a second

    p_value: float = 2 * stdtr(freedom, -difference / math.sqrt(variance))
    return p_value > SIGNIFICANCE
