"""What the tests share: real data, a real database, and the reasons for what is skipped."""
import importlib.util
import os
import shutil
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHARED = os.path.join(os.path.dirname(ROOT), "shared", "data")
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


@pytest.fixture(scope="session")
def dsn(tmp_path_factory):
    """A database on a private PostgreSQL server of the tests' own, which also is the program's default for the session."""
    from lrbench_caffe.database import server
    home = str(tmp_path_factory.mktemp("home"))
    before = os.environ.get("LRBENCH_HOME")
    os.environ["LRBENCH_HOME"] = home
    os.environ.pop("LRBENCH_DSN", None)
    try:
        yield server.start()
    finally:
        server.stop()
        os.environ.pop("LRBENCH_HOME")
        if before:
            os.environ["LRBENCH_HOME"] = before
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def lrbench(dsn):
    """Run the command line in a process of its own: lrbench("train", ...) gives its CompletedProcess."""
    def run(*arguments, **options):
        return subprocess.run([sys.executable, "-m", "lrbench_caffe"] + [str(a) for a in arguments], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, universal_newlines=True, timeout=100,
                              env=dict(os.environ, PYTHONPATH=ROOT), **options)
    return run
