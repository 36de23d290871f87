"""Settings of a solver on which Caffe aborts, divides by zero or trains nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrbench_caffe.errors import InputError, suggestion
from lrbench_caffe.training.reader import SOLVER_TYPES

if TYPE_CHECKING:
    from caffe.proto import caffe_pb2

# The solver types that Caffe's own momentum cannot be used with.
_WITHOUT_MOMENTUM = ("AdaGrad", "RMSProp")
_REGULARIZATIONS = ("L1", "L2")


def check_settings(solver: caffe_pb2.SolverParameter, path: str) -> None:
    """Check the settings of a solver, without its nets and its schedule.

    Args:
        solver: The SolverParameter.
        path: The prototxt that it was read from, for the error message.

    Raises:
        InputError: Caffe would abort on a setting, or compute only NaN with it.
    """
    if solver.type not in SOLVER_TYPES:
        raise InputError(
            "%s has the unknown solver type %r%s"
            % (path, solver.type, suggestion(solver.type, SOLVER_TYPES))
        )
    if solver.iter_size < 1:
        raise _invalid(path, "iter_size=%d" % solver.iter_size, "1 or more batches an iteration")
    if solver.average_loss < 1:
        raise _invalid(path, "average_loss=%d" % solver.average_loss, "1 or more iterations")
    if solver.type in _WITHOUT_MOMENTUM and solver.momentum != 0:
        raise _invalid(
            path,
            "momentum=%g" % solver.momentum,
            "0, because Caffe's %s has no momentum" % solver.type,
        )
    if solver.type == "RMSProp" and not 0 <= solver.rms_decay < 1:
        raise _invalid(path, "rms_decay=%g" % solver.rms_decay, "0 or more, and less than 1")
    if solver.weight_decay != 0 and solver.regularization_type not in _REGULARIZATIONS:
        raise InputError(
            "%s has the unknown regularization_type %r%s"
            % (
                path,
                solver.regularization_type,
                suggestion(solver.regularization_type, _REGULARIZATIONS),
            )
        )


def check_tests(solver: caffe_pb2.SolverParameter, path: str, named: int, general: bool) -> None:
    """Check that the fields of all test nets are there, as Caffe does.

    Args:
        solver: The SolverParameter.
        path: The prototxt that it was read from, for the error message.
        named: The number of its test_net and test_net_param.
        general: Whether it has a net or net_param, which Caffe tests for each further test_iter.

    Raises:
        InputError: Caffe would abort on the combination, or test nothing.
    """
    tests = len(solver.test_iter)
    if tests > named == 0 and not general:
        raise InputError(
            "%s has test_iter but no test net: name one with test_net, or remove test_iter" % path
        )
    if tests < named or (tests > named and not general):
        raise InputError(
            "%s has %d test nets and %d test_iter: give one test_iter for each"
            % (path, named, tests)
        )
    if solver.test_state and len(solver.test_state) != tests:
        raise InputError(
            "%s has %d test nets and %d test_state: give one for each or none"
            % (path, tests, len(solver.test_state))
        )
    if tests and solver.test_interval <= 0:
        raise InputError(
            "%s has test nets and test_interval=%d: give a test_interval above 0, or remove "
            "test_iter to train without tests" % (path, solver.test_interval)
        )
    if tests and min(solver.test_iter) <= 0:
        raise InputError(
            "%s has test_iter=%d, which tests nothing: give a test_iter above 0, or remove "
            "test_iter to train without tests" % (path, min(solver.test_iter))
        )


def _invalid(path: str, setting: str, expected: str) -> InputError:
    return InputError("%s: invalid %s, expected %s" % (path, setting, expected))
