"""A Dask cluster within this process, for ``--cluster local``.

Its scheduler and workers are threads, which talk through memory. It listens on no port: the workers
of a cluster execute what anyone who reaches their ports sends. The trainings are processes of their
own, as everywhere.
"""

from __future__ import annotations

import logging
import tempfile
from typing import Any

from distributed import Scheduler, SpecCluster, Worker


class _NoServer:
    """A part of a Dask node that would otherwise serve its state and metrics by HTTP."""

    def start_http_server(self, *arguments: object, **options: object) -> None:
        """Start no server; Dask calls this when a node is made, whether or not it has a page."""


class _Scheduler(_NoServer, Scheduler):
    pass


class _Worker(_NoServer, Worker):
    pass


def local_cluster(workers: int, resources: dict[str, float]) -> Any:
    """Start a cluster within this process; a context manager.

    Args:
        workers: The number of workers, of one thread each.
        resources: The Dask resources of each worker.
    """
    worker = {
        "protocol": "inproc://",
        "nthreads": 1,
        "resources": resources,
        "local_directory": tempfile.gettempdir(),
        "memory_limit": 0,  # the trainings need the memory, not the workers
        "dashboard": False,
    }
    return SpecCluster(
        scheduler={"cls": _Scheduler, "options": {"protocol": "inproc://", "dashboard": False}},
        workers={number: {"cls": _Worker, "options": worker} for number in range(workers)},
        silence_logs=logging.CRITICAL,
    )
