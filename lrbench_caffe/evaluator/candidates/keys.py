"""When two policies are the same training."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from lrbench_caffe.evaluator.candidates import composition
from lrbench_caffe.evaluator.candidates.family import changed
from lrbench_caffe.policies import Policy
from lrbench_caffe.training.lr_policy import caffe_computes
from lrbench_caffe.training.monitor import single_precision

if TYPE_CHECKING:
    from lrbench_caffe.evaluator.candidates.candidate import Candidate
    from lrbench_caffe.evaluator.candidates.composition import Pieces


def rates_key(candidate: Candidate, length: int, test_interval: int) -> str:
    """Return a text that two candidates share only if their trainings are the same to the last bit.

    Only the rate that the last row records may differ: it is that of the next iteration, which is
    not trained. Different keys do not prove different trainings: Caffe and this program compute
    some formulas with different rounding, and the rates of a PLATEAU depend on the training.

    Args:
        candidate: The candidate.
        length: Iterations of the training.
        test_interval: Iterations between two evaluations, after which a PLATEAU can lower its rate.

    Returns:
        The constant rate if all iterations have the same; else a digest of the rates, or a text of
        the policy if Caffe computes them or they depend on the training.
    """
    policy = candidate.policy(length)
    if policy.has_memory:
        policy = _without_idle_plateaus(composition.pieces(policy, length), test_interval)
    if policy.has_memory:
        return str(policy)
    rates = single_precision(policy)(np.arange(length))
    if caffe_computes(policy, length) and (rates != rates[0]).any():
        return str(policy)
    rates = rates.astype(np.float32)  # what Caffe stores
    if (rates == rates[0]).all():
        return "constant %s" % rates[0]
    return "rates %s" % hashlib.sha256(rates.tobytes()).hexdigest()


def _without_idle_plateaus(pieces: Pieces, test_interval: int) -> Policy:
    """The policy with FIX in place of each PLATEAU that cannot act, and rounded patiences."""
    for n, policy in enumerate(pieces.policies):
        if policy.has_memory:
            plateau = _normal_plateau(policy, pieces, n, test_interval)
            pieces = pieces.with_piece(n, plateau)
    return pieces.policy()


def _normal_plateau(policy: Policy, pieces: Pieces, n: int, test_interval: int) -> Policy:
    """The PLATEAU with a patience in whole test intervals, FIX if it cannot lower its rate.

    It can lower its rate at an evaluation that is at least its patience behind the first one, and
    before its last iteration.
    """
    patience = _rounded_up(policy.parameters["l"], test_interval)
    earliest = _rounded_up(pieces.starts[n], test_interval) + patience
    if earliest >= min(pieces.end_of(n), pieces.length) or policy.parameters["gamma"] == 1:
        return Policy("FIX", k0=policy.parameters["k0"])
    return changed(policy, l=patience)


def _rounded_up(iterations: int, interval: int) -> int:
    return -(-iterations // interval) * interval
