"""Decays in steps: STEP and NSTEP."""

from __future__ import annotations

import math

from lrbench_caffe.evaluator.candidates import rounding, stretching
from lrbench_caffe.evaluator.candidates.decays import GammaDecay
from lrbench_caffe.evaluator.candidates.family import FINAL_SHARE, Change, changed
from lrbench_caffe.policies import Policy

STEPS = 3  # of STEP
NSTEP_SHARES = (0.5, 0.75, 0.9)  # of the training: NSTEP's steps
EARLIER = 0.8  # of their iterations: where NSTEP's steps are tried, too
_REASON = "lowers the rate in %d steps to %g %% of its largest rate"


class Stepped(GammaDecay):
    """Decays that multiply the rate by gamma a number of times."""

    def count(self, policy: Policy, length: int) -> int:
        """Count the steps within a number of iterations."""
        raise NotImplementedError

    def final(self, policy: Policy, length: int) -> float:
        """Return gamma ^ count."""
        return float(policy.parameters["gamma"] ** self.count(policy, length))

    def with_final(self, policy: Policy, length: int, final: float) -> Policy:
        """Take the root of the last value; without steps, every gamma has the same rates."""
        count = self.count(policy, length)
        return changed(policy, gamma=rounding.factor(final ** (1 / count))) if count else policy

    def _with_equal_final(self, policy: Policy, count: int, length: int) -> Policy:
        """The policy with the gamma that ends where `count` steps of its gamma would end."""
        own = self.count(policy, length)
        if not own or own == count:
            return policy
        return changed(policy, gamma=rounding.factor(policy.parameters["gamma"] ** (count / own)))


class EqualSteps(Stepped):
    """STEP."""

    def stretched(self, policy: Policy, old: int, new: int) -> Policy:
        """Stretch l; where the number of steps cannot stay the same, gamma makes up for it."""
        l = stretching.period(policy.parameters["l"], old, new, lambda l, t: t // l)
        return self._with_equal_final(changed(policy, l=l), self.count(policy, old), new)

    def first(self, function: str, peak: float, length: int) -> tuple[Policy, str]:
        """Fall in STEPS steps to FINAL_SHARE of the peak."""
        l = math.ceil(length / (STEPS + 1))
        policy = Policy(function, k0=rounding.short(peak), gamma=0.5, l=l)
        reason = _REASON % (self.count(policy, length), 100 * FINAL_SHARE)
        return self.with_final(policy, length, FINAL_SHARE), reason

    def count(self, policy: Policy, length: int) -> int:
        """Count the multiples of l."""
        return int((length - 1) // policy.parameters["l"])

    def shapes(self, policy: Policy, length: int) -> list[Change]:
        """List the policy with one step more and one step less."""
        count, final = self.count(policy, length), self.final(policy, length)
        if not count:
            return []
        return [
            Change(
                self.with_final(changed(policy, l=math.ceil(length / (n + 1))), length, final),
                "%d step%s" % (n, "s" if n > 1 else ""),
            )
            for n in (count + 1, count - 1)
            if n
        ]


class Milestones(Stepped):
    """NSTEP."""

    def stretched(self, policy: Policy, old: int, new: int) -> Policy:
        """Stretch each step; if the iterations do not suffice, gamma makes up for lost steps."""
        steps = stretching.marks(policy.parameters["l"], old, new)
        return self._with_equal_final(changed(policy, l=steps), self.count(policy, old), new)

    def first(self, function: str, peak: float, length: int) -> tuple[Policy, str]:
        """Fall at NSTEP_SHARES of the training to FINAL_SHARE of the peak."""
        percent = [round(100 * share) for share in NSTEP_SHARES]
        policy = self.at_steps(peak, stretching.marks(percent, 100, length), length)
        return policy, _REASON % (len(percent), 100 * FINAL_SHARE)

    def at_steps(self, peak: float, steps: list[int], length: int) -> Policy:
        """Make the policy that falls at these iterations to FINAL_SHARE of the peak."""
        policy = Policy("NSTEP", k0=rounding.short(peak), gamma=0.5, l=steps)
        return self.with_final(policy, length, FINAL_SHARE)

    def count(self, policy: Policy, length: int) -> int:
        """Count the steps before the end."""
        return sum(step < length for step in policy.parameters["l"])

    def shapes(self, policy: Policy, length: int) -> list[Change]:
        """List the policy with earlier steps, and with one step more."""
        steps = [step for step in policy.parameters["l"] if step < length]
        if not steps:
            return []
        changes = []
        earlier = stretching.marks(steps, length, round(EARLIER * length))
        if earlier != steps:
            difference = "each step %.0f %% earlier" % (100 - 100 * EARLIER)
            changes.append(Change(changed(policy, l=earlier), difference))
        further = (steps[-1] + length) // 2
        if steps[-1] < further < length:
            more = changed(policy, l=[*steps, further])
            more = self.with_final(more, length, self.final(policy, length))
            changes.append(Change(more, "%d steps" % (len(steps) + 1)))
        return changes
