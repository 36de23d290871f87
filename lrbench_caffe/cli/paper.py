"""The command reproduce."""

from __future__ import annotations

import click

from lrbench_caffe.cli.options import (
    ITERATIONS,
    SEEDS,
    PoolOptions,
    database_option,
    format_option,
    pool_options,
)
from lrbench_caffe.cli.output import print_remarks
from lrbench_caffe.errors import InputError, TrialError


@click.command()
@click.argument("name", metavar="TABLE-OR-FIGURE")
@click.option(
    "--data",
    metavar="DIR",
    help="Folder that `lrbench data` wrote [default: one in $LRBENCH_HOME, downloaded if missing]",
)
@click.option(
    "--seeds",
    type=SEEDS,
    metavar="N",
    help="Train each policy with the seeds 1 to N [default: 5]",
)
@click.option(
    "--scale",
    type=click.FloatRange(1e-6, 1),
    metavar="S",
    help="Multiply the length of the trainings, and every parameter that counts iterations, by S, "
    "e.g. 0.05 [default: 1, as in the paper]",
)
@click.option(
    "--test-interval",
    type=ITERATIONS,
    metavar="N",
    help="Evaluate every N iterations [default: the paper's interval times S]",
)
@pool_options
@click.option(
    "--from",
    "source",
    metavar="FILE",
    help="Do not train; use the trials of this export, e.g. results/table-7.jsonl",
)
@click.option(
    "--out",
    default=".",
    metavar="DIR",
    help="Folder for the page, the picture and the rows [default: the current folder]",
)
@format_option
@database_option
def reproduce(
    name: str,
    data: str | None,
    seeds: int | None,
    scale: float | None,
    test_interval: int | None,
    pool: PoolOptions,
    source: str | None,
    out: str,
    dsn: str | None,
    format: str,
) -> None:
    """Reproduce a table or figure of the paper.

    The names are table-2a to table-9, and figure-1, -3, -4 and -5. The trainings are a study of
    that name; the same command resumes it. The results are printed and written to a page, beside
    the published ones.
    """
    from lrbench_caffe.display import console, progress
    from lrbench_caffe.paper import reproduction, targets
    from lrbench_caffe.trial import FAILED

    name = targets.canonical_name(name)
    untrained = "--from" if source else name if name == targets.FIGURE_1 else None
    options = dict(pool._asdict(), data=data, seeds=seeds, scale=scale, test_interval=test_interval)
    given = [option.replace("_", "-") for option, value in options.items() if value is not None]
    if untrained and given:
        raise InputError(
            "%s trains nothing, and --%s says how to train: leave one of them out"
            % (untrained, given[0])
        )
    if name == targets.FIGURE_1:
        if source:
            raise InputError("figure-1 is made from no rows: leave --from out")
        with progress.ProgressDisplay() as bar:
            page = reproduction.write_figure_1(out, bar)
        console.print_line("page: %s" % page)
        return
    target = targets.TARGETS[name]
    if source:
        rows, waiting = source, 0
    else:
        scale, seeds = targets.exact_scale(target, scale or 1.0), seeds or 5
        trainers = pool.create()
        with progress.ProgressDisplay() as bar:
            data = reproduction.prepare(target, scale, out, data, bar)
        with progress.StudyDisplay() as shown:
            waiting = reproduction.train(
                target, scale, seeds, trainers, shown, data, dsn, test_interval
            )
        with progress.ProgressDisplay() as bar:
            rows = reproduction.export(target, scale, out, dsn, bar)
    table, page, trials = reproduction.write(target, rows, out)
    console.print_tables(table, format=format)
    print_remarks(["page: %s" % page], format)
    if waiting:
        raise TrialError(
            "%d of the trainings could not begin: the same command tries again" % waiting
        )
    failed = sum(trial.state == FAILED for trial in trials)
    if failed and not source:
        raise TrialError(
            "%d of the trainings have failed: `lrbench study run %s --retry-failed` trains them again"
            % (failed, targets.study_name(target, scale))
        )
