"""The version of the schema in a database: laid out when empty, migrated when older.

Own code: yoyo-migrations, the usual choice, guards itself by a committed row that a killed process leaves behind, which then
stops every later start, and needs Python 3.9; an advisory lock goes away with its connection.

``schema.sql`` is the whole schema as the newest version has it.  ``migrations/0002.sql`` and so on each bring a database from
the version before to theirs.
"""

import glob
import os

from lrbench_caffe.errors import InputError

FOLDER = os.path.dirname(os.path.abspath(__file__))
_LOCK = 0x6C7262656E6368  # "lrbench": the advisory lock of whoever changes the schema


def upgrade(connection, folder=FOLDER):
    """Bring the database to the newest version, in one transaction; any number of processes may call this at once.

    Raises InputError when the database is newer than this program.
    """
    migrations = sorted(glob.glob(os.path.join(folder, "migrations", "*.sql")))
    newest = 1 + len(migrations)
    with connection, connection.cursor() as cursor:
        if _version(cursor) == newest:
            return
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        found = _version(cursor)  # by now perhaps another's work
        if found > newest:
            raise InputError(
                "the database has schema version %d and this program knows %d: update lrbench_caffe"
                % (found, newest)
            )
        if found == 0:
            _apply(cursor, os.path.join(folder, "schema.sql"), newest)
        else:
            for version in range(found + 1, newest + 1):
                _apply(cursor, migrations[version - 2], version)


def _version(cursor):
    """The version of the database, 0 where the schema is not there.

    Asked of the table pg_class: to_regclass() may answer from a cache that does not know what was committed while this
    transaction waited for the lock.
    """
    cursor.execute(
        "SELECT FROM pg_class WHERE relname = 'schema_version' AND pg_table_is_visible(oid)"
    )
    if cursor.rowcount == 0:
        return 0
    cursor.execute("SELECT max(version) FROM schema_version")
    return cursor.fetchone()[0]


def _apply(cursor, path, version):
    with open(path, encoding="utf-8") as script:
        cursor.execute(script.read())
    cursor.execute("INSERT INTO schema_version (version) VALUES (%s)", [version])
