"""The sets of samples of a solver's test nets: their names, and which of them decide and report."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from lrbench_caffe.errors import InputError, suggestion
from lrbench_caffe.training import encoding
from lrbench_caffe.training.validation_net import VALIDATION_SET, add_validation_net
from lrbench_caffe.trial import TEST_SET

if TYPE_CHECKING:
    from collections.abc import Sequence

    from caffe.proto import caffe_pb2

    from lrbench_caffe.trial import Job

MAX_NAME = 200  # characters of a set's name; the database accepts up to 500


class Sets(NamedTuple):
    """The sets of samples of a solver's test nets.

    Attributes:
        names: Their names, in the order of the test nets; none without a test net.
        report: The index of the set on which the metrics of a trial are reported.
        select: The index of the set that decides: which row is the best, which policy is better.
    """

    names: tuple[str, ...]
    report: int = 0
    select: int = 0


ONE_SET = Sets((TEST_SET,))


def find_sets(
    job: Job, solver: caffe_pb2.SolverParameter, resolved: caffe_pb2.SolverParameter
) -> Sets:
    """Return the sets of a job; its validation set, if it has one, gets a test net.

    Args:
        job: What to train.
        solver: Its SolverParameter as it was read.
        resolved: The same, resolved; the validation net is added to it.

    Raises:
        InputError: The validation set cannot be used, or a set that the job names does not exist.
    """
    names, select = set_names(solver, resolved.test_net_param), job.select
    if job.validation is not None:
        if VALIDATION_SET in names:
            raise InputError(
                "the solver has a test net %r already: choose by it with --select %s, or leave it "
                "out to use --validation" % (VALIDATION_SET, VALIDATION_SET)
            )
        add_validation_net(resolved, job.validation, job.data)
        names += (VALIDATION_SET,)
        select = VALIDATION_SET if select is None else select
    return chosen_sets(names, job.test_net, select)


def set_names(
    solver: caffe_pb2.SolverParameter, tests: Sequence[caffe_pb2.NetParameter]
) -> tuple[str, ...]:
    """Return the names of the sets of a solver's test nets.

    A single set is :data:`~lrbench_caffe.trial.TEST_SET`. Several sets have the stages of their
    test_state, without the stages that all of them have; a state without such a stage is TEST_SET.
    If these names are not all different, the sets have the names of the nets; else those of the
    nets' files; else "test0", "test1" and so on.

    Args:
        solver: The SolverParameter as it was read.
        tests: The nets that it tests, in Caffe's order.
    """
    if len(tests) < 2:
        return (TEST_SET,) * len(tests)
    for names in (_stages(solver), [net.name for net in tests], _file_names(solver, len(tests))):
        readable = [encoding.readable(name)[:MAX_NAME] for name in names]
        # A number is the index of a test net.
        is_usable = all(name.strip() and not name.isdecimal() for name in readable)
        if is_usable and len(set(readable)) == len(tests):
            return tuple(readable)
    return tuple("%s%d" % (TEST_SET, index) for index in range(len(tests)))


def _stages(solver: caffe_pb2.SolverParameter) -> list[str]:
    """The stages that distinguish the test states of a solver."""
    states = [list(dict.fromkeys(state.stage)) for state in solver.test_state]
    common = set(states[0]).intersection(*states) if states else set()
    names = ["+".join(stage for stage in state if stage not in common) for state in states]
    return [name or TEST_SET for name in names]


def _file_names(solver: caffe_pb2.SolverParameter, tests: int) -> list[str]:
    """The names of the files of a solver's test nets without their extension, "" without a file."""
    names = [""] * len(solver.test_net_param) + list(solver.test_net)
    names += [solver.net] * (tests - len(names))
    return [os.path.splitext(os.path.basename(name))[0] for name in names]


def chosen_sets(names: Sequence[str], report: str | int, select: str | None) -> Sets:
    """Return the sets with the two that a user chooses.

    Args:
        names: The names of all sets.
        report: The set that is reported, by its name or the index of its test net.
        select: The set that decides, in the same way (None: the set that is reported).

    Raises:
        InputError: There is no test net, or none has the name or the index.
    """
    if not names:
        if report or select is not None:
            raise InputError(
                "the solver has no test net, so --test-net and --select have nothing to choose: "
                "give it test_iter, test_interval and a net with a TEST phase"
            )
        return Sets(())
    reported = _index(names, report, "--test-net")
    return Sets(
        tuple(names), reported, reported if select is None else _index(names, select, "--select")
    )


def _index(names: Sequence[str], choice: str | int, option: str) -> int:
    """The index of the set that a user names."""
    if choice in names:
        return names.index(str(choice))
    text = str(choice)
    if not re.fullmatch(r"-?\d+", text):
        raise InputError(
            "%s: the solver does not have a test net %r%s" % (option, text, suggestion(text, names))
        )
    index = int(text)
    if not 0 <= index < len(names):
        raise InputError(
            "%s: invalid test net %d, expected a number from 0 to %d: the solver has %d test net%s"
            % (option, index, len(names) - 1, len(names), "" if len(names) == 1 else "s")
        )
    return index
