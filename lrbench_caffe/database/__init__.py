"""The LR policy database (section IV): its schema, the store, the journal, and the private server where none is named."""

import os
import shutil

from lrbench_caffe.database import server, studies
from lrbench_caffe.database.journal import Recorder
from lrbench_caffe.database.store import Store

__all__ = ["Recorder", "Store", "server", "shell_command", "studies"]


def shell_command(dsn=None):
    """The psql command line, a list of words, that opens the database; the private server is started if it is the one."""
    dsn = dsn or os.environ.get("LRBENCH_DSN")
    if dsn:
        return [shutil.which("psql") or server.psql(), dsn]
    return [server.psql(), server.start()]
