"""The LR schedule monitor: sets base_lr on a Caffe solver before every iteration (section IV)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lrbench_caffe.policies import Composition, Policy
from lrbench_caffe.training import float32
from lrbench_caffe.training.lr_policy import CaffePolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    import caffe
    from numpy.typing import NDArray

    from lrbench_caffe.policies.plateau import Memory
    from lrbench_caffe.trial import Evaluation


# Caffe's own losses. On a GPU, too, they write their value to the host's memory at once. It is
# read there, and nothing waits for the backward pass.
HOST_LOSSES = (
    "ContrastiveLoss",
    "EuclideanLoss",
    "HingeLoss",
    "InfogainLoss",
    "MultinomialLogisticLoss",
    "SigmoidCrossEntropyLoss",
    "SoftmaxWithLoss",
)


class Monitor:
    """Sets base_lr before every iteration and records the loss of every mini-batch.

    Where Caffe computes the rate itself, base_lr stays at the solver's value. A policy with memory
    receives each evaluation and has a fixed schedule until the next one.

    Attributes:
        losses: The losses of the mini-batches since the last evaluation.
        memory: The memory of a policy with memory, None for any other and before the first row.
    """

    def __init__(
        self,
        solver: caffe._caffe.Solver,
        policy: Policy | CaffePolicy,
        native: bool,
        iter_size: int = 1,
        gpu: bool = False,
        memory: Memory | None = None,
    ) -> None:
        """Watch a solver.

        Args:
            solver: The Caffe solver, built from a SolverParameter that
                :func:`lrbench_caffe.training.lr_policy.install` has changed.
            policy: The policy to train under.
            native: Whether Caffe computes the rate, as ``install`` returned it.
            iter_size: Mini-batches in an iteration.
            gpu: Whether the net runs on a GPU.
            memory: The memory that a policy with memory resumes with.
        """
        self.losses: list[float] = []
        self.memory = memory
        self._solver, self._policy = solver, policy
        self._base_lr = solver.param.base_lr
        self._schedule: Callable[[NDArray[np.int64]], NDArray[np.float64]] | None = None
        if isinstance(policy, CaffePolicy):
            self._schedule = None if native else policy.rates
        elif not native:
            self._schedule = single_precision(policy.schedule(memory))
        self._after_iteration = self._record_losses(loss_reader(solver.net, gpu), iter_size)

    @property
    def lr(self) -> float:
        """The learning rate of the next iteration: Caffe's float32 as its shortest decimal."""
        if self._schedule is not None:
            self._solver.param.base_lr = self._rates(self._solver.iter, 1)[0]
        return float32.shortest(self._solver.lr)

    def observe(self, row: Evaluation) -> Evaluation:
        """Give an evaluation to the policy.

        Args:
            row: The evaluation, with the rate that was valid before it.

        Returns:
            The row, with the rate at which a policy with memory continues.
        """
        policy = self._policy
        if isinstance(policy, CaffePolicy) or not policy.has_memory:
            return row
        self.memory = policy.observe(self.memory, row)
        self._schedule = single_precision(policy.schedule(self.memory))
        return dataclasses.replace(row, lr=self.lr)

    def step(self, iterations: int) -> None:
        """Train for a number of iterations."""
        param, step, record = self._solver.param, self._solver.step, self._after_iteration
        for rate in self._rates(self._solver.iter, iterations):
            param.base_lr = rate
            step(1)
            record()

    def _rates(self, start: int, iterations: int) -> list[float]:
        if self._schedule is None:  # Caffe applies its own schedule to a constant base_lr
            return [self._base_lr] * iterations
        rates: list[float] = self._schedule(np.arange(start, start + iterations)).tolist()
        return rates

    def _record_losses(self, read: Callable[[], float], iter_size: int) -> Callable[[], None]:
        """Arrange that each mini-batch's loss is recorded; return what to call per iteration."""

        def record() -> None:
            self.losses.append(read())

        if iter_size <= 1:
            return record
        # An iteration has several mini-batches: record each loss at the end of its forward pass.
        last = len(self._solver.net.layers) - 1
        self._solver.net.after_forward(lambda layer: record() if layer == last else None)
        return lambda: None


class WeightedBlob(NamedTuple):
    """A blob that the loss of a net is made of.

    Attributes:
        blob: The Caffe blob; its values are summed.
        weight: Its loss_weight.
        type: The type of the layer that computes it. It is Split if other layers read the blob,
            too; a Split moves the memory of the blob at the first forward pass.
    """

    blob: caffe._caffe.Blob
    weight: float
    type: str

    def stays_in_host_memory(self, gpu: bool) -> bool:
        """Whether each forward pass writes the blob to the same place in the host's memory."""
        if gpu:
            return self.type in HOST_LOSSES and self.blob.count == 1
        return self.type.endswith("Loss")


def weighted_losses(net: caffe.Net) -> list[WeightedBlob]:
    """Return the blobs that the loss of a net is made of.

    They are read by number, not by name: Caffe gives several losses without a top the same name.
    """
    types = {
        top: layer.type for index, layer in enumerate(net.layers) for top in net._top_ids(index)
    }
    return [
        WeightedBlob(blob, weight, types[number])
        for number, (blob, weight) in enumerate(zip(net._blobs, net._blob_loss_weights))
        if weight
    ]


def loss_reader(net: caffe.Net, gpu: bool = False) -> Callable[[], float]:
    """Return a function that reads the loss of the last forward pass of a net.

    Args:
        net: A Caffe net.
        gpu: Whether the net runs on a GPU.

    Returns:
        A function without arguments; its value is the sum of the losses, weighted by loss_weight.
    """
    weighted = weighted_losses(net)
    if not all(loss.stays_in_host_memory(gpu) for loss in weighted):
        return lambda: sum(loss.weight * float(loss.blob.data.sum()) for loss in weighted)
    # One view serves all iterations.
    views = [(loss.blob.data, loss.weight) for loss in weighted]
    if [(view.size, weight) for view, weight in views] == [(1, 1.0)]:
        item: Callable[[], float] = views[0][0].item  # the usual net, read in 0.1 microseconds
        return item
    return lambda: sum(weight * float(view.sum()) for view, weight in views)


def single_precision(policy: Policy) -> Policy:
    """Return an NSTEP with k0 and gamma in single precision, as in Caffe's multistep.

    Args:
        policy: The policy. Pieces of other functions, and an NSTEP with a floor k1, do not change.
    """
    if isinstance(policy, Composition):
        parts = [single_precision(p) if isinstance(p, Policy) else p for p in policy.parts]
        return Composition(*parts)
    if policy.function != "NSTEP" or "k1" in policy.parameters:
        return policy
    values = policy.parameters
    k0, gamma = values["k0"], values["gamma"]
    # Neither can be 0. A number that rounds to 0 leads to the rate 0 in single precision as it is.
    return Policy(
        "NSTEP",
        k0=float32.rounded(k0) or k0,
        gamma=float32.rounded(gamma) or gamma,
        l=values["l"],
    )
