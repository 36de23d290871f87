"""Learning rate curves as points to draw: of a policy by itself, and of a trial as it went."""

import functools

import numpy as np

from lrbench_caffe.policies import Composition

SAMPLES = 1000000  # iterations that a curve is looked at, however long it is


def reach(policy):
    """How many iterations show what a policy does: three cycles, all steps, a PLATEAU's patience, the l of POLY, and so on for the
    last of several pieces; None for a function with no length of its own.
    """
    if isinstance(policy, Composition):
        start, last = sum(policy.parts[1::2]), policy.parts[-1]
        return start + (reach(last) or start)
    l = policy.parameters.get("l")
    if l is None or policy.function in ("POLY", "PLATEAU"):
        return l
    if policy.function == "NSTEP":
        return int(1.2 * l[-1])
    if policy.function == "SGDR":
        mult = policy.parameters.get("mult", 1)
        return l * (1 + mult + mult**2)
    return 6 * l  # of a cyclic function l is half a cycle


def thinned(rates, last, points):
    """(iterations, rates) from 0 to last as two arrays of about so many points, the highest and the lowest among them.

    rates is a function of an array of iterations, such as a Policy; where it gives nan there is no point.
    """
    if last < SAMPLES:
        t = np.arange(last + 1)
    else:  # at distances that vary, so that no cycle is always met at the same place
        n = np.arange(SAMPLES)
        t = np.append(
            np.floor((n + n * 0.6180339887 % 1) * ((last + 1) / SAMPLES)).astype(np.int64), last
        )
        t[0] = 0
    lr = rates(t)
    if len(t) > points:
        edges = np.linspace(0, len(t), points // 2 + 1).astype(int)
        chosen = {0, len(t) - 1}
        for start, end in zip(edges[:-1], edges[1:]):
            chosen.update(
                (start + int(np.argmin(lr[start:end])), start + int(np.argmax(lr[start:end])))
            )
        chosen = sorted(chosen)
        t, lr = t[chosen], lr[chosen]
    known = ~np.isnan(lr)
    return t[known], lr[known]


def measured(policy, rows):
    """The rates of a trial under a policy (None: one that only Caffe has) as a function of an array of ascending iterations.

    rows are its (iteration, lr) in order.  A policy with memory goes on from each at its rate; of a schedule that only Caffe has
    they are all that is known, and before the first it is nan.
    """
    if policy is not None and not policy.has_memory:
        return policy
    return functools.partial(
        _by_rows, policy, [(iteration, lr) for iteration, lr in rows if lr is not None]
    )


def _by_rows(policy, rows, t):
    if policy is None:
        return np.interp(t, *zip(*rows), left=np.nan) if rows else np.full(len(t), np.nan)
    rates = policy.schedule(None)(t)
    bounds = np.searchsorted(t, [iteration for iteration, _ in rows] + [np.inf])
    for (iteration, lr), start, end in zip(rows, bounds[:-1], bounds[1:]):
        if start < end:
            rates[start:end] = policy.schedule_from(iteration, lr)(t[start:end])
    return rates
