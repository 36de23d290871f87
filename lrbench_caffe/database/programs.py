"""PostgreSQL's programs, wherever a Linux distribution has installed them."""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess

from lrbench_caffe.errors import InputError

OTHER_SERVER = "or set LRBENCH_DSN to another server"


def find_program(name: str, folder: str, version: str | None = None) -> str:
    """Return the path of one of PostgreSQL's programs.

    Args:
        name: The program, e.g. ``"pg_ctl"``.
        folder: The folder of the private server, for messages.
        version: The major version that made the data there, or None for the newest one.

    Raises:
        InputError: The program is not installed, or not in this version.
    """
    paths = _paths_by_version(name)
    if not paths:
        raise InputError(
            "PostgreSQL's programs are not installed: install the package postgresql, %s"
            % OTHER_SERVER
        )
    if version is None:
        return next(iter(paths.values()))
    if version not in paths:
        raise InputError(
            "the database in %s was made by PostgreSQL %s, but only version %s is installed: "
            "install postgresql-%s (docs/team.md has how to move the data to another version), or "
            "set LRBENCH_HOME to another folder" % (folder, version, ", ".join(paths), version)
        )
    return paths[version]


def _paths_by_version(name: str) -> dict[str, str]:
    """The paths of a program by its major version, the newest version first."""
    folders = glob.glob("/usr/lib/postgresql/*/bin") + glob.glob("/usr/pgsql-*/bin")
    folders.sort(key=_version_numbers, reverse=True)
    on_path = shutil.which("pg_ctl")
    if on_path:
        folders.append(os.path.dirname(on_path))
    paths: dict[str, str] = {}
    for folder in folders:
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK):
            version = _major_version(path)
            if version is not None:
                paths.setdefault(version, path)
    return paths


def _major_version(path: str) -> str | None:
    """The major version of a program; None if it does not run."""
    try:
        completed = subprocess.run([path, "--version"], stdout=subprocess.PIPE, text=True)
    except OSError:
        return None
    numbers = re.findall(r"\d+", completed.stdout)
    return numbers[0] if completed.returncode == 0 and numbers else None


def _version_numbers(folder: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", folder)]


def error_line(log: list[str]) -> str:
    """Return the line of a program's log that reports the error, without time and process."""
    pattern = r"((unrecognized|invalid|could not) .*|.*(?:FATAL|PANIC|error):.*)"
    errors = [match.group(1) for match in (re.search(pattern, line) for line in log) if match]
    line: str = (errors or log[-1:] or ["no message"])[0]
    return re.sub(r"^.*(FATAL|PANIC): +", "", line)
