"""The Policy: a learning rate function with its parameters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NoReturn, overload

import numpy as np

from lrbench_caffe.errors import InputError, abbreviated
from lrbench_caffe.policies import notation, plateau
from lrbench_caffe.policies.functions import ARRAY, FUNCTIONS, SCALAR, sgdr
from lrbench_caffe.policies.parameters import checked_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from lrbench_caffe.trial import Evaluation

    Scalar = int | float | np.integer[Any] | np.floating[Any]
    Array = NDArray[Any] | Sequence[float]

_FORMULAS = dict(FUNCTIONS, SGDR=sgdr)  # WARMUP and PLATEAU have no g(t)


class Policy:
    """A learning rate policy: a function with its parameters.

    A Policy is a value: it is immutable, hashable, and equal to another Policy if their canonical
    texts are equal. It is called with an iteration t and returns the learning rate of Formula 2,
    lr(t) = abs(k0 - k1) * g(t) + min(k0, k1).

    Args:
        function: The name of a function: one of the paper's 13 (FIX, STEP, NSTEP, EXP, INV, POLY,
            TRI, TRI2, TRIEXP, SIN, SIN2, SINEXP, COS), SGDR, WARMUP or PLATEAU.
        **parameters: The parameters by name. ``parameter_names(function)`` lists them:

            * k0, k1: learning rates. k1 is the other bound of a cyclic function, and the lower
              bound, 0 by default, of a decaying function.
            * gamma, p: plain numbers, the factor and the power of a decay.
            * l: a number of iterations: the distance of two steps, half a cycle, the first cycle of
              SGDR, the last iteration of POLY or the patience of PLATEAU. For NSTEP, l is a list.
            * mult: the ratio of two successive cycles of SGDR, 1 by default.
            * threshold, of: the least improvement that counts for PLATEAU, 0 by default, and the
              metric: test_loss (the default), train_loss or top1.

    Raises:
        InputError: The function is unknown, or a parameter is unknown, missing or invalid.

    Attributes:
        function: The name of the function. For a Composition, the names with " then " between.

    Example:
        >>> policy = Policy("SIN2", k0=0.01, k1=0.05, l=2000)
        >>> policy(0), policy(2000)
        (0.01, 0.05)
        >>> policy
        Policy.parse('SIN2(k0=0.01, k1=0.05, l=2000)')
    """

    function: str
    _parameters: dict[str, Any]
    _formula: Any  # g(t), None for WARMUP and PLATEAU
    _formula_arguments: tuple[Any, ...]
    _span: float  # abs(k0 - k1)
    _low: float  # min(k0, k1)
    _last: float  # the last iteration with a rate, -1 without a formula

    def __init__(self, function: str, **parameters: Any) -> None:
        values = checked_parameters(function, parameters)
        k0, k1 = values["k0"], values.get("k1", 0.0)
        formula = _FORMULAS.get(function)
        self._set_fields(
            function=function,
            _parameters=values,
            _formula=formula,
            _formula_arguments=tuple(
                value for name, value in values.items() if name not in ("k0", "k1")
            ),
            _span=abs(k0 - k1),
            _low=min(k0, k1),
            _last=-1 if formula is None else values["l"] if function == "POLY" else math.inf,
        )

    def _set_fields(self, **fields: object) -> None:
        """Set attributes of a new policy, which :meth:`__setattr__` does not allow."""
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @classmethod
    def parse(cls, text: str, epoch: float | None = None) -> Policy:
        """Return the policy that a text describes, a Composition if it has several pieces.

        Args:
            text: The text, such as ``"NSTEP(k0=0.05, gamma=0.1, l=[150, 180])"`` or
                ``"WARMUP(k0=0.01) for 5 epochs then FIX(k0=0.1)"``.
            epoch: The number of iterations in an epoch, for lengths such as ``l=2 epochs``. The
                policy has them in iterations, rounded.

        Raises:
            InputError: The text is not a policy, the policy is invalid, or a length is in epochs
                and epoch is None.

        Example:
            >>> Policy.parse("STEP(k0=.1, gamma=.5, l=2 epochs)", epoch=390.625)
            Policy.parse('STEP(k0=0.1, gamma=0.5, l=781)')
        """
        return _assembled(notation.read(text, epoch))

    @property
    def parameters(self) -> dict[str, Any]:
        """A copy of the parameters by name, in canonical order and without default values.

        k0, k1, gamma, p and threshold are float, l and mult int, of is str. NSTEP's l is a tuple.
        """
        return dict(self._parameters)

    @property
    def n_params(self) -> int:
        """#Param of Table I: the number of parameters, where each step of NSTEP counts as one.

        An optional parameter counts if its value is not the default.
        """
        return sum(
            len(value) if isinstance(value, tuple) else 1 for value in self._parameters.values()
        )

    @property
    def end(self) -> float:
        """The last iteration that has a rate: l for POLY, infinity for all other functions."""
        return self._last if self._formula else math.inf

    @property
    def first(self) -> float:
        """The rate at iteration 0, which for WARMUP and PLATEAU is k0."""
        return self(0) if self._formula else float(self._parameters["k0"])

    @property
    def has_memory(self) -> bool:
        """Whether the rate depends on earlier evaluations, as for PLATEAU.

        The rates of such a policy are known up to the next evaluation only, see :meth:`schedule`.
        """
        return self.function == "PLATEAU"

    @overload
    def __call__(self, t: Scalar) -> float: ...
    @overload
    def __call__(self, t: Array) -> NDArray[np.float64]: ...
    def __call__(self, t: Any) -> Any:
        """Return the learning rate at iteration t.

        Args:
            t: The iteration about to run, counted from 0, or an array of iterations.

        Returns:
            A float for a number, a float64 array of the same shape for an array.

        Raises:
            InputError: t is below 0 or beyond the l of POLY, or the policy is WARMUP or PLATEAU,
                which have no rate by themselves. FIX accepts any number.

        Example:
            >>> policy = Policy("TRI", k0=0.5, k1=1.5, l=2)
            >>> policy(1)
            1.0
            >>> policy(np.arange(5))
            array([0.5, 1. , 1.5, 1. , 0.5])
        """
        if type(t) is int and 0 <= t <= self._last:  # the fast path of the training loop
            return self._span * self._formula(t, SCALAR, *self._formula_arguments) + self._low
        return self._call_with_array(t)

    def _call_with_array(self, t: Any) -> Any:
        """The rates at any t, with all checks."""
        iterations = np.asarray(t)
        kind = iterations.dtype.kind
        if kind not in "iuf":
            raise InputError(
                "invalid iteration %s, expected a number of at least 0" % abbreviated(t)
            )
        iterations = iterations.astype(np.float64 if kind == "f" else np.int64, copy=False)
        if iterations.size and self.function != "FIX":  # FIX has a rate everywhere
            self._check_iterations(iterations.min(), iterations.max())
        rates = np.empty(iterations.shape)
        self._fill(rates, iterations)
        return rates if isinstance(t, np.ndarray) or iterations.ndim else float(rates)

    def _check_iterations(self, first: Any, last: Any) -> None:
        """Raise InputError if one of the iterations from first to last has no rate."""
        if self.has_memory:
            raise InputError(
                "%s has no rate by itself, because PLATEAU depends on the evaluations: "
                "call policy.schedule(memory), which returns a policy that has rates" % self
            )
        if self.function == "WARMUP":
            raise InputError(
                "%s needs a next piece, because it ends at the first rate of that piece: "
                "write for example %s for 400 then FIX(k0=0.1)" % (self, self)
            )
        if not first >= 0:  # also for NaN
            raise InputError("invalid iteration %s, expected a number of at least 0" % first)
        if last > self.end:
            raise InputError(
                "%s ends at %s%d and has no rate at iteration %s: "
                "set l to the total number of iterations"
                % (self, "l=" if self.function == "POLY" else "iteration ", self.end, last)
            )

    def _fill(self, rates: NDArray[np.float64], iterations: NDArray[Any]) -> None:
        """Write the rates at the iterations to an array of the same shape."""
        rates[...] = self._formula(iterations, ARRAY, *self._formula_arguments) * self._span
        if self._low:
            rates += self._low

    def observe(self, memory: plateau.Memory | None, row: Evaluation) -> plateau.Memory | None:
        """Return the memory after one more evaluation.

        Args:
            memory: The memory after the evaluation before, None at the first evaluation.
            row: The evaluation: an object with iteration and the metric (train_loss, test_loss or
                top1) as attributes.

        Returns:
            The memory of the PLATEAU that runs at row.iteration. If another function runs at that
            iteration, the memory is returned unchanged.

        Example:
            >>> from types import SimpleNamespace
            >>> policy, memory = Policy("PLATEAU", k0=0.1, gamma=0.5, l=100), None
            >>> for iteration, loss in ((0, 2.3), (50, 1.1), (100, 1.4), (150, 1.2)):
            ...     row = SimpleNamespace(iteration=iteration, test_loss=loss)
            ...     memory = policy.observe(memory, row)
            >>> policy.schedule(memory)
            Policy.parse('FIX(k0=0.05)')
        """
        start, piece = self._piece_at(row.iteration)
        if not piece.has_memory:
            return memory
        if memory is None or memory.start != start:
            memory = plateau.begin(start)
        return plateau.observe(piece.parameters, memory, row)

    def schedule(self, memory: plateau.Memory | None) -> Policy:
        """Return a policy without memory that has the same rates until the next evaluation.

        Args:
            memory: What :meth:`observe` returned for the last evaluation.

        Returns:
            The policy with FIX in place of PLATEAU, or the policy itself if it has no PLATEAU.
        """
        if memory is None:
            return self._with_plateaus_fixed({})
        _, piece = self._piece_at(memory.start)
        return self._with_plateaus_fixed({memory.start: plateau.rate(piece.parameters, memory)})

    def schedule_from(self, iteration: int, rate: float) -> Policy:
        """Return a policy as :meth:`schedule` does, from a measured rate instead of a memory.

        Args:
            iteration: An iteration at which a PLATEAU runs.
            rate: The learning rate of that PLATEAU.
        """
        start, _ = self._piece_at(iteration)
        return self._with_plateaus_fixed({start: rate})

    # Former names, kept for programs that use them.
    see = observe
    given = schedule
    going_on = schedule_from

    def _piece_at(self, iteration: int) -> tuple[int, Policy]:
        """The piece that runs at an iteration, as (its first iteration, piece)."""
        return 0, self

    def _with_plateaus_fixed(self, rates: Mapping[int, float], start: int = 0) -> Policy:
        """The policy with FIX in place of each PLATEAU.

        The rate is that of the PLATEAU's start in rates, or else the PLATEAU's k0. start is the
        iteration at which this policy starts.
        """
        if not self.has_memory:
            return self
        return Policy("FIX", k0=rates.get(start, self._parameters["k0"]))

    def __str__(self) -> str:
        return notation.write(self.function, self._parameters)

    def __repr__(self) -> str:
        return "Policy.parse(%r)" % str(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Policy) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Policy is immutable: create a new one")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a Policy is immutable: create a new one")

    def __reduce__(self) -> tuple[Callable[[str], Policy], tuple[str]]:
        return Policy.parse, (str(self),)


def check(text: str) -> None:
    """Check the text of a policy before the number of iterations in an epoch is known.

    If the text has lengths in epochs, it is not checked whether the lengths fit together.

    Args:
        text: The text, as for :meth:`Policy.parse`.

    Raises:
        InputError: The text is not a policy, or the policy is invalid.
    """
    if not notation.has_epochs(text):
        Policy.parse(text)
        return
    pieces = notation.read(text, notation.ANY_EPOCH)
    _assembled([_with_shortest_lengths(piece) for piece in pieces])


def _with_shortest_lengths(piece: notation.Piece) -> notation.Piece:
    """The piece with lengths of one iteration, which fit together in any policy."""
    parameters = dict(piece.parameters)
    if "l" in parameters:
        parameters["l"] = [1] if piece.function == "NSTEP" else 1
    return piece._replace(parameters=parameters, length=piece.length and 1)


def _assembled(pieces: Sequence[notation.Piece]) -> Policy:
    """The policy of some pieces, a Composition if there are several."""
    policies = [Policy(piece.function, **piece.parameters) for piece in pieces]
    if len(policies) == 1:
        return policies[0]
    from lrbench_caffe.policies.composition import Composition  # which imports this module

    parts: list[Policy | int] = []
    for policy, piece in zip(policies, pieces):
        parts += [policy] if piece.length is None else [policy, piece.length]
    return Composition(*parts)


def parse_or_none(text: str, epoch: float | None = None) -> Policy | None:
    """Return the policy of a text, None if it is not a policy of this module.

    A trial with a schedule that only Caffe has, such as sigmoid, stores a text that is not a
    policy.
    """
    try:
        return Policy.parse(text, epoch)
    except InputError:
        return None
