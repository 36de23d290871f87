"""Studies: many trials under a name, each trained once, whatever happens to a trial, to the program or to the machine.

The trials of a study are trained by a pool: :class:`lrbench_caffe.study.cores.Cores` of this machine, or
:class:`lrbench_caffe.study.cluster.Cluster` of a Dask cluster's workers.  What they measure is recorded here, by the program that runs
the study.
"""

import dataclasses
import os
import re
import shutil
import uuid

from lrbench_caffe import database
from lrbench_caffe.database import studies
from lrbench_caffe.errors import InputError
from lrbench_caffe.paths import home
from lrbench_caffe.policies import Policy
from lrbench_caffe.study import process
from lrbench_caffe.study.pruning import Pruner
from lrbench_caffe.trial import FAILED, INTERRUPTED, RUNNING

UNFINISHED = (
    None,
    RUNNING,
    INTERRUPTED,
)  # the states of trials that a study goes on with; None has not begun


def run_jobs(jobs, pool, display, dsn=None):
    """Train Jobs that are no study, and return the Trials that have begun, as they ended.  Errors and display as :func:`go_on`."""
    trials = []

    def collect(job, kind, content):
        if kind == "end":
            trials.append(content)

    with process.interruptible() as stop, database.Recorder(dsn, display.note) as recorder:
        _train(
            [dataclasses.replace(job, id=str(uuid.uuid4())) for job in jobs],
            {},
            pool,
            stop,
            recorder,
            [collect],
            display,
        )
    if stop.requests:
        raise KeyboardInterrupt
    return trials


def run_study(
    name, pool, display, jobs=(), dsn=None, prune=None, retry_failed=False, watchers=(), others=True
):
    """Start the study of that name, or go on with it.

    jobs (none: those it has) are added where the study has not got them; with others, those that it has beside them go on too.
    Trials that have ended by themselves are not run again, but for failed ones with retry_failed; those that were cut off go on
    from their last snapshot, or begin again where there is none.  prune: how far below the others a trial is stopped, see
    :class:`lrbench_caffe.study.pruning.Pruner`.  display has begin(jobs), called once, on_event(job, kind, content) as for
    :meth:`lrbench_caffe.study.cores.Cores.run`, and say(sentence).  watchers are called as on_event is, and end a trial by what they
    return, as in :func:`lrbench_caffe.study.process.run`.

    Raises InputError for a study that is not there or that another program runs, and for jobs that cannot be trained;
    KeyboardInterrupt after Ctrl-C or a request to stop, with all that was measured recorded.
    """
    jobs = [_checked_job(job) for job in jobs]
    folder = os.path.join(home(), "studies", checked_study_name(name))
    again = UNFINISHED + (FAILED,) if retry_failed else UNFINISHED
    with database.Store(dsn) as store, process.interruptible() as stop:
        if jobs:
            studies.add(store, name, jobs)
        with studies.Claim(name, dsn, stop, display.note), database.Recorder(
            dsn, display.note
        ) as recorder:
            found = studies.jobs(store, name)
            left = [
                dataclasses.replace(entry.job, folder=os.path.join(folder, entry.job.id))
                for entry in found
                if entry.state in again
                and (others or dataclasses.replace(entry.job, id=None) in jobs)
            ]
            watchers = [_tidy, *watchers]
            if prune is not None:
                pruner = Pruner(
                    prune,
                    studies.reached(
                        store, [entry.job.id for entry in found if entry.state not in again]
                    ),
                )
                watchers.append(lambda job, kind, content: pruner.on_event(job.id, kind, content))
            _train(
                left,
                {entry.job.id: entry.attempts for entry in found},
                pool,
                stop,
                recorder,
                watchers,
                display,
            )
    if stop.requests:
        raise KeyboardInterrupt


def _train(jobs, attempts, pool, stop, recorder, watchers, display):
    """Train jobs on the pool; each event goes to the journal, to the watchers and to the display, in that order.

    attempts: how often each was started before, by its id.  The first of them that has a verdict ends the trial with it.
    """
    journals = {job.id: recorder.journal(attempts.get(job.id, 0)) for job in jobs}

    def on_event(job, kind, content):
        verdicts = [journals[job.id].on_event(kind, content)] + [
            watch(job, kind, content) for watch in watchers
        ]
        display.on_event(job, kind, content)
        return next(filter(None, verdicts), None)

    if jobs:
        display.begin(jobs)
        pool.run(jobs, stop, on_event)


def _tidy(job, kind, content):
    """Remove the snapshots of a trial from which nothing will go on."""
    if kind == "end" and content.state not in UNFINISHED + (FAILED,):
        shutil.rmtree(job.folder, ignore_errors=True)


def checked_study_name(name):
    """The name, if a study can have it; else raises InputError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise InputError(
            "%r is no name for a study: use up to 100 letters, digits, dots, dashes and underscores"
            % name
        )
    return name


def _checked_job(job):
    """The job with absolute paths, since it may go on from elsewhere; InputError for what will never train."""
    if not os.path.isfile(job.solver):
        raise InputError("the solver %s is not there: name a solver prototxt" % job.solver)
    if job.data is not None and not os.path.isdir(job.data):
        raise InputError(
            "the data folder %s is not there: make it with `lrbench data`, or name another with --data"
            % job.data
        )
    if job.policy is not None:
        Policy.parse(job.policy, epoch=10**6)  # how long one is only the training knows
    return dataclasses.replace(
        job, solver=os.path.abspath(job.solver), data=job.data and os.path.abspath(job.data)
    )
