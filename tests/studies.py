"""What the tests of studies share: a small study, and the processes that run it."""

import os
import subprocess
import sys

import nets

TESTS = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(TESTS)
POLICIES = ("FIX(k0=0.01)", "SIN2(k0=0.005, k1=0.08, l=100)")
DIGITS = os.path.join(ROOT, "solvers", "digits_solver.prototxt")
MAX_ITER, TEST_INTERVAL = 60, 10
HELD_AT = 25  # the iteration at which a gate holds the trainings of the study
HELD_ROWS = 3  # the rows that a training has by then

_started = []


def arguments(name, digits, folder, *more, gate=None, policies=POLICIES):
    """Arguments that train policies with two seeds on the digits in a study.

    Args:
        name: The name of the study.
        digits: The folder with the LMDBs.
        folder: The folder for the prototxts.
        *more: More arguments.
        gate: A Gate that holds the trainings.
        policies: Their texts.
    """
    head = nets.ACCURACY + nets.LOSS + (gate.layer if gate else "")
    solver = nets.solver(max_iter=MAX_ITER, test_interval=TEST_INTERVAL)
    path = nets.write(folder, solver, nets.net(head=head))
    options = [argument for policy in policies for argument in ("--policy", policy)]
    return ["study", "run", name, path, "--data", digits, "--seeds", "2", *options, *more]


def expected(seeds=(1, 2), max_iter=MAX_ITER, policies=POLICIES):
    """The keys of all rows of the study."""
    return sorted(
        (policy, seed, iteration)
        for policy in policies
        for seed in seeds
        for iteration in range(0, max_iter + 1, TEST_INTERVAL)
    )


EXPECTED = expected()


def keys(trials):
    """What identifies each row of these trials."""
    return sorted(
        (trial.policy, trial.setup.seed, row.iteration) for trial in trials for row in trial.rows
    )


def states(trials):
    """The states of these trials."""
    return sorted(trial.state for trial in trials)


def held_rows(trials):
    """How many of these trials have all rows that they have when a gate holds them."""
    return sum(len(trial.rows) >= HELD_ROWS for trial in trials)


def start(*arguments, **options):
    """Start the command line as a process, with pipes for its output.

    A test that fails leaves it running; kill_started() ends it.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "lrbench_caffe", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join([ROOT, TESTS])),
        universal_newlines=True,
        **options,
    )
    _started.append(process)
    return process


def kill_started():
    """End the processes that a test has started and not waited for."""
    while _started:
        process = _started.pop()
        if process.poll() is None:
            process.kill()
            process.communicate()
