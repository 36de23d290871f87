"""The private PostgreSQL server: real servers in temporary folders."""

import contextlib
import ctypes
import multiprocessing
import os
import pwd
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import lrbench_caffe
from lrbench_caffe.errors import InputError

psycopg2 = pytest.importorskip("psycopg2", reason="needs psycopg2")
from conftest import private_home  # noqa: E402
from waiting import LIMIT, wait_until  # noqa: E402

from lrbench_caffe.database import programs, server  # noqa: E402

try:
    programs.find_program("initdb", "a test's folder")
except InputError:
    pytest.skip("needs PostgreSQL's programs", allow_module_level=True)

PACKAGE = Path(lrbench_caffe.__file__).parent


@pytest.fixture
def home():
    """An empty LRBENCH_HOME."""
    with private_home() as folder:
        yield folder


@pytest.fixture(scope="module")
def used_home():
    """An LRBENCH_HOME that tests share; a server may be running there."""
    with private_home() as folder:
        yield folder


def select(dsn, query):
    connection = psycopg2.connect(dsn)
    try:
        with connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchone()[0]
    finally:
        connection.close()


def postmaster(home):
    return int((home / "postgresql/data/postmaster.pid").read_text().split()[0])


def test_status_does_not_start_the_server(home):
    assert not server.status().running
    assert server.status().version is None
    assert not server.stop()
    assert list(home.iterdir()) == []


def test_one_server_is_started_reachable_only_by_its_socket_and_stopped(used_home):
    dsn = server.start()
    assert select(dsn, "SHOW listen_addresses") == ""
    assert select(dsn, "SHOW max_connections") == "200"
    assert select(dsn, "SELECT inet_server_addr() IS NULL")
    assert (used_home / "postgresql").stat().st_mode & 0o777 == 0o700
    running = postmaster(used_home)
    assert server.start() == dsn and postmaster(used_home) == running
    assert (
        server.status().running
        and server.status().dsn == dsn
        and Path(server.status().log).is_file()
    )
    assert server.stop() and not server.status().running and not server.stop()
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(dsn)
    assert select(server.start(), "SELECT 1") == 1


def _start_and_identify(_):
    return select(server.start(), "SELECT pg_postmaster_start_time()::text")


def test_eight_processes_start_one_server(home):
    with multiprocessing.get_context("spawn").Pool(8) as pool:
        assert len(set(pool.map(_start_and_identify, range(8), chunksize=1))) == 1


def test_a_killed_server_restarts_with_all_committed_data(used_home):
    dsn = server.start()
    connection = psycopg2.connect(dsn)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kept AS SELECT 42 AS number")
    os.kill(postmaster(used_home), signal.SIGKILL)
    assert select(server.start(), "SELECT number FROM kept") == 42


def test_stopping_a_server_that_was_just_killed_is_not_an_error(used_home):
    for _ in range(3):
        connection = psycopg2.connect(server.start())  # its process takes a moment to notice
        os.kill(postmaster(used_home), signal.SIGKILL)
        server.stop()
        assert not server.status().running
        connection.close()


def _start_again_and_again(done):
    while not done.is_set():
        with contextlib.suppress(InputError):  # it was stopped while it started
            server.start()


def _was_started_again():
    """Stop the server; whether the message is that another process has started it again."""
    try:
        server.stop()
    except InputError as error:
        assert "does not stop" not in str(error)
        return "a training or study that runs has started it again" in str(error)
    return False


def test_a_stop_does_not_wait_for_a_server_that_another_process_started_again(used_home):
    context = multiprocessing.get_context("spawn")
    done = context.Event()
    starter = context.Process(target=_start_again_and_again, args=(done,))
    starter.start()
    try:
        wait_until(_was_started_again)
    finally:
        done.set()
        starter.join()


def test_process_ids_from_before_a_reboot_are_ignored(used_home):
    """After a reboot, the id in an old postmaster.pid may belong to any running process."""
    server.start()
    pid_file = used_home / "postgresql/data/postmaster.pid"
    content = pid_file.read_text()
    server.stop()
    pid_file.write_text(content.replace(content.split()[0], str(os.getpid()), 1))
    (used_home / "postgresql/.s.PGSQL.5432.lock").write_text("%d\n" % os.getpid())
    assert not server.status().running
    assert select(server.start(), "SELECT 1") == 1


def test_an_interrupted_first_start_is_repeated(home):
    unfinished = home / "postgresql/unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("13\n")
    code = "from lrbench_caffe.database import server; server.start()"
    moments = ["unfinished/base", "unfinished/global/pg_control", "data"]
    for moment in moments:  # the programs that it started may run on for a while
        starter = subprocess.Popen(
            [sys.executable, "-c", code], env=dict(os.environ, PYTHONPATH=str(PACKAGE.parent))
        )
        path = home / "postgresql" / moment
        wait_until(lambda: path.exists() or starter.poll() is not None)
        starter.kill()
        starter.wait()
    assert select(server.start(), "SELECT 1") == 1
    assert not unfinished.exists()


def test_the_server_outlives_its_starter_and_does_not_keep_its_pipes_open(used_home):
    code = "from lrbench_caffe.database import server; print(server.start())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=dict(os.environ, PYTHONPATH=str(PACKAGE.parent)),
        timeout=LIMIT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert select(done.stdout.strip(), "SELECT 1") == 1
    assert os.getsid(postmaster(used_home)) != os.getsid(0)


def test_the_folder_may_have_any_name(used_home, monkeypatch):
    folder = used_home / "a 'b' \"c\" $(d) \\e \u00e4"
    folder.mkdir()
    server.start()
    server.stop()
    (used_home / "postgresql").rename(folder / "postgresql")
    monkeypatch.setenv("LRBENCH_HOME", str(folder))
    assert select(server.start(), "SELECT 1") == 1
    assert server.stop()
    (folder / "postgresql").rename(used_home / "postgresql")


@pytest.mark.parametrize("name", ["x" * 100, "a,b"])
def test_a_folder_that_cannot_hold_a_socket_is_reported(home, monkeypatch, name):
    monkeypatch.setenv("LRBENCH_HOME", str(home / name))
    with pytest.raises(InputError, match="set LRBENCH_HOME to another folder"):
        server.start()


def test_a_file_in_place_of_the_folder_is_reported(home):
    (home / "postgresql").write_text("")
    with pytest.raises(InputError, match="postgresql cannot be used"):
        server.start()
    (home / "postgresql").unlink()


def test_data_of_another_postgresql_version_is_reported_and_left_alone(home):
    data = home / "postgresql/data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("9\n")
    with pytest.raises(
        InputError, match="made by PostgreSQL 9, but only version .*: install postgresql-9"
    ):
        server.start()
    assert [path.name for path in data.iterdir()] == ["PG_VERSION"]
    shutil.rmtree(str(data))


def test_data_that_is_not_a_cluster_is_reported_and_left_alone(home):
    data = home / "postgresql/data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("")  # as a full disk leaves it
    with pytest.raises(InputError, match="data is not the data of a PostgreSQL server: move it"):
        server.start()
    assert [path.name for path in data.iterdir()] == ["PG_VERSION"]


@pytest.mark.parametrize("running", [True, False])
def test_a_cluster_without_its_database_is_completed(used_home, running):
    """Earlier versions made such clusters on a full disk."""
    admin = psycopg2.connect(server.start() + " dbname=postgres")
    admin.autocommit = True
    with admin.cursor() as cursor:
        cursor.execute("DROP DATABASE lrbench")
    admin.close()
    if not running:
        server.stop()
    assert select(server.start(), "SELECT current_database()") == "lrbench"


def test_a_full_disk_at_the_first_start_leaves_nothing_behind(home):
    """There is room for the cluster, but not for the database in it."""
    with _disk(home / "small", "42m") as (folder, resize):
        os.environ["LRBENCH_HOME"] = str(folder / "home")
        with pytest.raises(
            InputError, match=r"not enough room .* \(\d+ MB are free\): free 100 MB"
        ):
            server.start()
        assert not server.status().running and server.status().version is None
        assert not (folder / "home/postgresql/unfinished").exists()
        resize("300m")
        try:
            assert select(server.start(), "SELECT current_database()") == "lrbench"
        finally:
            server.stop()


@contextlib.contextmanager
def _disk(folder, size):
    """A filesystem of this size in memory, and a function that changes the size."""
    libc, MS_REMOUNT, MNT_DETACH = ctypes.CDLL(None, use_errno=True), 32, 2

    def mount(size, flags):
        options = b"size=" + size.encode()
        return libc.mount(b"tmpfs", os.fsencode(str(folder)), b"tmpfs", flags, options)

    folder.mkdir()
    if mount(size, 0):
        pytest.skip("needs a small filesystem, which only root can mount")
    folder.chmod(0o755)
    try:
        yield folder, lambda size: mount(size, MS_REMOUNT)
    finally:
        assert libc.umount2(os.fsencode(str(folder)), MNT_DETACH) == 0


def test_a_program_that_does_not_run_is_left_out(tmp_path, monkeypatch):
    for name in ("pg_ctl", "initdb"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\nexit 1\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not programs.find_program("initdb", "a test's folder").startswith(str(tmp_path))


def test_the_error_of_a_server_that_cannot_start_has_the_reason(used_home):
    server.start()
    server.stop()
    settings = used_home / "postgresql/data/postgresql.conf"
    good = settings.read_text()
    settings.write_text(good + "shared_bufers = 1GB\n")
    with pytest.raises(InputError, match="pg_ctl failed: .*shared_bufers.*LRBENCH_DSN"):
        server.start()
    settings.write_text(good)
    assert select(server.start(), "SELECT 1") == 1


def test_the_folder_follows_the_xdg_specification(monkeypatch):
    monkeypatch.delenv("LRBENCH_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", "/somewhere")
    assert server.status().folder == "/somewhere/lrbench/postgresql"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert server.status().folder == "/home/someone/.local/share/lrbench/postgresql"


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can become another user"
)
def test_an_ordinary_user_has_a_private_server_that_root_can_use_too(home, monkeypatch):
    someone = pwd.getpwnam("nobody")
    shutil.copytree(
        str(PACKAGE), str(home / "program/lrbench_caffe")
    )  # only root may be able to read the project
    for path in (home / "program").rglob("*"):
        path.chmod(0o755)
    (home / "program").chmod(0o755)
    (home / "own").mkdir()
    os.chown(str(home / "own"), someone.pw_uid, someone.pw_gid)
    home.chmod(0o755)
    monkeypatch.setenv("LRBENCH_HOME", str(home / "own"))
    environment = dict(os.environ, PYTHONPATH=str(home / "program"))
    become = [
        "setpriv",
        "--reuid=%d" % someone.pw_uid,
        "--regid=%d" % someone.pw_gid,
        "--clear-groups",
    ]

    def call(code):
        command = become + [
            sys.executable,
            "-c",
            "from lrbench_caffe.database import server; " + code,
        ]
        return subprocess.run(
            command,
            check=True,
            env=environment,
            cwd="/",
            stdout=subprocess.PIPE,
            text=True,
        ).stdout.strip()

    dsn = call("print(server.start())")
    assert os.stat("/proc/%d" % postmaster(home / "own")).st_uid == someone.pw_uid
    assert dsn == server.start() and select(dsn, "SELECT 1") == 1
    assert server.stop()
    assert select(server.start(), "SELECT 1") == 1
    assert os.stat("/proc/%d" % postmaster(home / "own")).st_uid == someone.pw_uid
    assert call("print(server.stop())") == "True"
