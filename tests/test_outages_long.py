"""Outages that take minutes or need servers of their own; `make soak` runs them.

They print what was tried and how often. docs/reliability.md has the counts.
"""

import contextlib
import ctypes
import itertools
import os
import random
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import nets
import pytest
from conftest import needs_caffe, private_home
from proxy import Proxy
from studies import start
from waiting import LIMIT, wait_until

pytest.importorskip(
    "psycopg2", reason="needs psycopg2 and PostgreSQL: run the tests with `make test`"
)
import psycopg2
from test_journal import new_row, new_trial, record, stored
from test_outages import add_rows, check_complete, children, end, n_stored, signal_all

from lrbench_caffe import database, datasets
from lrbench_caffe.database import server
from lrbench_caffe.database.programs import find_program

pytestmark = pytest.mark.long
OUTAGES = 100  # in the random test


@pytest.fixture(autouse=True)
def quick_retry(monkeypatch):
    monkeypatch.setattr("lrbench_caffe.database.journal.RETRY_SECONDS", 0.05)
    monkeypatch.setenv("LRBENCH_DB_TIMEOUT", "1")


class Server:
    """A PostgreSQL server with its data in a folder; a context manager that stops it."""

    def __init__(self, folder, port):
        self.folder, self.port = Path(folder), port
        self.dsn = "host=%s port=%d user=lrbench dbname=postgres" % (folder, port)
        self.socket = os.path.join(str(folder), ".s.PGSQL.%d" % port)

    def run(self, program, *arguments):
        path = find_program(program, str(self.folder))
        prefix = server._command_prefix(str(self.folder))
        subprocess.run([*prefix, path, *arguments], check=True, cwd="/", stdout=subprocess.DEVNULL)

    def create(self):
        self.run("initdb", "-D", self.data, "-U", "lrbench", "-A", "trust", "--no-sync")

    @property
    def data(self):
        return str(self.folder / "data")

    def start(self):
        options = "-p %d -c listen_addresses= -c unix_socket_directories=%s" % (
            self.port,
            self.folder,
        )
        log = str(self.folder / "log")
        self.run("pg_ctl", "start", "-w", "-D", self.data, "-o", options, "-l", log)

    def stop(self, mode="immediate"):
        with contextlib.suppress(subprocess.CalledProcessError):  # it is down already
            self.run("pg_ctl", "stop", "-w", "-m", mode, "-D", self.data)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.stop()


@pytest.fixture
def folders():
    """Make a folder for a server that every user can reach: folders()."""
    with contextlib.ExitStack() as stack:

        def make():
            path = stack.enter_context(tempfile.TemporaryDirectory(prefix="lrbench-"))
            os.chmod(path, 0o755)
            return path

        yield make


@pytest.fixture
def journal_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("LRBENCH_HOME", str(tmp_path / "home"))


def test_a_failover_to_a_streaming_standby_costs_no_rows(folders, journal_folder):
    """The address leads to the standby, which only reads at first and is promoted then."""
    with Server(folders(), 5601) as primary, Server(folders(), 5602) as standby:
        primary.create()
        primary.start()
        database.Store(primary.dsn).close()
        standby.run(
            "pg_basebackup", "-h", str(primary.folder), "-p", "5601", "-U", "lrbench",
            "-D", standby.data, "-R", "-X", "stream", "--no-sync",
        )  # fmt: skip
        standby.start()
        with Proxy(primary.socket) as proxy:
            address = "host=127.0.0.1 port=%d user=lrbench dbname=postgres" % proxy.port
            trial, notes = new_trial(), []
            with database.Recorder(address, notes.append) as recorder:
                journal = record(recorder, trial, range(20), end=None)
                wait_until(lambda: count_rows(standby.dsn) == 20)
                primary.stop()
                proxy._path = standby.socket
                proxy.reset()
                add_rows(journal, 20)
                wait_until(lambda: notes)
                assert "during recovery" in notes[0] or "read-only transaction" in notes[0]
                standby.run("pg_ctl", "promote", "-w", "-D", standby.data)
                end(journal, trial)
        check_complete(standby.dsn, trial)


def count_rows(dsn):
    with contextlib.closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM evaluation")
        return cursor.fetchone()[0]


@contextlib.contextmanager
def filesystem(folder, size):
    """Mount a small filesystem on a folder within the block; only root can."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, size):
        pytest.skip("needs a small filesystem: %s" % os.strerror(ctypes.get_errno()))
    os.chmod(folder, 0o755)
    try:
        yield
    finally:
        MNT_DETACH = 2
        libc.umount2(os.fsencode(folder), MNT_DETACH)


def test_a_full_disk_of_the_server_costs_no_rows(folders, journal_folder):
    folder = folders()
    with filesystem(folder, b"size=120m"), Server(folder, 5603) as full:
        full.create()
        full.start()
        trial, notes = new_trial(), []
        filler = os.path.join(folder, "filler")
        with database.Recorder(full.dsn, notes.append) as recorder:
            journal = record(recorder, trial, [0], end=None)
            wait_until(lambda: n_stored(full.dsn, trial) == 1)
            with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(b"x" * (1 << 20)):
                    pass
            iteration = 1
            while not notes:  # until the tables do not fit into their last pages
                add_rows(journal, iteration, iteration + 50)
                iteration += 50
                recorded = min(iteration, 200)
                wait_until(lambda: notes or n_stored(full.dsn, trial) >= recorded)
            assert "No space left on device" in notes[0] or "does not answer" in notes[0]
            os.remove(filler)
            with contextlib.suppress(subprocess.CalledProcessError):  # it has gone down
                full.start()
            end(journal, trial)
        database.Store(full.dsn).close()
        check_complete(full.dsn, trial, rows=iteration)


def outage(clock, proxy, pids, n):
    """Cause one of the kinds of outages for a moment; return its kind."""
    kind = clock.choice(("cut", "freeze", "reset", "SIGSTOP", "kill a backend", "crash"))
    if kind == "cut":
        proxy.cut()
    elif kind == "freeze":
        proxy.freeze()
    elif kind == "reset":
        proxy.reset()
    elif kind == "SIGSTOP":
        stopped = pids()
        signal_all(stopped, signal.SIGSTOP)
    elif kind == "kill a backend":
        signal_all(pids()[1:], signal.SIGTERM)
    else:
        signal_all(pids(), signal.SIGKILL)
    time.sleep(clock.uniform(0, 2))  # a random moment is the point of this test
    if kind == "SIGSTOP":
        signal_all(stopped, signal.SIGCONT)
    proxy.heal()
    return kind


def test_random_outages_lose_and_duplicate_nothing(monkeypatch):
    """Rows are recorded all the time; each is there once, and equal to what was measured."""
    clock, kinds, notes = random.Random(23), [], []
    with private_home() as home:
        address = server.start()
        socket = os.path.join(str(home), "postgresql", ".s.PGSQL.5432")
        pid_file = home / "postgresql" / "data" / "postmaster.pid"

        def pids():
            server.start()
            pid = int(pid_file.read_text().split()[0])
            return [pid, *children(pid)]

        with Proxy(socket) as proxy:
            dsn = "host=127.0.0.1 port=%d user=lrbench dbname=lrbench tcp_user_timeout=300" % (
                proxy.port
            )
            trial, iteration = new_trial(), 0
            with database.Recorder(dsn, notes.append) as recorder:
                journal = record(recorder, trial, [], end=None)
                for n in range(OUTAGES):
                    for _ in range(clock.randrange(1, 20)):
                        journal.on_event("row", new_row(iteration))
                        iteration += 1
                    kinds.append(outage(clock, proxy, pids, n))
                    server.start()
                end(journal, trial)
            database.Store(address).close()
        recorded = stored(address, trial)
        assert recorded.rows == tuple(map(new_row, range(iteration)))
        assert recorded.state == "finished" and os.listdir(str(home / "journal")) == []
    counts = ", ".join("%d %s" % (kinds.count(kind), kind) for kind in sorted(set(kinds)))
    print("%d outages (%s), %d rows, lost: 0, twice: 0" % (len(kinds), counts, iteration))


COMMANDS = {
    "range": lambda folder: ["range", folder / "solver.prototxt", "--data", folder / "digits"],
    "tune": lambda folder: [
        "tune", folder / "solver.prototxt", "--data", folder / "digits", "--budget", "600",
    ],
    "reproduce": lambda folder: [
        "reproduce", "table-7", "--scale", "0.001", "--seeds", "1", "--test-interval", "10",
        "--data", folder / "mnist", "--out", folder,
    ],
    "demo": lambda folder: ["demo"],
}  # fmt: skip
TRIALS_AND_ROWS = "SELECT count(DISTINCT trial_id) AS trials, count(*) AS rows FROM evaluation"
TWICE = """
    SELECT count(*) AS twice FROM trial JOIN study_trial ON trial_id = trial.id
    GROUP BY policy_id, seed, solver ->> 'max_iter' HAVING count(*) > 1"""


@needs_caffe
@pytest.mark.parametrize(
    "name, kind",
    [
        *itertools.product(["range", "tune"], ["crash", "freeze", "cut", "reset", "SIGSTOP"]),
        *itertools.product(["reproduce", "demo"], ["crash", "freeze"]),
    ],
)
def test_an_outage_in_the_middle_of_a_command_loses_nothing(name, kind, tmp_path, monkeypatch):
    """The outage lasts until the command waits for the database or ends, or is over at once."""
    datasets.convert("digits", str(tmp_path / "digits"))
    (tmp_path / "mnist").mkdir()
    files = datasets.paths("mnist", str(tmp_path / "mnist"))
    nets.random_lmdb(files.train, 200)
    nets.random_lmdb(files.test, 200)
    nets.write(tmp_path, nets.solver(max_iter=100, test_interval=10))
    with private_home() as home:
        address = server.start()
        database.Store(address).close()
        socket = os.path.join(str(home), "postgresql", ".s.PGSQL.5432")
        pid = int((home / "postgresql" / "data" / "postmaster.pid").read_text().split()[0])
        with Proxy(socket) as proxy:
            dsn = "host=127.0.0.1 port=%d user=lrbench dbname=lrbench tcp_user_timeout=1000" % (
                proxy.port
            )
            command = [*COMMANDS[name](tmp_path), "--jobs", "2", "--dsn", dsn]
            monkeypatch.setenv("LRBENCH_HOME", str(tmp_path / "home"))
            process = start(*command, cwd=str(tmp_path))
            wait_until(lambda: count_rows(address) > 3)
            pids = [pid, *children(pid)]
            if kind in ("crash", "SIGSTOP"):
                signal_all(pids, signal.SIGKILL if kind == "crash" else signal.SIGSTOP)
            else:
                getattr(proxy, kind)()
            waits = name in ("range", "tune") and kind != "reset"
            if waits:
                errors = read_until("waits for the database", process.stderr)
            else:
                output, errors = process.communicate(timeout=LIMIT)
            signal_all(pids, signal.SIGCONT)
            proxy.heal()
            monkeypatch.setenv("LRBENCH_HOME", str(home))
            server.start()
            monkeypatch.setenv("LRBENCH_HOME", str(tmp_path / "home"))
            if waits:
                output, more = process.communicate(timeout=LIMIT)
                errors += more
            proxy.reset()  # as the server's keepalives do after a cut
            assert process.returncode == (0 if waits or kind == "reset" else 3), errors
            assert "Traceback" not in output + errors
            with database.Store(dsn) as store:  # delivers what waits
                waited = store.select(TRIALS_AND_ROWS)[0]
            wait_until(lambda: not runners(address))  # the server notices that the program is gone
            again = start(*command, cwd=str(tmp_path))
            output, errors = again.communicate(timeout=LIMIT)
            assert again.returncode == 0, errors
        with database.Store(address) as store:
            (done,) = store.select(TRIALS_AND_ROWS)
            assert store.select(TWICE) == []
            assert {trial.state for trial in store.trials()} <= {"finished", "diverged", "pruned"}
        assert os.listdir(str(tmp_path / "home" / "journal")) == []
    print("%s, %s: %d rows, then %d" % (name, kind, waited.rows, done.rows))


def read_until(text, file):
    """Read lines up to the first with this text; return them."""
    lines = []
    for line in file:
        lines.append(line)
        if text in line:
            return "".join(lines)
    pytest.fail("%r was not printed: %s" % (text, "".join(lines)))


def runners(address):
    """The programs that run a study."""
    with database.Store(address, delivers=False) as store:
        return [study for study in database.studies.summaries(store) if study.running]
