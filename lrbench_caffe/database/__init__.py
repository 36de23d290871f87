"""The LR policy database (section IV of the paper).

A training records its trial with a :class:`Recorder`, which writes every event to a journal on the
local disk and delivers it to PostgreSQL from a thread. A :class:`Store` reads and writes trials.
:mod:`~lrbench_caffe.database.delivery` finds the journals that wait for a database,
:mod:`~lrbench_caffe.database.studies` keeps lists of trials under a name,
:mod:`~lrbench_caffe.database.listing` lists tasks and trials,
:mod:`~lrbench_caffe.database.deletion` deletes trials and studies,
:mod:`~lrbench_caffe.database.standings` reads how policies did over their seeds, and
:mod:`~lrbench_caffe.database.exchange` exports and imports trials.

Where no database is named, :mod:`~lrbench_caffe.database.server` starts a private PostgreSQL
server for the user.
"""

from __future__ import annotations

import contextlib
import os
import shutil

from lrbench_caffe.errors import DatabaseUnavailable, InputError

try:
    from psycopg2.extensions import make_dsn  # checked here, before the modules below import it
except ImportError as error:
    raise InputError(
        "the database needs psycopg2, which this Python cannot import (%s): "
        "install python3-psycopg2 or psycopg2-binary" % error
    ) from error

from lrbench_caffe.database import (
    connection,
    deletion,
    delivery,
    listing,
    selection,
    server,
    standings,
    studies,
)
from lrbench_caffe.database.journal import Recorder, undelivered, undelivered_trials
from lrbench_caffe.database.store import Store

_PASSWORDS = {"password": "PGPASSWORD"}  # parameters of a DSN, and libpq's variables for them

__all__ = [
    "Recorder",
    "Store",
    "deletion",
    "delivery",
    "listing",
    "selection",
    "server",
    "shell_command",
    "shell_environment",
    "standings",
    "studies",
    "undelivered",
    "undelivered_trials",
]


def shell_command(dsn: str | None = None) -> list[str]:
    """Return the psql command line that opens the database, without its password.

    Other users of the machine can read a command line. :func:`shell_environment` has the password.
    Journals that wait for the database are delivered first.

    Args:
        dsn: The connection string of the database. Without it, ``LRBENCH_DSN`` names the
            database. Without either, the private server is used, and started if necessary.

    Returns:
        The program and its arguments.

    Raises:
        InputError: PostgreSQL's programs are not installed, or the private server does not start.
    """
    dsn = dsn or os.environ.get("LRBENCH_DSN")
    if any(delivery.waiting_journals()):
        # psql may be what repairs a database that cannot be used.
        with contextlib.suppress(InputError, DatabaseUnavailable):
            Store(dsn).close()
    if not dsn:
        return [server.psql(), server.start()]
    options = connection.parsed(dsn)
    if any(options.pop(name, None) is not None for name in _PASSWORDS):
        dsn = make_dsn(**options)
    return [shutil.which("psql") or server.psql(), dsn]


def shell_environment(dsn: str | None = None) -> dict[str, str]:
    """Return the environment variables for :func:`shell_command`: the password of the DSN.

    Args:
        dsn: The connection string, as for :func:`shell_command`.
    """
    dsn = dsn or os.environ.get("LRBENCH_DSN")
    options = connection.parsed(dsn) if dsn else {}
    return {_PASSWORDS[name]: options[name] for name in _PASSWORDS if name in options}
