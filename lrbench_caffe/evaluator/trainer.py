"""Trains one solver under the policies that an evaluation asks for, within a budget of iterations.

The trainings are the trials of a study. A trial that the study already has is not trained again, so
an evaluation that was interrupted continues when it is started once more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import shlex
from typing import TYPE_CHECKING, Any, TypeVar, cast

from lrbench_caffe import database, models, study
from lrbench_caffe.database import studies
from lrbench_caffe.display.progress import StudyDisplay
from lrbench_caffe.errors import (
    CannotConnect,
    DatabaseUnavailable,
    InputError,
    TrialError,
    Undelivered,
)
from lrbench_caffe.study import UNFINISHED, failures, process, versions
from lrbench_caffe.study.kept import best_of
from lrbench_caffe.study.pruning import StuckDetector, as_judged
from lrbench_caffe.trial import FINISHED, Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from lrbench_caffe.study import ClaimedStudy
    from lrbench_caffe.study.cluster import Cluster
    from lrbench_caffe.study.cores import Cores
    from lrbench_caffe.trial import Setup, Trial

    Watcher = Callable[[Job, str, Any], "tuple[str, str] | None"]

T = TypeVar("T")

UNLIMITED_ROOM = 10**6  # trainings that a budget without a limit has room for


class Trainer:
    """Trains a solver prototxt under policies and counts the iterations.

    Args:
        solver: Path of a solver prototxt.
        pool: Where the trainings run.
        kind: The evaluation, e.g. "range" or "tune". It begins the default name of the study.
        name: Name of the study. By default it consists of the kind, the network and the dataset.
        data: Folder in which relative paths of the prototxts are looked up first.
        dsn: DSN of the database (None: ``$LRBENCH_DSN``, else the private server).
        display: Makes the context manager that shows a round of trainings.
        describe: Reads the solver, as :func:`lrbench_caffe.study.process.describe` does.
        stopping: When trainings end early: the fields patience, patience_metric and min_delta of
            :class:`lrbench_caffe.trial.Job`.
        **measured: What is measured: head, test_net, select and validation as fields of
            :class:`lrbench_caffe.trial.Job`.

    Attributes:
        setup: The solver's :class:`lrbench_caffe.trial.Setup`.
        name: Name of the study.
        dsn: DSN of the database.
        max_iter: The solver's max_iter.
        test_interval: The solver's test_interval.
        budget: Iterations that all trainings may take together; unlimited unless set.
        reserved: Iterations of the budget that are kept for later; 0 unless set.
        keeps_models: Whether trainings for which a model is requested keep it; True unless set.

    Raises:
        InputError: The solver cannot be trained, or the name is not valid.
    """

    def __init__(
        self,
        solver: str,
        pool: Cores | Cluster,
        kind: str,
        name: str | None = None,
        data: str | None = None,
        dsn: str | None = None,
        display: Callable[[], Any] = StudyDisplay,
        describe: Callable[[Job], Trial] = process.describe,
        stopping: Mapping[str, Any] | None = None,
        **measured: Any,
    ) -> None:
        self._job = study.absolute_paths(Job(solver, data=data, **(stopping or {}), **measured))
        self._pool, self._display = pool, display
        self._trials: dict[str, Trial] = {}  # those that were requested, by their id
        self._study: ClaimedStudy | None = None  # within the context of claim()
        self._round_display: Any = None  # while a round is trained
        self._is_checked = False
        self.dsn = dsn
        self.budget = math.inf
        self.reserved = 0
        self.keeps_models = True
        # The setup does not depend on the policy. The solver's own schedule may be incomplete.
        self.setup = describe(dataclasses.replace(self._job, policy="FIX(k0=0.01)")).setup
        if not self.setup.has_test_net:
            raise InputError(
                "%s has no test net, so policies cannot be compared by their accuracy: give it "
                "test_iter, test_interval and a net with a TEST phase" % solver
            )
        self.max_iter = cast("int", self.setup.solver["max_iter"])
        self.test_interval = cast("int", self.setup.solver["test_interval"])
        self.name = (
            default_name(kind, self.setup) if name is None else study.checked_study_name(name)
        )
        self._command = _command(kind, self._job, self.name)

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """Claim the study for this program within the block, over all rounds of trainings.

        The evaluations do this themselves; a claim within a claim has no effect. Ctrl-C and
        `lrbench study stop` end the evaluation, whenever they come.

        Raises:
            InputError: Another program runs the study, or the database cannot be used.
            DatabaseUnavailable: The database went away during the block.
            KeyboardInterrupt: At the end of the block, after Ctrl-C or a request to stop.
        """
        if self._study is not None:
            yield
            return
        with study.claimed_study(self.name, self._note, self.dsn, command=self._command) as claimed:
            self._study = claimed
            try:
                yield
            except Undelivered:
                raise
            except (CannotConnect, DatabaseUnavailable) as error:
                raise DatabaseUnavailable(
                    "%s; when the database is back, the same command continues the study %s"
                    % (error, self.name)
                ) from error
            finally:
                self._study = None

    @property
    def stopping_texts(self) -> dict[str, str]:
        """When trainings end early, as the user stated it; "none" for what was not stated."""
        return {
            option: "none" if value is None else str(value)
            for option, value in _stopping_options(self._job).items()
        }

    def _note(self, sentence: str) -> None:
        """Show a message of the study, within the picture of a round if there is one."""
        (self._round_display or self._display()).note(sentence)

    def length(self, share: float) -> int:
        """Compute the length of a short training.

        Args:
            share: Length as a share of the solver's max_iter.

        Returns:
            Iterations: a whole number of test intervals, at least two intervals and at most
            max_iter.
        """
        intervals = max(2, round(share * self.max_iter / self.test_interval))
        return min(self.max_iter, intervals * self.test_interval)

    def train(
        self,
        requests: Sequence[tuple[str, int, int]],
        watchers: Sequence[Watcher] = (),
        model: bool = False,
        end_stuck: bool = False,
    ) -> list[Trial]:
        """Train what the study does not have yet.

        Args:
            requests: The trainings: (policy's text, max_iter, seed) each.
            watchers: As for :func:`lrbench_caffe.study.run_study`.
            model: Whether the trials keep their models, of which the study keeps the best of each
                policy.
            end_stuck: Whether to end trainings that are stuck at chance. Their trials end where
                that showed, see :func:`lrbench_caffe.study.pruning.as_judged`.

        Returns:
            The trial of each request, in the same order, with all its rows. A trial that fails is
            among them. A trial that failed in an earlier call of the program is trained again.

        Raises:
            InputError: As :func:`lrbench_caffe.study.run_study`, or the study contains trials of
                another solver or net.
            TrialError: A training could not begin, the database does not have its results yet, or
                all trainings that were requested so far have failed.
            KeyboardInterrupt: The trainings were interrupted.
        """
        if not requests:
            return []
        jobs = [
            study.checked_job(
                dataclasses.replace(self._job, policy=policy, max_iter=max_iter, seed=seed)
            )
            for policy, max_iter, seed in requests
        ]
        if end_stuck:
            watchers = [*watchers, StuckDetector().on_event]
        problems = self._train_round(jobs, watchers, model and self.keeps_models)
        trials = self._load(jobs, problems)
        if end_stuck:
            trials = list(map(as_judged, trials))
        self._trials.update((trial.id, trial) for trial in trials)
        self._check_failures()
        return trials

    def _check_versions(self) -> None:
        """Check, once, that the trials of this evaluation have trained what it trains now.

        The study may have trials of other evaluations, for example with another solver.
        """
        if self._is_checked:
            return
        assert self._study is not None, "the claim sets it"

        def read(store: database.Store) -> tuple[dict[Job, str], list[Trial]]:
            trials = store.trials(study=self.name, best_only=True)
            return (studies.ids(store, self.name), trials) if trials else ({}, [])

        ids, trials = self.in_database(read)
        own = {trial_id for job, trial_id in ids.items() if _is_of(self._job, job)}
        remedy = "start a new study with --study NAME"
        for trial in (trial for trial in trials if trial.id in own):
            changes = versions.differences(trial.setup, self.setup, ignored=["max_iter"])
            if versions.is_outdated(self.name, trial, self._job.solver, changes, remedy):
                self._study.begin_anew(trial.id)
        self._is_checked = True

    def _train_round(
        self, jobs: Sequence[Job], watchers: Sequence[Watcher], model: bool
    ) -> list[str]:
        """Train jobs; return why those that could not begin did not."""
        problems = []

        def collect_problem(job: Job, kind: str, content: Any) -> None:
            if kind == "problem":
                problems.append(content)

        with self.claim(), self._display() as display:
            assert self._study is not None, "the claim sets it"
            self._check_versions()
            self._round_display = display
            try:
                self._study.train(
                    self._pool,
                    display,
                    jobs,
                    retry_failed=True,
                    watchers=[*watchers, collect_problem],
                    others=False,
                    model=model,
                )
            finally:
                self._round_display = None
        return problems

    def in_database(self, work: Callable[[database.Store], T]) -> T:
        """Run ``work(store)`` on the database of the study.

        Within the context of :meth:`claim`, an outage is waited for, and the work is repeated.
        """
        if self._study is not None:
            return self._study.in_database(work, self._note)
        with database.Store(self.dsn) as store:
            return work(store)

    def keep_only(self, policy: str, max_iter: int) -> models.Model | None:
        """Remove the models of all trials but those of a policy, and return the one that is kept.

        Args:
            policy: The text of the policy.
            max_iter: The length of its trainings.

        Returns:
            The model of the policy's best trial, None if it was not kept.
        """
        chosen = []
        for trial_id in models.with_models(self._trials):
            trial = self._trials[trial_id]
            if (trial.policy, trial.setup.solver["max_iter"]) == (policy, max_iter):
                chosen.append(trial)
            else:
                models.remove(trial_id)
        return models.find(best_of(chosen).id) if chosen else None

    def _load(self, jobs: Sequence[Job], problems: Sequence[str]) -> list[Trial]:
        """Load the trials of jobs that have ended."""

        def read(store: database.Store) -> tuple[dict[Job, str], list[Trial]]:
            return studies.ids(store, self.name), store.trials(study=self.name)

        ids, in_study = self.in_database(read)
        stored = {trial.id: trial for trial in in_study}
        # A job is missing if its trial was deleted during an outage.
        trials = [stored[ids[job]] for job in jobs if ids.get(job) in stored]
        ended = [trial for trial in trials if trial.state not in UNFINISHED]
        missing = len(jobs) - len(ended)
        if missing and problems:
            raise TrialError(
                "%d of %d trainings of the study %s could not begin (%s): correct the cause and run"
                " the same command again" % (missing, len(jobs), self.name, problems[0])
            )
        if missing:
            raise Undelivered(
                "%d of %d trainings of the study %s are not in the database yet: run the same"
                " command again" % (missing, len(jobs), self.name)
            )
        return ended

    def _check_failures(self) -> None:
        """Check that not all trainings failed, since then the next ones would most likely fail."""
        trials = list(self._trials.values())
        count = len(failures.failed_trials(trials))
        if count == len(trials):
            raise TrialError(
                "%d of %d trainings of the study %s failed (%s): correct the cause and run the same"
                " command again" % (count, count, self.name, failures.common_error(trials))
            )

    @property
    def spent(self) -> int:
        """Iterations of all trials that were requested, trained now or before."""
        return sum(self.cost(trial) for trial in self._trials.values())

    def room(self, length: int) -> int:
        """Count the trainings that the rest of the budget pays for, without what is reserved.

        Args:
            length: Iterations of each training.
        """
        if self.budget == math.inf:
            return UNLIMITED_ROOM
        return max(0, int((self.budget - self.reserved - self.spent) // length))

    def cost(self, trial: Trial) -> int:
        """Count the iterations of a trial.

        A trial that did not finish may have ended anywhere before its next evaluation; the
        iterations up to there are counted.
        """
        last = trial.rows[-1].iteration if trial.rows else 0
        if trial.state == FINISHED:
            return last
        return min(cast("int", trial.setup.solver["max_iter"]), last + self.test_interval)


def _is_of(evaluation: Job, job: Job) -> bool:
    """Whether a job is one of an evaluation, which chooses the policy, the length and the seed."""
    same_choice = dataclasses.replace(
        job, id=None, policy=evaluation.policy, max_iter=evaluation.max_iter, seed=evaluation.seed
    )
    return same_choice == evaluation


def _stopping_options(job: Job) -> dict[str, object]:
    """The options for early stopping by name, with None for those that are not stated."""
    return {
        "patience": job.patience,
        "patience-metric": job.patience_metric,
        "min-delta": job.min_delta,
    }


def _command(kind: str, job: Job, name: str) -> str:
    """The command that resumes an evaluation, without its other options."""
    arguments = ["lrbench", kind, job.solver]
    for option in ("data", "head", "test_net", "select", "validation"):
        value = getattr(job, option)
        arguments += ["--" + option.replace("_", "-"), str(value)] if value else []
    for option, stated in _stopping_options(job).items():
        arguments += [] if stated is None else ["--" + option, str(stated)]
    return " ".join(map(shlex.quote, [*arguments, "--study", name]))


def default_name(kind: str, setup: Setup) -> str:
    """Make the default name of a study, e.g. "range-LeNet-mnist".

    Args:
        kind: The evaluation, e.g. "range".
        setup: What is trained.
    """
    name = "%s-%s-%s" % (kind, setup.network.name, setup.dataset.name)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:100]
