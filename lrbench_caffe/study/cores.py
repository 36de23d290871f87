"""A pool of this machine: as many trainings side by side as it has cores, or GPUs."""

import dataclasses
import queue
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

from lrbench_caffe.errors import InputError, TrialError
from lrbench_caffe.study import process


class Cores:
    """So many trainings side by side, each with one BLAS thread, and on a GPU of its own where given."""

    def __init__(self, jobs=None, gpus=(), train=process.run):
        """jobs: trainings at a time (None: one for each of the GPUs, which are device indexes, else one for each usable core)."""
        self._slots = jobs or len(gpus) or usable_cores()
        self._train, self._devices = train, queue.Queue()
        for slot in range(self._slots):
            self._devices.put(gpus[slot % len(gpus)] if gpus else None)

    def run(self, jobs, stop, on_event):
        """Train every Job, until all have ended or stop (a :class:`lrbench_caffe.study.process.Stop`) is requested.

        on_event(job, kind, content) is called, from several threads, with the events of :func:`lrbench_caffe.study.process.run`, and with
        "problem" (a sentence) for one that could not begin, or that failed.
        """

        def one(job):
            if stop.requests:
                return
            device = self._devices.get()
            try:
                self._train(
                    job if device is None else dataclasses.replace(job, gpu=device),
                    stop,
                    lambda kind, content: on_event(job, kind, content),
                    threads=1,
                )
            except (InputError, TrialError) as error:
                on_event(job, "problem", str(error))
            finally:
                self._devices.put(device)

        with ThreadPoolExecutor(self._slots) as threads:
            for _ in threads.map(one, jobs):
                pass


def usable_cores():
    """How many trainings this machine can run side by side: the cores that affinity and cgroup leave to this process."""
    from dask.system import cpu_count  # takes a while

    return cpu_count()


def parse_gpus(text):
    """The device indexes that a text names, as Caffe's own command has them: "0", "0,2", or "all" that nvidia-smi lists."""
    if text == "all":
        try:
            listed = subprocess.run(
                ["nvidia-smi", "-L"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        except OSError as error:
            raise InputError(
                "--gpu all asks nvidia-smi, which cannot be started (%s): name the GPUs, e.g. --gpu 0,1"
                % error.strerror
            )
        found = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
        if not found:
            raise InputError("nvidia-smi lists no GPU: leave --gpu out to train on the CPU")
        return tuple(range(len(found)))
    if not re.fullmatch(r"\d{1,4}(,\d{1,4})*", text):
        raise InputError("--gpu %s does not do: give indexes such as 0 or 0,1, or all" % text)
    return tuple(dict.fromkeys(int(index) for index in text.split(",")))
