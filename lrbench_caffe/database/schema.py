"""The version of a database's schema: an empty database gets the schema, an older one is migrated.

``schema.sql`` is the whole schema at its newest version. ``migrations/0002.sql`` and the following
files each bring a database from the previous version to the version in their name.

This is not yoyo-migrations, the usual tool. It marks a running migration with a committed row,
which a killed process leaves behind and which then blocks every later start, and it needs
Python 3.9. The advisory lock used here disappears together with its connection.
"""

from __future__ import annotations

import glob
import os
from typing import TYPE_CHECKING, Any

from lrbench_caffe.errors import InputError

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

FOLDER = os.path.dirname(os.path.abspath(__file__))
_LOCK = 0x6C7262656E6368  # "lrbench": the advisory lock of the process that changes the schema


def upgrade(connection: Connection, folder: str = FOLDER) -> None:
    """Bring a database to the newest version of the schema, in one transaction.

    Any number of processes may call this at the same time.

    Args:
        connection: An open connection to the database.
        folder: The folder with ``schema.sql`` and ``migrations/``.

    Raises:
        InputError: The database is newer than this program.
        psycopg2.Error: PostgreSQL refuses a statement; nothing has been changed.
    """
    migrations = sorted(glob.glob(os.path.join(folder, "migrations", "*.sql")))
    newest = 1 + len(migrations)
    with connection, connection.cursor() as cursor:
        if _version(cursor) == newest:
            return
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        current = _version(cursor)  # another process may have upgraded the database meanwhile
        if current > newest:
            raise InputError(
                "the database has schema version %d, but this program supports versions up to %d: "
                "update lrbench_caffe" % (current, newest)
            )
        if current == 0:
            _apply(cursor, os.path.join(folder, "schema.sql"), newest)
        else:
            for version in range(current + 1, newest + 1):
                _apply(cursor, migrations[version - 2], version)


def _version(cursor: Any) -> int:
    """The schema version of the database; 0 if the schema does not exist yet.

    This reads pg_class because to_regclass() may answer from a cache, which misses what another
    process committed while this transaction waited for the lock.
    """
    cursor.execute(
        "SELECT FROM pg_class WHERE relname = 'schema_version' AND pg_table_is_visible(oid)"
    )
    if cursor.rowcount == 0:
        return 0
    # The table may be another program's: then it can be empty, or its versions can be texts.
    cursor.execute("SELECT COALESCE(max(version::integer), 0) FROM schema_version")
    version: int = cursor.fetchone()[0]
    return version


def _apply(cursor: Any, path: str, version: int) -> None:
    """Run the script at path, and record that the database now has this version."""
    with open(path, encoding="utf-8") as script:
        cursor.execute(script.read())
    cursor.execute("INSERT INTO schema_version (version) VALUES (%s)", [version])
