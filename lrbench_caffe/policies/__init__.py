"""The LR module: learning rate policies as values, from the paper's 13 functions (Table I) on.

A policy is called with an iteration t, counted from 0, and knows nothing of Caffe:

>>> policy = Policy.parse("SIN2(k0=0.01, k1=0.06, l=2000)")
>>> policy(2000)
0.060000000000000005
>>> print(policy, policy.n_params)
SIN2(k0=0.01, k1=0.06, l=2000) 3

Policies one after another are a Composition, each with a clock of its own:

>>> Policy.parse("WARMUP(k0=0.01) for 400 then FIX(k0=0.11)")(200)
0.06

PLATEAU, whose rate depends on what it has seen, is between two evaluations a policy without memory, see :meth:`Policy.schedule`.
Only numpy is needed.
"""

from lrbench_caffe.policies.functions import CYCLIC, FUNCTIONS
from lrbench_caffe.policies.parameters import parameter_names, suggestion
from lrbench_caffe.policies.policy import Composition, Policy, parse_or_none

__all__ = [
    "CYCLIC",
    "FUNCTIONS",
    "Composition",
    "Policy",
    "parameter_names",
    "parse_or_none",
    "suggestion",
]
