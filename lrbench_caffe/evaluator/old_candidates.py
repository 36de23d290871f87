"""Candidates: learning rate policies that do not have a length yet (section V).

A candidate describes a policy in shares of the training: how many steps or cycles it has and at
which share of its first rate it ends. :meth:`Candidate.policy` makes it a policy of a given length.
The same candidate can therefore be tried in short trainings first and in long ones later.

Pure functions: nothing here trains or reads a database.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from lrbench_caffe.evaluator import loss_curve
from lrbench_caffe.policies import CYCLIC, Composition, Policy, parse_or_none

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrbench_caffe.ranking.ranges import Range
    from lrbench_caffe.trial import Trial

# All functions that are tuned, in the order in which they are tried: the best function of each
# kind first (cycles, steps, smooth decays), then the others. "Best" follows Tables VII to IX.
TUNED = (
    "SINEXP",
    "NSTEP",
    "COS",
    "SIN2",
    "TRIEXP",
    "POLY",
    "SIN",
    "TRI2",
    "TRI",
    "SGDR",
    "PLATEAU",
    "STEP",
    "EXP",
    "INV",
    "FIX",
)
DECAYS = ("STEP", "NSTEP", "EXP", "INV", "POLY")
EXPONENTIALS = ("EXP", "TRIEXP", "SINEXP")
PLATEAU_FUNCTIONS = ("NSTEP", "PLATEAU")  # their parameters can follow a plateau of the loss
FINAL_SHARE = 0.01  # of the first rate: where a decay ends by default (section V-B: not too small)
MIN_FINAL_SHARE = 1e-6  # a policy that ends below this share is treated as ending at it
INV_POWER = 0.75  # p of INV, as in Caffe's examples
NSTEP_SHARES = (0.5, 0.75, 0.9)  # of the training: NSTEP's steps if no plateau was observed
MAX_REDUCTIONS = 4  # of PLATEAU's rate
PATIENCE = 0.1  # of the training: PLATEAU's patience if no plateau was observed
_DECIMAL = re.compile(r"\b\d+(\.\d+(e[+-]?\d+)?|e[+-]?\d+)")
RATE_RESOLUTION = 2.6  # a little above 2.5, the largest ratio between neighbours in a range test


@dataclass(frozen=True)
class Candidate:
    """A learning rate policy of any length.

    Attributes:
        function: Name of the LR function, from :data:`TUNED`.
        high: Largest learning rate.
        low: Smallest learning rate of a cyclic function; 0 for other functions.
        count: Depends on the function: number of steps (STEP), of reductions of the rate (PLATEAU)
            or of cycles, or the power p (POLY).
        final: Last rate of a decay as a share of its first rate, for functions with the parameter
            gamma; 0 for other functions.
        shares: As shares of the training: NSTEP's steps, or PLATEAU's patience alone.
        warmup: Iterations of a linear warm-up, whatever the length, but at most a quarter of it.
    """

    function: str
    high: float
    low: float = 0.0
    count: float = 1
    final: float = 0.0
    shares: tuple[float, ...] = ()
    warmup: int = 0

    def policy(self, length: int, epoch: float | None = None) -> Policy:
        """Make the policy of a training.

        Args:
            length: Iterations of the training.
            epoch: Iterations in an epoch. If given, STEP's l and the warm-up are whole epochs,
                unless they are shorter than one.

        Returns:
            The policy; a composition with WARMUP first if the candidate has a warm-up.

        >>> str(Candidate("POLY", 0.1).policy(1000))
        'POLY(k0=0.1, p=1.0, l=1000)'
        """
        warmup = _whole(min(self.warmup, length / 4), epoch) if self.warmup else 0
        make_parameters = _PARAMETERS.get(self.function, _cycle_parameters)
        main = Policy(self.function, **make_parameters(self, length - warmup, epoch))
        if not warmup:
            return main
        return Composition(Policy("WARMUP", k0=_rate(self.high / 10)), warmup, main)


# From a candidate to the parameters of its policy


def _fix_parameters(candidate: Candidate, length: int, epoch: float | None) -> dict[str, Any]:
    return {"k0": _rate(candidate.high)}


def _step_parameters(candidate: Candidate, length: int, epoch: float | None) -> dict[str, Any]:
    l = _whole(length / (candidate.count + 1), epoch)
    gamma = _gamma(candidate.final, max(1, (length - 1) // l))
    return {"k0": _rate(candidate.high), "gamma": gamma, "l": l}


def _nstep_parameters(candidate: Candidate, length: int, epoch: float | None) -> dict[str, Any]:
    steps = sorted({_whole(share * length) for share in candidate.shares})
    gamma = _gamma(candidate.final, len(steps))
    return {"k0": _rate(candidate.high), "gamma": gamma, "l": steps}


def _exp_parameters(candidate: Candidate, length: int, epoch: float | None) -> dict[str, Any]:
    return {"k0": _rate(candidate.high), "gamma": _gamma(candidate.final, length)}


def _inv_parameters(candidate: Candidate, length: int, epoch: float | None) -> dict[str, Any]:
    gamma = _digits((candidate.final ** (-1 / INV_POWER) - 1) / length, 3)
    return {"k0": _rate(candidate.high), "gamma": gamma, "p": INV_POWER}


def _poly_parameters(candidate: Candidate, length: int, epoch: float | None) -> dict[str, Any]:
    return {"k0": _rate(candidate.high), "p": candidate.count, "l": length}


def _cos_parameters(candidate: Candidate, length: int, epoch: float | None) -> dict[str, Any]:
    l = math.ceil(length / (2 * candidate.count - 1))
    return {"k0": _rate(candidate.high), "k1": _rate(candidate.low), "l": l}


def _sgdr_parameters(candidate: Candidate, length: int, epoch: float | None) -> dict[str, Any]:
    l = math.ceil(length / (2**candidate.count - 1))
    return {"k0": _rate(candidate.high), "k1": _rate(candidate.low), "l": l, "mult": 2}


def _plateau_parameters(candidate: Candidate, length: int, epoch: float | None) -> dict[str, Any]:
    return {
        "k0": _rate(candidate.high),
        "k1": _rate(candidate.high * min(candidate.final, 0.5)),
        "gamma": _gamma(candidate.final, candidate.count),
        "l": _whole(candidate.shares[0] * length),
    }


def _cycle_parameters(candidate: Candidate, length: int, epoch: float | None) -> dict[str, Any]:
    """Make the parameters of a cycle that begins at its smallest rate."""
    parameters = {
        "k0": _rate(candidate.low),
        "k1": _rate(candidate.high),
        "l": _whole(length / (2 * candidate.count)),
    }
    if candidate.final:
        parameters["gamma"] = _gamma(candidate.final, length)
    return parameters


_PARAMETERS: dict[str, Callable[[Candidate, int, float | None], dict[str, Any]]] = {
    "FIX": _fix_parameters,
    "STEP": _step_parameters,
    "NSTEP": _nstep_parameters,
    "EXP": _exp_parameters,
    "INV": _inv_parameters,
    "POLY": _poly_parameters,
    "COS": _cos_parameters,
    "SGDR": _sgdr_parameters,
    "PLATEAU": _plateau_parameters,
}


# From a policy to its candidate


def from_text(text: str, length: int) -> Candidate | None:
    """Find the candidate of a policy's text, as a database has it.

    Args:
        text: A policy, e.g. ``"FIX(k0=0.1)"``.
        length: Iterations of the training that used it.

    Returns:
        The candidate, or None as for :func:`from_policy` or if the text is not a policy.
    """
    policy = parse_or_none(text)
    return from_policy(policy, length) if policy else None


def from_policy(policy: Policy, length: int) -> Candidate | None:
    """Find the candidate of a policy: the inverse of :meth:`Candidate.policy`.

    Args:
        policy: A policy, with or without a warm-up.
        length: Iterations of the training that used it.

    Returns:
        The candidate, or None if the rules of this module do not make such a policy.

    >>> from_policy(Policy.parse("FIX(k0=0.1)"), 1000).high
    0.1
    """
    if isinstance(policy, Composition):
        return _from_composition(policy, length)
    parameters = policy.parameters
    if policy.function not in TUNED:
        return None
    if policy.function == "PLATEAU" and parameters["gamma"] == 1:
        return None
    k0, k1 = parameters["k0"], parameters.get("k1", 0.0)
    candidate = Candidate(policy.function, max(k0, k1), min(k0, k1))
    read_parameters = _READERS.get(policy.function, _read_cycle)
    return read_parameters(candidate, parameters, length)


def _from_composition(policy: Composition, length: int) -> Candidate | None:
    if len(policy.parts) > 3:
        return None
    before, warmup, main = cast("tuple[Policy, int, Policy]", policy.parts)
    if before.function != "WARMUP" or warmup >= length:
        return None
    candidate = from_policy(main, length - warmup)
    return candidate and dataclasses.replace(candidate, warmup=warmup)


def _read_step(candidate: Candidate, parameters: dict[str, Any], length: int) -> Candidate:
    count = max(1, (length - 1) // parameters["l"])
    final = max(parameters["gamma"] ** count, MIN_FINAL_SHARE)
    return dataclasses.replace(candidate, low=0.0, count=count, final=final)


def _read_nstep(candidate: Candidate, parameters: dict[str, Any], length: int) -> Candidate | None:
    shares = tuple(step / length for step in parameters["l"] if step < length)
    if not shares:
        return None
    final = max(parameters["gamma"] ** len(shares), MIN_FINAL_SHARE)
    return dataclasses.replace(candidate, low=0.0, shares=shares, final=final)


def _read_exp(candidate: Candidate, parameters: dict[str, Any], length: int) -> Candidate:
    final = max(parameters["gamma"] ** length, MIN_FINAL_SHARE)
    return dataclasses.replace(candidate, low=0.0, final=final)


def _read_inv(candidate: Candidate, parameters: dict[str, Any], length: int) -> Candidate:
    final = (1 + parameters["gamma"] * length) ** -INV_POWER
    return dataclasses.replace(candidate, low=0.0, final=final)


def _read_poly(candidate: Candidate, parameters: dict[str, Any], length: int) -> Candidate:
    return dataclasses.replace(candidate, low=0.0, count=parameters["p"])


def _read_cos(candidate: Candidate, parameters: dict[str, Any], length: int) -> Candidate:
    count = max(1, round((length / parameters["l"] + 1) / 2))
    return dataclasses.replace(candidate, count=count)


def _read_sgdr(candidate: Candidate, parameters: dict[str, Any], length: int) -> Candidate:
    count = max(1, round((length / parameters["l"] + 1) ** 0.5))
    return dataclasses.replace(candidate, count=count)


def _read_plateau(candidate: Candidate, parameters: dict[str, Any], length: int) -> Candidate:
    gamma, l = parameters["gamma"], parameters["l"]
    if candidate.low:
        final = candidate.low / candidate.high
    else:
        final = max(gamma ** max(1, length // l - 1), MIN_FINAL_SHARE)
    count = max(1, round(math.log(final) / math.log(gamma)))
    return dataclasses.replace(candidate, low=0.0, count=count, final=final, shares=(l / length,))


def _read_cycle(candidate: Candidate, parameters: dict[str, Any], length: int) -> Candidate:
    """Read FIX, and the cycles that begin at their smallest rate."""
    if candidate.function in EXPONENTIALS:
        final = max(parameters["gamma"] ** length, MIN_FINAL_SHARE)
        candidate = dataclasses.replace(candidate, final=final)
    if "l" not in parameters:
        return candidate
    return dataclasses.replace(candidate, count=max(1, round(length / (2 * parameters["l"]))))


_READERS: dict[str, Callable[[Candidate, dict[str, Any], int], Candidate | None]] = {
    "STEP": _read_step,
    "NSTEP": _read_nstep,
    "EXP": _read_exp,
    "INV": _read_inv,
    "POLY": _read_poly,
    "COS": _read_cos,
    "SGDR": _read_sgdr,
    "PLATEAU": _read_plateau,
}


# The candidates to try


def first(function: str, good: Range) -> tuple[Candidate, str]:
    """Make the first candidate of a function by the paper's rules (section V-B).

    Policies that begin at their largest rate begin at the best constant rate. Cycles rise from a
    tenth of the good range's lower end to its upper end. Cycles with an exponential decay rise to
    twice the upper end, because the decay keeps them below it: SINEXP's single cycle peaks after
    30 % of the training, at 0.8 times the upper end.

    Args:
        function: An LR function from :data:`TUNED`.
        good: The good range of constant rates.

    Returns:
        The candidate, and the reason for its rates as a sentence.
    """
    low = good.low / 10
    if function == "FIX":
        return Candidate("FIX", good.best), "the best constant rate"
    if function == "PLATEAU":
        return (
            Candidate(
                function, good.best, count=MAX_REDUCTIONS, final=FINAL_SHARE, shares=(PATIENCE,)
            ),
            "k0 is the best constant rate; PLATEAU lowers it when the loss stops improving",
        )
    if function in DECAYS:
        return _first_decay(function, good.best), "k0 is the best constant rate"
    count = 2 if function in ("TRI2", "SIN2", "SGDR") else 1
    if function in ("COS", "SGDR"):
        return (
            Candidate(function, good.best, low, count),
            "from the best constant rate down to a tenth of the good range's lower end",
        )
    if function in EXPONENTIALS:
        return (
            Candidate(function, min(1.0, 2 * good.high), low, count, final=0.1),
            "from a tenth of the good range's lower end to twice its upper end,"
            " because the decay lowers the peak",
        )
    return (
        Candidate(function, good.high, low, count),
        "from a tenth of the good range's lower end to its upper end",
    )


def _first_decay(function: str, rate: float) -> Candidate:
    return Candidate(
        function,
        rate,
        count=3 if function == "STEP" else 1,
        final=0.1 if function == "INV" else FINAL_SHARE,
        shares=NSTEP_SHARES if function == "NSTEP" else (),
    )


def neighbours(
    candidate: Candidate, factor: float, good: Range, warmup: int
) -> list[tuple[Candidate, str]]:
    """List the candidates that differ from a candidate in one respect.

    Args:
        candidate: Where to start.
        factor: Ratio by which the largest rate is raised and lowered.
        good: The good range of constant rates. A policy that begins above the best of them gets
            a warm-up.
        warmup: Iterations of such a warm-up, e.g. from
            :func:`lrbench_caffe.evaluator.loss_curve.warmup_length`.

    Returns:
        Each neighbour with a description of its difference, e.g. "the largest rate times 2".
    """
    lower = dataclasses.replace(candidate, high=candidate.high / factor)
    changes = [
        *_raised(candidate, factor, good, warmup),
        (lower, "the largest rate divided by %g" % factor),
        *_other_ends(candidate),
        *_other_shapes(candidate),
    ]
    return [
        (neighbour, change)
        for neighbour, change in changes
        if neighbour.high <= 1 and (neighbour.final < 1 or neighbour.final == candidate.final)
    ]


def _raised(
    candidate: Candidate, factor: float, good: Range, warmup: int
) -> list[tuple[Candidate, str]]:
    """List the candidate with a larger rate, and with a longer warm-up if it has one."""
    higher = dataclasses.replace(candidate, high=candidate.high * factor)
    change = "the largest rate times %g" % factor
    if candidate.warmup:
        longer = dataclasses.replace(candidate, warmup=2 * candidate.warmup)
        return [(longer, "a warm-up twice as long"), (higher, change)]
    if _starts_high(candidate) and higher.high > good.best:
        higher = dataclasses.replace(higher, warmup=warmup)
        reason = "that is above the best constant rate, and the loss took %d iterations to fall"
        return [(higher, "%s and a warm-up: %s" % (change, reason % warmup))]
    return [(higher, change)]


def _other_ends(candidate: Candidate) -> list[tuple[Candidate, str]]:
    """List the candidate with other smallest and final rates."""
    changes = []
    if candidate.low:
        lower = dataclasses.replace(candidate, low=candidate.low / 10)
        changes.append((lower, "the smallest rate divided by 10"))
    if candidate.final:
        lower = dataclasses.replace(candidate, final=candidate.final / 10)
        higher = dataclasses.replace(candidate, final=candidate.final * 5)
        changes.append((lower, "the final rate divided by 10"))
        changes.append((higher, "the final rate times 5"))
    return changes


def _other_shapes(candidate: Candidate) -> list[tuple[Candidate, str]]:
    """List the candidate with another power or patience, or with one more step or cycle."""
    if candidate.function == "POLY":
        return [
            (dataclasses.replace(candidate, count=power), "power %g" % power) for power in (0.5, 2)
        ]
    if candidate.function == "PLATEAU":
        (patience,) = candidate.shares
        return [
            (dataclasses.replace(candidate, shares=(factor * patience,)), "%s the patience" % word)
            for factor, word in ((0.5, "half"), (2, "twice"))
        ]
    if candidate.function in (*CYCLIC, "STEP"):
        count = candidate.count + 1
        unit = "steps" if candidate.function == "STEP" else "cycles"
        return [(dataclasses.replace(candidate, count=count), "%d %s" % (count, unit))]
    return []


def from_plateau(function: str, good: Range, trial: Trial) -> tuple[Candidate, str] | None:
    """Make NSTEP or PLATEAU from the plateau of a trial's loss under a constant rate (figure 5).

    NSTEP's first step is where the loss stopped improving; each further step is at half of the
    rest. PLATEAU's patience is at least the trial's longest wait for an improvement, and otherwise
    such that up to :data:`MAX_REDUCTIONS` reductions fit into the rest of the training.

    Args:
        function: "NSTEP" or "PLATEAU".
        good: The good range of constant rates.
        trial: A finished trial under FIX, with rows.

    Returns:
        The candidate and the reason for it as a sentence, or None if the loss has no plateau.
    """
    start = loss_curve.plateau_start(trial)
    if start is None:
        return None
    reason = "the loss under %s stopped improving after %.0f %% of the training" % (
        trial.policy,
        100 * start,
    )
    candidate, _ = first(function, good)
    if function == "NSTEP":
        steps = tuple(1 - (1 - start) / 2**n for n in range(3))
        return dataclasses.replace(candidate, shares=steps), reason
    wait = loss_curve.longest_wait(trial, start)
    count = min(MAX_REDUCTIONS, max(1, int((1 - start) / wait) - 1))
    patience = max(wait, (1 - start) / (count + 1))
    return (
        dataclasses.replace(candidate, count=count, shares=(patience,)),
        "%s; before that, it improved at least every %.0f %%" % (reason, 100 * wait),
    )


def highest_rate(candidate: Candidate, length: int) -> float:
    """Compute the largest rate that a candidate reaches in a training of the given length."""
    schedule = candidate.policy(length).schedule(None)
    return float(np.max(schedule(np.arange(length))))


def transfer(candidate: Candidate, source: Range, target: Range) -> Candidate:
    """Move a candidate from the good range of one task to the good range of another.

    Rates keep their position relative to the range end (or best rate) from which :func:`first`
    derives them. A rate does not change if the two ranges differ by less than the resolution of a
    range test. A policy that begins at its largest rate does not leave the target range, unless it
    has a warm-up.

    Args:
        candidate: A good candidate of the source task.
        source: The good range of the source task.
        target: The good range of the target task.

    Returns:
        The candidate for the target task.
    """
    starts_high = _starts_high(candidate)
    high_ratio = target.best / source.best if starts_high else target.high / source.high
    high_limit = target.high if starts_high and not candidate.warmup else 1.0
    high = min(candidate.high * _resolvable(high_ratio), high_limit)
    low = candidate.low * _resolvable(target.low / source.low)
    return dataclasses.replace(candidate, high=high, low=min(high, low))


def _resolvable(ratio: float) -> float:
    """Return the ratio, or 1 if a range test cannot resolve it."""
    return 1.0 if 1 / RATE_RESOLUTION < ratio < RATE_RESOLUTION else ratio


def _starts_high(candidate: Candidate) -> bool:
    """Whether the policy begins at its largest rate."""
    return candidate.function in (*DECAYS, "FIX", "COS", "SGDR", "PLATEAU")


# Numbers


def _whole(iterations: float, epoch: float | None = None) -> int:
    """Round to whole iterations, and to whole epochs if it is at least one epoch."""
    if epoch and iterations >= epoch:
        iterations = round(iterations / epoch) * epoch
    return max(1, round(iterations))


def _gamma(final: float, reductions: float) -> float:
    """Compute the factor that leaves the share `final` after a number of reductions.

    Section V-B: gamma and the number of steps have to be chosen together.
    """
    gamma = final ** (1 / reductions)
    # A gamma near 1 needs three digits of its distance to 1.
    return _exact(1 - _digits(1 - gamma, 3)) if gamma > 0.5 else _digits(gamma, 3)


def without_noise(text: str) -> str:
    """Return the text of a policy without the rounding errors of its numbers.

    >>> without_noise("STEP(k0=0.02, gamma=0.7070000000000001, l=500)")
    'STEP(k0=0.02, gamma=0.707, l=500)'
    """
    return _DECIMAL.sub(lambda match: repr(_exact(float(match.group()))), text)


def _exact(value: float) -> float:
    """Remove the rounding error of a calculation with decimal numbers."""
    return _digits(value, 14)


def _rate(rate: float) -> float:
    return _digits(rate, 2)


def _digits(value: float, digits: int) -> float:
    """Round to significant digits."""
    return float("%.*g" % (digits, value))
