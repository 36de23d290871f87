"""The pool of this machine: one training at a time on each core, or on each GPU."""

from __future__ import annotations

import dataclasses
import os
import queue
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, cast

from lrbench_caffe import policies
from lrbench_caffe.errors import InputError, TrialError
from lrbench_caffe.study import pooled, process
from lrbench_caffe.study.interfaces import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from lrbench_caffe.study.events import OnJobEvent
    from lrbench_caffe.study.stop import Stop
    from lrbench_caffe.trial import Job, Setup


class Cores(Pool):
    """Trains jobs side by side on this machine, each with one BLAS thread."""

    def __init__(
        self,
        jobs: int | None = None,
        gpus: Sequence[int] = (),
        train: Callable[..., object] = process.run,
    ) -> None:
        """Set up the pool.

        Args:
            jobs: The number of trainings at the same time (None: one per GPU in gpus, or one per
                usable core if there are none).
            gpus: The device indexes to spread the trainings over. Without them, a training uses
                the device that its prototxt selects.
            train: The function that trains a job, called like
                :func:`lrbench_caffe.study.process.run`.
        """
        self._slots = jobs or len(gpus) or usable_cores()
        self._gpus, self._train, self._patience = gpus, train, pooled.Patience()
        self._devices: queue.Queue[int | None] = queue.Queue()
        for slot in range(self._slots):
            self._devices.put(gpus[slot % len(gpus)] if gpus else None)

    def check(self, jobs: Sequence[Job]) -> None:
        """Check jobs of one solver before a study records them, because they stay in it.

        The first one shows whether the solver, its data and the GPU can be used. The others differ
        in policy and seed.

        Args:
            jobs: The jobs, each as :func:`lrbench_caffe.study.checked_job` returns it.

        Raises:
            InputError: A job can never be trained.
            TrialError: The process that describes a job could not be started.
        """
        first, *others = [
            dataclasses.replace(job, gpu=self._gpus[0]) if self._gpus else job for job in jobs
        ]
        setup = process.describe(first).setup
        known = {first.policy}
        for job in others:
            if job.policy not in known and _may_not_fit(job.policy, setup):
                process.describe(job)  # raises an error with the reason
            known.add(job.policy)

    def run(self, jobs: Sequence[Job], stop: Stop, on_event: OnJobEvent) -> None:
        """Train every job, see :meth:`lrbench_caffe.study.interfaces.Pool.run`.

        on_event is called from several threads.

        Raises:
            TrialError: The system has no threads left.
        """
        with ThreadPoolExecutor(self._slots) as threads:
            trainings: list[Future[None]] = []
            try:
                for job in jobs:
                    trainings.append(threads.submit(self._train_job, job, stop, on_event))
            except RuntimeError as error:
                for training in trainings:
                    training.cancel()
                raise TrialError(
                    "cannot train %d at a time (%s): end other programs, or give a smaller --jobs"
                    % (self._slots, error)
                ) from None
            for training in trainings:
                training.result()  # raises what a thread has raised

    def _train_job(self, job: Job, stop: Stop, on_event: OnJobEvent) -> None:
        if stop.requests:
            return
        device = self._devices.get()
        try:
            pooled.run(
                job if device is None else dataclasses.replace(job, gpu=device),
                stop,
                lambda kind, content: on_event(job, kind, content),
                self._patience,
                self._train,
            )
        finally:
            self._devices.put(device)


def _may_not_fit(text: str | None, setup: Setup) -> bool:
    """Whether a training can refuse a policy that can be read: one that ends early or observes."""
    policy = policies.parse_or_none(text, setup.epoch) if text else None
    if policy is None:
        return text is not None
    return policy.has_memory or policy.end < cast("int", setup.solver["max_iter"])


def usable_cores() -> int:
    """Return the number of cores that CPU affinity and cgroups leave to this process."""
    from dask.system import cpu_count  # slow to import

    cores: int = cpu_count()
    return cores


def parse_gpus(text: str) -> tuple[int, ...]:
    """Parse the value of ``--gpu``, in the form that Caffe's own command accepts.

    Args:
        text: Device indexes such as "0" or "0,2", or "all": every GPU that nvidia-smi lists, and
            that CUDA_VISIBLE_DEVICES names if it is set.

    Returns:
        The device indexes, without duplicates.

    Raises:
        InputError: The text has another form, or "all" is no GPU.

    Example:
        >>> parse_gpus("0,2")
        (0, 2)
    """
    if text == "all":
        return _all_gpus()
    if not re.fullmatch("[0-9]{1,4}(,[0-9]{1,4})*", text):
        raise InputError("invalid --gpu %s: expected indexes such as 0 or 0,1, or all" % text)
    return tuple(dict.fromkeys(int(index) for index in text.split(",")))


def _all_gpus() -> tuple[int, ...]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return tuple(range(_listed_gpus()))
    # A container may lack nvidia-smi.
    count = _visible_gpus(visible, _listed_gpus() if shutil.which("nvidia-smi") else None)
    if not count:
        raise InputError(
            "--gpu all: CUDA_VISIBLE_DEVICES=%s names no GPU: change it, or omit --gpu to train on "
            "the CPU" % visible
        )
    return tuple(range(count))


def _listed_gpus() -> int:
    """The number of GPUs that nvidia-smi lists."""
    try:
        nvidia_smi = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    except OSError as error:
        raise InputError(
            "--gpu all: cannot run nvidia-smi (%s): list the GPUs, for example --gpu 0,1"
            % error.strerror
        ) from None
    gpus = [line for line in nvidia_smi.stdout.splitlines() if line.startswith("GPU ")]
    if not gpus:
        raise InputError("--gpu all: nvidia-smi lists no GPU: omit --gpu to train on the CPU")
    return len(gpus)


def _visible_gpus(visible: str, listed: int | None) -> int:
    """The number of GPUs that CUDA sees. It numbers them from 0, and stops at a wrong name."""
    seen: set[str] = set()
    for name in (name.strip() for name in visible.split(",")):
        is_index = name.isascii() and name.isdigit() and (listed is None or int(name) < listed)
        if name in seen or not (is_index or name.startswith(("GPU-", "MIG-"))):
            break
        seen.add(name)
    return len(seen)
