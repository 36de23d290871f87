"""Learning rate schedules as points to draw: of a policy, and of a recorded trial."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Callable, Sequence

import numpy as np

from lrbench_caffe.policies import Composition

if TYPE_CHECKING:
    from lrbench_caffe.policies import Policy

    Schedule = Callable[[np.ndarray], np.ndarray]

MAX_SAMPLES = 1000000  # a schedule is evaluated at no more iterations than this


def typical_length(policy: Policy) -> int | None:
    """Return the number of iterations that shows the shape of a policy.

    This is three cycles of a cyclic function or of SGDR, six steps of STEP, all steps of NSTEP
    plus a fifth, l of POLY and the patience of PLATEAU. A composition is shown up to its last
    piece, plus the typical length of that piece (if it has none, for as long again).

    Args:
        policy: A single policy or a composition.

    Returns:
        A number of iterations, or None for a function without a length, such as FIX.

    >>> from lrbench_caffe.policies import Policy
    >>> typical_length(Policy.parse("SIN(k0=0.01, k1=0.1, l=50)"))
    300
    """
    if isinstance(policy, Composition):
        start = sum(policy.lengths)
        return start + (typical_length(policy.pieces[-1]) or start)
    l: Any = policy.parameters.get("l")
    if l is None or policy.function in ("POLY", "PLATEAU"):
        return l
    if policy.function == "NSTEP":
        return int(1.2 * l[-1])
    if policy.function == "SGDR":
        mult: Any = policy.parameters.get("mult", 1)
        return l * (1 + mult + mult**2)
    return 6 * l  # l is half a cycle of a cyclic function


def sample_schedule(schedule: Schedule, last: int, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Sample a schedule for a plot, keeping its highest and lowest rates.

    Args:
        schedule: A function from an array of ascending iterations to their learning rates, such
            as a Policy. It may return nan for iterations that have no known rate.
        last: The last iteration to draw; the first one is 0.
        points: About how many points to return.

    Returns:
        Two arrays of the same length: iterations in ascending order, and their learning rates.
        Iterations without a known rate are left out.
    """
    t = np.arange(last + 1) if last < MAX_SAMPLES else _spread_iterations(last)
    lr = schedule(t)
    if len(t) > points:
        kept = _extremes(lr, points // 2)
        t, lr = t[kept], lr[kept]
    has_rate = ~np.isnan(lr)
    return t[has_rate], lr[has_rate]


def _spread_iterations(last: int) -> np.ndarray:
    """MAX_SAMPLES iterations from 0 to last at varying distances.

    Equal distances would meet every cycle of some schedules at the same phase.
    """
    n = np.arange(MAX_SAMPLES)
    t = np.floor((n + n * 0.6180339887 % 1) * ((last + 1) / MAX_SAMPLES)).astype(np.int64)
    t[0] = 0
    return np.append(t, last)


def _extremes(lr: np.ndarray, buckets: int) -> list[int]:
    """The ascending indexes of the ends, and of the lowest and highest rate in each bucket."""
    edges = np.linspace(0, len(lr), buckets + 1).astype(int)
    indexes = {0, len(lr) - 1}
    for start, end in zip(edges[:-1], edges[1:]):
        bucket = lr[start:end]
        indexes.update((start + int(np.argmin(bucket)), start + int(np.argmax(bucket))))
    return sorted(indexes)


def trial_schedule(policy: Policy | None, rows: Sequence[tuple[int, float | None]]) -> Schedule:
    """Return the learning rates of a recorded trial as a function of the iteration.

    The rates of most policies follow from the policy alone. A policy with memory is continued
    from each recorded rate. If the policy is unknown, the rates are interpolated between the
    recorded ones, and there is no rate (nan) before the first of them.

    Args:
        policy: The trial's policy, or None for a schedule that only Caffe implements.
        rows: The recorded (iteration, learning rate) pairs in ascending order; an imported rate
            may be None.

    Returns:
        A function from an array of ascending iterations to an array of learning rates.
    """
    if policy is not None and not policy.has_memory:
        return policy
    recorded = [(iteration, lr) for iteration, lr in rows if lr is not None]
    if policy is None:
        return functools.partial(_interpolated, recorded)
    return functools.partial(_continued, policy, recorded)


def _interpolated(recorded: list[tuple[int, float]], t: np.ndarray) -> np.ndarray:
    if not recorded:
        return np.full(len(t), np.nan)
    iterations, rates = zip(*recorded)
    return np.interp(t, iterations, rates, left=np.nan)


def _continued(policy: Policy, recorded: list[tuple[int, float]], t: np.ndarray) -> np.ndarray:
    """The rates of a policy with memory, restarted at each recorded rate."""
    rates = policy.schedule(None)(t)
    bounds = np.searchsorted(t, [iteration for iteration, _ in recorded] + [np.inf])
    for (iteration, lr), start, end in zip(recorded, bounds[:-1], bounds[1:]):
        if start < end:
            rates[start:end] = policy.schedule_from(iteration, lr)(t[start:end])
    return rates
