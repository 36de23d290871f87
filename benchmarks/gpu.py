"""Checks a GPU: the digits on the GPU and on the CPU, divergence, and LRBench's cost.

Run `make gpu`, or `python3 benchmarks/gpu.py [INDEX]` for another GPU than the first. The Caffe of
`python3` has to be compiled for this GPU; `caffe train`, for the speed, has to be on the PATH. The
exit status is 1 if a check failed. The speed is not one of the checks: repeat it on an idle
machine. All of it takes about two minutes on an H200.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

from overhead import (
    ROOT,
    environment,
    paired,
    report,
    speed_of_caffe,
    speed_of_lrbench,
    write_lenet,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrbench_caffe.trial import Evaluation, Trial

DIGITS = os.path.join(ROOT, "solvers", "digits_solver.prototxt")
# The losses of the same seed on both devices differ by the order of sums in single precision.
TOLERANCE = 1e-3


def train_digits(data: str, gpu: int | None, policy: str | None = None) -> Trial:
    """Train the digits with seed 1 on a GPU, or on the CPU if gpu is None."""
    from lrbench_caffe import train

    return train(DIGITS, policy, data=data, seed=1, gpu=gpu)


def compare(cpu: Sequence[Evaluation], gpu: Sequence[Evaluation]) -> float:
    """Print the rows of the CPU and the GPU; return the largest difference of their test losses."""
    print("iteration   test loss: CPU, GPU   Top-1 %: CPU, GPU")
    differences = [0.0]
    for a, b in zip(cpu, gpu):
        losses, shares = (a.test_loss or 0, b.test_loss or 0), (a.top1 or 0, b.top1 or 0)
        differences.append(abs(losses[0] - losses[1]))
        percents = tuple(100 * share for share in shares)
        print("%9d   %8.6f %10.6f   %8.2f %8.2f" % (a.iteration, *losses, *percents))
    return max(differences)


def check(name: str, passed: bool, detail: str) -> bool:
    """Print the result of a check, and return whether it passed."""
    print("%-6s %s: %s" % ("ok" if passed else "FAILED", name, detail), flush=True)
    return passed


def checks(data: str, gpu: int) -> bool:
    """Check the rows of a GPU against those of the CPU, and its errors; return if all is right."""
    first, second, cpu = (train_digits(data, device) for device in (gpu, gpu, None))
    if first.state != "finished":
        return check("the digits train on the GPU", False, str(first.error))
    difference = compare(cpu.rows, first.rows)
    diverged = train_digits(data, gpu, "FIX(k0=10000)")
    command = [sys.executable, "-m", "lrbench_caffe", "train", DIGITS, "--data", data]
    missing = subprocess.run(
        [*command, "--gpu", "99"], stderr=subprocess.PIPE, env=environment(), text=True
    )
    passed = [
        check(
            "the curves of GPU and CPU agree",
            len(cpu.rows) == len(first.rows) and difference < TOLERANCE,
            "the test losses differ by at most %.2g" % difference,
        ),
        check(
            "a training that diverges ends",
            diverged.state == "diverged",
            "%s, %s" % (diverged.state, diverged.error),
        ),
        check(
            "a GPU that is not there is one sentence",
            missing.returncode == 2 and missing.stderr.count("\n") == 1,
            missing.stderr.strip(),
        ),
    ]
    # Some of cuDNN's algorithms add in any order, so this is not a check.
    same = tuple(first.rows) == tuple(second.rows)
    print("the same seed twice on the GPU: %s rows" % ("equal" if same else "different"))
    return all(passed)


def speed(gpu: int) -> None:
    """Compare LeNet's iterations a second through `lrbench train` with those of `caffe train`."""
    if shutil.which("caffe") is None:
        print("the speed is not measured, because the program caffe is not on the PATH")
        return
    first, last = 1000, 5000
    settings = dict(test_interval=10**6, test_initialization=False, display=500, random_seed=1)
    options = ("--gpu", str(gpu))
    with tempfile.TemporaryDirectory() as folder:
        path = write_lenet(folder, max_iter=last + 1, **settings)
        pairs = paired(
            lambda: speed_of_lrbench(path, first, *options),
            lambda: speed_of_caffe(path, first, last, *options),
        )
    ratios = [a / b for a, b in pairs]
    report("LeNet on the GPU, lrbench train / caffe train", ratios, "", 0.97, worse=min)


def main() -> int:
    """Run everything with a database of its own; return the exit status."""
    from lrbench_caffe import InputError, TrialError, datasets
    from lrbench_caffe.database import server

    gpu = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryDirectory() as data:
        os.environ["LRBENCH_HOME"] = home
        os.environ.pop("LRBENCH_DSN", None)
        # cuDNN and cuBLAS may otherwise round to TF32, and the curves would differ by more.
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
        datasets.convert("digits", data)
        try:
            passed = checks(data, gpu)
            speed(gpu)
        except (InputError, TrialError, RuntimeError) as error:  # the last: no speed to measure
            print(error, file=sys.stderr)
            return 2
        finally:
            server.stop()
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
