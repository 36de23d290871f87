"""docker/run: a command runs in the environment with pycaffe as if it had been called directly.

If pycaffe can be imported already, as under `make test`, docker/run builds nothing. Elsewhere only
its refusal is tested.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, needs_caffe
from waiting import LIMIT

RUN = os.path.join(ROOT, "docker", "run")

ANSWER_SIGNALS = """
import signal, sys, time

def answer(number, frame):
    sys.exit(40 + number)

for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, answer)
print("ready", flush=True)
while True:  # not signal.pause(), which misses a signal that comes just before it
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A private cache, where docker/run remembers that Python has Caffe."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def variables(cache):
    """Environment variables: the Python of these tests is python3, and the cache is private."""
    path = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
    return dict(os.environ, PATH=path, XDG_CACHE_HOME=cache)


@pytest.fixture
def run(variables):
    """Call docker/run: run("true") returns its CompletedProcess."""

    def call(*command, **options):
        return subprocess.run(
            [RUN, *command],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            env=variables,
            **options,
        )

    return call


@needs_caffe
@pytest.mark.parametrize("status", [0, 1, 7, 255])
def test_the_exit_status_is_passed_on(run, status):
    assert run("sh", "-c", "exit %d" % status).returncode == status


@needs_caffe
def test_a_missing_command_is_reported(run):
    done = run("no-such-command")
    assert done.returncode == 127 and "no-such-command" in done.stderr


@needs_caffe
def test_arguments_are_passed_on_unchanged(run):
    arguments = [
        "two words",
        "",
        "*",
        "$HOME",
        "a\nline",
        "SIN2(k0=0.01, k1=0.06, l=2000)",
        "'\"\\",
    ]
    done = run("python3", "-c", "import sys; print(sys.argv[1:])", *arguments)
    assert done.stdout.strip() == repr(arguments)


@needs_caffe
def test_standard_input_is_passed_on(run):
    assert run("cat", input="one\ntwo").stdout == "one\ntwo"


@needs_caffe
def test_the_current_directory_is_kept_and_the_project_importable(run, tmp_path):
    code = "import os, lrbench_caffe, caffe; print(os.getcwd()); print(lrbench_caffe.__file__)"
    done = run("python3", "-c", code, cwd=str(tmp_path))
    folder, module = done.stdout.split()
    assert os.path.samefile(folder, str(tmp_path)) and module.startswith(ROOT)


@needs_caffe
def test_lrbench_is_on_the_path(run):
    done = run("lrbench", "--help")
    assert done.returncode == 0 and "lrbench" in done.stdout


@needs_caffe
@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT", "SIGTERM", "SIGUSR1"])
def test_signals_are_passed_on(variables, name):
    number = getattr(signal, name)
    with subprocess.Popen(
        [RUN, "python3", "-c", ANSWER_SIGNALS], stdout=subprocess.PIPE, env=variables
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait(timeout=LIMIT) == 40 + number


def test_a_call_without_a_command_shows_an_example(run):
    done = run()
    assert done.returncode == 2 and "docker/run lrbench --help" in done.stderr


@needs_caffe
def test_docker_run_installs_a_command_on_the_path(run, variables, tmp_path):
    folder = tmp_path / "my bin"
    done = run("--install", str(folder))
    assert done.returncode == 0 and done.stdout.startswith("%s/lrbench\n" % folder), done.stderr
    assert "add the folder to the PATH" in done.stdout
    assert run("--install", str(folder)).returncode == 0, "its own command is replaced"
    version = subprocess.run(
        [str(folder / "lrbench"), "--version"], capture_output=True, text=True, env=variables
    )
    assert version.stdout == run("lrbench", "--version").stdout != ""


def test_docker_run_replaces_no_other_command(run, tmp_path):
    (tmp_path / "lrbench").write_text("another program")
    done = run("--install", str(tmp_path))
    assert done.returncode == 1 and "is there already and is another command" in done.stderr
    assert (tmp_path / "lrbench").read_text() == "another program"


def test_without_caffe_docker_run_names_the_programs_to_install(tmp_path):
    """A folder called caffe, such as a checkout of Caffe, does not count as an installed Caffe."""
    programs = tmp_path / "programs"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "python")], check=True
    )
    programs.mkdir()
    for name in "bash", "cat", "dirname", "head", "realpath", "sha256sum", "uname":
        (programs / name).symlink_to(shutil.which(name))
    (tmp_path / "caffe").mkdir()
    (tmp_path / "caffe" / "__init__.py").write_text("")
    (tmp_path / "caffe" / "_caffe.so").write_text("")
    done = subprocess.run(
        [shutil.which("bash"), RUN, "true"],
        stderr=subprocess.PIPE,
        text=True,
        timeout=LIMIT,
        cwd=str(tmp_path),
        env={"PATH": "%s/python/bin:%s" % (tmp_path, programs), "HOME": str(tmp_path)},
    )
    assert done.returncode == 1
    assert done.stderr.startswith(
        "docker/run: Caffe's environment needs Docker or bubblewrap mmdebstrap"
    )


ZONE = (
    """
. %s/docker/common.sh
project=/project
unset TZ
host_zone "$1"
"""
    % ROOT
)


@pytest.mark.parametrize(
    "link, zone",
    [
        ("zoneinfo/Europe/Berlin", "Europe/Berlin\n"),
        ("zoneinfo/UTC", "UTC\n"),
        ("copy", "CET-1CEST,M3.5.0,M10.5.0/3\n"),
        ("another file", ""),
        (None, ""),
    ],
)
def test_the_time_zone_of_the_host_is_read_by_name_or_by_rule(link, zone, tmp_path):
    file, localtime = tmp_path / (link or "nowhere"), tmp_path / "localtime"
    if link:
        file.parent.mkdir(parents=True, exist_ok=True)
        start = b"" if link == "another file" else b"TZif2"
        file.write_bytes(start + b"\0binary\nTZif2\0\nCET-1CEST,M3.5.0,M10.5.0/3\n")
        localtime.symlink_to(file)
    done = subprocess.run(
        ["bash", "-euc", ZONE, "bash", str(localtime)], stdout=subprocess.PIPE, text=True
    )
    assert (done.returncode, done.stdout) == (0, zone)


@pytest.mark.parametrize("chosen", ["Asia/Tokyo", ""])
def test_a_time_zone_that_the_user_has_chosen_is_kept(chosen):
    code = ". %s/docker/common.sh; project=/project; set_environment; env" % ROOT
    done = subprocess.run(
        ["bash", "-euc", code],
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ, TZ=chosen),
    )
    assert "TZ=%s" % chosen in done.stdout.splitlines()


def test_openblas_kernels_are_selected_unless_the_environment_selects_them(
    run, variables, monkeypatch
):
    """A training that is started without docker/run selects the same kernels."""
    pytest.importorskip("psycopg2", reason="needs psycopg2: run the tests with `make test`")
    from lrbench_caffe.study.blas import blas_environment

    variables.pop("OPENBLAS_CORETYPE", None)
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    avx512 = "flags : fpu avx2 avx512f avx512cd avx512bw avx512dq avx512vl"
    assert blas_environment(avx512) == {"OPENBLAS_CORETYPE": "SkylakeX"}
    assert blas_environment("flags : fpu avx2 avx512f") == {}
    if importlib.util.find_spec("caffe"):
        selected = run("sh", "-c", "echo $OPENBLAS_CORETYPE").stdout.strip()
        assert selected == blas_environment().get("OPENBLAS_CORETYPE", "")


def test_openblas_kernels_that_the_environment_selects_are_kept(run, variables, monkeypatch):
    pytest.importorskip("psycopg2", reason="needs psycopg2: run the tests with `make test`")
    from lrbench_caffe.study.blas import blas_environment

    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    variables["OPENBLAS_CORETYPE"] = "Haswell"
    assert blas_environment("avx512f avx512cd avx512bw avx512dq avx512vl") == {}
    if importlib.util.find_spec("caffe"):
        assert run("sh", "-c", "echo $OPENBLAS_CORETYPE").stdout == "Haswell\n"
