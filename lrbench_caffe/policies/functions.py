"""The formulas: the g(t) of each function, for a Python int with ``math`` and for an array of iterations with numpy.

Every function follows Formula 2, lr(t) = \\|k0 - k1\\| * g(t) + min(k0, k1).  FUNCTIONS are the paper's 13 (Table I); SGDR is what
Caffe's users asked for beside them.
"""

import functools
import math
from bisect import bisect_right
from types import SimpleNamespace

import numpy as np

MAX_ITERATION = 2**53  # up to here a float holds every iteration

# What a formula needs beyond Python's operators, for one iteration and for arrays of them.
SCALAR = SimpleNamespace(sin=math.sin, cos=math.cos, passed=bisect_right)
ARRAY = SimpleNamespace(
    sin=np.sin, cos=np.cos, passed=lambda l, t: np.searchsorted(l, t, side="right")
)


def fix(t, m):
    """G = 1, so that lr(t) = k0."""
    return 1.0


def step(t, m, gamma, l):
    """G = gamma ^ floor(t / l): a fixed step size of l iterations."""
    return gamma ** (t // l)


def nstep(t, m, gamma, l):
    """G = gamma ^ i, where i of the steps l_0 < l_1 < ... are <= t."""
    return gamma ** m.passed(l, t)


def exp(t, m, gamma):
    """G = gamma ^ t."""
    return gamma**t


def inv(t, m, gamma, p):
    """G = (1 + gamma * t) ^ -p."""
    return (1.0 + gamma * t) ** -p


def poly(t, m, p, l):
    """G = (1 - t / l) ^ p, where l is the total number of iterations; undefined beyond it."""
    return (1.0 - t / l) ** p


def tri(t, m, l):
    """G = 2/pi * abs(asin(sin(pi * t / (2 l)))): from 0 to 1 in l iterations and back, written without the rounding of asin."""
    return 1.0 - abs(t % (2 * l) - l) / l


def tri2(t, m, l):
    """G = TRI(t) / 2 ^ floor(t / (2 l)): halved after each cycle."""
    return tri(t, m, l) * 0.5 ** (t // (2 * l))


def triexp(t, m, gamma, l):
    """G = TRI(t) * gamma ^ t."""
    return tri(t, m, l) * gamma**t


def sin(t, m, l):
    """G = abs(sin(pi * t / (2 l))): from 0 to 1 in l iterations and back."""
    return abs(m.sin(math.pi / (2 * l) * t))


def sin2(t, m, l):
    """G = SIN(t) / 2 ^ floor(t / (2 l)): halved after each cycle."""
    return sin(t, m, l) * 0.5 ** (t // (2 * l))


def sinexp(t, m, gamma, l):
    """G = SIN(t) * gamma ^ t."""
    return sin(t, m, l) * gamma**t


def cos(t, m, l):
    """G = (1 + cos(pi * t / l)) / 2: from 1 to 0 in l iterations and back."""
    return (1.0 + m.cos(math.pi / l * t)) / 2.0


def sgdr(t, m, l, mult=1):
    """G = (1 + cos(pi * u / c)) / 2, where the cycle at hand began u iterations ago and has c of them.

    The first cycle has l, each of the others mult times as many as the one before (Loshchilov and Hutter 2017, T_0 and T_mult).
    """
    if mult == 1:
        return cos(t % l, m, l)
    cycle = m.passed(_restarts(l, mult), t)
    length = l * mult**cycle
    return (1.0 + m.cos(math.pi / length * (t - (length - l) // (mult - 1)))) / 2.0


@functools.lru_cache(maxsize=64)
def _restarts(l, mult):
    """Where the second and the later cycles begin, as far as iterations are counted."""
    starts = [l]
    while starts[-1] <= MAX_ITERATION:
        starts.append(starts[-1] * mult + l)
    return tuple(starts[:-1])


# Table I.
FUNCTIONS = {
    g.__name__.upper(): g
    for g in (fix, step, nstep, exp, inv, poly, tri, tri2, triexp, sin, sin2, sinexp, cos)
}
CYCLIC = ("TRI", "TRI2", "TRIEXP", "SIN", "SIN2", "SINEXP", "COS", "SGDR")
