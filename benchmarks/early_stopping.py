"""Compares `lrbench tune` with and without --patience.

    docker/run python3 benchmarks/early_stopping.py solvers/digits_solver.prototxt --data DIR \
        --budget 4800 --patience 3

Each search has a database of its own on the private server and therefore starts without results.
Its answer is trained with fresh seeds to its end, without patience. A line of JSON for each search
has the iterations that it took, its trainings, how many of them ended early, its answer, and the
highest Top-1 of each fresh seed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import uuid

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import psycopg2

from lrbench_caffe import study
from lrbench_caffe.database import Store, server
from lrbench_caffe.display.progress import StudyDisplay
from lrbench_caffe.evaluator import tuner
from lrbench_caffe.evaluator.trainer import Trainer
from lrbench_caffe.study.cores import Cores
from lrbench_caffe.trial import Job

FRESH_SEEDS = range(101, 107)


def main() -> None:
    """Run the searches."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("solver")
    parser.add_argument("--data")
    parser.add_argument("--budget", type=int, required=True)
    parser.add_argument("--patience", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 11, 21])
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        for patience in (None, arguments.patience):
            result = search(arguments.solver, arguments.data, arguments.budget, patience, seed)
            print(json.dumps({"seed": seed, "patience": patience, **result}), flush=True)


def search(
    solver: str, data: str | None, budget: int, patience: str | None, seed: int
) -> dict[str, object]:
    """Tune once, and train the answer with fresh seeds."""
    dsn = new_database()
    stopping = {"patience": patience}
    trainer = Trainer(solver, Cores(), "tune", data=data, dsn=dsn, stopping=stopping)
    trainer.budget = budget
    tuned = tuner.tune(trainer, seed=seed)
    jobs = [
        study.checked_job(Job(solver, policy=tuned.policy, seed=fresh, data=data))
        for fresh in FRESH_SEEDS
    ]
    with StudyDisplay() as display:
        trials = study.run_jobs(jobs, Cores(), display, dsn)
    return {
        "iterations": tuned.cost,
        "trainings": len(tuned.tried),
        "ended_early": sum(tried.trial.ended_early for tried in tuned.tried),
        "policy": tuned.policy,
        "top1": [trial.summary and trial.summary.top1 for trial in trials],
    }


def new_database() -> str:
    """Create a database with the schema on the private server; return its DSN."""
    address, name = server.start(), "benchmark_" + uuid.uuid4().hex
    connection = psycopg2.connect(address)
    connection.autocommit = True
    connection.cursor().execute("CREATE DATABASE " + name)
    connection.close()
    dsn = "%s dbname=%s" % (address, name)
    Store(dsn).close()
    return dsn


if __name__ == "__main__":
    main()
