"""The examples in the docstrings of the LR module, the metrics and the values."""

import doctest
import importlib
import pkgutil

import pytest

from lrbench_caffe import policies

MODULES = [
    "lrbench_caffe",
    "lrbench_caffe.errors",
    "lrbench_caffe.metrics",
    "lrbench_caffe.policies",
    *[
        "lrbench_caffe.policies." + module.name
        for module in pkgutil.iter_modules(policies.__path__)
    ],
    "lrbench_caffe.trial",
]


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_in_the_docstrings_are_correct(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted and not result.failed
