"""The container files, without a container engine; docker/test runs them with a real one."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from waiting import LIMIT

yaml = pytest.importorskip("yaml", reason="needs PyYAML: run the tests with `make test`")


@pytest.fixture(scope="module")
def services():
    """The services of docker/compose.yml by name."""
    with open(os.path.join(ROOT, "docker", "compose.yml")) as file:
        return yaml.safe_load(file)["services"]


def test_containers_have_no_privileges(services):
    for service in services.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["read_only"] and "privileged" not in service and "ports" not in service


def test_programs_run_as_the_calling_user_and_the_password_has_no_default(services):
    for name, service in services.items():
        environment = service["environment"]
        if name == "postgres":
            assert service["user"] == "postgres"
            assert environment["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")
        else:
            assert service["user"].startswith("${LRBENCH_USER:?")
            assert environment["PGPASSWORD"].startswith("${POSTGRES_PASSWORD:?")


def test_the_workers_of_a_study_have_the_same_files(services):
    for service in ("lrbench", "worker", "lrbench-gpu", "worker-gpu"):
        assert services[service]["volumes"] == services["lrbench"]["volumes"]
        assert services[service]["environment"]["LRBENCH_HOME"].startswith("/results/")


def test_only_the_service_that_creates_the_data_can_write_it(services):
    """LMDB locks writable data by process ids, which are not unique among containers."""
    writers = {
        name
        for name, service in services.items()
        for volume in service["volumes"]
        if isinstance(volume, dict) and volume["target"] == "/data" and not volume.get("read_only")
    }
    assert writers == {"data"}


def test_gpu_and_cpu_images_differ_in_build_arguments_only(services):
    cpu, gpu = (dict(services[name]["build"]) for name in ("lrbench", "lrbench-gpu"))
    arguments = gpu.pop("args")
    assert cpu == gpu and set(arguments) == {"BASE", "SECTIONS", "CAFFE_PACKAGES"}
    for name, value in arguments.items():
        assert value.startswith("${LRBENCH_GPU_%s" % name), "a user changes it in .env"
    assert "PACKAGES-" in arguments["CAFFE_PACKAGES"], "an empty value is not the default"
    with open(os.path.join(ROOT, "docker", "Dockerfile")) as file:
        declared = {line[4:].partition("=")[0].strip() for line in file if line.startswith("ARG ")}
    assert declared == set(arguments)


@pytest.mark.skipif(
    sys.version_info < (3, 8), reason="Python 3.7 itself checks the modules when it imports them"
)
def test_python_3_7_of_the_gpu_image_can_parse_every_module():
    for module in Path(ROOT, "lrbench_caffe").rglob("*.py"):
        ast.parse(module.read_text(encoding="utf-8"), str(module), feature_version=(3, 7))


def test_docker_test_reports_that_it_has_no_engine(tmp_path):
    for name in "bash", "dirname", "realpath", "mktemp", "rm", "timeout":
        (tmp_path / name).symlink_to(shutil.which(name))
    done = subprocess.run(
        ["/bin/bash", os.path.join(ROOT, "docker", "test")],
        env={"PATH": str(tmp_path)},
        timeout=LIMIT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0 and "NOT TESTED, no container engine" in done.stdout
    assert "all of it works" not in done.stdout
