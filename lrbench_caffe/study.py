"""Many trials: several at a time, each in a process of its own; studies, which are lists of trials with a name."""
import contextlib
import dataclasses
import fcntl
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

from lrbench_caffe import database, process
from lrbench_caffe.errors import InputError, TrialError
from lrbench_caffe.home import home
from lrbench_caffe.trial import INTERRUPTED, RUNNING

CUT_OFF = (None, RUNNING, INTERRUPTED)  # the states of trials that a study goes on with; None has not begun


def usable_cores():
    """How many trainings this machine can run side by side: the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def run(jobs, dsn, listen, parallel=None):
    """Train every Job with one BLAS thread each, parallel (None: the usable cores) at a time; returns their Trials.

    listen is called with (index of the job, kind, content) from several threads.  A training that fails leaves the others
    running: its Trial is in the result, marked as failed, if it had begun.  Raises KeyboardInterrupt after Ctrl-C, with all that
    was measured recorded, and InputError as :func:`lrbench_caffe.process.run`.
    """
    def one(index, job, stop):
        if stop.requests:
            return None
        ends = []

        def hear(kind, content):
            if kind == "end":
                ends.append(content)
            listen(index, kind, content)
        with database.Recorder(dsn) as record:
            try:
                return process.run(job, record, stop, hear, threads=1)
            except TrialError as error:
                if not ends:  # it had not begun, and has no Trial
                    listen(index, "note", "%s: %s" % (job.policy, error))
                return ends[0] if ends else None

    with process.interruptible() as stop, ThreadPoolExecutor(parallel or usable_cores()) as pool:
        trials = list(pool.map(lambda item: one(item[0], item[1], stop), enumerate(jobs)))
    if stop.requests:
        raise KeyboardInterrupt
    return [trial for trial in trials if trial is not None]


def go_on(name, jobs, dsn, listen, parallel=None):
    """Start the study of that name, or go on with it, and return its Trials, each with its best row only.

    jobs (none: those it has) are added where the study has not got them.  Trials that have ended by themselves are not run again;
    those that were cut off go on from their last snapshot, or begin again where there is none.  listen: a function that takes the
    list of jobs to train and returns a context manager whose ``listen`` is called as by :func:`run`.

    Raises InputError for a study that is not there or runs already, and as :func:`run`.
    """
    folder = os.path.join(home(), "studies", _checked(name))
    with _alone(name, folder):
        with database.Recorder(dsn):
            pass  # delivers what a study that was killed has left
        with database.Store(dsn) as store:
            if jobs:
                store.add_to_study(name, [dataclasses.replace(job, solver=os.path.abspath(job.solver),
                                                              data=job.data and os.path.abspath(job.data)) for job in jobs])
            left = [dataclasses.replace(job, folder=os.path.join(folder, job.id))
                    for job, state in store.study(name) if state in CUT_OFF]
        if left:
            with listen(left) as display:
                run(left, dsn, display.listen, parallel)
        with database.Store(dsn) as store:
            for job, state in store.study(name):
                if state not in CUT_OFF:  # nothing goes on from its snapshots
                    shutil.rmtree(os.path.join(folder, job.id), ignore_errors=True)
            return store.trials(study=name, best_only=True)


def _checked(name):
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise InputError("%r is no name for a study: use up to 100 letters, digits, dots, dashes and underscores" % name)
    return name


@contextlib.contextmanager
def _alone(name, folder):
    """Nobody else runs this study within the block, on this machine."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError("the study %s runs already: wait for it, or end it with Ctrl-C where it runs" % name) from None
        yield
