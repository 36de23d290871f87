"""Compositions, lengths in epochs, SGDR and PLATEAU as values, without Caffe."""

import json
import math
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_policies import policies, rates

from lrbench_caffe.errors import InputError
from lrbench_caffe.policies import Composition, Policy, check
from lrbench_caffe.policies.plateau import Memory

# Real schedules with epochs of 100 iterations, and their rates computed by hand.
SCHEDULES = [
    (
        "FIX(k0=0.01) for 400 then NSTEP(k0=0.1, gamma=0.1, l=[31600, 47600])",
        {0: 0.01, 399: 0.01, 400: 0.1, 31999: 0.1, 32000: 0.01, 48000: 0.001},
    ),
    (
        "WARMUP(k0=0.1) for 5 epochs "
        "then NSTEP(k0=3.2, gamma=0.1, l=[25 epochs, 55 epochs, 75 epochs])",
        {
            0: 0.1,
            250: 1.65,
            499: 0.1 + 3.1 * 499 / 500,
            500: 3.2,
            2999: 3.2,
            3000: 0.32,
            6000: 0.032,
            8000: 0.0032,
        },
    ),
    (
        "SGDR(k0=0.05, k1=0, l=10 epochs)",
        {0: 0.05, 500: 0.025, 1000: 0.05, 1500: 0.025, 7000: 0.05},
    ),
    (
        "SGDR(k0=0.05, k1=0.01, l=10 epochs, mult=2)",
        {
            0: 0.05,
            500: 0.03,
            1000: 0.05,
            2000: 0.03,
            3000: 0.05,
            5000: 0.03,
            7000: 0.05,
            14999: 0.01,
        },
    ),
    (
        "TRI(k0=0.08, k1=0.8, l=41 epochs) for 82 epochs "
        "then POLY(k0=0.08, k1=0.0008, p=1, l=13 epochs)",
        {0: 0.08, 4100: 0.8, 8200: 0.08, 8850: 0.0404, 9500: 0.0008},
    ),
    (
        "WARMUP(k0=0.001) for 500 then INV(k0=0.01, gamma=0.0001, p=0.5)",
        {0: 0.001, 250: 0.0055, 500: 0.01, 30500: 0.005},
    ),
    (
        "WARMUP(k0=0) for 5 epochs then COS(k0=0.4, k1=0, l=115 epochs)",
        {0: 0, 250: 0.2, 500: 0.4, 6250: 0.2, 12000: 0},
    ),
    (
        "FIX(k0=0.001) for 4000 then FIX(k0=0.0001)",
        {0: 0.001, 3999: 0.001, 4000: 0.0001, 10**6: 0.0001},
    ),
    (
        "WARMUP(k0=1) for 10 then WARMUP(k0=3) for 10 then FIX(k0=2) for 5 "
        "then STEP(k0=4, gamma=0.5, l=2)",
        {0: 1, 5: 2, 10: 3, 15: 2.5, 20: 2, 24: 2, 25: 4, 26: 4, 27: 2},
    ),
]


any_policy = policies()
warmups = rates.map(lambda k0: Policy("WARMUP", k0=k0))


@st.composite
def compositions(draw, last=any_policy):
    """Two to five pieces, among them WARMUP."""
    parts = []
    for _ in range(draw(st.integers(1, 4))):
        parts += [draw(st.one_of(any_policy, warmups)), draw(st.integers(1, 2000))]
    return Composition(*parts, draw(last))


restarts = st.builds(
    lambda k0, k1, l, mult: Policy("SGDR", k0=k0, k1=k1, l=l, mult=mult),
    rates,
    rates,
    st.integers(1, 500),
    st.integers(1, 4),
)
plateaus = st.builds(
    lambda k0, gamma, l, threshold, of: Policy(
        "PLATEAU", k0=k0, gamma=gamma, l=l, threshold=threshold, of=of
    ),
    rates,
    st.floats(0.1, 0.9),
    st.integers(1, 300),
    st.floats(0, 0.1),
    st.sampled_from(["train_loss", "test_loss", "top1"]),
)


@pytest.mark.parametrize("text, expected", SCHEDULES)
def test_real_schedules_have_the_rates_computed_by_hand(text, expected):
    policy = Policy.parse(text, epoch=100)
    for t, rate in expected.items():
        assert policy(t) == pytest.approx(rate, rel=1e-6, abs=1e-9), t
    assert "epoch" not in str(policy)


@given(st.one_of(compositions(), compositions(last=plateaus), restarts, plateaus, warmups))
def test_the_text_parses_back_to_an_equal_policy(policy):
    assert Policy.parse(str(policy)) == policy and str(Policy.parse(str(policy))) == str(policy)
    assert pickle.loads(pickle.dumps(policy)) == policy and hash(policy) == hash(
        Policy.parse(str(policy))
    )


@given(compositions(), st.data())
def test_each_piece_counts_its_iterations_from_its_start(policy, data):
    start = 0
    for piece, length in zip(policy.parts[0::2], policy.parts[1::2] + (10**4,)):
        if piece.function != "WARMUP":
            for t in (0, length - 1, data.draw(st.integers(0, length - 1))):
                assert policy(start + t) == piece(t)
        start += length


@given(rates, rates, st.integers(1, 10**5))
def test_a_warm_up_is_a_straight_line_to_the_first_rate_of_the_next_piece(low, high, length):
    policy = Composition(Policy("WARMUP", k0=low), length, Policy("FIX", k0=high))
    assert policy(0) == low and policy(length) == high
    for t in (1, length // 2, length - 1):
        assert policy(t) == pytest.approx(low + (high - low) * t / length, rel=1e-12)


@given(
    st.one_of(compositions(), restarts), st.lists(st.integers(0, 10**4), min_size=1, max_size=30)
)
def test_an_array_has_the_rates_of_its_iterations(policy, ts):
    array = policy(np.array(ts).reshape(1, -1))
    assert array.dtype == np.float64 and array.shape == (1, len(ts))
    assert array[0] == pytest.approx([policy(t) for t in ts], rel=1e-12, abs=1e-15)
    assert type(policy(ts[0])) is float and policy(np.int64(ts[0])) == array[0][0]


@given(st.integers(1, 300), st.integers(1, 5), st.integers(0, 5000))
def test_sgdr_is_a_cosine_that_restarts_with_longer_cycles(l, mult, t):
    start, length = 0, l
    while start + length <= t:
        start, length = start + length, length * mult
    expected = (1 + math.cos(math.pi * (t - start) / length)) / 2
    assert Policy("SGDR", k0=2, k1=1, l=l, mult=mult)(t) == pytest.approx(1 + expected, rel=1e-12)


def test_sgdr_at_very_large_iterations():
    policy = Policy("SGDR", k0=1, k1=0.5, l=2**53, mult=1000)
    assert policy(2**53) == policy(np.array([2**53]))[0] == 1.0
    assert Policy("SGDR", k0=1, k1=0.5, l=1, mult=1000)(np.array([1 + 1000 + 10**6]))[0] == 1.0


@pytest.mark.parametrize(
    "text, n_params",
    [
        ("FIX(k0=1) for 4 then FIX(k0=2)", 3),
        ("WARMUP(k0=1) for 4 then NSTEP(k0=2, gamma=.1, l=[1, 2])", 6),
        ("SGDR(k0=1, k1=0, l=3)", 3),
        ("SGDR(k0=1, k1=0, l=3, mult=2)", 4),
        ("PLATEAU(k0=1, gamma=.1, l=3)", 3),
    ],
)
def test_n_params(text, n_params):
    assert Policy.parse(text).n_params == n_params


def test_the_parameters_of_a_composition_are_its_pieces():
    policy = Policy.parse("WARMUP(k0=1) for 4 then NSTEP(k0=2, gamma=.1, l=[1, 2])")
    assert policy.function == "WARMUP then NSTEP" and policy.parameters == {
        "pieces": [
            {"function": "WARMUP", "parameters": {"k0": 1.0}, "length": 4},
            {"function": "NSTEP", "parameters": {"k0": 2.0, "gamma": 0.1, "l": (1, 2)}},
        ]
    }


def test_the_function_of_a_composition_with_1001_pieces_fits_into_the_database():
    policy = Policy.parse(" then ".join(["FIX(k0=1) for 1"] * 1000 + ["FIX(k0=2)"]))
    assert len(policy.function) <= 200 and policy(999) == 1 and policy(1000) == 2


@pytest.mark.parametrize(
    "text, epoch, canonical",
    [
        ("STEP(k0=1, gamma=.5, l=2 epochs)", 600, "STEP(k0=1.0, gamma=0.5, l=1200)"),
        ("STEP(k0=1, gamma=.5, l=1 epoch)", 390.625, "STEP(k0=1.0, gamma=0.5, l=391)"),
        ("NSTEP(k0=1, gamma=.5, l=[100, 1.5epochs, .5 epochs])", 390.625, None),
        (
            "NSTEP(k0=1, gamma=.5, l=[100, 1.5epochs, 2 epochs])",
            390.625,
            "NSTEP(k0=1.0, gamma=0.5, l=[100, 586, 781])",
        ),
        (
            "WARMUP(k0=1)for 1 epoch\n then PLATEAU(k0=2, gamma=.5, l=3 epochs)",
            10,
            "WARMUP(k0=1.0) for 10 then PLATEAU(k0=2.0, gamma=0.5, l=30)",
        ),
    ],
)
def test_lengths_in_epochs_become_iterations(text, epoch, canonical):
    if canonical is None:
        with pytest.raises(InputError, match="increasing"):
            Policy.parse(text, epoch)
    else:
        assert str(Policy.parse(text, epoch)) == canonical


@pytest.mark.parametrize(
    "text, epoch, expected",
    [
        ("STEP(k0=1, gamma=.5, l=2 epochs)", None, ["2 epochs", "number of iterations"]),
        ("FIX(k0=1) for 2 epochs then FIX(k0=2)", None, ["2 epochs", "number of iterations"]),
        ("STEP(k0=1, gamma=.5, l=0.01 epochs)", 10, ["0.01 epochs", "10"]),
        ("FIX(k0=1 epoch)", 10, ["k0='1 epoch'", "learning rate"]),
        ("STEP(k0=1, gamma=.5, l=2 eons)", 10, ["cannot read"]),
        ("STEP(k0=1, gamma=.5, l=%s)" % ("9" * 10**5), 10, ["l=", "STEP"]),
        ("FIX(k0=1) then FIX(k0=2)", None, ["'FIX(k0=1)'", "needs a length"]),
        ("FIX(k0=1) for 5", None, ["last piece", "leave out its length"]),
        ("FIX(k0=1) for 0 then FIX(k0=2)", None, ["FIX: invalid", "'for 0'", "whole number"]),
        ("FIX(k0=1) for 2.5 then FIX(k0=2)", None, ["FIX: invalid", "'for 2.5'"]),
        ("FIX(k0=1) for [2] then FIX(k0=2)", None, ["FIX: invalid", "'for [2]'"]),
        ("FIX(k0=1) for then FIX(k0=2)", None, ["cannot read"]),
        ("FIX(k0=1) for 5 then", None, ["cannot read"]),
        ("FIX(k0=1) for 5 for 6 then FIX(k0=2)", None, ["cannot read"]),
        ("FIX(k0=1) for 5 then WARMUP(k0=2)", None, ["WARMUP", "last piece"]),
        ("POLY(k0=1, p=1, l=3) for 9 then FIX(k0=2)", None, ["POLY", "l=9"]),
        ("FIX(k0=1) for 9007199254740992 then FIX(k0=1) for 1 then FIX(k0=1)", None, ["at most"]),
        ("SGDR(k0=1, k1=0, l=3, mult=1.5)", None, ["mult=1.5", "whole number"]),
        ("SGDR(k0=1, l=3)", None, ["SGDR", "k1"]),
        ("PLATEAU(k0=1, gamma=.1)", None, ["PLATEAU", "l"]),
        ("PLATEAU(k0=1, gamma=.1, l=3, of=loss)", None, ["of='loss'", "test_loss"]),
        ("PLATEAU(k0=1, k1=1, gamma=.1, l=3)", None, ["k1=1.0", "below k0=1.0"]),
        ("PLATEAU(k0=1, gamma=.1, l=3, threshold=-1)", None, ["threshold=-1"]),
    ],
)
def test_an_invalid_policy_raises_one_clear_sentence(text, epoch, expected):
    with pytest.raises(InputError) as raised:
        Policy.parse(text, epoch)
    message = str(raised.value)
    assert all(part in message for part in expected), message
    assert "\n" not in message and len(message) < 300


@pytest.mark.parametrize(
    "text, expected",
    [
        ("WARMUP(k0=1)", "needs a next piece"),
        ("PLATEAU(k0=1, gamma=.1, l=5)", "schedule"),
        ("FIX(k0=1) for 5 then PLATEAU(k0=1, gamma=.1, l=5)", "schedule"),
    ],
)
def test_warmup_and_plateau_have_no_rate_by_themselves(text, expected):
    for t in (7, np.arange(9)):
        with pytest.raises(InputError, match=expected):
            Policy.parse(text)(t)


def test_a_composition_is_not_a_piece_and_has_no_rate_below_0_or_beyond_its_end():
    policy = Policy.parse("FIX(k0=1) for 5 then POLY(k0=2, p=1, l=10)")
    with pytest.raises(InputError, match="one function"):
        Composition(policy, 10, policy)
    for t, expected in (
        (-1, "at least 0"),
        (16, "iteration 15"),
        (np.array([3, 16]), "iteration 15"),
    ):
        with pytest.raises(InputError, match=expected):
            policy(t)
    assert policy(15) == 0 and policy.end == 15


def evaluation(iteration, value, metric="test_loss"):
    """An evaluation with a value of one metric."""
    row = SimpleNamespace(iteration=iteration, train_loss=None, test_loss=None, top1=None)
    setattr(row, metric, value)
    return row


def rates_after(policy, rows):
    """The rate after each row."""
    memory, lrs = None, []
    for row in rows:
        memory = policy.observe(memory, row)
        lrs.append(policy.schedule(memory)(row.iteration))
    return lrs


@pytest.mark.parametrize(
    "text, of, values, expected",
    [
        # One evaluation every 10 iterations, so l=20 is reached at the second without improvement.
        (
            "PLATEAU(k0=1, gamma=0.5, l=20)",
            "test_loss",
            [5, 4, 3, 3, 3, 2, 9, 9, 9, 9],
            [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125],
        ),
        (
            "PLATEAU(k0=1, gamma=0.5, l=20, of=train_loss)",
            "train_loss",
            [None, 4, 5, 5, 5],
            [1, 1, 1, 0.5, 0.5],
        ),
        (
            "PLATEAU(k0=1, gamma=0.5, l=10, of=top1)",
            "top1",
            [0.1, 0.2, 0.2, 0.3, 0.1, 0.31],
            [1, 1, 0.5, 0.5, 0.25, 0.25],
        ),
        (
            "PLATEAU(k0=1, gamma=0.5, l=10, threshold=0.25)",
            "test_loss",
            [4, 3.75, 3.6, 3.5, 3.49],
            [1, 1, 0.5, 0.5, 0.25],
        ),
        ("PLATEAU(k0=1, k1=0.3, gamma=0.5, l=1)", "test_loss", [1, 1, 1, 1], [1, 0.5, 0.3, 0.3]),
        (
            "FIX(k0=9) for 15 then PLATEAU(k0=1, gamma=0.5, l=10)",
            "test_loss",
            [1, 1, 3, 4, 2, 2],
            [9, 9, 1, 0.5, 0.5, 0.25],
        ),
        (
            "PLATEAU(k0=8, gamma=0.5, l=10) for 20 then PLATEAU(k0=1, gamma=0.1, l=10)",
            "test_loss",
            [1, 1, 2, 2],
            [8, 4, 1, 0.1],
        ),
        (
            "PLATEAU(k0=8, gamma=0.5, l=10) for 15 then FIX(k0=3)",
            "test_loss",
            [1, 1, 2, 2],
            [8, 4, 3, 3],
        ),
    ],
)
def test_plateau_lowers_its_rate_after_l_iterations_without_improvement(text, of, values, expected):
    policy = Policy.parse(text)
    rows = [evaluation(10 * n, value, of) for n, value in enumerate(values)]
    assert rates_after(policy, rows) == pytest.approx(expected, rel=1e-12)


@given(plateaus, st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_plateau_never_raises_its_rate_and_never_reaches_0(policy, values):
    metric = policy.parameters.get("of", "test_loss")
    rows = [evaluation(100 * n, value, metric) for n, value in enumerate(values)]
    lrs = rates_after(policy, rows)
    assert all(after <= before for before, after in zip(lrs, lrs[1:])) and lrs[-1] > 0


def test_plateau_has_a_rate_above_0_after_2000_lowerings():
    policy = Policy.parse("PLATEAU(k0=1, gamma=0.1, l=1)")
    assert rates_after(policy, [evaluation(n, 1.0) for n in range(2000)])[-1] > 0


@given(compositions(last=plateaus), st.lists(st.floats(0, 1), min_size=2, max_size=40), st.data())
def test_json_can_hold_the_memory_at_any_time(policy, values, data):
    of = policy.parts[-1].parameters.get("of", "test_loss")
    rows = [evaluation(100 * n, value, of) for n, value in enumerate(values)]
    memory = None
    for row in rows[: data.draw(st.integers(0, len(rows)))]:
        memory = policy.observe(memory, row)
    fields = json.loads(json.dumps(memory))
    restored = fields and Memory(*fields)
    assert restored == memory
    for t in (0, 100 * len(rows)):
        assert policy.schedule(memory)(t) == policy.schedule(restored)(t)


def test_a_policy_without_plateau_has_no_memory():
    policy = Policy.parse("FIX(k0=1) for 5 then FIX(k0=2)")
    assert not policy.has_memory
    assert policy.observe(None, evaluation(0, 1.0)) is None
    assert policy.schedule(None) is policy


def test_the_methods_keep_their_former_names():
    assert Policy.see is Policy.observe and Policy.given is Policy.schedule
    assert Policy.going_on is Policy.schedule_from


@pytest.mark.parametrize(
    "text",
    [
        "NSTEP(k0=0.1, gamma=0.1, l=[1 epoch, 500])",
        "POLY(k0=0.1, p=1, l=1000) for 2 epochs then FIX(k0=0.01)",
        "COS(k0=0.1, k1=0, l=3000 epochs)",
        "FIX(k0=0.1)",
    ],
)
def test_a_text_can_be_checked_before_the_length_of_an_epoch_is_known(text):
    check(text)
    Policy.parse(text, epoch=100)


@pytest.mark.parametrize(
    "text, message",
    [
        ("STEP(k0=0.1, gama=0.5, l=2 epochs)", "unknown parameter 'gama': did you mean gamma"),
        ("STEP(k0=-0.1, gamma=0.5, l=2 epochs)", "invalid k0=-0.1"),
        ("FIX(k0=0.1) for 2 epochs then WARMUP(k0=0.1)", "needs a next piece"),
        ("STEP(k0=0.1, gamma=0.5, l=2 epochs) then FIX(k0=1)", "needs a length"),
        ("NSTEP(k0=0.1, gamma=0.1, l=[500, 100])", "in increasing order"),
        ("STEP(k0=0.1, gamma=0.5, l=0 epochs)", "0 epochs has no iterations"),
    ],
)
def test_what_no_epoch_makes_valid_is_refused_before_its_length_is_known(text, message):
    with pytest.raises(InputError, match=message):
        check(text)


def test_too_many_epochs_are_refused():
    with pytest.raises(InputError, match="give fewer epochs"):
        Policy.parse("STEP(k0=0.1, gamma=0.5, l=%s epochs)" % (310 * "9"), epoch=100)
