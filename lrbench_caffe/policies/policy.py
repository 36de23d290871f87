"""The Policy: a learning rate function with its parameters, and the Composition: policies one after another."""

import functools
import itertools
import math
import textwrap
from bisect import bisect_right

import numpy as np

from lrbench_caffe.errors import InputError
from lrbench_caffe.policies import notation, plateau
from lrbench_caffe.policies.functions import ARRAY, FUNCTIONS, MAX_ITERATION, SCALAR, sgdr
from lrbench_caffe.policies.parameters import abbreviated, checked_length, checked_parameters

_FORMULAS = dict(FUNCTIONS, SGDR=sgdr)


class Policy:
    """A learning rate policy: a function with its parameters.  Immutable, hashable, equal by its canonical text.

    ``Policy("STEP", k0=0.1, gamma=0.85, l=5000)`` is ``Policy.parse("STEP(k0=0.1, gamma=0.85, l=5000)")``.  k0, k1 are learning
    rates, l is a number of iterations (half a cycle for the cyclic functions, the first cycle for SGDR, a list of them for NSTEP,
    the patience of PLATEAU), gamma and p are plain numbers.  Raises InputError naming the parameter, its value and what would do.
    """

    def __init__(self, function, **parameters):
        values = checked_parameters(function, parameters)
        k0, k1 = values["k0"], values.get("k1", 0.0)
        g = _FORMULAS.get(function)
        self._set(
            function=function,
            _values=values,
            _g=g,
            _span=abs(k0 - k1),
            _low=min(k0, k1),
            _arguments=tuple(v for n, v in values.items() if n not in ("k0", "k1")),
            _end=-1 if g is None else values["l"] if function == "POLY" else math.inf,
        )

    def _set(self, **fields):
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @classmethod
    def parse(cls, text, epoch=None):
        """The policy that a text names, such as ``"NSTEP(k0=0.05, gamma=0.1, l=[150, 180])"``; several pieces are a Composition.

        epoch is the number of iterations in an epoch, for lengths such as ``l=2 epochs``: the policy has them in iterations.
        """
        pieces = notation.read(text, epoch)
        if len(pieces) == 1:
            return Policy(pieces[0][0], **pieces[0][1])
        parts = []
        for function, parameters, length in pieces:
            parts += [Policy(function, **parameters), length]
        return Composition(*parts[:-1])

    @property
    def parameters(self):
        """The parameters by name, in canonical order; NSTEP's l is a tuple.  A copy."""
        return dict(self._values)

    @property
    def n_params(self):
        """#Param of Table I; NSTEP's steps count one by one, and what may be left out where it is given."""
        return sum(len(v) if isinstance(v, tuple) else 1 for v in self._values.values())

    @property
    def end(self):
        """The last iteration that has a rate; infinite for all but POLY."""
        return self._end if self._g else math.inf

    @property
    def first(self):
        """The rate at iteration 0; of a WARMUP and a PLATEAU, k0."""
        return self(0) if self._g else self._values["k0"]

    def __call__(self, t):
        """The learning rate at iteration t: a float for an int, for an array of iterations a float64 array of its shape.

        Raises InputError for an iteration below 0, for one beyond the l of a POLY, and for a WARMUP or a PLATEAU by itself.
        """
        if type(t) is int and 0 <= t <= self._end:  # the common case, kept to one microsecond
            return self._span * self._g(t, SCALAR, *self._arguments) + self._low
        return self._of_array(t)

    def _of_array(self, t):
        array = np.asarray(t)
        if array.dtype.kind not in "iuf":
            raise InputError("an iteration is a number counted from 0, not %s" % abbreviated(t))
        array = array.astype(np.float64 if array.dtype.kind == "f" else np.int64, copy=False)
        if array.size and self.function != "FIX":  # whose rate is the same wherever one asks
            self._check(array.min(), array.max())
        rates = np.empty(array.shape)
        self._fill(rates, array)
        return rates if isinstance(t, np.ndarray) or array.ndim else float(rates)

    def _fill(self, rates, array):
        rates[...] = self._g(array, ARRAY, *self._arguments) * self._span
        if self._low:
            rates += self._low

    def _check(self, first, last):
        if self.has_memory:
            raise InputError(
                "%s lowers its rate by what it sees: ask policy.schedule(memory), which has a rate"
                % self
            )
        if self.function == "WARMUP":
            raise InputError(
                "%s ends where the next piece begins and needs one: for instance %s for 400 then FIX(k0=0.1)"
                % (self, self)
            )
        if not first >= 0:
            raise InputError("iteration %s is below 0: iterations are counted from 0" % first)
        if last > self.end:
            raise InputError(
                "%s ends at %s%d and has no rate at iteration %s: give l the total number of iterations"
                % (self, "l=" if self.function == "POLY" else "iteration ", self.end, last)
            )

    @property
    def has_memory(self):
        """Whether the rate depends on what was measured before, so that there is one only from one evaluation to the next."""
        return self.function == "PLATEAU"

    def observe(self, memory, row):
        """The memory after one more evaluation (None before the first, and for a policy without): a plateau.Memory.

        row is anything with ``iteration``, ``train_loss``, ``test_loss`` and ``top1``.
        """
        start, piece = self._piece_at(row.iteration)
        if not piece.has_memory:
            return memory
        if memory is None or memory.start != start:
            memory = plateau.begin(start)
        return plateau.observe(piece.parameters, memory, row)

    def schedule(self, memory):
        """The policy without memory that this one is until the next evaluation; itself when it has none."""
        if memory is None:
            return self._holding({})
        _, piece = self._piece_at(memory.start)
        return self._holding({memory.start: plateau.rate(piece.parameters, memory)})

    see, given = observe, schedule  # their names in version 0.1

    def schedule_from(self, iteration, rate):
        """The same as :meth:`schedule`, for a PLATEAU that is seen to go on from an iteration at a rate."""
        return self._holding({self._piece_at(iteration)[0]: rate})

    def _piece_at(self, iteration):
        return 0, self

    def _holding(self, rates, start=0):
        return Policy("FIX", k0=rates.get(start, self._values["k0"])) if self.has_memory else self

    def __str__(self):
        return notation.write(self.function, self._values)

    def __repr__(self):
        return "Policy.parse(%r)" % str(self)

    def __eq__(self, other):
        return isinstance(other, Policy) and str(self) == str(other)

    def __hash__(self):
        return hash(str(self))

    def __setattr__(self, name, value):
        raise AttributeError("a policy cannot be changed: make another one")

    __delattr__ = __setattr__

    def __reduce__(self):
        return Policy.parse, (str(self),)


class Composition(Policy):
    """Policies one after another, each for a number of iterations and with a clock of its own, the last one to the end.

    ``Composition(Policy("WARMUP", k0=0.01), 400, Policy("FIX", k0=0.1))`` is
    ``Policy.parse("WARMUP(k0=0.01) for 400 then FIX(k0=0.1)")``.  WARMUP goes in a straight line from k0 to the rate at which the
    next piece begins.  Raises InputError for pieces that do not fit together.
    """

    def __init__(self, *parts):
        pieces = parts[0::2]
        if len(parts) % 2 == 0 or not all(type(piece) is Policy for piece in pieces):
            raise InputError(
                "a composition has policies of one function each with a length between any two of them: for instance "
                "FIX(k0=0.01) for 400 then FIX(k0=0.1)"
            )
        lengths = [
            checked_length(piece.function, "for", length)
            for piece, length in zip(pieces, parts[1::2])
        ]
        starts = [0, *itertools.accumulate(lengths)]
        if starts[-1] > MAX_ITERATION:
            raise InputError(
                "the lengths of the pieces are %d iterations together: give at most %d"
                % (starts[-1], MAX_ITERATION)
            )
        rates = [*map(_rates, pieces, lengths, pieces[1:]), pieces[-1]]
        last = pieces[-1].function
        if last == "WARMUP":
            raise InputError(
                "the last piece %s ends where the next begins and needs one: put `for 400 then FIX(k0=0.1)` behind it"
                % pieces[-1]
            )
        self._set(
            function=textwrap.shorten(
                " then ".join(piece.function for piece in pieces), 200, placeholder=" ..."
            ),
            parts=tuple(value for pair in zip(pieces, lengths + [None]) for value in pair)[:-1],
            _starts=starts,
            _rates=rates,
        )

    @property
    def _pieces(self):
        return self.parts[0::2]

    @property
    def parameters(self):
        """{"pieces": one dict for each, with its function, its parameters and, but for the last, its length}."""
        lengths = [{"length": length} for length in self.parts[1::2]] + [{}]
        return {
            "pieces": [
                dict(function=piece.function, parameters=piece.parameters, **length)
                for piece, length in zip(self._pieces, lengths)
            ]
        }

    @property
    def n_params(self):
        """#Param of all pieces, and one for each length."""
        return sum(piece.n_params for piece in self._pieces) + len(self.parts[1::2])

    @property
    def end(self):
        """The last iteration that has a rate, counted from the beginning of the first piece."""
        return self._starts[-1] + self._pieces[-1].end

    @property
    def first(self):
        """The rate at iteration 0."""
        return self._pieces[0].first

    @property
    def has_memory(self):
        """As of a Policy: whether one of the pieces is a PLATEAU."""
        return any(piece.has_memory for piece in self._pieces)

    def __call__(self, t):
        """The learning rate at iteration t, as of a Policy."""
        if type(t) is int and t >= 0:
            n = bisect_right(self._starts, t) - 1
            if t <= self._starts[n] + self._pieces[n].end:
                return self._rates[n](t - self._starts[n])
        return self._of_array(t)

    def _fill(self, rates, array):
        piece_of = np.searchsorted(self._starts, array, side="right") - 1
        for n in np.unique(piece_of):
            rates[piece_of == n] = self._rates[n](array[piece_of == n] - self._starts[n])

    def _piece_at(self, iteration):
        n = bisect_right(self._starts, iteration) - 1
        return self._starts[n], self._pieces[n]

    def _holding(self, rates, start=0):
        if not self.has_memory:
            return self
        parts = list(self.parts)
        parts[0::2] = [piece._holding(rates, at) for piece, at in zip(self._pieces, self._starts)]
        return Composition(*parts)

    def __str__(self):
        lengths = [" for %d" % length for length in self.parts[1::2]] + [""]
        return " then ".join(str(piece) + length for piece, length in zip(self._pieces, lengths))


def _rates(piece, length, following):
    """The rates of a piece that is not the last, as a function of its own clock."""
    if piece.function == "WARMUP":
        return functools.partial(_line, piece.first, following.first, length)
    if piece.end < length - 1:
        raise InputError(
            "%s ends at l=%d, but is to last %d iterations: give it l=%d"
            % (piece, piece.end, length, length)
        )
    return piece


def _line(start, end, length, t):
    """From start to end in a straight line."""
    return start + (end - start) * (t / length)


def parse_or_none(text):
    """The Policy of a trial's text; None for a schedule that only Caffe has, and for what is no policy."""
    try:
        return Policy.parse(text)
    except InputError:
        return None
