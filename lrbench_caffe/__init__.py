"""LRBench for Caffe: find good learning rate policies, and train any Caffe solver prototxt under them.

>>> from lrbench_caffe import Policy
>>> policy = Policy.parse("SIN2(k0=0.01, k1=0.06, l=2000)")

``Policy`` needs numpy and nothing else; ``train`` needs Caffe and PostgreSQL.
"""

__version__ = "0.1.0"

_HOMES = {
    "Policy": "policies",
    "InputError": "errors",
    "TrialError": "errors",
    "train": "study.process",
}
__all__ = sorted(_HOMES)


def __getattr__(
    name,
):  # each name is imported when it is first used, so that `lrbench --help` and Policy stay light
    if name not in _HOMES:
        raise AttributeError("module 'lrbench_caffe' has no attribute %r" % name)
    import importlib

    value = globals()[name] = getattr(
        importlib.import_module("lrbench_caffe." + _HOMES[name]), name
    )
    return value


def __dir__():
    return sorted(list(globals()) + __all__)
