"""Prints how far `lrbench tune` is ahead of other searches, with 95 % intervals.

    docker/run python3 benchmarks/search_differences.py results/searches.jsonl

The file has the lines that benchmarks/against_others.py writes to answers.jsonl. A difference is
that of the mean Top-1, in points. Its interval is a bootstrap over repeats and over fresh seeds.
Repeats that end with the same policy share its fresh trainings, so resampling the repeats alone
would leave out their noise. `tune` and the recipe begin with the same range test: their repeats are
resampled together, and `better, same, worse` counts those. The fresh seeds are the same for all. If
a search was judged with fewer than the other one, the further ones do not count.
"""

from __future__ import annotations

import argparse
import json
from typing import Dict

import numpy as np

NETS = {
    "sigmoid": "sigmoid MLP",
    "adam": "MLP with Adam",
    "digits": "digits",
    "batchnorm": "BatchNorm",
    "cifar": "small CIFAR-10",
    "lenet": "LeNet",
}
PAIRED, AT_ITS_COST, OTHERS = "recipe", "tune at recipe's cost", ("tpe", "random")
SAMPLES = 10000
SEED = 1

Answers = Dict[int, np.ndarray]  # the Top-1 with each fresh seed, in percent, by the repeat


def main() -> None:
    """Print a row for each task."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", help="answers of the searches, one in each line")
    with open(parser.parse_args().file) as file:
        lines = [json.loads(line) for line in file]
    columns = ["net", "to the recipe", "better, same, worse", "at the recipe's cost"]
    print("| %s |" % " | ".join([*columns, "to TPE", "to random search"]))
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for task in dict.fromkeys(line["task"] for line in lines):
        chosen = [line for line in lines if (line["task"], line["goal"]) == (task, "accuracy")]
        print("| %s |" % " | ".join([NETS[task], *cells(chosen)]))


def cells(lines: list[dict]) -> list[str]:
    """The cells of a task's row."""
    ours, recipe, early = (answers(lines, name) for name in ("tune", PAIRED, AT_ITS_COST))
    common = sorted(set(ours) & set(recipe))
    leads = [float(np.mean(ours[n] - recipe[n])) for n in common]
    signs = [np.sign(round(lead, 9)) for lead in leads]
    counts = "%d, %d, %d" % tuple(signs.count(sign) for sign in (1, 0, -1))
    paired = [
        interval_text(stacked(found, common), stacked(recipe, common), is_paired=True)
        for found in (ours, early)
    ]
    return [paired[0], counts, paired[1]] + [
        interval_text(stacked(ours), stacked(answers(lines, name)), is_paired=False)
        for name in OTHERS
    ]


def answers(lines: list[dict], search: str) -> Answers:
    """The answers of a search."""
    return {
        line["repeat"]: 100 * np.array(line["top1"]) for line in lines if line["search"] == search
    }


def stacked(found: Answers, repeats: list[int] | None = None) -> np.ndarray:
    """The answers as an array with a row for each repeat and a column for each fresh seed."""
    return np.array([found[n] for n in (sorted(found) if repeats is None else repeats)])


def interval_text(ours: np.ndarray, theirs: np.ndarray, is_paired: bool) -> str:
    """The difference of two searches and its 95 % interval."""
    seeds = min(ours.shape[1], theirs.shape[1])
    ours, theirs = ours[:, :seeds], theirs[:, :seeds]
    generator = np.random.RandomState(SEED)
    means = np.empty(SAMPLES)
    for n in range(SAMPLES):
        rows = generator.randint(len(ours), size=len(ours))
        other = rows if is_paired else generator.randint(len(theirs), size=len(theirs))
        columns = generator.randint(seeds, size=seeds)
        means[n] = ours[np.ix_(rows, columns)].mean() - theirs[np.ix_(other, columns)].mean()
    low, high = np.percentile(means, [2.5, 97.5])
    # Adding 0 turns -0.0 into 0.0.
    values = np.round([ours.mean() - theirs.mean(), low, high], 2) + 0.0
    return "%.2f (%.2f to %.2f)" % tuple(values)


if __name__ == "__main__":
    main()
