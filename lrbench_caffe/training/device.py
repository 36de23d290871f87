"""The device of a training: the CPU, or a GPU that this Caffe can use."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import caffe
from caffe.proto import caffe_pb2

from lrbench_caffe.errors import InputError, fatal_message

if TYPE_CHECKING:
    from collections.abc import Callable

# A part of Caffe's message, and its meaning.
GPU_PROBLEMS = (
    ("CPU-only Caffe", "this Caffe is built for the CPU only"),
    ("invalid device ordinal", "there is no GPU with this index; `nvidia-smi -L` lists them"),
    (
        "driver version is insufficient",
        "there is no NVIDIA driver, or it is too old for this Caffe's CUDA",
    ),
    ("no CUDA-capable device", "the NVIDIA driver finds no GPU"),
)


def choose_device(
    param: caffe_pb2.SolverParameter, gpu: int | None, emit: Callable[[str, Any], object]
) -> bool:
    """Set Caffe's mode, and solver_mode and device_id to match.

    Args:
        param: The SolverParameter, which is changed.
        gpu: The index of the GPU to use (None: follow the prototxt where this Caffe can).
        emit: Receives a "note" if the prototxt asks for a GPU that cannot be used.

    Returns:
        Whether the training runs on a GPU.

    Raises:
        InputError: The GPU with the index gpu cannot be used.
    """
    index = param.device_id if gpu is None else gpu
    if gpu is not None or _asks_for_gpu(param):
        problem = _probe(index)
        if problem is None:
            caffe.set_device(index)
            caffe.set_mode_gpu()
            param.solver_mode, param.device_id = caffe_pb2.SolverParameter.GPU, index
            return True
        if gpu is not None:
            raise InputError(
                "GPU %d cannot be used (%s): leave --gpu out to train on the CPU" % (gpu, problem)
            )
        note = "the prototxt asks for a GPU, which cannot be used (%s): training on the CPU"
        emit("note", note % problem)
    caffe.set_mode_cpu()
    param.solver_mode = caffe_pb2.SolverParameter.CPU
    return False


def gpu_problem(message: str) -> str:
    """Explain the message with which Caffe refused a GPU; an unknown message explains itself."""
    return next((meaning for part, meaning in GPU_PROBLEMS if part in message), message)


def _asks_for_gpu(param: caffe_pb2.SolverParameter) -> bool:
    """Whether the prototxt sets solver_mode to GPU; as a default, GPU is not a request."""
    gpu: bool = param.solver_mode == caffe_pb2.SolverParameter.GPU
    return param.HasField("solver_mode") and gpu


def _probe(index: int) -> str | None:
    """Why Caffe cannot use a GPU, or None if it can; tried in another process, as it may abort."""
    code = "import caffe; caffe.set_mode_gpu(); caffe.set_device(%d)" % index
    probe = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if probe.returncode == 0:
        return None
    message = fatal_message(probe.stderr)
    return gpu_problem(message or "Caffe ended with status %d" % probe.returncode)
