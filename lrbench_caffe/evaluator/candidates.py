"""Candidates: learning rate policies before their length is known, made by the paper's rules (section V) from a range of rates.

A candidate says how often the rate is lowered or goes up and down and where it ends, all in shares of the training; for a length it
becomes a policy.  So many can be tried in short trainings and few in long ones.  Pure functions.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np

from lrbench_caffe.policies import CYCLIC, Composition, Policy, parse_or_none

# All that are tuned, in the order in which they are tried: first the best of each kind, cycles, steps and smooth decays, then the
# others, each time as the paper's Tables VII, VIII and IX have them.
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
PLACED = ("NSTEP", "PLATEAU")  # those that a plateau of the loss says something about
ONE_WAY = ("STEP", "NSTEP", "EXP", "INV", "POLY")
LEAST = 1e-6  # of the first rate: what ends lower is taken to end there
LAST = 0.01  # of the first rate: where a decay ends unless something speaks for another (section V-B: not too small)
POWER = 0.75  # of INV, as Caffe's examples have it
STEPS = (0.5, 0.75, 0.9)  # of the training: where NSTEP's steps are as long as no plateau was seen
LOWERED = 4  # times that PLATEAU lowers its rate, at most
PATIENCE = 0.1  # of the training: PLATEAU's, as long as no plateau was seen
FALL = 0.9  # of the way from the first loss to the lowest: the steep beginning is over, and so is a warm-up
ONE_RATE = (
    2.6  # from one rate of a range test, which begin with 1, 2 and 5, to the next, and a little
)
STOPPED = 0.01  # of the lowest loss so far: what improves less has stopped improving (figure 5)


@dataclass(frozen=True)
class Candidate:
    """A policy of any length.

    high and low: the largest and the smallest rate (low 0: none is given).  count: the number of steps of STEP, of times that
    PLATEAU lowers the rate, of cycles, or POLY's p.  last: the decay's share of the first rate that is left at the end.  at:
    NSTEP's steps, or PLATEAU's patience alone, as shares of the training.  warmup: iterations in which the rate comes up to the
    policy's, whatever the length, but no more than a quarter of it.
    """

    function: str
    high: float
    low: float = 0.0
    count: float = 1
    last: Optional[float] = None
    at: Tuple[float, ...] = ()
    warmup: int = 0

    def policy(self, length, epoch=None):
        """The Policy of a training of so many iterations; STEP's l and a warm-up are whole epochs (iterations in one) if long."""
        warmup = _whole(min(self.warmup, length / 4), epoch) if self.warmup else 0
        main = Policy(self.function, **self._parameters(length - warmup, epoch))
        return (
            Composition(Policy("WARMUP", k0=_rate(self.high / 10)), warmup, main)
            if warmup
            else main
        )

    def _parameters(self, length, epoch):
        k0, k1 = _rate(self.high), _rate(self.low)
        count, last = self.count, self.last
        if self.function == "FIX":
            return {"k0": k0}
        if self.function == "STEP":
            l = _whole(length / (count + 1), epoch)
            return {"k0": k0, "gamma": _gamma(last, max(1, (length - 1) // l)), "l": l}
        if self.function == "NSTEP":
            steps = sorted({_whole(share * length) for share in self.at})
            return {"k0": k0, "gamma": _gamma(last, len(steps)), "l": steps}
        if self.function == "EXP":
            return {"k0": k0, "gamma": _gamma(last, length)}
        if self.function == "INV":
            return {"k0": k0, "gamma": _digits((last ** (-1 / POWER) - 1) / length, 3), "p": POWER}
        if self.function == "POLY":
            return {"k0": k0, "p": count, "l": length}
        if self.function == "COS":
            return {"k0": k0, "k1": k1, "l": math.ceil(length / (2 * count - 1))}
        if self.function == "SGDR":
            return {"k0": k0, "k1": k1, "l": math.ceil(length / (2**count - 1)), "mult": 2}
        if self.function == "PLATEAU":
            l = _whole(self.at[0] * length)
            return {
                "k0": k0,
                "k1": _rate(self.high * min(last, 0.5)),
                "gamma": _gamma(last, count),
                "l": l,
            }
        values = {"k0": k1, "k1": k0, "l": _whole(length / (2 * count))}
        return dict(values, gamma=_gamma(last, length)) if last else values


def first(function, good):
    """The first Candidate of a function by the paper's rules, from a :class:`lrbench_caffe.ranking.ranges.Range`, and why.

    k0 of what begins at its largest rate is the best constant one.  Cycles rise from a tenth of the lower end to the upper one, or
    to twice that where an exponential keeps them below it: SINEXP's one cycle is highest after 30 % of the training, at 0.8 of it.
    """
    if function == "FIX":
        return Candidate("FIX", good.best), "the best constant rate"
    if function == "PLATEAU":
        return (
            Candidate("PLATEAU", good.best, count=LOWERED, last=LAST, at=(PATIENCE,)),
            "k0 is the best constant rate, the rest is for it to see",
        )
    if function in ONE_WAY:
        candidate = Candidate(
            function,
            good.best,
            count=3 if function == "STEP" else 1,
            last=0.1 if function == "INV" else LAST,
            at=STEPS if function == "NSTEP" else (),
        )
        return candidate, "k0 is the best constant rate"
    count = 2 if function in ("TRI2", "SIN2", "SGDR") else 1
    if function in ("COS", "SGDR"):
        return (
            Candidate(function, good.best, good.low / 10, count),
            "from the best constant rate to the good range's lower end / 10",
        )
    if function.endswith("EXP"):
        return (
            Candidate(function, min(1.0, 2 * good.high), good.low / 10, count, last=0.1),
            "from the good range's lower end / 10 to its upper end * 2, for the decay keeps it lower",
        )
    return Candidate(
        function, good.high, good.low / 10, count
    ), "from the good range's lower end / 10 to its upper end"


def finer(candidate, factor, good, warmup):
    """Candidates beside one, with why: its rates by a factor up and down, more steps or cycles, another end, a warm-up.

    warmup: the iterations of one, see :func:`fallen`.
    """
    changed = [
        (
            dataclasses.replace(candidate, high=candidate.high * factor),
            "its largest rate times %g" % factor,
        ),
        (
            dataclasses.replace(candidate, high=candidate.high / factor),
            "its largest rate divided by %g" % factor,
        ),
    ]
    if candidate.low:
        changed.append(
            (
                dataclasses.replace(candidate, low=candidate.low / 10),
                "its smallest rate divided by 10",
            )
        )
    if candidate.last:
        changed.append(
            (
                dataclasses.replace(candidate, last=candidate.last / 10),
                "it ends at a tenth of the rate",
            )
        )
        changed.append(
            (
                dataclasses.replace(candidate, last=candidate.last * 5),
                "it ends at five times the rate",
            )
        )
    if candidate.function == "POLY":
        changed += [
            (dataclasses.replace(candidate, count=power), "power %g" % power) for power in (0.5, 2)
        ]
    elif candidate.function == "PLATEAU":
        changed += [
            (
                dataclasses.replace(candidate, at=(candidate.at[0] * share,)),
                "%s its patience" % word,
            )
            for share, word in ((0.5, "half"), (2, "twice"))
        ]
    elif candidate.function in CYCLIC + ("STEP",):
        changed.append(
            (
                dataclasses.replace(candidate, count=candidate.count + 1),
                "%d %s"
                % (candidate.count + 1, "steps" if candidate.function == "STEP" else "cycles"),
            )
        )
    if _starts_high(candidate) and candidate.high * factor > good.best and not candidate.warmup:
        changed[0] = (
            dataclasses.replace(candidate, high=candidate.high * factor, warmup=warmup),
            "its largest rate times %g, beyond the best constant one: a warm-up, for the loss took %d iterations to fall"
            % (factor, warmup),
        )
    elif candidate.warmup:
        changed.insert(
            0,
            (
                dataclasses.replace(candidate, warmup=2 * candidate.warmup),
                "a warm-up twice as long",
            ),
        )
    return [
        (one, why)
        for one, why in changed
        if one.high <= 1 and ((one.last or 0) < 1 or one.last == candidate.last)
    ]


def placed(function, good, trial):
    """NSTEP or PLATEAU as a trial under FIX has it, by where its loss stopped improving (figure 5), and why; None if it never did.

    NSTEP's first step is there, each of the others where half of the rest is over.  PLATEAU waits no shorter than the trial had to
    before, and else so that what is left has room for LOWERED times that the rate is lowered.
    """
    share = stopped(trial)
    if share is None:
        return None
    why = "the loss under %s stopped improving after %.0f %% of the training" % (
        trial.policy,
        100 * share,
    )
    candidate, _ = first(function, good)
    if function == "NSTEP":
        return dataclasses.replace(
            candidate, at=tuple(1 - (1 - share) / 2**n for n in range(3))
        ), why
    wait = waited(trial, share)
    count = min(LOWERED, max(1, int((1 - share) / wait) - 1))
    return (
        dataclasses.replace(candidate, count=count, at=(max(wait, (1 - share) / (count + 1)),)),
        "%s, and improved each %.0f %% or sooner before" % (why, 100 * wait),
    )


def stopped(trial):
    """The share of a trial after which its test loss did not improve any more, or None where it did so to the end."""
    lowest, since = None, 0
    for row in trial.rows:
        if lowest is None or row.test_loss < lowest * (1 - STOPPED):
            lowest, since = row.test_loss, row.iteration
    share = since / trial.rows[-1].iteration
    return share if 0 < share <= 0.8 else None


def waited(trial, share):
    """The longest part of a trial, up to a share of it, that went by without a new lowest test loss: what PLATEAU has to bear."""
    lowest, since, longest = math.inf, 0, 0
    for row in trial.rows:
        if row.test_loss < lowest and row.iteration <= share * trial.rows[-1].iteration:
            longest = max(longest, row.iteration - since)
            lowest, since = row.test_loss, row.iteration
    return longest / trial.rows[-1].iteration


def fallen(trial):
    """The iterations after which the steep beginning of a trial was over, FALL of all that its test loss fell: for a warm-up."""
    losses = [row.test_loss for row in trial.rows]
    over = losses[0] - FALL * (losses[0] - min(losses))
    return next(
        (row.iteration for row in trial.rows if row.iteration and row.test_loss <= over),
        trial.rows[-1].iteration,
    )


def of_text(text, length):
    """The Candidate that a policy, as the database has its text, was in so many iterations, or None as :func:`known`."""
    policy = parse_or_none(text)
    return policy and known(policy, length)


def known(policy, length):
    """The Candidate that a Policy was in a training of so many iterations, or None for what is made by none of the rules."""
    if isinstance(policy, Composition):
        before, warmup, main = (*policy.parts, None)[:3]
        if len(policy.parts) > 3 or before.function != "WARMUP" or warmup >= length:
            return None
        one = known(main, length - warmup)
        return one and dataclasses.replace(one, warmup=warmup)
    values = policy.parameters
    function, l = policy.function, values.get("l")
    if function not in TUNED or (function == "PLATEAU" and values["gamma"] == 1):
        return None
    one = Candidate(
        function, max(values["k0"], values.get("k1", 0.0)), min(values["k0"], values.get("k1", 0.0))
    )
    if function == "STEP":
        count = max(1, (length - 1) // l)
        return dataclasses.replace(
            one, low=0.0, count=count, last=max(values["gamma"] ** count, LEAST)
        )
    if function == "NSTEP":
        at = tuple(step / length for step in l if step < length)
        return (
            dataclasses.replace(one, low=0.0, at=at, last=max(values["gamma"] ** len(at), LEAST))
            if at
            else None
        )
    if function in ("EXP", "TRIEXP", "SINEXP"):
        one = dataclasses.replace(
            one,
            low=0.0 if function == "EXP" else one.low,
            last=max(values["gamma"] ** length, LEAST),
        )
    if function == "INV":
        return dataclasses.replace(one, low=0.0, last=(1 + values["gamma"] * length) ** -POWER)
    if function == "PLATEAU":
        last = (
            one.low / one.high
            if one.low
            else max(values["gamma"] ** max(1, length // l - 1), LEAST)
        )
        count = max(1, round(math.log(last) / math.log(values["gamma"])))
        return dataclasses.replace(one, low=0.0, count=count, last=last, at=(l / length,))
    if function == "POLY":
        return dataclasses.replace(one, low=0.0, count=values["p"])
    if function == "COS":
        return dataclasses.replace(one, count=max(1, round((length / l + 1) / 2)))
    if function == "SGDR":
        return dataclasses.replace(one, count=max(1, round((length / l + 1) ** 0.5)))
    return dataclasses.replace(one, count=max(1, round(length / (2 * l)))) if l else one


def highest(candidate, length):
    """The largest rate that a Candidate reaches in so many iterations."""
    return float(np.max(candidate.policy(length).schedule(None)(np.arange(length))))


def moved(candidate, there, here):
    """A Candidate that was good where the good Range is there, as it lies in the one here, by what :func:`first` goes by.

    A rate stays where the range test is no more exact, one rate beside the other; only what begins high ends in the good range.
    """
    high = here.best / there.best if _starts_high(candidate) else here.high / there.high
    high, low = (
        1.0 if 1 / ONE_RATE < ratio < ONE_RATE else ratio for ratio in (high, here.low / there.low)
    )
    high = min(
        candidate.high * high,
        here.high if _starts_high(candidate) and not candidate.warmup else 1.0,
    )
    return dataclasses.replace(candidate, high=high, low=min(high, candidate.low * low))


def _starts_high(candidate):
    return candidate.function in ONE_WAY + ("FIX", "COS", "SGDR", "PLATEAU")


def _whole(iterations, epoch=None):
    """A length as whole iterations, and as whole epochs if there are any in it."""
    if epoch and iterations >= epoch:
        iterations = round(iterations / epoch) * epoch
    return max(1, round(iterations))


def _gamma(last, times):
    """The factor that leaves this share after so many times (section V-B: gamma and the number of steps belong together)."""
    gamma = last ** (1 / times)
    return 1 - _digits(1 - gamma, 3) if gamma > 0.5 else _digits(gamma, 3)


def _rate(rate):
    return _digits(rate, 2)


def _digits(value, digits):
    """A number with so many significant digits, as a person would write it."""
    return float("%.*g" % (digits, value))
