r"""Measures how much too good a Top-1 is that was chosen on the test set.

    docker/run lrbench data digits --validation 400 --to FOLDER/data
    docker/run python3 benchmarks/selection.py solvers/digits_solver.prototxt --data FOLDER/data \
        --validation digits_validation_lmdb --good 0.05 0.1 0.05 --max-iter 500 --work FOLDER

A pool of policies is drawn at random from those that `lrbench tune` would try. Each of them is
trained with every seed, and every evaluation measures the validation set and the test set.

Each seed is then a search: of all evaluations with this seed, the one with the highest Top-1 is
chosen, once on the test set and once on the validation set. Both answers are a policy and an
iteration, and have a Top-1 on the test set, which the search would report. The other seeds had no
part in the choice, so they show how good the answer is. They are measured on the test set at three
iterations: the one of the answer, the one with their own highest Top-1 on the validation set, and
the last one.

The fresh Top-1 at the iteration that validation chose is the honest comparison: it is chosen from
as many evaluations of a training as the reported one, but never by the images on which it is
reported. The other two are not chosen from anything, so the difference to them also has what
stopping at a good iteration gains, and cyclic policies may end at a large rate.

Only trainings that finish count, so all choices are among equally many evaluations of a training.
The standard errors are computed as if the searches were independent. They are not quite, since they
have the same policies, and the seeds of one judge the others.

The evaluations are written to FOLDER/selection-NAME.jsonl. `--from FILE` prints the table of such
a file, or of an export such as results/table-7.jsonl. The program continues where it was
interrupted if it is started again with the same FOLDER. Ctrl-C prints the table of the seeds that
are complete.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import statistics
import sys
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import psycopg2

from lrbench_caffe import study
from lrbench_caffe.database import Store, incoming, server
from lrbench_caffe.display.progress import StudyDisplay
from lrbench_caffe.errors import InputError, TrialError
from lrbench_caffe.evaluator.candidates import TUNED, first, neighbours
from lrbench_caffe.study.cores import Cores
from lrbench_caffe.trial import FINISHED, INTERRUPTED, RUNNING, TEST_SET, Job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrbench_caffe.trial import Trial

VALIDATION_SET = "validation"
MAX_POOL = 16  # a smaller pool has the first of these policies


class Training(NamedTuple):
    """What the table needs of a training.

    Attributes:
        policy: The text of its policy.
        seed: Caffe's random_seed.
        state: How it ended.
        iterations: The iterations of its evaluations.
        test: The Top-1 on the test set at each of them, from 0 to 1.
        validation: The same on the validation set; empty if it was not measured.
    """

    policy: str
    seed: int
    state: str
    iterations: list[int]
    test: list[float]
    validation: list[float]

    def best(self, measured: Sequence[float]) -> int:
        """Return the position of the highest of these measurements, the first if several are."""
        return max(range(len(measured)), key=lambda n: (measured[n], -n))


class Answer(NamedTuple):
    """What a search answers, and how fresh seeds of its policy are.

    Attributes:
        reported: The Top-1 on the test set that the search reports.
        same: The mean Top-1 of fresh seeds at the iteration of the answer.
        chosen: Their mean Top-1 at the iterations that validation chose, None without a validation
            set.
        last: Their mean Top-1 at the last iteration.
    """

    reported: float
    same: float
    chosen: float | None
    last: float


def main() -> None:
    """Train the pool with all seeds, write the evaluations, and print the table."""
    options = parse_arguments()
    if options.rows:
        print_table(read_trainings(options.rows))
        return
    os.makedirs(options.work, exist_ok=True)
    name = "selection-%s" % options.name
    path = os.path.join(options.work, name + ".jsonl")
    dsn = create_database(options.work, name)
    try:
        for seed in range(1, options.seeds + 1):
            train(options, name, dsn, seed)
            write_trainings(load_trainings(options, name, dsn), path)
    except KeyboardInterrupt:
        write_trainings(load_trainings(options, name, dsn), path)
    print_table(read_trainings(path))


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("solver", nargs="?", help="solver prototxt")
    add("--name", default="digits", help="name of the study and of the file of evaluations")
    add("--data", help="folder of the datasets")
    add("--validation", help="the LMDB of validation samples")
    add("--work", default=".", help="folder for the file of evaluations")
    add("--good", type=float, nargs=3, metavar=("LOW", "HIGH", "BEST"), help="good constant rates")
    add("--max-iter", type=int, default=500, help="iterations of a training")
    add("--test-interval", type=int, default=25)
    add("--pool", type=int, default=MAX_POOL, help="policies, at most %d" % MAX_POOL)
    add("--seeds", type=int, default=20)
    add("--jobs", type=int, default=1, help="trainings at the same time")
    add("--from", dest="rows", metavar="FILE", help="print the table of these evaluations")
    options = parser.parse_args()
    needed = (options.solver, options.data, options.validation, options.good)
    if not options.rows and None in needed:
        parser.error("expected a solver with --data, --validation and --good, or --from FILE")
    return options


def create_database(folder: str, name: str) -> str:
    """Create a database for this folder on the private server, if missing; return its DSN."""
    place = hashlib.sha256(os.path.realpath(folder).encode()).hexdigest()[:8]
    name = "%s_%s" % (name.replace("-", "_"), place)
    admin = psycopg2.connect(server.start())
    admin.autocommit = True
    with admin.cursor() as cursor:
        cursor.execute("SELECT FROM pg_database WHERE datname = %s", [name])
        if not cursor.rowcount:
            cursor.execute('CREATE DATABASE "%s"' % name)
    admin.close()
    return server.start() + " dbname=" + name


# The trainings


def draw_policies(options: argparse.Namespace) -> list[str]:
    """Draw policies that `lrbench tune` would try, with largest rates in the good range."""
    policies = set()
    for function in TUNED:
        if function == "PLATEAU":  # it would train differently if another set decided
            continue
        for peak in options.good:
            candidate, _ = first(function, peak, options.max_iter)
            others = [other for other, _ in neighbours(candidate)]
            policies.update(other.text for other in (candidate, *others))
    return random.Random(1).sample(sorted(policies), MAX_POOL)[: options.pool]


def train(options: argparse.Namespace, name: str, dsn: str, seed: int) -> None:
    """Train the policies with a seed, unless the study has these trainings already."""
    jobs = [
        Job(
            os.path.abspath(options.solver),
            policy=policy,
            seed=seed,
            data=os.path.abspath(options.data),
            max_iter=options.max_iter,
            test_interval=options.test_interval,
            validation=options.validation,
        )
        for policy in draw_policies(options)
    ]
    with StudyDisplay() as display:
        study.run_study(name, Cores(options.jobs), display, jobs, dsn, others=False)


def load_trainings(options: argparse.Namespace, name: str, dsn: str) -> list[Training]:
    """Read the trainings of the pool that have ended from the database."""
    policies = draw_policies(options)
    with Store(dsn) as store:
        trials = [
            trial
            for trial in store.trials(study=name)
            if trial.policy in policies and trial.state not in (RUNNING, INTERRUPTED)
        ]
    return sorted(map(as_training, trials), key=lambda each: (each.seed, each.policy))


def as_training(trial: Trial) -> Training:
    """Return what the table needs of a trial."""
    rows = [row for row in trial.rows if row.top1 is not None]
    test, validation = (
        [round(row.on(name).top1 or 0.0, 6) for row in rows if row.on(name).measured_on == name]
        for name in (TEST_SET, VALIDATION_SET)
    )
    iterations = [row.iteration for row in rows]
    return Training(trial.policy, trial.setup.seed, trial.state, iterations, test, validation)


def write_trainings(trainings: Sequence[Training], path: str) -> None:
    """Write trainings as lines of JSON."""
    with open(path + ".new", "w") as file:
        for training in trainings:
            file.write(json.dumps(training._asdict()) + "\n")
    os.replace(path + ".new", path)


def read_trainings(path: str) -> list[Training]:
    """Read what :func:`write_trainings` wrote, or an export of trials."""
    with open(path) as file:
        lines = [json.loads(line) for line in file]
    if lines and "lrbench" in lines[0]:
        return [as_training(trial) for trial in incoming.trials(path)]
    return [Training(**line) for line in lines]


# The choices


def answers(trainings: Sequence[Training]) -> dict[str, list[Answer]]:
    """Return the answer of the search with each seed, by the name of the set that chose."""
    policies = {training.policy for training in trainings}
    pools: dict[int, list[Training]] = {}
    for training in trainings:
        pools.setdefault(training.seed, []).append(training)
    pools = {seed: pool for seed, pool in pools.items() if len(pool) == len(policies)}
    finished = [
        training for pool in pools.values() for training in pool if training.state == FINISHED
    ]
    seeds = Counter(training.policy for training in finished)
    judged = [training for training in finished if seeds[training.policy] > 1]
    names = [TEST_SET, VALIDATION_SET] if all(each.validation for each in judged) else [TEST_SET]
    return {name: [answer(judged, seed, name) for seed in sorted(pools)] for name in names}


def answer(trainings: Sequence[Training], seed: int, name: str) -> Answer:
    """Return the answer of the search with one seed; the other seeds judge its policy.

    Of evaluations with the same Top-1, the first one of the first policy is chosen.
    """
    pool = [training for training in trainings if training.seed == seed]
    best = max(pool, key=lambda training: max(getattr(training, name)))
    fresh = [each for each in trainings if each.seed != seed and each.policy == best.policy]
    chosen = [each.test[each.best(each.validation)] for each in fresh if each.validation]
    position = best.best(getattr(best, name))
    return Answer(
        best.test[position],
        statistics.mean(each.test[position] for each in fresh),
        statistics.mean(chosen) if chosen else None,
        statistics.mean(each.test[-1] for each in fresh),
    )


# The table


def print_table(trainings: Sequence[Training]) -> None:
    """Print a line for each set that chose."""
    heads = ["chosen on", "searches", "reported", "fresh, same iteration", "difference"]
    heads += ["fresh, iteration by validation", "difference"]
    heads += ["fresh, last iteration", "difference"]
    print("| %s |\n| ---%s |" % (" | ".join(heads), " | ---:" * (len(heads) - 1)))
    for name, entries in answers(trainings).items():
        if len(entries) < 2:
            sys.exit("a table needs at least two complete seeds")
        cells = [mean_text([entry.reported for entry in entries])]
        for kind in ("same", "chosen", "last"):
            values = [getattr(entry, kind) for entry in entries]
            if None in values:
                cells += ["-", "-"]
                continue
            differences = [entry.reported - value for entry, value in zip(entries, values)]
            cells += [mean_text(values), "%s ± %s" % (mean_text(differences), error(differences))]
        print("| %s | %d | %s |" % (name, len(entries), " | ".join(cells)))
    ended = sum(training.state != FINISHED for training in trainings)
    print("\n%d trainings; %d of them did not finish and are left out" % (len(trainings), ended))


def mean_text(shares: Sequence[float]) -> str:
    """Format a mean of shares as percent."""
    return "%.2f" % (round(100 * statistics.mean(shares), 2) + 0.0)  # without a sign of zero


def error(shares: Sequence[float]) -> str:
    """Format the standard error of a mean of shares as percent."""
    return "%.2f" % (100 * statistics.stdev(shares) / len(shares) ** 0.5)


if __name__ == "__main__":
    try:
        main()
    except (InputError, TrialError) as problem:
        sys.exit(str(problem))
