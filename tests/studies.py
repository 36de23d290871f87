"""What the tests of studies share: a small study of the digits, and its processes."""

import contextlib
import glob
import os
import subprocess
import sys
import time

from conftest import ROOT

POLICIES = ("FIX(k0=0.01)", "SIN2(k0=0.005, k1=0.08, l=100)")
DIGITS = os.path.join(ROOT, "solvers", "digits_solver.prototxt")


def expected(max_iter=600):
    """The keys of the rows of the whole study."""
    return sorted(
        (policy, seed, iteration)
        for policy in POLICIES
        for seed in (1, 2)
        for iteration in range(0, max_iter + 1, 50)
    )


EXPECTED = expected()


def keys(trials):
    return sorted(
        (trial.policy, trial.setup.seed, row.iteration) for trial in trials for row in trial.rows
    )


def start(*words):
    """The command line as a process, to be listened to or killed."""
    return subprocess.Popen(
        [sys.executable, "-m", "lrbench_caffe"] + list(words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=ROOT),
        universal_newlines=True,
    )


def trainings_of(pid):
    """The process ids of the trainings below a process."""
    found = []
    for path in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(OSError), open(path) as file, open(
            os.path.dirname(path) + "/cmdline"
        ) as words:
            stat = file.read()
            if (
                int(stat.rsplit(")", 1)[1].split()[1]) == pid
                and "lrbench_caffe.training.solver" in words.read()
            ):
                found.append(int(stat.split()[0]))
    return found


def folder_of(pid):
    """The folder with the snapshots of the trial that a process trains, whose lock it holds."""
    for link in glob.glob("/proc/%d/fd/*" % pid):
        with contextlib.suppress(OSError):
            folder, file = os.path.split(os.readlink(link))
            if file == "lock":
                return folder
    return None


def wait_until(condition, seconds=60):
    """What the condition returns once it is true; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline
        time.sleep(0.05)
