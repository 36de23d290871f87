"""The private PostgreSQL server: one per LRBENCH_HOME, started on demand and shared by all processes of the user.

Own code, since pgserver is no longer kept up and its successor ships a PostgreSQL instead of running the environment's own.

Everything lies in the folder ``postgresql`` of LRBench's home: the cluster in ``data``, the server's log, its Unix socket.
Two things make it simple to get right:

- The folder is locked (flock) by whoever starts the server, and the server inherits the locked file descriptor.  So the lock
  is held exactly as long as a server starts, runs or stops, whatever was killed, and in whatever container it runs.
- The programs are told the folder as /proc/self/fd/N of that descriptor.  PostgreSQL refuses to run as root, and the user that
  it then runs as may not pass through root's home; through the descriptor it need not, and gets no capability for it.
"""

import contextlib
import fcntl
import glob
import os
import pwd
import re
import shlex
import shutil
import socket
import struct
import subprocess
import time
from typing import NamedTuple, Optional

from lrbench_caffe.errors import InputError
from lrbench_caffe.paths import home

USER = DATABASE = "lrbench"
_SOCKET = ".s.PGSQL.5432"
_TIMEOUT = 120  # seconds for a start, which may have to recover from a crash
_SETTINGS = {
    "port": "5432",
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "jit": "off",
    "dynamic_shared_memory_type": "mmap",  # containers have a /dev/shm too small for a parallel query
}
_ELSEWHERE = "or name another server with LRBENCH_DSN"


class Status(NamedTuple):
    """What is known of the private server: version is that of its data (None before the first start)."""

    running: bool
    folder: str
    version: Optional[str]
    log: str
    dsn: str


def status():
    """The Status of the private server; starts nothing."""
    folder = _folder()
    return Status(
        _ready(folder), folder, _version(folder), os.path.join(folder, "log"), _dsn(folder)
    )


def start():
    """Start the private server if it does not run, wait until it answers, and return its DSN.

    Raises InputError where there is no PostgreSQL, or none that fits the data, or it does not start.
    """
    folder = _folder()
    deadline = time.monotonic() + _TIMEOUT
    while not _ready(folder):
        with _opened(folder) as (descriptor, account):
            if _locked(descriptor):
                _start(folder, descriptor, account)
            elif time.monotonic() > deadline:
                raise InputError(
                    "the PostgreSQL server in %s does not answer: see %s/log, %s"
                    % (folder, folder, _ELSEWHERE)
                )
        time.sleep(0.02)
    return _dsn(folder)


def stop():
    """Stop the private server, cutting its connections; returns whether it ran."""
    folder = _folder()
    if not os.path.isdir(folder):
        return False
    with _opened(folder) as (descriptor, account):
        if _locked(descriptor):
            return False
        problem = None
        try:  # without its wait, which a killed server's entry in the process table may draw out
            _run(
                account,
                descriptor,
                [
                    _program("pg_ctl", _version(folder)),
                    "stop",
                    "-W",
                    "-m",
                    "fast",
                    "-D",
                    _inside(descriptor, "data"),
                ],
            )
        except (
            InputError
        ) as error:  # no error if the server was killed and its last processes are just leaving
            problem = error
        deadline = time.monotonic() + (5 if problem else _TIMEOUT)
        while not _locked(descriptor):
            if time.monotonic() > deadline:
                raise problem or InputError(
                    "the PostgreSQL server in %s does not stop: see %s/log" % (folder, folder)
                )
            time.sleep(0.01)
    return True


def psql():
    """The path of the psql program that belongs to the private server, else the one on PATH."""
    return _program("psql", _version(_folder()))


def _folder():
    """The server's folder, which its socket's path must fit in."""
    folder = os.path.join(home(), "postgresql")
    length = len(os.fsencode(os.path.join(folder, _SOCKET)))
    if length > 107 or "," in folder:
        raise InputError(
            "the folder %s cannot hold a Unix socket, whose path has at most 107 bytes (here %d) and no comma: "
            "set LRBENCH_HOME to another folder" % (folder, length)
        )
    return folder


def _dsn(folder):
    quoted = folder.replace("\\", "\\\\").replace("'", "\\'")
    return "host='%s' port=5432 user=%s dbname=%s" % (quoted, USER, DATABASE)


def _ready(folder):
    """Whether a server in this folder takes connections: its file says so, not "starting" or "stopping", and it lives."""
    try:
        with open(os.path.join(folder, "data", "postmaster.pid")) as pid_file:
            said = pid_file.read().split()[-1:]
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(5)
            client.connect(os.path.join(folder, _SOCKET))
            client.sendall(
                struct.pack("!ii", 8, 80877103)
            )  # the protocol's question for encryption, answered by one byte
            return said == ["ready"] and client.recv(1) in (b"N", b"S")
    except OSError:
        return False


def _version(folder):
    """The major version of PostgreSQL that made the data, or None."""
    try:
        with open(os.path.join(folder, "data", "PG_VERSION")) as version:
            return version.read().strip()
    except OSError:
        return None


@contextlib.contextmanager
def _opened(folder):
    """The server's folder, made if need be: its descriptor, and the words that run a command as the user it belongs to."""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        account = _account(folder)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise InputError(
            "the database's folder %s cannot be used (%s): set LRBENCH_HOME to a folder of your own, %s"
            % (folder, error.strerror, _ELSEWHERE)
        )
    try:
        yield descriptor, account
    finally:
        os.close(descriptor)


def _account(folder):
    """For root, who may not run PostgreSQL: setpriv to the folder's owner, who is made another user if it is root."""
    if os.geteuid() != 0:
        return []
    owner = os.stat(folder)
    user, group = owner.st_uid, owner.st_gid
    if user == 0:
        names = {entry.pw_name: entry for entry in pwd.getpwall()}
        entry = names.get("postgres") or names.get("nobody")
        if entry is None:
            raise InputError(
                "PostgreSQL does not run as root: add a user named postgres, %s" % _ELSEWHERE
            )
        user, group = entry.pw_uid, entry.pw_gid
        try:
            os.chown(folder, user, group)
        except OSError as error:
            raise InputError(
                "PostgreSQL does not run as root, and here root may not become another user (%s): run as an "
                "ordinary user, %s" % (error.strerror, _ELSEWHERE)
            )
    return ["setpriv", "--reuid=%d" % user, "--regid=%d" % group, "--clear-groups"]


def _locked(descriptor):
    """Whether this process now has the lock of the folder, so that there is no server."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start(folder, descriptor, account):
    """Start the server, which takes the lock over; on the first start, make its data."""
    version = _version(folder)
    program = _program("pg_ctl", version)
    if version is None:
        _initialize(folder, descriptor, account)
    for stale in (os.path.join("data", "postmaster.pid"), _SOCKET + ".lock"):
        # The lock says that their server is gone; the process ids in them may by now be those of other processes.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, stale))
    settings = dict(_SETTINGS, unix_socket_directories=_inside(descriptor))
    options = " ".join("-c " + shlex.quote("%s=%s" % setting) for setting in settings.items())
    _run(
        account,
        descriptor,
        [
            program,
            "start",
            "-w",
            "-t",
            str(_TIMEOUT),
            "-D",
            _inside(descriptor, "data"),
            "-o",
            options,
        ],
    )


def _initialize(folder, descriptor, account):
    """Make the data under another name first, so that what is interrupted is never used."""
    unfinished = os.path.join(folder, "unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    inside = _inside(descriptor, "unfinished")
    # Only who may pass through the private folder reaches the socket, so that trust is no more than the folder's mode.
    _run(
        account,
        descriptor,
        [
            _program("initdb"),
            "-D",
            inside,
            "-U",
            USER,
            "--encoding=UTF8",
            "--no-locale",
            "--auth-local=trust",
            "--auth-host=reject",
        ],
    )
    _run(
        account,
        descriptor,
        [_program("postgres"), "--single", "-D", inside, "postgres"],
        text="CREATE DATABASE %s\n" % DATABASE,
    )
    os.rename(unfinished, os.path.join(folder, "data"))


def _inside(descriptor, *names):
    """A path in the server's folder for a process that has its descriptor, whatever lies above the folder."""
    return os.path.join("/proc/self/fd/%d" % descriptor, *names)


def _run(account, descriptor, command, text=""):
    """Run one of PostgreSQL's programs in a session of its own; what it leaves running keeps the descriptor and the log only.

    Raises InputError with what it said when it fails.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    environment["LC_ALL"] = "C"
    with open(_inside(descriptor, "log"), "ab+") as log:
        begin = log.seek(0, os.SEEK_END)
        try:
            done = subprocess.run(
                account + command,
                input=text.encode(),
                stdout=log,
                stderr=log,
                cwd="/",
                env=environment,
                pass_fds=[descriptor],
                start_new_session=True,
            )
        except OSError as error:
            raise InputError("cannot run %s: %s" % ((account + command)[0], error.strerror))
        log.seek(begin)
        said = log.read().decode(errors="replace").splitlines()
    if done.returncode:
        raise InputError(
            "%s failed: %s; see %s/log, %s"
            % (os.path.basename(command[0]), _complaint(said), _folder(), _ELSEWHERE)
        )


def _complaint(lines):
    """The line that says what went wrong, without its time and process."""
    words = r"((unrecognized|invalid|could not) .*|.*(?:FATAL|PANIC|error):.*)"
    found = [match.group(1) for match in (re.search(words, line) for line in lines) if match]
    return re.sub(r"^.*(FATAL|PANIC): +", "", (found or lines[-1:] or ["no message"])[0])


def _program(name, version=None):
    """The path of one of PostgreSQL's programs: of the given major version, else the newest."""
    folders = glob.glob("/usr/lib/postgresql/*/bin") + glob.glob("/usr/pgsql-*/bin")
    folders.sort(
        key=lambda path: [int(number) for number in re.findall(r"\d+", path)], reverse=True
    )
    folders += filter(None, [os.path.dirname(shutil.which("pg_ctl") or "")])
    found = {}
    for folder in folders:
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK):
            said = subprocess.run([path, "--version"], stdout=subprocess.PIPE, text=True).stdout
            found.setdefault(re.search(r"\d+", said).group(), path)
    if not found:
        raise InputError(
            "PostgreSQL's programs are not installed here: install the package postgresql, %s"
            % _ELSEWHERE
        )
    if version not in found and version is not None:
        raise InputError(
            "the database in %s was made by PostgreSQL %s, and here is only %s: install postgresql-%s, or set "
            "LRBENCH_HOME to another folder" % (_folder(), version, ", ".join(found), version)
        )
    return found[version] if version else next(iter(found.values()))
