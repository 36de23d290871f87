"""The command reproduce."""

from __future__ import annotations

import click

from lrbench_caffe.cli import hints
from lrbench_caffe.cli.help import command
from lrbench_caffe.cli.numbers import Number
from lrbench_caffe.cli.options import (
    ITERATIONS,
    SEEDS,
    PoolOptions,
    database_option,
    format_option,
    no_model_option,
    pool_options,
)


@command()
@click.argument("name", metavar="TABLE-OR-FIGURE")
@click.option(
    "--data",
    metavar="DIR",
    help="Folder that `lrbench data` wrote [default: data in $LRBENCH_HOME, downloaded if missing]",
)
@click.option(
    "--seeds",
    type=SEEDS,
    metavar="N",
    help="Train each policy with the seeds 1 to N [default: 5]",
)
@click.option(
    "--scale",
    type=Number(1e-6, 1),
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
@no_model_option
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
    no_model: bool,
    pool: PoolOptions,
    source: str | None,
    out: str,
    dsn: str | None,
    format: str,
) -> None:
    """Reproduce a table or figure of the paper.

    The names are table-2a to table-9, figure-1, figure-3, figure-3-lenet, figure-4 and figure-5.
    The trainings form a study of that name, which the same command resumes. The results are printed
    and written to a page, beside the published ones.
    """
    from lrbench_caffe.paper import reproduction

    study = reproduction.reproduce(
        name,
        out,
        pool.create,
        rows=source,
        data=data,
        seeds=seeds,
        scale=scale,
        test_interval=test_interval,
        pool_options=pool._asdict(),
        dsn=dsn,
        format=format,
        model=not no_model,
    )
    hints.show("reproduce", format, study=study, page=study and study + ".html")
