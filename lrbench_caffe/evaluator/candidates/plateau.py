"""PLATEAU, which lowers its rate when the training stops improving."""

from __future__ import annotations

from lrbench_caffe.evaluator.candidates import rounding
from lrbench_caffe.evaluator.candidates.family import (
    FINAL_SHARE,
    Change,
    Family,
    changed,
    other_lows,
)
from lrbench_caffe.policies import Policy

MAX_REDUCTIONS = 4  # of the rate until it reaches its floor
PATIENCE = 0.1  # of the training


class Plateau(Family):
    """PLATEAU."""

    def stretched(self, policy: Policy, old: int, new: int) -> Policy:
        """Stretch the patience, which is a number of iterations."""
        return changed(policy, l=rounding.iterations(policy.parameters["l"] * new / old))

    def first(self, function: str, peak: float, length: int) -> tuple[Policy, str]:
        """Wait for PATIENCE of the training before each of MAX_REDUCTIONS."""
        policy = self.with_reductions(peak, MAX_REDUCTIONS, PATIENCE * length)
        reason = "lowers the rate when the loss has not improved for %g %% of the iterations"
        return policy, reason % (100 * PATIENCE)

    def with_reductions(self, peak: float, count: int, patience: float) -> Policy:
        """Make the policy that reaches FINAL_SHARE of the peak with `count` reductions."""
        return Policy(
            "PLATEAU",
            k0=rounding.short(peak),
            k1=rounding.short(FINAL_SHARE * peak),
            gamma=rounding.factor(FINAL_SHARE ** (1 / count)),
            l=rounding.iterations(patience),
        )

    def neighbours(self, policy: Policy, length: int) -> list[Change]:
        """List other floors, patiences and sizes of a reduction."""
        l, gamma = policy.parameters["l"], policy.parameters["gamma"]
        changes = [
            Change(changed(policy, l=rounding.iterations(l / 2)), "half the patience"),
            Change(changed(policy, l=rounding.iterations(l * 2)), "twice the patience"),
        ]
        if gamma < 1:
            changes += [
                Change(changed(policy, gamma=rounding.factor(gamma**0.5)), "smaller reductions"),
                Change(changed(policy, gamma=rounding.factor(gamma**2)), "larger reductions"),
            ]
        return other_lows(policy) + changes
