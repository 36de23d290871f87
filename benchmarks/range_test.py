"""Measures whether the rates of the range test do what they promise, on the tasks of `tasks.py`.

    docker/run python3 benchmarks/range_test.py --data DATA [--task digits ...]

For each task it runs `lrbench range` and `lrbench range --sweep`, and then trains at full length,
with fresh seeds, what a user might do with the answer: the best rate, the two ends of the range,
and the best rate as the peak of a warm-up and half a cosine. It prints a line of a Markdown table
for each. The trainings are studies of the database, so it resumes when it is cut off.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.dirname(os.path.abspath(__file__))]

from tasks import TASKS, write_solver

from lrbench_caffe import ranking
from lrbench_caffe.evaluator import range_test
from lrbench_caffe.evaluator.candidates import recipe
from lrbench_caffe.evaluator.trainer import Trainer
from lrbench_caffe.ranking.noise import spread
from lrbench_caffe.study.cores import Cores
from lrbench_caffe.trial import DIVERGED

if TYPE_CHECKING:
    from lrbench_caffe.evaluator.range_test import RangeTest

SEEDS = {"lenet": 2}  # LeNet's trainings take half a minute
DEFAULT_SEEDS = 5
FIRST_SEED = 101


def main() -> None:
    """Measure the tasks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="the folder that tasks.py has written")
    parser.add_argument("--task", action="append", choices=TASKS, help="default: all of them")
    parser.add_argument("--work", default="range-test", help="folder for the solvers")
    options = parser.parse_args()
    print("| task | test | iterations | use | policy | Top-1 % | final % | diverged |", flush=True)
    print("| --- | --- | ---: | --- | --- | ---: | ---: | ---: |", flush=True)
    for task in options.task or TASKS:
        folder = os.path.join(options.work, task)
        os.makedirs(folder, exist_ok=True)
        solver = write_solver(task, options.data, folder).path
        for kind, evaluate in (("range", range_test.run), ("sweep", range_test.sweep)):
            trainer = Trainer(solver, Cores(), kind, "%s-%s" % (kind, task))
            test = evaluate(trainer)
            if test.good is None:
                print("| %s | %s | %d | - | | | | |" % (task, kind, test.cost), flush=True)
                continue
            for use, policy in uses(test, trainer.max_iter).items():
                print(line(task, kind, test, use, policy, solver), flush=True)


def uses(test: RangeTest, max_iter: int) -> dict[str, str]:
    """Return the policies that a user might choose after a range test, by their use."""
    good = test.good
    assert good
    policies = {
        "best": "FIX(k0=%r)" % good.best,
        "upper end": "FIX(k0=%r)" % good.high,
        "lower end": "FIX(k0=%r)" % good.low,
        "best, cosine": recipe(good.best, max_iter).text,
    }
    if test.swept:
        third = range_test.constant_rate(good)
        policies["a third"] = "FIX(k0=%r)" % third
        policies["a third, cosine"] = recipe(third, max_iter).text
    return policies


def line(task: str, kind: str, test: RangeTest, use: str, policy: str, solver: str) -> str:
    """Train a policy with fresh seeds; return its line of the table."""
    trainer = Trainer(solver, Cores(), "use", "use-%s" % task)
    seeds = range(FIRST_SEED, FIRST_SEED + SEEDS.get(task, DEFAULT_SEEDS))
    trials = trainer.train([(policy, trainer.max_iter, seed) for seed in seeds])
    finished = ranking.counted_trials(trials)
    best = spread(trial.summary and 100 * trial.summary.top1 for trial in finished)
    final = spread(trial.top1_curve[-1][1] * 100 for trial in finished)
    diverged = sum(trial.state == DIVERGED for trial in trials)
    return "| %s | %s | %d | %s | %s | %s | %s | %d of %d |" % (
        task,
        kind,
        test.cost,
        use,
        policy,
        spread_text(best.mean, best.deviation),
        spread_text(final.mean, final.deviation),
        diverged,
        len(seeds),
    )


def spread_text(mean: float | None, deviation: float | None) -> str:
    """Return a mean and its deviation as text."""
    if mean is None:
        return "-"
    return "%.2f" % mean if deviation is None else "%.2f ± %.2f" % (mean, deviation)


if __name__ == "__main__":
    main()
