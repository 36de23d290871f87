"""The LR module: learning rate policies as values.

A policy is one of the paper's 13 functions (Table I) or of a few additions, with its parameters. It
is called with an iteration t, counted from 0, and returns the learning rate:

>>> policy = Policy.parse("TRI2(k0=0.01, k1=0.05, l=2000)")
>>> policy(2000)
0.05
>>> print(policy, policy.n_params)
TRI2(k0=0.01, k1=0.05, l=2000) 3

A Composition is several policies in sequence, each with its own clock:

>>> Policy.parse("WARMUP(k0=0.1) for 400 then FIX(k0=0.3)")(200)
0.2

The rate of PLATEAU depends on the evaluations during the training. Between two evaluations it is a
policy without memory, see :meth:`Policy.schedule`.

The module does not depend on Caffe. It needs NumPy only.
"""

from lrbench_caffe.policies.composition import Composition
from lrbench_caffe.policies.functions import CYCLIC, FUNCTIONS
from lrbench_caffe.policies.parameters import parameter_names
from lrbench_caffe.policies.policy import Policy, check, parse_or_none

__all__ = [
    "CYCLIC",
    "FUNCTIONS",
    "Composition",
    "Policy",
    "check",
    "parameter_names",
    "parse_or_none",
]
