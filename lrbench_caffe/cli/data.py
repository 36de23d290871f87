"""The command data."""

from __future__ import annotations

import click

from lrbench_caffe.cli.help import command


@command()
@click.argument("name", type=click.Choice(["digits", "mnist", "cifar10"]))
@click.option("--to", required=True, metavar="DIR", help="Folder for the LMDBs and the mean file")
@click.option(
    "--from",
    "source",
    metavar="DIR",
    help="Folder with the dataset's official files [default: download them]",
)
@click.option(
    "--pad",
    type=click.IntRange(0, 16),
    default=0,
    metavar="N",
    help="Pad each image of cifar10 with N pixels of zeros on each side (4 for ResNet)",
)
def data(name: str, to: str, source: str | None, pad: int) -> None:
    """Write a dataset as LMDBs and a mean file for Caffe."""
    from lrbench_caffe import datasets
    from lrbench_caffe.display import console, progress

    with progress.ProgressDisplay() as display:
        files = datasets.convert(name, to, source=source, pad=pad, progress=display)
    action = "wrote" if files.written else "already there:"
    console.print_line("%s %s, %s and %s" % (action, files.train, files.test, files.mean))
