"""The LR module: Table I's formulas, worked out independently, and what a policy promises as a value."""

import math
import pickle
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrbench_caffe.errors import InputError
from lrbench_caffe.policies import FUNCTIONS, Policy, parameter_names

# (policy, {iteration: rate}), the rates worked out by hand from definitions.md; powers as plain products.
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
    """Any policy of the given functions."""
    function = draw(st.sampled_from(functions))
    makers = {"gamma": gammas, "p": st.floats(0.1, 5), "l": lengths, "k1": rates}
    values = {name: draw(makers[name]) for name in parameter_names(function) if name != "k0"}
    if function == "NSTEP":
        values["l"] = sorted(draw(st.sets(lengths, min_size=1, max_size=5)))
    if function == "POLY":
        values["l"] = 10**5
    return Policy(function, k0=draw(rates), **values)


@pytest.mark.parametrize("text, expected", BY_HAND)
def test_rates_are_those_worked_out_by_hand(text, expected):
    policy = Policy.parse(text)
    for t, rate in expected.items():
        assert policy(t) == pytest.approx(rate, rel=1e-13, abs=1e-16)


def test_all_13_functions_are_worked_out():
    assert {text.split("(")[0] for text, _ in BY_HAND} == set(FUNCTIONS) and len(FUNCTIONS) == 13


@given(policies(functions=("TRI", "TRI2", "TRIEXP")), iterations)
def test_the_triangle_is_the_papers_arc_sine(policy, t):
    values = policy.parameters
    k0, k1, l = (values[name] for name in ("k0", "k1", "l"))
    g = 2 / math.pi * abs(math.asin(math.sin(math.pi * t / (2 * l))))
    g *= {"TRI": 1, "TRI2": 0.5 ** (t // (2 * l)), "TRIEXP": values.get("gamma", 1) ** t}[
        policy.function
    ]
    assert policy(t) == pytest.approx(abs(k0 - k1) * g + min(k0, k1), rel=1e-6)


@given(policies(), iterations)
def test_every_rate_lies_between_the_bounds(policy, t):
    k0, k1 = (
        policy.parameters["k0"],
        policy.parameters.get("k1", policy.parameters["k0"] if policy.function == "FIX" else 0),
    )
    assert min(k0, k1) * (1 - 1e-12) <= policy(t) <= max(k0, k1) * (1 + 1e-12)


@given(policies(functions=("STEP", "NSTEP", "EXP", "INV", "POLY")), iterations)
def test_decaying_rates_never_grow(policy, t):
    assert policy(min(t + 1, 10**5)) <= policy(t) * (1 + 1e-12)


@given(policies(functions=("TRI", "SIN", "COS")), iterations)
def test_cycles_repeat_after_twice_l(policy, t):
    assert policy(t + 2 * policy.parameters["l"]) == pytest.approx(policy(t), rel=1e-6)


@given(policies(), st.lists(iterations, min_size=1, max_size=20))
def test_an_array_gives_what_its_iterations_give_one_by_one(policy, ts):
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


def test_shapes_and_types():
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
def test_number_of_parameters_is_table_i_s(text, n_params):
    assert Policy.parse(text).n_params == n_params


def test_a_policy_cannot_be_changed():
    policy = Policy("FIX", k0=1)
    with pytest.raises(AttributeError):
        policy.function = "STEP"
    policy.parameters["k0"] = 2
    assert policy.parameters == {"k0": 1.0}


def test_pytorchs_scheduler_can_save_and_load_it():
    """LambdaLR.state_dict() copies the __dict__ of what it calls, and load_state_dict() updates it."""
    policy = Policy.parse("TRI(k0=0.5, k1=1.5, l=2)")
    saved = pickle.loads(pickle.dumps(policy.__dict__.copy()))
    policy.__dict__.update(saved)
    assert policy(1) == 1.0


@pytest.mark.parametrize(
    "text, words",
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
        ("(" * 5000, ["FUNCTION(name=number"]),
        ("FIX(k0=%s)" % ("9" * 1000), ["k0=", "FIX"]),
        ("X" * 10**6 + "(k0=1)", ["unknown"]),
    ],
)
def test_bad_policies_get_one_clear_sentence(text, words):
    with pytest.raises(InputError) as raised:
        Policy.parse(text)
    message = str(raised.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and len(message) < 300


@pytest.mark.parametrize(
    "t, words",
    [
        (-1, "-1 is below 0"),
        (101, "l=100"),
        (np.array([0, 101]), "l=100"),
        (np.array([3, -2]), "-2"),
        ("3", "not"),
        (None, "not"),
        (float("nan"), "nan"),
    ],
)
def test_iterations_without_a_rate_are_refused(t, words):
    with pytest.raises(InputError, match=words):
        Policy.parse("POLY(k0=1, p=1, l=100)")(t)


def test_the_lr_module_needs_numpy_and_nothing_else():
    """Anyone can use it with another framework: in a Python where everything but the standard library and numpy is missing."""
    code = (
        "import sys, sysconfig, numpy\n"
        "class No:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('caffe', 'google', 'click', 'rich', 'psycopg2', 'matplotlib', 'lmdb', 'scipy'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, No())\n"
        "from lrbench_caffe import Policy\n"
        "print(Policy.parse('TRI(k0=0.5, k1=1.5, l=2)')(1))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, check=True
        ).stdout.strip()
        == b"1.0"
    )


def test_exact_arithmetic_agrees_far_out():
    """No digits are lost after a million cycles: TRI against fractions."""
    t, l = 10**9 + 123, 777
    g = 1 - abs(Fraction(t % (2 * l)) - l) / l
    assert Policy("TRI", k0=1, k1=2, l=l)(t) == pytest.approx(float(1 + g), rel=1e-15)
