"""What the parameters of a function may be: their names, their order in the text, and one sentence for what does not do."""

import difflib
import inspect

import numpy as np

from lrbench_caffe.errors import InputError
from lrbench_caffe.policies.functions import CYCLIC, FUNCTIONS, MAX_ITERATION, sgdr

# What Caffe's users asked for beside Table I: a function, a piece that ends where the next begins, and a policy with memory.
ADDED = {
    "SGDR": tuple(inspect.signature(sgdr).parameters),
    "WARMUP": (),
    "PLATEAU": ("gamma", "l", "threshold", "of"),
}
WATCHED = (
    "test_loss",
    "train_loss",
    "top1",
)  # what a PLATEAU may look at, as an evaluation names it
ORDER = ("k0", "k1", "gamma", "p", "l", "mult", "threshold", "of")
DEFAULTS = {
    "mult": 1,
    "threshold": 0.0,
    "of": WATCHED[0],
}  # left out of the text, so that equal policies have equal texts


def parameter_names(function):
    """The names that a function's parameters may have, in the order of the canonical text, e.g. ("k0", "k1", "l") for SIN.

    k1 is a bound of the cyclic functions, and the floor (0 unless given) that a decaying function may have (section V-B).
    """
    own = set(
        ADDED[function] if function in ADDED else inspect.signature(FUNCTIONS[function]).parameters
    )
    return tuple(
        n
        for n in ORDER
        if n == "k0" or n in own or (n == "k1" and function not in ("FIX", "WARMUP"))
    )


def checked_parameters(function, parameters):
    """The parameters in canonical order and type, without those that are as by default; InputError for the first that is wrong."""
    if function not in FUNCTIONS and function not in ADDED:
        raise InputError(
            "unknown learning rate function %s%s"
            % (abbreviated(function), suggestion(function, [*FUNCTIONS, *ADDED]))
        )
    names = parameter_names(function)
    for name in parameters:
        if name not in names:
            raise InputError(
                "%s has no parameter %s%s" % (function, abbreviated(name), suggestion(name, names))
            )
    defaults = DEFAULTS if function in CYCLIC else dict(DEFAULTS, k1=0.0)
    for name in names:
        if name not in parameters and name not in defaults:
            raise InputError("%s needs the parameter %s (%s)" % (function, name, _MEANINGS[name]))
    values = {
        name: _CHECKS.get((function, name), _CHECKS[name])(function, name, parameters[name])
        for name in names
        if name in parameters
    }
    if function == "PLATEAU" and values.get("k1", 0.0) >= values["k0"]:
        raise InputError(
            "k1=%s of PLATEAU does not do: give a floor below k0=%s" % (values["k1"], values["k0"])
        )
    return {
        name: value
        for name, value in values.items()
        if name not in defaults or value != defaults[name]
    }


_MEANINGS = {
    "k0": "a learning rate above 0",
    "k1": "the other bound of the learning rate, 0 or above",
    "gamma": "the decay's factor",
    "p": "the decay's power, above 0",
    "l": "a whole number of iterations above 0; for NSTEP a list such as [5000, 7000]",
}


def _number(function, name, value, fits, wanted):
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(
        value, bool
    )
    if not (
        number and abs(value) <= 1.7e308 and fits(value)
    ):  # the bound also keeps an endless int out of float()
        raise InputError(
            "%s=%s of %s does not do: give %s" % (name, abbreviated(value), function, wanted)
        )
    return float(value) + 0.0  # no -0.0


def _k0(function, name, value):
    return _number(
        function, name, value, lambda v: v > 0, "a learning rate above 0, for instance 0.01"
    )


def _k1(function, name, value):
    return _number(
        function, name, value, lambda v: v >= 0, "a learning rate of 0 or above, for instance 0.06"
    )


def _decay(function, name, value):
    return _number(
        function,
        name,
        value,
        lambda v: 0 < v <= 1,
        "a factor above 0 and at most 1, for instance 0.9",
    )


def _positive(function, name, value):
    return _number(function, name, value, lambda v: v > 0, "a number above 0")


def _threshold(function, name, value):
    return _number(
        function,
        name,
        value,
        lambda v: v >= 0,
        "the least improvement that counts, 0 or above, for instance 0.001",
    )


def _mult(function, name, value):
    return int(
        _number(
            function,
            name,
            value,
            lambda v: 1 <= v <= 1000 and v == int(v),
            "a whole number from 1 to 1000, by which each cycle is longer than the one before",
        )
    )


def _of(function, name, value):
    if value not in WATCHED:
        raise InputError(
            "%s=%s of %s does not do%s"
            % (name, abbreviated(value), function, suggestion(value, WATCHED))
        )
    return value


def checked_length(function, name, value):
    """A length as an int; InputError, with the names of the function and the parameter, for what is none."""
    return int(
        _number(
            function,
            name,
            value,
            lambda v: 0 < v <= MAX_ITERATION and v == int(v),
            "a whole number of iterations above 0, for instance 2000",
        )
    )


def _steps(function, name, value):
    wanted = "a list of iterations above 0 in increasing order, for instance [5000, 7000]"
    if not isinstance(value, (list, tuple)) or not value:
        raise InputError(
            "%s=%s of %s does not do: give %s" % (name, abbreviated(value), function, wanted)
        )
    steps = tuple(checked_length(function, name, v) for v in value)
    if any(a >= b for a, b in zip(steps, steps[1:])):
        raise InputError(
            "%s=%s of %s does not do: give %s" % (name, abbreviated(list(value)), function, wanted)
        )
    return steps


_CHECKS = {
    "k0": _k0,
    "k1": _k1,
    "gamma": _decay,
    "p": _positive,
    "l": checked_length,
    "mult": _mult,
    "threshold": _threshold,
    "of": _of,
    ("NSTEP", "l"): _steps,
    ("INV", "gamma"): _positive,
    ("WARMUP", "k0"): _k1,
}


def abbreviated(value):
    """What was given, short enough for one sentence."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except ValueError:  # an int with too many digits to print
        text = "a very large number"
    return (
        repr(text[:60] + "...")
        if len(text) > 63
        else repr(text)
        if isinstance(value, str)
        else text
    )


def suggestion(name, known):
    """The end of a sentence about an unknown name: the known name it is likely meant to be, or all of them."""
    near = difflib.get_close_matches(
        str(name)[:40].upper(), [k.upper() for k in known], n=1, cutoff=0.5
    )
    right = [k for k in known if near and k.upper() == near[0]]
    return ": did you mean %s?" % right[0] if right else ": it is one of " + ", ".join(known)
