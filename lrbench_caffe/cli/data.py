"""The commands data digits, data mnist, data cifar10 and data split."""

from __future__ import annotations

import os

import click

from lrbench_caffe.cli import hints
from lrbench_caffe.cli.help import Group
from lrbench_caffe.cli.numbers import WholeNumber

_SOLVERS = {"digits": "digits", "mnist": "lenet", "cifar10": "cnn3"}


class _OptionsFirst(Group):
    """A group whose options may stand before the command: `lrbench data --to DIR mnist`."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in context.help_option_names:
            names = self.commands["mnist"].make_parser(context).parse_args(list(args))[1]
            if names:
                args.remove(names[0])
                args.insert(0, names[0])
        return super().parse_args(context, args)


@click.group(cls=_OptionsFirst)
def data() -> None:
    """Write datasets as LMDBs for Caffe, or divide an LMDB."""


def _add_dataset(name: str, title: str) -> None:
    """Add the command that writes a data set."""

    @data.command(name, help="Write %s as LMDBs and a mean file." % title)
    @click.option(
        "--to", required=True, metavar="DIR", help="Folder for the LMDBs and the mean file"
    )
    @click.option(
        "--from",
        "source",
        metavar="DIR",
        help="Folder with the dataset's official files [default: download them]",
        hidden=name == "digits",  # refused there, with the reason
    )
    @click.option(
        "--pad",
        type=WholeNumber(0, 16),
        default=0,
        metavar="N",
        help="Pad each image with N pixels of zeros on each side (4 for ResNet)",
    )
    @click.option(
        "--validation",
        type=WholeNumber(0),
        default=0,
        metavar="N",
        help="Take N of the training samples, the same share of each class, for an LMDB of their "
        "own, %s_validation_lmdb" % name,
    )
    def write(to: str, source: str | None, pad: int, validation: int) -> None:
        from lrbench_caffe import datasets
        from lrbench_caffe.display import console, progress

        with progress.ProgressDisplay() as display:
            files = datasets.convert(name, to, source, pad, display, validation)
        action = "wrote" if files.written else "already there:"
        console.print_line("%s %s" % (action, _listed(files.paths)))
        hints.show("data " + name, to=to, solver=_solver(name, pad))


for _name, _title in (
    ("digits", "scikit-learn's handwritten digits"),
    ("mnist", "MNIST"),
    ("cifar10", "CIFAR-10"),
):
    _add_dataset(_name, _title)


@data.command()
@click.argument("lmdb")
@click.option(
    "--validation",
    type=WholeNumber(0),
    required=True,
    metavar="N",
    help="Number of validation samples, the same share of each class",
)
@click.option(
    "--out",
    metavar="PREFIX",
    help="Beginning of the new LMDBs' paths [default: the path of the LMDB]",
)
def split(lmdb: str, validation: int, out: str | None) -> None:
    """Divide an LMDB into PREFIX-train and PREFIX-validation.

    The samples are copied as they are. The LMDB itself is not changed.
    """
    from lrbench_caffe import datasets
    from lrbench_caffe.display import console, progress

    with progress.ProgressDisplay() as display:
        files = datasets.split(lmdb, validation, out, display)
    console.print_line("wrote %s" % _listed(files))
    hints.show("data split", validation=files[-1])


def _solver(name: str, pad: int) -> str:
    """The solver that comes with LRBench for a data set, as a path from here if it is short."""
    from lrbench_caffe import paths

    solver = "solvers/%s_solver.prototxt" % ("resnet32" if pad else _SOLVERS[name])
    path = paths.shipped(solver)
    return solver if os.path.exists(solver) and os.path.samefile(solver, path) else path


def _listed(paths: tuple[str, ...] | list[str]) -> str:
    return "%s and %s" % (", ".join(paths[:-1]), paths[-1])
