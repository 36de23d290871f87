"""The Composition: several policies in sequence."""

from __future__ import annotations

import functools
import itertools
import textwrap
from bisect import bisect_right
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from lrbench_caffe.errors import InputError
from lrbench_caffe.policies.functions import MAX_ITERATION
from lrbench_caffe.policies.parameters import checked_piece_length
from lrbench_caffe.policies.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from lrbench_caffe.policies.policy import Array, Scalar

_MAX_FUNCTION_LENGTH = 200  # characters; the database accepts up to 500


class Composition(Policy):
    """Policies in sequence, each for a number of iterations, the last one to the end.

    Each piece has its own clock: its iterations are counted from its start. WARMUP goes in a
    straight line from its k0 to the first rate of the next piece.

    Args:
        *parts: The pieces, policies of one function each, with a length in iterations between any
            two of them.

    Raises:
        InputError: The pieces or their lengths do not fit together.

    Attributes:
        parts: The pieces and, between them, their lengths.
        pieces: The pieces.
        lengths: The lengths in iterations of all pieces but the last.

    Example:
        >>> policy = Composition(Policy("WARMUP", k0=0.5), 400, Policy("FIX", k0=1.5))
        >>> policy
        Policy.parse('WARMUP(k0=0.5) for 400 then FIX(k0=1.5)')
        >>> policy(0), policy(200), policy(400)
        (0.5, 1.0, 1.5)
    """

    parts: tuple[Policy | int, ...]
    pieces: tuple[Policy, ...]
    lengths: tuple[int, ...]
    _starts: tuple[int, ...]
    _ends: tuple[float, ...]
    _rates: tuple[Callable[[Any], Any], ...]

    def __init__(self, *parts: Policy | int) -> None:
        pieces = _checked_pieces(parts)
        lengths = [
            checked_piece_length(piece.function, length)
            for piece, length in zip(pieces, parts[1::2])
        ]
        starts = (0, *itertools.accumulate(lengths))
        if starts[-1] > MAX_ITERATION:
            raise InputError(
                "invalid lengths of the pieces, %d iterations in total, expected at most %d"
                % (starts[-1], MAX_ITERATION)
            )
        rates = (*map(_piece_rates, pieces, lengths, pieces[1:]), pieces[-1])
        if pieces[-1].function == "WARMUP":
            raise InputError(
                "the last piece %s needs a next piece, because it ends at the first rate of that "
                "piece: append for example `for 400 then FIX(k0=0.1)`" % pieces[-1]
            )
        functions = " then ".join(piece.function for piece in pieces)
        self._set_fields(
            function=textwrap.shorten(functions, _MAX_FUNCTION_LENGTH, placeholder=" ..."),
            parts=tuple(_alternated(pieces, lengths)),
            pieces=pieces,
            lengths=tuple(lengths),
            _starts=starts,
            _ends=tuple(start + piece.end for start, piece in zip(starts, pieces)),
            _rates=rates,
        )

    @property
    def parameters(self) -> dict[str, Any]:
        """The pieces: ``{"pieces": [{"function": ..., "parameters": ..., "length": ...}, ...]}``.

        The last piece has no length.
        """
        pieces: list[dict[str, Any]] = [
            {"function": piece.function, "parameters": piece.parameters} for piece in self.pieces
        ]
        for piece, length in zip(pieces, self.lengths):
            piece["length"] = length
        return {"pieces": pieces}

    @property
    def n_params(self) -> int:
        """#Param of all pieces, where each length counts as one parameter."""
        return sum(piece.n_params for piece in self.pieces) + len(self.lengths)

    @property
    def end(self) -> float:
        """The last iteration that has a rate, counted from the start of the first piece."""
        return self._ends[-1]

    @property
    def first(self) -> float:
        """The rate at iteration 0."""
        return self.pieces[0].first

    @property
    def has_memory(self) -> bool:
        """Whether one of the pieces is a PLATEAU."""
        return any(piece.has_memory for piece in self.pieces)

    @overload
    def __call__(self, t: Scalar) -> float: ...
    @overload
    def __call__(self, t: Array) -> NDArray[np.float64]: ...
    def __call__(self, t: Any) -> Any:
        """Return the learning rate at iteration t, counted from the start of the first piece.

        Arguments, results and errors are those of :meth:`Policy.__call__`.
        """
        if type(t) is int and t >= 0:  # the fast path of the training loop
            n = bisect_right(self._starts, t) - 1
            if t <= self._ends[n]:
                return self._rates[n](t - self._starts[n])
        return self._call_with_array(t)

    def _fill(self, rates: NDArray[np.float64], iterations: NDArray[Any]) -> None:
        indices = np.searchsorted(self._starts, iterations, side="right") - 1
        for n in np.unique(indices):
            rates[indices == n] = self._rates[n](iterations[indices == n] - self._starts[n])

    def _piece_at(self, iteration: int) -> tuple[int, Policy]:
        n = bisect_right(self._starts, iteration) - 1
        return self._starts[n], self.pieces[n]

    def _with_plateaus_fixed(self, rates: Mapping[int, float], start: int = 0) -> Policy:
        if not self.has_memory:
            return self
        pieces = [
            piece._with_plateaus_fixed(rates, start)
            for piece, start in zip(self.pieces, self._starts)
        ]
        return Composition(*_alternated(pieces, self.lengths))

    def __str__(self) -> str:
        lengths = [" for %d" % length for length in self.lengths] + [""]
        return " then ".join(str(piece) + length for piece, length in zip(self.pieces, lengths))


def _checked_pieces(parts: tuple[Policy | int, ...]) -> tuple[Policy, ...]:
    """The policies among the parts of a composition; each must have one function."""
    pieces = tuple(part for part in parts[0::2] if type(part) is Policy)
    if len(parts) % 2 == 0 or len(pieces) < len(parts[0::2]):
        raise InputError(
            "invalid pieces of a Composition, expected policies of one function each with a length "
            "between any two of them, for example FIX(k0=0.01) for 400 then FIX(k0=0.1)"
        )
    return pieces


def _alternated(pieces: Sequence[Policy], lengths: Sequence[int]) -> list[Policy | int]:
    """The pieces with the lengths between them."""
    parts: list[Policy | int] = [pieces[0]]
    for length, piece in zip(lengths, pieces[1:]):
        parts += [length, piece]
    return parts


def _piece_rates(piece: Policy, length: int, following: Policy) -> Callable[[Any], Any]:
    """The rates of a piece that is not the last, as a function of its own clock."""
    if piece.function == "WARMUP":
        return functools.partial(_line, piece.first, following.first, length)
    if piece.end < length - 1:
        raise InputError(
            "%s ends at l=%d, but its piece lasts %d iterations: set l=%d"
            % (piece, piece.end, length, length)
        )
    return piece


def _line(start: float, end: float, length: int, t: Any) -> Any:
    """The straight line from start at t = 0 to end at t = length."""
    return start + (end - start) * (t / length)
