"""A training from its job to its end, as :mod:`lrbench_caffe.training.worker` runs it.

Importing this module imports Caffe.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import shlex
from typing import TYPE_CHECKING, Any

# isort: off
import lrbench_caffe.training.quick_caffe  # noqa: F401 - before the first import of caffe
from caffe.proto import caffe_pb2

# isort: on
from lrbench_caffe.errors import disk_problem
from lrbench_caffe.training import encoding, leveldb, patience, room, solverstate
from lrbench_caffe.training.deploy import checked, deploy_net
from lrbench_caffe.training.device import choose_device
from lrbench_caffe.training.files import plain_path, shown
from lrbench_caffe.training.inputs import weights_note
from lrbench_caffe.training.job import check_measurement, check_snapshot_folder, describe, prepare
from lrbench_caffe.training.log_lines import LogLines
from lrbench_caffe.training.lr_policy import install
from lrbench_caffe.training.measurement import add_metrics_layers
from lrbench_caffe.training.model import ModelKeeper
from lrbench_caffe.training.monitor import Monitor
from lrbench_caffe.training.snapshots import Snapshots
from lrbench_caffe.training.solver import Plan, create_solver, evaluation_interval, train
from lrbench_caffe.training.sources import iterations_per_epoch
from lrbench_caffe.trial import DIVERGED, INTERRUPTED, Evaluation, from_dict, to_dict

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    import caffe

    from lrbench_caffe.policies import Policy
    from lrbench_caffe.training.lr_policy import CaffePolicy
    from lrbench_caffe.training.snapshots import Snapshot
    from lrbench_caffe.trial import Job


def run(
    job: Job,
    emit: Callable[[str, Any], object],
    stop: threading.Event,
    only: str | None = None,
) -> None:
    """Train a job.

    Args:
        job: What to train.
        emit: Receives each event and its content: "note" (a sentence), "begin" (a Trial as a
            dict), "progress" and "display" (a dict), "row" (an Evaluation as a dict), "end" (state
            and error).
        stop: Set to interrupt the training.
        only: "describe" to end after "begin"; "deploy" to emit the deploy net and end.

    Raises:
        InputError: The job cannot be trained.
    """
    param, policy, sets = prepare(job, emit)
    gpu = choose_device(param, job.gpu, emit)
    native = install(policy, param)
    measurement = add_metrics_layers(param, job.head, sets)
    check_measurement(job, policy, measurement)
    databases = leveldb.Databases(param)
    databases.try_lock()
    interval = evaluation_interval(param, measurement)
    stopping = patience.read(job, interval, lambda: iterations_per_epoch(param))
    policy_state = _policy_state(job, policy, emit)
    snapshots = Snapshots(job.folder) if job.folder else None
    if snapshots and not snapshots.lock(stop, emit):
        return  # interrupted before it began
    latest = snapshots.latest(emit) if snapshots else None
    if not (snapshots or only):
        check_snapshot_folder(param)
    resumed_at = _resumed_at(latest, job.resume)
    trial = describe(param, policy, measurement, stopping, emit)
    trial = dataclasses.replace(trial, id=job.id or trial.id, resumed_at=resumed_at)
    emit("begin", to_dict(trial))
    if only == "describe":
        return
    if not databases.lock(stop, emit):
        emit("end", {"state": INTERRUPTED, "error": None})
        return

    if snapshots:
        _replace_snapshots(param, snapshots.prefix)
    solver = create_solver(param)
    if only == "deploy":
        emit("deploy", checked(deploy_net(param, measurement, solver, job.head)).prototxt)
        return
    _restore(solver, snapshots, latest, job.resume)
    if not resumed_at:
        _note_weights(param, solver, emit)
    early_stop = None
    if stopping:
        early_stop, losses = solverstate.resumed_early_stop(stopping, job.resume, emit)
        policy_state = policy_state._replace(losses=losses or policy_state.losses)
    log = LogLines(param, interval, emit) if job.verbose else None
    plan = Plan(param, measurement, job.until_top1, early_stop, log)
    monitor = Monitor(solver, policy, native, param.iter_size, gpu, policy_state.memory)
    keeper = ModelKeeper(job, trial, param, measurement, solver, emit)
    session = _Session(solver, monitor, policy, plan, param, snapshots, keeper, resumed_at, emit)
    if latest:
        session.restore(latest)
    else:
        monitor.losses.extend(policy_state.losses)
    state, error = train(
        solver,
        monitor,
        plan,
        session.emit,
        stop,
        session.before_evaluation,
        session.take_snapshot,
    )
    session.finish(state)
    emit("end", {"state": state, "error": error})


def _policy_state(
    job: Job, policy: Policy | CaffePolicy, emit: Callable[[str, Any], object]
) -> solverstate.PolicyState:
    """The state of the policy in the snapshot that a user names."""
    if job.resume is None:
        return solverstate.NO_STATE
    if job.policy is not None:
        emit(
            "note",
            "the training continues a snapshot of iteration %d, and is recorded as one under %s "
            "from its beginning: this policy has to be that of the snapshot"
            % (solverstate.snapshot_iteration(job.resume), policy),
        )
    if policy.has_memory:
        return solverstate.read_policy_state(job.resume, policy)
    return solverstate.NO_STATE


def _resumed_at(latest: Snapshot | None, resume: str | None) -> int | None:
    """The iteration from which the training resumes, None if it begins at 0."""
    if latest:
        return latest.iteration
    return solverstate.snapshot_iteration(resume) if resume else None


def _restore(
    solver: caffe._caffe.Solver,
    snapshots: Snapshots | None,
    latest: Snapshot | None,
    resume: str | None,
) -> None:
    """Restore the solver from the trial's own snapshot, else from the one that a user names."""
    if snapshots and latest:
        with snapshots.solverstate(latest) as path:
            solver.restore(plain_path(path))
    elif resume:
        solver.restore(plain_path(resume))


def _note_weights(
    param: caffe_pb2.SolverParameter,
    solver: caffe._caffe.Solver,
    emit: Callable[[str, Any], object],
) -> None:
    """Emit a note about layers that do not get initial weights."""
    if not param.weights:
        return
    try:
        layers = list(solver.net.params)
    except UnicodeDecodeError:  # Caffe's Python interface reads names in UTF-8 only
        return
    note = weights_note(param, layers)
    if note:
        emit("note", note)


def _replace_snapshots(param: caffe_pb2.SolverParameter, prefix: str) -> None:
    """Switch off the solver's own snapshots, and send those of the trial to its folder."""
    param.snapshot, param.snapshot_after_train = 0, False
    param.snapshot_prefix = encoding.from_path(prefix)
    param.snapshot_format = caffe_pb2.SolverParameter.BINARYPROTO


class _Session:
    """A training in progress: the rows so far, and the snapshots from which it can resume.

    A trial of a study has snapshots of its own. Any other trial has those that its solver asks
    for; beside them lies the state of a policy with memory and of early stopping.
    """

    def __init__(
        self,
        solver: caffe._caffe.Solver,
        monitor: Monitor,
        policy: Policy | CaffePolicy,
        plan: Plan,
        param: caffe_pb2.SolverParameter,
        snapshots: Snapshots | None,
        keeper: ModelKeeper,
        resumed_at: int | None,
        emit: Callable[[str, Any], object],
    ) -> None:
        self._solver, self._monitor, self._policy, self._param = solver, monitor, policy, param
        self._plan = plan
        self._snapshots, self._resumed_at, self._emit = snapshots, resumed_at, emit
        self._keeper = keeper
        self._rows: list[dict[str, Any]] = []
        self._snapshot_at: int | None = None  # the iteration of the last attempt

    def emit(self, kind: str, content: Any) -> None:
        """Pass an event on; keep the rows, and add where the training has resumed."""
        if kind == "row":
            content = dict(content, resumed_at=self._resumed_at)
            self._rows.append(content)
        self._emit(kind, content)
        if kind == "row":
            self._keeper.on_row(content)

    def restore(self, snapshot: Snapshot) -> None:
        """Continue from a snapshot; its rows are emitted again, since they may have been lost."""
        self._monitor.losses.extend(snapshot.losses)
        self._rows.extend(snapshot.rows)
        self._keeper.restore(self._rows)
        for row in self._rows:
            evaluation = from_dict(Evaluation, row)
            self._monitor.observe(evaluation)
            self._plan.observe(evaluation)
            self._emit("row", row)

    def before_evaluation(self) -> None:
        """Take a snapshot of the trial's own if one is due, and at the end the solver's last one.

        As in Caffe, the last snapshot comes before the last evaluation. Batch normalization with
        use_global_stats: false changes its weights in a test.
        """
        if self._snapshots and self._snapshots.due(self._solver, self._rows):
            self._take_own_snapshot(self._snapshots)
        if self._solver.iter >= self._param.max_iter:
            self._take_last_snapshot()

    def take_snapshot(self) -> None:
        """Take a snapshot for the user. If it cannot be written, the training continues."""
        iteration = self._snapshot_at = self._solver.iter
        stem = solverstate.snapshot_stem(self._param, iteration)
        folder = os.path.dirname(stem) or "."
        needed = room.snapshot_bytes(self._solver, self._param)
        try:
            room.check_snapshot(folder, needed, stem)
            self._solver.snapshot()
            self._write_policy_state(stem)
        except OSError as error:
            is_full = error.errno == errno.ENOSPC
            reason = disk_problem(error, folder, needed) if is_full else error.strerror
            self._emit(
                "note",
                "the snapshot of iteration %d cannot be written to %s.* (%s): the training "
                "continues without it; free space there, or name another place with "
                "--snapshot-prefix" % (iteration, shown(stem), reason),
            )

    def _write_policy_state(self, stem: str) -> None:
        """Write what depends on the rows so far beside the snapshot just taken."""
        if self._policy.has_memory or self._plan.early_stop:
            solverstate.write_policy_state(
                stem,
                self._policy,
                self._monitor.memory,
                self._monitor.losses,
                self._plan.early_stop,
            )

    def finish(self, state: str) -> None:
        """Take the last snapshot of a training that has ended in a state."""
        solver = self._solver
        if (
            self._snapshots
            and state == INTERRUPTED
            and self._snapshots.has_room(solver, self._rows)
        ):
            self._take_own_snapshot(self._snapshots)
        if state != DIVERGED:
            self._take_last_snapshot()
        if state == INTERRUPTED and self._snapshots is None and self._snapshot_at is not None:
            self._report_snapshot(self._snapshot_at)
        self._keeper.finish(state)

    def _report_snapshot(self, iteration: int) -> None:
        """Emit a note with the snapshot of the solver's own from which a user can resume."""
        path = solverstate.snapshot_path(self._param, iteration)
        if os.path.exists(path):
            self._emit(
                "note",
                "the snapshot of iteration %d is %s: to continue from it, repeat the command with "
                "`--resume %s`" % (iteration, shown(path), shlex.quote(shown(path))),
            )

    def _take_own_snapshot(self, snapshots: Snapshots) -> None:
        """Take a snapshot of the trial's own, to which the present model belongs."""
        if snapshots.take(self._solver, self._rows, self._monitor.losses):
            self._keeper.on_snapshot()

    def _take_last_snapshot(self) -> None:
        """Take the snapshot after the training, unless there is one of this iteration."""
        if self._param.snapshot_after_train and self._snapshot_at != self._solver.iter:
            self.take_snapshot()
