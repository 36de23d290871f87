"""PLATEAU: its memory of the evaluations so far, and the learning rate that follows from it.

PLATEAU starts at the rate k0. It lowers the rate by the factor gamma when l iterations have passed
since the last improvement of the metric ``of``, and again after l more iterations without an
improvement. An improvement is a change of at least ``threshold`` in the right direction. The rate
does not fall below the floor k1.

>>> from types import SimpleNamespace
>>> parameters = {"k0": 0.1, "gamma": 0.5, "l": 100}
>>> memory = begin(0)
>>> for iteration, test_loss in ((0, 2.3), (50, 1.1), (100, 1.4), (150, 1.2)):
...     row = SimpleNamespace(iteration=iteration, test_loss=test_loss)
...     memory = observe(parameters, memory, row)
>>> memory
Memory(start=0, best=1.1, since=150, lowered=1)
>>> rate(parameters, memory)
0.05
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from lrbench_caffe.trial import Evaluation

# About the smallest learning rate that Caffe's float32 holds with full precision. The rate does not
# fall below it without a k1, and a smaller change of the metric is not an improvement.
SMALLEST = 1.2e-38


class Memory(NamedTuple):
    """What a PLATEAU remembers between two evaluations. JSON can hold it as a list.

    Attributes:
        start: The iteration at which the PLATEAU began.
        best: The best value of the metric so far, None before the first value.
        since: The iteration of the last improvement or of the last lowering, whichever is later.
        lowered: How many times the rate was lowered.
    """

    start: int
    best: float | None
    since: int
    lowered: int


def begin(start: int) -> Memory:
    """Return the memory of a PLATEAU that begins at iteration start."""
    return Memory(start, None, start, 0)


def observe(parameters: dict[str, Any], memory: Memory, row: Evaluation) -> Memory:
    """Return the memory after one more evaluation.

    Args:
        parameters: The parameters of the PLATEAU.
        memory: The memory after the evaluation before.
        row: The evaluation: an object with iteration and the metric as attributes. If the metric
            is None, as train_loss is in the first row of a training, the memory does not change.
    """
    metric = parameters.get("of", "test_loss")
    value = getattr(row, metric)
    if value is None:
        return memory
    least_gain = max(parameters.get("threshold", 0.0), SMALLEST)
    if memory.best is None or _gain(metric, value, memory.best) >= least_gain:
        return memory._replace(best=value, since=row.iteration)
    if row.iteration - memory.since >= parameters["l"]:
        return memory._replace(since=row.iteration, lowered=memory.lowered + 1)
    return memory


def _gain(metric: str, value: float, best: float) -> float:
    """The improvement of value over best: an accuracy rises, a loss falls."""
    return value - best if metric == "top1" else best - value


def rate(parameters: dict[str, Any], memory: Memory) -> float:
    """Return the learning rate until the next evaluation.

    It is max(k0 * gamma ^ lowered, k1), and never 0.
    """
    return float(
        max(
            parameters["k0"] * parameters["gamma"] ** memory.lowered,
            parameters.get("k1", 0.0),
            min(SMALLEST, parameters["k0"]),
        )
    )
