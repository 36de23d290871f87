"""The deploy net of a solver, made in a process of its own as a training is."""

from __future__ import annotations

import os
from typing import Any

from lrbench_caffe.errors import InputError, TrialError
from lrbench_caffe.study.child import PROBLEMS, child_process
from lrbench_caffe.study.process import check_caffe
from lrbench_caffe.study.stop import interruptible
from lrbench_caffe.trial import Job


def deploy_net(solver: str | os.PathLike[str], **options: Any) -> str:
    """Make the net that classifies with the weights of a solver, from data alone.

    An Input takes the place of each data layer of the test net, and a Softmax that of its loss. The
    net has the layers on which the output of the head depends, with their names. Its batch has one
    image. Without a test net, it is made from the training net.

    Args:
        solver: The path of a solver prototxt. Its data must exist, because they have the shape of
            the input.
        **options: Fields of :class:`lrbench_caffe.trial.Job`, such as ``data="data"`` or
            ``head="fine"``.

    Returns:
        The prototxt. Its first lines are comments: the shape of the input, what the data layer did
        with an image, and the output.

    Raises:
        InputError: The solver cannot be trained, or a deploy net cannot be made of its net.
        TrialError: Caffe cannot build the deploy net.
        KeyboardInterrupt: After Ctrl-C.

    Example:
        >>> text = deploy_net("solvers/digits_solver.prototxt", data="data")  # doctest: +SKIP
    """
    check_caffe()
    # The net does not depend on the policy. The solver's own schedule may be incomplete.
    job = Job(os.fspath(solver), **dict({"policy": "FIX(k0=0.01)"}, **options))
    text: str | None = None
    problem: InputError | TrialError | None = None
    with interruptible() as stop, child_process(
        job, threads=1, log=None, only="deploy"
    ) as child, stop.reaching(child):
        for kind, content in child.events():
            if kind == "deploy":
                text = content
            elif kind in PROBLEMS:
                problem = PROBLEMS[kind](content)
        if text is None and problem is None and not stop.requests:
            reason = "a deploy net of %s cannot be made: %s" % (job.solver, child.death())
            problem = TrialError(reason)
    if text is None:
        assert problem is not None  # only a stop prevents both, and interruptible() raises then
        raise problem
    return text
