"""The locations of LRBench's own data, and of the solvers and nets that come with it."""

from __future__ import annotations

import os

from lrbench_caffe.errors import InputError

_PACKAGE = os.path.dirname(os.path.abspath(__file__))


def home() -> str:
    """Return the absolute path of LRBench's data folder.

    The folder holds the private database, the journals, the studies and the data of the
    demonstration. It is ``$LRBENCH_HOME``, or else ``$XDG_DATA_HOME/lrbench``, where XDG_DATA_HOME
    is ``~/.local/share`` by default (XDG base directory specification).
    """
    data = os.environ.get("XDG_DATA_HOME") or os.path.join(
        os.path.expanduser("~"), ".local", "share"
    )
    return os.path.abspath(os.environ.get("LRBENCH_HOME") or os.path.join(data, "lrbench"))


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
