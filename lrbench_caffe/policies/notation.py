"""The notation of policies: from text to names and values, and back.

A policy is written as ``FUNCTION(name=value, ...)``. Several policies in sequence are pieces, each
but the last with a length: ``WARMUP(k0=0.01) for 400 then FIX(k0=0.1)``. A length is a number of
iterations, or of epochs as in ``5 epochs``.
"""

from __future__ import annotations

import ast
import math
import re
from typing import Any, NamedTuple

from lrbench_caffe.errors import InputError, abbreviated
from lrbench_caffe.policies.functions import MAX_ITERATION
from lrbench_caffe.policies.parameters import checked_piece_length

_EPOCHS = re.compile(r"(?<![\w.'\"])(\d+(?:\.\d*)?|\.\d+)\s*epochs?\b")
_EXAMPLE = "FIX(k0=0.01) for 400 then FIX(k0=0.1)"


class Piece(NamedTuple):
    """One piece of a policy's text.

    Attributes:
        function: The name of the function, not checked.
        parameters: The parameters by name, not checked, with epochs converted to iterations.
        length: The length in iterations, None if the text has no length.
    """

    function: str
    parameters: dict[str, Any]
    length: int | None


def read(text: str, epoch: float | None = None) -> list[Piece]:
    """Parse the text of a policy.

    Args:
        text: The text, in any spelling of numbers and spaces.
        epoch: The number of iterations in an epoch, not necessarily whole. Lengths in epochs are
            rounded to whole iterations.

    Returns:
        The pieces in order. All but the last have a length.

    Raises:
        InputError: The text is not a policy, a length is missing or superfluous, or a length is in
            epochs and epoch is None.

    Example:
        >>> for piece in read("WARMUP(k0=0.01) for 2 epochs then FIX(k0=.1)", epoch=200):
        ...     print(piece)
        Piece(function='WARMUP', parameters={'k0': 0.01}, length=400)
        Piece(function='FIX', parameters={'k0': 0.1}, length=None)
    """
    texts = [piece.strip() for piece in re.split(r"\bthen\b", text)]
    pieces = [_read_piece(piece, text, epoch) for piece in texts]
    for piece_text, piece in zip(texts, pieces[:-1]):
        if piece.length is None:
            raise InputError(
                "%s needs a length, because it is not the last piece: write for example %s"
                % (abbreviated(piece_text), _EXAMPLE)
            )
    if pieces[-1].length is not None:
        raise InputError(
            "the last piece of %s has a length, but it lasts until the end of the training: "
            "leave out its length" % abbreviated(text)
        )
    return pieces


def _read_piece(text: str, policy_text: str, epoch: float | None) -> Piece:
    """Parse one piece; policy_text is the text of the whole policy, for messages."""
    call, *length_text = re.split(r"\bfor\b", text, maxsplit=1)
    try:
        function, parameters = _read_call(call)
        length = ast.literal_eval(_quote_epochs(length_text[0])) if length_text else None
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        if "repeated" in str(error):
            message = "the policy %s sets a parameter twice: set each parameter once" % (
                abbreviated(policy_text)
            )
        else:
            message = (
                "cannot read the policy %s: write it as FUNCTION(name=number, ...), for example "
                "SIN2(k0=0.01, k1=0.06, l=2000), or as %s" % (abbreviated(policy_text), _EXAMPLE)
            )
        raise InputError(message) from None
    if "l" in parameters:
        parameters["l"] = _parameter_in_iterations(parameters["l"], epoch)
    if length is not None:
        length = checked_piece_length(function, _in_iterations(length, epoch))
    return Piece(function, parameters, length)


def _read_call(text: str) -> tuple[str, dict[str, Any]]:
    """Parse FUNCTION(name=value, ...). Raise SyntaxError or ValueError for any other text."""
    call = ast.parse(_quote_epochs(text), mode="eval").body
    if not isinstance(call, ast.Call) or call.args or not isinstance(call.func, ast.Name):
        raise ValueError("not a function with named parameters")
    parameters = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise ValueError("a parameter without a name")
        if keyword.arg in parameters:  # Python 3.7 and 3.8 raise the same error in ast.parse
            raise SyntaxError("keyword argument repeated")
        parameters[keyword.arg] = _value(keyword.value)
    return call.func.id, parameters


def _quote_epochs(text: str) -> str:
    """Make each length in epochs a string literal, so that Python's parser accepts it."""
    return _EPOCHS.sub(r"'\g<0>'", text.strip())


def _value(node: ast.expr) -> object:
    """A number, a list of numbers or a name.

    nan and inf become numbers, so that the check of the parameters rejects them by name.
    """
    if isinstance(node, ast.Name):
        return float(node.id) if node.id.lower() in ("nan", "inf", "infinity") else node.id
    return ast.literal_eval(node)


def _parameter_in_iterations(value: object, epoch: float | None) -> object:
    """The parameter l, a length or a list of lengths, with epochs converted to iterations."""
    if isinstance(value, (list, tuple)):
        return [_in_iterations(length, epoch) for length in value]
    return _in_iterations(value, epoch)


def _in_iterations(length: object, epoch: float | None) -> object:
    """A length with epochs converted to iterations. Any other value is returned unchanged."""
    iterations = iterations_of_epochs(length, epoch) if isinstance(length, str) else None
    return length if iterations is None else iterations


# In place of the iterations in an epoch: every length in epochs then counts as one iteration.
ANY_EPOCH = math.inf


def has_epochs(text: str) -> bool:
    """Return whether a policy's text has lengths in epochs."""
    return _EPOCHS.search(text) is not None


def iterations_of_epochs(length: str, epoch: float | None) -> int | None:
    """Return the iterations of a length in epochs, None if the text is not such a length.

    Args:
        length: The text, for example "5 epochs".
        epoch: The number of iterations in an epoch, not necessarily whole, or ANY_EPOCH; None if
            it is unknown.

    Raises:
        InputError: The length is in epochs, and epoch is None, or the length rounds to 0 iterations
            or is above MAX_ITERATION.

    Example:
        >>> iterations_of_epochs("1.5 epochs", epoch=390.625), iterations_of_epochs("l", epoch=1)
        (586, None)
    """
    match = _EPOCHS.fullmatch(length)
    if match is None:
        return None
    if epoch is None:
        raise InputError(
            "cannot convert %s to iterations, because the length of an epoch is unknown (the "
            "number of training samples or the batch size is missing): give a number of iterations"
            % length
        )
    epochs = float(match.group(1))
    if not epochs:
        raise InputError("%s has no iterations: give more epochs" % length)
    if epoch == ANY_EPOCH:
        return 1
    number = epochs * epoch
    if number > MAX_ITERATION:
        raise InputError(
            "%s is more than %d iterations: give fewer epochs"
            % (abbreviated(length), MAX_ITERATION)
        )
    iterations = round(number)
    if iterations < 1:
        raise InputError(
            "%s is less than one iteration, because an epoch has %g iterations: give more epochs "
            "or a number of iterations" % (length, epoch)
        )
    return iterations


def write(function: str, parameters: dict[str, Any]) -> str:
    """Return the canonical text of a function with its parameters.

    Example:
        >>> write("NSTEP", {"k0": 0.05, "gamma": 0.1, "l": (150, 180)})
        'NSTEP(k0=0.05, gamma=0.1, l=[150, 180])'
    """
    arguments = ["%s=%s" % (name, _format_value(value)) for name, value in parameters.items()]
    return "%s(%s)" % (function, ", ".join(arguments))


def _format_value(value: object) -> str:
    if isinstance(value, tuple):
        return "[%s]" % ", ".join(map(str, value))
    return value if isinstance(value, str) else repr(value)
