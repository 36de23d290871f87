"""Commands for the policy database.

They are db status, start, stop, shell, deliver, journals, export and import.
"""

from __future__ import annotations

import click

from lrbench_caffe.cli.options import Filters, database_option, format_option, trial_filters
from lrbench_caffe.cli.output import print_written
from lrbench_caffe.errors import Undelivered, counted


@click.group()
def db() -> None:
    """Manage the policy database, and share its trials.

    The database is the one that --dsn or $LRBENCH_DSN names, else a private PostgreSQL server,
    which commands start when they need it.
    """


@db.command()
def status() -> None:
    """Show whether the private server runs, and where."""
    from lrbench_caffe.database import delivery, server

    private = server.status()
    click.echo("running" if private.running else "not running")
    click.echo("folder  %s" % private.folder)
    click.echo("version %s" % (private.version or "- (no data yet)"))
    click.echo("log     %s" % private.log)
    click.echo("DSN     %s" % private.dsn)
    waiting = len(list(delivery.waiting_journals()))
    if waiting:
        click.echo(
            "waiting %s: `lrbench db deliver` delivers them, "
            "`lrbench db journals` lists them" % counted(waiting, "journal")
        )


@db.command()
def start() -> None:
    """Start the private server and print its DSN."""
    from lrbench_caffe.database import server

    click.echo(server.start())


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
    os.execv(command[0], command)


@db.command()
@click.argument("journals", nargs=-1, metavar="[JOURNAL]...")
@database_option
def deliver(journals: tuple[str, ...], dsn: str | None) -> None:
    """Deliver measurements that wait in journals to the database.

    Without arguments, these are the journals that belong to this database, those that it has
    refused before included. A JOURNAL that is named is delivered to this database in any case.
    """
    from lrbench_caffe import database
    from lrbench_caffe.display import console

    def print_note(note: str) -> None:
        console.print_line("note: " + note, aside=True)

    with database.Store(dsn, delivers=False) as store:
        store.require_writing()
        delivery = database.delivery.deliver_waiting(store, print_note, journals, again=True)
    for journal in delivery.others:
        reason = "recorded for %s" % journal.name if journal.name else "not a journal"
        console.print_line("not delivered: %s (%s)" % (journal.path, reason))
    console.print_line(
        "%d events delivered, %d journals refused, %d left for other databases"
        % (delivery.events, len(delivery.refused), len(delivery.others))
    )
    if delivery.problem or delivery.refused:
        raise Undelivered(
            delivery.problem or "the database refuses journals: `lrbench db journals` lists them"
        )


@db.command("journals")
@click.argument("journals", nargs=-1, metavar="[JOURNAL]...")
@format_option
def db_journals(journals: tuple[str, ...], format: str) -> None:
    """List the journals with measurements that wait for a database or were refused.

    With a JOURNAL, its rows are listed. `lrbench db deliver` delivers journals.
    """
    from lrbench_caffe.database.journals import summaries
    from lrbench_caffe.display import console, tables

    content = summaries(journals)
    if journals:
        console.print_tables(*map(tables.journal_rows, content), format=format)
    else:
        console.print_tables(tables.journals(content), format=format)


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


@db.command("import")
@click.argument("file", metavar="FILE")
@database_option
def db_import(file: str, dsn: str | None) -> None:
    """Read the trials of an exported file into the database.

    If anything in the file is invalid, none of its trials are imported.
    """
    from lrbench_caffe.database import exchange
    from lrbench_caffe.display import console, progress

    with progress.ProgressDisplay() as display:
        imported = exchange.import_trials(file, dsn, progress=display)
    present = imported.trials - imported.new - imported.updated
    console.print_line(
        "%d trials: %d new, %d updated, %d already there"
        % (imported.trials, imported.new, imported.updated, present)
    )
