"""What the tuner has to know of a learning rate function: its family."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lrbench_caffe.evaluator.candidates.rounding import short
from lrbench_caffe.policies import Policy

FINAL_SHARE = 0.01  # of the largest rate: where a decay ends (section V-B: not too small)
LOW_SHARE = 0.01  # of the largest rate: where a cycle begins and ends


class Change(NamedTuple):
    """A policy that differs from another one in one respect.

    Attributes:
        policy: The policy.
        difference: The difference in words, e.g. "power 2".
    """

    policy: Policy
    difference: str


class Family:
    """Functions of one kind: how they are stretched, begun with and varied.

    A subclass with its three methods, and a row in ``registry.FAMILIES``, add a function to the
    tuner. The methods receive policies of one function, without a warm-up. `length` is the number
    of iterations for which such a policy runs.

    Attributes:
        needs_warmup: Whether the first candidate has a warm-up, because the function begins at its
            largest rate.
    """

    needs_warmup = True

    def stretched(self, policy: Policy, old: int, new: int) -> Policy:
        """Make the same curve for another number of iterations.

        Args:
            policy: A policy that runs for `old` iterations.
            old: Its number of iterations.
            new: The other number of iterations.
        """
        raise NotImplementedError

    def first(self, function: str, peak: float, length: int) -> tuple[Policy, str]:
        """Make the first policy to try, by the paper's rules (section V-B).

        Args:
            function: Name of the function.
            peak: The largest rate that the policy reaches.
            length: Its number of iterations.

        Returns:
            The policy, and the reason for its parameters as a phrase behind the function's name.
        """
        raise NotImplementedError

    def neighbours(self, policy: Policy, length: int) -> list[Change]:
        """List policies with the same largest rate that differ in one respect.

        Args:
            policy: Where to start.
            length: Its number of iterations.
        """
        raise NotImplementedError


def changed(policy: Policy, **parameters: Any) -> Policy:
    """Return the policy with other values of some parameters."""
    return Policy(policy.function, **{**policy.parameters, **parameters})


def highest(policy: Policy, length: int) -> float:
    """Return the largest rate within a number of iterations; that of a PLATEAU is its k0."""
    return float(np.max(policy.schedule(None)(np.arange(length))))


def bounds(policy: Policy) -> tuple[float, float]:
    """Return the smaller and the larger one of k0 and k1; a k1 that is left out is 0."""
    k0, k1 = policy.parameters["k0"], policy.parameters.get("k1", 0.0)
    return min(k0, k1), max(k0, k1)


def with_low(policy: Policy, low: float) -> Policy:
    """Return the policy with another smaller bound."""
    k0, k1 = policy.parameters["k0"], policy.parameters.get("k1", 0.0)
    return changed(policy, **{"k1" if k1 <= k0 else "k0": short(low)})


def other_lows(policy: Policy) -> list[Change]:
    """List the policy with other values of its smaller bound."""
    low, high = bounds(policy)
    if not low:
        share = "a smallest rate of %g %% of the largest" % (100 * LOW_SHARE)
        return [Change(with_low(policy, LOW_SHARE * high), share)]
    changes = [Change(with_low(policy, low / 10), "the smallest rate divided by 10")]
    if short(5 * low) < high:
        changes.append(Change(with_low(policy, 5 * low), "the smallest rate times 5"))
    return changes
