"""Policies as pieces: what a candidate with a warm-up, or of several policies, is made of."""

from __future__ import annotations

from typing import NamedTuple

from lrbench_caffe.evaluator.candidates import stretching
from lrbench_caffe.evaluator.candidates.registry import WARMUP, family
from lrbench_caffe.policies import Composition, Policy


class Pieces(NamedTuple):
    """The pieces of a policy for a training.

    Attributes:
        policies: Policies of one function each.
        starts: The first iteration of each.
        length: Iterations of the training.
    """

    policies: tuple[Policy, ...]
    starts: tuple[int, ...]
    length: int

    @property
    def main(self) -> int:
        """The index of the piece that fills most of the training, and is not a warm-up."""
        return max(
            (n for n, policy in enumerate(self.policies) if policy.function != WARMUP),
            key=lambda n: min(self.end_of(n), self.length) - self.starts[n],
        )

    @property
    def warmup(self) -> int:
        """The iterations of the warm-up at the beginning, 0 without one."""
        return self.starts[1] if self.policies[0].function == WARMUP else 0

    def span(self, n: int) -> int:
        """Return the number of iterations of a piece; the last one lasts to the end."""
        return max(1, self.end_of(n) - self.starts[n])

    def end_of(self, n: int) -> int:
        """Return the iteration before which a piece ends; it may be beyond the training."""
        return (*self.starts[1:], self.length)[n]

    def policy(self) -> Policy:
        """Return the policy that consists of the pieces."""
        if len(self.policies) == 1:
            return self.policies[0]
        parts: list[Policy | int] = [self.policies[0]]
        for policy, start, end in zip(self.policies[1:], self.starts, self.starts[1:]):
            parts += [end - start, policy]
        return Composition(*parts)

    def with_piece(self, n: int, policy: Policy) -> Pieces:
        """Return the pieces with another policy in place of the n-th."""
        policies = self.policies[:n] + (policy,) + self.policies[n + 1 :]
        return self._replace(policies=policies)

    def stretched(self, length: int) -> Pieces:
        """Return the pieces for a training of another length, each stretched to its new span."""
        starts = (0, *stretching.marks(self.starts[1:], self.length, length))
        other = Pieces(self.policies, starts, length)
        policies = tuple(
            family(policy.function).stretched(policy, self.span(n), other.span(n))
            for n, policy in enumerate(self.policies)
        )
        return other._replace(policies=policies)

    def with_warmup(self, iterations: int, start: float) -> Pieces:
        """Return the pieces with a warm-up of another length, at the expense of the next piece.

        Args:
            iterations: Its length, 0 for no warm-up. It ends before the next piece does.
            start: The rate at its beginning, if the pieces do not have a warm-up.
        """
        index = 1 if self.warmup else 0
        following = self.policies[index]
        fitted = family(following.function).stretched(
            following, self.span(index), self.end_of(index) - iterations
        )
        policies = (fitted, *self.policies[index + 1 :])
        starts = self.starts[index + 1 :]
        if not iterations:
            return Pieces(policies, (0, *starts), self.length)
        warmup = self.policies[0] if self.warmup else warmup_from(start)
        return Pieces((warmup, *policies), (0, iterations, *starts), self.length)


def warmup_from(rate: float) -> Policy:
    """Return a warm-up that begins at a rate."""
    return Policy(WARMUP, k0=rate)


def pieces(policy: Policy, length: int) -> Pieces:
    """Return the pieces of a policy for a training of this length."""
    if not isinstance(policy, Composition):
        return Pieces((policy,), (0,), length)
    starts = [0]
    for iterations in policy.lengths:
        starts.append(starts[-1] + iterations)
    return Pieces(policy.pieces, tuple(starts), length)
