"""The fixtures that the tests share: real data and a real database."""

import contextlib
import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHARED = os.path.join(os.path.dirname(ROOT), "shared", "data")
sys.path.insert(0, ROOT)  # for `pytest` without an installed package
needs_caffe = pytest.mark.skipif(
    importlib.util.find_spec("caffe") is None, reason="needs Caffe: run the tests with `make test`"
)

with contextlib.suppress(ImportError):
    from hypothesis import settings

    # A test must not fail because the machine is busy.
    settings.register_profile("without deadlines", deadline=None)
    settings.load_profile("without deadlines")

# The tests compare all digits of a training. The last ones depend on the number of BLAS threads.
os.environ["OPENBLAS_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A folder with scikit-learn's digits as LMDBs."""
    from lrbench_caffe import datasets

    folder = str(tmp_path_factory.mktemp("digits"))
    datasets.convert("digits", folder)
    return folder


@contextlib.contextmanager
def private_home(room=2**30):
    """A temporary folder that is LRBENCH_HOME within the block. Its server is stopped at the end.

    The folder is in memory if that has more than room bytes free, because a busy disk makes the
    tests slow. Otherwise it is on the disk.
    """
    in_memory = os.path.isdir("/dev/shm") and shutil.disk_usage("/dev/shm").free > room
    folder = tempfile.mkdtemp(prefix="lrbench-", dir="/dev/shm" if in_memory else None)
    before = os.environ.get("LRBENCH_HOME")
    os.environ["LRBENCH_HOME"] = folder
    try:
        yield Path(folder)
    finally:
        from lrbench_caffe.database import server

        os.environ["LRBENCH_HOME"] = folder
        server.stop()
        shutil.rmtree(folder)
        os.environ.pop("LRBENCH_HOME")
        if before is not None:
            os.environ["LRBENCH_HOME"] = before


@pytest.fixture(scope="session")
def dsn():
    """The DSN of a private PostgreSQL server, which is the program's default during the session."""
    from lrbench_caffe.database import server
    from lrbench_caffe.errors import InputError

    os.environ.pop("LRBENCH_DSN", None)
    with private_home():
        try:
            address = server.start()
        except InputError as error:
            pytest.skip(str(error))
        yield address


@contextlib.contextmanager
def new_database_on(server):
    """The DSN of a new database within the block, on the server with the given DSN."""
    import psycopg2

    name = "test_" + uuid.uuid4().hex
    admin = psycopg2.connect(server)
    admin.autocommit = True
    admin.cursor().execute("CREATE DATABASE " + name)
    yield server + " dbname=" + name
    admin.cursor().execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
    )
    admin.cursor().execute("DROP DATABASE " + name)
    admin.close()


@pytest.fixture
def database(dsn):
    """The DSN of a new database."""
    with new_database_on(dsn) as address:
        yield address


@pytest.fixture
def store(database):
    """A Store on a new database."""
    from lrbench_caffe.database import Store

    with Store(database) as store:
        yield store


@pytest.fixture
def lrbench(dsn):
    """Run the command line in a new process: lrbench("train", ...) returns a CompletedProcess."""

    def run(*arguments, **options):
        return subprocess.run(
            [sys.executable, "-m", "lrbench_caffe", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=100,
            env=dict(os.environ, PYTHONPATH=ROOT),
            **options,
        )

    return run


@pytest.fixture
def small_disk(tmp_path):
    """A folder that is the root of a filesystem of 300 KB."""
    folder = tmp_path / "small"
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)  # not every system has the program mount
    if libc.mount(b"tmpfs", os.fsencode(str(folder)), b"tmpfs", 0, b"size=300k"):
        pytest.skip(
            "needs a small filesystem, which only root can mount: %s"
            % os.strerror(ctypes.get_errno())
        )
    yield folder
    MNT_DETACH = 2  # even if a process still uses it
    assert libc.umount2(os.fsencode(str(folder)), MNT_DETACH) == 0


@pytest.fixture
def name():
    """A name for a study."""
    return "study-" + uuid.uuid4().hex


@pytest.fixture
def trials(dsn):
    """Read the trials of a study: trials(name) returns them."""
    from lrbench_caffe import database

    def read(name):
        with database.Store(dsn) as store:
            return store.trials(study=name)

    return read


@pytest.fixture
def command(digits):
    """Arguments that train POLICIES on the digits in a study: command(name, *more)."""
    from studies import DIGITS, POLICIES

    def arguments(name, *more):
        policies = [argument for policy in POLICIES for argument in ("--policy", policy)]
        return ["study", "run", name, DIGITS, "--data", digits, "--seeds", "2", *policies, *more]

    return arguments
