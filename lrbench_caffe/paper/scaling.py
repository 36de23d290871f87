"""Shorter trainings: the policies of a target at a scale, and the scale of trials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrbench_caffe.errors import InputError
from lrbench_caffe.paper.targets import exact_scale
from lrbench_caffe.policies import Policy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrbench_caffe.paper.targets import Target
    from lrbench_caffe.trial import Trial


def scale_policy(policy: Policy, scale: float) -> Policy:
    """Return a policy for a training that is ``scale`` times as long.

    At iteration ``scale * t`` it has the rate that the given policy has at iteration t:

    - l is multiplied by the scale and rounded.
    - The gamma of EXP, TRIEXP and SINEXP is the decay of one iteration. It becomes
      gamma^(1 / scale).
    - The gamma of INV becomes gamma / scale.
    - The gamma of STEP and NSTEP is the decay of one step. It stays as it is.

    >>> print(scale_policy(Policy.parse("STEP(k0=0.1, gamma=0.85, l=5000)"), 0.1))
    STEP(k0=0.1, gamma=0.85, l=500)

    Raises:
        InputError: Steps would have no iteration, or end at the same iteration.
    """
    if scale == 1:
        return policy
    parameters: dict[str, Any] = policy.parameters
    if "l" in parameters:
        parameters["l"] = _scale_steps(policy, scale)
    if policy.function in ("EXP", "TRIEXP", "SINEXP"):
        parameters["gamma"] = float("%.10g" % parameters["gamma"] ** (1 / scale))
    elif policy.function == "INV":
        parameters["gamma"] = float("%.10g" % (parameters["gamma"] / scale))
    return Policy(policy.function, **parameters)


def _scale_steps(policy: Policy, scale: float) -> int | list[int]:
    """The parameter l of a policy at a scale: a list for NSTEP, a number for other functions."""
    l: Any = policy.parameters["l"]
    steps = [round(step * scale) for step in (l if policy.function == "NSTEP" else (l,))]
    if steps[0] < 1 or len(set(steps)) < len(steps):
        raise InputError(
            "at scale %g, l of %s would be %s, expected different numbers of at least 1: "
            "choose a larger scale" % (scale, policy, steps)
        )
    return steps if policy.function == "NSTEP" else steps[0]


def scaled_policies(target: Target, scale: float) -> dict[str, str]:
    """Return the policies that a target is trained under at a scale.

    Returns:
        The texts of the scaled policies by the texts in ``target.policies``, in their order.

    Raises:
        InputError: Two policies would be the same at this scale, or a policy cannot be scaled.
    """
    texts = {text: str(scale_policy(Policy.parse(text), scale)) for text in target.policies}
    if len(set(texts.values())) < len(texts):
        raise InputError(
            "at scale %g, two policies of %s would be the same: choose a larger scale"
            % (scale, target.name)
        )
    return texts


def scale_of_trials(target: Target, trials: Sequence[Trial]) -> float:
    """Return the scale at which the trials of a target were trained, from their max_iter.

    Raises:
        InputError: There are no trials, they have another network or different lengths, or none of
            them has a policy of the target.
    """
    if not trials:
        raise InputError(
            "no training of %s has begun, so there is nothing to compare: train it with "
            "`lrbench reproduce %s`, or give another export with --from"
            % (target.name, target.name)
        )
    for trial in trials:
        if trial.setup.network.name != target.network:
            raise InputError(
                "a trial has the network %s, but %s has %s: give the export of its study"
                % (trial.setup.network.name, target.name, target.network)
            )
    lengths: set[Any] = {trial.setup.solver.get("max_iter") or 0 for trial in trials}
    if len(lengths) != 1:
        raise InputError(
            "the trials have %s iterations: give the export of a single study of %s"
            % (" and ".join(str(length) for length in sorted(lengths)), target.name)
        )
    scale = exact_scale(target, lengths.pop() / target.setting.max_iter)
    policies = set(scaled_policies(target, scale).values())
    if not any(trial.policy in policies for trial in trials):
        raise InputError("no trial has a policy of %s: give the export of its study" % target.name)
    return scale
