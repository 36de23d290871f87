"""The container files, as far as they can be tried without an engine; docker/test does the rest with one."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

yaml = pytest.importorskip("yaml", reason="needs PyYAML: run the tests with `make test`")


@pytest.fixture(scope="module")
def services():
    """The services of docker/compose.yml by name."""
    with open(os.path.join(ROOT, "docker", "compose.yml")) as file:
        return yaml.safe_load(file)["services"]


def test_no_container_has_more_rights_than_it_needs(services):
    for service in services.values():
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == [
            "no-new-privileges:true"
        ]
        assert service["read_only"] and "privileged" not in service and "ports" not in service


def test_the_programs_run_as_who_calls_and_the_password_has_no_default(services):
    for name, service in services.items():
        if name == "postgres":
            assert service["user"] == "postgres" and service["environment"][
                "POSTGRES_PASSWORD"
            ].startswith("${POSTGRES_PASSWORD:?")
        else:
            assert service["user"].startswith("${LRBENCH_USER:?")
            assert service["environment"]["PGPASSWORD"].startswith("${POSTGRES_PASSWORD:?")


def test_the_workers_of_a_study_see_the_same_files(services):
    for service in ("lrbench", "worker", "lrbench-gpu", "worker-gpu"):
        assert services[service]["volumes"] == services["lrbench"]["volumes"]
        assert services[service]["environment"]["LRBENCH_HOME"].startswith("/results/")


def test_the_data_can_be_written_by_the_service_that_makes_it_only(services):
    """What LMDB may write it locks by process ids, which two containers both have."""
    writers = {
        name
        for name, service in services.items()
        for volume in service["volumes"]
        if isinstance(volume, dict) and volume["target"] == "/data" and not volume.get("read_only")
    }
    assert writers == {"data"}


def test_gpu_and_cpu_differ_in_build_arguments_only(services):
    cpu, gpu = (dict(services[name]["build"]) for name in ("lrbench", "lrbench-gpu"))
    arguments = gpu.pop("args")
    assert cpu == gpu and set(arguments) == {"BASE", "SECTIONS", "CAFFE_PACKAGES"}
    with open(os.path.join(ROOT, "docker", "Dockerfile")) as file:
        declared = {line[4:].partition("=")[0].strip() for line in file if line.startswith("ARG ")}
    assert declared == set(arguments)


@pytest.mark.skipif(
    sys.version_info < (3, 8), reason="Python 3.7 itself says it when it imports them"
)
def test_the_gpu_images_python_3_7_reads_every_module():
    for module in Path(ROOT, "lrbench_caffe").rglob("*.py"):
        ast.parse(module.read_text(encoding="utf-8"), str(module), feature_version=(3, 7))


def test_where_no_engine_can_be_had_the_engines_test_says_so(tmp_path):
    for name in "bash", "dirname", "realpath", "mktemp", "rm", "timeout":
        (tmp_path / name).symlink_to(shutil.which(name))
    done = subprocess.run(
        ["/bin/bash", os.path.join(ROOT, "docker", "test")],
        env={"PATH": str(tmp_path)},
        timeout=20,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert (
        done.returncode == 0
        and "NOT TESTED, no container engine" in done.stdout
        and "all of it works" not in done.stdout
    )
