"""The fixtures that the tests share: real data and a real database."""

import contextlib
import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest
import studies
from gate import Gate
from waiting import LIMIT, wait_until

TESTS = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(TESTS)
sys.path.insert(0, ROOT)  # for `pytest` without an installed package
TEMPLATE = "new_with_schema"  # a database on each server of the tests
EMPTY = "template1"  # PostgreSQL's own template
# The files that take longest, in this order: the last to begin are short ones.
LONGEST = ("docs", "study", "cluster", "errors", "solver", "tune", "schedules", "report")
needs_caffe = pytest.mark.skipif(
    importlib.util.find_spec("caffe") is None, reason="needs Caffe: run the tests with `make test`"
)

with contextlib.suppress(ImportError):
    from hypothesis import HealthCheck, settings

    # A test must not fail because the machine is busy. The same examples each time make a failure
    # repeatable; `make soak` tries many others.
    patient = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
    settings.register_profile("default examples", derandomize=True, **patient)
    settings.register_profile("many examples", max_examples=2000, **patient)
    settings.load_profile("default examples")

# The tests compare all digits of a training. The last ones depend on the number of BLAS threads.
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

# Under nohup, and in the background of a script, signals are ignored. Programs inherit that, but
# not a handler, so the programs that tests start receive these signals in any case.
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)


def pytest_configure():
    """Make the environment the same for all users.

    This is not done when a process of a test imports this file, since its environment is set.
    """
    # A shell ignores Ctrl-C in what it runs in the background, and so would the tests' programs.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in list(os.environ):
        if name.startswith(("PG", "LRBENCH_", "DASK_")):
            del os.environ[name]
    for name in ("COLUMNS", "LINES", "FORCE_COLOR"):
        os.environ.pop(name, None)
    os.environ["LC_ALL"] = "C.UTF-8"
    # The same for all tests of a process, so that their trainings can have the same fork server.
    os.environ["PYTHONPATH"] = os.pathsep.join([ROOT, TESTS])
    # Matplotlib would warn if the home directory cannot be written.
    folder = "lrbench-tests-%d" % os.getuid()
    os.environ["MPLCONFIGDIR"] = os.path.join(tempfile.gettempdir(), folder)
    # The tests start many Python processes. Without compiled modules, each of them takes longer.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_newgateway(gateway):
    """Let each worker of pytest-xdist run the tests in its main thread, which receives signals.

    With --verbose, xdist asks a worker for facts before it sends the tests. While the main thread
    still answers, execnet 1.7 runs the tests in another thread. So the answer is given here: a
    worker is a process of the same Python on this machine.
    """
    from execnet.gateway import RInfo

    facts = {"version_info": sys.version_info, "platform": sys.platform, "cwd": os.getcwd()}
    gateway._cache_rinfo = RInfo(facts)


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest: then all workers end at about the same time."""
    order = {"test_%s.py" % name: n for n, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(os.path.basename(str(item.fspath)), len(order)))


@pytest.fixture(scope="session", autouse=True)
def empty_folder(tmp_path_factory):
    """The current directory of all tests: no test depends on where the tests are started."""
    folder = tmp_path_factory.mktemp("current")
    os.chdir(str(folder))
    return folder


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A folder with scikit-learn's digits as LMDBs."""
    from lrbench_caffe import datasets

    folder = str(tmp_path_factory.mktemp("digits"))
    datasets.convert("digits", folder)
    return folder


@contextlib.contextmanager
def private_home(room=2**30):
    """A temporary folder that is LRBENCH_HOME within the block, without an LRBENCH_DSN.

    Its server is stopped at the end.

    The folder is in memory if that has more than room bytes free, because a busy disk makes the
    tests slow. Otherwise it is on the disk.
    """
    in_memory = os.path.isdir("/dev/shm") and shutil.disk_usage("/dev/shm").free > room
    folder = tempfile.mkdtemp(prefix="lrbench-", dir="/dev/shm" if in_memory else None)
    names = ("LRBENCH_HOME", "LRBENCH_DSN")
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    os.environ["LRBENCH_HOME"] = folder
    try:
        yield Path(folder)
    finally:
        from lrbench_caffe.database import server

        os.environ["LRBENCH_HOME"] = folder
        server.stop()
        shutil.rmtree(folder)
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)


@pytest.fixture(scope="session")
def dsn():
    """The DSN of a private PostgreSQL server, which is the program's default during the session."""
    from lrbench_caffe.database.programs import find_program
    from lrbench_caffe.errors import InputError

    with private_home() as home:
        try:
            find_program("initdb", str(home))
        except InputError as error:
            pytest.skip(str(error))
        yield start_server()


def start_server():
    """Start the private server for tests, and return its DSN.

    It has a database with the schema, of which new ones are copies. It does not wait for the disk.
    """
    from lrbench_caffe.database import Store, server

    address = server.start()
    with administration(address) as cursor:
        cursor.execute("ALTER SYSTEM SET fsync = off")
        cursor.execute("SELECT pg_reload_conf()")
        cursor.execute("CREATE DATABASE " + TEMPLATE)
    Store(address + " dbname=" + TEMPLATE).close()
    return address


@contextlib.contextmanager
def administration(server):
    """A cursor for commands outside of transactions within the block."""
    import psycopg2

    connection = psycopg2.connect(server)
    connection.autocommit = True
    try:
        yield connection.cursor()
    finally:
        connection.close()


@contextlib.contextmanager
def new_database_on(server, template=TEMPLATE):
    """The DSN of a new database within the block.

    Args:
        server: The DSN of the server.
        template: The database that it is a copy of.
    """
    name = "test_" + uuid.uuid4().hex
    with administration(server) as cursor:
        end_sessions(cursor, template)
        cursor.execute("CREATE DATABASE %s TEMPLATE %s" % (name, template))
        if template != EMPTY:
            give_identity(server + " dbname=" + name)
        yield server + " dbname=" + name
        # What a test has left, such as a page that is still open, must not connect again.
        cursor.execute("ALTER DATABASE %s WITH ALLOW_CONNECTIONS false" % name)
        end_sessions(cursor, name)
        cursor.execute("DROP DATABASE " + name)


def give_identity(database):
    """Give a copy of a database the name and the UUID by which exports name their origin."""
    with administration(database) as cursor:
        cursor.execute(
            "UPDATE origin SET database = %s, name = current_database() WHERE here",
            [str(uuid.uuid4())],
        )


def end_sessions(cursor, database):
    """End all sessions in a database; PostgreSQL neither copies nor drops it with one."""

    def have_ended():
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [database]
        )
        return not cursor.rowcount

    wait_until(have_ended)


@pytest.fixture
def database(dsn):
    """The DSN of a new database, which has the schema."""
    with new_database_on(dsn) as address:
        yield address


@pytest.fixture
def store(database):
    """A Store on a new database."""
    from lrbench_caffe.database import Store

    with Store(database) as store:
        yield store


@pytest.fixture
def lrbench(dsn):
    """Run the command line in a new process: lrbench("train", ...) returns a CompletedProcess."""

    def run(*arguments, **options):
        return subprocess.run(
            [sys.executable, "-m", "lrbench_caffe", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            env=dict(os.environ, PYTHONPATH=os.pathsep.join([ROOT, TESTS])),
            **options,
        )

    return run


@pytest.fixture
def invoke(dsn):
    """Run the command line in this process, where its modules are imported only once.

    invoke("rank", ...) returns what lrbench("rank", ...) returns. Trainings are processes of their
    own as always.
    """
    from click.testing import CliRunner

    from lrbench_caffe.cli import main

    def run(*arguments):
        runner = CliRunner()
        with contextlib.suppress(TypeError):  # click 8.2 separates the outputs always
            runner = CliRunner(mix_stderr=False)
        done = runner.invoke(main, list(map(str, arguments)), catch_exceptions=False)
        return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture(autouse=True)
def no_process_is_left():
    """A test that fails does not leave the processes that it has started."""
    yield
    studies.kill_started()


@pytest.fixture
def small_disk(tmp_path):
    """A folder that is the root of a filesystem of 300 KB."""
    folder = tmp_path / "small"
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)  # not every system has the program mount
    if libc.mount(b"tmpfs", os.fsencode(str(folder)), b"tmpfs", 0, b"size=300k"):
        pytest.skip(
            "needs a small filesystem, which only root can mount: %s"
            % os.strerror(ctypes.get_errno())
        )
    yield folder
    MNT_DETACH = 2  # even if a process still uses it
    assert libc.umount2(os.fsencode(str(folder)), MNT_DETACH) == 0


@pytest.fixture
def name():
    """A name for a study."""
    return "study-" + uuid.uuid4().hex


@pytest.fixture
def trials(dsn):
    """Read the trials of a study: trials(name) returns them."""
    from lrbench_caffe import database

    def read(name):
        with database.Store(dsn) as store:
            return store.trials(study=name)

    return read


@pytest.fixture
def command(digits, tmp_path):
    """Arguments of a small study: command(name, *more, gate=None, policies=POLICIES)."""

    def arguments(name, *more, **options):
        return studies.arguments(name, digits, tmp_path, *more, **options)

    return arguments


@pytest.fixture
def kill(dsn, name):
    """Kill the program that runs the study: kill(process, gate=None).

    Returns when the trainings that the gate holds have ended and the database has noticed.
    """
    from lrbench_caffe import database

    def kill_program(process, gate=None):
        process.kill()
        process.communicate()
        wait_until(lambda: not (gate and gate.held()))
        with database.Store(dsn) as store:
            wait_until(lambda: not runs(store))

    def runs(store):
        return any(s.running for s in database.studies.summaries(store) if s.name == name)

    return kill_program


@pytest.fixture
def gate(tmp_path):
    """A Gate that holds the trainings of the study of `command`, which have a snapshot then."""
    folder = tmp_path / "gate"
    folder.mkdir()
    return Gate(folder, studies.HELD_AT, snapshot=True)
