"""Many trials: several at a time, each in a process of its own."""
import os
from concurrent.futures import ThreadPoolExecutor

from lrbench_caffe import database, process
from lrbench_caffe.errors import TrialError


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
