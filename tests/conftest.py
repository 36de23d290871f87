"""What the tests share: real data, a real database, and the reasons for what is skipped."""

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
sys.path.insert(0, ROOT)  # for a plain `pytest`
needs_caffe = pytest.mark.skipif(
    importlib.util.find_spec("caffe") is None, reason="needs Caffe: run the tests with `make test`"
)

with contextlib.suppress(ImportError):
    from hypothesis import settings

    settings.register_profile(
        "without deadlines", deadline=None
    )  # a busy machine is no reason to fail
    settings.load_profile("without deadlines")

# The last digits of a training depend on the number of BLAS threads; the tests compare them.
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
    """A folder that is LRBENCH_HOME within the block; a server that is left running in it is stopped.

    It is in memory, where no busy disk makes the tests slow, if that has room (bytes), else on the disk.
    """
    memory = os.path.isdir("/dev/shm") and shutil.disk_usage("/dev/shm").free > room
    folder = tempfile.mkdtemp(prefix="lrbench-", dir="/dev/shm" if memory else None)
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
    """A database on a private PostgreSQL server of the tests' own, which also is the program's default for the session."""
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
    """The DSN of a new database on the server with this DSN, within the block."""
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
    """A Store on it."""
    from lrbench_caffe.database import Store

    with Store(database) as store:
        yield store


@pytest.fixture
def lrbench(dsn):
    """Run the command line in a process of its own: lrbench("train", ...) gives its CompletedProcess."""

    def run(*arguments, **options):
        return subprocess.run(
            [sys.executable, "-m", "lrbench_caffe"] + [str(a) for a in arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=100,
            env=dict(os.environ, PYTHONPATH=ROOT),
            **options,
        )

    return run


@pytest.fixture
def small_disk(tmp_path):
    """A folder that is a filesystem of its own, of 300 KB."""
    folder = tmp_path / "small"
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)  # the program mount is not everywhere
    if libc.mount(b"tmpfs", os.fsencode(str(folder)), b"tmpfs", 0, b"size=300k"):
        pytest.skip(
            "needs a small filesystem, which only root can mount: %s"
            % os.strerror(ctypes.get_errno())
        )
    yield folder
    assert libc.umount2(os.fsencode(str(folder)), 2) == 0  # whoever still uses it


@pytest.fixture
def name():
    """A name for a study."""
    return "study-" + uuid.uuid4().hex


@pytest.fixture
def trials(dsn):
    """What is stored of a study: trials(name)."""
    from lrbench_caffe import database

    def stored(name):
        with database.Store(dsn) as store:
            return store.trials(study=name)

    return stored


@pytest.fixture
def command(digits):
    """The words that run a study of the digits under POLICIES with two seeds: command(name, more words...)."""
    from studies import DIGITS, POLICIES

    def words(name, *more):
        policies = [word for policy in POLICIES for word in ("--policy", policy)]
        return (
            ["study", "run", name, DIGITS, "--data", digits, "--seeds", "2"] + policies + list(more)
        )

    return words
