"""Commands that look for good policies: range, tune and recommend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from lrbench_caffe.cli import hints
from lrbench_caffe.cli.help import command
from lrbench_caffe.cli.numbers import WholeNumber
from lrbench_caffe.cli.options import (
    ITERATIONS,
    SEED,
    PoolOptions,
    data_option,
    database_option,
    evaluation_options,
    format_option,
    measurement_options,
    no_model_option,
    origin_options,
    prior_options,
    stopping_options,
)
from lrbench_caffe.cli.output import print_remarks
from lrbench_caffe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrbench_caffe.evaluator.tuning_log import TuningLog, Wanted

_REPEAT = "run the same command again to repeat them"  # the remedy for failed trainings


@command("range")
@click.option(
    "--sweep",
    is_flag=True,
    help="Run Smith's range test instead: one training whose learning rate grows until the "
    "accuracy collapses",
)
@click.option(
    "--max-iter",
    type=ITERATIONS,
    metavar="N",
    help="Number of iterations for each rate; with --sweep, until the rate is 1 [default: a "
    "quarter of the solver's, but at least two evaluations; with --sweep, all of them]",
)
@click.option(
    "--seed", type=SEED, default=1, show_default=True, metavar="N", help="Caffe's random_seed"
)
@click.option(
    "--out",
    default="lrbench-range.png",
    metavar="FILE",
    show_default=True,
    help="Picture of Top-1 against the rate, .png, .svg or .pdf, like Figure 3 of the paper",
)
@evaluation_options("range")
def range_command(
    solver: str,
    sweep: bool,
    max_iter: int | None,
    seed: int,
    out: str,
    name: str | None,
    data: str | None,
    measured: dict[str, Any],
    pool: PoolOptions,
    dsn: str | None,
    format: str,
) -> None:
    """Find the range of good constant learning rates.

    The test trains with rates that differ by a factor of 10 until the accuracy has dropped on both
    sides, then with rates beside the good ones. A line names an end of the range beyond which no
    rate was measured.
    """
    from lrbench_caffe.display import console, tables
    from lrbench_caffe.evaluator import range_test
    from lrbench_caffe.evaluator.trainer import Trainer
    from lrbench_caffe.report import plots
    from lrbench_caffe.study import failures

    plots.check_path(out)
    trainer = Trainer(solver, pool.create(), "range", name, data, dsn, **measured)
    if max_iter is None and not sweep:
        print_remarks(range_test.length_remarks(trainer), format)
    run = range_test.sweep if sweep else range_test.run
    test = run(trainer, max_iter, seed)
    console.print_tables(tables.range_test(test), format=format)
    print_remarks(range_test.summary(test), format)
    plots.range_test(test, out)
    print_remarks(["figure: %s" % out], format)
    failures.raise_if_any(test.trials, _REPEAT)
    hints.show("range", format, solver=solver, data=data, **measured)


@command()
@click.option(
    "--function",
    "functions",
    multiple=True,
    metavar="F",
    help="Function to consider, e.g. SIN2; can be repeated [default: the paper's 13, SGDR and "
    "PLATEAU]",
)
@click.option(
    "--goal",
    type=click.Choice(["accuracy", "cost", "robustness"]),
    default="accuracy",
    show_default=True,
    help="What to optimize. accuracy: the highest Top-1. cost: the fewest iterations to within 0.1 "
    "points, or one test sample, of it. robustness: Top-1 counts half; LD, AC, CD and CDAC share "
    "the other half",
)
@click.option(
    "--budget",
    type=WholeNumber(1),
    metavar="N",
    help="Iterations to spend on all trainings together [default: 20 times the solver's max_iter]",
)
@stopping_options
@no_model_option
@evaluation_options("tune")
@prior_options
def tune(
    solver: str,
    functions: tuple[str, ...],
    goal: str,
    budget: int | None,
    stopping: dict[str, Any],
    no_model: bool,
    name: str | None,
    data: str | None,
    measured: dict[str, Any],
    pool: PoolOptions,
    origin: str | None,
    dsn: str | None,
    format: str,
) -> None:
    """Search for a good learning rate policy for a solver.

    The search begins with a range test and with what is known to work: a warm-up and half a cosine
    from three rates, and the best policies of the database. Then it tries other curves at the best
    rate, more seeds and variants. A budget of five times max_iter is enough for the beginning. The
    model of the best policy's best training is kept.
    """
    from lrbench_caffe import ranking
    from lrbench_caffe.display import console, tables
    from lrbench_caffe.display.search import SearchDisplay
    from lrbench_caffe.evaluator import tuner
    from lrbench_caffe.evaluator.status import status
    from lrbench_caffe.evaluator.trainer import Trainer
    from lrbench_caffe.study import failures

    def print_decision(sentence: str) -> None:
        console.print_line(sentence, aside=True)

    with SearchDisplay() as display:

        def show(log: TuningLog, stage: str, wanted: Sequence[Wanted]) -> None:
            display.show(status(log, stage, wanted, trainer.budget))

        trainer = Trainer(
            solver,
            pool.create(),
            "tune",
            name,
            data,
            dsn,
            display=display.round,
            stopping=stopping,
            **measured,
        )
        trainer.keeps_models = not no_model
        if budget:
            trainer.budget = budget
        tuned = tuner.tune(
            trainer, functions, goal, on_note=print_decision, on_round=show, origin=origin
        )
    if format == "table":
        hint = "use a wider window, or `lrbench study show %s --columns policy,top1,why`"
        hint %= tuned.study
        console.print_tables(tables.tuning(tuned), hint=hint)
    metrics = ranking.parse_criterion(tuner.GOALS[goal]).weights
    console.print_tables(tables.tuned(tuned, metrics), format=format)
    print_remarks(tuner.summary(tuned), format)
    if tuned.model:
        print_remarks(["model: " + console.model_text(tuned.model)], format)
    failures.raise_if_any([tried.trial for tried in tuned.tried], _REPEAT)
    hints.show("tune", format, study=tuned.study)


@command()
@click.option("--dataset", metavar="NAME", help="Dataset to train on [default: the solver's]")
@click.option(
    "--network",
    metavar="NAME",
    help="Network to train: its name, its hash or NAME@HASH [default: the solver's]",
)
@click.option(
    "--solver",
    metavar="SOLVER.prototxt",
    help="Solver to train; its settings make the comparison with other tasks more exact",
)
@data_option
@measurement_options
@origin_options
@format_option
@database_option
def recommend(
    dataset: str | None,
    network: str | None,
    solver: str | None,
    data: str | None,
    measured: dict[str, Any],
    origin: str | None,
    dsn: str | None,
    format: str,
) -> None:
    """Recommend policies for a dataset and a network.

    These are the best policies in the database for this task, and the trainings that they rest on.
    If the database does not have trainings for this task, or has only single seeds or trainings
    that are shorter than the solver's, the command shows similar tasks too, and how similar they
    are. It also prints which rates to start from.
    """
    from lrbench_caffe import database, ranking
    from lrbench_caffe.display import console, tables
    from lrbench_caffe.evaluator import explanation, recommendation
    from lrbench_caffe.study import process
    from lrbench_caffe.trial import Job

    if not solver and not (dataset and network):
        raise InputError(
            "a task is a dataset and a network: give --dataset NAME and --network NAME, or "
            "--solver SOLVER.prototxt"
        )
    with database.Store(dsn) as store:
        if origin is not None:
            database.selection.check(store, {"origin": origin})
        if solver:
            # The setup does not depend on the policy. The solver's schedule may be incomplete.
            job = Job(solver, policy="FIX(k0=0.01)", data=data, **measured)
            setup = process.describe(job).setup
            query = recommendation.query_from_setup(setup, dataset, network)
        else:
            assert dataset and network
            query = recommendation.query_by_names(store, dataset, network)
            unknown = database.selection.remarks(store, {"dataset": dataset, "network": network})
            print_remarks(unknown, format)
        results = database.standings.selectable(store, origin)
        recommended = recommendation.recommend(results, query)
    titles = explanation.titles(recommended)
    listed = list(map(tables.standings, recommended.all_tasks, titles))
    if format != "table":
        console.print_tables(*listed, format=format)
    for table, sentences in zip(listed, explanation.explanations(recommended)):
        print_remarks(sentences, format)
        if format == "table":
            console.print_tables(table)
    print_remarks(explanation.sets_remarks(recommended), format)
    tasks = [(entry.task.dataset, entry.task.network) for entry in recommended.tasks]
    print_remarks(ranking.names_remarks(tasks), format)
    best = [entry.policy for task in recommended.tasks for entry in task.policies]
    hints.show(
        "recommend", format, solver=solver, policy=next(iter(best), None), data=data, **measured
    )
