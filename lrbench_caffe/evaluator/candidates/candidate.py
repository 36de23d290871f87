"""The candidate: a policy that can be tried in trainings of any length."""

from __future__ import annotations

from dataclasses import dataclass

from lrbench_caffe.evaluator.candidates import composition, family
from lrbench_caffe.evaluator.candidates.registry import WARMUP, is_known
from lrbench_caffe.policies import Policy, parse_or_none


@dataclass(frozen=True)
class Candidate:
    """A policy, and the length of the training for which it was made.

    At this length the candidate is the policy itself. At another length it is the same curve: it
    has the same rate at the same share of the training, within the rounding of its numbers.

    :func:`from_policy` makes a candidate and checks that the policy runs for its length.

    Attributes:
        original: The policy.
        length: The max_iter that it was made for.
    """

    original: Policy
    length: int

    def policy(self, length: int) -> Policy:
        """Make the policy of a training.

        Args:
            length: Iterations of the training.

        >>> candidate = Candidate(Policy.parse("STEP(k0=0.1, gamma=0.5, l=300)"), 1000)
        >>> print(candidate.policy(1000), candidate.policy(5000))
        STEP(k0=0.1, gamma=0.5, l=300) STEP(k0=0.1, gamma=0.5, l=1500)
        """
        if length == self.length:
            return self.original
        return self.pieces.stretched(length).policy()

    @property
    def text(self) -> str:
        """The canonical text of the policy at its own length."""
        return str(self.original)

    @property
    def function(self) -> str:
        """The LR function; that of the piece which fills most of the training if it has several."""
        return self.pieces.policies[self.pieces.main].function

    @property
    def pieces(self) -> composition.Pieces:
        """The pieces of the policy at its own length."""
        return composition.pieces(self.original, self.length)

    def highest_rate(self, length: int | None = None) -> float:
        """Compute the largest rate that the candidate reaches.

        Args:
            length: Iterations of the training (None: the candidate's own length).

        Returns:
            The rate; for a PLATEAU, it is reached before the rate is lowered.
        """
        length = length or self.length
        return family.highest(self.policy(length), length)


def from_policy(policy: Policy, length: int) -> Candidate | None:
    """Make the candidate that is a policy.

    Args:
        policy: A policy of one or several pieces.
        length: Iterations of the training that uses it.

    Returns:
        The candidate, whose ``policy(length)`` is the policy. None if a training of this length
        cannot use the policy, because it ends earlier (POLY) or is a WARMUP without a next piece;
        and None if a function is not in ``registry.FAMILIES``.

    >>> print(from_policy(Policy.parse("FIX(k0=0.1)"), 1000).policy(200))
    FIX(k0=0.1)
    """
    is_usable = policy.function != WARMUP and policy.end >= length - 1 >= 0
    return Candidate(policy, length) if is_usable and is_known(policy) else None


def from_text(text: str, length: int) -> Candidate | None:
    """Make the candidate of a policy's text, as a database has it.

    Args:
        text: A policy, e.g. ``"FIX(k0=0.1)"``.
        length: Iterations of the training that used it.

    Returns:
        The candidate, or None as for :func:`from_policy` or if the text is not a policy, such as
        that of Caffe's sigmoid.
    """
    policy = parse_or_none(text)
    return from_policy(policy, length) if policy else None
