"""The trainings of a study on a Dask cluster, as the program that runs the study controls them.

Dask may execute a job more than once: if a worker dies or is silent, another one gets its job. The
execution that started last counts. The events of the others are ignored, and they are told to end.

Each training shows signs of life. It is submitted again, or has failed, if its execution

- cannot begin (a worker that cannot train anything gets no further trainings),
- has not begun within the patience after it has started, or
- is silent for the patience.

If no training shows a sign of life for the patience, and the cluster does not work for others, the
run ends with an error.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from typing import TYPE_CHECKING, Any

import distributed
from distributed import Queue, Variable

from lrbench_caffe import __version__
from lrbench_caffe.errors import in_one_line
from lrbench_caffe.study import transfer, worker
from lrbench_caffe.study.cluster_workers import SILENCE_SECONDS, ClusterWorkers
from lrbench_caffe.study.events import EventReader, has_stopped_improving
from lrbench_caffe.study.link import LinkLost, RunningClock, call
from lrbench_caffe.trial import FAILED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrbench_caffe.study.events import OnJobEvent, Verdict
    from lrbench_caffe.study.stop import Stop
    from lrbench_caffe.trial import Job

_POLL_SECONDS = 0.2  # between two reads of the event queue
_LOOK_SECONDS = 5  # between two looks at the cluster's workers
_KILL_SECONDS = 5  # in which killed trainings may report their ends
_MAX_PROBLEMS = 3  # workers on which a training is tried that cannot begin
_MAX_SUBMISSIONS = 10  # of a training, whatever the reasons


class _Execution:
    """An execution of a job on a worker.

    Attributes:
        id: Its unique id.
        worker: The address of its worker.
        last_sign: When its last event of any kind was read.
        last_step: When its last event was read that is more than a sign of life.
        reader: Reads its events.
    """

    def __init__(self, id: str, worker: str, now: float) -> None:
        self.id, self.worker = id, worker
        self.last_sign = self.last_step = now
        self.reader = EventReader()

    @property
    def begun(self) -> bool:
        return self.reader.trial is not None


class _Training:
    """A training that has not ended.

    Attributes:
        job: What is trained.
        future: The Dask future of the task that was submitted last.
        submissions: How often it was submitted.
        execution: The execution that counts; None if no worker has the job.
        begun: The reader of the execution that began last; None if none has begun.
        verdict: The verdict that ends it.
        problems: Why it could not be trained, by the addresses of the workers.
        workers: The addresses of the workers that may train it; empty for all.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.future: Any = None
        self.submissions = 0
        self.execution: _Execution | None = None
        self.begun: EventReader | None = None
        self.verdict: Verdict | None = None
        self.problems: dict[str, str] = {}
        self.workers: Sequence[str] = ()

    @property
    def runs(self) -> bool:
        """Whether a worker trains it, as far as this program has received."""
        return self.execution is not None and self.execution.begun


class Trainings:
    """Trains jobs on a cluster."""

    def __init__(
        self,
        client: Any,
        gpus: Sequence[int],
        jobs: Sequence[Job],
        stop: Stop,
        on_event: OnJobEvent,
        patience: float,
    ) -> None:
        """Set up the trainings.

        Args:
            client: The Dask client.
            gpus: At most one device index, which every training uses on its worker.
            jobs: The jobs to train, each with a trial id of its own.
            stop: Ends the trainings on request.
            on_event: Receives their events, in the thread that calls run().
            patience: The seconds after which a training without a sign of life is given up.
        """
        self._client, self._stop, self._on_event = client, stop, on_event
        self._patience = patience
        self._channel = "lrbench-" + uuid.uuid4().hex
        self._resources = {"GPU": 1} if gpus else None
        self._trainings: dict[str, _Training] = {}
        for job in jobs:
            assert job.id is not None, "each job of a pool has a trial id"
            self._trainings[job.id] = _Training(
                dataclasses.replace(job, gpu=gpus[0]) if gpus else job
            )
        self._any_job = jobs[0]
        self._superseded: list[str] = []  # executions that must end
        self._sent_orders: dict[str, Any] | None = None
        self._clock = RunningClock()
        self._heartbeat = self._last_life = 0.0
        self._next_look = 0.0
        self._leave_at: float | None = None  # after the second request to stop
        self._workers = ClusterWorkers(
            client, self._resources or {}, self._channel, self._clock, stop
        )

    def run(self) -> None:
        """Train the jobs until all have ended, and receive their models from workers elsewhere.

        Raises:
            LinkLost: The scheduler does not answer, it does not have the trainings any more, or
                nothing has trained on the cluster for the patience.
        """
        jobs = [training.job for training in self._trainings.values()]
        with transfer.Receiver(jobs, self._channel) as self._models:
            self._run()

    def _run(self) -> None:
        self._events = self._ask(Queue, self._channel, client=self._client)
        self._orders = Variable(self._channel, client=self._client)
        self._submit_all()
        self._send_orders()
        while self._trainings:
            # Read before the events: a worker sends them all before its future ends.
            ended = [
                (job_id, training.future, training.future.status)
                for job_id, training in self._trainings.items()
                if training.future.status != "pending"
            ]
            for event in self._ask(self._events.get, batch=True):
                self._receive(*event)
            for job_id, future, status in ended:
                if job_id in self._trainings and self._trainings[job_id].future is future:
                    self._settle(self._trainings[job_id], status)
            self._send_orders()
            self._check_life()
            time.sleep(_POLL_SECONDS)
        if self._stop.requests:
            # Workers that have received a job but not begun it must read the request first.
            time.sleep(2 * worker.HEARTBEAT_SECONDS)
        self._events.close()
        self._orders.delete()

    def _ask(self, function: Any, *arguments: Any, **options: Any) -> Any:
        """Call a function of Dask that the scheduler answers."""
        return call(function, *arguments, stop=self._stop, **options)

    def _submit_all(self) -> None:
        """Give all trainings to the workers that have this program."""
        problems, workers = self._workers.import_problems(), self._workers.load()
        none_has_it = bool(workers) and self._workers.unsuitable.issuperset(workers)
        suitable = self._workers.suitable(workers) if problems else ()
        for training in list(self._trainings.values()):
            if none_has_it:
                self._fail(training, problems[0])
            else:
                self._submit(training, suitable)
        for problem in () if none_has_it else problems:
            self._note(problem + "; other workers train")

    def _submit(self, training: _Training, workers: Sequence[str] = ()) -> None:
        """Give a training to the cluster, or to certain workers of it."""
        training.submissions += 1
        training.execution, training.workers = None, workers
        training.future = self._ask(
            self._client.submit,
            worker.train_job,
            training.job,
            self._channel,
            __version__,
            key="%s-%s-%d" % (self._channel, training.job.id, training.submissions),
            resources=self._resources,
            pure=False,
            workers=list(workers) or None,
        )

    def _receive(self, job_id: str, execution_id: str, kind: str, content: Any) -> None:
        """Pass an event on, unless its training has ended or has another execution."""
        training, now = self._trainings.get(job_id), self._clock.seconds()
        if training is None:
            return
        if kind == "start":
            self._supersede(training)
            training.execution = _Execution(execution_id, content, now)
        execution = training.execution
        if execution is None or execution.id != execution_id:
            return
        execution.last_sign = self._last_life = now
        if kind in ("start", "alive", "done"):
            return
        execution.last_step = now
        if kind in ("problem", "unsuitable"):
            if kind == "unsuitable":
                self._workers.unsuitable.add(execution.worker)
            self._settle_problem(training, content)
        elif kind == "model":
            self._receive_model(training.job, content)
        else:
            self._pass_on(training, execution, kind, content)

    def _pass_on(self, training: _Training, execution: _Execution, kind: str, content: Any) -> None:
        """Pass on an event of the execution that counts."""
        if (
            kind == "end"
            and training.verdict
            and has_stopped_improving(content["state"], content["error"])
        ):
            # The worker did not have the verdict yet.
            content = dict(content, state=training.verdict[0], error=training.verdict[1])
        content = execution.reader.read(kind, content)
        if kind == "begin":
            training.begun = execution.reader
        verdict = self._on_event(training.job, kind, content)
        training.verdict = training.verdict or verdict
        if kind == "end":
            self._forget(training)

    def _receive_model(self, job: Job, part: Any) -> None:
        """Receive a part of a model, which comes before the end of its training."""
        problem = self._models.receive(job, part)
        if problem is not None:
            self._on_event(job, "note", problem)

    def _settle(self, training: _Training, status: str) -> None:
        """Decide about a training without an end whose task Dask no longer executes."""
        if status == "error":
            self._fail(training, _task_problem(training.future))
        elif status != "finished":
            raise LinkLost("the connection broke, or the scheduler was started again")
        elif self._stop.requests:
            self._forget(training)
        elif training.submissions >= _MAX_SUBMISSIONS:
            self._fail(training, "it was begun %d times and never ended" % training.submissions)
        else:
            self._submit(training)

    def _settle_problem(self, training: _Training, problem: str) -> None:
        """Decide about a training with which its worker has a problem."""
        assert training.execution is not None
        address = training.execution.worker
        # The workers of a local cluster are one process, and have the same problems.
        if address.startswith("inproc:"):
            self._fail(training, problem)
            return
        training.problems[address] = problem
        self._try_elsewhere(training, "on the worker %s: %s" % (address, problem))

    def _try_elsewhere(self, training: _Training, problem: str) -> None:
        """Train a job on another worker because of a problem; or it has failed."""
        suitable = self._workers.suitable(self._workers.load())
        others = [other for other in suitable if other not in training.problems]
        own_problems = len(set(training.problems) - self._workers.unsuitable)
        if not others or own_problems == _MAX_PROBLEMS or self._stop.requests:
            self._fail(training, problem)
            return
        self._on_event(training.job, "note", problem + "; another worker tries")
        self._cancel(training)
        self._submit(training, others)

    def _fail(self, training: _Training, problem: str) -> None:
        """Report a problem: as the end of the training if it has begun."""
        if training.begun is None:
            self._on_event(training.job, "problem", problem)
        else:
            end = {"state": FAILED, "ended": time.time(), "error": problem}
            self._on_event(training.job, "end", training.begun.read("end", end))
        self._forget(training)

    def _forget(self, training: _Training) -> None:
        """Take no further part in a training: it has ended, or the study stops."""
        assert training.job.id is not None
        del self._trainings[training.job.id]
        self._supersede(training)
        if training.future is not None:
            training.future.release()

    def _cancel(self, training: _Training) -> None:
        """End the task of a training on the cluster."""
        self._supersede(training)
        self._ask(self._client.cancel, [training.future])

    def _supersede(self, training: _Training) -> None:
        """Ignore the execution of a training from now on."""
        if training.execution is not None:
            self._superseded.append(training.execution.id)
            training.execution = None

    def _send_orders(self) -> None:
        """Send the orders that :class:`lrbench_caffe.study.worker._Orders` describes.

        They are sent when they change and with each heartbeat. After a request to stop, jobs that
        have not begun are cancelled.
        """
        verdicts = {
            job_id: list(training.verdict)
            for job_id, training in self._trainings.items()
            if training.verdict
        }
        orders = {
            "stop": self._stop.requests,
            "verdicts": verdicts,
            "superseded": list(self._superseded),
        }
        due = self._clock.seconds() >= self._heartbeat + worker.HEARTBEAT_SECONDS
        if orders == self._sent_orders and not due:
            return
        self._sent_orders, self._heartbeat = orders, self._clock.seconds()
        self._ask(self._orders.set, dict(orders, beat=self._heartbeat))
        if orders["stop"]:
            waiting = [training for training in self._trainings.values() if not training.runs]
            self._ask(self._client.cancel, [training.future for training in waiting])
            for training in waiting:
                self._forget(training)

    def _check_life(self) -> None:
        """Give up what shows no sign of life."""
        if self._clock.seconds() >= self._next_look:
            self._look_at_cluster()
            self._next_look = self._clock.seconds() + _LOOK_SECONDS
        now = self._clock.seconds()
        if self._stop.requests > 1 and self._leave_at is None:
            self._leave_at = now + _KILL_SECONDS
        for training in list(self._trainings.values()):
            if self._leave_at is not None and now >= self._leave_at:
                self._forget(training)
            elif training.execution is not None:
                self._check_execution(training, training.execution, now)

    def _check_execution(self, training: _Training, execution: _Execution, now: float) -> None:
        """Give up an execution that is silent, or that has not begun its training."""
        patience = _duration(self._patience)
        if self._stop.requests and now > execution.last_sign + SILENCE_SECONDS:
            self._forget(training)
        elif now > execution.last_sign + self._patience:
            self._settle_problem(training, "the worker gave no sign of life for %s" % patience)
        elif not execution.begun and now > execution.last_step + self._patience:
            problem = "the training did not begin within %s: it waits, for example for its data"
            self._settle_problem(training, problem % patience)

    def _look_at_cluster(self) -> None:
        """Notice workers that are gone, and a cluster on which nothing trains."""
        workers, now = self._workers.load(), self._clock.seconds()
        for training in list(self._trainings.values()):
            if training.execution is not None and training.execution.worker not in workers:
                self._supersede(training)
                if self._stop.requests:
                    self._forget(training)
            elif training.workers and not set(training.workers) & set(workers):
                self._cancel(training)
                self._submit(training)
        if any(training.execution for training in self._trainings.values()):
            return
        suitable = self._workers.suitable(workers)
        if not suitable:
            kind = " with a GPU (--resources GPU=1)" if self._resources else ""
            wait = "the cluster has no worker%s: trainings wait for one, up to %s"
            self._note(wait % (kind, _duration(self._patience)))
        elif self._workers.work_for_others(suitable):
            self._note("the cluster works for other programs: trainings wait for a free worker")
            self._last_life = now
        if self._trainings and now > self._last_life + self._patience:
            number = "%d of its workers" % len(suitable) if suitable else "none of its workers"
            raise LinkLost(
                "nothing has trained on it for %s, and %s can train"
                % (_duration(self._patience), number)
            )

    def _note(self, message: str) -> None:
        self._on_event(self._any_job, "note", message)


def _task_problem(future: Any) -> str:
    """Why Dask could not execute a task."""
    error = future.exception()
    if isinstance(error, distributed.scheduler.KilledWorker):
        return "its Dask workers died (%s)" % in_one_line(error)
    return "a Dask worker could not train it (%s)" % in_one_line(error)


def _duration(seconds: float) -> str:
    return "%g minutes" % (seconds / 60) if seconds >= 120 else "%g s" % seconds
