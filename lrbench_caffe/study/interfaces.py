"""What a study needs from outside: a pool that trains its jobs and a display that shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from lrbench_caffe.study.events import OnJobEvent
    from lrbench_caffe.study.stop import Stop
    from lrbench_caffe.trial import Job
else:
    Protocol = object  # typing.Protocol is new in Python 3.8


class Pool(Protocol):
    """Trains jobs, several at a time.

    The pools are :class:`lrbench_caffe.study.cores.Cores`, this machine's cores or GPUs, and
    :class:`lrbench_caffe.study.cluster.Cluster`, the workers of a Dask cluster.
    """

    def run(self, jobs: Sequence[Job], stop: Stop, on_event: OnJobEvent) -> None:
        """Train every job, and return when all have ended.

        A training that cannot begin is reported as the event "problem". Neither that nor a training
        that fails affects the others.

        Args:
            jobs: The jobs to train, each with a trial id of its own.
            stop: Once a stop is requested, running trainings end and no other begins.
            on_event: Receives the events of all trainings, see :mod:`lrbench_caffe.study.events`.
                It may be called from several threads at once.
        """


class Display(Protocol):
    """Shows the trainings of a study, such as :class:`lrbench_caffe.display.progress.StudyDisplay`.

    Its methods may be called from several threads at once.
    """

    def begin(self, jobs: Sequence[Job]) -> None:
        """Prepare for the trainings of these jobs; called once, and only if there are any."""

    def on_event(self, job: Job, kind: str, content: Any) -> object:
        """Show an event, see :mod:`lrbench_caffe.study.events`; the return value is ignored."""

    def note(self, message: str) -> None:
        """Show a message that does not belong to a single training."""
