"""Compares candidates that were trained with different seeds: on the same seeds, so to speak.

Some seeds are easier than others for all policies, and a candidate may have had only easy ones. The
value of a training is therefore taken as the sum of what its candidate and what its seed
contribute, and both are estimated by least squares: the additive model of a two-way analysis of
variance without interaction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DIGITS = 9  # of the results: equal candidates stay equal whatever the rounding errors of the fit


@dataclass(frozen=True)
class Paired:
    """The values of candidates, without what their seeds contributed.

    Attributes:
        adjusted: For each candidate the values of its trainings, less the contribution of the seed.
        deviation: Standard deviation of a value that neither candidate nor seed explains; 0 if no
            candidate has a seed more than that takes.
    """

    adjusted: tuple[tuple[float, ...], ...]
    deviation: float

    def mean(self, n: int) -> float:
        """Return the mean of the adjusted values of a candidate, which has at least one."""
        return math.fsum(self.adjusted[n]) / len(self.adjusted[n])

    def are_level(self, better: int, worse: int) -> bool:
        """Whether the difference of two candidates, high values best, is below its standard error.

        Args:
            better: The number of the candidate with the higher mean; if it has the lower one, they
                are level.
            worse: The number of the other candidate.
        """
        counts = len(self.adjusted[better]), len(self.adjusted[worse])
        error = self.deviation * math.sqrt(sum(1 / count for count in counts))
        return self.mean(better) - self.mean(worse) < error

    def places(self, prior_seeds: float) -> list[int]:
        """Count for each candidate how many others have a higher mean.

        Args:
            prior_seeds: For how many seeds the median of all candidates counts in each mean. It
                keeps a candidate with a single lucky training from the first place.
        """
        if not self.adjusted:
            return []
        median = float(np.median([self.mean(n) for n in range(len(self.adjusted))]))
        means = [
            (math.fsum(values) + prior_seeds * median) / (len(values) + prior_seeds)
            for values in self.adjusted
        ]
        rounded = [round(mean, DIGITS) for mean in means]
        return [sum(other > mean for other in rounded) for mean in rounded]


def compare(values: Sequence[Mapping[int, float]]) -> Paired:
    """Subtract from the values of each candidate what the seeds contributed.

    Args:
        values: For each candidate, a value for each of its seeds.
    """
    cells = [
        (n, seed, value) for n, by_seed in enumerate(values) for seed, value in by_seed.items()
    ]
    if not cells:
        return Paired(tuple(() for _ in values), 0.0)
    seeds = sorted({seed for _, seed, _ in cells})
    observed = np.array([value for *_, value in cells])
    design = np.zeros((len(cells), len(values) + len(seeds)))
    for row, (n, seed, _) in enumerate(cells):
        design[row, n] = design[row, len(values) + seeds.index(seed)] = 1
    centre = observed.mean()
    effects, _, rank, _ = np.linalg.lstsq(design, observed - centre, rcond=None)
    of_seed = dict(zip(seeds, effects[len(values) :]))
    adjusted = tuple(
        tuple(round(float(value - of_seed[seed]), DIGITS) for seed, value in by_seed.items())
        for by_seed in values
    )
    squares = float(np.sum((observed - centre - design @ effects) ** 2))
    freedom = len(cells) - int(rank)
    deviation = round(math.sqrt(squares / freedom), DIGITS) if freedom else 0.0
    return Paired(adjusted, deviation)
