"""docker/run: a command runs where pycaffe is as if it had been called by itself.

Called where pycaffe already is, as under `make test`, docker/run builds nothing; elsewhere only its refusal is tested.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, needs_caffe

RUN = os.path.join(ROOT, "docker", "run")

ANSWER_SIGNALS = """
import signal, sys, time

def answer(number, frame):
    sys.exit(40 + number)

for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, answer)
print("ready", flush=True)
time.sleep(30)
"""


@pytest.fixture
def variables(tmp_path_factory):
    """The environment's variables, with the Python of these tests as python3 and a cache of their own."""
    path = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
    return dict(os.environ, PATH=path, XDG_CACHE_HOME=str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def run(variables):
    """Call docker/run: run("true") gives its CompletedProcess."""

    def call(*command, **options):
        return subprocess.run(
            [RUN] + list(command),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            env=variables,
            **options,
        )

    return call


@needs_caffe
@pytest.mark.parametrize("status", [0, 1, 7, 255])
def test_exit_status(run, status):
    assert run("sh", "-c", "exit %d" % status).returncode == status


@needs_caffe
def test_a_command_that_is_not_there(run):
    done = run("no-such-command")
    assert done.returncode == 127 and "no-such-command" in done.stderr


@needs_caffe
def test_arguments_arrive_as_they_are(run):
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
def test_standard_input(run):
    assert run("cat", input="one\ntwo").stdout == "one\ntwo"


@needs_caffe
def test_the_current_directory_and_the_project(run, tmp_path):
    code = "import os, lrbench_caffe, caffe; print(os.getcwd()); print(lrbench_caffe.__file__)"
    done = run("python3", "-c", code, cwd=str(tmp_path))
    folder, module = done.stdout.split()
    assert os.path.samefile(folder, str(tmp_path)) and module.startswith(ROOT)


@needs_caffe
def test_lrbench_is_a_command(run):
    done = run("lrbench", "--help")
    assert done.returncode == 0 and "lrbench" in done.stdout


@needs_caffe
@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT", "SIGTERM", "SIGUSR1"])
def test_signals(variables, name):
    number = getattr(signal, name)
    with subprocess.Popen(
        [RUN, "python3", "-c", ANSWER_SIGNALS], stdout=subprocess.PIPE, env=variables
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait(timeout=20) == 40 + number


def test_nothing_to_run(run):
    done = run()
    assert done.returncode == 2 and "docker/run lrbench --help" in done.stderr


def test_a_folder_called_caffe_is_no_caffe(tmp_path):
    """Without Caffe, and with no way to get it, one sentence says what to install; a checkout of Caffe does not count."""
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
        timeout=20,
        cwd=str(tmp_path),
        env={"PATH": "%s/python/bin:%s" % (tmp_path, programs), "HOME": str(tmp_path)},
    )
    assert done.returncode == 1
    assert done.stderr.startswith(
        "docker/run: Caffe's environment needs Docker, or else bubblewrap mmdebstrap"
    )


def test_the_kernels_are_chosen_where_the_environment_leaves_them_open(run, variables, monkeypatch):
    """By docker/run and by a training that is started without it alike."""
    from lrbench_caffe.study import process

    variables.pop("OPENBLAS_CORETYPE", None)
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    chosen = (
        run("sh", "-c", "echo $OPENBLAS_CORETYPE").stdout.strip()
        if importlib.util.find_spec("caffe")
        else None
    )
    with_avx512 = process.blas_environment(
        "flags : fpu avx2 avx512f avx512cd avx512bw avx512dq avx512vl"
    )
    assert (
        with_avx512 == {"OPENBLAS_CORETYPE": "SkylakeX"}
        and process.blas_environment("flags : fpu avx2 avx512f") == {}
    )
    assert chosen in (None, process.blas_environment().get("OPENBLAS_CORETYPE", ""))


def test_the_environments_own_choice_of_kernels_is_kept(run, variables, monkeypatch):
    from lrbench_caffe.study import process

    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    variables["OPENBLAS_CORETYPE"] = "Haswell"
    assert process.blas_environment("avx512f avx512cd avx512bw avx512dq avx512vl") == {}
    if importlib.util.find_spec("caffe"):
        assert run("sh", "-c", "echo $OPENBLAS_CORETYPE").stdout == "Haswell\n"
