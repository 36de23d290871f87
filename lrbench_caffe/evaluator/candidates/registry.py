"""Which family each learning rate function belongs to, in the order in which they are tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrbench_caffe.evaluator.candidates.cycles import Cosine, Restarts, Rising, RisingExponential
from lrbench_caffe.evaluator.candidates.decays import Constant, Exponential, Inverse, Polynomial
from lrbench_caffe.evaluator.candidates.plateau import Plateau
from lrbench_caffe.evaluator.candidates.steps import EqualSteps, Milestones
from lrbench_caffe.policies import Composition

if TYPE_CHECKING:
    from lrbench_caffe.evaluator.candidates.family import Family
    from lrbench_caffe.policies import Policy

# The functions that are tuned, in the order in which they are tried: the best function of each
# kind first (cycles, steps, smooth decays), then the others. "Best" follows Tables VII to IX.
FAMILIES: dict[str, Family] = {
    "SINEXP": RisingExponential(),
    "NSTEP": Milestones(),
    "COS": Cosine(falls=1),
    "SIN2": Rising(cycles=2),
    "TRIEXP": RisingExponential(),
    "POLY": Polynomial(),
    "SIN": Rising(),
    "TRI2": Rising(cycles=2),
    "TRI": Rising(),
    "SGDR": Restarts(falls=2, mult=2),
    "PLATEAU": Plateau(),
    "STEP": EqualSteps(),
    "EXP": Exponential(),
    "INV": Inverse(),
    "FIX": Constant(),
}
TUNED = tuple(FAMILIES)

WARMUP = "WARMUP"  # goes before a tuned function
_BY_FUNCTION: dict[str, Family] = {**FAMILIES, WARMUP: Constant()}


def is_known(policy: Policy) -> bool:
    """Return whether each function of a policy has a family."""
    pieces = policy.pieces if isinstance(policy, Composition) else (policy,)
    return all(piece.function in _BY_FUNCTION for piece in pieces)


def family(function: str) -> Family:
    """Return the family of a tuned function, or of WARMUP."""
    return _BY_FUNCTION[function]
