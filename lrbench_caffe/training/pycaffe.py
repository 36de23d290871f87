"""What a training needs of pycaffe, checked before anything is trained.

Forks and builds of Caffe differ. ``python3 -m lrbench_caffe.training.pycaffe`` runs the same check
at the end of the build of an image.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from lrbench_caffe.errors import InputError

if TYPE_CHECKING:
    from types import ModuleType


def check_pycaffe() -> None:
    """Check that this Python's Caffe can be used.

    Only classes are looked at, because the first net of a process occupies a GPU.

    Raises:
        InputError: Caffe cannot be imported, cannot change the base_lr of a solver, or is built
            without Python layers.
    """
    try:
        import caffe
        from caffe import _caffe
    except Exception as error:  # any error of the libraries that it imports
        reason = " ".join(("%s: %s" % (type(error).__name__, error)).split())
        raise InputError(
            "Python %d.%d (%s) cannot import caffe (%s): it needs a pycaffe that is built for this "
            "Python and its numpy, in a folder on PYTHONPATH that every user can read"
            % (*sys.version_info[:2], sys.executable, reason)
        ) from None
    folder = os.path.dirname(os.path.abspath(_caffe.__file__))
    problem = _base_lr_problem(_caffe)
    if problem:
        raise InputError(
            "Caffe in %s cannot change the learning rate during a training, because %s: use BVLC's "
            "Caffe of December 2017 or later, not its release 1.0 or a fork such as NVCaffe, "
            "Intel's Caffe or SSD" % (folder, problem)
        )
    if "Python" not in caffe.layer_type_list():
        raise InputError(
            "Caffe in %s is built without Python layers, which measure the test net: build it with "
            "WITH_PYTHON_LAYER := 1 in Makefile.config, or with -D BUILD_python_layer=ON" % folder
        )


def _base_lr_problem(library: ModuleType) -> str | None:
    """Why the base_lr of a solver cannot be set, None if it can."""
    if not hasattr(library.Solver, "param"):
        return "solver.param is missing"
    base_lr = getattr(getattr(library, "SolverParameter", None), "base_lr", None)
    if base_lr is None:
        return "solver.param.base_lr is missing"
    if isinstance(base_lr, property) and base_lr.fset is None:
        return "solver.param.base_lr is read-only"
    return None


def main() -> None:
    """Print why this Python's Caffe cannot be used, and exit with status 1; nothing if it can."""
    try:
        check_pycaffe()
    except InputError as error:
        sys.exit("lrbench: %s" % error)


if __name__ == "__main__":
    main()
