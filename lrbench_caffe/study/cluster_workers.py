"""The workers of a Dask cluster: which of them can train."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from lrbench_caffe import __version__
from lrbench_caffe.errors import in_one_line
from lrbench_caffe.study.link import LinkLost, call

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from lrbench_caffe.study.link import RunningClock
    from lrbench_caffe.study.stop import Stop

SILENCE_SECONDS = 60  # after which an execution or a worker counts as silent
_IMPORT_SECONDS = 30  # in which the workers import this program
_IMPORT = "import lrbench_caffe.study.worker"


class ClusterWorkers:
    """The workers of a cluster, as the scheduler has recorded them.

    Attributes:
        unsuitable: The addresses of workers that cannot train anything.
    """

    def __init__(
        self,
        client: Any,
        resources: Collection[str],
        channel: str,
        clock: RunningClock,
        stop: Stop,
    ) -> None:
        """Set up the workers.

        Args:
            client: The Dask client.
            resources: The names of the resources that a training needs.
            channel: What the keys of this program's tasks begin with.
            clock: The clock by which a worker is silent.
            stop: Shortens the waiting for the scheduler.
        """
        self.unsuitable: set[str] = set()
        self._client, self._required, self._channel = client, set(resources), channel
        self._clock, self._stop = clock, stop
        # When a message of a worker to the scheduler was last noticed, and that message's time.
        self._messages: dict[str, tuple[float, float]] = {}

    def load(self) -> dict[str, Any]:
        """Return what the scheduler has recorded about each worker, by their addresses.

        Raises:
            LinkLost: The scheduler does not answer.
        """
        workers: dict[str, Any] = self._ask(self._client.scheduler_info)["workers"]
        before, now, self._messages = self._messages, self._clock.seconds(), {}
        for address, info in workers.items():
            message = (info["last_seen"], now)
            if address in before and before[address][0] == info["last_seen"]:
                message = before[address]
            self._messages[address] = message
        return workers

    def suitable(self, workers: Mapping[str, Any]) -> list[str]:
        """Return the addresses of those that can train: not of those that are paused or silent.

        Args:
            workers: What :meth:`load` returned last.
        """
        silent_since = self._clock.seconds() - SILENCE_SECONDS
        return [
            address
            for address, info in workers.items()
            if self._required <= set(info["resources"])
            and address not in self.unsuitable
            and info.get("status", "running") == "running"
            and self._messages[address][1] > silent_since
        ]

    def work_for_others(self, addresses: Collection[str]) -> bool:
        """Return whether one of these workers has tasks of another program.

        Raises:
            LinkLost: The scheduler does not answer.
        """
        return any(
            not str(key).startswith(self._channel)
            for address, keys in self._ask(self._client.processing).items()
            if address in addresses
            for key in keys
        )

    def import_problems(self) -> list[str]:
        """Find the workers that cannot import this program, which are then unsuitable.

        Dask ends such a worker when it receives a task.

        Returns:
            A sentence for each of them.
        """
        answers: dict[str, Any] = {}
        with contextlib.suppress(LinkLost):  # a worker that does not answer may have it
            answers = self._ask(
                self._client.run, exec, _IMPORT, on_error="return", seconds=_IMPORT_SECONDS
            )
        errors = {
            address: answer
            for address, answer in answers.items()
            if isinstance(answer, ImportError)
        }
        self.unsuitable.update(errors)
        return [
            "the worker %s cannot import lrbench_caffe (%s): install version %s for its Python"
            % (address, in_one_line(error), __version__)
            for address, error in errors.items()
        ]

    def _ask(self, function: Any, *arguments: Any, **options: Any) -> Any:
        return call(function, *arguments, stop=self._stop, **options)
