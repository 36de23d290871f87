"""The LR module: the formulas of Table I, computed independently, and the Policy as a value."""

import json
import math
import os
import pickle
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from lrbench_caffe.errors import InputError
from lrbench_caffe.policies import FUNCTIONS, Policy, parameter_names

# (policy, {iteration: rate}): rates computed by hand from Table I.
BY_HAND = [
    ("FIX(k0=0.01)", {0: 0.01, 1: 0.01, 10**6: 0.01}),
    ("STEP(k0=0.1, gamma=0.5, l=10)", {0: 0.1, 9: 0.1, 10: 0.05, 19: 0.05, 20: 0.025, 35: 0.0125}),
    ("STEP(k0=0.1, k1=0.02, gamma=0.5, l=10)", {0: 0.1, 10: 0.06, 20: 0.04}),
    (
        "NSTEP(k0=0.01, gamma=0.9, l=[5000, 7000, 8000])",
        {0: 0.01, 4999: 0.01, 5000: 0.009, 7000: 0.0081, 9999: 0.00729},
    ),
    ("EXP(k0=1, gamma=0.5)", {0: 1, 1: 0.5, 3: 0.125, 10: 1 / 1024}),
    ("INV(k0=0.01, gamma=0.0001, p=0.5)", {0: 0.01, 30000: 0.005, 80000: 0.01 / 3}),
    ("POLY(k0=0.08, p=3, l=100)", {0: 0.08, 50: 0.01, 75: 0.00125, 100: 0}),
    ("POLY(k0=0.09, k1=0.01, p=2, l=100)", {0: 0.09, 50: 0.03, 100: 0.01}),
    (
        "TRI(k0=0.01, k1=0.06, l=2000)",
        {0: 0.01, 1000: 0.035, 2000: 0.06, 3000: 0.035, 4000: 0.01, 6000: 0.06},
    ),
    ("TRI(k0=0.06, k1=0.01, l=2000)", {0: 0.01, 2000: 0.06}),
    (
        "TRI2(k0=0.01, k1=0.05, l=10)",
        {0: 0.01, 10: 0.05, 20: 0.01, 30: 0.03, 35: 0.02, 50: 0.02, 70: 0.015},
    ),
    ("TRIEXP(k0=0.5, k1=1.5, gamma=0.5, l=2)", {0: 0.5, 1: 0.75, 2: 0.75, 3: 0.5625, 6: 0.515625}),
    (
        "SIN(k0=1, k1=0, l=6)",
        {
            0: 0,
            2: 0.5,
            3: math.sqrt(2) / 2,
            4: math.sqrt(3) / 2,
            6: 1,
            9: math.sqrt(2) / 2,
            10: 0.5,
        },
    ),
    ("SIN2(k0=1, k1=3, l=3)", {0: 1, 1: 2, 3: 3, 5: 2, 6: 1, 7: 1.5, 9: 2, 15: 1.5}),
    ("SINEXP(k0=1, k1=3, gamma=0.5, l=3)", {0: 1, 1: 1.5, 3: 1.25, 6: 1}),
    ("COS(k0=0.01, k1=0.05, l=3)", {0: 0.05, 1: 0.04, 2: 0.02, 3: 0.01, 4: 0.02, 6: 0.05}),
]

rates = st.floats(1e-6, 10)
lengths = st.integers(1, 10**5)
gammas = st.floats(0.5, 1)
iterations = st.integers(0, 10**5)


@st.composite
def policies(draw, functions=tuple(FUNCTIONS)):
    """Any policy of one of the functions."""
    function = draw(st.sampled_from(functions))
    makers = {"gamma": gammas, "p": st.floats(0.1, 5), "l": lengths, "k1": rates}
    values = {name: draw(makers[name]) for name in parameter_names(function) if name != "k0"}
    if function == "NSTEP":
        values["l"] = sorted(draw(st.sets(lengths, min_size=1, max_size=5)))
    if function == "POLY":
        values["l"] = 10**5
    return Policy(function, k0=draw(rates), **values)


@pytest.mark.parametrize("text, expected", BY_HAND)
def test_rates_equal_those_computed_by_hand(text, expected):
    policy = Policy.parse(text)
    for t, rate in expected.items():
        assert policy(t) == pytest.approx(rate, rel=1e-13, abs=1e-16)


def test_rates_of_all_13_functions_are_computed_by_hand():
    assert {text.split("(")[0] for text, _ in BY_HAND} == set(FUNCTIONS) and len(FUNCTIONS) == 13


@given(policies(functions=("TRI", "TRI2", "TRIEXP")), iterations)
def test_the_triangle_equals_the_arc_sine_of_the_paper(policy, t):
    values = policy.parameters
    k0, k1, l = (values[name] for name in ("k0", "k1", "l"))
    g = 2 / math.pi * abs(math.asin(math.sin(math.pi * t / (2 * l))))
    g *= {"TRI": 1, "TRI2": 0.5 ** (t // (2 * l)), "TRIEXP": values.get("gamma", 1) ** t}[
        policy.function
    ]
    assert policy(t) == pytest.approx(abs(k0 - k1) * g + min(k0, k1), rel=1e-6)


@given(policies(), iterations)
def test_every_rate_is_between_k0_and_k1(policy, t):
    k0, k1 = (
        policy.parameters["k0"],
        policy.parameters.get("k1", policy.parameters["k0"] if policy.function == "FIX" else 0),
    )
    assert min(k0, k1) * (1 - 1e-12) <= policy(t) <= max(k0, k1) * (1 + 1e-12)


@given(policies(functions=("STEP", "NSTEP", "EXP", "INV", "POLY")), iterations)
def test_decaying_rates_never_increase(policy, t):
    assert policy(min(t + 1, 10**5)) <= policy(t) * (1 + 1e-12)


@given(policies(functions=("TRI", "SIN", "COS")), iterations)
def test_cycles_repeat_after_twice_l(policy, t):
    assert policy(t + 2 * policy.parameters["l"]) == pytest.approx(policy(t), rel=1e-6)


@given(policies(), st.lists(iterations, min_size=1, max_size=20))
def test_an_array_has_the_rates_of_its_iterations(policy, ts):
    array = policy(np.array(ts).reshape(1, -1))
    assert array.dtype == np.float64 and array.shape == (1, len(ts))
    assert array[0] == pytest.approx([policy(t) for t in ts], rel=1e-12)
    assert policy(np.array(ts, np.int32)).tolist() == array[0].tolist()


@given(policies())
def test_the_text_parses_back_to_an_equal_policy(policy):
    assert Policy.parse(str(policy)) == policy and hash(Policy.parse(str(policy))) == hash(policy)
    assert (
        pickle.loads(pickle.dumps(policy)) == policy
        and eval(repr(policy), {"Policy": Policy}) == policy
    )


def test_shapes_and_types_of_the_rates():
    policy = Policy("FIX", k0=0.5)
    assert type(policy(3)) is float and type(policy(np.int64(3))) is float
    assert policy(np.zeros((2, 0, 3), int)).shape == (2, 0, 3) and policy(np.array(7)).shape == ()


@pytest.mark.parametrize(
    "text, canonical",
    [
        ("SIN2( l=2000,k1=6e-2 , k0=.01 )", "SIN2(k0=0.01, k1=0.06, l=2000)"),
        ("NSTEP(k0=1, gamma=0.5, l=(1, 2.0))", "NSTEP(k0=1.0, gamma=0.5, l=[1, 2])"),
        ("STEP(k0=1, k1=0, gamma=1, l=1e3)", "STEP(k0=1.0, gamma=1.0, l=1000)"),
    ],
)
def test_the_canonical_text(text, canonical):
    assert str(Policy.parse(text)) == canonical


@pytest.mark.parametrize(
    "text, n_params",
    [
        ("FIX(k0=1)", 1),
        ("STEP(k0=1, gamma=.5, l=9)", 3),
        ("NSTEP(k0=1, gamma=.5, l=[1, 2, 3])", 5),
        ("EXP(k0=1, gamma=.5)", 2),
        ("INV(k0=1, gamma=.5, p=1)", 3),
        ("POLY(k0=1, p=1, l=9)", 3),
        ("POLY(k0=1, k1=.5, p=1, l=9)", 4),
        ("TRI(k0=1, k1=2, l=9)", 3),
        ("TRI2(k0=1, k1=2, l=9)", 3),
        ("TRIEXP(k0=1, k1=2, gamma=.5, l=9)", 4),
        ("SIN(k0=1, k1=2, l=9)", 3),
        ("SIN2(k0=1, k1=2, l=9)", 3),
        ("SINEXP(k0=1, k1=2, gamma=.5, l=9)", 4),
        ("COS(k0=1, k1=2, l=9)", 3),
    ],
)
def test_n_params_equals_table_i(text, n_params):
    assert Policy.parse(text).n_params == n_params


def test_a_policy_is_immutable():
    policy = Policy("FIX", k0=1)
    with pytest.raises(AttributeError, match="immutable"):
        policy.function = "STEP"
    with pytest.raises(AttributeError, match="immutable"):
        del policy.function
    policy.parameters["k0"] = 2
    assert policy.parameters == {"k0": 1.0}


def test_pytorch_can_save_and_load_a_policy_in_lambdalr():
    """LambdaLR.state_dict() copies the __dict__ of the policy, and load_state_dict() updates it."""
    policy = Policy.parse("TRI(k0=0.5, k1=1.5, l=2)")
    saved = pickle.loads(pickle.dumps(policy.__dict__.copy()))
    policy.__dict__.update(saved)
    assert policy(1) == 1.0


@pytest.mark.parametrize(
    "text, expected",
    [
        ("SIM2(k0=0.01, k1=0.06, l=2000)", ["'SIM2'", "did you mean SIN2?"]),
        ("sin(k0=0.01, k1=0.06, l=2000)", ["'sin'", "did you mean SIN?"]),
        ("HILL(k0=1)", ["'HILL'", "TRIEXP"]),
        ("STEP(k0=0.1, gama=0.9, l=5)", ["STEP", "'gama'", "did you mean gamma?"]),
        ("FIX(k0=0.1, k1=0.2)", ["FIX", "'k1'"]),
        ("STEP(k0=0.1, l=5)", ["STEP", "gamma"]),
        ("TRI(k0=0.1, l=5)", ["TRI", "k1"]),
        ("FIX(k0=0)", ["k0=0", "above 0"]),
        ("FIX(k0=-1)", ["k0=-1", "above 0"]),
        ("FIX(k0=nan)", ["k0=nan", "above 0"]),
        ("FIX(k0=1e999)", ["k0=inf"]),
        ("FIX(k0='a')", ["k0='a'"]),
        ("FIX(k0=True)", ["k0=True"]),
        ("SIN(k0=1, k1=-1, l=5)", ["k1=-1"]),
        ("STEP(k0=1, gamma=1.5, l=5)", ["gamma=1.5", "at most 1"]),
        ("EXP(k0=1, gamma=0)", ["gamma=0", "above 0"]),
        ("INV(k0=1, gamma=0, p=1)", ["gamma=0", "INV"]),
        ("POLY(k0=1, p=0, l=5)", ["p=0"]),
        ("TRI(k0=1, k1=2, l=0)", ["l=0", "above 0"]),
        ("TRI(k0=1, k1=2, l=0.5)", ["l=0.5", "whole number"]),
        ("NSTEP(k0=1, gamma=.5, l=[7, 5])", ["l=[7, 5]", "increasing"]),
        ("NSTEP(k0=1, gamma=.5, l=[5, 5])", ["l=[5, 5]", "increasing"]),
        ("NSTEP(k0=1, gamma=.5, l=[])", ["l=[]", "list"]),
        ("NSTEP(k0=1, gamma=.5, l=5)", ["l=5", "list"]),
        ("STEP(k0=1, k0=2, gamma=.5, l=3)", ["k0=2", "twice"]),
        ("FIX", ["FUNCTION(name=number"]),
        ("", ["FUNCTION(name=number"]),
        ("FIX(0.1)", ["FUNCTION(name=number"]),
        ("FIX(**x)", ["FUNCTION(name=number"]),
        ("FIX(k0=f())", ["FUNCTION(name=number"]),
        ("FIX(k0={[1]: 2})", ["FUNCTION(name=number"]),
        ("(" * 5000, ["FUNCTION(name=number"]),
        ("FIX(k0=%s)" % ("9" * 1000), ["k0=", "FIX"]),
        ("X" * 10**6 + "(k0=1)", ["unknown"]),
    ],
)
def test_an_invalid_policy_raises_one_clear_sentence(text, expected):
    with pytest.raises(InputError) as raised:
        Policy.parse(text)
    message = str(raised.value)
    assert all(part in message for part in expected), message
    assert "\n" not in message and len(message) < 300


@pytest.mark.parametrize(
    "t, expected",
    [
        (-1, "iteration -1, expected a number of at least 0"),
        (101, "l=100"),
        (np.array([0, 101]), "l=100"),
        (np.array([3, -2]), "-2"),
        ("3", "iteration '3', expected a number"),
        (None, "iteration None, expected a number"),
        (float("nan"), "iteration nan, expected a number"),
    ],
)
def test_an_iteration_without_a_rate_raises(t, expected):
    with pytest.raises(InputError, match=expected):
        Policy.parse("POLY(k0=1, p=1, l=100)")(t)


def test_messages_have_the_common_form():
    """What is wrong, where, and what to do instead."""
    with pytest.raises(InputError) as raised:
        Policy("SIN", k0=-1, k1=0.1, l=5)
    assert str(raised.value) == (
        "SIN: invalid k0=-1, expected a learning rate above 0, for example 0.01"
    )
    with pytest.raises(InputError) as raised:
        Policy("NSTEP", k0=0.1, gamma=0.1)
    assert str(raised.value) == (
        "NSTEP: missing parameter l, expected a list of iterations above 0 in increasing order, "
        "for example [5000, 7000]"
    )


def test_the_lr_module_needs_numpy_only():
    """Importing and using it loads the standard library, NumPy and the package itself."""
    code = """
import json, os, sys, numpy
loaded_before = set(sys.modules)
import lrbench_caffe.policies
from lrbench_caffe import Policy
assert Policy.parse("TRI(k0=0.5, k1=1.5, l=2)")(numpy.arange(2)).tolist() == [0.5, 1.0]
standard_library = os.path.dirname(os.__file__) + os.sep
def is_third_party(name):
    file = getattr(sys.modules[name], "__file__", None) or ""
    installed = "site-packages" in file or "dist-packages" in file
    return bool(file) and (installed or not file.startswith(standard_library))
print(json.dumps([name for name in set(sys.modules) - loaded_before if is_third_party(name)]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        check=True,
        env=dict(os.environ, PYTHONPATH=ROOT),
    )
    packages = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert packages - {"numpy"} == {"lrbench_caffe"}


def test_the_rate_is_precise_after_a_million_cycles():
    """TRI loses no precision after a million cycles."""
    t, l = 10**9 + 123, 777
    g = 1 - abs(Fraction(t % (2 * l)) - l) / l
    assert Policy("TRI", k0=1, k1=2, l=l)(t) == pytest.approx(float(1 + g), rel=1e-15)
