"""Commands that train: train and demo."""

from __future__ import annotations

from typing import Any

import click

from lrbench_caffe.cli import hints
from lrbench_caffe.cli.help import command
from lrbench_caffe.cli.numbers import Share, WholeNumber
from lrbench_caffe.cli.options import (
    ITERATIONS,
    SEED,
    data_option,
    database_option,
    format_option,
    measurement_options,
    no_model_option,
    stopping_options,
)
from lrbench_caffe.errors import TrialError
from lrbench_caffe.trial import FINISHED


@command()
@click.argument("solver", metavar="SOLVER.prototxt")
@click.option(
    "--policy",
    metavar="P",
    help='Learning rate policy, e.g. "SIN2(k0=0.01, k1=0.06, l=2000)" '
    "[default: the prototxt's lr_policy]",
)
@click.option(
    "--seed",
    type=SEED,
    metavar="N",
    help="Caffe's random_seed [default: the prototxt's, else a new one]",
)
@data_option
@measurement_options
@click.option(
    "--gpu",
    type=WholeNumber(0, 1023),
    metavar="N",
    help="Train on this GPU [default: the prototxt's solver_mode and device_id]",
)
@click.option(
    "--max-iter",
    type=ITERATIONS,
    metavar="N",
    help="Number of iterations to train [default: the prototxt's]",
)
@click.option("--resume", metavar="FILE.solverstate", help="Resume from this snapshot")
@click.option("--weights", metavar="FILE.caffemodel", help="Start from these weights")
@click.option(
    "--until-top1",
    type=Share(0.99),
    metavar="X",
    help="Stop at the first evaluation that reaches this Top-1, e.g. 0.99",
)
@stopping_options
@click.option(
    "--snapshot-prefix",
    metavar="PREFIX",
    help="Where to write snapshots; this option also takes a snapshot after the training",
)
@click.option(
    "--stage",
    "stages",
    multiple=True,
    metavar="NAME",
    help="Stage of the train net, as in caffe train; can be repeated",
)
@click.option(
    "--level",
    type=WholeNumber(-(2**31), 2**31 - 1),
    default=0,
    metavar="N",
    help="Level of the train net, as in caffe train",
)
@click.option(
    "--verbose",
    is_flag=True,
    help="Print the rate and the loss of single iterations too, as Caffe logs them: every display "
    "iterations of the solver, or else five times between two evaluations",
)
@click.option(
    "--keep-best",
    metavar="PREFIX",
    help="Also write the best evaluation's model to PREFIX.caffemodel, and its metrics to "
    "PREFIX.json",
)
@no_model_option
@click.option("--log", metavar="FILE", help="Write Caffe's own log to this file")
@click.option("--json", "as_json", is_flag=True, help="Print events as lines of JSON")
@format_option
@database_option
def train(
    solver: str,
    as_json: bool,
    format: str,
    measured: dict[str, Any],
    stopping: dict[str, Any],
    **options: Any,
) -> None:
    """Train a Caffe solver prototxt and record its metrics.

    Every evaluation is stored in the database when it is measured. The model of the best one is
    kept, and its path is printed at the end.
    """
    from lrbench_caffe.database import undelivered
    from lrbench_caffe.display import console, progress
    from lrbench_caffe.study import process

    options.update(measured, **stopping)
    options["model"] = not options.pop("no_model")
    if as_json:
        trial = process.train(solver, on_event=console.print_event_and_model, **options)
    else:
        with progress.TrainingDisplay(format) as display:
            trial = process.train(solver, on_event=display.on_event, **options)
    if trial.error and trial.state != FINISHED:
        where = "" if undelivered() else "; the evaluations before that are in the database"
        raise TrialError(trial.error + where)
    if trial.rows and not as_json:
        hints.show("train", format, **hints.of_trial(trial))


@command()
@click.option(
    "--out",
    default="lrbench-demo.png",
    metavar="FILE",
    show_default=True,
    help="Picture of the curves, .png, .svg or .pdf; the report has the same name, with .html",
)
@click.option(
    "--jobs",
    type=WholeNumber(1),
    metavar="N",
    help="Number of parallel trainings [default: one per core]",
)
@format_option
@database_option
def demo(out: str, jobs: int | None, dsn: str | None, format: str) -> None:
    """Compare the 13 learning rate functions on small images.

    The images are scikit-learn's handwritten digits; nothing is downloaded. It takes about
    20 seconds on two idle cores. A picture of the curves and a report as an HTML page are left in
    the current folder.
    """
    from lrbench_caffe import demo as demonstration

    best = demonstration.run(out, jobs, dsn, format)
    hints.show("demo", format, policy=best.policy)
