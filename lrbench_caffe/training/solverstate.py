"""A snapshot that Caffe takes for its user, and what depends on earlier rows beside it.

Beside ``PREFIX_iter_N.solverstate``, the file ``PREFIX_iter_N.policystate`` keeps the state of a
policy with memory and of early stopping. A trial's own snapshots (``snapshots``) need none, since
they have the rows.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from caffe.proto import caffe_pb2
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError

from lrbench_caffe import files
from lrbench_caffe.errors import InputError
from lrbench_caffe.policies.plateau import Memory
from lrbench_caffe.training import encoding, patience
from lrbench_caffe.training.files import find_file
from lrbench_caffe.training.patience import EarlyStop

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrbench_caffe.policies import Policy
    from lrbench_caffe.training.lr_policy import CaffePolicy


class PolicyState(NamedTuple):
    """The state from which a policy with memory resumes.

    Attributes:
        memory: Its memory (None: there was no row yet).
        losses: The losses of the mini-batches since the last evaluation.
    """

    memory: Memory | None
    losses: tuple[float, ...]


NO_STATE = PolicyState(None, ())


def snapshot_stem(param: caffe_pb2.SolverParameter, iteration: int) -> str:
    """Return what the paths of Caffe's snapshot of an iteration begin with, up to the dot.

    Args:
        param: The resolved SolverParameter.
        iteration: The iteration.
    """
    return "%s_iter_%d" % (encoding.to_path(param.snapshot_prefix), iteration)


def snapshot_path(param: caffe_pb2.SolverParameter, iteration: int) -> str:
    """Return where Caffe writes the solver state of its snapshot of an iteration.

    Args:
        param: The resolved SolverParameter.
        iteration: The iteration.
    """
    ending = ".h5" if param.snapshot_format == caffe_pb2.SolverParameter.HDF5 else ""
    return "%s.solverstate%s" % (snapshot_stem(param, iteration), ending)


def snapshot_iteration(path: str) -> int:
    """Return the iteration of a snapshot.

    Args:
        path: A .solverstate or .solverstate.h5.

    Raises:
        InputError: The file is missing or is not a solver state.
    """
    hint = "give the path of a .solverstate that a snapshot wrote"
    path = find_file(path, ["."], "the solver state to resume from", hint)
    try:
        iteration = _hdf5_iteration(path) if path.endswith(".h5") else _binary_iteration(path)
    except (OSError, KeyError, DecodeError):
        iteration = None
    if iteration is None:
        raise InputError("%s is not a solver state: %s" % (path, hint))
    return iteration


def with_weights(solverstate: bytes, weights: str) -> bytes:
    """Return the content of a .solverstate that names another file with the weights.

    Args:
        solverstate: The content of the .solverstate.
        weights: The path of the .caffemodel.
    """
    # The path may have any bytes, but learned_net holds valid text only. Any has a field for bytes
    # with the same number, 2.
    field = any_pb2.Any(value=os.fsencode(weights)).SerializeToString()
    if solverstate.find(field, 0, len(field) + 20) >= 0:  # Caffe writes it near the beginning
        return solverstate
    return solverstate + field  # of a field that occurs twice, the last value counts


def _hdf5_iteration(path: str) -> int:
    import h5py

    with h5py.File(path, "r") as state:
        return int(state["iter"][()].item())


def _binary_iteration(path: str) -> int | None:
    with open(path, "rb") as file:
        state = caffe_pb2.SolverState.FromString(file.read())
    # Other messages may parse as a SolverState too, but not with both of its fields.
    return state.iter if state.HasField("iter") and state.history else None


def write_policy_state(
    stem: str,
    policy: Policy | CaffePolicy,
    memory: Memory | None,
    losses: list[float],
    early_stop: EarlyStop | None = None,
) -> None:
    """Write the state of a policy, and of early stopping, beside a snapshot.

    Args:
        stem: The snapshot's :func:`snapshot_stem`.
        policy: The policy, for which the state is valid.
        memory: Its memory.
        losses: The losses of the mini-batches since the last evaluation.
        early_stop: What ends the training early, None if nothing does.

    Raises:
        OSError: The file cannot be written.
    """
    content: dict[str, Any] = {"policy": str(policy), "memory": memory, "losses": losses}
    if early_stop:
        metric = early_stop.patience.metric
        content["patience"] = {"metric": metric, "memory": early_stop.memory}
    state = json.dumps(content)
    with files.open_output(stem + ".policystate") as file:
        file.write(state.encode())


def read_policy_state(solverstate: str, policy: Policy | CaffePolicy) -> PolicyState:
    """Read the state of a policy from beside a snapshot.

    Args:
        solverstate: The path of the snapshot's .solverstate or .solverstate.h5.
        policy: The policy to resume.

    Raises:
        InputError: The state is missing, damaged, or that of another policy.
    """
    stem = _stem(solverstate)
    path = stem + ".policystate"
    instead = "start from its weights with --weights %s.caffemodel" % stem
    try:
        with open(path) as file:
            content = json.load(file)
        memory = content["memory"] and Memory(*content["memory"])
        state = PolicyState(memory, tuple(content["losses"]))
        owner = content["policy"]
    except OSError as error:
        raise InputError(
            "the state of %s at the snapshot cannot be read from %s (%s): put the file there, or %s"
            % (policy, path, error.strerror, instead)
        ) from None
    except (ValueError, KeyError, TypeError):
        raise InputError(
            "%s is not what LRBench wrote with the snapshot: put the right file there, or %s"
            % (path, instead)
        ) from None
    if owner != str(policy):
        raise InputError(
            "the snapshot belongs to a training under %s: resume under that policy, or %s"
            % (owner, instead)
        )
    return state


def resumed_early_stop(
    stopping: patience.Patience, solverstate: str | None, emit: Callable[[str, Any], object]
) -> tuple[EarlyStop, tuple[float, ...]]:
    """Return what ends a training early, with the state that it had at a snapshot.

    Args:
        stopping: When the training ends early.
        solverstate: The path of the snapshot, None if the training begins at iteration 0.
        emit: Receives a "note" if the snapshot does not have a state for the metric.

    Returns:
        What ends the training early, and the losses of the mini-batches since the last evaluation.
    """
    if solverstate is None:
        return EarlyStop(stopping, patience.Memory(None, 0)), ()
    try:
        with open(_stem(solverstate) + ".policystate") as file:
            content = json.load(file)
        if content["patience"]["metric"] == stopping.metric:
            best, since = content["patience"]["memory"]
            memory = patience.Memory(None if best is None else float(best), int(since))
            return EarlyStop(stopping, memory), tuple(map(float, content["losses"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # a snapshot of a training without patience
    iteration = snapshot_iteration(solverstate)
    emit(
        "note",
        "the snapshot %s does not have the improvements of %s before it: --patience counts from "
        "iteration %d" % (solverstate, stopping.metric, iteration),
    )
    return EarlyStop(stopping, patience.Memory(None, iteration)), ()


def _stem(solverstate: str) -> str:
    """The path of a snapshot without .solverstate or .solverstate.h5."""
    stem = solverstate[: -len(".h5")] if solverstate.endswith(".h5") else solverstate
    return os.path.splitext(stem)[0]
