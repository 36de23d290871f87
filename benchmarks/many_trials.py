"""Writes an export of many made-up trials, and times `rank` and `report` on a database with them.

    docker/run python3 benchmarks/many_trials.py               50,000 trials, 2 seeds each
    docker/run python3 benchmarks/many_trials.py 50000 1 out.jsonl

The second form only writes the export, which `lrbench db import` reads. The measurement starts a
private server of its own in a temporary LRBENCH_HOME, imports the export and runs each command
several times. A line shows the medians of the seconds that pass, which need an idle machine, and of
the time of a core that the command and PostgreSQL take; and the largest memory of a process until
then.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import uuid

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from lrbench_caffe.policies import Policy

TRIALS, SEEDS, RUNS = 50000, 2, 3
MAX_ITER, INTERVAL, CLASSES = 1000, 100, 10
COMMANDS = (("rank",), ("rank", "--format", "csv"), ("report", "report.html"))
FUNCTIONS = ("FIX", "SIN2", "EXP", "SINEXP")


def write_export(path: str, trials: int, seeds: int) -> None:
    """Write an export of trials on one task, each policy with this number of seeds."""
    chance = random.Random(1)
    checksum = hashlib.sha256()
    with open(path, "w") as file:

        def write(kind: str, content: object) -> None:
            line = json.dumps({kind: content}, separators=(",", ":")) + "\n"
            checksum.update(line.encode())
            file.write(line)

        write("lrbench", {"version": 1, "made": "2026-01-01T00:00:00Z"})
        write("origin", {"database": str(uuid.UUID(int=1)), "name": "made up"})
        write("framework", {"name": "Caffe", "version": "1.0.0"})
        net = 'layer {\n  name: "ip"\n  type: "InnerProduct"\n}\n'
        sha256 = hashlib.sha256(net.encode()).hexdigest()
        write("network", {"name": "net", "hash": sha256, "prototxt": net})
        dataset = {"name": "digits", "shape": [1, 8, 8], "train_samples": 1397, "test_samples": 400}
        write("dataset", dataset)
        for number in range(trials):
            if number % seeds == 0:
                policy = _policy(number // seeds)
                write("policy", policy)
                quality = chance.uniform(0.85, 0.99)
            write("trial", _trial(number, seeds))
            write("rows", [_row(n * INTERVAL, quality, chance) for n in range(11)])
        write("end", {"trials": trials, "sha256": checksum.hexdigest()})


def _policy(number: int) -> dict[str, object]:
    """The number-th policy; all have different texts."""
    function = FUNCTIONS[number % len(FUNCTIONS)]
    k0 = float("%.6g" % (0.0001 * (1 + number)))
    values = {
        "FIX": {"k0": k0},
        "EXP": {"k0": k0, "gamma": 0.99},
        "SIN2": {"k0": k0, "k1": k0 / 2, "l": 100},
        "SINEXP": {"k0": k0, "k1": k0 / 2, "gamma": 0.99, "l": 100},
    }[function]
    policy = Policy(function, **values)
    return {
        "text": str(policy),
        "function": function,
        "parameters": policy.parameters,
        "n_params": policy.n_params,
    }


def _trial(number: int, seeds: int) -> dict[str, object]:
    started = 1700000000.0 + number
    return {
        "id": str(uuid.UUID(int=(1 << 80) + number)),
        "origin": 1,
        "framework": 1,
        "network": 1,
        "dataset": 1,
        "policy": number // seeds + 1,
        "classes": CLASSES,
        "solver": {
            "max_iter": MAX_ITER,
            "test_interval": INTERVAL,
            "type": "SGD",
            "batch_size": 64,
            "momentum": 0.9,
            "test_iter": [4],
            "weight_decay": 0.0005,
        },
        "seed": 1 + number % seeds,
        "host": "host",
        "attempt": 1,
        "resumed_at": None,
        "blas": None,
        "threads": 1,
        "state": "finished",
        "started": started,
        "ended": started + 10,
        "error": None,
    }


def _row(iteration: int, quality: float, chance: random.Random) -> list[object]:
    """A row of a training that approaches the Top-1 quality; Top-1 has steps of 1/400."""
    reached = 0.1 + (quality - 0.1) * (1 - math.exp(-iteration / 150))
    top1 = round(400 * min(1.0, max(0.0, reached + chance.gauss(0, 0.005)))) / 400
    train_loss = 2.3 * (1 - reached) if iteration else None
    test_loss = 2.4 * (1 - reached)
    ld = None if train_loss is None else abs(test_loss - train_loss)
    confidences = [round(chance.uniform(0.8, 1), 6) for _ in range(CLASSES)]
    ac = sum(confidences) / CLASSES
    losses = [train_loss, test_loss, top1, min(1.0, top1 + 0.01)]
    return [iteration, 0.01, *losses, ac, 0.05, 0.02, ld, None, confidences]


def measure(trials: int, seeds: int) -> None:
    """Import an export into a new database and print how long the commands take."""
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ, LRBENCH_HOME=os.path.join(folder, "home"), PYTHONPATH=ROOT)
        environment.pop("LRBENCH_DSN", None)
        lrbench = [sys.executable, "-m", "lrbench_caffe"]
        path = os.path.join(folder, "trials.jsonl")
        write_export(path, trials, seeds)
        options = {"env": environment, "cwd": folder, "check": True, "stdout": subprocess.DEVNULL}
        try:
            for command in (("db", "import", path), *COMMANDS):
                seconds, core = [], []
                for _ in range(1 if command[0] == "db" else RUNS):
                    before, core_before = time.perf_counter(), _core_seconds(folder)
                    subprocess.run([*lrbench, *command], **options)
                    seconds.append(time.perf_counter() - before)
                    core.append(_core_seconds(folder) - core_before)
                peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
                name = " ".join(part for part in command if part != path)
                print(
                    "%-20s %7.2f s  (%.2f to %.2f), %.2f s of a core, at most %d MB so far"
                    % (
                        name,
                        statistics.median(seconds),
                        min(seconds),
                        max(seconds),
                        statistics.median(core),
                        peak,
                    ),
                    flush=True,
                )
            size = os.path.getsize(os.path.join(folder, "report.html"))
            print("%-20s %7.2f MB" % ("report.html", size / 1e6))
        finally:
            subprocess.run([*lrbench, "db", "stop"], **options)


def _core_seconds(folder: str) -> float:
    """The time of a core that commands and the server's processes that have ended have taken."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = usage.ru_utime + usage.ru_stime
    pid_file = os.path.join(folder, "home", "postgresql", "data", "postmaster.pid")
    if os.path.exists(pid_file):
        with open(pid_file) as file, open("/proc/%s/stat" % file.readline().strip()) as stat:
            times = stat.read().rsplit(")", 1)[1].split()[11:15]
        seconds += sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
    return seconds


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else TRIALS
    per_policy = int(sys.argv[2]) if len(sys.argv) > 2 else SEEDS
    if len(sys.argv) > 3:
        write_export(sys.argv[3], count, per_policy)
    else:
        measure(count, per_policy)
