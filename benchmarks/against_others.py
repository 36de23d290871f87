r"""Compares `lrbench tune` with other searches that have the same budget of iterations.

The others are Optuna's TPE with its ASHA pruner, random search, and a grid. All searches choose
from the same 13 functions.

    docker/run python3 -m pip install --target OPTUNA "optuna<5" "numpy<1.20"
    docker/run env PYTHONPATH=OPTUNA python3 benchmarks/against_others.py \
        solvers/lenet_solver.prototxt --data DIR --work FOLDER

Each search has a database of its own and therefore starts without results. With --known FILE, the
search `second` runs too: `lrbench tune` with the results of another task in its database.

Two numbers are measured for each search:

- The Top-1 of the policy that it returns, trained with fresh seeds. These trainings do not count
  towards the budget. A policy that is almost as good as the best one gets more seeds.
- The iterations that it needs to get near the best policy of all searches: from there on, each of
  its incumbents is near. To find this point, its earlier incumbents are trained with fresh seeds
  too, from the last one back to the first that is not near.

The cost of a training is its iterations up to the last evaluation; for a training of the tuner that
diverged, one test interval is added. TPE and random search train on all cores at the same time.
When the budget ends, their other trainings still finish and exceed it.

The program continues where it was interrupted if it is started again with the same FOLDER.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import os
import random
import statistics
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import optuna
import psycopg2

from lrbench_caffe import study
from lrbench_caffe.database import Store, exchange, server, studies
from lrbench_caffe.display.progress import StudyDisplay
from lrbench_caffe.errors import InputError, TrialError
from lrbench_caffe.evaluator import tuner
from lrbench_caffe.evaluator.trainer import Trainer
from lrbench_caffe.policies import CYCLIC, FUNCTIONS, Policy
from lrbench_caffe.study import process
from lrbench_caffe.study.cores import Cores, usable_cores
from lrbench_caffe.training import prototxt
from lrbench_caffe.trial import FINISHED, PRUNED, Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from lrbench_caffe.trial import Trial

    Incumbents = list[tuple[int, str]]  # (iterations spent, policy's text)
    Search = Callable[[str, argparse.Namespace, int], Incumbents]

FIRST_FRESH_SEED = 1001


def main() -> None:
    """Run all searches, judge their incumbents, and print the table."""
    options = parse_arguments()
    os.makedirs(options.work, exist_ok=True)
    check_conditions(options)
    solver = write_solver(options)
    runs = {
        (name, repeat): cached_search(name, solver, options, repeat)
        for repeat in range(options.repeats)
        for name in options.search
    }
    print_tables(runs, judge_incumbents(runs, solver, options), options)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line; `search` of the result lists the searches to run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("solver", help="solver prototxt")
    add("--data", required=True, help="folder of the datasets")
    add("--work", required=True, help="folder for the solver, and for the state of each search")
    add("--max-iter", type=int, default=2000, help="iterations of a training at full length")
    add("--test-interval", type=int, default=100)
    add("--budget", type=int, default=40000, help="iterations of each search")
    add("--repeats", type=int, default=3, help="how often each search runs, with other seeds")
    add("--fresh", type=int, default=3, help="seeds that judge a policy")
    add("--sure", type=int, default=10, help="seeds that judge a policy close to the limit")
    add("--near", type=float, default=0.05, help="points of Top-1 below the best that are near")
    add("--search", action="append", choices=SEARCHES, help="run only this search; repeatable")
    add("--known", help="export of another task's results, for the search `second`")
    options = parser.parse_args()
    if not options.search:
        options.search = [name for name in SEARCHES if options.known or name != "second"]
    if "second" in options.search and not (options.known and os.path.isfile(options.known)):
        parser.error("the search second needs --known FILE, an export of another task")
    if options.fresh < 2:
        parser.error("--fresh: expected at least 2 seeds, because one seed has no deviation")
    return options


def write_solver(options: argparse.Namespace) -> str:
    """Write the solver with the lengths of this benchmark; return its path."""
    param = prototxt.resolve(prototxt.read_solver(options.solver), options.solver, options.data)
    param.max_iter = options.max_iter
    param.test_interval = options.test_interval
    param.snapshot = 0
    param.snapshot_after_train = False
    path = os.path.join(os.path.abspath(options.work), "solver.prototxt")
    prototxt.write_solver(param, path)
    return path


def check_conditions(options: argparse.Namespace) -> None:
    """Exit if the folder has results for other conditions."""
    path = os.path.join(options.work, "conditions.json")
    names = ("solver", "data", "max_iter", "test_interval", "budget")
    conditions = {name: getattr(options, name) for name in names}
    if not os.path.exists(path):
        with open(path, "w") as file:
            json.dump(conditions, file)
    with open(path) as file:
        stored = json.load(file)
    if stored != conditions:
        sys.exit(
            "%s has results for %s: give the same options, or another folder with --work"
            % (options.work, stored)
        )


def cached_search(name: str, solver: str, options: argparse.Namespace, repeat: int) -> Incumbents:
    """Run a search, or read its incumbents if it ran before."""
    path = os.path.join(options.work, "%s-%d.json" % (name, repeat))
    if not os.path.exists(path):
        print("== %s-%d" % (name, repeat), flush=True)
        incumbents = SEARCHES[name](solver, options, repeat)
        with open(path + ".new", "w") as file:
            json.dump(incumbents, file)
        os.replace(path + ".new", path)
    with open(path) as file:
        return [(spent, policy) for spent, policy in json.load(file)]


def create_database(options: argparse.Namespace, name: str) -> str:
    """Create a database for this folder on the private server, if missing; return its DSN."""
    folder = hashlib.sha256(os.path.realpath(options.work).encode()).hexdigest()[:8]
    name = "against_%s_%s" % (folder, name)
    admin = psycopg2.connect(server.start())
    admin.autocommit = True
    with admin.cursor() as cursor:
        cursor.execute("SELECT FROM pg_database WHERE datname = %s", [name])
        if not cursor.rowcount:
            cursor.execute('CREATE DATABASE "%s"' % name)
    admin.close()
    return server.start() + " dbname=" + name


def first_seed(repeat: int) -> int:
    """Return the first seed of a repeat; the seeds of two repeats differ."""
    return 100 * repeat + 1


# The searches


def lrbench(
    solver: str, options: argparse.Namespace, repeat: int, name: str = "lrbench"
) -> Incumbents:
    """Search with the tuner."""
    dsn = create_database(options, "%s_%d" % (name, repeat))
    if name == "second":
        exchange.import_trials(options.known, dsn)
    trainer = Trainer(solver, Cores(), "tune", "search", dsn=dsn)
    trainer.budget = options.budget
    tuned = tuner.tune(
        trainer,
        FUNCTIONS,
        on_note=lambda sentence: print(sentence, flush=True),
        seed=first_seed(repeat),
    )
    return list(tuned.incumbents)


def second(solver: str, options: argparse.Namespace, repeat: int) -> Incumbents:
    """Search with the tuner and the results of another task."""
    return lrbench(solver, options, repeat, "second")


def with_optuna(
    name: str,
    make_sampler: Callable[[int], optuna.samplers.BaseSampler],
    make_pruner: Callable[[argparse.Namespace], optuna.pruners.BasePruner],
) -> Search:
    """Make a search of an Optuna study, which runs as many trials at a time as there are cores.

    Args:
        name: Name of the study.
        make_sampler: Makes the sampler from a seed.
        make_pruner: Makes the pruner from the options of this program.
    """

    def search(solver: str, options: argparse.Namespace, repeat: int) -> Incumbents:
        dsn = create_database(options, "%s_%d" % (name, repeat))
        path = os.path.join(os.path.abspath(options.work), "%s-%d.db" % (name, repeat))
        optuna_study = optuna.create_study(
            storage="sqlite:///%s" % path,
            study_name=name,
            direction="maximize",
            load_if_exists=True,
            sampler=make_sampler(repeat),
            pruner=make_pruner(options),
        )

        def objective(optuna_trial: optuna.Trial) -> float:
            policy = suggest_policy(optuna_trial, options.max_iter)
            optuna_trial.set_user_attr("policy", str(policy))
            on_event = pruning_watcher(optuna_trial)
            return train_once(solver, policy, first_seed(repeat), dsn, on_event)

        def stop_at_budget(running: optuna.Study, _: optuna.trial.FrozenTrial) -> None:
            # Other trials may still run: those exceed the budget.
            if iterations_spent(running) + options.max_iter > options.budget:
                running.stop()

        if iterations_spent(optuna_study) + options.max_iter <= options.budget:
            optuna_study.optimize(objective, n_jobs=usable_cores(), callbacks=[stop_at_budget])
        return incumbents_of(optuna_outcomes(optuna_study))

    return search


def pruning_watcher(
    optuna_trial: optuna.Trial,
) -> Callable[[str, Any], tuple[str, str] | None]:
    """Make the callback that reports each evaluation to Optuna and asks whether to prune."""

    def on_event(kind: str, content: Any) -> tuple[str, str] | None:
        if kind == "row" and content.iteration:
            optuna_trial.set_user_attr("spent", content.iteration)
            optuna_trial.report(content.top1, content.iteration)
            if optuna_trial.should_prune():
                return PRUNED, "pruned by Optuna"
        return None

    return on_event


def train_once(
    solver: str,
    policy: Policy,
    seed: int,
    dsn: str,
    on_event: Callable[[str, Any], tuple[str, str] | None],
) -> float:
    """Train and return the highest Top-1; 0 if the training diverges or Caffe rejects the policy.

    A training that fails ends the search.
    """
    try:
        trial = process.train(solver, policy, dsn=dsn, seed=seed, on_event=on_event, threads=1)
    except InputError:
        return 0.0
    if trial.state == PRUNED:
        raise optuna.TrialPruned
    return highest_top1(trial)


def highest_top1(trial: Trial) -> float:
    """Return the highest Top-1 of a trial, or 0 if it did not finish."""
    return trial.best.top1 if trial.best and trial.state == FINISHED else 0.0


def iterations_spent(optuna_study: optuna.Study) -> int:
    """Count the iterations of all trials of an Optuna study."""
    return sum(trial.user_attrs.get("spent", 0) for trial in optuna_study.trials)


def optuna_outcomes(
    optuna_study: optuna.Study,
) -> Iterator[tuple[int, str | None, float | None]]:
    """List (iterations, policy, Top-1 if complete) of the trials, in the order of their ends."""
    trials = sorted(
        optuna_study.trials, key=lambda trial: trial.datetime_complete or trial.datetime_start
    )
    for trial in trials:
        complete = trial.state == optuna.trial.TrialState.COMPLETE
        spent, policy = trial.user_attrs.get("spent", 0), trial.user_attrs.get("policy")
        yield spent, policy, trial.value if complete else None


def suggest_policy(optuna_trial: optuna.Trial, length: int) -> Policy:
    """Sample a policy of any of the 13 functions, from the widest ranges that a user would give."""
    function = optuna_trial.suggest_categorical("function", list(FUNCTIONS))
    values = {"k0": optuna_trial.suggest_float("k0", 1e-5, 1, log=True)}
    if function in CYCLIC:
        values["k1"] = optuna_trial.suggest_float("k1", 1e-5, 1, log=True)
        values["l"] = optuna_trial.suggest_int("l", 10, length, log=True)
    if function in ("EXP", "TRIEXP", "SINEXP"):
        values["gamma"] = 1 - optuna_trial.suggest_float("1 - gamma", 1e-6, 0.1, log=True)
    if function in ("STEP", "NSTEP"):
        values["gamma"] = optuna_trial.suggest_float("gamma", 0.01, 0.99)
        values["l"] = optuna_trial.suggest_int("l", 10, length, log=True)
    if function == "NSTEP":
        more_steps = range(1, optuna_trial.suggest_int("steps", 1, 4))
        steps = {optuna_trial.suggest_int("l%d" % n, 10, length) for n in more_steps}
        values["l"] = sorted({values["l"], *steps})
    if function == "INV":
        values["gamma"] = optuna_trial.suggest_float("INV gamma", 1e-6, 0.1, log=True)
        values["p"] = optuna_trial.suggest_float("p", 0.25, 2)
    if function == "POLY":
        values["p"], values["l"] = optuna_trial.suggest_float("POLY p", 0.25, 4), length
    return Policy(function, **values)


def grid(solver: str, options: argparse.Namespace, repeat: int) -> Incumbents:
    """Train the points of a grid in a random order until the budget ends."""
    name, dsn, length = "grid", create_database(options, "grid_%d" % repeat), options.max_iter
    policies = list(dict.fromkeys(str(policy) for policy in grid_policies(length)))
    random.Random(repeat).shuffle(policies)
    jobs = [Job(solver, policy=policy, seed=first_seed(repeat)) for policy in policies]
    trials: list[Trial] = []
    cost = 0
    while cost + length <= options.budget and len(trials) < len(jobs):
        batch = jobs[: len(trials) + usable_cores()]
        with StudyDisplay() as display:
            study.run_study(name, Cores(), display, batch, dsn)
        with Store(dsn) as store:
            stored = {trial.id: trial for trial in store.trials(study=name)}
            trials = [stored[entry.job.id] for entry in studies.jobs(store, name)]
        cost = sum(trial.rows[-1].iteration for trial in trials if trial.rows)
    return incumbents_of(
        (trial.rows[-1].iteration if trial.rows else 0, trial.policy, highest_top1(trial))
        for trial in trials
    )


def grid_policies(length: int) -> Iterator[Policy]:
    """Make every function with rates a decade apart and two values of each other parameter."""
    rates = (1.0, 0.1, 0.01, 0.001, 0.0001)
    for function, k0 in itertools.product(FUNCTIONS, rates):
        for share, gamma in itertools.product((0.1, 0.5), (0.1, 0.5)):
            l = max(1, int(share * length))
            gamma_of_exp = gamma ** (1 / length)
            parameters: dict[str, dict[str, Any]] = {
                "STEP": {"gamma": gamma, "l": l},
                "NSTEP": {"gamma": gamma, "l": [l, (l + length) // 2]},
                "EXP": {"gamma": gamma_of_exp},
                "INV": {"gamma": 1 / l, "p": 0.75},
                "POLY": {"p": 2 * gamma, "l": length},
            }
            values = parameters.get(function, {})
            if function in CYCLIC:
                values = {"k1": k0 * gamma / 5, "l": l}
                if function.endswith("EXP"):
                    values["gamma"] = gamma_of_exp
            yield Policy(function, k0=k0, **values)


def incumbents_of(outcomes: Iterable[tuple[int, str | None, float | None]]) -> Incumbents:
    """List the incumbents of a search.

    Args:
        outcomes: (iterations, policy, Top-1) of each training, in their order. The Top-1 of a
            training that did not finish is None or 0.

    Returns:
        (iterations spent, policy) whenever another policy became the best.
    """
    total, best = 0, -1.0
    incumbents: Incumbents = []
    for iterations, policy, top1 in outcomes:
        total += iterations
        if policy and top1 and top1 > best:
            best = top1
            incumbents.append((total, policy))
    return incumbents


# The judgment


class Judgment(NamedTuple):
    """The judged policies.

    Attributes:
        tops: The Top-1 of each policy with each fresh seed.
        best: The policy with the highest mean.
        limit: The mean Top-1 from which on a policy is near the best.
    """

    tops: dict[str, list[float]]
    best: str
    limit: float

    def near(self, incumbents: Incumbents) -> Incumbents:
        """List the incumbents from the last one back, up to the first that is not near."""

        def is_near(entry: tuple[int, str]) -> bool:
            policy = entry[1]
            return policy in self.tops and statistics.mean(self.tops[policy]) >= self.limit

        return list(itertools.takewhile(is_near, reversed(incumbents)))


def judge_incumbents(
    runs: dict[tuple[str, int], Incumbents], solver: str, options: argparse.Namespace
) -> Judgment:
    """Judge incumbents by fresh seeds until each search's cost to be near the best is known."""
    last = {incumbents[-1][1] for incumbents in runs.values() if incumbents}
    if not last:
        sys.exit("no search has finished a training")
    requests = {(policy, options.fresh) for policy in last}
    tops: dict[str, list[float]] = {}
    while True:
        tops.update(train_fresh_seeds(solver, options, requests))
        best = max(tops, key=lambda policy: statistics.mean(tops[policy]))
        limit = statistics.mean(tops[best]) - options.near / 100
        judgment = Judgment(tops, best, limit)
        requests = unsure_policies(judgment, options)
        if not requests:
            earlier = earlier_incumbents(runs, judgment)
            requests = {(policy, options.fresh) for policy in earlier}
        if not requests:
            return judgment


def earlier_incumbents(runs: dict[tuple[str, int], Incumbents], judgment: Judgment) -> set[str]:
    """Find the incumbent of each search before those that are near, unless it was judged."""
    policies: set[str] = set()
    for incumbents in runs.values():
        earlier = incumbents[: len(incumbents) - len(judgment.near(incumbents))]
        policies.update(policy for _, policy in earlier[-1:])
    return policies - set(judgment.tops)


def unsure_policies(judgment: Judgment, options: argparse.Namespace) -> set[tuple[str, int]]:
    """Find the policies that are near, or almost, and need more seeds: (policy, seeds)."""
    almost = judgment.limit - options.near / 100
    return {
        (policy, options.sure)
        for policy, tops in judgment.tops.items()
        if len(tops) < options.sure and statistics.mean(tops) >= almost
    }


def train_fresh_seeds(
    solver: str, options: argparse.Namespace, requests: set[tuple[str, int]]
) -> dict[str, list[float]]:
    """Train policies with fresh seeds.

    Args:
        solver: Path of the solver.
        options: The options of this program.
        requests: (policy, number of seeds).

    Returns:
        The Top-1 of each policy with each seed; 0 for a training that did not finish.
    """
    dsn = create_database(options, "judge")
    jobs = [
        Job(solver, policy=policy, seed=FIRST_FRESH_SEED + n)
        for policy, seeds in sorted(requests)
        for n in range(seeds)
    ]
    with StudyDisplay() as display:
        study.run_study("judge", Cores(), display, jobs, dsn)
    requested = {(job.policy, job.seed) for job in jobs}
    tops: dict[str, list[float]] = {}
    with Store(dsn) as store:
        for trial in store.trials(study="judge", best_only=True):
            if (trial.policy, trial.setup.seed) in requested:
                tops.setdefault(trial.policy, []).append(highest_top1(trial))
    if any(len(tops.get(policy, ())) < seeds for policy, seeds in requests):
        sys.exit("some trainings with fresh seeds did not start: run the program again")
    return tops


# The tables


def print_tables(
    runs: dict[tuple[str, int], Incumbents], judgment: Judgment, options: argparse.Namespace
) -> None:
    """Print a row for each run of a search, then the means and medians of the repeats."""
    best_tops = judgment.tops[judgment.best]
    print(
        "\nbest policy: %s, Top-1 %.2f %% over %d fresh seeds\n"
        % (judgment.best, 100 * statistics.mean(best_tops), len(best_tops))
    )
    print("| search | repeat | Top-1 % (seeds) | iterations to near the best | policy |")
    print("| --- | ---: | ---: | ---: | --- |")
    means: dict[str, list[float]] = {}
    costs: dict[str, list[float]] = {}
    for (name, repeat), incumbents in runs.items():
        policy = incumbents[-1][1] if incumbents else None
        tops = judgment.tops[policy] if policy else [0.0] * options.fresh
        near = judgment.near(incumbents)
        cost = near[-1][0] if near else math.inf
        means.setdefault(name, []).append(statistics.mean(tops))
        costs.setdefault(name, []).append(cost)
        print(
            "| %s | %d | %.2f ± %.2f (%d) | %s | %s |"
            % (
                name,
                repeat + 1,
                100 * statistics.mean(tops),
                100 * statistics.stdev(tops),
                len(tops),
                cost_text(cost, options),
                policy or "no training finished",
            )
        )
    print("\n| search | mean Top-1 % of the repeats | median iterations to near the best |")
    print("| --- | ---: | ---: |")
    for name in means:
        median = cost_text(statistics.median(costs[name]), options)
        print("| %s | %.2f | %s |" % (name, 100 * statistics.mean(means[name]), median))


def cost_text(iterations: float, options: argparse.Namespace) -> str:
    """Format a number of iterations; infinity means more than the budget."""
    return "> %d" % options.budget if iterations == math.inf else "%d" % iterations


SEARCHES: dict[str, Search] = {
    "lrbench": lrbench,
    "second": second,
    "tpe": with_optuna(
        "tpe",
        lambda seed: optuna.samplers.TPESampler(seed=seed, constant_liar=True),
        lambda options: optuna.pruners.SuccessiveHalvingPruner(
            min_resource=options.test_interval, reduction_factor=3
        ),
    ),
    "random": with_optuna(
        "random",
        lambda seed: optuna.samplers.RandomSampler(seed=seed),
        lambda options: optuna.pruners.NopPruner(),
    ),
    "grid": grid,
}

if __name__ == "__main__":
    try:
        main()
    except (InputError, TrialError) as error:
        sys.exit(str(error))
