"""What the tests share: real data, a real database, and the reasons for what is skipped."""
import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHARED = os.path.join(os.path.dirname(ROOT), "shared", "data")
sys.path.insert(0, ROOT)  # for a plain `pytest`
needs_caffe = pytest.mark.skipif(importlib.util.find_spec("caffe") is None, reason="needs Caffe: run the tests with `make test`")

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
def private_home():
    """A folder that is LRBENCH_HOME within the block; a server that is left running in it is stopped."""
    memory = "/dev/shm" if os.path.isdir("/dev/shm") and shutil.disk_usage("/dev/shm").free > 2 ** 30 else None
    folder = tempfile.mkdtemp(prefix="lrbench-", dir=memory)  # where no busy disk makes the tests slow
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


@pytest.fixture
def lrbench(dsn):
    """Run the command line in a process of its own: lrbench("train", ...) gives its CompletedProcess."""
    def run(*arguments, **options):
        return subprocess.run([sys.executable, "-m", "lrbench_caffe"] + [str(a) for a in arguments], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, universal_newlines=True, timeout=100,
                              env=dict(os.environ, PYTHONPATH=ROOT), **options)
    return run
