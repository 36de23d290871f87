"""A job before training: its resolved solver, its policy, and the description of its trial."""

from __future__ import annotations

import os
import random
import socket
import time
import uuid
from typing import TYPE_CHECKING, Any

import caffe
import threadpoolctl
from caffe.proto import caffe_pb2

from lrbench_caffe.errors import InputError
from lrbench_caffe.policies import Composition, Policy
from lrbench_caffe.training import canonical, encoding, patience, prototxt, sources
from lrbench_caffe.training.files import find_file, plain_path, shown
from lrbench_caffe.training.inputs import input_settings
from lrbench_caffe.training.lr_policy import CaffePolicy, policy_from_solver
from lrbench_caffe.training.sets import find_sets
from lrbench_caffe.training.solverstate import snapshot_iteration
from lrbench_caffe.training.validation_net import VALIDATION_SET, batch_note
from lrbench_caffe.trial import Framework, Network, Setup, Trial

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrbench_caffe.training.measurement import MeasuredSet, Measurement
    from lrbench_caffe.training.patience import Patience
    from lrbench_caffe.training.sets import Sets
    from lrbench_caffe.trial import Job

MAX_NAME = 200  # characters of a network's name; the database accepts up to 500


def prepare(
    job: Job, emit: Callable[[str, Any], object]
) -> tuple[caffe_pb2.SolverParameter, Policy | CaffePolicy, Sets]:
    """Resolve the solver, the policy and the sets of a job, without building a net.

    Args:
        job: What to train.
        emit: Receives each "note" about files that Caffe would find in another place.

    Returns:
        The SolverParameter, changed by the job's options and resolved by :func:`prototxt.resolve`,
        with a random_seed in any case; the policy; and the sets of its test nets.

    Raises:
        InputError: A file, an option or the policy cannot be used.
    """
    if job.data is not None and not os.path.isdir(job.data):
        raise InputError(
            "data folder %s not found: create it with `lrbench data`, or name another with --data"
            % job.data
        )
    if job.until_top1 is not None and not 0 <= job.until_top1 <= 1:
        raise InputError(
            "invalid until_top1=%s, expected a share of the test samples from 0 to 1"
            % job.until_top1
        )
    patience.check(job)
    solver = prototxt.read_solver(job.solver)
    try:
        apply(job, solver)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError("Caffe's solver cannot hold the value of an option: %s" % error) from None
    param = prototxt.resolve(solver, job.solver, job.data)
    for sentence in prototxt.shadowed_nets(solver, job.solver, job.data):
        emit("note", sentence)
    sets = find_sets(job, solver, param)
    policy = _policy(job, param)
    _check_length(job, param, policy)
    if param.random_seed < 0:
        param.random_seed = random.SystemRandom().randrange(2**31)
    return param, policy, sets


def apply(job: Job, solver: caffe_pb2.SolverParameter) -> None:
    """Change a SolverParameter by the options of a job.

    Args:
        job: The options; None leaves a field as it is.
        solver: The SolverParameter to change.

    Raises:
        InputError: Resume and weights are both given, or a file is missing.
        TypeError: An option has another type than its field.
        ValueError: An option is out of its field's range.
    """
    if job.resume is not None:
        if job.weights is not None:
            raise InputError(
                "give --resume or --weights, not both: a snapshot brings its own weights"
            )
        solver.ClearField("weights")
    if job.weights is not None:
        solver.weights[:] = [_weights(name) for name in job.weights.split(",")]
    if job.max_iter is not None:
        solver.max_iter = job.max_iter
    if job.test_interval is not None:
        solver.test_interval = job.test_interval
    if job.seed is not None:
        solver.random_seed = job.seed
    if job.snapshot_prefix is not None:
        solver.snapshot_prefix = encoding.from_path(job.snapshot_prefix)
        solver.snapshot_after_train = True
    # As in `caffe train`, whose --level has the default 0 and whose --stage has the default "".
    solver.train_state.level = job.level
    for stages in job.stages or ("",):
        solver.train_state.stage.extend(encoding.from_path(stages).split(","))


def _weights(name: str) -> str:
    hint = "give the path of a .caffemodel"
    if not name.strip():
        raise InputError("--weights has an empty name: %s" % hint)
    ending = os.path.splitext(name.strip())[1]
    if ending in (".solverstate", ".prototxt", ".json"):
        resume = ", or continue from a snapshot with --resume" if ending == ".solverstate" else ""
        raise InputError("%s is not a file of weights: %s%s" % (name.strip(), hint, resume))
    return plain_path(find_file(name.strip(), ["."], "the file of weights to start from", hint))


def _policy(job: Job, param: caffe_pb2.SolverParameter) -> Policy | CaffePolicy:
    """The policy that the job names, or else the solver."""
    epoch = sources.iterations_per_epoch(param)
    if job.policy is None:
        return policy_from_solver(param, epoch)
    return Policy.parse(job.policy, epoch)


def _check_length(job: Job, param: caffe_pb2.SolverParameter, policy: Policy | CaffePolicy) -> None:
    """Raise InputError if no iteration is left to train, or the policy ends before max_iter."""
    if not param.max_iter:
        raise InputError(
            "%s has no max_iter: give it one, the number of iterations to train" % job.solver
        )
    start = snapshot_iteration(job.resume) if job.resume else 0
    if param.max_iter <= start:
        snapshot = " and the snapshot %s is at %d" % (job.resume, start) if job.resume else ""
        raise InputError(
            "%s trains to iteration %d%s: give a larger max_iter"
            % (job.solver, param.max_iter, snapshot)
        )
    if isinstance(policy, Policy) and policy.end < param.max_iter:
        # Only a POLY ends, in a composition as its last piece.
        poly = policy.parts[-1] if isinstance(policy, Composition) else policy
        assert isinstance(poly, Policy)
        length = poly.parameters["l"] + param.max_iter - policy.end
        raise InputError(
            "%s has no rate after iteration %d, but the training has %d: give POLY l=%d"
            % (policy, policy.end, param.max_iter, length)
        )


def check_snapshot_folder(param: caffe_pb2.SolverParameter) -> None:
    """Check that the snapshots that a solver asks for can be written.

    Raises:
        InputError: Their folder is missing or cannot be written.
    """
    folder = os.path.abspath(os.path.dirname(encoding.to_path(param.snapshot_prefix)))
    wanted = param.snapshot or param.snapshot_after_train
    if not wanted or os.access(folder, os.W_OK | os.X_OK):
        return
    remedy = "make the folder %s" % shown(folder)
    if os.path.isdir(folder):
        remedy = "allow writing to the folder %s" % shown(folder)
    raise InputError(
        "snapshots cannot be written to %s_iter_*: %s, or name another place with --snapshot-prefix"
        % (encoding.readable(param.snapshot_prefix), remedy)
    )


def check_measurement(
    job: Job, policy: Policy | CaffePolicy, measurement: Measurement | None
) -> None:
    """Check that the test net measures what the job needs during the training.

    Args:
        job: What to train.
        policy: Its policy.
        measurement: What an evaluation measures, None without a test net.

    Raises:
        InputError: The job ends at a Top-1, or its patience or a PLATEAU follows a metric, that is
            not measured.
    """
    if measurement is None and job.until_top1 is not None:
        raise InputError(
            "%s has no test net, so no Top-1 is measured: leave out --until-top1, or give it "
            "test_iter, test_interval and a net with a TEST phase" % job.solver
        )
    if job.patience is not None:
        metric = job.patience_metric or patience.METRICS[0]
        problem = _not_measured(metric, measurement)
        if problem:
            raise InputError(
                "--patience follows the metric %s, which is not measured because %s: use "
                "--patience-metric train_loss" % (metric, problem)
            )
    if isinstance(policy, CaffePolicy) or not policy.has_memory:
        return
    parts = policy.parts if isinstance(policy, Composition) else (policy,)
    for part in parts:
        if not isinstance(part, Policy):
            continue
        if part.function != "PLATEAU":
            continue
        metric = part.parameters.get("of", "test_loss")
        problem = _not_measured(metric, measurement)
        if problem:
            raise InputError(
                "%s follows the metric %s, which is not measured because %s: use PLATEAU with "
                "of=train_loss" % (part, metric, problem)
            )


def _not_measured(metric: str, measurement: Measurement | None) -> str | None:
    """Why a metric of the rows is not measured, None if it is."""
    if metric == "train_loss":
        return None
    if measurement is None:
        return "the solver has no test net"
    if metric == "test_loss" and not measurement.has_loss:
        return "the test net has no loss and no probabilities"
    return None


def _without_test_net(net: caffe_pb2.NetParameter) -> str:
    """A note about a solver without a test net, which says how its net can be tested."""
    note = "the solver has no test net: nothing is measured but the train loss"
    rules = [rule for layer in net.layer for rule in layer.include]
    if any(rule.HasField("phase") and rule.phase == caffe_pb2.TEST for rule in rules):
        note += "; to test the net with its TEST layers, give test_iter and test_interval"
    return note


def describe(
    param: caffe_pb2.SolverParameter,
    policy: Policy | CaffePolicy,
    measurement: Measurement | None,
    stopping: Patience | None,
    emit: Callable[[str, Any], object],
) -> Trial:
    """Describe the trial that is about to run.

    Args:
        param: The resolved SolverParameter.
        policy: The policy to train under.
        measurement: What an evaluation measures, None without a test net.
        stopping: When the training ends early, None if it does not.
        emit: Receives each "note" about what is measured, and what of it is not complete.

    Returns:
        The Trial, without rows.

    Raises:
        InputError: The data cannot be read, or its labels do not fit the net.
    """
    train = sources.find_source(param.train_net_param, caffe_pb2.TRAIN, param.train_state)
    text = canonical.canonical_network(param.train_net_param)
    named = param.test_net_param[0] if param.test_net_param else param.train_net_param
    name = encoding.readable(named.name) or "unnamed"
    settings = canonical.solver_settings(param)
    settings["batch_size"] = train and train.batch_size
    if stopping:
        settings.update(stopping.settings)
        if stopping.iterations >= param.max_iter:
            emit("note", stopping.no_effect(param.max_iter))
    test, classes = None, None
    if measurement is None:
        settings["test_net"] = None
        emit("note", _without_test_net(param.train_net_param))
    else:
        tests = _describe_tests(param, measurement, train, emit)
        test, deciding = tests[measurement.reported.name], tests[measurement.deciding.name]
        settings["test_batch_size"] = test and test.batch_size
        settings.update(measurement.settings)
        if deciding is not test and deciding is not None and deciding.samples is not None:
            settings["select_samples"] = deciding.samples
        classes = measurement.head.classes
    settings.update(
        input_settings(param, None if measurement is None else measurement.reported.test_net)
    )
    setup = Setup(
        framework=Framework("Caffe", caffe.__version__),
        network=Network(name[:MAX_NAME], canonical.network_hash(text), text),
        dataset=sources.describe_dataset(train, test),
        classes=classes,
        solver=settings,
        seed=param.random_seed,
    )
    blas, threads = _blas()
    return Trial(
        id=str(uuid.uuid4()),
        policy=str(policy),
        function=policy.function,
        parameters=policy.parameters,
        n_params=policy.n_params,
        setup=setup,
        host=socket.gethostname(),
        started=time.time(),
        blas=blas,
        threads=threads,
    )


def _describe_tests(
    param: caffe_pb2.SolverParameter,
    measurement: Measurement,
    train: sources.Source | None,
    emit: Callable[[str, Any], object],
) -> dict[str, sources.Source | None]:
    """Check the data of the measured sets, emit the notes, and return the sources by set."""
    tests = {each.name: _test_source(param, each.test_net) for each in measurement.sets}
    for measured in measurement.sets:
        _check_labels(param, measured, train, tests[measured.name])
    several = len(measurement.sets) > 1
    notes = [
        *measurement.notes,
        *(
            sources.coverage_note(
                tests[measured.name],
                param.test_iter[measured.test_net],
                measured.name if several else None,
            )
            for measured in measurement.sets
        ),
        batch_note(tests.get(VALIDATION_SET), _test_source(param, 0)),
    ]
    for note in filter(None, notes):
        emit("note", note)
    return tests


def _test_source(param: caffe_pb2.SolverParameter, index: int) -> sources.Source | None:
    """The source of a test net's data."""
    state = param.test_state[index] if param.test_state else None
    return sources.find_source(param.test_net_param[index], caffe_pb2.TEST, state)


def _check_labels(
    param: caffe_pb2.SolverParameter,
    measured: MeasuredSet,
    train: sources.Source | None,
    test: sources.Source | None,
) -> None:
    """Check the labels of a set, and those of the training, against the classes of its heads."""
    name = param.test_net_param[measured.test_net].name
    for head in measured.heads:
        for source, layer in ((train, head.trained_labels_from), (test, head.labels_from)):
            if source is not None and source.layer == layer:
                sources.check_labels(source, head.classes, name, head.ignore_label)


def _blas() -> tuple[str | None, int | None]:
    """The BLAS library of this process with its kernels, and its threads; None if unknown."""
    for library in threadpoolctl.threadpool_info():
        if library["user_api"] == "blas":
            parts = (library["internal_api"], library["version"], library.get("architecture"))
            return " ".join(part for part in parts if part), library["num_threads"]
    return None, None
