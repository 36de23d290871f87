"""How a model travels from a worker of a Dask cluster to the program that runs the study.

A worker whose files are those of that program writes the model to its place. Any other worker sends
it in parts before the end of the training, and removes its own copy.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from typing import TYPE_CHECKING, Any

from lrbench_caffe import models
from lrbench_caffe.files import PREFIX
from lrbench_caffe.paths import make_private

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from lrbench_caffe.trial import Job

_PART = 2**22  # bytes of weights in a message
_MARK = PREFIX + "cluster-"


class Receiver:
    """Receives models in the program that runs the study; a context manager."""

    def __init__(self, jobs: Iterable[Job], channel: str) -> None:
        """Prepare to receive the models of jobs.

        Args:
            jobs: The jobs. Their model_folders, if they have any, are all in one folder.
            channel: The name of the queue for their events.
        """
        folders = {os.path.dirname(job.model_folder) for job in jobs if job.model_folder}
        self._marks = [_mark(folder, channel) for folder in folders]
        self._parts: dict[str | None, str] = {}  # the incomplete files by their jobs

    def __enter__(self) -> Receiver:
        for mark in self._marks:
            with contextlib.suppress(OSError):  # the models will then be sent
                make_private(os.path.dirname(mark))
                open(mark, "w").close()
        return self

    def __exit__(self, *error: object) -> None:
        for path in (*self._marks, *self._parts.values()):
            with contextlib.suppress(OSError):
                os.remove(path)

    def receive(self, job: Job, content: dict[str, Any]) -> str | None:
        """Receive the next part of a job's model.

        Args:
            job: The job.
            content: A message of :func:`messages`.

        Returns:
            A sentence for the user if the model cannot be kept, else None.
        """
        assert job.model_folder is not None, "a worker sends a model to its folder"
        try:
            if "weights" in content:
                self._append(job, content)
            elif job.id in self._parts:  # else it could not be written
                path = self._parts.pop(job.id)
                try:
                    models.ModelFolder(job.model_folder).take(path, content)
                finally:
                    with contextlib.suppress(OSError):
                        os.remove(path)
        except OSError as error:
            path = self._parts.pop(job.id, "")
            with contextlib.suppress(OSError):
                os.remove(path)
            return "the model of trial %s cannot be kept in %s (%s)" % (
                job.id,
                job.model_folder,
                error.strerror or error,
            )
        return None

    def _append(self, job: Job, content: dict[str, Any]) -> None:
        """Append weights to the incomplete file of a job, which the first part begins."""
        if content["offset"] == 0:
            root = os.path.dirname(str(job.model_folder))
            make_private(root)
            previous = self._parts.get(job.id)
            self._parts[job.id] = previous or os.path.join(root, PREFIX + uuid.uuid4().hex)
            open(self._parts[job.id], "wb").close()
        if job.id in self._parts:
            with open(self._parts[job.id], "ab") as file:
                file.write(content["weights"])


def send(job: Job, channel: str, send_message: Callable[[dict[str, Any]], object]) -> None:
    """Send the model of a training that ends on this worker, unless it is in its place already.

    Args:
        job: The job.
        channel: The name of the queue for its events.
        send_message: Sends a message to the program that runs the study.
    """
    folder = job.model_folder
    if folder is None or os.path.exists(_mark(os.path.dirname(folder), channel)):
        return
    for message in messages(folder):
        send_message(message)
    shutil.rmtree(folder, ignore_errors=True)


def messages(folder: str) -> Iterator[dict[str, Any]]:
    """Yield a model in parts of its weights; the last message has what is recorded beside them."""
    recorded = models.ModelFolder(folder)
    path = recorded.path
    if path is None:
        return
    offset = 0
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        for part in iter(lambda: file.read(_PART), b""):
            yield {"offset": offset, "weights": part}
            offset += len(part)
        yield recorded.recorded


def _mark(folder: str, channel: str) -> str:
    """A file by which a worker recognizes the folder of the program that runs the study."""
    return os.path.join(folder, _MARK + channel)
