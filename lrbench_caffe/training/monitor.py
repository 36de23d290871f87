"""The LR schedule monitor: sets base_lr on a Caffe solver before every iteration (section IV).

Caffe computes five of the 13 functions itself.  Where it can, it is left to do so and the monitor only watches: the rates, and
so the weights, are then those of ``caffe train`` to the last bit.  The other functions run under Caffe's "fixed" policy, whose
rate is base_lr.  A policy with memory is shown each evaluation, and is one without until the next.
"""

import dataclasses
from typing import Dict, NamedTuple

import numpy as np

from lrbench_caffe.errors import InputError
from lrbench_caffe.policies import Composition, Policy, suggestion

# Caffe's lr_policy for each function, and Caffe's names of the parameters.
CAFFE_NAMES = {
    "FIX": ("fixed", {"k0": "base_lr"}),
    "STEP": ("step", {"k0": "base_lr", "gamma": "gamma", "l": "stepsize"}),
    "NSTEP": ("multistep", {"k0": "base_lr", "gamma": "gamma", "l": "stepvalue"}),
    "EXP": ("exp", {"k0": "base_lr", "gamma": "gamma"}),
    "INV": ("inv", {"k0": "base_lr", "gamma": "gamma", "p": "power"}),
    "POLY": ("poly", {"k0": "base_lr", "p": "power", "l": "max_iter"}),
}
SIGMOID = {"k0": "base_lr", "gamma": "gamma", "l": "stepsize"}
CAFFE_POLICIES = {
    caffe_name: (function, names) for function, (caffe_name, names) in CAFFE_NAMES.items()
}
CAFFE_POLICIES["sigmoid"] = (None, SIGMOID)


class CaffePolicy(NamedTuple):
    """A schedule that only Caffe has: sigmoid, or one of its others with a parameter that no Policy admits (gamma = 1.01).

    function is Caffe's lr_policy and parameters are the solver's own fields; it has no rate without a Caffe solver.
    """

    function: str
    parameters: Dict[str, object]
    has_memory = False

    @property
    def n_params(self):
        """#Param, counted as for a Policy."""
        return sum(len(v) if isinstance(v, tuple) else 1 for v in self.parameters.values())

    def __str__(self):
        return "%s(%s)" % (
            self.function,
            ", ".join(
                "%s=%s" % (n, list(v) if isinstance(v, tuple) else v)
                for n, v in self.parameters.items()
            ),
        )


def policy_from_solver(solver_param, epoch=None):
    """The policy that a SolverParameter names: a Policy, or a CaffePolicy where only Caffe has it.

    The field lr_policy holds one of Caffe's seven names, or a policy's text; epoch is that of :meth:`Policy.parse`.  Raises
    InputError for any other.
    """
    name = solver_param.lr_policy
    if "(" in name:
        return Policy.parse(name, epoch)
    if not name:
        raise InputError("the solver has no lr_policy: give it one, or use --policy")
    if name not in CAFFE_POLICIES:
        raise InputError("unknown lr_policy %r%s" % (name, suggestion(name, CAFFE_POLICIES)))
    function, names = CAFFE_POLICIES[name]
    fields = {ours: _short(getattr(solver_param, theirs)) for ours, theirs in names.items()}
    _check_caffe(name, solver_param)
    try:
        if function:
            return Policy(function, **fields)
    except InputError:
        pass  # not a policy of the paper, but Caffe runs it
    return CaffePolicy(name, {names[ours]: value for ours, value in fields.items()})


def install(policy, solver_param):
    """Make a SolverParameter train under policy (a Policy replaces what the message has; a CaffePolicy is already there).

    Returns True when Caffe itself computes the rate, to the last bit as its users know it.
    """
    if isinstance(policy, CaffePolicy):
        return True
    if solver_param.lr_policy in CAFFE_POLICIES and policy == policy_from_solver(solver_param):
        return True
    values = policy.parameters
    # Caffe's multistep counts its steps as it goes; after a snapshot from another policy it would count from that one's.
    native = (
        policy.function in CAFFE_NAMES
        and policy.function != "NSTEP"
        and "k1" not in values
        and (
            values["l"] == solver_param.max_iter
            if policy.function == "POLY"
            else values.get("l", 0) < 2**31
        )
    )
    if native:
        solver_param.lr_policy, names = CAFFE_NAMES[policy.function]
        for ours, theirs in names.items():
            setattr(solver_param, theirs, values[ours])
    else:
        solver_param.lr_policy = "fixed"
        solver_param.base_lr = policy.schedule(None)(0)
    return native


class Monitor:
    """Sets base_lr on a solver before every iteration and keeps each mini-batch's loss."""

    def __init__(self, solver, policy, native, iter_size=1, gpu=False, memory=None):
        """native: what :func:`install` returned for the policy; gpu: the losses are read back from the device.

        memory: what a policy with memory goes on from.
        """
        self._solver, self._whole, self.memory = solver, policy, memory
        self._policy = None if native else _single(policy.schedule(memory))
        self._base_lr = solver.param.base_lr
        self.losses = []
        read = loss_reader(solver.net, gpu)
        self._collect = lambda: self.losses.append(read())
        if (
            iter_size > 1
        ):  # several mini-batches an iteration: each one's loss, when its forward pass ends
            last, collect = len(solver.net.layers) - 1, self._collect
            solver.net.after_forward(lambda layer: collect() if layer == last else None)
            self._collect = lambda: None

    @property
    def lr(self):
        """The learning rate of the iteration about to be run: the shortest decimal number that is Caffe's float32."""
        iteration = self._solver.iter
        if self._policy is not None:
            self._solver.param.base_lr = self._rates(iteration, 1)[0]
        return _short(self._solver.lr)

    def observe(self, row):
        """Show an Evaluation to the policy; returns it with the rate that a policy with memory goes on at."""
        if not self._whole.has_memory:
            return row
        self.memory = self._whole.observe(self.memory, row)
        self._policy = _single(self._whole.schedule(self.memory))
        return dataclasses.replace(row, lr=self.lr)

    def step(self, iterations):
        """Train for so many iterations."""
        param, step, collect = self._solver.param, self._solver.step, self._collect
        for rate in self._rates(self._solver.iter, iterations):
            param.base_lr = rate
            step(1)
            collect()

    def _rates(self, start, iterations):
        if self._policy is None:  # Caffe applies its own schedule to a constant base_lr
            return [self._base_lr] * iterations
        return self._policy(np.arange(start, start + iterations)).tolist()


def loss_reader(net, gpu=False):
    """A function that gives the loss of a net's last forward pass, weighted by loss_weight as Caffe sums it."""
    weighted = [
        (net.blobs[name], weight) for name, weight in net.blob_loss_weights.items() if weight
    ]
    if gpu:
        return lambda: sum(weight * float(blob.data.sum()) for blob, weight in weighted)
    views = [
        (blob.data, weight) for blob, weight in weighted
    ]  # on the CPU a blob's memory stays where it is
    if [(view.size, weight) for view, weight in views] == [(1, 1.0)]:
        return views[0][0].item  # the usual net, read in a tenth of a microsecond
    return lambda: sum(weight * float(view.sum()) for view, weight in views)


def _single(policy):
    """A NSTEP policy as Caffe's multistep holds it, k0 and gamma in single precision; any other policy as it is."""
    if isinstance(policy, Composition):
        return Composition(
            *[_single(part) if isinstance(part, Policy) else part for part in policy.parts]
        )
    if policy.function != "NSTEP" or "k1" in policy.parameters:
        return policy
    k0, gamma = (float(np.float32(policy.parameters[name])) for name in ("k0", "gamma"))
    return Policy("NSTEP", k0=k0, gamma=gamma, l=policy.parameters["l"])


def _short(value):
    """A solver's field as Python writes it: floats as the shortest decimal number that is the same float32."""
    if isinstance(value, float):
        return float(str(np.float32(value)))
    return value if isinstance(value, int) else tuple(value)


def _check_caffe(name, solver_param):
    """What Caffe's solver would abort on at its first iteration."""
    if name in ("step", "sigmoid") and solver_param.stepsize <= 0:
        raise InputError(
            "lr_policy %r needs stepsize, a number of iterations above 0, in the solver prototxt"
            % name
        )
    if name not in ("fixed", "poly") and not solver_param.gamma >= 0:
        raise InputError(
            "lr_policy %r needs a gamma of 0 or above, not %g, in the solver prototxt"
            % (name, solver_param.gamma)
        )
