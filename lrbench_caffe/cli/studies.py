"""Commands for studies: study run, list, show and stop."""

from __future__ import annotations

import click

from lrbench_caffe.cli.options import (
    ITERATIONS,
    SEEDS,
    PoolOptions,
    data_option,
    database_option,
    format_option,
    pool_options,
)
from lrbench_caffe.cli.output import print_remarks
from lrbench_caffe.errors import InputError, TrialError


@click.group()
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
@pool_options
@click.option(
    "--prune",
    type=click.FloatRange(0, 1),
    metavar="X",
    help="Stop a training if its best Top-1 is more than X (a share of 1, e.g. 0.2) below the "
    "median of the others at the same iteration",
)
@click.option("--retry-failed", is_flag=True, help="Train failed trials again")
@format_option
@database_option
def study_run(
    name: str,
    solver: str | None,
    policies: tuple[str, ...],
    seeds: int | None,
    max_iter: int | None,
    data: str | None,
    pool: PoolOptions,
    prune: float | None,
    retry_failed: bool,
    dsn: str | None,
    format: str,
) -> None:
    """Start the study NAME, or resume it.

    With SOLVER, trainings are added that the study does not have yet. Without SOLVER, the study
    resumes as it is.
    """
    from lrbench_caffe.display import progress
    from lrbench_caffe.study import run_study
    from lrbench_caffe.trial import FAILED, Job

    if solver:
        jobs = [
            Job(solver, policy=policy, seed=seed, max_iter=max_iter, data=data)
            for seed in range(1, (seeds or 1) + 1)
            for policy in policies or [None]
        ]
    else:
        _check_without_solver(
            name,
            {"--policy": policies, "--seeds": seeds, "--max-iter": max_iter, "--data": data},
        )
        jobs = []
    trainers = pool.create()
    with progress.StudyDisplay() as display:
        run_study(name, trainers, display, jobs, dsn, prune, retry_failed)
    states = _print_study(name, dsn, format)
    waiting, failed = states.count(None), states.count(FAILED)
    if waiting:
        raise TrialError(
            "%d of %d trainings could not begin: `lrbench study run %s` tries again"
            % (waiting, len(states), name)
        )
    if failed:
        raise TrialError(
            "%d of %d trainings failed: `lrbench study run %s --retry-failed` trains them again"
            % (failed, len(states), name)
        )


def _check_without_solver(name: str, options: dict[str, object]) -> None:
    """Check that no option is given that describes trainings of a solver."""
    for option, value in options.items():
        if value:
            raise InputError(
                "%s needs a solver to train: lrbench study run %s SOLVER.prototxt %s ..."
                % (option, name, option)
            )


@study.command("list")
@format_option
@database_option
def study_list(dsn: str | None, format: str) -> None:
    """List the studies with their progress."""
    from lrbench_caffe import database
    from lrbench_caffe.display import console, tables

    with database.Store(dsn) as store:
        console.print_tables(tables.studies(database.studies.summaries(store)), format=format)


@study.command("show")
@click.argument("name")
@format_option
@database_option
def study_show(name: str, dsn: str | None, format: str) -> None:
    """Show the trials of the study NAME, the best first."""
    from lrbench_caffe.trial import FAILED

    states = _print_study(name, dsn, format)
    waiting, failed = states.count(None), states.count(FAILED)
    remarks = []
    if waiting:
        remarks.append(
            "%d of %d trials have not begun: `lrbench study run %s` starts them"
            % (waiting, len(states), name)
        )
    if failed:
        remarks.append(
            "%d of %d trials failed: `lrbench study run %s --retry-failed` trains them again"
            % (failed, len(states), name)
        )
    print_remarks(remarks, format)


def _print_study(name: str, dsn: str | None, format: str) -> list[str | None]:
    """Print the trials of a study and return their states; None: it has not begun."""
    from lrbench_caffe import database
    from lrbench_caffe.display import console, tables

    with database.Store(dsn) as store:
        states = [job.state for job in database.studies.jobs(store, name)]
        trials = store.trials(study=name, best_only=True)
    console.print_tables(*tables.study(name, trials), format=format)
    return states


@study.command("stop")
@click.argument("name")
@click.option("--now", is_flag=True, help="Stop at once, without a last snapshot")
@database_option
def study_stop(name: str, now: bool, dsn: str | None) -> None:
    """Stop the study NAME, on whichever machine it runs.

    The command waits until the study has stopped. `lrbench study run NAME` resumes it.
    """
    from lrbench_caffe import database
    from lrbench_caffe.display import console

    def print_waiting() -> None:
        console.print_line("waiting for the trainings of %s to end (Ctrl-C stops waiting)" % name)

    with database.Store(dsn) as store:
        database.studies.stop(store, name, requests=2 if now else 1, on_waiting=print_waiting)
    console.print_line("the study %s has stopped: `lrbench study run %s` resumes it" % (name, name))
