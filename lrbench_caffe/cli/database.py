"""Commands for the policy database: server, psql, journals, export, import, origins, delete."""

from __future__ import annotations

import click

from lrbench_caffe.cli import hints
from lrbench_caffe.cli.deletion import delete, force_option, yes_option
from lrbench_caffe.cli.help import group
from lrbench_caffe.cli.options import (
    Filters,
    database_option,
    format_option,
    selection_options,
    trial_filters,
)
from lrbench_caffe.cli.output import print_written
from lrbench_caffe.errors import (
    CannotConnect,
    DatabaseUnavailable,
    InputError,
    JournalsRefused,
    Undelivered,
    counted,
)


@group()
def db() -> None:
    """Manage the policy database, and share its trials.

    The database is the one that --dsn or $LRBENCH_DSN names, else a private PostgreSQL server,
    which commands start when they need it.
    """


@db.command()
def status() -> None:
    """Show whether the private server runs, and where."""
    from lrbench_caffe.database import delivery, server
    from lrbench_caffe.display import console

    private = server.status()
    click.echo("running" if private.running else "not running")
    click.echo("folder  %s" % private.folder)
    click.echo("version %s" % (private.version or "- (no data yet)"))
    click.echo("log     %s" % private.log)
    click.echo("DSN     %s" % private.dsn)
    waiting = len(list(delivery.waiting_journals()))
    if waiting:
        console.print_line(
            "waiting %s: `lrbench db deliver` delivers them, "
            "`lrbench db journals` lists them" % counted(waiting, "journal")
        )
    hints.show("db status")


@db.command()
def start() -> None:
    """Start the private server and print its DSN."""
    from lrbench_caffe.database import server

    click.echo(server.start())
    hints.show("db start")


@db.command()
def stop() -> None:
    """Stop the private server."""
    from lrbench_caffe.database import server

    click.echo("stopped" if server.stop() else "was not running")


@db.command()
@database_option
def shell(dsn: str | None) -> None:
    """Open psql on the database.

    `SELECT * FROM result` shows a line for each trial.
    """
    import os

    from lrbench_caffe import database

    command = database.shell_command(dsn)
    os.execve(command[0], command, dict(os.environ, **database.shell_environment(dsn)))


@db.command()
@click.argument("journals", nargs=-1, metavar="[JOURNAL]...")
@database_option
def deliver(journals: tuple[str, ...], dsn: str | None) -> None:
    """Deliver measurements that wait in journals to the database.

    Without arguments, these are all journals that belong to this database, including those that it
    has refused before. A JOURNAL that is named is delivered to this database in any case.
    """
    from lrbench_caffe import database
    from lrbench_caffe.display import console

    def print_note(note: str) -> None:
        console.print_line("note: " + note, aside=True)

    try:
        with database.Store(dsn, delivers=False) as store:
            delivery = database.delivery.deliver_waiting(store, print_note, journals, again=True)
    except (CannotConnect, DatabaseUnavailable) as error:
        waiting = len(list(database.delivery.waiting_journals(journals)))
        if not waiting:
            raise
        raise Undelivered("%s; %s left" % (error, counted(waiting, "journal"))) from None
    for journal in delivery.others:
        reason = "recorded for %s" % journal.name if journal.name else "not a journal"
        console.print_line("not delivered: %s (%s)" % (journal.path, reason))
    console.print_line(
        "%s delivered, %s refused, %d left for other databases"
        % (
            counted(delivery.events, "event"),
            counted(len(delivery.refused), "journal"),
            len(delivery.others),
        )
    )
    if delivery.problem:
        raise Undelivered(delivery.problem)
    if delivery.refused:
        raise JournalsRefused(
            "the database refuses journals: `lrbench db journals` lists them with the reasons"
        )
    hints.show("db deliver")


@db.command("journals")
@click.argument("journals", nargs=-1, metavar="[JOURNAL]...")
@format_option
def db_journals(journals: tuple[str, ...], format: str) -> None:
    """List the measurements that wait for a database or were refused.

    With a JOURNAL, its rows are listed. `lrbench db deliver` delivers journals.
    """
    from lrbench_caffe.database.journals import summaries
    from lrbench_caffe.display import console, tables

    content = summaries(journals)
    if journals:
        console.print_tables(*map(tables.journal_rows, content), format=format)
    else:
        console.print_tables(tables.journals(content), format=format)
    if content:
        hints.show("db journals", format)


@db.command("export")
@trial_filters
@click.argument("file", metavar="FILE")
@click.option(
    "--as",
    "name",
    metavar="NAME",
    help="Origin that other databases show for these trials [default: this database's name]",
)
@database_option
def db_export(filters: Filters, file: str, name: str | None, dsn: str | None) -> None:
    """Write trials to a JSON Lines file, to share them."""
    from lrbench_caffe.database import exchange
    from lrbench_caffe.display import progress

    with progress.ProgressDisplay() as display:
        trials = exchange.export_trials(file, dsn, filters, name, progress=display)
    print_written(file, counted(trials, "trial"))
    hints.show("db export", file=file)


@db.command()
@format_option
@database_option
def origins(dsn: str | None, format: str) -> None:
    """List the databases in which the trials were trained.

    The options --origin and --local of other commands select trials by them.
    """
    from lrbench_caffe import database
    from lrbench_caffe.database import origins
    from lrbench_caffe.display import console, tables

    with database.Store(dsn) as store:
        summaries = origins.summaries(store)
    console.print_tables(tables.origins(summaries), format=format)
    others = (origin.name for origin in summaries if not origin.here)
    hints.show("db origins", format, origin=next(others, None))


@db.command("import")
@click.argument("file", metavar="FILE")
@click.option(
    "--restore",
    is_flag=True,
    help="Add trials that were trained here and deleted since: only for a backup of your own, "
    "because nothing can verify the origin that the file names",
)
@database_option
def db_import(file: str, restore: bool, dsn: str | None) -> None:
    """Read the trials of an exported file into the database.

    If anything in the file is invalid, none of its trials are imported. Nothing that was trained
    here is changed.
    """
    from lrbench_caffe.database import exchange
    from lrbench_caffe.display import console, progress

    notes: list[str] = []
    with progress.ProgressDisplay() as display:
        imported = exchange.import_trials(
            file, dsn, progress=display, restore=restore, on_note=notes.append
        )
    present = imported.trials - imported.new - imported.updated
    console.print_line(
        "%s: %d new, %d updated, %d already there"
        % (counted(imported.trials, "trial"), imported.new, imported.updated, present)
    )
    for note in notes:
        console.print_line("note: " + note)
    hints.show("db import")


@db.command("delete")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@selection_options
@click.option("--all", "everything", is_flag=True, help="Delete all trials")
@force_option
@yes_option
@database_option
def db_delete(
    ids: tuple[str, ...],
    filters: Filters,
    host: str | None,
    since: float | None,
    everything: bool,
    force: bool,
    yes: bool,
    dsn: str | None,
) -> None:
    """Delete trials with their rows, snapshots and models.

    The command prints what it deletes, and asks. ID is the id of a trial, or its first digits;
    trials can also be selected by filters. Trials that are running stay. A trial leaves its study,
    too: the command that made the study trains it again. Files on other machines stay, and a
    journal there does not bring a deleted trial back.
    """
    from lrbench_caffe import database
    from lrbench_caffe.database.listing import Selection

    with database.Store(dsn) as store:
        found = tuple(database.listing.find_trial(store, prefix) for prefix in ids)
        selection = Selection(filters, host, since, found or None)
        if selection.is_empty != everything:
            raise InputError(
                "--all deletes all trials: leave out the ids and filters"
                if everything
                else "db delete needs the ids of trials or a filter such as --study NAME; --all "
                "deletes all trials"
            )
        delete(store, database.deletion.plan_trials(store, selection, force), yes)
