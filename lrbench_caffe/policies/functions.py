"""The formulas of the learning rate functions.

Every function follows Formula 2 of the paper::

    lr(t) = |k0 - k1| * g(t) + min(k0, k1)

t is the iteration about to run, counted from 0. This module holds the g(t) of each function, with
values from 0 to 1. FUNCTIONS are the paper's 13 functions (Table I). SGDR is an addition.

Each formula works on a Python int and on a NumPy array of iterations. Its argument ``ops`` brings
the operations that differ between the two:

>>> step(25, SCALAR, gamma=0.5, l=10)
0.25
>>> step(np.array([0, 9, 10, 25]), ARRAY, gamma=0.5, l=10).tolist()
[1.0, 1.0, 0.5, 0.25]

The formulas do not check their arguments. :class:`lrbench_caffe.policies.Policy` does.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    Number = Any  # a number or an array of numbers; mypy has no type for abs() of such a union
    Formula = Callable[..., Any]  # (t, ops, **parameters) -> g(t)

MAX_ITERATION = 2**53  # a float represents every integer up to this one exactly


class Operations:
    """The operations of a formula that depend on whether t is an int or an array.

    Attributes:
        sin: The sine of an angle in radians.
        cos: The cosine of an angle in radians.
        count_passed: ``count_passed(milestones, t)``: how many of the sorted milestones are <= t.
    """

    def __init__(
        self,
        sin: Callable[[Any], Number],
        cos: Callable[[Any], Number],
        count_passed: Callable[[Any, Any], Number],
    ) -> None:
        self.sin = sin
        self.cos = cos
        self.count_passed = count_passed


SCALAR = Operations(sin=math.sin, cos=math.cos, count_passed=bisect_right)
ARRAY = Operations(
    sin=np.sin,
    cos=np.cos,
    count_passed=functools.partial(np.searchsorted, side="right"),
)


def fix(t: Number, ops: Operations) -> Number:
    """FIX: a constant rate.

    Table I gives lr(t) = k0, which is Formula 2 with k1 = 0 and::

        g(t) = 1

    Args:
        t: Iteration, counted from 0. It has no influence.
        ops: SCALAR or ARRAY. It has no influence.

    Returns:
        1.0, also for an array t.

    Example:
        >>> fix(7, SCALAR)
        1.0
    """
    return 1.0


def step(t: Number, ops: Operations, gamma: float, l: int) -> Number:
    """STEP: the rate is multiplied by gamma after every l iterations.

    Table I::

        g(t) = gamma ^ floor(t / l)

    Args:
        t: Iteration, counted from 0.
        ops: SCALAR for an int t, ARRAY for an array t.
        gamma: Factor of each step, above 0 and at most 1. With 1 the rate is constant.
        l: Iterations between two steps, at least 1. The first step is at iteration l.

    Returns:
        g(t), a float or an array of the shape of t.

    Example:
        >>> step(np.array([0, 9, 10, 20]), ARRAY, gamma=0.5, l=10).tolist()
        [1.0, 1.0, 0.5, 0.25]
    """
    return gamma ** (t // l)


def nstep(t: Number, ops: Operations, gamma: float, l: tuple[int, ...]) -> Number:
    """NSTEP: the rate is multiplied by gamma at each of the given iterations.

    Table I::

        g(t) = gamma ^ i, where i is the number of steps l_0 < l_1 < ... that are <= t

    Args:
        t: Iteration, counted from 0.
        ops: SCALAR for an int t, ARRAY for an array t.
        gamma: Factor of each step, above 0 and at most 1. With 1 the rate is constant.
        l: Iterations of the steps in increasing order, each at least 1.

    Returns:
        g(t), a float or an array of the shape of t.

    Example:
        >>> nstep(np.array([0, 4999, 5000, 7000]), ARRAY, gamma=0.5, l=(5000, 7000)).tolist()
        [1.0, 1.0, 0.5, 0.25]
    """
    return gamma ** ops.count_passed(l, t)


def exp(t: Number, ops: Operations, gamma: float) -> Number:
    """EXP: the rate is multiplied by gamma in each iteration.

    Table I::

        g(t) = gamma ^ t

    Args:
        t: Iteration, counted from 0.
        ops: SCALAR for an int t, ARRAY for an array t.
        gamma: Factor of each iteration, above 0 and at most 1, usually close to 1.

    Returns:
        g(t), a float or an array of the shape of t. It is 0.0 once gamma ^ t is too small for a
        float.

    Example:
        >>> exp(np.array([0, 1, 3]), ARRAY, gamma=0.5).tolist()
        [1.0, 0.5, 0.125]
    """
    return gamma**t


def inv(t: Number, ops: Operations, gamma: float, p: float) -> Number:
    """INV: the inverse of a power of the time.

    Table I::

        g(t) = 1 / (1 + gamma * t) ^ p

    Args:
        t: Iteration, counted from 0.
        ops: SCALAR for an int t, ARRAY for an array t.
        gamma: Speed of the decay per iteration, above 0. Unlike in the other functions it may be
            above 1.
        p: Power of the decay, above 0.

    Returns:
        g(t), a float or an array of the shape of t.

    Example:
        >>> inv(np.array([0, 30000]), ARRAY, gamma=0.0001, p=0.5).tolist()
        [1.0, 0.5]
    """
    return (1.0 + gamma * t) ** -p


def poly(t: Number, ops: Operations, p: float, l: int) -> Number:
    """POLY: a polynomial that reaches its minimum at iteration l.

    Table I::

        g(t) = (1 - t / l) ^ p

    Args:
        t: Iteration, counted from 0, at most l. The formula is undefined beyond l.
        ops: SCALAR for an int t, ARRAY for an array t.
        p: Power of the decay, above 0. With 1 the decay is a straight line.
        l: Total number of iterations, at least 1.

    Returns:
        g(t), a float or an array of the shape of t.

    Example:
        >>> poly(np.array([0, 50, 75, 100]), ARRAY, p=2.0, l=100).tolist()
        [1.0, 0.25, 0.0625, 0.0]
    """
    return (1.0 - t / l) ** p


def tri(t: Number, ops: Operations, l: int) -> Number:
    """TRI: straight lines from 0 to 1 in l iterations and back to 0 in the next l.

    Table I::

        g(t) = 2/pi * |asin(sin(pi * t / (2 l)))|

    The code computes the same triangle without the rounding errors of asin.

    Args:
        t: Iteration, counted from 0.
        ops: SCALAR for an int t, ARRAY for an array t.
        l: Iterations of half a cycle, at least 1. The maximum is at iteration l.

    Returns:
        g(t), a float or an array of the shape of t.

    Example:
        >>> tri(np.array([0, 1000, 2000, 3000, 4000]), ARRAY, l=2000).tolist()
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    return 1.0 - abs(t % (2 * l) - l) / l


def tri2(t: Number, ops: Operations, l: int) -> Number:
    """TRI2: TRI with half the height after each cycle.

    Table I::

        g(t) = TRI(t) / 2 ^ floor(t / (2 l))

    Args:
        t: Iteration, counted from 0.
        ops: SCALAR for an int t, ARRAY for an array t.
        l: Iterations of half a cycle, at least 1. The first maximum is at iteration l.

    Returns:
        g(t), a float or an array of the shape of t.

    Example:
        >>> tri2(np.array([0, 10, 20, 30, 50]), ARRAY, l=10).tolist()
        [0.0, 1.0, 0.0, 0.5, 0.25]
    """
    return tri(t, ops, l) * 0.5 ** (t // (2 * l))


def triexp(t: Number, ops: Operations, gamma: float, l: int) -> Number:
    """TRIEXP: TRI with a height that decays in each iteration.

    Table I::

        g(t) = TRI(t) * gamma ^ t

    Args:
        t: Iteration, counted from 0.
        ops: SCALAR for an int t, ARRAY for an array t.
        gamma: Factor of each iteration, above 0 and at most 1, usually close to 1.
        l: Iterations of half a cycle, at least 1.

    Returns:
        g(t), a float or an array of the shape of t. The maximum of 1 is not reached if gamma < 1.

    Example:
        >>> triexp(np.array([0, 1, 2, 3]), ARRAY, gamma=0.5, l=2).tolist()
        [0.0, 0.25, 0.25, 0.0625]
    """
    return tri(t, ops, l) * gamma**t


def sin(t: Number, ops: Operations, l: int) -> Number:
    """SIN: arcs of a sine from 0 to 1 in l iterations and back to 0 in the next l.

    Table I::

        g(t) = |sin(pi * t / (2 l))|

    Args:
        t: Iteration, counted from 0.
        ops: SCALAR for an int t, ARRAY for an array t.
        l: Iterations of half a cycle, at least 1. The maximum is at iteration l.

    Returns:
        g(t), a float or an array of the shape of t.

    Example:
        >>> sin(np.array([0, 2, 6, 10, 12]), ARRAY, l=6).round(9).tolist()
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    return abs(ops.sin(math.pi / (2 * l) * t))


def sin2(t: Number, ops: Operations, l: int) -> Number:
    """SIN2: SIN with half the height after each cycle.

    Table I::

        g(t) = SIN(t) / 2 ^ floor(t / (2 l))

    Args:
        t: Iteration, counted from 0.
        ops: SCALAR for an int t, ARRAY for an array t.
        l: Iterations of half a cycle, at least 1. The first maximum is at iteration l.

    Returns:
        g(t), a float or an array of the shape of t.

    Example:
        >>> sin2(np.array([0, 6, 12, 18, 30]), ARRAY, l=6).round(9).tolist()
        [0.0, 1.0, 0.0, 0.5, 0.25]
    """
    return sin(t, ops, l) * 0.5 ** (t // (2 * l))


def sinexp(t: Number, ops: Operations, gamma: float, l: int) -> Number:
    """SINEXP: SIN with a height that decays in each iteration.

    Table I::

        g(t) = SIN(t) * gamma ^ t

    Args:
        t: Iteration, counted from 0.
        ops: SCALAR for an int t, ARRAY for an array t.
        gamma: Factor of each iteration, above 0 and at most 1, usually close to 1.
        l: Iterations of half a cycle, at least 1.

    Returns:
        g(t), a float or an array of the shape of t. The maximum of 1 is not reached if gamma < 1.

    Example:
        >>> sinexp(np.array([0, 1, 3]), ARRAY, gamma=0.5, l=3).round(9).tolist()
        [0.0, 0.25, 0.125]
    """
    return sin(t, ops, l) * gamma**t


def cos(t: Number, ops: Operations, l: int) -> Number:
    """COS: a cosine from 1 to 0 in l iterations and back to 1 in the next l.

    Table I::

        g(t) = (1 + cos(pi * t / l)) / 2

    Args:
        t: Iteration, counted from 0.
        ops: SCALAR for an int t, ARRAY for an array t.
        l: Iterations of half a cycle, at least 1. The minimum is at iteration l.

    Returns:
        g(t), a float or an array of the shape of t.

    Example:
        >>> cos(np.array([0, 1, 2, 3, 6]), ARRAY, l=3).round(9).tolist()
        [1.0, 0.75, 0.25, 0.0, 1.0]
    """
    return (1.0 + ops.cos(math.pi / l * t)) / 2.0


def sgdr(t: Number, ops: Operations, l: int, mult: int = 1) -> Number:
    """SGDR: a cosine from 1 to 0 that restarts at 1 after each cycle.

    The formula is not in the paper. It is from "SGDR: Stochastic Gradient Descent with Warm
    Restarts" (Loshchilov and Hutter, 2017), where l is T_0 and mult is T_mult::

        g(t) = (1 + cos(pi * u / c)) / 2

    c is the length of the current cycle, and u is the number of iterations since its start.

    Args:
        t: Iteration, counted from 0.
        ops: SCALAR for an int t, ARRAY for an array t.
        l: Iterations of the first cycle, at least 1. A cycle of COS has 2 l.
        mult: Ratio of the lengths of two successive cycles, a whole number of at least 1.

    Returns:
        g(t), a float or an array of the shape of t.

    Example:
        The second cycle begins at iteration 10 and has 20 iterations:

        >>> sgdr(np.array([0, 5, 10, 20, 30]), ARRAY, l=10, mult=2).round(9).tolist()
        [1.0, 0.5, 1.0, 0.5, 1.0]
    """
    if mult == 1:
        return cos(t % l, ops, l)
    cycle = ops.count_passed(_restarts(l, mult), t)
    length = l * mult**cycle
    start = (length - l) // (mult - 1)  # the sum of the lengths of all earlier cycles
    return (1.0 + ops.cos(math.pi / length * (t - start))) / 2.0


@functools.lru_cache(maxsize=64)
def _restarts(l: int, mult: int) -> tuple[int, ...]:
    """The first iterations of the second and all later cycles, up to MAX_ITERATION."""
    starts = [l]
    while starts[-1] <= MAX_ITERATION:
        starts.append(starts[-1] * mult + l)
    return tuple(starts[:-1])


# The functions of Table I by name.
FUNCTIONS: dict[str, Formula] = {
    "FIX": fix,
    "STEP": step,
    "NSTEP": nstep,
    "EXP": exp,
    "INV": inv,
    "POLY": poly,
    "TRI": tri,
    "TRI2": tri2,
    "TRIEXP": triexp,
    "SIN": sin,
    "SIN2": sin2,
    "SINEXP": sinexp,
    "COS": cos,
}
CYCLIC = ("TRI", "TRI2", "TRIEXP", "SIN", "SIN2", "SINEXP", "COS", "SGDR")
