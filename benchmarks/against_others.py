r"""Compares `lrbench tune` with other searches that have the same budget of iterations.

    docker/run python3 -m pip install --target OPTUNA "optuna<5" "numpy<1.20"
    docker/run python3 benchmarks/tasks.py --mnist FOLDER --cifar10 FOLDER --to DATA
    docker/run env PYTHONPATH=OPTUNA python3 benchmarks/against_others.py sigmoid \
        --data DATA --work FOLDER

The tasks are those of benchmarks/tasks.py. The other searches are:

- recipe: a range test, then a warm-up of 5 % and half a cosine from 1, 2 and 4 times the best
  constant rate; the best of the three.
- constant: the best rate of this range test.
- cosine: half a cosine from this rate.
- tpe: Optuna's TPE with its ASHA pruner, which chooses among all functions, each with or without a
  warm-up.
- random: the same choices at random.

Each search has a database of its own and therefore starts without results. All repeats have other
seeds. The budget is --budget times max_iter for tune, tpe and random; the others take what they
need.

Each answer is trained with --fresh fresh seeds, which do not count towards the budget. So is what
`tune` would have answered when it had spent what the recipe costs (`tune at recipe's cost`).
The standard errors are those of the repeats' means. LD, AC, CD and CDAC are means over all fresh
trainings, at the evaluation with the highest Top-1.

The cost of a training is its iterations up to the last evaluation; for a training of the tuner that
diverged, one test interval is added. TPE and random search train on all cores at the same time.
When the budget ends, their other trainings still finish and exceed it.

The program continues where it was interrupted if it is started again with the same FOLDER. It
writes the table to standard output, and the Top-1 of each fresh training to
FOLDER/TASK/answers.jsonl. `--goal cost` and `--goal robustness` are goals of the tuner alone: give
them with `--search tune` and another FOLDER.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import statistics
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import optuna
import psycopg2
from tasks import TASKS, write_solver

from lrbench_caffe import study
from lrbench_caffe.database import Store, server
from lrbench_caffe.display.progress import StudyDisplay
from lrbench_caffe.errors import InputError, TrialError
from lrbench_caffe.evaluator import candidates, range_test, tuner
from lrbench_caffe.evaluator.trainer import Trainer
from lrbench_caffe.policies import CYCLIC, FUNCTIONS, Composition, Policy
from lrbench_caffe.study import process
from lrbench_caffe.study.cores import Cores, usable_cores
from lrbench_caffe.trial import FINISHED, PRUNED, Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from lrbench_caffe.trial import Trial

    Incumbents = list["Incumbent"]
    Search = Callable[[str, argparse.Namespace, int], Incumbents]

FIRST_FRESH_SEED, MOST_FRESH_SEEDS = 1001, 1000
SEEDS_OF_A_REPEAT = 100
RECIPE_FACTORS = (1, 2, 4)
AT_RECIPE = "tune at recipe's cost"
METRICS = ("ld", "ac", "cd", "cdac")  # of the best evaluation, beside its Top-1


class Answer(NamedTuple):
    """What a search answers.

    Attributes:
        policy: The policy's text.
        length: Iterations of a training with it; None for max_iter.
    """

    policy: str
    length: int | None = None


class Incumbent(NamedTuple):
    """The best answer of a search at some time.

    Attributes:
        spent: Iterations of the search until then.
        policy: The policy's text.
        length: Iterations of a training with it; None for max_iter.
    """

    spent: int
    policy: str
    length: int | None = None

    @property
    def answer(self) -> Answer:
        """The answer."""
        return Answer(self.policy, self.length)


class Fresh(NamedTuple):
    """A training of an answer with a fresh seed.

    Attributes:
        top1: Its highest Top-1; 0 if it did not finish.
        metrics: The METRICS of this evaluation; empty if it did not finish.
    """

    top1: float
    metrics: tuple[float | None, ...] = ()


def main() -> None:
    """Run all searches, judge their answers, and print the table."""
    options = parse_arguments()
    options.work = os.path.join(options.work, options.task)
    os.makedirs(options.work, exist_ok=True)
    check_conditions(options)
    solver, options.max_iter, options.test_interval = write_solver(
        options.task, options.data, options.work
    )
    options.iterations = int(options.budget * options.max_iter)
    runs = {
        (name, repeat): cached_search(name, solver, options, repeat)
        for repeat in range(options.first_repeat, options.first_repeat + options.repeats)
        for name in options.search
    }
    answers = final_answers(runs)
    fresh = train_fresh_seeds(solver, options, set(filter(None, answers.values())))
    write_answers(answers, fresh, options)
    print_table(runs, answers, fresh, options)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line; `search` of the result lists the searches to run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("task", choices=TASKS, help="what to train")
    add("--data", required=True, help="folder of the data, from benchmarks/tasks.py")
    add("--work", required=True, help="folder for the state of each search")
    add("--budget", type=float, default=15, help="budget in trainings at full length")
    add("--goal", default="accuracy", help="goal of the tuner")
    add("--repeats", type=int, default=5, help="how often each search runs, with other seeds")
    add("--first-repeat", type=int, default=0, help="number of the first repeat; it sets the seeds")
    add("--fresh", type=int, default=20, help="seeds that judge an answer")
    add("--search", action="append", choices=SEARCHES, help="run only this search; repeatable")
    options = parser.parse_args()
    if not options.search:
        options.search = list(SEARCHES)
    if not 2 <= options.fresh <= MOST_FRESH_SEEDS:
        parser.error("--fresh: expected 2 to %d seeds" % MOST_FRESH_SEEDS)
    return options


def check_conditions(options: argparse.Namespace) -> None:
    """Exit if the folder has results for other conditions."""
    path = os.path.join(options.work, "conditions.json")
    conditions = {name: getattr(options, name) for name in ("task", "data", "budget", "goal")}
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
        print("== %s %s-%d" % (options.task, name, repeat), flush=True)
        incumbents = SEARCHES[name](solver, options, repeat)
        with open(path + ".new", "w") as file:
            json.dump(incumbents, file)
        os.replace(path + ".new", path)
    with open(path) as file:
        return [Incumbent(*values) for values in json.load(file)]


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
    """Return the first seed of a repeat.

    Repeats have no seed in common, neither with each other nor with the fresh trainings.
    """
    seed = SEEDS_OF_A_REPEAT * repeat + 1
    return seed if seed < FIRST_FRESH_SEED else seed + MOST_FRESH_SEEDS


# The searches


def tune(solver: str, options: argparse.Namespace, repeat: int) -> Incumbents:
    """Search with the tuner."""
    trainer = make_trainer("tune", solver, options, repeat)
    trainer.budget = options.iterations
    tuned = tuner.tune(
        trainer,
        goal=options.goal,
        on_note=lambda sentence: print(sentence, flush=True),
        seed=first_seed(repeat),
    )
    incumbents = [Incumbent(spent, policy) for spent, policy in tuned.incumbents]
    length = None if tuned.length == options.max_iter else tuned.length
    return [*incumbents, Incumbent(tuned.cost, tuned.policy, length)]


def make_trainer(name: str, solver: str, options: argparse.Namespace, repeat: int) -> Trainer:
    """Make a trainer with a database of its own."""
    dsn = create_database(options, "%s_%d" % (name, repeat))
    trainer = Trainer(solver, Cores(), "tune", "search", dsn=dsn)
    trainer.keeps_models = False
    return trainer


def recipe(solver: str, options: argparse.Namespace, repeat: int) -> Incumbents:
    """Train the rule of thumb from three rates; the answer is the one with the highest Top-1."""
    trainer, rate = tested_range(solver, options, repeat)
    policies = [
        str(candidates.recipe(k * rate, options.max_iter).policy(options.max_iter))
        for k in RECIPE_FACTORS
    ]
    requests = [(policy, options.max_iter, first_seed(repeat)) for policy in policies]
    trials = trainer.train(requests)
    best = max(trials, key=highest_top1)
    return [Incumbent(trainer.spent, best.policy)]


def constant(solver: str, options: argparse.Namespace, repeat: int) -> Incumbents:
    """Take the best constant rate of the range test."""
    trainer, rate = tested_range(solver, options, repeat)
    return [Incumbent(trainer.spent, str(Policy("FIX", k0=rate)))]


def cosine(solver: str, options: argparse.Namespace, repeat: int) -> Incumbents:
    """Fall along half a cosine from the best constant rate."""
    trainer, rate = tested_range(solver, options, repeat)
    return [Incumbent(trainer.spent, str(Policy("COS", k0=rate, k1=0, l=options.max_iter)))]


def tested_range(solver: str, options: argparse.Namespace, repeat: int) -> tuple[Trainer, float]:
    """Run the range test that the tuner runs, or read it; return its trainer and best rate."""
    trainer = make_trainer("recipe", solver, options, repeat)
    for share in tuner.RANGE_SHARES:
        test = range_test.run(trainer, trainer.length(share), first_seed(repeat))
        if test.good:
            return trainer, test.good.best
    sys.exit("%s does not learn with any constant rate" % options.task)


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
            if iterations_spent(running) + options.max_iter > options.iterations:
                running.stop()

        if iterations_spent(optuna_study) + options.max_iter <= options.iterations:
            optuna_study.optimize(objective, n_jobs=usable_cores(), callbacks=[stop_at_budget])
        incumbents = incumbents_of(optuna_outcomes(optuna_study))
        # The last entry has the iterations of the whole search.
        return incumbents + [
            last._replace(spent=iterations_spent(optuna_study)) for last in incumbents[-1:]
        ]

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
    """Sample a policy of any of the 13 functions, with or without a warm-up, from wide ranges."""
    warmup = optuna_trial.suggest_float("warmup", -0.3, 0.3)  # of the training; below 0: none
    if warmup <= 0:
        return suggest_function(optuna_trial, length)
    iterations = max(1, round(warmup * length))
    policy = suggest_function(optuna_trial, length - iterations)
    return Composition(Policy("WARMUP", k0=policy.first / 10), iterations, policy)


def suggest_function(optuna_trial: optuna.Trial, length: int) -> Policy:
    """Sample a policy of one function."""
    function = optuna_trial.suggest_categorical("function", list(FUNCTIONS))
    values = {"k0": optuna_trial.suggest_float("k0", 1e-5, 10, log=True)}
    if function in CYCLIC:
        values["k1"] = optuna_trial.suggest_float("k1", 1e-5, 10, log=True)
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


def incumbents_of(outcomes: Iterable[tuple[int, str | None, float | None]]) -> Incumbents:
    """List the incumbents of a search.

    Args:
        outcomes: (iterations, policy, Top-1) of each training, in their order. The Top-1 of a
            training that did not finish is None or 0.

    Returns:
        The incumbent whenever another policy became the best.
    """
    total, best = 0, -1.0
    incumbents: Incumbents = []
    for iterations, policy, top1 in outcomes:
        total += iterations
        if policy and top1 and top1 > best:
            best = top1
            incumbents.append(Incumbent(total, policy))
    return incumbents


# The judgment


def final_answers(runs: dict[tuple[str, int], Incumbents]) -> dict[tuple[str, int], Answer | None]:
    """List the answer of each run, and that of the tuner at the cost of the recipe."""
    answers: dict[tuple[str, int], Answer | None] = {}
    for (name, repeat), incumbents in runs.items():
        answers[name, repeat] = incumbents[-1].answer if incumbents else None
        if name == "tune" and ("recipe", repeat) in runs:
            cost = runs["recipe", repeat][-1].spent
            until = [incumbent.answer for incumbent in incumbents if incumbent.spent <= cost]
            answers[AT_RECIPE, repeat] = until[-1] if until else None
    return answers


def train_fresh_seeds(
    solver: str, options: argparse.Namespace, answers: set[Answer]
) -> dict[Answer, list[Fresh]]:
    """Train answers with fresh seeds; return the trainings of each."""
    dsn = create_database(options, "judge")
    seeds = range(FIRST_FRESH_SEED, FIRST_FRESH_SEED + options.fresh)
    jobs = [
        Job(solver, policy=answer.policy, seed=seed, max_iter=answer.length)
        for answer in sorted(answers, key=str)
        for seed in seeds
    ]
    with StudyDisplay() as display:
        study.run_study("judge", Cores(), display, jobs, dsn)
    fresh: dict[Answer, list[Fresh]] = {}
    with Store(dsn) as store:
        trials = store.trials(study="judge", best_only=True)
        # They come in the order of their starts. Answers are compared seed by seed.
        for trial in sorted(trials, key=lambda trial: trial.setup.seed):
            length = None if trial.length == options.max_iter else trial.length
            answer = Answer(trial.policy, length)
            if answer in answers and trial.setup.seed in seeds:
                fresh.setdefault(answer, []).append(fresh_training(trial))
    if any(len(fresh.get(answer, ())) < options.fresh for answer in answers):
        sys.exit("some trainings with fresh seeds did not start: run the program again")
    return fresh


def fresh_training(trial: Trial) -> Fresh:
    """Return what counts of a training with a fresh seed."""
    if trial.state != FINISHED or not trial.best:
        return Fresh(0.0)
    return Fresh(highest_top1(trial), tuple(getattr(trial.best, name) for name in METRICS))


def write_answers(
    answers: dict[tuple[str, int], Answer | None],
    fresh: dict[Answer, list[Fresh]],
    options: argparse.Namespace,
) -> None:
    """Write each answer and its Top-1 with each fresh seed."""
    with open(os.path.join(options.work, "answers.jsonl"), "w") as file:
        for (name, repeat), answer in sorted(answers.items(), key=lambda item: item[0]):
            content = {
                "task": options.task,
                "goal": options.goal,
                "search": name,
                "repeat": repeat,
                "policy": answer and answer.policy,
                "max_iter": answer and (answer.length or options.max_iter),
                "top1": [training.top1 for training in trainings(answer, fresh, options)],
            }
            file.write(json.dumps(content) + "\n")


def trainings(
    answer: Answer | None, fresh: dict[Answer, list[Fresh]], options: argparse.Namespace
) -> list[Fresh]:
    """Return the fresh trainings of an answer; all fail if a search found nothing."""
    return fresh[answer] if answer else [Fresh(0.0)] * options.fresh


# The table


def print_table(
    runs: dict[tuple[str, int], Incumbents],
    answers: dict[tuple[str, int], Answer | None],
    fresh: dict[Answer, list[Fresh]],
    options: argparse.Namespace,
) -> None:
    """Print a row for each search: its cost, and what its answers are worth."""
    heading = "%s, %d iterations a training, goal %s"
    print("\n" + heading % (options.task, options.max_iter, options.goal))
    columns = ["search", "iterations", "Top-1 %", "worst repeat", "failed", "max_iter"]
    columns += [name.upper() for name in METRICS]
    print("\n| %s |\n| --- |%s" % (" | ".join(columns), " ---: |" * (len(columns) - 1)))
    for name in dict.fromkeys(name for name, _ in answers):
        found = [answer for (n, _), answer in answers.items() if n == name]
        judged = [trainings(answer, fresh, options) for answer in found]
        source = "recipe" if name == AT_RECIPE else name
        costs = [runs[source, repeat][-1].spent for n, repeat in answers if n == name]
        lengths = [(answer and answer.length) or options.max_iter for answer in found]
        print("| %s |" % " | ".join([name, *cells(costs, lengths, judged)]))


def cells(costs: list[int], lengths: list[int], judged: list[list[Fresh]]) -> list[str]:
    """Return the cells of a search's row, but its name."""
    means = [100 * statistics.mean(training.top1 for training in group) for group in judged]
    error = statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    everything = [training for group in judged for training in group]
    return [
        "%d" % statistics.mean(costs),
        "%.2f ± %.2f" % (statistics.mean(means), error),
        "%.2f" % min(means),
        "%d of %d" % (sum(not training.top1 for training in everything), len(everything)),
        "%d" % statistics.mean(lengths),
        *("%.4f" % mean_metric(everything, n) for n in range(len(METRICS))),
    ]


def mean_metric(group: list[Fresh], n: int) -> float:
    """Return the mean of one of the METRICS over the trainings that have it."""
    values = [training.metrics[n] for training in group if training.metrics]
    measured = [value for value in values if value is not None]
    return statistics.mean(measured) if measured else math.nan


SEARCHES: dict[str, Search] = {
    "tune": tune,
    "recipe": recipe,
    "constant": constant,
    "cosine": cosine,
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
}

if __name__ == "__main__":
    try:
        main()
    except (InputError, TrialError) as error:
        sys.exit(str(error))
