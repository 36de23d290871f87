"""Where files lie: LRBench's own data, and the solvers and nets that come with the program."""

import os

from lrbench_caffe.errors import InputError

_PACKAGE = os.path.dirname(os.path.abspath(__file__))


def home():
    """The folder of the private database, the journals, the studies and the demonstration's data.

    It is ``$LRBENCH_HOME`` or, as the XDG base directory specification says, ``$XDG_DATA_HOME/lrbench`` or
    ``~/.local/share/lrbench``.
    """
    data = os.environ.get("XDG_DATA_HOME") or os.path.join(
        os.path.expanduser("~"), ".local", "share"
    )
    return os.path.abspath(os.environ.get("LRBENCH_HOME") or os.path.join(data, "lrbench"))


def shipped(path):
    """The path of a solver or net that comes with the program, e.g. ``shipped("solvers/digits_solver.prototxt")``.

    In a clone these files are at the top level; an installed package has them in its folder ``shipped``.

    Raises:
        InputError: the file is in neither place.
    """
    for folder in (os.path.dirname(_PACKAGE), os.path.join(_PACKAGE, "shipped")):
        if os.path.exists(os.path.join(folder, path)):
            return os.path.join(folder, path)
    raise InputError(
        "%s, which is part of lrbench_caffe, was not found: install lrbench_caffe again" % path
    )
