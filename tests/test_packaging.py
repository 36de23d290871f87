"""An installed package: it has its data files, and declares everything that it imports."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

pytest.importorskip("setuptools")

# Names of modules that differ from the names of the packages that bring them.
PACKAGES = {
    "PIL": "pillow",
    "google": "protobuf",
    "psycopg2": "psycopg2-binary",
    "sklearn": "scikit-learn",
}
# No package brings Caffe, which needs scikit-image and pandas; only type checkers have _typeshed.
UNDECLARED = {"_typeshed", "caffe", "lrbench_caffe", "pandas", "skimage"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder with the built package, as an installation has it, away from the clone."""
    folder = tmp_path_factory.mktemp("build")
    command = [sys.executable, "setup.py", "--quiet", "build", "--build-base", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return folder / "lib"


def run(installed, code, tmp_path):
    """Run code with the built package alone, and return what it prints."""
    environment = dict(os.environ, PYTHONPATH=str(installed))
    command = [sys.executable, "-c", code]
    return subprocess.check_output(command, cwd=str(tmp_path), env=environment, text=True)


@pytest.mark.parametrize(
    "solver", sorted(Path(ROOT, "solvers").glob("*.prototxt")), ids=lambda path: path.stem
)
def test_an_installed_package_has_its_solvers_and_nets(installed, tmp_path, solver):
    code = "from lrbench_caffe import paths; print(paths.shipped('solvers/%s'))" % solver.name
    path = Path(run(installed, code, tmp_path).strip())
    assert str(path).startswith(str(installed)) and path.read_bytes() == solver.read_bytes()
    net = re.search('net: "(.*)"', path.read_text()).group(1)
    assert (path.parent / net).is_file(), "the solver finds its net beside it"


def test_an_installed_package_has_the_numbers_of_the_paper(installed, tmp_path):
    module = "from lrbench_caffe.paper.targets import TARGETS; "
    code = module + "print(len(TARGETS['table-7'].published))"
    assert run(installed, code, tmp_path) == "10\n"


def test_an_installed_package_has_the_schema_and_the_page(installed):
    for pattern in ("database/*.sql", "database/migrations/*.sql", "report/page.*", "report/*.js"):
        files = {path.name for path in Path(ROOT, "lrbench_caffe").glob(pattern)}
        assert files
        assert files <= {path.name for path in (installed / "lrbench_caffe").glob(pattern)}


def test_everything_that_the_package_imports_is_declared():
    setup = Path(ROOT, "setup.py").read_text(encoding="utf-8")
    requirements = re.search(r"install_requires=\[(.*?)\]", setup, re.S).group(1)
    declared = set(re.findall(r'"([\w-]+)', requirements))
    imported = set()
    for path in Path(ROOT, "lrbench_caffe").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    third_party = {name for name in imported if not is_standard(name)} - UNDECLARED
    assert {PACKAGES.get(name, name) for name in third_party} <= declared


def is_standard(name):
    """Whether a module belongs to the standard library: it lies there, outside of site-packages."""
    if name in sys.builtin_module_names or name == "__future__":
        return True
    spec = importlib.util.find_spec(name)
    origin = (spec and spec.origin) or ""
    return origin.startswith((sys.base_prefix, "built-in", "frozen")) and "-packages" not in origin
