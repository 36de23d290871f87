"""What a training needs of pycaffe, checked before anything is trained.

Forks and builds of Caffe differ. ``python3 -m lrbench_caffe.training.pycaffe`` runs the same check
at the end of the build of an image.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from lrbench_caffe.errors import InputError, UnusableCaffe, in_one_line

if TYPE_CHECKING:
    from types import ModuleType

# Parts of the messages of a dynamic linker that has no memory for a library.
_MEMORY_ERRORS = ("failed to map segment", "cannot allocate memory", "Cannot allocate memory")


def check_pycaffe() -> None:
    """Check that this Python's Caffe can be used.

    Only classes are looked at, because the first net of a process occupies a GPU.

    Raises:
        UnusableCaffe: Caffe cannot be imported, cannot change the base_lr of a solver, or is built
            without Python layers.
        InputError: There is no memory to import it now.
    """
    try:
        from lrbench_caffe.training.quick_caffe import caffe

        library = caffe._caffe
    except (Exception, SystemExit) as error:  # any error of the libraries that it imports
        raise _import_error(error) from None
    folder = os.path.dirname(os.path.abspath(library.__file__))
    problem = _base_lr_problem(library)
    if problem:
        raise UnusableCaffe(
            "Caffe in %s cannot change the learning rate during a training, because %s: use BVLC's "
            "Caffe of December 2017 or later, not its release 1.0 or a fork such as NVCaffe, "
            "Intel's Caffe or SSD" % (folder, problem)
        )
    if "Python" not in caffe.layer_type_list():
        raise UnusableCaffe(
            "Caffe in %s is built without Python layers, which measure the test net: build it with "
            "WITH_PYTHON_LAYER := 1 in Makefile.config, or with -D BUILD_python_layer=ON" % folder
        )


def _import_error(error: BaseException) -> InputError:
    """The error of a Caffe that cannot be imported: the reason, and what to do."""
    python = "Python %d.%d (%s)" % (*sys.version_info[:2], sys.executable)
    if isinstance(error, MemoryError) or any(part in str(error) for part in _MEMORY_ERRORS):
        return InputError(
            "%s has no memory to import caffe: end other programs, run fewer trainings at a time, "
            "or raise the limit (ulimit -v)" % python
        )
    return UnusableCaffe(
        "%s cannot import caffe (%s): it needs a pycaffe that is built for this Python and its "
        "numpy, in a folder on PYTHONPATH that every user can read" % (python, in_one_line(error))
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
