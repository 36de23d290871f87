"""Cycles: TRI, SIN and their kinds, COS and SGDR."""

from __future__ import annotations

import math

from lrbench_caffe.evaluator.candidates import rounding, stretching
from lrbench_caffe.evaluator.candidates.family import (
    LOW_SHARE,
    Change,
    Family,
    bounds,
    changed,
    highest,
    other_lows,
)
from lrbench_caffe.policies import Policy

EXPONENTIAL_SHARE = 0.1  # of its height: where the decay of an exponential cycle ends


class Cycle(Family):
    """Functions with a lower and an upper bound and cycles between them.

    Attributes:
        unit: What is counted, in the singular.
    """

    unit = "cycle"

    def count(self, policy: Policy, length: int) -> int:
        """Count the cycles within a number of iterations, at least 1."""
        raise NotImplementedError

    def half_cycle(self, policy: Policy, count: int, length: int) -> int:
        """Return the l with which `count` cycles end with the training, or just after it."""
        raise NotImplementedError

    def passed(self, policy: Policy, l: int, t: int) -> int:
        """Count what has ended at iteration t, for a policy with this l."""
        return t // l

    def stretched(self, policy: Policy, old: int, new: int) -> Policy:
        """Stretch l; the last iteration stays in the same half of the same cycle if possible."""
        l = stretching.period(
            policy.parameters["l"], old, new, lambda l, t: self.passed(policy, l, t)
        )
        return changed(policy, l=l)

    def neighbours(self, policy: Policy, length: int) -> list[Change]:
        """List other ends, then other numbers of cycles, all with the same largest rate."""
        peak = highest(policy, length)
        changes = []
        for other, difference in [*self.ends(policy, length), *self._counts(policy, length)]:
            reaching = with_highest(other, peak, length)
            if reaching:
                changes.append(Change(reaching, difference))
        return changes

    def ends(self, policy: Policy, length: int) -> list[Change]:
        """List the policy with other smallest and final rates."""
        return other_lows(policy)

    def _counts(self, policy: Policy, length: int) -> list[Change]:
        count = self.count(policy, length)
        return [
            Change(
                changed(policy, l=self.half_cycle(policy, n, length)),
                "%d %s%s" % (n, self.unit, "s" if n > 1 else ""),
            )
            for n in (count + 1, count - 1)
            if n
        ]


class Rising(Cycle):
    """Cycles that begin at their smallest rate: TRI, TRI2, SIN and SIN2.

    Args:
        cycles: Number of cycles of the first candidate.
    """

    needs_warmup = False

    def __init__(self, cycles: int = 1) -> None:
        self.cycles = cycles

    def first(self, function: str, peak: float, length: int) -> tuple[Policy, str]:
        """Rise from LOW_SHARE of the peak to the peak and return."""
        policy = Policy(
            function,
            k0=rounding.short(LOW_SHARE * peak),
            k1=rounding.short(peak),
            l=math.ceil(length / (2 * self.cycles)),
        )
        return policy, "rises from %g %% of its largest rate and returns%s" % (
            100 * LOW_SHARE,
            ", %d times" % self.cycles if self.cycles > 1 else "",
        )

    def count(self, policy: Policy, length: int) -> int:
        """Count the rises and falls together."""
        return max(1, round(length / (2 * policy.parameters["l"])))

    def half_cycle(self, policy: Policy, count: int, length: int) -> int:
        """Divide the training into rises and falls."""
        return math.ceil(length / (2 * count))


class RisingExponential(Rising):
    """Cycles whose height decays in each iteration: TRIEXP and SINEXP."""

    def stretched(self, policy: Policy, old: int, new: int) -> Policy:
        """Stretch the cycle and the decay."""
        gamma = rounding.factor(policy.parameters["gamma"] ** (old / new))
        return changed(super().stretched(policy, old, new), gamma=gamma)

    def first(self, function: str, peak: float, length: int) -> tuple[Policy, str]:
        """Rise to the peak, which is below k1, and return while the height decays."""
        policy = Policy(
            function,
            k0=rounding.short(LOW_SHARE * peak),
            k1=rounding.short(2 * peak),
            gamma=rounding.factor(EXPONENTIAL_SHARE ** (1 / length)),
            l=math.ceil(length / 2),
        )
        reason = (
            "rises from %g %% of its largest rate and returns; because of the decay, k1 is above"
            " the largest rate that it reaches"
        )
        # A single iteration has the smallest rate only.
        return with_highest(policy, peak, length) or policy, reason % (100 * LOW_SHARE)

    def ends(self, policy: Policy, length: int) -> list[Change]:
        """List other smallest rates, and other final heights."""
        final = policy.parameters["gamma"] ** length
        return other_lows(policy) + [
            Change(
                changed(policy, gamma=rounding.factor(other ** (1 / length))),
                "the final height %s" % difference,
            )
            for other, difference in ((final / 10, "divided by 10"), (final * 5, "times 5"))
            if 0 < other < 1
        ]


class Falling(Cycle):
    """Functions that begin at their largest rate and fall along a cosine.

    Args:
        falls: Number of falls of the first candidate.
        parameters: Further parameters of the first candidate.
    """

    unit = "fall"

    def __init__(self, falls: int, **parameters: int) -> None:
        self.falls = falls
        self.parameters = parameters

    def first(self, function: str, peak: float, length: int) -> tuple[Policy, str]:
        """Fall from the peak to zero."""
        policy = Policy(function, k0=rounding.short(peak), k1=0.0, l=length, **self.parameters)
        policy = changed(policy, l=self.half_cycle(policy, self.falls, length))
        times = "" if self.falls == 1 else ", %d times" % self.falls
        return policy, "falls from its largest rate to zero along a cosine%s" % times


class Cosine(Falling):
    """COS, which rises between two falls."""

    def count(self, policy: Policy, length: int) -> int:
        """Count the falls."""
        return max(1, round((length / policy.parameters["l"] + 1) / 2))

    def half_cycle(self, policy: Policy, count: int, length: int) -> int:
        """Divide the training into falls and the rises between them."""
        return math.ceil(length / (2 * count - 1))


class Restarts(Falling):
    """SGDR, which jumps back to its largest rate after each fall."""

    def count(self, policy: Policy, length: int) -> int:
        """Count the falls, the last one included."""
        return self.passed(policy, policy.parameters["l"], length - 1) + 1

    def passed(self, policy: Policy, l: int, t: int) -> int:
        """Count the restarts; the falls last l, l * mult, l * mult^2, ... iterations."""
        mult = policy.parameters.get("mult", 1)
        if mult == 1:
            return t // l
        restarts, cycle, start = 0, l, l
        while start <= t:
            restarts, cycle, start = restarts + 1, cycle * mult, start + cycle * mult
        return restarts

    def half_cycle(self, policy: Policy, count: int, length: int) -> int:
        """Return the iterations of the first fall."""
        mult = policy.parameters.get("mult", 1)
        return math.ceil(length / sum(mult**n for n in range(count)))


def with_highest(policy: Policy, peak: float, length: int) -> Policy | None:
    """Return the policy with the upper bound with which its largest rate is the peak.

    The upper bound stays if the largest rate is the peak already. None if no upper bound has this
    effect.
    """
    reached = highest(policy, length)
    low, high = bounds(policy)
    if math.isclose(reached, peak, rel_tol=1e-9):
        return policy
    if low >= min(peak, reached):
        return None
    upper = rounding.short(low + (high - low) * (peak - low) / (reached - low))
    if not upper:
        return None
    return changed(policy, **{"k0" if policy.parameters["k0"] > low else "k1": upper})
