"""The text of a schedule that only Caffe computes, such as ``sigmoid(base_lr=0.1, ...)``.

A trial under such a schedule has this text as its policy, and the report turns it into lines of a
solver prototxt. Only the fields of the schedule may be in it, because a text can come from an
import.
"""

from __future__ import annotations

import ast
import math
import re
from typing import Any

# The fields of each lr_policy of Caffe, in the order of a text.
FIELDS = {
    "fixed": ("base_lr",),
    "step": ("base_lr", "gamma", "stepsize"),
    "multistep": ("base_lr", "gamma", "stepvalue"),
    "exp": ("base_lr", "gamma"),
    "inv": ("base_lr", "gamma", "power"),
    "poly": ("base_lr", "power", "max_iter"),
    "sigmoid": ("base_lr", "gamma", "stepsize"),
}
_INTEGERS = ("stepsize", "max_iter")
_MAX_FLOAT32 = 3.4028235e38  # Caffe's fields are in single precision
_INT32_END = 2**31
_CALL = re.compile(r"([a-z]+)\((.*)\)", re.ASCII)
_FIELD = re.compile(r"(\w+)=(\[[-+.\w, ]*\]|[-+.\w]+)", re.ASCII)


def parse(text: str) -> tuple[str, dict[str, Any]] | None:
    """Return the lr_policy and its fields by name; None if the text is not such a schedule.

    >>> parse("sigmoid(base_lr=0.1, gamma=0.5, stepsize=20)")
    ('sigmoid', {'base_lr': 0.1, 'gamma': 0.5, 'stepsize': 20})
    >>> parse('fixed(base_lr=0.1, net="other")') is None
    True
    """
    call = _CALL.fullmatch(text)
    if call is None or call.group(1) not in FIELDS:
        return None
    fields = {}
    for part in re.split(r", (?=\w+=)", call.group(2)):
        field = _FIELD.fullmatch(part)
        if field is None:
            return None
        try:
            fields[field.group(1)] = ast.literal_eval(field.group(2))
        except (SyntaxError, ValueError):
            return None
    function = call.group(1)
    if tuple(fields) != FIELDS[function] or not all(map(_is_valid, fields.items())):
        return None
    return (function, fields) if write(function, fields) == text else None


def write(function: str, fields: dict[str, Any]) -> str:
    """Return the text of a schedule."""
    return "%s(%s)" % (function, ", ".join("%s=%s" % item for item in fields.items()))


def _is_valid(item: tuple[str, Any]) -> bool:
    """Whether a field of the solver can have this value in a schedule."""
    name, value = item
    if name == "stepvalue":
        return type(value) is list and all(map(_is_iteration, value))
    if name in _INTEGERS:
        return _is_iteration(value)
    if type(value) not in (int, float) or not abs(value) <= _MAX_FLOAT32:
        return False
    return math.isfinite(value) and (name == "power" or value >= 0)


def _is_iteration(value: object) -> bool:
    return type(value) is int and 0 <= value < _INT32_END
