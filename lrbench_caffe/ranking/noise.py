"""The noise of the seeds: the spread of a metric over them, and whether two spreads differ."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

SIGNIFICANCE = 0.05  # of Welch's t-test, and of the interval of a mean
ROUNDING = 1e-12  # relative difference up to which two means are equal
LARGEST = (
    1e100  # a value: the squares of larger ones overflow, and nothing that is measured is larger
)


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

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval of the mean, by Student's t distribution.

        It is mean ± t * deviation / sqrt(n), in which t is the 97.5 % quantile with n - 1 degrees
        of freedom. It is None for fewer than two values, and if all values are equal, because the
        noise is then unknown: equal values show only that it is below the resolution of the metric.

        >>> low, high = Spread(0.98, 0.01, 4).interval
        >>> round(low, 4), round(high, 4)
        (0.9641, 0.9959)
        """
        if self.mean is None or self.deviation is None:
            return None
        if self.deviation <= ROUNDING * abs(self.mean):
            return None
        from scipy.special import stdtrit  # imported here: it takes a tenth of a second

        quantile = float(stdtrit(self.n - 1, 1 - SIGNIFICANCE / 2))
        half_width = quantile * self.deviation / math.sqrt(self.n)
        return self.mean - half_width, self.mean + half_width


def spread(values: Iterable[float | None]) -> Spread:
    """Return the spread of the values that are not None and not above LARGEST.

    >>> spread([0.98, None, 0.99]).n
    2
    """
    numbers = [float(value) for value in values if value is not None and -LARGEST < value < LARGEST]
    n = len(numbers)
    if n < 2:
        return Spread(numbers[0] if numbers else None, None, n)
    low, high = min(numbers), max(numbers)
    if low == high:  # the division below could round the mean to another number
        return Spread(low, 0.0, n)
    mean = min(max(math.fsum(numbers) / n, low), high)
    squares = math.fsum([(number - mean) ** 2 for number in numbers])
    return Spread(mean, math.sqrt(squares / (n - 1)), n)


def is_tied(first: Spread, second: Spread) -> bool:
    """Return whether two means differ by no more than the noise of their seeds.

    This is Welch's t-test at the 5 % level. The noise of a single value is unknown, so a spread of
    one value is tied only with an equal mean. The same holds if both deviations are 0.

    >>> is_tied(Spread(0.99, 0.001, 3), Spread(0.9905, 0.001, 3))
    True
    >>> is_tied(Spread(0.99, None, 1), Spread(0.9905, 0.001, 3))
    False
    """
    if first.mean is None or second.mean is None:
        return first.mean is None and second.mean is None
    difference = abs(first.mean - second.mean)
    if difference <= ROUNDING * max(abs(first.mean), abs(second.mean)):
        return True
    if first.deviation is None or second.deviation is None:
        return False
    pairs = [(first.deviation**2 / first.n, first.n), (second.deviation**2 / second.n, second.n)]
    variance = sum(part for part, _ in pairs)  # of the difference of the means
    if not variance:
        return False
    from scipy.special import stdtr

    # The Welch-Satterthwaite equation.
    freedom = 1 / sum((part / variance) ** 2 / (n - 1) for part, n in pairs)
    p_value: float = 2 * stdtr(freedom, -difference / math.sqrt(variance))
    return p_value > SIGNIFICANCE
