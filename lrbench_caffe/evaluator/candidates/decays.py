"""The constant rate and the smooth decays: FIX, EXP, INV and POLY."""

from __future__ import annotations

import math

from lrbench_caffe.evaluator.candidates import rounding
from lrbench_caffe.evaluator.candidates.family import (
    FINAL_SHARE,
    Change,
    Family,
    bounds,
    changed,
    other_lows,
)
from lrbench_caffe.policies import Policy

INV_POWER = 0.75  # p of INV, as in Caffe's examples
INV_FINAL_SHARE = 0.1  # a smaller share needs a fall that is almost over at the beginning
MAX_EXPONENT = 700.0  # of exp: the result of a larger one is not a float


class Constant(Family):
    """FIX; and WARMUP, whose only parameter is a rate, too."""

    needs_warmup = False

    def stretched(self, policy: Policy, old: int, new: int) -> Policy:
        """Return the policy itself."""
        return policy

    def first(self, function: str, peak: float, length: int) -> tuple[Policy, str]:
        """Make the constant rate."""
        return Policy(function, k0=rounding.short(peak)), "keeps the rate constant"

    def neighbours(self, policy: Policy, length: int) -> list[Change]:
        """Return an empty list: the rate is the only parameter."""
        return []


class GammaDecay(Family):
    """Decays whose parameter gamma decides which share of the first rate they end at."""

    def final(self, policy: Policy, length: int) -> float:
        """Return the last value of g(t), from 0 to 1."""
        raise NotImplementedError

    def with_final(self, policy: Policy, length: int, final: float) -> Policy:
        """Return the policy with the gamma for another last value of g(t)."""
        raise NotImplementedError

    def shapes(self, policy: Policy, length: int) -> list[Change]:
        """List policies that end at the same rate and differ in one respect."""
        return []

    def neighbours(self, policy: Policy, length: int) -> list[Change]:
        """List other final rates, then other shapes."""
        return self._ends(policy, length) + self.shapes(policy, length)

    def _ends(self, policy: Policy, length: int) -> list[Change]:
        if bounds(policy)[0]:  # a decay does not fall below its floor
            return other_lows(policy)
        final = self.final(policy, length)
        return [
            Change(self.with_final(policy, length, other), "the final rate %s" % difference)
            for other, difference in ((final / 10, "divided by 10"), (final * 5, "times 5"))
            if 0 < other < 1
        ]


class Exponential(GammaDecay):
    """EXP."""

    def stretched(self, policy: Policy, old: int, new: int) -> Policy:
        """Take the root of gamma that gives the same last rate."""
        return changed(policy, gamma=rounding.factor(policy.parameters["gamma"] ** (old / new)))

    def first(self, function: str, peak: float, length: int) -> tuple[Policy, str]:
        """Fall to FINAL_SHARE of the peak."""
        policy = Policy(function, k0=rounding.short(peak), gamma=0.5)
        reason = "falls to %g %% of its largest rate" % (100 * FINAL_SHARE)
        return self.with_final(policy, length, FINAL_SHARE), reason

    def final(self, policy: Policy, length: int) -> float:
        """Return gamma ^ length."""
        return float(policy.parameters["gamma"] ** length)

    def with_final(self, policy: Policy, length: int, final: float) -> Policy:
        """Take the root of the last value."""
        return changed(policy, gamma=rounding.factor(final ** (1 / length)))


class Inverse(GammaDecay):
    """INV."""

    def stretched(self, policy: Policy, old: int, new: int) -> Policy:
        """Divide gamma, a speed, by the ratio of the lengths."""
        return changed(policy, gamma=_speed(policy.parameters["gamma"] * old / new))

    def first(self, function: str, peak: float, length: int) -> tuple[Policy, str]:
        """Fall to INV_FINAL_SHARE of the peak."""
        policy = Policy(function, k0=rounding.short(peak), gamma=1.0, p=INV_POWER)
        reason = "falls to %g %% of its largest rate" % (100 * INV_FINAL_SHARE)
        return self.with_final(policy, length, INV_FINAL_SHARE), reason

    def final(self, policy: Policy, length: int) -> float:
        """Return (1 + gamma * length) ^ -p."""
        return float((1 + policy.parameters["gamma"] * length) ** -policy.parameters["p"])

    def with_final(self, policy: Policy, length: int, final: float) -> Policy:
        """Solve the formula for gamma."""
        exponent = -math.log(final) / policy.parameters["p"]
        return changed(policy, gamma=_speed(math.expm1(min(exponent, MAX_EXPONENT)) / length))

    def shapes(self, policy: Policy, length: int) -> list[Change]:
        """List other powers."""
        final = self.final(policy, length)
        if not final:  # too small for a float
            return []
        return [
            Change(self.with_final(other, length, final), difference)
            for other, difference in other_powers(policy)
        ]


class Polynomial(Family):
    """POLY."""

    def stretched(self, policy: Policy, old: int, new: int) -> Policy:
        """Stretch l, and keep a rate for the last iteration."""
        l = policy.parameters["l"]
        return changed(policy, l=max(rounding.iterations(l * new / old), new - 1))

    def first(self, function: str, peak: float, length: int) -> tuple[Policy, str]:
        """Fall to zero slowly at first, with the power 0.5."""
        policy = Policy(function, k0=rounding.short(peak), p=0.5, l=length)
        return policy, "stays high for long and falls to zero at the end"

    def neighbours(self, policy: Policy, length: int) -> list[Change]:
        """List other floors and powers."""
        return other_lows(policy) + other_powers(policy)


def _speed(gamma: float) -> float:
    """Round the gamma of INV and keep it within the numbers that a policy accepts."""
    return rounding.short(min(max(gamma, 1e-300), 1e300))


def other_powers(policy: Policy) -> list[Change]:
    """List the policy with half and with twice its power p."""
    powers = [rounding.short(policy.parameters["p"] * change) for change in (0.5, 2)]
    return [Change(changed(policy, p=power), "power %g" % power) for power in powers]
