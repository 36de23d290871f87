"""The process of a training: reads a job, trains it, and writes events.

The job is one JSON object on standard input. Each event is one line on standard output, a JSON
array of its kind and its content. :mod:`lrbench_caffe.study.process` reads them. The process is a
fork of :mod:`lrbench_caffe.training.fork_server` or, if that cannot fork, a fresh one. With the
option ``--describe``, the process ends after "begin", before it trains. With
``--deploy``, it emits the event "deploy" instead of training: the text of the deploy net.

If this Python's Caffe cannot be used, the only event is "unusable caffe" with the reason. So
importing this module does not import Caffe.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING

from lrbench_caffe.errors import InputError, UnusableCaffe
from lrbench_caffe.training.pycaffe import check_pycaffe
from lrbench_caffe.trial import Job, from_dict

if TYPE_CHECKING:
    from collections.abc import Callable


def main(only: str | None = None, parent: int | None = None) -> None:
    """Train the job on standard input and write its events to standard output.

    Args:
        only: What this process does instead of a training, see
            :func:`lrbench_caffe.training.session.run`.
        parent: The process id of the process that started this one (None: that of its parent
            now).
    """
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # Caffe and Python layers print to the log, which is standard error
    stop = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_exit_without, args=(parent or os.getppid(),), daemon=True).start()

    def emit(kind: str, content: object) -> None:
        out.write(json.dumps([kind, content]) + "\n")

    try:
        train = load()
        train(from_dict(Job, json.load(sys.stdin)), emit, stop, only)
    except UnusableCaffe as error:
        emit("unusable caffe", str(error))
    except InputError as error:
        emit("input error", str(error))
    except BrokenPipeError:  # nobody reads the events any more
        os._exit(1)
    except Exception as error:  # most likely from a Python layer: the log gets its traceback
        traceback.print_exc()
        emit("failure", _description(error) + _place(error))


def load() -> Callable[..., None]:
    """Import Caffe and the modules that use it; return the function that trains a job.

    Raises:
        UnusableCaffe: Caffe cannot be imported, or trainings cannot use it.
        InputError: There is no memory to import it now.
    """
    check_pycaffe()
    from lrbench_caffe.training.session import run

    return run


def _description(error: Exception) -> str:
    """An error as a part of a sentence, without the number of a system error."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (": %s" % error.filename if error.filename else "")
    return "%s: %s" % (type(error).__name__, error)


def _place(error: Exception) -> str:
    """Where an error was raised, if that is not in this program: in a Python layer of the user."""
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
    installed = ("site-packages", "dist-packages", os.path.dirname(os.__file__) + os.sep, "<")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith(own):
            break
        if not any(part in frame.filename for part in installed):
            name = os.path.basename(frame.filename)
            return " (%s, line %s; --log FILE keeps the traceback)" % (name, frame.lineno)
    return ""


def _exit_without(parent: int) -> None:
    """End this process when its parent has ended, since nobody reads the events any more."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1].lstrip("-") if sys.argv[1:] else None)
