"""How commands delete: they print what goes, ask, and delete."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from lrbench_caffe.errors import InputError, TrialError, counted

if TYPE_CHECKING:
    from lrbench_caffe.database import Store
    from lrbench_caffe.database.deletion import Deletion

_LISTED = 5  # trials that are named

force_option = click.option(
    "--force",
    is_flag=True,
    help="Also delete trials that the database lists as running, such as those of a lost machine. "
    "If a program still trains one of them, its rows stay in a journal",
)
yes_option = click.option("--yes", is_flag=True, help="Delete without asking")


def delete(store: Store, deletion: Deletion, yes: bool) -> None:
    """Print what a deletion removes, ask unless the user has agreed, and delete it.

    Raises:
        InputError: There is no terminal to ask on.
        TrialError: Files could not be removed.
    """
    from lrbench_caffe import database
    from lrbench_caffe.display import console

    _print_plan(deletion)
    if not yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise InputError("nothing was deleted, because nobody can be asked here: add --yes")
        if not click.confirm("Delete?"):
            console.print_line("nothing was deleted")
            return
    problems = database.deletion.delete(store, deletion)
    console.print_line("deleted: %s" % _contents(deletion))
    if problems:
        raise TrialError("; ".join(problems))


def _print_plan(deletion: Deletion) -> None:
    from lrbench_caffe import database
    from lrbench_caffe.display import console, listing

    console.print_line("to delete: %s" % _contents(deletion))
    if deletion.trials:
        table = listing.trials(deletion.trials[:_LISTED])
        console.print_tables(table, hint="use a wider window, or `lrbench ls trials`")
    if len(deletion.trials) > _LISTED:
        more = counted(len(deletion.trials) - _LISTED, "more trial")
        console.print_line("and %s" % more)
    for folder in deletion.folders[:_LISTED]:
        console.print_line("with the files in %s" % folder)
    if len(deletion.folders) > _LISTED:
        console.print_line("and %s" % counted(len(deletion.folders) - _LISTED, "more folder"))
    if deletion.running:
        running = deletion.running
        stay = database.deletion.running_sentence(running, "they stay", deletion.forced)
        console.print_line(stay)


def _contents(deletion: Deletion) -> str:
    study = "the study %s, " % deletion.study if deletion.study else ""
    trials = "%s with %s" % (counted(len(deletion.trials), "trial"), counted(deletion.rows, "row"))
    waiting = len(deletion.waiting)
    return study + trials + (", %s that wait" % counted(waiting, "training") if waiting else "")
