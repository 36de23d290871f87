"""PLATEAU: what it remembers of the evaluations that it has seen, and the rate that follows.

The rate is k0 until l iterations have passed without an improvement, of at least threshold, of what it looks at; then it is
lowered by gamma, and again after l more, but not below the floor k1.  A row is anything with an ``iteration`` and what is
looked at by its name, as :class:`lrbench_caffe.trial.Evaluation` has them.
"""

from typing import NamedTuple, Optional

LEAST = 1.2e-38  # where the floor is 0: about the smallest rate that Caffe's float32 holds with all its digits


class Memory(NamedTuple):
    """start: the iteration at which this PLATEAU began; best: the best value so far (None: it has seen none); since: the
    iteration of the last improvement or lowering; lowered: how many times the rate was lowered.
    """

    start: int
    best: Optional[float]
    since: int
    lowered: int


def begin(start):
    """The memory of a PLATEAU that begins at an iteration."""
    return Memory(start, None, start, 0)


def observe(values, memory, row):
    """The memory after one more evaluation; values are the PLATEAU's parameters.

    A row without a value, as the first one is without a train loss, changes nothing.
    """
    of = values.get("of", "test_loss")
    value = getattr(row, of)
    if value is None:
        return memory
    if memory.best is None or _gain(of, value, memory.best) >= max(
        values.get("threshold", 0.0), LEAST
    ):
        return memory._replace(best=value, since=row.iteration)
    if row.iteration - memory.since >= values["l"]:
        return memory._replace(since=row.iteration, lowered=memory.lowered + 1)
    return memory


def _gain(of, value, best):
    return value - best if of == "top1" else best - value


def rate(values, memory):
    """The learning rate until the next evaluation: k0 * gamma ^ lowered, not below k1."""
    return max(
        values["k0"] * values["gamma"] ** memory.lowered,
        values.get("k1", 0.0),
        min(LEAST, values["k0"]),
    )
