"""The ``lr_policy`` of a solver prototxt: read as a policy, and written for a policy.

Caffe has six of the 13 functions itself: FIX, STEP, NSTEP, EXP, INV and POLY. Where :func:`install`
leaves the rate to Caffe, the rates, and so the weights, are those of ``caffe train`` to the last
bit. Every other training runs under Caffe's "fixed" policy, and
:class:`lrbench_caffe.training.monitor.Monitor` sets base_lr before every iteration.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lrbench_caffe.errors import InputError, suggestion
from lrbench_caffe.policies import Policy
from lrbench_caffe.training import float32

if TYPE_CHECKING:
    from collections.abc import Iterable

    from caffe.proto import caffe_pb2
    from numpy.typing import NDArray

# Caffe's lr_policy for each function that Caffe also has, and the solver field of each parameter.
LR_POLICIES = {
    "FIX": ("fixed", {"k0": "base_lr"}),
    "STEP": ("step", {"k0": "base_lr", "gamma": "gamma", "l": "stepsize"}),
    "NSTEP": ("multistep", {"k0": "base_lr", "gamma": "gamma", "l": "stepvalue"}),
    "EXP": ("exp", {"k0": "base_lr", "gamma": "gamma"}),
    "INV": ("inv", {"k0": "base_lr", "gamma": "gamma", "p": "power"}),
    "POLY": ("poly", {"k0": "base_lr", "p": "power", "l": "max_iter"}),
}
# The function and the fields of each lr_policy. Caffe's sigmoid is not one of the 13 functions.
_BY_LR_POLICY: dict[str, tuple[str | None, dict[str, str]]] = {
    lr_policy: (function, fields) for function, (lr_policy, fields) in LR_POLICIES.items()
}
_BY_LR_POLICY["sigmoid"] = (None, {"k0": "base_lr", "gamma": "gamma", "l": "stepsize"})

_INT32_END = 2**31


class CaffePolicy(NamedTuple):
    """A schedule that only Caffe can compute.

    It is Caffe's sigmoid, or another lr_policy with a parameter that Policy rejects, such as
    gamma = 1.01. Except for one kind of multistep, its rates can only be read from a Caffe solver.

    Attributes:
        function: Caffe's lr_policy.
        parameters: The solver's fields by name.
    """

    function: str
    parameters: dict[str, object]

    @property
    def has_memory(self) -> bool:
        """False: the rate depends on the iteration alone."""
        return False

    @property
    def counts_calls(self) -> bool:
        """Whether Caffe's rate depends on how often it is asked for.

        Multistep takes one step whenever it is asked for the rate behind a step value. That makes a
        difference if the next step value is not larger. The monitor asks more often than
        `caffe train`, so it computes these rates itself.
        """
        return self.function == "multistep" and self._steps != self.parameters["stepvalue"]

    @property
    def _steps(self) -> tuple[int, ...]:
        """The iterations at which a multistep lowers the rate: one step in an iteration at most."""
        stepvalues: Any = self.parameters["stepvalue"]
        steps: list[int] = []
        for value in stepvalues:
            steps.append(max(value, steps[-1] + 1) if steps else value)
        return tuple(steps)

    def rates(self, iterations: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the rates of a multistep in `caffe train`, which asks once in an iteration.

        Args:
            iterations: The iterations.
        """
        values: dict[str, Any] = self.parameters
        base_lr, gamma = float32.rounded(values["base_lr"]), float32.rounded(values["gamma"])
        steps = np.searchsorted(self._steps, iterations, side="right")
        rates: NDArray[np.float64] = base_lr * np.power(gamma, steps.astype(np.float64))
        return rates

    @property
    def n_params(self) -> int:
        """#Param, counted as for a Policy."""
        return sum(len(v) if isinstance(v, tuple) else 1 for v in self.parameters.values())

    def __str__(self) -> str:
        values = {n: list(v) if isinstance(v, tuple) else v for n, v in self.parameters.items()}
        return "%s(%s)" % (self.function, ", ".join("%s=%s" % item for item in values.items()))


def policy_from_solver(
    solver: caffe_pb2.SolverParameter, epoch: float | None = None
) -> Policy | CaffePolicy:
    """Return the policy that a solver names.

    Args:
        solver: Its lr_policy is one of Caffe's seven names, or the text of a policy.
        epoch: Iterations in an epoch, for a text with lengths in epochs (None: unknown).

    Returns:
        A Policy, or a CaffePolicy if only Caffe can compute the schedule.

    Raises:
        InputError: Lr_policy is missing or unknown, or Caffe would abort on its parameters.
    """
    name = solver.lr_policy
    if "(" in name:
        return Policy.parse(name, epoch)
    if not name:
        raise InputError("the solver has no lr_policy: give it one, or use --policy")
    if name not in _BY_LR_POLICY:
        raise InputError("unknown lr_policy %r%s" % (name, suggestion(name, _BY_LR_POLICY)))
    function, fields = _BY_LR_POLICY[name]
    values = {parameter: _value(getattr(solver, field)) for parameter, field in fields.items()}
    _check_parameters(solver, fields.values())
    if function is not None:
        try:
            return Policy(function, **values)
        except InputError:
            pass  # Caffe runs it although the paper's function does not allow the parameter
    return CaffePolicy(name, {fields[parameter]: value for parameter, value in values.items()})


def install(policy: Policy | CaffePolicy, solver: caffe_pb2.SolverParameter) -> bool:
    """Change a solver so that it trains under a policy.

    Args:
        policy: A Policy; or the CaffePolicy of this very solver.
        solver: The SolverParameter to change.

    Returns:
        Whether Caffe itself computes the rate. If not, the monitor sets base_lr.
    """
    if isinstance(policy, CaffePolicy):
        if policy.counts_calls:
            solver.lr_policy = "fixed"
        return not policy.counts_calls
    if _is_schedule_of(solver, policy):
        return True
    if not caffe_computes(policy, solver.max_iter):
        solver.lr_policy = "fixed"
        solver.base_lr = policy.schedule(None)(0)
        return False
    solver.lr_policy, fields = LR_POLICIES[policy.function]
    for parameter, field in fields.items():
        setattr(solver, field, policy.parameters[parameter])
    return True


def _is_schedule_of(solver: caffe_pb2.SolverParameter, policy: Policy) -> bool:
    """Whether a policy is one of Caffe's, and the solver has it already."""
    if solver.lr_policy not in _BY_LR_POLICY:
        return False
    try:
        return policy == policy_from_solver(solver)
    except InputError:  # a policy replaces this incomplete schedule
        return False


def caffe_computes(policy: Policy, max_iter: int) -> bool:
    """Return whether Caffe computes the rates of a policy itself.

    It does if it has the function, without a floor k1 and with values that its fields hold.

    Args:
        policy: The policy.
        max_iter: Iterations of the training.
    """
    if policy.function not in LR_POLICIES or "k1" in policy.parameters:
        return False
    if policy.function == "NSTEP":
        # Caffe's multistep counts its steps as training proceeds. After a snapshot of another
        # policy it would continue from the count of that policy.
        return False
    length: int = policy.parameters.get("l", 0)
    return length == max_iter if policy.function == "POLY" else length < _INT32_END


def _value(field: Any) -> Any:
    """A solver field as a policy's parameter."""
    if isinstance(field, float):
        return float32.shortest(field)
    return field if isinstance(field, int) else tuple(field)


def _check_parameters(solver: caffe_pb2.SolverParameter, fields: Iterable[str]) -> None:
    """Raise InputError for parameters on which Caffe would abort, or train nothing."""
    name = solver.lr_policy
    if not solver.HasField("base_lr"):
        raise InputError("the solver has no base_lr: give it one, or use --policy")
    for field in fields:
        value = getattr(solver, field)
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(
                "lr_policy %r: invalid %s=%g in the solver prototxt, expected a finite number"
                % (name, field, value)
            )
    if name in ("step", "sigmoid") and solver.stepsize <= 0:
        raise InputError(
            "lr_policy %r: invalid stepsize=%d in the solver prototxt, expected a number of "
            "iterations above 0" % (name, solver.stepsize)
        )
    if name not in ("fixed", "poly") and not solver.gamma >= 0:
        raise InputError(
            "lr_policy %r: invalid gamma=%g in the solver prototxt, expected 0 or more"
            % (name, solver.gamma)
        )
