"""What the tests of studies share: a small study of the digits, and its processes."""

import contextlib
import glob
import os
import signal
import subprocess
import sys
import time

from conftest import ROOT

POLICIES = ("FIX(k0=0.01)", "SIN2(k0=0.005, k1=0.08, l=100)")
DIGITS = os.path.join(ROOT, "solvers", "digits_solver.prototxt")


def expected(max_iter=600):
    """The keys of all rows of the study."""
    return sorted(
        (policy, seed, iteration)
        for policy in POLICIES
        for seed in (1, 2)
        for iteration in range(0, max_iter + 1, 50)
    )


EXPECTED = expected()


def keys(trials):
    """What identifies each row of these trials."""
    return sorted(
        (trial.policy, trial.setup.seed, row.iteration) for trial in trials for row in trial.rows
    )


def start(*arguments, **options):
    """Start the command line as a process, with pipes for its output."""
    return subprocess.Popen(
        [sys.executable, "-m", "lrbench_caffe", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=ROOT),
        universal_newlines=True,
        **options,
    )


def trainings_of(pid):
    """The process ids of the trainings that a process has started."""
    trainings = []
    for folder in glob.glob("/proc/[0-9]*"):
        with contextlib.suppress(OSError), open(folder + "/stat") as stat_file, open(
            folder + "/cmdline"
        ) as command_file:
            stat, command = stat_file.read(), command_file.read()
            parent = int(stat.rsplit(")", 1)[1].split()[1])
            if parent == pid and "lrbench_caffe.training.worker" in command:
                trainings.append(int(stat.split()[0]))
    return trainings


def folder_of(pid):
    """The folder for the snapshots of the trial that a process trains; the process locks it."""
    for link in glob.glob("/proc/%d/fd/*" % pid):
        with contextlib.suppress(OSError):
            folder, file = os.path.split(os.readlink(link))
            if file == "lock":
                return folder
    return None


def wait_until(condition, seconds=120):
    """Wait until a condition is true, and return its value; fail after this many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline
        time.sleep(0.05)


def pause_training(parents, condition):
    """Wait for a training that meets a condition, and pause it with SIGSTOP.

    The condition is called with the folder for the snapshots, whose name is the trial's id. The
    training is paused before, so that it cannot end between the check and what a test does then.
    Returns (process id of its parent, process id of the training, folder).
    """

    def pause():
        for parent in parents:
            for training in trainings_of(parent):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(training, signal.SIGSTOP)
                    folder = folder_of(training)
                    if folder and condition(folder):
                        return parent, training, folder
                    os.kill(training, signal.SIGCONT)
        return None

    return wait_until(pause)


def pause_on_its_way(study, trials):
    """Pause a training of a study once its trial has rows in the database; most are yet to come.

    Args:
        study: The process that runs the study.
        trials: A function that returns the trials of the study from the database.

    Returns:
        The process id of the training.
    """

    def on_its_way(folder):
        rows = [trial.rows for trial in trials() if trial.id == os.path.basename(folder)]
        return any(rows) and 100 <= rows[0][-1].iteration <= 300

    return pause_training([study.pid], on_its_way)[1]
