"""Which Caffe can be used: forks and builds without the setter of base_lr or the Python layer.

The fork is a package ``caffe`` that loads the real pycaffe and then changes its classes.
"""

import os
import subprocess
import sys

import nets
import pytest
from conftest import ROOT
from waiting import LIMIT

pytest.importorskip("caffe", reason="needs Caffe: run the tests with `make test`")

FORK = """
import importlib.machinery, importlib.util, os, sys

folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
others = [path for path in sys.path if os.path.abspath(path) != folder]
spec = importlib.machinery.PathFinder.find_spec("caffe", others)
caffe = importlib.util.module_from_spec(spec)
sys.modules["caffe"] = caffe
spec.loader.exec_module(caffe)
"""
# In a module that every Python imports: there, Caffe is not installed.
WITHOUT_CAFFE = """
import importlib.machinery, sys

class WithoutCaffe(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "caffe" else super().find_spec(name, path, target)

sys.meta_path = [
    WithoutCaffe if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path
]
"""
READ_ONLY = "param = caffe._caffe.SolverParameter; param.base_lr = property(param.base_lr.fget)\n"
# What is missing in a Caffe: the change to pycaffe, and a part of the message.
FORKS = {
    "NVCaffe, SSD and Intel's Caffe": (
        "del caffe._caffe.Solver.param, caffe._caffe.SolverParameter\n",
        "solver.param is missing",
    ),
    "Caffe 1.0": (
        "del caffe._caffe.SolverParameter.base_lr\n",
        "solver.param.base_lr is missing",
    ),
    "a property without a setter": (READ_ONLY, "solver.param.base_lr is read-only"),
    "a missing library": (
        "raise ImportError('libcudart.so.11: not found')\n",
        "cannot import caffe (ImportError: libcudart.so.11: not found): it needs a pycaffe",
    ),
    "a broken protobuf": (
        "raise TypeError('Descriptors cannot be created directly')\n",
        "cannot import caffe (TypeError: Descriptors cannot be created directly)",
    ),
    "a module that exits": ("raise SystemExit('no licence')\n", "(SystemExit: no licence)"),
    "no memory": (
        "raise ImportError('libcaffe.so: failed to map segment from shared object')\n",
        "no memory to import caffe: end other programs",
    ),
    "a build without WITH_PYTHON_LAYER": (
        "names = [name for name in caffe.layer_type_list() if name != 'Python']\n"
        "caffe.layer_type_list = lambda: names\n",
        "WITH_PYTHON_LAYER",
    ),
}


def write_fork(folder, change):
    """Write a package caffe that changes the real one, and return the folder for PYTHONPATH."""
    package = folder / "fork" / "caffe"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(FORK + change)
    return str(package.parent)


def check(folder):
    """Run the check at the end of an image's build, with a folder on PYTHONPATH."""
    return subprocess.run(
        [sys.executable, "-m", "lrbench_caffe.training.pycaffe"],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join([folder, ROOT])),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


@pytest.mark.parametrize("fork", sorted(FORKS))
def test_a_caffe_that_cannot_be_used_is_refused_before_a_trial_begins(
    fork, tmp_path, digits, invoke, database, monkeypatch
):
    from lrbench_caffe.database import Store

    change, expected = FORKS[fork]
    path = nets.write(tmp_path)
    arguments = ("train", path, "--data", digits, "--max-iter", "1", "--dsn", database)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([write_fork(tmp_path, change), ROOT]))
    done = invoke(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith(("lrbench: Caffe in ", "lrbench: Python ")), done.stderr
    assert expected in done.stderr
    with Store(database) as store:
        assert store.trials() == []


@pytest.mark.parametrize(
    "change, expected",
    [
        ("os.abort()\n", "Caffe ended the training: it exited with status -6"),
        ("os.kill(os.getpid(), 9)\n", "signal SIGKILL ended the training"),
    ],
)
def test_a_process_that_dies_while_it_imports_caffe_is_reported_as_that(
    change, expected, tmp_path, digits, invoke, monkeypatch
):
    """The fork server dies first, and then the process that is started instead of a fork."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([write_fork(tmp_path, change), ROOT]))
    done = invoke("train", nets.write(tmp_path), "--data", digits, "--max-iter", "1")
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert expected in done.stderr
    assert "had not begun: `lrbench about` shows whether Caffe can be imported" in done.stderr


def test_a_python_without_caffe_is_reported_before_anything_starts(tmp_path, digits, lrbench):
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_CAFFE)
    path = os.pathsep.join([ROOT, str(tmp_path)])
    command = ["train", nets.write(tmp_path), "--data", digits, "--max-iter", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "lrbench_caffe", *command],
        env=dict(os.environ, PYTHONPATH=path),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "Caffe is not installed for this Python (%s)" % sys.executable in done.stderr


def test_the_fork_of_these_tests_trains_if_nothing_is_changed(
    tmp_path, digits, invoke, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([write_fork(tmp_path, ""), ROOT]))
    done = invoke("train", nets.write(tmp_path), "--data", digits, "--max-iter", "1")
    assert done.returncode == 0, done.stderr


def test_the_build_of_an_image_ends_with_the_same_check(tmp_path):
    assert check("").returncode == 0
    done = check(write_fork(tmp_path, READ_ONLY))
    assert done.returncode == 1 and done.stderr.startswith("lrbench: Caffe in ")
    assert "base_lr is read-only" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "error", ["ImportError('libcudart.so.11: not found')", "TypeError('two\\n lines')"]
)
def test_a_caffe_that_cannot_be_imported_ends_the_build_with_its_error(error, tmp_path):
    done = check(write_fork(tmp_path, "raise %s\n" % error))
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("lrbench: Python ") and "cannot import caffe (" in done.stderr
    assert "libcudart.so.11" in done.stderr or "TypeError: two lines" in done.stderr
