"""The LR policy database (section IV): its schema, the store, the journal, and the private server where none is named."""
import os
import shutil

from lrbench_caffe.database import server
from lrbench_caffe.database.journal import Recorder
from lrbench_caffe.database.store import DatabaseUnavailable, Store

__all__ = ["DatabaseUnavailable", "Recorder", "Store", "connect", "server", "shell_command"]


def connect(dsn=None):
    """A Store of the database that dsn names, else ``LRBENCH_DSN``, else the private one."""
    return Store(dsn)


def shell_command(dsn=None):
    """The psql command line, a list of words, that opens the database; the private server is started if it is the one."""
    dsn = dsn or os.environ.get("LRBENCH_DSN")
    if dsn:
        return [shutil.which("psql") or server.psql(), dsn]
    return [server.psql(), server.start()]
