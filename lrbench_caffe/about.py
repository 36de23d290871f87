"""The versions and places that a bug report needs, for ``lrbench about``."""

from __future__ import annotations

import importlib
import json
import os
import platform
import shutil
import subprocess
import sys

from psycopg2.extensions import parse_dsn

import lrbench_caffe
from lrbench_caffe import database, paths
from lrbench_caffe.database import connection
from lrbench_caffe.errors import InputError, last_log_line
from lrbench_caffe.study.cores import usable_cores

LIBRARIES = ("numpy", "google.protobuf", "psycopg2", "click", "dask")
VARIABLES = ("LRBENCH_", "PG", "OPENBLAS_", "OMP_", "MKL_", "CUDA_", "DASK_", "GLOG_", "PYTHONPATH")
SECRETS = ("LRBENCH_DSN", "PGPASSWORD")


def collect(dsn: str | None = None) -> list[tuple[str, str]]:
    """Return the facts, each with its name. Nothing is started and nothing is changed.

    Args:
        dsn: The connection string of the database; by default ``LRBENCH_DSN``, else the private
            server.
    """
    return [
        (
            "lrbench_caffe",
            "%s in %s" % (lrbench_caffe.__version__, _folder(lrbench_caffe.__file__)),
        ),
        ("Python", "%s in %s" % (platform.python_version(), sys.executable)),
        ("system", platform.platform()),
        ("processor", "%s, %d cores for this program" % (_processor(), usable_cores())),
        *_of_caffe(),
        ("GPU", _gpus()),
        ("libraries", ", ".join(_library(name) for name in LIBRARIES)),
        ("home", paths.home()),
        ("database", _database(dsn or os.environ.get("LRBENCH_DSN"))),
        ("variables", ", ".join(_variables()) or "none"),
    ]


def _folder(path: str) -> str:
    return os.path.dirname(os.path.abspath(path))


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if line[:10] == "model name"]
    except OSError:
        names = []
    return names[0] if names else platform.machine()


def _of_caffe() -> list[tuple[str, str]]:
    """The facts of the process of a training."""
    command = [sys.executable, "-m", "lrbench_caffe.training.facts"]
    environment = dict(os.environ, PYTHONPATH=paths.python_path(), GLOG_minloglevel="2")
    done = subprocess.run(command, capture_output=True, env=environment, text=True)
    try:
        return list(json.loads(done.stdout).items())
    except ValueError:
        reason = last_log_line(done.stderr) or "status %d" % done.returncode
        return [("Caffe", "importing it ends the process (%s)" % reason)]


def _gpus() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return "none, or no NVIDIA driver (nvidia-smi is not installed)"
    query = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True)
    lines = (done.stdout or done.stderr).split("\n")
    return "; ".join(line.strip() for line in lines if line.strip()) or "none"


def _library(name: str) -> str:
    try:
        module = importlib.import_module(name)
    except ImportError:
        return "%s missing" % name
    version = str(getattr(module, "__version__", "unknown")).partition(" ")[0]
    return "%s %s" % (name, version)


def _database(dsn: str | None) -> str:
    if dsn:
        return _version_of_server(dsn)
    private = database.server.status()
    return "private server, PostgreSQL %s, %s, in %s" % (
        private.version or "(no data yet)",
        "running" if private.running else "not running",
        private.folder,
    )


def _version_of_server(dsn: str) -> str:
    try:
        opened = connection.connect(dsn, read_only=True)
    except InputError as error:
        return str(error)
    name = connection.display_name(parse_dsn(dsn))
    version = divmod(opened.server_version, 10000)
    opened.close()
    return "%s, PostgreSQL %d.%d" % (name, *version)


def _variables() -> list[str]:
    """The environment variables that have an influence, without passwords."""
    return [
        "%s=%s" % (name, "(not shown)" if name in SECRETS else value)
        for name, value in sorted(os.environ.items())
        if name.startswith(VARIABLES)
    ]
