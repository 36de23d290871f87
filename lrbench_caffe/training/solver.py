"""The training loop: a solver prototxt and a policy become a trial, on the Caffe in this process.

Caffe ends its process when a CHECK fails, so this module is run in a process of its own (``python -m lrbench_caffe.training.solver``, a
job on standard input, events on standard output, one JSON object a line); :mod:`lrbench_caffe.study.process` starts it and listens.
"""

import dataclasses
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid

import caffe
import threadpoolctl
from caffe.proto import caffe_pb2

from lrbench_caffe import metrics
from lrbench_caffe.errors import InputError, fatal_message
from lrbench_caffe.layers import MetricsLayer
from lrbench_caffe.policies import Policy
from lrbench_caffe.training import monitor, prototxt, snapshots, sources
from lrbench_caffe.trial import (
    DIVERGED,
    FINISHED,
    INTERRUPTED,
    Evaluation,
    Framework,
    Job,
    Network,
    Setup,
    Trial,
    from_dict,
    to_dict,
)

GPU_PROBLEMS = (  # what Caffe's last words hold, and what they mean
    ("CPU-only Caffe", "this Caffe is built for the CPU only"),
    ("invalid device ordinal", "there is no GPU with this index; `nvidia-smi -L` lists them"),
    (
        "driver version is insufficient",
        "there is no NVIDIA driver, or it is too old for this Caffe's CUDA",
    ),
    ("no CUDA-capable device", "the NVIDIA driver finds no GPU"),
)
CHUNK_SECONDS = 0.25  # how long training goes on between two looks at the clock, the losses and a request to stop


def run(job, emit, stop):
    """Train one job: emit(kind, content) for "note", "begin", "progress", "row" and "end"; stop: an Event that interrupts.

    Raises InputError for what cannot be trained.
    """
    param, policy = prepare(job)
    gpu = choose_device(param, job.gpu, emit)
    native = monitor.install(policy, param)
    head = prototxt.add_metrics_layer(param)
    recalled = (
        snapshots.read_policy_state(job.resume, policy)
        if job.resume and policy.has_memory
        else snapshots.NO_STATE
    )
    own = snapshots.Snapshots(job.folder) if job.folder else None
    latest = own and own.latest()
    resume = latest["solverstate"] if latest else job.resume
    resumed_at = prototxt.snapshot_iteration(resume) if resume else None
    trial = describe(param, policy, head, emit)
    emit("begin", to_dict(dataclasses.replace(trial, id=job.id or trial.id, resumed_at=resumed_at)))
    if own:
        param.snapshot, param.snapshot_after_train, param.snapshot_prefix = 0, False, own.prefix
        param.snapshot_format = caffe_pb2.SolverParameter.BINARYPROTO
    solver = create_solver(param)
    if resume:
        solver.restore(resume)
    watch = monitor.Monitor(solver, policy, native, param.iter_size, gpu, recalled.memory)
    rows = []

    def tell(kind, content):
        if kind == "row":
            content = dict(content, resumed_at=resumed_at)
            rows.append(content)
        emit(kind, content)

    def keep():
        if own and own.due(solver):
            own.take(solver, rows, watch.losses)

    def remember():
        if policy.has_memory:
            snapshots.write_policy_state(
                param.snapshot_prefix, solver.iter, policy, watch.memory, watch.losses
            )

    watch.losses.extend(latest["losses"] if latest else recalled.losses)
    if latest:  # what was measured up to there: it may not have arrived
        rows.extend(latest["rows"])
        for row in rows:
            watch.observe(from_dict(Evaluation, row))
            emit("row", row)
    state, error = train(solver, watch, Plan(param, job.until_top1), tell, stop, keep, remember)
    if own and state == INTERRUPTED and own.room(solver):
        own.take(solver, rows, watch.losses)
    already = param.snapshot and solver.iter % param.snapshot == 0
    if param.snapshot_after_train and not already and state != DIVERGED:
        solver.snapshot()
        remember()
    emit("end", {"state": state, "error": error})


class Plan:
    """When to evaluate and when to end, from a resolved SolverParameter."""

    def __init__(self, param, until_top1=None):
        self.max_iter, self.test_interval = param.max_iter, param.test_interval
        self.test_iter, self.at_start = param.test_iter[0], param.test_initialization
        self.iter_size, self.snapshot = param.iter_size, param.snapshot
        self.until_top1 = math.inf if until_top1 is None else until_top1

    def evaluates(self, iteration):
        """Whether the test set is evaluated when so many iterations are finished: as Caffe does, and at the end."""
        return iteration >= self.max_iter or (
            iteration % self.test_interval == 0 and (iteration > 0 or self.at_start)
        )

    def snapshots(self, iteration):
        """Whether Caffe itself takes a snapshot when so many iterations are finished."""
        return self.snapshot and iteration % self.snapshot == 0

    def next_stop(self, iteration):
        """The next iteration after this one at which the test set is evaluated or Caffe takes a snapshot."""
        return min(
            [
                iteration - iteration % every + every
                for every in (self.test_interval, self.snapshot)
                if every
            ]
            + [self.max_iter]
        )


def train(solver, watch, plan, emit, stop, keep=lambda: None, remember=lambda: None):
    """The main loop, Caffe's Solver::Step with the monitor and the test layer: returns the state it ended in, and why.

    keep() is called before an evaluation: what it keeps of the training brings that evaluation again.  remember() is called after
    a snapshot of Caffe's own.
    """
    chunk = 1
    try:
        while True:
            iteration = solver.iter
            if plan.evaluates(iteration):
                keep()
                row = evaluate(solver, watch, plan.test_iter, stop)
                if math.isfinite(row.test_loss):
                    row = watch.observe(row)
                    emit("row", to_dict(row))
                    if row.top1 >= plan.until_top1:
                        return FINISHED, None
                elif iteration:
                    return DIVERGED, "the test loss became %g at iteration %d" % (
                        row.test_loss,
                        iteration,
                    )
                else:  # as with batch normalization, whose running averages are 0 before training
                    emit(
                        "note",
                        "the test loss is %g before training: the row of iteration 0 is left out"
                        % row.test_loss,
                    )
            if iteration >= plan.max_iter:
                return FINISHED, None
            started, first = time.monotonic(), len(watch.losses)
            watch.step(min(chunk, plan.next_stop(iteration) - iteration))
            seconds = time.monotonic() - started
            if plan.snapshots(solver.iter):
                remember()
            bad = next(
                (n for n, loss in enumerate(watch.losses[first:]) if not math.isfinite(loss)), None
            )
            if bad is not None:
                at = iteration + bad // plan.iter_size
                return DIVERGED, "the train loss became %g at iteration %d" % (
                    watch.losses[first + bad],
                    at,
                )
            chunk = max(1, int((solver.iter - iteration) * CHUNK_SECONDS / max(seconds, 1e-6)))
            emit(
                "progress",
                {
                    "iteration": solver.iter,
                    "max_iter": plan.max_iter,
                    "lr": watch.lr,
                    "loss": watch.losses[-1],
                },
            )
            if stop.is_set():
                return INTERRUPTED, None
    except KeyboardInterrupt:
        return INTERRUPTED, None


def evaluate(solver, watch, test_iter, stop):
    """One Evaluation: the whole test set once, with the weights as they are.  Clears the monitor's losses."""
    net = solver.test_nets[0]
    net.share_with(solver.net)
    layer = next(layer for layer in net.layers if isinstance(layer, MetricsLayer))
    last, loss = len(net.layers) - 1, 0.0
    for _ in range(test_iter):
        if stop.is_set():
            raise KeyboardInterrupt
        try:
            loss += net._forward(
                0, last
            )  # the bound method gives Caffe's weighted sum of the losses; forward() does not
        except ValueError as error:  # the metrics layer's
            raise InputError(str(error)) from None
    seen = layer.take()
    test_loss = loss / test_iter if any(net.blob_loss_weights.values()) else seen.log_loss
    train_loss = math.fsum(watch.losses) / len(watch.losses) if watch.losses else None
    watch.losses.clear()
    return Evaluation(
        solver.iter,
        watch.lr,
        train_loss,
        test_loss,
        seen.top1,
        seen.top5,
        seen.ac,
        seen.cd,
        seen.cdac,
        metrics.loss_difference(test_loss, train_loss),
        class_confidence=tuple(c and round(c, 6) for c in seen.class_confidence),
    )  # what the database's real holds


def prepare(job):
    """The resolved SolverParameter and the policy of a job, as far as they can be had without building a net."""
    if job.data is not None and not os.path.isdir(job.data):
        raise InputError(
            "the data folder %s is not there: make it with `lrbench data`, or name another with --data"
            % job.data
        )
    if job.until_top1 is not None and not 0 <= job.until_top1 <= 1:
        raise InputError(
            "until_top1=%s is no share of the test samples: give a number from 0 to 1"
            % job.until_top1
        )
    given = prototxt.read_solver(job.solver)
    try:
        apply(job, given)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError("an option does not fit Caffe's solver: %s" % error) from None
    param = prototxt.resolve(given, job.solver, job.data)
    epoch = sources.iterations_per_epoch(param)
    policy = (
        Policy.parse(job.policy, epoch) if job.policy else monitor.policy_from_solver(param, epoch)
    )
    start = prototxt.snapshot_iteration(job.resume) if job.resume else 0
    if param.max_iter <= start:
        raise InputError(
            "%s trains to iteration %d%s: give a larger max_iter"
            % (
                job.solver,
                param.max_iter,
                " and the snapshot %s is at %d" % (job.resume, start) if job.resume else "",
            )
        )
    if isinstance(policy, Policy) and policy.end < param.max_iter:
        poly = getattr(policy, "parts", [policy])[-1]
        raise InputError(
            "%s has no rate after iteration %d, but the training has %d: give POLY l=%d"
            % (
                policy,
                policy.end,
                param.max_iter,
                poly.parameters["l"] + param.max_iter - policy.end,
            )
        )
    if param.random_seed < 0:
        param.random_seed = random.SystemRandom().randrange(2**31)
    if param.snapshot or param.snapshot_after_train:
        folder = os.path.dirname(param.snapshot_prefix) or "."
        if not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(
                "snapshots cannot be written to %s_iter_*: make the folder %s, or name another place with "
                "--snapshot-prefix" % (param.snapshot_prefix, os.path.abspath(folder))
            )
    return param, policy


def apply(job, solver):
    """Change a SolverParameter as the job says.  Raises ValueError or TypeError for what its fields cannot hold."""
    if job.resume is not None:
        if job.weights is not None:
            raise InputError(
                "give --resume or --weights, not both: a snapshot brings its own weights"
            )
        solver.ClearField("weights")
    if job.weights is not None:
        solver.weights[:] = [
            prototxt.find_file(
                weights.strip(),
                ["."],
                "the weights to start from",
                "give the path of a .caffemodel",
            )
            for weights in job.weights.split(",")
        ]
    if job.max_iter is not None:
        solver.max_iter = job.max_iter
    if job.test_interval is not None:
        solver.test_interval = job.test_interval
    if job.seed is not None:
        solver.random_seed = job.seed
    if job.snapshot_prefix is not None:
        solver.snapshot_prefix, solver.snapshot_after_train = job.snapshot_prefix, True
    solver.train_state.level = job.level or solver.train_state.level
    for stages in job.stages:
        solver.train_state.stage.extend(stages.split(","))


def choose_device(param, gpu, emit):
    """Set Caffe's mode: the GPU that was asked for, else what the prototxt says where this Caffe can; True for a GPU."""
    wanted = gpu if gpu is not None else param.device_id
    if gpu is not None or (
        param.HasField("solver_mode") and param.solver_mode == caffe_pb2.SolverParameter.GPU
    ):
        problem = _gpu_problem(wanted)
        if problem is None:
            caffe.set_device(wanted)
            caffe.set_mode_gpu()
            param.solver_mode, param.device_id = caffe_pb2.SolverParameter.GPU, wanted
            return True
        if gpu is not None:
            raise InputError(
                "GPU %d cannot be used (%s): leave --gpu out to train on the CPU" % (gpu, problem)
            )
        emit(
            "note",
            "the prototxt asks for a GPU, which cannot be used (%s): training on the CPU" % problem,
        )
    caffe.set_mode_cpu()
    param.solver_mode = caffe_pb2.SolverParameter.CPU
    return False


def _gpu_problem(index):
    """Why Caffe cannot take this GPU, or None when it can: asked in a process that may be aborted."""
    command = "import caffe; caffe.set_mode_gpu(); caffe.set_device(%d)" % index
    probe = subprocess.run(
        [sys.executable, "-c", command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if probe.returncode == 0:
        return None
    return gpu_problem(
        fatal_message(probe.stderr) or "Caffe ended with status %d" % probe.returncode
    )


def gpu_problem(said):
    """The meaning of Caffe's last words after it was given a GPU; the words themselves where they are new."""
    return next((meaning for words, meaning in GPU_PROBLEMS if words in said), said)


def create_solver(param):
    """A Caffe solver for a resolved SolverParameter; Caffe's own tests are put off for ever, as :func:`train` does them."""
    own = caffe_pb2.SolverParameter()
    own.CopyFrom(param)
    own.test_interval, own.test_initialization = 2**31 - 1, False
    with tempfile.TemporaryDirectory(prefix="lrbench-") as folder:
        path = os.path.join(folder, "solver.prototxt")
        prototxt.write_solver(own, path)
        return caffe.get_solver(path)


def describe(param, policy, head, emit):
    """The Trial that is about to run, with no rows yet.  Raises InputError where the labels do not fit the net."""
    state = param.test_state[0] if param.test_state else None
    train_source = sources.find_source(param.train_net_param, caffe_pb2.TRAIN, param.train_state)
    test_source = sources.find_source(param.test_net_param[0], caffe_pb2.TEST, state)
    net = param.test_net_param[0]
    classes = prototxt.count_classes(net, head)
    for found in (train_source, test_source):
        sources.check_labels(found, classes, net.name, head.ignore_label)
    text = prototxt.canonical_network(param.train_net_param)
    settings = prototxt.solver_settings(param)
    settings.update(
        batch_size=train_source and train_source.batch_size,
        test_batch_size=test_source and test_source.batch_size,
    )
    for note in (
        sources.coverage_note(test_source, param.test_iter[0]),
        len(param.test_net_param) > 1
        and "the solver has %d test nets: the first one is measured" % len(param.test_net_param),
    ):
        if note:
            emit("note", note)
    setup = Setup(
        Framework("Caffe", caffe.__version__),
        Network((net.name or "unnamed")[:200], prototxt.network_hash(text), text),
        sources.describe_dataset(train_source, test_source),
        classes,
        settings,
        param.random_seed,
    )
    return Trial(
        str(uuid.uuid4()),
        str(policy),
        policy.function,
        policy.parameters,
        policy.n_params,
        setup,
        socket.gethostname(),
        time.time(),
        *_blas(),
    )


def _blas():
    """The BLAS library in this process with its kernels, and its number of threads; (None, None) where it does not tell."""
    for found in threadpoolctl.threadpool_info():
        if found["user_api"] == "blas":
            names = (found["internal_api"], found["version"], found.get("architecture"))
            return " ".join(name for name in names if name), found["num_threads"]
    return None, None


def _end_with(parent):
    """End this process when its parent is gone, since nobody listens any more."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def main():
    """Read a job from standard input, train it, and write events to what was standard output."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what Caffe and Python layers print goes to the log
    stop = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()

    def emit(kind, content):
        out.write(json.dumps([kind, content]) + "\n")

    try:
        run(from_dict(Job, json.load(sys.stdin)), emit, stop)
    except InputError as error:
        emit("input error", str(error))
    except BrokenPipeError:
        os._exit(1)  # nobody listens any more
    except Exception as error:  # a Python layer's, most likely: its traceback goes to the log
        traceback.print_exc()
        emit("failure", "%s: %s" % (type(error).__name__, error))


if __name__ == "__main__":
    main()
