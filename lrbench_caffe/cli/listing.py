"""Commands that list and show what the database has: ls and show.

Two of them have a second name: `lrbench trials` is `lrbench ls trials`, and `lrbench trial ID` is
`lrbench show ID`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from lrbench_caffe.cli import hints
from lrbench_caffe.cli.help import command
from lrbench_caffe.cli.options import (
    Filters,
    database_option,
    format_option,
    selection_options,
    view_options,
)
from lrbench_caffe.cli.output import print_remarks, print_tables, resuming_command
from lrbench_caffe.errors import InputError, counted

if TYPE_CHECKING:
    from lrbench_caffe.database import Store
    from lrbench_caffe.database.listing import Selection
    from lrbench_caffe.display.view import View

RECENT = 20  # trials that a terminal shows unless --limit is given
_MAX_STUDIES = 5  # with waiting trainings, each in a sentence of its own
_LISTS = ("tasks", "studies", "trials")


@command("ls")
@click.argument("what", required=False, type=click.Choice(_LISTS), metavar="[tasks|studies|trials]")
@selection_options
@view_options
@format_option
@database_option
def ls(what: str | None, **options: Any) -> None:
    """List what the database has, what runs and what waits.

    Without an argument, the command lists the tasks, the studies and the trials that started last.
    `lrbench trials` is another name of `lrbench ls trials`.
    """
    _list(what, **options)


@command("trials")
@selection_options
@view_options
@format_option
@database_option
def trials(**options: Any) -> None:
    """List trials: the same command as `lrbench ls trials`."""
    _list("trials", **options)


def _list(
    what: str | None,
    filters: Filters,
    host: str | None,
    since: float | None,
    view: View,
    dsn: str | None,
    format: str,
) -> None:
    from lrbench_caffe import database
    from lrbench_caffe.database.listing import Selection

    if what is None and (format in ("csv", "json") or view.columns or view.sort):
        raise InputError(
            "--format csv and json, --columns and --sort are for a single list: name one of %s"
            % ", ".join(_LISTS)
        )
    selection = Selection(filters, host, since)
    with database.Store(dsn) as store:
        is_empty = selection.is_empty and not database.listing.count(store, selection)
        if is_empty:
            print_remarks([database.selection.no_trials(store)], format)
        else:
            database.listing.check(store, selection)
        if not is_empty or format != "table":
            for name in [what] if what else _LISTS:
                _PRINT[name](store, selection, view, format, what is None)
        print_remarks(_waiting(store), format)
    if not is_empty:
        hints.show("ls", format, **filters)


def _print_tasks(store: Store, selection: Selection, view: View, format: str, titled: bool) -> None:
    from lrbench_caffe import database
    from lrbench_caffe.display import listing

    table = listing.tasks(database.listing.tasks(store, selection))
    print_tables([table._replace(title="tasks" if titled else None)], format, view)


def _print_studies(
    store: Store, selection: Selection, view: View, format: str, titled: bool
) -> None:
    from lrbench_caffe import database
    from lrbench_caffe.display import tables

    summaries = database.studies.summaries(store)
    if not selection.is_empty:
        names = set(database.listing.study_names(store, selection))
        summaries = [study for study in summaries if study.name in names]
    table = tables.studies(summaries)
    print_tables([table._replace(title="studies" if titled else None)], format, view)


def _print_trials(
    store: Store, selection: Selection, view: View, format: str, titled: bool
) -> None:
    from lrbench_caffe import database
    from lrbench_caffe.display import console, listing

    brief = format == "table" and (titled or console.is_terminal())
    limit = view.limit or (RECENT if brief else None)
    lines = database.listing.trials(store, selection, None if view.sort else limit)
    table = listing.trials(lines)._replace(title="trials" if titled else None)
    print_tables([table], format, view._replace(limit=limit))
    total = len(lines) if view.sort else database.listing.count(store, selection)
    if total > len(lines):
        print_remarks(
            ["%s; --limit sets how many are printed" % counted(total - len(lines), "more trial")],
            format,
        )


_PRINT = {"tasks": _print_tasks, "studies": _print_studies, "trials": _print_trials}


def _waiting(store: Store) -> list[str]:
    """Sentences about what waits: trainings of studies, and rows in journals."""
    from lrbench_caffe import database

    waiting = database.listing.waiting(store)
    sentences = []
    for name, number, running in waiting[:_MAX_STUDIES]:
        trainings = "%s of the study %s" % (counted(number, "training"), name)
        if running:
            sentences.append("waiting for their turn: %s" % trainings)
        else:
            command = resuming_command(store, name)
            sentences.append("waiting: %s, which %s starts" % (trainings, command))
    if len(waiting) > _MAX_STUDIES:
        sentences.append("and trainings of %d other studies" % (len(waiting) - _MAX_STUDIES))
    journals = len(list(database.delivery.waiting_journals()))
    if journals:
        rows = counted(journals, "journal")
        sentences.append("waiting: %s with rows, which `lrbench db deliver` delivers" % rows)
    return sentences


@command()
@click.argument("name", metavar="ID")
@view_options
@format_option
@database_option
def show(name: str, view: View, dsn: str | None, format: str) -> None:
    """Show a trial or a study.

    ID is the id of a trial, or its first digits as `lrbench ls` prints them, or the name of a
    study. A trial is shown with its settings, its rows, and where its files are; --columns, --sort
    and --limit choose from the rows. CSV has the rows only. A study is shown as by
    `lrbench study show`. `lrbench trial` is another name of this command.
    """
    from lrbench_caffe import database
    from lrbench_caffe.cli.studies import show_study

    with database.Store(dsn) as store:
        trial_id = database.listing.find(store, name)
        if trial_id is not None:
            _show_trial(store, trial_id, view, format)
            return
    show_study(name, view, dsn, format)


def _show_trial(store: Store, trial_id: str, view: View, format: str) -> None:
    from lrbench_caffe import database, kept
    from lrbench_caffe.display import console, listing, tables

    membership = database.listing.membership(store, trial_id)
    study = membership.study if membership else None
    files = {"snapshots": kept.snapshots_of(trial_id, study), "model": kept.model_of(trial_id)}
    if membership and not database.listing.has_begun(store, trial_id):
        facts = listing.waiting_facts(trial_id, membership)
        if format == "table":
            console.print_facts(facts)
        else:
            console.print_tables(tables.facts(facts), format=format)
        return
    trial = store.trial(trial_id)
    if format == "json":
        console.print_json(listing.as_json(trial, membership, files))
        return
    facts = listing.facts(trial, membership, files)
    if format == "table":
        console.print_facts(facts)
    elif format != "csv":
        console.print_tables(tables.facts(facts), format=format)
    if trial.rows or format == "csv":
        print_tables([listing.rows(trial)], format, view)
        hints.show("show", format, **hints.of_trial(trial))
