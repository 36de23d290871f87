"""Connections to PostgreSQL: opened with the newest schema, named without their passwords."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2.extensions import libpq_version, parse_dsn

from lrbench_caffe.database import schema, server, watch
from lrbench_caffe.database.opening import open_connection
from lrbench_caffe.errors import CannotConnect, InputError

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

_DEFAULTS = {
    "application_name": "lrbench",
    "client_encoding": "UTF8",
    # A dead connection is noticed after about a minute, not after the kernel's two hours.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}


def connect(
    dsn: str | None, read_only: bool = False, lock_timeout: float | None = None
) -> Connection:
    """Open a connection to a database and bring its schema to the newest version.

    Args:
        dsn: The connection string; None for the private server, which is started if necessary.
        read_only: Ask the database to refuse all changes, after the schema has been upgraded.
        lock_timeout: The seconds after which a statement that waits for a lock is given up.

    Raises:
        InputError: The database cannot be reached or used.
        KeyboardInterrupt: A signal came while the database did not answer.
    """
    options = parsed(dsn or server.start())
    defaults = dict(_DEFAULTS, connect_timeout=watch.connect_timeout())
    if libpq_version() >= 120000:
        defaults["tcp_user_timeout"] = 30000  # ms, for a network that drops packets silently
    name = display_name(options)
    try:
        connection = open_connection(name, **dict(defaults, **options))
    except psycopg2.Error as error:
        problem = "cannot use the database %s: %s" % (name, reason(error))
        if dsn:
            problem += "; check --dsn or LRBENCH_DSN, and whether the server runs"
        raise _failure(dsn, problem) from error
    try:
        with watch.watched(connection):
            _prepare(connection, name, read_only, lock_timeout)
    except psycopg2.Error as error:
        connection.close()
        problem = "cannot create the schema in" if error.pgcode else "cannot use"
        raise _failure(dsn, "%s the database %s: %s" % (problem, name, reason(error))) from error
    except InputError:
        connection.close()
        raise
    return connection


def parsed(dsn: str) -> dict[str, Any]:
    """Return the parameters in a connection string by their names.

    Raises:
        InputError: The text is not a connection string.
    """
    try:
        options: dict[str, Any] = parse_dsn(dsn)
    except psycopg2.ProgrammingError:
        raise InputError(
            "the database's name is not a connection string: write "
            'postgresql://USER@HOST/DATABASE or "host=HOST dbname=DATABASE user=USER"'
        ) from None  # psycopg2's own message may quote the password
    return options


def _failure(dsn: str | None, problem: str) -> CannotConnect:
    """The error of a database that cannot be used; the private server's disk may be full."""
    return CannotConnect((None if dsn else server.full_disk(problem)) or problem)


def _prepare(
    connection: Connection, name: str, read_only: bool, lock_timeout: float | None
) -> None:
    """Set the session's options and upgrade the schema."""
    # Under a stricter level a writer could not read the shared rows that another has just inserted.
    connection.set_session(isolation_level="READ COMMITTED")
    if connection.server_version < 110000:
        version = divmod(connection.server_version // 100, 100)
        raise InputError(
            "the database %s is PostgreSQL %d.%d: PostgreSQL 11 or later is required"
            % (name, *version)
        )
    schema.upgrade(connection)
    if lock_timeout is not None:
        with connection, connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = %s", [math.ceil(1000 * lock_timeout)])  # ms
    if read_only:  # otherwise the server's own default is kept
        connection.set_session(readonly=True)


def identity(connection: Connection, name: str) -> str:
    """Return a database's own UUID, which it was given together with its tables.

    Args:
        connection: A connection with the newest schema.
        name: The database's name for messages.

    Raises:
        InputError: The database does not have it, or the user may not read it.
    """
    try:
        with watch.watched(connection), connection, connection.cursor() as cursor:
            cursor.execute("SELECT database::text FROM origin WHERE here")
            row = cursor.fetchone()
    except psycopg2.Error as error:
        raise InputError("cannot read the database %s: %s" % (name, reason(error))) from error
    if row is None:
        raise InputError(
            "the database %s is damaged: its table origin has lost the row with here = true; "
            "restore it from a backup, or use another database" % name
        )
    uuid: str = row[0]
    return uuid


def display_name(options: dict[str, Any]) -> str:
    """Return a database's name for messages, without its password.

    Args:
        options: The parameters of a connection, as parsed from a connection string.

    Returns:
        For example ``"trials at localhost, port 5432"``.
    """
    host = (
        options.get("host") or options.get("hostaddr") or os.environ.get("PGHOST") or "this machine"
    )
    port = options.get("port") or os.environ.get("PGPORT") or "5432"
    return "%s at %s, port %s" % (options.get("dbname") or "(default)", host, port)


def reason(error: psycopg2.Error) -> str:
    """Return the message of PostgreSQL, or of its client library, in one line."""
    detail = error.diag.message_detail
    text = error.diag.message_primary or str(error)
    return " ".join((text + (": " + detail if detail else "")).split()) or type(error).__name__
