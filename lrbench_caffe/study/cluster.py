"""The pool of a Dask cluster: one training on each thread of its workers.

A worker trains a job in a child process, see :mod:`lrbench_caffe.study.worker`. It needs this
program, the data and the folder of the snapshots at the same paths as here. It needs neither a
database nor psycopg2: it sends events through the scheduler to the program that runs the study,
which records them. A worker with other files sends its models in the same way. If a worker dies,
another one resumes its trial from the last snapshot, see :mod:`lrbench_caffe.study.trainings`.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import dask
from dask.utils import parse_timedelta
from distributed import Client

from lrbench_caffe.errors import InputError, TrialError
from lrbench_caffe.study.cores import usable_cores
from lrbench_caffe.study.interfaces import Pool
from lrbench_caffe.study.link import LinkLost, call
from lrbench_caffe.study.local_cluster import local_cluster
from lrbench_caffe.study.trainings import Trainings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lrbench_caffe.study.events import OnJobEvent
    from lrbench_caffe.study.stop import Stop
    from lrbench_caffe.trial import Job

_CONNECT_SECONDS = 20
_CLOSE_SECONDS = 5
_PATIENCE = "10 minutes"
_THIS_MACHINE = ("localhost", "127.", "::1")


class Cluster(Pool):
    """Trains jobs on the workers of a Dask cluster, each with one BLAS thread."""

    def __init__(self, address: str, jobs: int | None = None, gpus: Sequence[int] = ()) -> None:
        """Set up the pool; it connects to the cluster when it runs.

        Args:
            address: The address of a scheduler, such as "tls://host:8786", or "local" for a cluster
                within this process, which listens on no port.
            jobs: The number of workers of a local cluster (None: one per usable core).
            gpus: At most one device index, which every training uses on its worker. Each worker
                must then have a Dask resource GPU.

        Raises:
            InputError: The arguments do not fit together, or the address is invalid.
        """
        if len(gpus) > 1:
            raise InputError(
                "--gpu takes one index with --cluster: start a worker for each GPU, with "
                "CUDA_VISIBLE_DEVICES and --resources GPU=1, and give --gpu 0"
            )
        if jobs and address != "local":
            raise InputError(
                "--jobs applies to this machine, but the cluster %s runs one training on each "
                "thread of its workers: omit --jobs" % address
            )
        if address != "local" and not _has_port(address):
            raise InputError(
                "invalid --cluster %s: expected a scheduler's address such as tcp://host:8786, "
                "or local" % address
            )
        self._address, self._jobs, self._gpus = address, jobs, gpus

    def run(self, jobs: Sequence[Job], stop: Stop, on_event: OnJobEvent) -> None:
        """Train every job, see :meth:`lrbench_caffe.study.interfaces.Pool.run`.

        on_event is called from this thread only.

        Raises:
            InputError: The cluster cannot be reached.
            TrialError: The cluster was lost, or nothing trained on it for the patience that Dask's
                configuration has as ``lrbench.patience``, 10 minutes by default.
        """
        _silence_dask()
        patience = _patience()
        if _is_open(self._address):
            on_event(jobs[0], "note", _open_cluster_note(self._address))
        with contextlib.ExitStack() as stack:
            try:
                client = self._connect(stack, stop)
                Trainings(client, self._gpus, jobs, stop, on_event, patience).run()
            except LinkLost as error:
                if stop.requests:
                    return
                raise TrialError(
                    "lost the Dask cluster %s (%s): run the same command again to resume"
                    % (self._address, error)
                ) from None

    def _connect(self, stack: contextlib.ExitStack, stop: Stop) -> Any:
        """A Dask client, which is closed with the stack; a local cluster is started for it."""
        address: Any = self._address
        try:
            if address == "local":
                resources = {"GPU": 1.0} if self._gpus else {}
                cluster = local_cluster(self._jobs or usable_cores(), resources)
                address = stack.enter_context(cluster)
            client = call(
                _Client, address, timeout=_CONNECT_SECONDS, set_as_default=False, stop=stop
            )
        except (LinkLost, OSError, RuntimeError, ValueError) as error:
            if stop.requests:
                raise LinkLost(str(error)) from None
            raise InputError(_unreachable(self._address, error)) from None
        stack.enter_context(_closing(client, stop))
        return client


class _Client(Client):
    """A client that its user closes."""

    def __del__(self) -> None:
        """Do not close it here: one that could not connect would wait for an answer."""


@contextlib.contextmanager
def _closing(client: Any, stop: Stop) -> Iterator[None]:
    """Close a client at the end of the block, if it can be closed."""
    try:
        yield
    finally:
        with contextlib.suppress(LinkLost):
            call(client.close, stop=stop, seconds=_CLOSE_SECONDS)


def _silence_dask() -> None:
    """Keep Dask from logging: the errors of this package have what a user needs."""
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] in ("asyncio", "distributed", "tornado"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def _unreachable(address: str, error: Exception) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    if address.startswith("tls:"):
        return (
            "cannot reach the Dask cluster %s (%s): start its scheduler with TLS, and name your "
            "certificate in Dask's configuration distributed.comm.tls" % (address, reason)
        )
    return (
        "cannot reach the Dask cluster %s (%s): start one with `dask scheduler` and "
        "`dask worker --nthreads 1 ADDRESS`, or use --cluster local" % (address, reason)
    )


def _patience() -> float:
    """The seconds after which a study ends if nothing trains on the cluster."""
    text = dask.config.get("lrbench.patience", _PATIENCE)
    try:
        seconds: float = parse_timedelta(text, default="s")
    except (KeyError, TypeError, ValueError):
        seconds = -1
    if not seconds >= 0:
        raise InputError(
            "invalid lrbench.patience %s in Dask's configuration: expected a time, for example "
            "30 minutes" % text
        )
    return seconds


def _has_port(address: str) -> bool:
    """Whether an address is valid and names a port."""
    try:
        return bool(_split(address).port)
    except ValueError:
        return False


def _split(address: str) -> Any:
    return urlsplit(address if "://" in address else "tcp://" + address)


def _is_open(address: str) -> bool:
    """Whether a scheduler on another machine accepts connections without a certificate."""
    if address == "local":
        return False
    parts = _split(address)
    return parts.scheme == "tcp" and not (parts.hostname or "").startswith(_THIS_MACHINE)


def _open_cluster_note(address: str) -> str:
    return (
        "the cluster %s executes what anyone who reaches its ports sends: use it in a network that "
        "you trust, or use TLS (tls://)" % address
    )
