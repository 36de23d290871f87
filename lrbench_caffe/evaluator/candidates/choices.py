"""Which candidates to try: the first one of each function, its neighbours, and other rates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lrbench_caffe.errors import InputError
from lrbench_caffe.evaluator.candidates import composition
from lrbench_caffe.evaluator.candidates.candidate import Candidate
from lrbench_caffe.evaluator.candidates.composition import Pieces
from lrbench_caffe.evaluator.candidates.family import changed
from lrbench_caffe.evaluator.candidates.registry import FAMILIES
from lrbench_caffe.evaluator.candidates.rounding import short

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrbench_caffe.policies import Policy

WARMUP_SHARE = 0.05  # of the training
WARMUP_START = 0.1  # of the largest rate: where a warm-up begins
RECIPE = "COS"
ROUNDING = 0.005  # the largest relative error of a number with three digits


def recipe(peak: float, length: int) -> Candidate:
    """Make the candidate of the rule of thumb: a short warm-up, then half a cosine to zero.

    Args:
        peak: The largest rate that it reaches.
        length: Iterations of the training.

    >>> print(recipe(0.1, 1000).text)
    WARMUP(k0=0.01) for 50 then COS(k0=0.1, k1=0.0, l=950)
    """
    return first(RECIPE, peak, length)[0]


def first(function: str, peak: float, length: int) -> tuple[Candidate, str]:
    """Make the first candidate of a function by the paper's rules (section V-B).

    Args:
        function: An LR function from :data:`TUNED`.
        peak: The largest rate that it reaches.
        length: Iterations of the training.

    Returns:
        The candidate, and the reason for its parameters as a sentence.
    """
    family = FAMILIES[function]
    warmup = _warmup_length(length) if family.needs_warmup else 0
    policy, reason = family.first(function, peak, length - warmup)
    sentence = "%s %s" % (function, reason)
    if warmup:
        sentence += "; a warm-up of %g %% of the iterations comes first" % (100 * WARMUP_SHARE)
    return _candidate(policy, warmup, length), sentence


def neighbours(candidate: Candidate) -> list[tuple[Candidate, str]]:
    """List the candidates that differ from a candidate in one respect.

    They have the same length and the same largest rate; :func:`with_peak` changes that.

    Args:
        candidate: Where to start.

    Returns:
        Each neighbour with a description of its difference, e.g. "power 2".
    """
    pieces = candidate.pieces
    main = pieces.policies[pieces.main]
    changes = [
        (pieces.with_piece(pieces.main, policy), difference)
        for policy, difference in FAMILIES[main.function].neighbours(main, pieces.span(pieces.main))
    ]
    neighbours: dict[Candidate, str] = {}
    for changed_pieces, difference in [*changes, *_other_warmups(pieces, candidate)]:
        neighbours.setdefault(Candidate(changed_pieces.policy(), candidate.length), difference)
    neighbours.pop(candidate, None)
    return list(neighbours.items())


def with_peak(candidate: Candidate, peak: float) -> Candidate | None:
    """Scale all rates of a candidate.

    Args:
        candidate: The candidate.
        peak: The largest rate that the new candidate reaches.

    Returns:
        The new candidate, or this one if it reaches the peak within the rounding of its numbers.
        None if two rates which have to differ become equal when they are
        rounded, or if a rate becomes too small or too large for a policy.
    """
    highest = candidate.highest_rate()
    if math.isclose(highest, peak, rel_tol=ROUNDING):
        return candidate
    if not highest:  # a warm-up that lasts longer than the training, from a rate of 0
        return None
    pieces = candidate.pieces
    try:
        for n, policy in enumerate(pieces.policies):
            pieces = pieces.with_piece(n, _scaled(policy, peak / highest))
        return Candidate(pieces.policy(), candidate.length)
    except InputError:
        return None


def with_warmup(candidate: Candidate, share: float) -> Candidate | None:
    """Give a candidate a warm-up of another length.

    Args:
        candidate: The candidate, with or without a warm-up.
        share: Length of the warm-up as a share of the training.

    Returns:
        The new candidate, None if the first piece behind the warm-up would end before it.
    """
    pieces = candidate.pieces
    iterations = max(1, round(share * candidate.length))
    following = pieces.policies[1 if pieces.warmup else 0]
    if iterations >= pieces.end_of(1 if pieces.warmup else 0):
        return None
    start = short(WARMUP_START * following.first)
    return Candidate(pieces.with_warmup(iterations, start).policy(), candidate.length)


def _candidate(policy: Policy, warmup: int, length: int) -> Candidate:
    """A policy of one function as a candidate, behind a warm-up of this length if it is not 0."""
    pieces = Pieces((policy,), (0,), length)
    if warmup:
        start = short(WARMUP_START * policy.first)
        pieces = Pieces((composition.warmup_from(start), policy), (0, warmup), length)
    return Candidate(pieces.policy(), length)


def _warmup_length(length: int) -> int:
    """The iterations of a warm-up; a single iteration has no room for one."""
    return max(1, round(WARMUP_SHARE * length)) if length > 1 else 0


def _scaled(policy: Policy, factor: float) -> Policy:
    """The policy with all rates multiplied by a factor."""
    rates = {
        name: short(value * factor)
        for name, value in policy.parameters.items()
        if name in ("k0", "k1")
    }
    return changed(policy, **rates)


def _other_warmups(pieces: Pieces, candidate: Candidate) -> Iterator[tuple[Pieces, str]]:
    """The pieces without their warm-up and with a longer one, or else with a warm-up."""
    if pieces.warmup:
        yield pieces.with_warmup(0, 0.0), "no warm-up"
        if 2 * pieces.warmup <= pieces.end_of(1) // 2:
            yield pieces.with_warmup(2 * pieces.warmup, 0.0), "a warm-up twice as long"
        return
    warmup = _warmup_length(candidate.length)
    begins_high = pieces.policies[0].first == candidate.highest_rate()
    if begins_high and warmup < pieces.end_of(0):
        start = short(WARMUP_START * pieces.policies[0].first)
        share = "a warm-up of %g %% of the iterations" % (100 * WARMUP_SHARE)
        yield pieces.with_warmup(warmup, start), share
