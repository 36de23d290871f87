"""The locations of LRBench's own data, and of the solvers and nets that come with it."""

from __future__ import annotations

import contextlib
import errno
import os

from lrbench_caffe.errors import InputError

_PACKAGE = os.path.dirname(os.path.abspath(__file__))


def home() -> str:
    """Return the absolute path of LRBench's data folder.

    The folder holds the private database, the journals, the studies, the models and the data of the
    demonstration. It is ``$LRBENCH_HOME``, or else ``$XDG_DATA_HOME/lrbench``, where XDG_DATA_HOME
    is ``~/.local/share`` by default (XDG base directory specification).
    """
    data = os.environ.get("XDG_DATA_HOME") or os.path.join(
        os.path.expanduser("~"), ".local", "share"
    )
    return os.path.abspath(os.environ.get("LRBENCH_HOME") or os.path.join(data, "lrbench"))


def make_private(folder: str) -> None:
    """Make a folder of LRBench's home for its user only, with the folders above it.

    New folders have the mode 0700, less the umask. Folders of the user between the home and this
    one that earlier versions made for everyone are closed. The home itself stays as it is if it
    exists: LRBENCH_HOME may name a folder that has other files.

    Args:
        folder: The absolute path of the folder, which may exist.

    Raises:
        OSError: The folder cannot be made.
    """
    if not os.path.isdir(folder):
        if not os.path.isdir(os.path.dirname(folder)):
            make_private(os.path.dirname(folder))
        with contextlib.suppress(FileExistsError):  # made by another process meanwhile
            os.mkdir(folder, 0o700)
        if not os.path.isdir(folder):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), folder)
    while folder.startswith(home() + os.sep):
        state = os.stat(folder)
        if state.st_uid == os.geteuid() and state.st_mode & 0o077:
            os.chmod(folder, state.st_mode & 0o700)
        folder = os.path.dirname(folder)


def python_path() -> str:
    """Return the PYTHONPATH with which a process can import this program."""
    own = os.path.dirname(_PACKAGE)
    return os.pathsep.join(filter(None, (own, os.environ.get("PYTHONPATH"))))


def shipped(path: str) -> str:
    """Return the full path of a solver or net that comes with LRBench.

    In a clone these files are at the top level. An installed package has them in its folder
    ``shipped``.

    Args:
        path: The path in the clone, for example ``"solvers/digits_solver.prototxt"``.

    Raises:
        InputError: The file is in neither place.
    """
    for folder in (os.path.dirname(_PACKAGE), os.path.join(_PACKAGE, "shipped")):
        full_path = os.path.join(folder, path)
        if os.path.exists(full_path):
            return full_path
    raise InputError("%s of lrbench_caffe is missing: install lrbench_caffe again" % path)


def study_folder(study: str) -> str:
    """Return the folder of a study, with the snapshots of its trials that are not finished."""
    return os.path.join(home(), "studies", study)
