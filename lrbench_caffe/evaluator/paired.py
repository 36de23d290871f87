"""Compares candidates whose trainings have different seeds.

Some seeds are easier than others for all policies, and a candidate may have had only easy ones. So
the value of a training is taken as the sum of what its candidate and what its seed contribute, and
of noise: a linear mixed model, in which the candidates are fixed effects and the seeds random ones.
Its equations are Henderson's. Candidates that have the same seeds are compared by their means.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

# The variance of the noise, divided by that of what the seeds contribute. In the fresh trainings of
# results/searches.jsonl it is about 1 (digits, batchnorm) to 12 (adam); on sigmoid, the seeds
# contribute nothing.
NOISE_RATIO = 3.0
DIGITS = 9  # of the results: equal candidates stay equal whatever the rounding errors of the fit


@dataclass(frozen=True)
class Comparison:
    """What each candidate contributes to the values of its trainings.

    Attributes:
        means: The contribution of each candidate, in the unit of the values.
        counts: The number of trainings of each candidate.
        covariance: The covariance of the contributions, in the square of this unit.
    """

    means: tuple[float, ...]
    counts: tuple[int, ...]
    covariance: NDArray[np.float64]

    def are_level(self, better: int, worse: int, errors: float = 1.0) -> bool:
        """Return whether a candidate leads another one by no more than the noise.

        Args:
            better: The index of the candidate that leads. If it does not lead, they are level.
            worse: The index of the other candidate.
            errors: How many times the standard error of the lead counts as noise.
        """
        pair = np.array([better, worse])
        (a, b), (_, d) = self.covariance[np.ix_(pair, pair)]
        error = errors * math.sqrt(max(0.0, a + d - 2 * b))
        return self.means[better] - self.means[worse] <= round(error, DIGITS)

    def places(self, prior_seeds: float) -> list[int]:
        """Return for each candidate how many others have a higher value.

        Args:
            prior_seeds: For how many seeds the median of all candidates counts in each value. It
                keeps a candidate with a single lucky training from the first place.
        """
        if not self.means:
            return []
        median = float(np.median(self.means))
        values = [
            round((count * mean + prior_seeds * median) / (count + prior_seeds), DIGITS)
            for mean, count in zip(self.means, self.counts)
        ]
        return [sum(other > value for other in values) for value in values]


def compare(values: Sequence[Mapping[int, float]]) -> Comparison:
    """Estimate what each candidate contributes to the values of its trainings.

    Args:
        values: For each candidate, the value of each of its seeds; at least one. High values are
            the best.

    Returns:
        The comparison.
    """
    n = len(values)
    cells = [(i, seed, value) for i, own in enumerate(values) for seed, value in own.items()]
    seeds = sorted({seed for _, seed, _ in cells})
    design = np.zeros((len(cells), n + len(seeds)))
    for row, (i, seed, _) in enumerate(cells):
        design[row, i] = design[row, n + seeds.index(seed)] = 1
    observed = np.array([value for *_, value in cells])
    penalty = np.diag([0.0] * n + [NOISE_RATIO] * len(seeds))
    inverse = np.linalg.inv(design.T @ design + penalty)
    effects = inverse @ design.T @ observed
    squares = np.sum((observed - design @ effects) ** 2) + effects @ penalty @ effects
    freedom = len(cells) - n
    variance = float(squares) / freedom if freedom else 0.0
    return Comparison(
        tuple(round(float(effect), DIGITS) for effect in effects[:n]),
        tuple(len(own) for own in values),
        variance * inverse[:n, :n],
    )
