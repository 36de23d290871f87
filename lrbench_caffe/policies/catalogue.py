"""What each learning rate function does, for ``lrbench policies``.

The texts of the functions of the paper and of SGDR are those of the docstrings in
:mod:`lrbench_caffe.policies.functions`, so that there is one text for each formula.
"""

from __future__ import annotations

import inspect
import re
from typing import NamedTuple

from lrbench_caffe.errors import InputError, suggestion
from lrbench_caffe.policies.functions import CYCLIC, FUNCTIONS, sgdr
from lrbench_caffe.policies.parameters import expected_value, parameter_names
from lrbench_caffe.policies.policy import Policy

FORMULA_2 = "lr(t) = |k0 - k1| * g(t) + min(k0, k1)"
FAMILIES = {  # the classes of section II; the cyclic functions in two
    "constant and decaying": ("FIX", "STEP", "NSTEP", "EXP", "INV", "POLY"),
    "triangular cycles": ("TRI", "TRI2", "TRIEXP"),
    "sine and cosine cycles": ("SIN", "SIN2", "SINEXP", "COS"),
    "beyond the 13": ("SGDR", "WARMUP", "PLATEAU"),
}
LENGTH = 1200  # iterations of the examples

_EXAMPLES = {
    "FIX": "FIX(k0=0.01)",
    "STEP": "STEP(k0=0.05, gamma=0.5, l=200)",
    "NSTEP": "NSTEP(k0=0.05, gamma=0.3, l=[400, 800])",
    "EXP": "EXP(k0=0.05, gamma=0.997)",
    "INV": "INV(k0=0.05, gamma=0.005, p=0.75)",
    "POLY": "POLY(k0=0.05, p=1.2, l=1200)",
    "TRI": "TRI(k0=0.01, k1=0.06, l=200)",
    "TRI2": "TRI2(k0=0.01, k1=0.06, l=200)",
    "TRIEXP": "TRIEXP(k0=0.01, k1=0.06, gamma=0.998, l=200)",
    "SIN": "SIN(k0=0.01, k1=0.06, l=200)",
    "SIN2": "SIN2(k0=0.01, k1=0.06, l=200)",
    "SINEXP": "SINEXP(k0=0.01, k1=0.06, gamma=0.998, l=200)",
    "COS": "COS(k0=0.01, k1=0.06, l=200)",
    "SGDR": "SGDR(k0=0.06, k1=0.001, l=150, mult=2)",
    "WARMUP": "WARMUP(k0=0.001) for 200 then POLY(k0=0.05, p=1, l=1000)",
    "PLATEAU": "PLATEAU(k0=0.05, gamma=0.5, l=200)",
}
_MEANINGS = {
    "WARMUP": "a straight line to the first rate of the next piece",
    "PLATEAU": "the rate is multiplied by gamma when a metric does not improve for l iterations",
}
_RATES = {
    "k0": "The rate at iteration 0",
    "k1": "The floor to which the rate decays, 0 if left out",
}
_BOUNDS = {"k0": "One bound of the rate", "k1": "The other bound of the rate"}
_PARAMETERS = {
    ("FIX", "k0"): "The rate",
    ("WARMUP", "k0"): "The rate at iteration 0",
    ("PLATEAU", "gamma"): "Factor of each lowering",
    ("PLATEAU", "l"): "Iterations without an improvement after which the rate is lowered",
    ("PLATEAU", "threshold"): "The least improvement that counts, 0 if left out",
    ("PLATEAU", "of"): "The metric: test_loss (if left out), train_loss or top1",
}


class Entry(NamedTuple):
    """What a learning rate function does.

    Attributes:
        function: Its name.
        family: Its key in FAMILIES.
        meaning: What the rate does, in a phrase.
        formula: g(t) of Formula 2; empty for a function without one.
        parameters: The meaning and the valid values of each parameter by its name.
        example: The text of a policy that shows the function in LENGTH iterations.
    """

    function: str
    family: str
    meaning: str
    formula: str
    parameters: dict[str, tuple[str, str]]
    example: str

    @property
    def follows_evaluations(self) -> bool:
        """Whether the rate depends on the training, so that the iteration does not give it."""
        return Policy.parse(self.example).has_memory


def entries() -> list[Entry]:
    """Return what each function does, in the order of Table I."""
    return [_entry(function, family) for family in FAMILIES for function in FAMILIES[family]]


def entry(function: str) -> Entry:
    """Return what a function does.

    Args:
        function: Its name, in any case.

    Raises:
        InputError: The function is unknown.

    Example:
        >>> entry("sin2").formula
        'g(t) = SIN(t) / 2 ^ floor(t / (2 l))'
    """
    for family, functions in FAMILIES.items():
        if function.upper() in functions:
            return _entry(function.upper(), family)
    names = [name for functions in FAMILIES.values() for name in functions]
    raise InputError(
        "unknown learning rate function %r%s" % (function[:60], suggestion(function.upper(), names))
    )


def _entry(function: str, family: str) -> Entry:
    formula = sgdr if function == "SGDR" else FUNCTIONS.get(function)
    text = (inspect.getdoc(formula) or "") if formula else ""
    first_line = text.partition("\n")[0].partition(": ")[2].rstrip(".")
    return Entry(
        function=function,
        family=family,
        meaning=_MEANINGS.get(function, first_line),
        formula=" ".join(re.findall(r"^    (g\(t\) = .*)$", text, re.MULTILINE)),
        parameters={
            name: (_parameter(function, name, text), expected_value(function, name))
            for name in parameter_names(function)
        },
        example=_EXAMPLES[function],
    )


def _parameter(function: str, name: str, text: str) -> str:
    """The meaning of a parameter: a text of its own, or its line in the docstring."""
    own = _PARAMETERS.get((function, name))
    if own is not None:
        return own
    if name in _RATES:
        return (_BOUNDS if function in CYCLIC else _RATES)[name]
    line = re.search(r"^    %s: ([^.]*)" % name, text, re.MULTILINE)
    return " ".join(line.group(1).split()).partition(",")[0] if line else ""
