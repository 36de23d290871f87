"""The notation: a policy's text as names and values, and lengths in epochs as iterations.

A policy is FUNCTION(name=value, ...), or several of them with a length for each but the last:
``WARMUP(k0=0.01) for 400 then FIX(k0=0.1)``.  A length is a number of iterations, or of epochs as in ``5 epochs``.
"""

import ast
import re

from lrbench_caffe.errors import InputError
from lrbench_caffe.policies.parameters import abbreviated, checked_length

_EPOCHS = re.compile(r"(?<![\w.'\"])(\d+(?:\.\d*)?|\.\d+)\s*epochs?\b")


def read(text, epoch=None):
    """A policy's text as a list of (function, parameters, length), one for each piece; the last piece's length is None.

    epoch is the number of iterations in an epoch, as a whole number or not; lengths are rounded to whole iterations.  Raises
    InputError for text that is no policy, and for a length in epochs when epoch is None.
    """
    pieces = re.split(r"\bthen\b", text)
    found = [_piece(piece.strip(), text, epoch) for piece in pieces]
    for piece, (_, _, length) in zip(pieces, found[:-1]):
        if length is None:
            raise InputError(
                "%s, which is not the last piece, needs a length: write FIX(k0=0.01) for 400 then FIX(k0=0.1)"
                % abbreviated(piece.strip())
            )
    if found[-1][2] is not None:
        raise InputError(
            "the last piece of %s goes on to the end of the training: leave out its length"
            % abbreviated(text)
        )
    return found


def _piece(text, whole, epoch):
    call, *length = re.split(r"\bfor\b", text, maxsplit=1)
    try:
        call = ast.parse(_EPOCHS.sub(r"'\g<0>'", call.strip()), mode="eval").body
        names = [keyword.arg for keyword in call.keywords]
        values = {keyword.arg: _literal(keyword.value) for keyword in call.keywords}
        if call.args or None in names or not isinstance(call.func, ast.Name):
            raise ValueError
        if len(set(names)) < len(names):  # Python 3.9 on lets this pass
            raise SyntaxError("keyword argument repeated")
        length = ast.literal_eval(_EPOCHS.sub(r"'\g<0>'", length[0].strip())) if length else None
    except (SyntaxError, ValueError, AttributeError, RecursionError, MemoryError) as error:
        if "repeated" in str(error):
            raise InputError(
                "a parameter is given twice in the policy %s: give each once" % abbreviated(whole)
            ) from None
        raise InputError(
            "cannot read the policy %s: write it as FUNCTION(name=number, ...), for instance "
            "SIN2(k0=0.01, k1=0.06, l=2000), or as FIX(k0=0.01) for 400 then FIX(k0=0.1)"
            % abbreviated(whole)
        ) from None
    function = call.func.id
    if "l" in values:
        given = values["l"]
        values["l"] = (
            [_length(v, epoch) for v in given]
            if isinstance(given, (list, tuple))
            else _length(given, epoch)
        )
    return (
        function,
        values,
        None
        if length is None
        else checked_length(abbreviated(function).strip("'"), "for", _length(length, epoch)),
    )


def _literal(node):
    """A number, a list of numbers or a name; nan and inf are numbers, so that they are refused as such."""
    if isinstance(node, ast.Name):
        return float(node.id) if node.id.lower() in ("nan", "inf", "infinity") else node.id
    return ast.literal_eval(node)


def _length(value, epoch):
    """A length as it was given, but epochs as iterations."""
    found = _EPOCHS.fullmatch(value) if isinstance(value, str) else None
    if not found:
        return value
    if epoch is None:
        raise InputError(
            "%s cannot be turned into iterations, since it is not known how many an epoch has (the number of training "
            "samples, or the batch size): give the number of iterations" % value
        )
    length = round(float(found.group(1)) * epoch)
    if length < 1:
        raise InputError(
            "%s are no whole iteration, since an epoch has %g: give more, or a number of iterations"
            % (value, epoch)
        )
    return length


def write(function, values):
    """The canonical text of a function with its parameters."""
    return "%s(%s)" % (
        function,
        ", ".join("%s=%s" % (name, _text(value)) for name, value in values.items()),
    )


def _text(value):
    if isinstance(value, tuple):
        return "[%s]" % ", ".join(map(str, value))
    return value if isinstance(value, str) else repr(value)
