"""The trainings of one solver that an evaluation asks for, round by round: the trials of a study that grows.

What the study has already is not trained again, so that an evaluation that was cut off is asked for once more and goes on.
"""

import math
import os
import re

from lrbench_caffe import database, study
from lrbench_caffe.database import studies
from lrbench_caffe.display.progress import StudyDisplay
from lrbench_caffe.errors import InputError, TrialError
from lrbench_caffe.study import UNFINISHED, process
from lrbench_caffe.trial import FINISHED, Job


class Trainer:
    """A solver, where it is trained and under which name; setup is its :class:`lrbench_caffe.trial.Setup`."""

    def __init__(
        self,
        solver,
        pool,
        kind,
        name=None,
        data=None,
        dsn=None,
        display=StudyDisplay,
        describe=process.describe,
    ):
        """pool: :class:`lrbench_caffe.study.cores.Cores` or :class:`lrbench_caffe.study.cluster.Cluster`.  data, dsn: as for a study.

        name: the study's (None: made of kind, what the evaluation is, the network and the dataset).  display: makes, for each
        round, the context manager that :func:`lrbench_caffe.study.go_on` shows it on.  describe: as that of
        :mod:`lrbench_caffe.study.process`.  Raises InputError for a solver that cannot be trained.

        budget, the iterations that all trainings may have together, and reserved, those of them to be kept for later, may be set.
        """
        self._job = Job(os.path.abspath(solver), data=data and os.path.abspath(data))
        self._pool, self.dsn, self._display = pool, dsn, display
        self.budget, self.reserved, self._asked = math.inf, 0, {}
        self.setup = describe(self._job).setup
        self.name = (
            default_name(kind, self.setup) if name is None else study.checked_study_name(name)
        )
        self.max_iter, self.test_interval = (
            self.setup.solver[field] for field in ("max_iter", "test_interval")
        )

    @property
    def epoch(self):
        """Iterations in an epoch, or None where the number of training samples is not known."""
        samples, batch = self.setup.dataset.train_samples, self.setup.solver["batch_size"]
        return (
            samples / (batch * self.setup.solver.get("iter_size", 1)) if samples and batch else None
        )

    def length(self, share):
        """A share of the solver's max_iter as a whole number of evaluation intervals, at least two and at most all."""
        intervals = max(2, round(share * self.max_iter / self.test_interval))
        return min(self.max_iter, intervals * self.test_interval)

    def train(self, wanted, watchers=()):
        """The Trials of what is wanted, (policy's text, max_iter, seed) each, with all their rows, in this order.

        watchers: as for :func:`lrbench_caffe.study.go_on`.  One that failed is among them as such; one that had failed before is
        trained once more.  Raises InputError and KeyboardInterrupt as go_on does, InputError too where the study has trained
        another solver or net, and TrialError where one could not begin or the database has not got it all.
        """
        if not wanted:
            return []
        jobs = [
            Job(self._job.solver, policy=policy, max_iter=max_iter, seed=seed, data=self._job.data)
            for policy, max_iter, seed in wanted
        ]
        with self._display() as shown:
            study.run_study(
                self.name,
                self._pool,
                shown,
                jobs,
                self.dsn,
                retry_failed=True,
                watchers=watchers,
                others=False,
            )
        with database.Store(self.dsn) as store:
            ids = studies.ids(store, self.name)
            trials = {trial.id: trial for trial in store.trials(study=self.name)}
        found = [trials.get(ids[job]) for job in jobs]
        missing = sum(trial is None or trial.state in UNFINISHED for trial in found)
        if missing:
            raise TrialError(
                "%d of the trainings of %s did not begin or are not in the database yet: once that is mended, the "
                "same command goes on" % (missing, self.name)
            )
        for trial in found:
            if _task(trial.setup) != _task(self.setup):
                raise InputError(
                    "the study %s has trained %s before, when that or its net was another: begin another with "
                    "--study NAME" % (self.name, os.path.basename(self._job.solver))
                )
        self._asked.update((trial.id, self.cost(trial)) for trial in found)
        return found

    @property
    def spent(self):
        """The iterations of all that was asked for, trained now or before."""
        return sum(self._asked.values())

    def room(self, length):
        """How many trainings of so many iterations the budget has room for, beside what was asked for and what is reserved."""
        return (
            10**6
            if self.budget == math.inf
            else max(0, int((self.budget - self.reserved - self.spent) // length))
        )

    def cost(self, trial):
        """How many iterations a trial was trained for; at most, for one that ended between two evaluations."""
        last = trial.rows[-1].iteration if trial.rows else 0
        return (
            last
            if trial.state == FINISHED
            else min(trial.setup.solver["max_iter"], last + self.test_interval)
        )


def _task(setup):
    """What the trainings of an evaluation have in common."""
    return (
        setup.network.hash,
        setup.dataset,
        {field: value for field, value in setup.solver.items() if field != "max_iter"},
    )


def default_name(kind, setup):
    """The name of a study of this kind on a task, e.g. "range-LeNet-mnist"."""
    return re.sub(
        r"[^A-Za-z0-9._-]+", "-", "%s-%s-%s" % (kind, setup.network.name, setup.dataset.name)
    )[:100]
