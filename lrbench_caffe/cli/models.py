"""The command weights, which hands out the models that trainings have kept."""

from __future__ import annotations

import os

import click

from lrbench_caffe.cli import hints
from lrbench_caffe.cli.help import command
from lrbench_caffe.cli.options import database_option
from lrbench_caffe.cli.output import print_written


@command()
@click.argument("name", metavar="TRIAL-OR-STUDY")
@click.option("--policy", metavar="P", help="Policy of a study [default: the best one]")
@click.option("--out", metavar="FILE.caffemodel", help="Write the weights to this file")
@click.option(
    "--deploy",
    metavar="FILE.prototxt",
    help="Write the net that classifies with the weights to this file",
)
@database_option
def weights(
    name: str, policy: str | None, out: str | None, deploy: str | None, dsn: str | None
) -> None:
    """Hand out the best model of a trial or a study.

    A trial is named by its id or the first digits of it. Of a study, it is the model of the best
    trial of the best policy. Without --out and --deploy, the command prints where the model is.
    """
    from lrbench_caffe import files, models
    from lrbench_caffe.display import console
    from lrbench_caffe.errors import InputError, megabytes
    from lrbench_caffe.study.weights import weights as find_weights

    both_are_files = out and deploy and not files.is_standard_output(out)
    if both_are_files and os.path.realpath(str(out)) == os.path.realpath(str(deploy)):
        raise InputError("--out and --deploy both name %s: give each its own file" % out)
    model = find_weights(name, policy, dsn)
    aside = any(path and files.is_standard_output(path) for path in (out, deploy))
    console.print_line(
        "trial %s, seed %d, under %s" % (model.trial, model.seed, model.policy), aside=aside
    )
    console.print_line("model: " + console.model_text(model, kept=True), aside=aside)
    if out:
        size = models.copy_weights(model, out)
        print_written(out, megabytes(size))
    if deploy:
        files.write(deploy, model.deploy_net.encode(), "deploy net")
        print_written(deploy, "; ".join(model.deploy_notes))
    if not out and not deploy:
        net = "deploy.prototxt" if model.deploy else None
        hints.show("weights", model=name, policy=policy, deploy=net)
