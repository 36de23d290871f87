"""The parameters of the functions: their names, their canonical order and their valid values."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lrbench_caffe.errors import InputError, abbreviated, suggestion
from lrbench_caffe.policies.functions import CYCLIC, FUNCTIONS, MAX_ITERATION, sgdr

if TYPE_CHECKING:
    from collections.abc import Callable

# The functions beyond Table I and their parameters beside k0 and k1: SGDR has a formula, WARMUP
# ends where the next piece begins, and PLATEAU has a memory.
_ADDED_FUNCTIONS = {
    "SGDR": tuple(inspect.signature(sgdr).parameters),
    "WARMUP": (),
    "PLATEAU": ("gamma", "l", "threshold", "of"),
}
_CANONICAL_ORDER = ("k0", "k1", "gamma", "p", "l", "mult", "threshold", "of")
_PLATEAU_METRICS = ("test_loss", "train_loss", "top1")  # attributes of an Evaluation

# The text of a policy leaves out default values, so that equal policies have equal texts. k1=0 is a
# default too, except for the cyclic functions.
_DEFAULTS = {"mult": 1, "threshold": 0.0, "of": "test_loss"}

_LARGEST = 1.7e308  # close to the largest float; float() fails for a much larger int


class _Rule(NamedTuple):
    """The valid numbers of a parameter: a description for messages, a check and a type."""

    expected: str
    is_valid: Callable[[Any], bool]
    convert: Callable[[float], Any] = float


_ITERATIONS = _Rule(
    "a whole number of iterations above 0, for example 2000",
    lambda value: 0 < value <= MAX_ITERATION and value == int(value),
    int,
)
_RULES = {
    "k0": _Rule("a learning rate above 0, for example 0.01", lambda value: value > 0),
    "k1": _Rule(
        "a second learning rate of 0 or above, for example 0.06",
        lambda value: value >= 0,
    ),
    "gamma": _Rule(
        "a decay factor above 0 and at most 1, for example 0.9", lambda value: 0 < value <= 1
    ),
    "p": _Rule("a power above 0, for example 0.5", lambda value: value > 0),
    "l": _ITERATIONS,
    "mult": _Rule(
        "the ratio of the lengths of two successive cycles, a whole number from 1 to 1000",
        lambda value: 1 <= value <= 1000 and value == int(value),
        int,
    ),
    "threshold": _Rule(
        "the least improvement that counts, 0 or above, for example 0.001",
        lambda value: value >= 0,
    ),
}
_SPECIAL_RULES = {
    ("INV", "gamma"): _Rule("a decay speed above 0, for example 0.0001", lambda value: value > 0),
    ("WARMUP", "k0"): _Rule(
        "a learning rate of 0 or above, for example 0.01", lambda value: value >= 0
    ),
}
_EXPECTED_STEPS = "a list of iterations above 0 in increasing order, for example [5000, 7000]"


def parameter_names(function: str) -> tuple[str, ...]:
    """Return the names of a function's parameters in canonical order.

    k1 is the other bound of a cyclic function. For the other functions except FIX and WARMUP it is
    the lower bound of the rate (section V-B), which may be left out.

    Args:
        function: The name of the function. It must be valid.

    Example:
        >>> parameter_names("SIN")
        ('k0', 'k1', 'l')
    """
    if function in _ADDED_FUNCTIONS:
        arguments = set(_ADDED_FUNCTIONS[function])
    else:
        arguments = set(inspect.signature(FUNCTIONS[function]).parameters)
    arguments.add("k0")
    if function not in ("FIX", "WARMUP"):
        arguments.add("k1")
    return tuple(name for name in _CANONICAL_ORDER if name in arguments)


def checked_parameters(function: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Check the parameters of a function.

    Args:
        function: The name of the function.
        parameters: The values by name.

    Returns:
        The parameters in canonical order without default values. k0, k1, gamma, p and threshold
        are float, mult is int, of is str, l is int, and for NSTEP l is a tuple of int.

    Raises:
        InputError: The function is unknown, or a parameter is unknown, missing or invalid.

    Example:
        >>> checked_parameters("STEP", {"l": 1e3, "k0": 1, "k1": 0, "gamma": 0.5})
        {'k0': 1.0, 'gamma': 0.5, 'l': 1000}
    """
    if function not in FUNCTIONS and function not in _ADDED_FUNCTIONS:
        raise InputError(
            "unknown learning rate function %s%s"
            % (abbreviated(function), suggestion(function, [*FUNCTIONS, *_ADDED_FUNCTIONS]))
        )
    names = parameter_names(function)
    defaults = _DEFAULTS if function in CYCLIC else dict(_DEFAULTS, k1=0.0)
    for name in parameters:
        if name not in names:
            raise InputError(
                "%s: unknown parameter %s%s"
                % (function, abbreviated(name), suggestion(name, names))
            )
    for name in names:
        if name not in parameters and name not in defaults:
            raise InputError(
                "%s: missing parameter %s, expected %s"
                % (function, name, expected_value(function, name))
            )
    values = {
        name: _checked_value(function, name, parameters[name])
        for name in names
        if name in parameters
    }
    if function == "PLATEAU" and values.get("k1", 0.0) >= values["k0"]:
        raise _invalid(function, "k1", values["k1"], "a floor below k0=%s" % values["k0"])
    return {
        name: value
        for name, value in values.items()
        if name not in defaults or value != defaults[name]
    }


def checked_piece_length(function: str, value: object) -> int:
    """Return the length of a composition's piece as an int.

    Args:
        function: The name of the piece's function, for the message.
        value: The length in iterations.

    Raises:
        InputError: The length is not a whole number above 0, or is above MAX_ITERATION.
    """
    length: int | None = _number(value, _ITERATIONS)
    if length is None:
        raise InputError(
            "%s: invalid length in 'for %s', expected %s"
            % (abbreviated(function).strip("'"), abbreviated(value), _ITERATIONS.expected)
        )
    return length


def expected_value(function: str, name: str) -> str:
    """Return a description of the valid values of a function's parameter.

    Example:
        >>> expected_value("STEP", "gamma")
        'a decay factor above 0 and at most 1, for example 0.9'
    """
    if name == "of":
        return "one of %s" % ", ".join(_PLATEAU_METRICS)
    if (function, name) == ("NSTEP", "l"):
        return _EXPECTED_STEPS
    return _rule(function, name).expected


def _rule(function: str, name: str) -> _Rule:
    return _SPECIAL_RULES.get((function, name)) or _RULES[name]


def _checked_value(function: str, name: str, value: object) -> Any:
    if name == "of":
        return _checked_metric(function, value)
    if (function, name) == ("NSTEP", "l"):
        return _checked_steps(function, value)
    return _checked_number(function, name, value)


def _checked_number(function: str, name: str, value: object) -> Any:
    rule = _rule(function, name)
    number = _number(value, rule)
    if number is None:
        raise _invalid(function, name, value, rule.expected)
    return number


def _number(value: object, rule: _Rule) -> Any:
    """The value as a number of the rule's type, None if it is invalid."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float, np.integer, np.floating))
        or not abs(value) <= _LARGEST
        or not rule.is_valid(value)
    ):
        return None
    return rule.convert(float(value) + 0.0)  # + 0.0 turns -0.0 into 0.0


def _checked_steps(function: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)) or not value:
        raise _invalid(function, "l", value, _EXPECTED_STEPS)
    steps = []
    for step in value:
        number = _number(step, _ITERATIONS)
        if number is None:
            raise _invalid(function, "l", step, _ITERATIONS.expected)
        steps.append(number)
    if any(step >= following for step, following in zip(steps, steps[1:])):
        raise _invalid(function, "l", list(value), _EXPECTED_STEPS)
    return tuple(steps)


def _checked_metric(function: str, value: object) -> str:
    if isinstance(value, str) and value in _PLATEAU_METRICS:
        return value
    raise InputError(
        "%s: invalid of=%s%s" % (function, abbreviated(value), suggestion(value, _PLATEAU_METRICS))
    )


def _invalid(function: str, name: str, value: object, expected: str) -> InputError:
    return InputError(
        "%s: invalid %s=%s, expected %s" % (function, name, abbreviated(value), expected)
    )
