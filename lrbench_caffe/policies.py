"""The LR module: the paper's 13 learning rate functions (Table I) as values.

A policy is a function with its parameters.  It is called with an iteration t, counted from 0, and knows nothing of Caffe:

>>> policy = Policy.parse("SIN2(k0=0.01, k1=0.06, l=2000)")
>>> policy(2000)
0.060000000000000005
>>> print(policy, policy.n_params)
SIN2(k0=0.01, k1=0.06, l=2000) 3

Every function follows Formula 2, lr(t) = \\|k0 - k1\\| * g(t) + min(k0, k1).  The functions below are the g(t) of Table I: one
formula each, for a Python int with ``math`` and for an array with numpy.  Only numpy is needed.
"""
import ast
import difflib
import inspect
import math
from bisect import bisect_right
from types import SimpleNamespace

import numpy as np

from lrbench_caffe.errors import InputError

# What a formula needs beyond Python's operators, for one iteration and for arrays of them.
_ONE = SimpleNamespace(sin=math.sin, cos=math.cos, passed=bisect_right)
_MANY = SimpleNamespace(sin=np.sin, cos=np.cos, passed=lambda l, t: np.searchsorted(l, t, side="right"))


def fix(t, m):
    """g = 1, so that lr(t) = k0."""
    return 1.0


def step(t, m, gamma, l):
    """g = gamma ^ floor(t / l): a fixed step size of l iterations."""
    return gamma ** (t // l)


def nstep(t, m, gamma, l):
    """g = gamma ^ i, where i of the steps l_0 < l_1 < ... are <= t."""
    return gamma ** m.passed(l, t)


def exp(t, m, gamma):
    """g = gamma ^ t."""
    return gamma ** t


def inv(t, m, gamma, p):
    """g = (1 + gamma * t) ^ -p."""
    return (1.0 + gamma * t) ** -p


def poly(t, m, p, l):
    """g = (1 - t / l) ^ p, where l is the total number of iterations; undefined beyond it."""
    return (1.0 - t / l) ** p


def tri(t, m, l):
    """g = 2/pi * abs(asin(sin(pi * t / (2 l)))): from 0 to 1 in l iterations and back, written without the rounding of asin."""
    return 1.0 - abs(t % (2 * l) - l) / l


def tri2(t, m, l):
    """g = TRI(t) / 2 ^ floor(t / (2 l)): halved after each cycle."""
    return tri(t, m, l) * 0.5 ** (t // (2 * l))


def triexp(t, m, gamma, l):
    """g = TRI(t) * gamma ^ t."""
    return tri(t, m, l) * gamma ** t


def sin(t, m, l):
    """g = abs(sin(pi * t / (2 l))): from 0 to 1 in l iterations and back."""
    return abs(m.sin(math.pi / (2 * l) * t))


def sin2(t, m, l):
    """g = SIN(t) / 2 ^ floor(t / (2 l)): halved after each cycle."""
    return sin(t, m, l) * 0.5 ** (t // (2 * l))


def sinexp(t, m, gamma, l):
    """g = SIN(t) * gamma ^ t."""
    return sin(t, m, l) * gamma ** t


def cos(t, m, l):
    """g = (1 + cos(pi * t / l)) / 2: from 1 to 0 in l iterations and back."""
    return (1.0 + m.cos(math.pi / l * t)) / 2.0


FUNCTIONS = {g.__name__.upper(): g for g in (fix, step, nstep, exp, inv, poly, tri, tri2, triexp, sin, sin2, sinexp, cos)}
CYCLIC = ("TRI", "TRI2", "TRIEXP", "SIN", "SIN2", "SINEXP", "COS")
ORDER = ("k0", "k1", "gamma", "p", "l")


def parameter_names(function):
    """The names that a function's parameters may have, in the order of the canonical text, e.g. ("k0", "k1", "l") for SIN.

    k1 is a bound of the cyclic functions, and the floor (0 unless given) that a decaying function may have (section V-B).
    """
    own = set(inspect.signature(FUNCTIONS[function]).parameters)
    return tuple(n for n in ORDER if n == "k0" or n in own or (n == "k1" and function != "FIX"))


class Policy:
    """A learning rate policy: one of the 13 functions with its parameters.  Immutable, hashable, equal by its canonical text.

    ``Policy("STEP", k0=0.1, gamma=0.85, l=5000)`` is ``Policy.parse("STEP(k0=0.1, gamma=0.85, l=5000)")``.  k0, k1 are learning
    rates, l is a number of iterations (half a cycle for the cyclic functions, a list of them for NSTEP), gamma and p are plain
    numbers.  Raises InputError naming the parameter, its value and what would do.
    """
    def __init__(self, function, **parameters):
        if function not in FUNCTIONS:
            raise InputError("unknown learning rate function %s%s" % (_short(function), closest(function, FUNCTIONS)))
        values = _checked(function, parameters)
        if function not in CYCLIC and values.get("k1") == 0.0:
            del values["k1"]  # the default, left out so that equal policies have equal texts
        k0, k1 = values["k0"], values.get("k1", 0.0)
        fields = dict(function=function, _values=values, _g=FUNCTIONS[function], _span=abs(k0 - k1), _low=min(k0, k1),
                      _arguments=tuple(v for n, v in values.items() if n not in ("k0", "k1")),
                      _end=values["l"] if function == "POLY" else math.inf)
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @classmethod
    def parse(cls, text):
        """The policy that a text such as ``"NSTEP(k0=0.05, gamma=0.1, l=[150, 180])"`` names."""
        try:
            call = ast.parse(text.strip(), mode="eval").body
            names = [keyword.arg for keyword in call.keywords]
            parameters = {keyword.arg: _literal(keyword.value) for keyword in call.keywords}
            if call.args or None in names or not isinstance(call.func, ast.Name):
                raise ValueError
            if len(set(names)) < len(names):  # Python 3.9 on lets this pass
                raise SyntaxError("keyword argument repeated")
        except (SyntaxError, ValueError, AttributeError, RecursionError, MemoryError) as error:
            if "repeated" in str(error):
                raise InputError("a parameter is given twice in the policy %s: give each once" % _short(text)) from None
            raise InputError("cannot read the policy %s: write it as FUNCTION(name=number, ...), for instance "
                             "SIN2(k0=0.01, k1=0.06, l=2000)" % _short(text)) from None
        return cls(call.func.id, **parameters)

    @property
    def parameters(self):
        """The parameters by name, in canonical order; NSTEP's l is a tuple.  A copy."""
        return dict(self._values)

    @property
    def n_params(self):
        """#Param of Table I; NSTEP's steps count one by one, k1 where it is given."""
        return sum(len(v) if isinstance(v, tuple) else 1 for v in self._values.values())

    def __call__(self, t):
        """The learning rate at iteration t: a float for an int, for an array of iterations a float64 array of its shape.

        Raises InputError for an iteration below 0, and for one beyond the l of a POLY.
        """
        if type(t) is int and 0 <= t <= self._end:  # the common case, kept to one microsecond
            return self._span * self._g(t, _ONE, *self._arguments) + self._low
        array = np.asarray(t)
        if array.dtype.kind not in "iuf":
            raise InputError("an iteration is a number counted from 0, not %s" % _short(t))
        array = array.astype(np.float64 if array.dtype.kind == "f" else np.int64, copy=False)
        if array.size and self.function != "FIX":  # whose rate is the same wherever one asks
            self._check(array.min(), array.max())
        rates = np.empty(array.shape)
        rates[...] = self._g(array, _MANY, *self._arguments) * self._span
        if self._low:
            rates += self._low
        return rates if isinstance(t, np.ndarray) or array.ndim else float(rates)

    def _check(self, first, last):
        if not first >= 0:
            raise InputError("iteration %s is below 0: iterations are counted from 0" % first)
        if last > self._end:
            raise InputError("%s ends at l=%d and has no rate at iteration %s: give l the total number of iterations"
                             % (self, self._end, last))

    def __str__(self):
        return "%s(%s)" % (self.function, ", ".join("%s=%s" % (n, _text(v)) for n, v in self._values.items()))

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


def _checked(function, parameters):
    """The parameters in canonical order and type, or an InputError for the first that is wrong."""
    names = parameter_names(function)
    for name in parameters:
        if name not in names:
            raise InputError("%s has no parameter %s%s" % (function, _short(name), closest(name, names)))
    optional = () if function in CYCLIC else ("k1",)
    for name in names:
        if name not in parameters and name not in optional:
            raise InputError("%s needs the parameter %s (%s)" % (function, name, _MEANINGS[name]))
    return {name: _CHECKS.get((function, name), _CHECKS[name])(function, name, parameters[name])
            for name in names if name in parameters}


_MEANINGS = {
    "k0": "a learning rate above 0", "k1": "the other bound of the learning rate, 0 or above", "gamma": "the decay's factor",
    "p": "the decay's power, above 0", "l": "a whole number of iterations above 0; for NSTEP a list such as [5000, 7000]",
}


def _number(function, name, value, fits, wanted):
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not (number and abs(value) <= 1.7e308 and fits(value)):  # the bound also keeps an endless int out of float()
        raise InputError("%s=%s of %s does not do: give %s" % (name, _short(value), function, wanted))
    return float(value) + 0.0  # no -0.0


def _k0(function, name, value):
    return _number(function, name, value, lambda v: v > 0, "a learning rate above 0, for instance 0.01")


def _k1(function, name, value):
    return _number(function, name, value, lambda v: v >= 0, "a learning rate of 0 or above, for instance 0.06")


def _decay(function, name, value):
    return _number(function, name, value, lambda v: 0 < v <= 1, "a factor above 0 and at most 1, for instance 0.9")


def _positive(function, name, value):
    return _number(function, name, value, lambda v: v > 0, "a number above 0")


def _iterations(function, name, value):
    return int(_number(function, name, value, lambda v: 0 < v <= 2 ** 53 and v == int(v),
                       "a whole number of iterations above 0, for instance 2000"))


def _steps(function, name, value):
    wanted = "a list of iterations above 0 in increasing order, for instance [5000, 7000]"
    if not isinstance(value, (list, tuple)) or not value:
        raise InputError("%s=%s of %s does not do: give %s" % (name, _short(value), function, wanted))
    steps = tuple(_iterations(function, name, v) for v in value)
    if any(a >= b for a, b in zip(steps, steps[1:])):
        raise InputError("%s=%s of %s does not do: give %s" % (name, _short(list(value)), function, wanted))
    return steps


_CHECKS = {"k0": _k0, "k1": _k1, "gamma": _decay, "p": _positive, "l": _iterations,
           ("NSTEP", "l"): _steps, ("INV", "gamma"): _positive}


def _literal(node):
    """A number or a list of numbers; nan and inf are read as such, so that they are refused by name."""
    if isinstance(node, ast.Name) and node.id.lower() in ("nan", "inf", "infinity"):
        return float(node.id)
    return ast.literal_eval(node)


def _text(value):
    return "[%s]" % ", ".join(map(str, value)) if isinstance(value, tuple) else repr(value)


def _short(value):
    """What was given, short enough for one sentence."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except ValueError:  # an int with too many digits to print
        text = "a very large number"
    return repr(text[:60] + "...") if len(text) > 63 else repr(text) if isinstance(value, str) else text


def closest(name, known):
    """The end of a sentence about an unknown name: the known name it is likely meant to be, or all of them."""
    near = difflib.get_close_matches(str(name)[:40].upper(), [k.upper() for k in known], n=1, cutoff=0.5)
    right = [k for k in known if near and k.upper() == near[0]]
    return ": did you mean %s?" % right[0] if right else ": it is one of " + ", ".join(known)
