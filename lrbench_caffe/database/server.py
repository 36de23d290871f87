"""The private PostgreSQL server: one for each LRBENCH_HOME, started on demand.

All processes of the user share it. Everything is in the folder ``postgresql`` of LRBench's home:
the cluster in ``data``, the server's log and its Unix socket.

Two techniques keep this simple:

- The process that starts the server locks the folder (flock), and the server inherits the locked
  file descriptor. So the folder is locked exactly while a server starts, runs or stops, whatever
  process is killed and in whatever container it runs.
- PostgreSQL's programs receive the folder as /proc/self/fd/N of that descriptor. PostgreSQL
  refuses to run as root, and the user that it runs as instead may have no access to root's home.
  With the descriptor that user needs no access to it.

A first start may be cut off at any moment, for example by a full disk. The cluster is made under
another name and renamed when it is whole. Clusters of earlier versions may lack the database, so
every start looks for it.

This is not pgserver, which is no longer maintained. Its successor ships its own PostgreSQL instead
of running the installed one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shlex
import shutil
import subprocess
import time
from typing import Iterator, NamedTuple, Optional

import psycopg2

from lrbench_caffe import interrupts, waits
from lrbench_caffe.database.opening import open_connection
from lrbench_caffe.database.programs import OTHER_SERVER, error_line, find_program
from lrbench_caffe.database.watch import answers, connect_timeout, patience
from lrbench_caffe.errors import InputError
from lrbench_caffe.paths import home, make_private

USER = DATABASE = "lrbench"
_PORT = "5432"
_SOCKET = ".s.PGSQL." + _PORT
_MAX_SOCKET_PATH = 107  # bytes, a limit of Linux
_TIMEOUT = 120  # seconds for a start, which may include recovery from a crash
_MIN_FREE = 16 << 20  # bytes: PostgreSQL allocates its write-ahead log in files of this size
_CREATED_MEANWHILE = ("42P04", "23505")  # duplicate_database, unique_violation
_FULL_DISK_ERRORS = ("No space left on device", "Disk quota exceeded")
_SETTINGS = {
    "port": _PORT,
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "jit": "off",
    # A container's /dev/shm is too small for a parallel query.
    "dynamic_shared_memory_type": "mmap",
}


class Status(NamedTuple):
    """The state of the private server.

    Attributes:
        running: Whether it accepts connections.
        folder: Its folder.
        version: The major version of PostgreSQL that made its data; None before the first start.
        log: The path of its log.
        dsn: The connection string of its database.
    """

    running: bool
    folder: str
    version: Optional[str]
    log: str
    dsn: str


def status() -> Status:
    """Return the state of the private server, without starting it.

    Raises:
        InputError: The path of its folder is too long for a Unix socket.
    """
    path = _folder_path()
    return Status(
        running=_is_ready(path),
        folder=path,
        version=_data_version(path),
        log=os.path.join(path, "log"),
        dsn=_dsn(path),
    )


def start() -> str:
    """Start the private server unless it is running, and wait until it accepts connections.

    Returns:
        The connection string of its database.

    Raises:
        InputError: PostgreSQL is not installed, its version does not match the data, or the server
            does not start.
    """
    path = _folder_path()
    if not _is_ready(path):
        with waits.waiting("starting PostgreSQL"):
            _start_and_wait(path)
    _create_missing_database(path)
    return _dsn(path)


def _start_and_wait(path: str) -> None:
    signals, began, frozen_since = interrupts.count(), time.monotonic(), None
    while not _is_ready(path):
        interrupts.check(signals)
        now = time.monotonic()
        frozen_since = (frozen_since or now) if _is_marked_ready(path) else None
        if now - began > _TIMEOUT or now - (frozen_since or now) > patience():
            raise InputError(
                "the PostgreSQL server in %s does not answer: read %s/log, %s"
                % (path, path, OTHER_SERVER)
            )
        with _open_folder(path) as folder:
            if folder.lock():
                _start(folder)
        time.sleep(0.02)


def full_disk(reason: str, path: str | None = None) -> str | None:
    """Return a message about the full disk of the private server, None if there is room.

    Args:
        reason: The message of PostgreSQL; it may say that a quota is used up.
        path: The server's folder; by default that of LRBench's home.
    """
    path = path or _folder_path()
    free = shutil.disk_usage(path).free
    if free >= _MIN_FREE and not any(error in reason for error in _FULL_DISK_ERRORS):
        return None
    return (
        "not enough room on the disk for the private database in %s (%d MB are free): free 100 MB "
        "or more, or set LRBENCH_HOME to a folder on another disk (%s)" % (path, free >> 20, reason)
    )


def stop() -> bool:
    """Stop the private server and close its connections.

    Returns:
        Whether it was running.

    Raises:
        InputError: The server does not stop, or another process has started it again.
    """
    path = _folder_path()
    if not os.path.isdir(path):
        return False
    with _open_folder(path) as folder:
        if folder.lock():
            return False
        with waits.waiting("stopping PostgreSQL"):
            _stop_and_wait(folder)
    return True


def _stop_and_wait(folder: _Folder) -> None:
    """Stop the server; wait until it has released its folder, which this process then locks."""
    began = time.monotonic()
    stopped = None  # the process id of the server that was told to stop
    problem = None
    while not folder.lock():
        found = _server_process(folder.path)
        if stopped is None and found is not None:
            try:
                _tell_to_stop(folder)
                stopped, problem = found, None
            except InputError as error:
                # This is not yet an error: a killed server may be leaving, or a new one starting.
                problem = error
        elif found not in (None, stopped):
            raise InputError(
                "the private server was stopped, but a training or study that runs has started it "
                "again: end that first, with Ctrl-C or with `lrbench study stop NAME`"
            )
        if time.monotonic() - began > (5 if problem else _TIMEOUT):
            raise problem or InputError(
                "the PostgreSQL server in %s does not stop: read %s/log"
                % (folder.path, folder.path)
            )
        time.sleep(0.1 if problem else 0.01)


def _tell_to_stop(folder: _Folder) -> None:
    pg_ctl = find_program("pg_ctl", folder.path, _data_version(folder.path))
    # Without pg_ctl's own waiting (-W): a killed server may stay in the process table.
    folder.run([pg_ctl, "stop", "-W", "-m", "fast", "-D", folder.inside("data")])


def psql() -> str:
    """Return the path of psql in the version of the private server's data, else in the newest.

    Raises:
        InputError: PostgreSQL's programs are not installed.
    """
    path = _folder_path()
    return find_program("psql", path, _data_version(path))


def _folder_path() -> str:
    """The path of the server's folder; the path of its socket must fit into a socket address."""
    path = os.path.join(home(), "postgresql")
    length = len(os.fsencode(os.path.join(path, _SOCKET)))
    if length > _MAX_SOCKET_PATH or "," in path:
        raise InputError(
            "the folder %s cannot hold a Unix socket: the socket's path has %d bytes, at most %d "
            "and no comma are allowed: set LRBENCH_HOME to another folder"
            % (path, length, _MAX_SOCKET_PATH)
        )
    return path


def _dsn(path: str, database: str = DATABASE) -> str:
    quoted = path.replace("\\", "\\\\").replace("'", "\\'")
    return "host='%s' port=5432 user=%s dbname=%s" % (quoted, USER, database)


def _is_ready(path: str) -> bool:
    """Whether a server in this folder accepts connections."""
    return _is_marked_ready(path) and answers(path, _PORT, min(5, patience()))


def _is_marked_ready(path: str) -> bool:
    """Whether postmaster.pid ends with "ready" rather than "starting" or "stopping"."""
    return _pid_file(path)[-1:] == ["ready"]


def _server_process(path: str) -> str | None:
    """The process id of the server, None without one."""
    return next(iter(_pid_file(path)), None)


def _pid_file(path: str) -> list[str]:
    """The words of postmaster.pid, none if there is no such file."""
    try:
        with open(os.path.join(path, "data", "postmaster.pid")) as pid_file:
            return pid_file.read().split()
    except OSError:
        return []


def _data_version(path: str) -> str | None:
    """The major version of PostgreSQL that made the data, or None."""
    try:
        with open(os.path.join(path, "data", "PG_VERSION")) as version:
            return version.read().strip() or None
    except OSError:
        return None


class _Folder:
    """The server's folder, opened.

    Attributes:
        path: Its path.
        descriptor: Its file descriptor, which the server inherits with the lock.
        command_prefix: The arguments before a command that make it run as the folder's owner.
    """

    def __init__(self, path: str, descriptor: int, command_prefix: list[str]) -> None:
        self.path = path
        self.descriptor = descriptor
        self.command_prefix = command_prefix

    def lock(self) -> bool:
        """Lock the folder unless it is locked; return whether this process has the lock.

        If it has, there is no server.
        """
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def inside(self, *names: str) -> str:
        """A path in the folder for a process that inherits the descriptor.

        That process needs no access to the folders above.
        """
        return os.path.join("/proc/self/fd/%d" % self.descriptor, *names)

    def run(self, command: list[str], text: str = "", starts_server: bool = False) -> None:
        """Run one of PostgreSQL's programs, with this text as its input, in a session of its own.

        A server that it starts keeps only the descriptor and the log open. Raises InputError with
        the program's message if it fails.
        """
        program = os.path.basename(command[0])
        command = self.command_prefix + command
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PG")
        }
        environment["LC_ALL"] = "C"
        try:
            with open(self.inside("log"), "ab+") as log:
                begin = log.seek(0, os.SEEK_END)
                completed = subprocess.run(
                    command,
                    input=text.encode(),
                    # The output of other programs reaches this process even if the disk is full.
                    stdout=log if starts_server else subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    cwd="/",
                    env=environment,
                    pass_fds=[self.descriptor],
                    start_new_session=True,
                )
                if starts_server:
                    log.seek(begin)
                    output = log.read()
                else:
                    output = completed.stdout
                    with contextlib.suppress(OSError):
                        os.write(log.fileno(), output)
        except OSError as error:
            problem = "cannot run %s: %s" % (command[0], error.strerror)
            raise InputError(full_disk(problem, self.path) or problem) from error
        if completed.returncode:
            lines = output.decode(errors="replace").splitlines()
            problem = "%s failed: %s" % (program, error_line(lines))
            raise InputError(
                full_disk(problem, self.path)
                or "%s; read %s/log, %s" % (problem, self.path, OTHER_SERVER)
            )


@contextlib.contextmanager
def _open_folder(path: str) -> Iterator[_Folder]:
    """Open the server's folder, and create it if necessary."""
    try:
        make_private(path)
        command_prefix = _command_prefix(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise InputError(
            "the database's folder %s cannot be used (%s): set LRBENCH_HOME to a folder of your "
            "own, %s" % (path, error.strerror, OTHER_SERVER)
        ) from error
    try:
        yield _Folder(path, descriptor, command_prefix)
    finally:
        os.close(descriptor)


def _command_prefix(path: str) -> list[str]:
    """The arguments before a command that make it run as the folder's owner.

    They are needed by root only, because PostgreSQL refuses to run as root. A folder that root owns
    is given to another user first.
    """
    if os.geteuid() != 0:
        return []
    owner = os.stat(path)
    user, group = owner.st_uid, owner.st_gid
    if user == 0:
        user, group = _unprivileged_user()
        try:
            os.chown(path, user, group)
        except OSError as error:
            raise InputError(
                "PostgreSQL does not run as root, and root cannot become another user here (%s): "
                "run as an ordinary user, %s" % (error.strerror, OTHER_SERVER)
            ) from error
    return ["setpriv", "--reuid=%d" % user, "--regid=%d" % group, "--clear-groups"]


def _unprivileged_user() -> tuple[int, int]:
    """The user and group ids of postgres, else of nobody."""
    accounts = {account.pw_name: account for account in pwd.getpwall()}
    account = accounts.get("postgres") or accounts.get("nobody")
    if account is None:
        raise InputError(
            "PostgreSQL does not run as root: add a user named postgres, %s" % OTHER_SERVER
        )
    return account.pw_uid, account.pw_gid


def _start(folder: _Folder) -> None:
    """Start the server, which inherits the folder's lock; before the first start, make its data."""
    version = _data_version(folder.path)
    pg_ctl = find_program("pg_ctl", folder.path, version)
    if version is None:
        _initialize(folder)
    # The folder was not locked, so the server of these files is gone. Their process ids may belong
    # to other processes by now.
    for stale in (os.path.join("data", "postmaster.pid"), _SOCKET + ".lock"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder.path, stale))
    settings = dict(_SETTINGS, unix_socket_directories=folder.inside())
    options = " ".join("-c " + shlex.quote("%s=%s" % setting) for setting in settings.items())
    command = [pg_ctl, "start", "-w", "-t", str(_TIMEOUT), "-D", folder.inside("data")]
    folder.run([*command, "-o", options], starts_server=True)


def _initialize(folder: _Folder) -> None:
    """Make the server's data, under another name first: unfinished data is never used."""
    unfinished, data = (os.path.join(folder.path, name) for name in ("unfinished", "data"))
    if os.path.isdir(data) and os.listdir(data):
        raise InputError(
            "%s is not the data of a PostgreSQL server: move it away, %s" % (data, OTHER_SERVER)
        )
    shutil.rmtree(unfinished, ignore_errors=True)
    inside = folder.inside("unfinished")
    initdb = [find_program("initdb", folder.path), "-D", inside, "-U", USER]
    initdb += ["--encoding=UTF8", "--no-locale"]
    # Only users with access to the private folder reach the socket, so "trust" adds no access.
    initdb += ["--auth-local=trust", "--auth-host=reject"]
    # Without exit_on_error, the exit status is 0 even if the statement fails.
    create = [find_program("postgres", folder.path), "--single", "-c", "exit_on_error=true"]
    try:
        with waits.waiting("creating the private database, this once"):
            folder.run(initdb)
            folder.run([*create, "-D", inside, "postgres"], text="CREATE DATABASE %s\n" % DATABASE)
        os.rename(unfinished, data)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)  # after a failure it only takes up room


def _create_missing_database(path: str) -> None:
    """Create the database if the first start made the cluster without it."""
    where = "the private database in %s" % path
    try:
        open_connection(where, _dsn(path), connect_timeout=connect_timeout()).close()
        return
    except psycopg2.OperationalError:
        pass  # it is missing, or the server was stopped or has no more connections
    try:
        admin = open_connection(where, _dsn(path, "postgres"), connect_timeout=connect_timeout())
    except psycopg2.OperationalError:
        return  # the caller's own connection reports the error
    admin.autocommit = True  # CREATE DATABASE cannot run in a transaction
    try:
        with admin.cursor() as cursor:
            cursor.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE])
            if cursor.rowcount == 0:
                cursor.execute("CREATE DATABASE %s" % DATABASE)
    except psycopg2.Error as error:
        if error.pgcode not in _CREATED_MEANWHILE:
            problem = "cannot create the private database: " + " ".join(str(error).split())
            raise InputError(
                full_disk(problem, path) or "%s; read %s/log, %s" % (problem, path, OTHER_SERVER)
            ) from error
    finally:
        admin.close()
