"""LRBench for Caffe: find good learning rate policies and train any Caffe solver with them.

>>> from lrbench_caffe import Policy
>>> policy = Policy.parse("SIN2(k0=0.01, k1=0.06, l=2000)")

``Policy`` needs NumPy only. ``train`` needs Caffe and PostgreSQL, ``weights`` PostgreSQL, and
``deploy_net`` Caffe. ``trials`` returns what the database has as a pandas DataFrame, and ``plot``
draws policies or trials in a notebook.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_MODULES = {
    "Policy": "policies",
    "InputError": "errors",
    "TrialError": "errors",
    "train": "study.process",
    "trials": "notebook",
    "plot": "notebook",
    "weights": "study.weights",
    "deploy_net": "study.deploy",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> object:
    """Import a public name at its first use, so that ``lrbench --help`` and Policy stay light."""
    if name not in _MODULES:
        raise AttributeError("module 'lrbench_caffe' has no attribute %r" % name)
    module = importlib.import_module("lrbench_caffe." + _MODULES[name])
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted(list(globals()) + __all__)
