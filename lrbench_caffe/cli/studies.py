"""Commands for studies: study run, list, show, stop and delete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from lrbench_caffe.cli import hints
from lrbench_caffe.cli.deletion import delete, force_option, yes_option
from lrbench_caffe.cli.help import group
from lrbench_caffe.cli.numbers import Share
from lrbench_caffe.cli.options import (
    ITERATIONS,
    SEEDS,
    PoolOptions,
    data_option,
    database_option,
    format_option,
    measurement_options,
    no_model_option,
    pool_options,
    stopping_options,
    view_options,
)
from lrbench_caffe.cli.output import print_remarks, print_tables, resuming_command
from lrbench_caffe.errors import InputError, TrialError

if TYPE_CHECKING:
    from lrbench_caffe.display.view import View


@group()
def study() -> None:
    """Train many trials under one name, in parallel.

    Each trial runs in a process of its own. A study that was interrupted can be resumed.
    """


@study.command("run")
@click.argument("name")
@click.argument("solver", required=False, metavar="[SOLVER.prototxt]")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="P",
    help="Policy to train under; can be repeated [default: the prototxt's lr_policy]",
)
@click.option(
    "--seeds",
    type=SEEDS,
    metavar="N",
    help="Train each policy with the seeds 1 to N [default: 1]",
)
@click.option(
    "--max-iter",
    type=ITERATIONS,
    metavar="N",
    help="Number of iterations of each training [default: the solver's max_iter]",
)
@data_option
@measurement_options
@stopping_options
@pool_options
@click.option(
    "--prune",
    type=Share(0.2),
    metavar="X",
    help="Stop a training if its best Top-1 is more than X (a share of 1, e.g. 0.2) below the "
    "median of the others at the same iteration",
)
@click.option("--retry-failed", is_flag=True, help="Train failed trials again")
@no_model_option
@format_option
@database_option
def study_run(
    name: str,
    solver: str | None,
    policies: tuple[str, ...],
    seeds: int | None,
    max_iter: int | None,
    data: str | None,
    measured: dict[str, Any],
    stopping: dict[str, Any],
    pool: PoolOptions,
    prune: float | None,
    retry_failed: bool,
    no_model: bool,
    dsn: str | None,
    format: str,
) -> None:
    """Start the study NAME, or resume it.

    With SOLVER, trainings are added that the study does not have yet. Without SOLVER, the study
    resumes as it is. The best model of each policy is kept: `lrbench weights NAME` hands it out.
    """
    from lrbench_caffe.display import progress
    from lrbench_caffe.study import checked_job, run_study
    from lrbench_caffe.study.cores import Cores
    from lrbench_caffe.trial import Job

    if solver:
        jobs = [
            Job(
                solver,
                policy=policy,
                seed=seed,
                max_iter=max_iter,
                data=data,
                **measured,
                **stopping,
            )
            for seed in range(1, (seeds or 1) + 1)
            for policy in policies or [None]
        ]
    else:
        _check_without_solver(
            name,
            {
                "--policy": policies,
                "--seeds": seeds,
                "--max-iter": max_iter,
                "--data": data,
                **{"--" + option.replace("_", "-"): value for option, value in measured.items()},
                **{"--" + name.replace("_", "-"): [value] for name, value in stopping.items()},
            },
        )
        jobs = []
    trainers = pool.create()
    if jobs and isinstance(trainers, Cores):
        trainers.check([checked_job(job) for job in jobs])
    with progress.StudyDisplay() as display:
        run_study(
            name,
            trainers,
            display,
            jobs,
            dsn,
            prune=prune,
            retry_failed=retry_failed,
            model=not no_model,
        )
    total, waiting, interrupted, failed = _print_study(name, dsn, format)
    problems = []
    if interrupted:
        problems.append(
            "%d of %d trainings could not resume: `lrbench study run %s` tries again"
            % (interrupted, total, name)
        )
    if waiting:
        problems.append(
            "%d of %d trainings could not begin: `lrbench study run %s` tries again"
            % (waiting, total, name)
        )
    if failed:
        problems.append(
            "%d of %d trainings failed: `lrbench study run %s --retry-failed` trains them again"
            % (failed, total, name)
        )
    if problems:
        raise TrialError("; ".join(problems))
    hints.show("study run", format, name=name)


def _check_without_solver(name: str, options: dict[str, object]) -> None:
    """Check that no option is given that describes trainings of a solver."""
    for option, value in options.items():
        if value:
            raise InputError(
                "%s needs a solver to train: lrbench study run %s SOLVER.prototxt %s ..."
                % (option, name, option)
            )


@study.command("list")
@view_options
@format_option
@database_option
def study_list(view: View, dsn: str | None, format: str) -> None:
    """List the studies with their progress."""
    print_studies(view, dsn, format)


def print_studies(view: View, dsn: str | None, format: str) -> None:
    """Print the studies with their progress."""
    from lrbench_caffe import database
    from lrbench_caffe.display import tables

    with database.Store(dsn) as store:
        summaries = database.studies.summaries(store)
    print_tables([tables.studies(summaries)], format, view)
    if summaries:
        hints.show("study list", format, name=summaries[0].name)


@study.command("show")
@click.argument("name")
@view_options
@format_option
@database_option
def study_show(name: str, view: View, dsn: str | None, format: str) -> None:
    """Show the trials of the study NAME, the best first.

    For a study of tune, each trial has the stage of the search, and the reason for it.
    """
    show_study(name, view, dsn, format)


def show_study(name: str, view: View, dsn: str | None, format: str) -> None:
    """Print the trials of a study, and what is left to do in it."""
    total, waiting, _, failed = _print_study(name, dsn, format, view)
    remarks = []
    if waiting:
        remarks.append(
            "%d of %d trials have not begun: %s" % (waiting, total, _what_starts_them(name, dsn))
        )
    if failed:
        remarks.append(
            "%d of %d trials failed: `lrbench study run %s --retry-failed` trains them again"
            % (failed, total, name)
        )
    print_remarks(remarks, format)
    if total > waiting:
        hints.show("study show", format, name=name)


def _print_study(
    name: str, dsn: str | None, format: str, view: View | None = None
) -> tuple[int, int, int, int]:
    """Print the trials of a study, and why some of them failed.

    Returns:
        How many trials the study has, how many of them have not begun, how many have begun and not
        ended, and how many failed.
    """
    from lrbench_caffe import database, ranking
    from lrbench_caffe.display import tables
    from lrbench_caffe.display.view import ALL
    from lrbench_caffe.study import UNFINISHED, failures

    with database.Store(dsn) as store:
        entries = database.studies.jobs(store, name)
        reasons = database.studies.reasons(store, name)
        trials = store.trials(study=name, best_only=True)
    print_tables(tables.study(name, trials, reasons), format, view or ALL)
    print_remarks(ranking.sets_remarks(trials), format)
    print_remarks(failures.lines(trials), format)
    measured = database.undelivered_trials()
    left = [
        entry.state
        for entry in entries
        if entry.state in UNFINISHED and entry.job.id not in measured
    ]
    waiting = left.count(None)
    return len(entries), waiting, len(left) - waiting, len(failures.failed_trials(trials))


def _what_starts_them(name: str, dsn: str | None) -> str:
    """What starts the trials of a study that have not begun."""
    from lrbench_caffe import database

    with database.Store(dsn) as store:
        if database.studies.runner(store, name):
            return "they wait for their turn, the study is running"
        return "%s starts them" % resuming_command(store, name)


@study.command("stop")
@click.argument("name")
@click.option("--now", is_flag=True, help="Stop at once, without a last snapshot")
@database_option
def study_stop(name: str, now: bool, dsn: str | None) -> None:
    """Stop the study NAME, on whichever machine it runs.

    The command waits until the study has stopped, and prints the command that resumes it.
    """
    from lrbench_caffe import database
    from lrbench_caffe.display import console

    def print_waiting() -> None:
        console.print_line("waiting for the trainings of %s to end (Ctrl-C stops waiting)" % name)

    with database.Store(dsn) as store:
        database.studies.stop(store, name, requests=2 if now else 1, on_waiting=print_waiting)
        resuming = resuming_command(store, name)
    console.print_line("the study %s has stopped: %s resumes it" % (name, resuming))


@study.command("delete")
@click.argument("name")
@force_option
@yes_option
@database_option
def study_delete(name: str, force: bool, yes: bool, dsn: str | None) -> None:
    """Delete the study NAME with its trials, rows, snapshots and models.

    The command prints what it deletes, and asks. A study that is running is not deleted.
    """
    from lrbench_caffe import database

    with database.Store(dsn) as store:
        delete(store, database.deletion.plan_study(store, name, force), yes)
