"""`lrbench tune` against Optuna's TPE with its ASHA pruner, random search and a grid, over the same 13 functions and budget, and,
with --known, against itself with what an export of another task has in its database.

    docker/run python3 -m pip install --target OPTUNA "optuna<5" "numpy<1.20"
    docker/run env PYTHONPATH=OPTUNA python3 benchmarks/against_others.py solvers/lenet_solver.prototxt --data DIR --work FOLDER

Each search has a database of its own, so that it knows nothing of the others; what it ends with is judged by fresh seeds, which it
does not pay for, and by more of them where it comes near the best known, or just not.  Near is a search from the iteration on from
which the policy that it held to be the best always was: what it held before is judged, back from its end, until one is not.
Everything is counted in iterations: those up to the last evaluation, and for the tuner one interval more where a training diverged.
TPE and random search train as many at a time as there are cores, and may end above the budget by what the others still have to go.
Run again with the same FOLDER, it goes on where it was cut off.
"""

import argparse
import hashlib
import itertools
import json
import math
import os
import random
import statistics
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import optuna
import psycopg2

from lrbench_caffe import study
from lrbench_caffe.database import Store, exchange, server, studies
from lrbench_caffe.display.progress import StudyDisplay
from lrbench_caffe.errors import InputError, TrialError
from lrbench_caffe.evaluator import tuner
from lrbench_caffe.evaluator.trainings import Trainer
from lrbench_caffe.policies import CYCLIC, FUNCTIONS, Policy
from lrbench_caffe.study import process
from lrbench_caffe.study.cores import Cores, usable_cores
from lrbench_caffe.training import prototxt
from lrbench_caffe.trial import FINISHED, PRUNED, Job

FRESH = 1001  # the first of the seeds that judge


def main():
    """Run all searches, judge what they found, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("solver")
    parser.add_argument("--data", required=True)
    parser.add_argument(
        "--work",
        required=True,
        help="folder for the solver as it is trained and for how far each search is",
    )
    parser.add_argument("--max-iter", type=int, default=2000)
    parser.add_argument("--test-interval", type=int, default=100)
    parser.add_argument("--budget", type=int, default=40000, help="iterations of each search")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fresh", type=int, default=3, help="seeds that judge a policy")
    parser.add_argument("--sure", type=int, default=10, help="seeds that judge what is in doubt")
    parser.add_argument(
        "--near",
        type=float,
        default=0.05,
        help="points of Top-1 below the best known that are near it",
    )
    parser.add_argument(
        "--search",
        action="append",
        choices=SEARCHES,
        help="only this one; may be given several times",
    )
    parser.add_argument(
        "--known",
        help="an export of trainings on another task, which the tuner has in one more search",
    )
    given = parser.parse_args()
    methods = given.search or [name for name in SEARCHES if given.known or name != "second"]
    if "second" in methods and not (given.known and os.path.isfile(given.known)):
        parser.error("the search second needs --known FILE, an export of another task")
    if given.fresh < 2:
        parser.error("--fresh: at least 2 seeds, so that they have a deviation")
    os.makedirs(given.work, exist_ok=True)
    check(given)
    solver = shortened(given)
    runs = {
        (method, repeat): cached(
            given, "%s-%d" % (method, repeat), lambda: SEARCHES[method](solver, given, repeat)
        )
        for repeat in range(given.repeats)
        for method in methods
    }
    table(runs, *judgment(runs, solver, given), given)


def shortened(given):
    """The path of the solver as it is trained here."""
    param = prototxt.resolve(prototxt.read_solver(given.solver), given.solver, given.data)
    param.max_iter, param.test_interval, param.snapshot, param.snapshot_after_train = (
        given.max_iter,
        given.test_interval,
        0,
        False,
    )
    path = os.path.join(os.path.abspath(given.work), "solver.prototxt")
    prototxt.write_solver(param, path)
    return path


def check(given):
    """Ends the program if what lies in the folder was found under other conditions."""
    path = os.path.join(given.work, "conditions.json")
    conditions = {
        name: getattr(given, name)
        for name in ("solver", "data", "max_iter", "test_interval", "budget")
    }
    if not os.path.exists(path):
        with open(path, "w") as file:
            json.dump(conditions, file)
    with open(path) as file:
        found = json.load(file)
    if found != conditions:
        sys.exit("%s was begun with %s: give these, or another --work" % (given.work, found))


def cached(given, name, search):
    """What search() returns, or returned when it was run before: [(iterations spent, the policy that was the best then)]."""
    path = os.path.join(given.work, name + ".json")
    if not os.path.exists(path):
        print("== %s" % name, flush=True)
        found = search()
        with open(path + ".new", "w") as file:
            json.dump(found, file)
        os.replace(path + ".new", path)
    with open(path) as file:
        return [tuple(entry) for entry in json.load(file)]


def database(given, name):
    """The DSN of a database of the private server for this folder, made if need be."""
    name = "against_%s_%s" % (
        hashlib.sha256(os.path.realpath(given.work).encode()).hexdigest()[:8],
        name,
    )
    admin = psycopg2.connect(server.start())
    admin.autocommit = True
    with admin.cursor() as cursor:
        cursor.execute("SELECT FROM pg_database WHERE datname = %s", [name])
        if not cursor.rowcount:
            cursor.execute('CREATE DATABASE "%s"' % name)
    admin.close()
    return server.start() + " dbname=" + name


def lrbench(solver, given, repeat, name="lrbench"):
    """The search of the tuner, whose seeds are others in each repeat."""
    dsn = database(given, "%s_%d" % (name, repeat))
    if name == "second":
        exchange.import_trials(given.known, dsn)
    trainings = Trainer(solver, Cores(), "tune", "search", dsn=dsn)
    trainings.budget = given.budget
    tuned = tuner.tune(
        trainings,
        FUNCTIONS,
        tell=lambda sentence: print(sentence, flush=True),
        seed=100 * repeat + 1,
    )
    return list(tuned.answers)


def second(solver, given, repeat):
    """The same with what is known of another task."""
    return lrbench(solver, given, repeat, "second")


def with_optuna(name, sampler, pruner):
    """A search by an Optuna study with this sampler and pruner, as many trials at a time as there are cores."""

    def search(solver, given, repeat):
        dsn = database(given, "%s_%d" % (name, repeat))
        storage = "sqlite:///%s" % os.path.join(
            os.path.abspath(given.work), "%s-%d.db" % (name, repeat)
        )
        found = optuna.create_study(
            storage=storage,
            study_name=name,
            direction="maximize",
            load_if_exists=True,
            sampler=sampler(repeat),
            pruner=pruner(given),
        )

        def objective(asked):
            policy = suggested(asked, given.max_iter)
            asked.set_user_attr("policy", str(policy))

            def listen(kind, content):
                if kind == "row" and content.iteration:
                    asked.set_user_attr("spent", content.iteration)
                    asked.report(content.top1, content.iteration)
                    if asked.should_prune():
                        return PRUNED, "pruned by Optuna"
                return None

            return outcome(solver, policy, 100 * repeat + 1, dsn, listen)

        def stop(ran, _):
            if (
                spent(ran) + given.max_iter > given.budget
            ):  # one more may be under way: the others get a little more
                ran.stop()

        if spent(found) + given.max_iter <= given.budget:
            found.optimize(objective, n_jobs=usable_cores(), callbacks=[stop])
        return incumbents(
            [
                (
                    one.user_attrs.get("spent", 0),
                    one.user_attrs.get("policy"),
                    one.value if one.state == optuna.trial.TrialState.COMPLETE else None,
                )
                for one in sorted(
                    found.trials, key=lambda one: one.datetime_complete or one.datetime_start
                )
            ]
        )

    return search


def outcome(solver, policy, seed, dsn, listen):
    """The best Top-1 of a training; one that diverges or that Caffe refuses is worth 0, one that fails ends the search."""
    try:
        trial = process.train(solver, policy, dsn=dsn, seed=seed, on_event=listen, threads=1)
    except InputError:
        return 0.0
    if trial.state == PRUNED:
        raise optuna.TrialPruned
    return trial.best.top1 if trial.state == FINISHED else 0.0


def spent(found):
    """The iterations of all trials of an Optuna study."""
    return sum(one.user_attrs.get("spent", 0) for one in found.trials)


def suggested(asked, length):
    """A policy of any of the 13 functions, in the widest ranges that a user would give."""
    function = asked.suggest_categorical("function", list(FUNCTIONS))
    values = {"k0": asked.suggest_float("k0", 1e-5, 1, log=True)}
    if function in CYCLIC:
        values["k1"] = asked.suggest_float("k1", 1e-5, 1, log=True)
        values["l"] = asked.suggest_int("l", 10, length, log=True)
    if function in ("EXP", "TRIEXP", "SINEXP"):
        values["gamma"] = 1 - asked.suggest_float("1 - gamma", 1e-6, 0.1, log=True)
    if function in ("STEP", "NSTEP"):
        values["gamma"] = asked.suggest_float("gamma", 0.01, 0.99)
        values["l"] = asked.suggest_int("l", 10, length, log=True)
    if function == "NSTEP":
        more = [
            asked.suggest_int("l%d" % n, 10, length)
            for n in range(1, asked.suggest_int("steps", 1, 4))
        ]
        values["l"] = sorted({values["l"], *more})
    if function == "INV":
        values["gamma"], values["p"] = (
            asked.suggest_float("INV gamma", 1e-6, 0.1, log=True),
            asked.suggest_float("p", 0.25, 2),
        )
    if function == "POLY":
        values["p"], values["l"] = asked.suggest_float("POLY p", 0.25, 4), length
    return Policy(function, **values)


def grid(solver, given, repeat):
    """The points of a grid in an order that chance gives, as far as the budget goes."""
    name, dsn, length = "grid", database(given, "grid_%d" % repeat), given.max_iter
    points = list(dict.fromkeys(str(policy) for policy in grid_points(length)))
    random.Random(repeat).shuffle(points)
    jobs = [Job(solver, policy=policy, seed=100 * repeat + 1) for policy in points]
    done, cost = [], 0
    while cost + length <= given.budget and len(done) < len(jobs):
        batch = jobs[: len(done) + usable_cores()]
        with StudyDisplay() as shown:
            study.run_study(name, Cores(), shown, batch, dsn)
        with Store(dsn) as store:
            trials = {trial.id: trial for trial in store.trials(study=name)}
            done = [trials[entry.job.id] for entry in studies.jobs(store, name)]
        cost = sum(trial.rows[-1].iteration for trial in done if trial.rows)
    return incumbents(
        [
            (
                trial.rows[-1].iteration if trial.rows else 0,
                trial.policy,
                trial.best.top1 if trial.state == FINISHED else None,
            )
            for trial in done
        ]
    )


def grid_points(length):
    """Every function with rates a decade apart, and two settings of each other parameter."""
    rates = (1.0, 0.1, 0.01, 0.001, 0.0001)
    for function, k0 in itertools.product(FUNCTIONS, rates):
        for share, gamma in itertools.product((0.1, 0.5), (0.1, 0.5)):
            l = max(1, int(share * length))
            exp = gamma ** (1 / length)
            values = {
                "STEP": dict(gamma=gamma, l=l),
                "NSTEP": dict(gamma=gamma, l=[l, (l + length) // 2]),
                "EXP": dict(gamma=exp),
                "INV": dict(gamma=1 / l, p=0.75),
                "POLY": dict(p=2 * gamma, l=length),
                "FIX": {},
            }.get(function)
            if function in CYCLIC:
                values = dict(
                    k1=k0 * gamma / 5, l=l, **({"gamma": exp} if function.endswith("EXP") else {})
                )
            yield Policy(function, k0=k0, **values)


def incumbents(trials):
    """[(iterations spent, policy)] whenever another policy is the best, from (iterations, policy, Top-1 or None) in their order."""
    total, best, found = 0, -1.0, []
    for iterations, policy, top1 in trials:
        total += iterations
        if top1 and top1 > best:
            best = top1
            found.append((total, policy))
    return found


def near(found, judged, limit):
    """The entries of a search, back from its end, that are judged to reach the limit; the first that does not ends them."""

    def reaches(entry):
        return entry[1] in judged and statistics.mean(judged[entry[1]]) >= limit

    return list(itertools.takewhile(reaches, reversed(found)))


def judgment(runs, solver, given):
    """({policy: its Top-1 with each fresh seed}, the best of them, the Top-1 from which on one is near it)."""
    judged, wanted = {}, {(found[-1][1], given.fresh) for found in runs.values() if found}
    if not wanted:
        sys.exit("no search has finished a training")
    while wanted:
        judged.update(judge(solver, given, wanted))
        best = max(judged, key=lambda policy: statistics.mean(judged[policy]))
        limit = statistics.mean(judged[best]) - given.near / 100
        wanted = unsure(judged, limit, given) or {
            (policy, given.fresh) for policy in earlier(runs, judged, limit)
        }
    return judged, best, limit


def earlier(runs, judged, limit):
    """What each search held to be the best before it was near, where that is not judged."""
    last = [found[: len(found) - len(near(found, judged, limit))][-1:] for found in runs.values()]
    return {policy for entries in last for _, policy in entries} - set(judged)


def unsure(judged, limit, given):
    """{(policy, seeds)} of those that are no further below the limit than it is below the best, and have not as many seeds yet."""
    return {
        (policy, given.sure)
        for policy, tops in judged.items()
        if len(tops) < given.sure and statistics.mean(tops) >= limit - given.near / 100
    }


def judge(solver, given, wanted):
    """{policy: its Top-1 with each of so many fresh seeds}, of the (policy, seeds) that are wanted."""
    dsn = database(given, "judge")
    jobs = [
        Job(solver, policy=policy, seed=FRESH + n)
        for policy, seeds in sorted(wanted)
        for n in range(seeds)
    ]
    with StudyDisplay() as shown:
        study.run_study("judge", Cores(), shown, jobs, dsn)
    asked, tops = {(job.policy, job.seed) for job in jobs}, {}
    with Store(dsn) as store:
        for trial in store.trials(study="judge", best_only=True):
            if (trial.policy, trial.setup.seed) in asked:
                tops.setdefault(trial.policy, []).append(
                    trial.best.top1 if trial.state == FINISHED else 0.0
                )
    if any(len(tops.get(policy, ())) < seeds for policy, seeds in wanted):
        sys.exit("not every training that judges has begun: run it again")
    return tops


def table(runs, judged, best, limit, given):
    """Print each search's last policy as it was judged and what it cost to come near the best known; then all repeats."""
    print(
        "\nbest known: %s, Top-1 %.2f %% over %d fresh seeds\n"
        % (best, 100 * statistics.mean(judged[best]), len(judged[best]))
    )
    print(
        "| search | repeat | Top-1 % of what it found (seeds) | iterations to near the best known | policy |"
    )
    print("| --- | ---: | ---: | ---: | --- |")
    tops, costs = {}, {}
    for (method, repeat), found in runs.items():
        judges = judged[found[-1][1]] if found else [0.0] * given.fresh
        held = near(found, judged, limit)
        tops.setdefault(method, []).append(statistics.mean(judges))
        costs.setdefault(method, []).append(held[-1][0] if held else math.inf)
        print(
            "| %s | %d | %.2f ± %.2f (%d) | %s | %s |"
            % (
                method,
                repeat + 1,
                100 * tops[method][-1],
                100 * statistics.stdev(judges),
                len(judges),
                iterations(costs[method][-1], given),
                found[-1][1] if found else "none finished",
            )
        )
    print(
        "\n| search | Top-1 %, mean of the repeats | iterations to near the best known, median |\n| --- | ---: | ---: |"
    )
    for method, means in tops.items():
        print(
            "| %s | %.2f | %s |"
            % (
                method,
                100 * statistics.mean(means),
                iterations(statistics.median(costs[method]), given),
            )
        )


def iterations(count, given):
    """A number of iterations, or that it is more than the budget."""
    return "> %d" % given.budget if count == math.inf else "%d" % count


SEARCHES = {
    "lrbench": lrbench,
    "second": second,
    "tpe": with_optuna(
        "tpe",
        lambda seed: optuna.samplers.TPESampler(seed=seed, constant_liar=True),
        lambda given: optuna.pruners.SuccessiveHalvingPruner(
            min_resource=given.test_interval, reduction_factor=3
        ),
    ),
    "random": with_optuna(
        "random",
        lambda seed: optuna.samplers.RandomSampler(seed=seed),
        lambda given: optuna.pruners.NopPruner(),
    ),
    "grid": grid,
}

if __name__ == "__main__":
    try:
        main()
    except (InputError, TrialError) as error:
        sys.exit(str(error))
