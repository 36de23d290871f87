"""Candidates of the tuner: policies for trainings of any length."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lrbench_caffe.evaluator.candidates import (
    TUNED,
    first,
    from_policy,
    from_text,
    neighbours,
    rates_key,
    recipe,
    registry,
    with_peak,
)
from lrbench_caffe.policies import Composition, Policy

some_examples = settings(max_examples=settings.default.max_examples // 2)
few_examples = settings(max_examples=settings.default.max_examples // 10)  # for each function

rates = st.floats(1e-5, 50)
gammas = st.floats(0.01, 1)
lengths = st.integers(1, 1000)


# Random policies. Each function draws the parameters of a policy that runs for `length` iterations.


def slow_gammas(length):
    """Factors of each iteration that leave a share between a millionth and 1 in the end."""
    return st.floats(1e-6, 1).map(lambda share: share ** (1 / length))


def periods(length):
    return st.integers(1, 2 * length)


def cycle(length, **more):
    return st.fixed_dictionaries(
        {"k1": st.one_of(st.just(0.0), rates), "l": periods(length), **more}
    )


POLICIES = {
    "FIX": lambda length: st.just({}),
    "STEP": lambda length: st.fixed_dictionaries(
        {"gamma": gammas, "l": periods(length)}, optional={"k1": rates}
    ),
    "NSTEP": lambda length: st.fixed_dictionaries(
        {"gamma": gammas, "l": st.sets(periods(length), min_size=1, max_size=6).map(sorted)},
        optional={"k1": rates},
    ),
    "EXP": lambda length: st.fixed_dictionaries(
        {"gamma": slow_gammas(length)}, optional={"k1": rates}
    ),
    "INV": lambda length: st.fixed_dictionaries(
        {"gamma": st.floats(1e-6, 5), "p": st.floats(0.1, 3)}, optional={"k1": rates}
    ),
    "POLY": lambda length: st.fixed_dictionaries(
        {"p": st.floats(0.1, 3), "l": st.integers(max(1, length - 1), 2 * length)},
        optional={"k1": rates},
    ),
    "TRI": cycle,
    "TRI2": cycle,
    "TRIEXP": lambda length: cycle(length, gamma=slow_gammas(length)),
    "SIN": cycle,
    "SIN2": cycle,
    "SINEXP": lambda length: cycle(length, gamma=slow_gammas(length)),
    "COS": cycle,
    "SGDR": lambda length: cycle(length, mult=st.integers(1, 3)),
    "PLATEAU": lambda length: st.fixed_dictionaries(
        {"gamma": gammas, "l": periods(length)},
        optional={
            "k1": st.floats(1e-8, 9e-6),
            "threshold": st.floats(0, 1),
            "of": st.sampled_from(["test_loss", "train_loss", "top1"]),
        },
    ),
}


@st.composite
def policies(draw, functions, length):
    """A policy of one of these functions that runs for `length` iterations."""
    function = draw(functions)
    return Policy(function, k0=draw(rates), **draw(POLICIES[function](length)))


@st.composite
def compositions(draw, functions, length):
    """Up to four such policies in sequence, some of them warm-ups."""
    pieces = []
    for _ in range(draw(st.integers(1, 3))):
        span = draw(st.integers(1, length))
        warmups = st.builds(Policy, st.just("WARMUP"), k0=st.one_of(st.just(0.0), rates))
        pieces += [draw(st.one_of(warmups, policies(functions, span))), span]
    return Composition(*pieces, draw(policies(functions, length)))


def trainings(functions):
    """Policies of one or several pieces, with the length of their training."""
    return lengths.flatmap(
        lambda length: st.tuples(
            st.one_of(policies(functions, length), compositions(functions, length)),
            st.just(length),
        )
    )


everything = trainings(st.sampled_from(TUNED))


def test_all_functions_that_are_tuned_are_drawn():
    assert set(POLICIES) == set(TUNED)


# From a policy to a candidate


@some_examples
@given(everything)
def test_a_policy_is_its_candidate_at_the_length_that_it_was_made_for(training):
    policy, length = training
    candidate = from_policy(policy, length)
    assert str(candidate.policy(length)) == str(policy) == candidate.text
    assert from_text(str(policy), length) == candidate


@pytest.mark.parametrize(
    "text, length",
    [
        ("POLY(k0=0.1, p=1, l=100)", 102),
        ("FIX(k0=0.1) for 50 then POLY(k0=0.1, p=1, l=100)", 152),
        ("WARMUP(k0=0.1)", 100),
        ("FIX(k0=0.1)", 0),
        ("sigmoid(base_lr=0.1, gamma=0.1, stepsize=10)", 100),
        ("whatever Caffe has", 100),
    ],
)
def test_a_policy_that_a_training_of_the_length_cannot_use_is_not_a_candidate(text, length):
    assert from_text(text, length) is None


@pytest.mark.parametrize("length", [101, 60])
def test_a_polynomial_that_lasts_to_the_end_is_a_candidate(length):
    assert from_text("POLY(k0=0.1, p=1.0, l=100)", length).policy(length).parameters["l"] == 100


def test_a_policy_of_a_function_without_a_family_is_not_a_candidate(monkeypatch):
    monkeypatch.delitem(registry._BY_FUNCTION, "FIX")
    assert from_text("FIX(k0=0.1)", 100) is None
    assert from_text("WARMUP(k0=0.1) for 50 then FIX(k0=0.1)", 100) is None


def test_the_function_is_that_of_the_longest_piece_without_the_warm_up():
    text = "WARMUP(k0=0.1) for 600 then EXP(k0=0.2, gamma=0.99) for 300 then FIX(k0=0.1)"
    assert from_text(text, 1000).function == "EXP"
    assert from_text(text, 1300).function == "FIX"
    assert from_text("FIX(k0=0.1) for 5000 then SIN(k0=0.1, k1=0.2, l=9)", 1000).function == "FIX"


# Other lengths


EXPONENTIAL_CYCLES = ("TRIEXP", "SINEXP")


@some_examples
@given(everything, lengths)
def test_a_candidate_has_a_policy_of_few_digits_at_every_length(training, length):
    policy, original_length = training
    stretched = from_policy(policy, original_length).policy(length)
    assert stretched.function == policy.function
    assert stretched.end >= length - 1
    assert Policy.parse(str(stretched)) == stretched
    assert from_policy(stretched, length)
    for before, after in zip(pieces(policy), pieces(stretched)):
        for name, value in after.parameters.items():
            if isinstance(value, float) and value != before.parameters[name]:
                assert "%.3g" % value == "%.12g" % value or is_near_one(value)


def pieces(policy):
    return getattr(policy, "pieces", (policy,))


def is_near_one(gamma):
    """Whether a gamma is above 0.5, and its distance to 1 has at most three digits."""
    return gamma > 0.5 and float("%.3g" % (1 - gamma)) == pytest.approx(1 - gamma, rel=1e-3)


def decay(policy, t):
    """The factor that gamma contributes at iteration t."""
    parameters = policy.parameters
    if policy.function in ("EXP", *EXPONENTIAL_CYCLES):
        return parameters["gamma"] ** t
    if policy.function == "STEP":
        return parameters["gamma"] ** (t // parameters["l"])
    if policy.function == "NSTEP":
        return parameters["gamma"] ** sum(step <= t for step in parameters["l"])
    return 1.0


def height(policy, t):
    """The height of a cycle at iteration t."""
    return decay(policy, t) if policy.function in EXPONENTIAL_CYCLES else 1.0


def assert_same_curve(policy, old, stretched, new):
    """Compare the rates at the same shares of two trainings, within the rounding of the numbers.

    The time of the cycles may differ by the rounding of l to a whole number, and that of a step by
    the steps which it has to make place for. A gamma is rounded to three digits.
    """
    if policy.function == "WARMUP":
        assert stretched == policy
        return
    if policy.has_memory:
        expected = dict(
            policy.parameters, l=pytest.approx(policy.parameters["l"] * new / old, abs=1)
        )
        assert stretched.parameters == expected
        return
    ratio = new / old
    l = stretched.parameters.get("l", math.inf)
    slack, dilation = 1, 0.0  # iterations, and a share of the time
    if policy.function == "NSTEP":
        slack = len(l) + 1
        assume(sum(step < old for step in policy.parameters["l"]) < new)
    elif policy.function not in ("FIX", "EXP", "INV", "POLY"):
        exact = policy.parameters["l"] * ratio
        assume(exact >= 1)
        assert abs(l - exact) < 1
        dilation = 1 / l
    lowest, highest = sorted((policy.parameters["k0"], policy.parameters.get("k1", 0.0)))
    plain = policy  # the cycles without the decay of their height
    if policy.function in EXPONENTIAL_CYCLES:
        plain = Policy(policy.function, **dict(policy.parameters, gamma=1))
    for t in {0, new // 3, new // 2, new * 3 // 4, new - 1}:
        begin = max(0, math.floor((t - slack) / ratio * (1 - dilation) - 1))
        end = min(policy.end, math.ceil((t + slack) / ratio * (1 + dilation) + 1))
        whole = np.arange(begin, end)
        # A rate may jump at a whole iteration: its values just before are in the window, too.
        window = plain(np.concatenate([whole, whole + 0.25, whole + 0.5, whole + 1 - 1e-9, [end]]))
        low = lowest + (window.min() - lowest) * height(policy, end)
        high = lowest + (window.max() - lowest) * height(policy, begin)
        tolerance = math.expm1(0.02 - 0.02 * math.log(max(decay(stretched, t), 1e-30)))
        assert low * (1 - tolerance) - 0.001 * highest <= stretched(t)
        assert stretched(t) <= high * (1 + tolerance) + 0.001 * highest


@pytest.mark.parametrize("function", TUNED)
@few_examples
@given(st.data())
def test_a_stretched_policy_is_the_same_curve(function, data):
    old, new = data.draw(lengths), data.draw(lengths)
    policy = data.draw(policies(st.just(function), old))
    assert_same_curve(policy, old, from_policy(policy, old).policy(new), new)


@few_examples
@given(st.data())
def test_a_stretched_composition_has_the_same_pieces(data):
    old, new = data.draw(lengths), data.draw(st.integers(10, 1000))
    policy = data.draw(compositions(st.sampled_from(TUNED), old))
    stretched = from_policy(policy, old).policy(new)
    before, after = boundaries(policy, old), boundaries(stretched, new)
    for start, moved in zip(before, after):
        assert abs(moved - start * new / old) < len(before)
        assert (start < old) == (moved < new) or start >= old * (1 - len(before) / new)
    for n, (piece, moved) in enumerate(zip(policy.pieces, stretched.pieces)):
        if before[n] < before[n + 1] and after[n] < after[n + 1]:
            assert_same_curve(piece, before[n + 1] - before[n], moved, after[n + 1] - after[n])


def boundaries(policy, length):
    """The first iterations of the pieces, and the end of the training."""
    return [0, *itertools.accumulate(policy.lengths), length]


@pytest.mark.parametrize(
    "text, old, new, stretched",
    [
        ("FIX(k0=0.123456)", 1000, 100, "FIX(k0=0.123456)"),
        (
            "STEP(k0=0.1, k1=0.01, gamma=0.5, l=250)",
            1000,
            5000,
            "STEP(k0=0.1, k1=0.01, gamma=0.5, l=1250)",
        ),
        (
            "NSTEP(k0=0.1, gamma=0.1, l=[500, 750, 2000])",
            1000,
            100,
            "NSTEP(k0=0.1, gamma=0.1, l=[50, 75, 200])",
        ),
        ("EXP(k0=0.1, gamma=0.99)", 100, 1000, "EXP(k0=0.1, gamma=0.999)"),
        (
            "INV(k0=0.1, k1=0.02, gamma=0.1, p=2.0)",
            100,
            300,
            "INV(k0=0.1, k1=0.02, gamma=0.0333, p=2.0)",
        ),
        ("POLY(k0=0.1, k1=0.01, p=1.5, l=1000)", 1000, 333, "POLY(k0=0.1, k1=0.01, p=1.5, l=333)"),
        ("POLY(k0=0.1, p=1.0, l=99)", 100, 1000, "POLY(k0=0.1, p=1.0, l=999)"),
        ("SIN(k0=0.01, k1=0.1, l=300)", 1000, 100, "SIN(k0=0.01, k1=0.1, l=30)"),
        (
            "TRIEXP(k0=0.01, k1=0.1, gamma=0.9, l=5)",
            20,
            2,
            "TRIEXP(k0=0.01, k1=0.1, gamma=0.349, l=1)",
        ),
        ("SGDR(k0=0.08, k1=0.0, l=20, mult=2)", 100, 1000, "SGDR(k0=0.08, k1=0.0, l=200, mult=2)"),
        (
            "PLATEAU(k0=0.1, gamma=0.5, l=100, threshold=0.01, of=top1)",
            1000,
            500,
            "PLATEAU(k0=0.1, gamma=0.5, l=50, threshold=0.01, of=top1)",
        ),
        (
            "WARMUP(k0=0.0) for 100 then COS(k0=0.1, k1=0.0, l=900)",
            1000,
            333,
            "WARMUP(k0=0.0) for 33 then COS(k0=0.1, k1=0.0, l=300)",
        ),
    ],
)
def test_stretched_policies(text, old, new, stretched):
    assert str(from_text(text, old).policy(new)) == stretched


@pytest.mark.parametrize("length", [99, 100, 101, 150, 333, 1001])
def test_the_last_iteration_stays_in_its_cycle(length):
    for text, share in (
        ("COS(k0=1.0, k1=0.0, l=1000)", 0),
        ("SGDR(k0=1.0, k1=0.0, l=334)", 0),
        ("SGDR(k0=1.0, k1=0.0, l=143, mult=2)", 0),
        ("STEP(k0=1.0, gamma=0.1, l=334)", 0.01),
    ):
        policy = from_text(text, 1000).policy(length)
        assert policy(length - 1) == pytest.approx(share, abs=0.05), "it does not restart"


def test_steps_do_not_fall_on_each_other_or_behind_the_end():
    candidate = from_text("NSTEP(k0=1.0, gamma=0.1, l=[980, 985, 990, 2000])", 1000)
    assert candidate.policy(100).parameters["l"] == (97, 98, 99, 200)
    assert candidate.policy(4).parameters["l"] == (1, 2, 3, 8)
    candidate = from_text("NSTEP(k0=1.0, gamma=0.1, l=[980, 985, 990, 1001])", 1000)
    assert candidate.policy(2).parameters["l"] == (1, 2, 3, 4), "the last three have no effect"


def test_a_gamma_makes_up_for_steps_that_a_short_training_has_no_iterations_for():
    step = from_text("STEP(k0=1.0, gamma=0.9, l=1)", 100).policy(10)
    assert step(9) == pytest.approx(0.9**99, rel=0.05)
    nstep = from_text("NSTEP(k0=1.0, gamma=0.5, l=[10, 20, 30, 40])", 100).policy(3)
    assert nstep(2) == pytest.approx(0.5**4, rel=0.01)


# What is tried


peaks = st.floats(1e-4, 50)


@pytest.mark.parametrize("function", TUNED)
@few_examples
@given(peak=peaks, length=st.integers(100, 100000))
def test_the_first_candidate_and_its_neighbours_reach_the_peak(function, peak, length):
    candidate, reason = first(function, peak, length)
    assert candidate.function == function and candidate.length == length
    assert reason.startswith(function + " ")
    assert from_policy(candidate.original, length) == candidate
    assert candidate.highest_rate() == pytest.approx(peak, rel=0.01)
    texts = {candidate.text}
    for neighbour, difference in neighbours(candidate):
        assert difference and neighbour.text not in texts
        texts.add(neighbour.text)
        assert neighbour.length == length and neighbour.function == function
        assert neighbour.highest_rate() == pytest.approx(peak, rel=0.02), difference
    assert len(texts) > 1


@pytest.mark.parametrize("function", TUNED)
@pytest.mark.parametrize("length", [1, 2, 3, 10])
def test_the_first_candidate_of_a_few_iterations(function, length):
    candidate, _ = first(function, 0.1, length)
    assert from_policy(candidate.original, length)
    assert all(from_policy(other.original, length) for other, _ in neighbours(candidate))


@some_examples
@given(everything)
def test_neighbours_of_any_policy_can_be_trained_and_reach_the_same_rate(training):
    candidate = from_policy(*training)
    highest = candidate.highest_rate()
    assume(highest)
    for neighbour, difference in neighbours(candidate):
        assert neighbour != candidate
        assert from_policy(neighbour.original, neighbour.length), difference
        if not isinstance(training[0], Composition):
            assert neighbour.highest_rate() == pytest.approx(highest, rel=0.01), difference


@some_examples
@given(everything, peaks)
def test_with_another_peak_all_rates_are_scaled(training, peak):
    candidate = from_policy(*training)
    highest = candidate.highest_rate()
    moved = with_peak(candidate, peak)
    if moved is None:
        assert highest == 0 or "PLATEAU" in candidate.text
        return
    assert moved.highest_rate() == pytest.approx(peak, rel=0.01)
    for before, after in zip(pieces(candidate.original), pieces(moved.original)):
        for name, value in before.parameters.items():
            expected = value * peak / highest if name in ("k0", "k1") else value
            assert after.parameters[name] == (
                expected if isinstance(value, (str, tuple)) else pytest.approx(expected, rel=0.006)
            )


def test_with_the_peak_that_it_has_a_candidate_does_not_change():
    candidate = from_text("EXP(k0=0.123456, gamma=0.99)", 100)
    assert with_peak(candidate, 0.123456) is candidate
    candidate, _ = first("SINEXP", 0.5, 2000)  # it reaches 0.502
    assert with_peak(candidate, 0.5) is candidate


def test_rates_that_have_to_differ_are_not_made_equal():
    assert with_peak(from_text("PLATEAU(k0=0.1, k1=0.09999, gamma=0.5, l=9)", 100), 0.05) is None
    assert with_peak(from_text("WARMUP(k0=0.0) for 9 then FIX(k0=0.1)", 1), 0.05) is None


def test_the_recipe():
    assert recipe(4.0, 2000).text == "WARMUP(k0=0.4) for 100 then COS(k0=4.0, k1=0.0, l=1900)"


def test_first_candidates_follow_the_rules():
    assert last_rate("NSTEP") == pytest.approx(0.01, rel=0.02)
    assert last_rate("STEP") == pytest.approx(0.01, rel=0.02)
    assert last_rate("EXP") == pytest.approx(0.01, rel=0.02)
    assert last_rate("INV") == pytest.approx(0.1, rel=0.02)
    assert last_rate("POLY") < 0.03
    for function in ("TRI", "TRI2", "TRIEXP", "SIN", "SIN2", "SINEXP"):
        policy = first(function, 1.0, 2000)[0].original
        assert policy(0) == 0.01
        assert policy(1999) == pytest.approx(0.01, rel=0.2)


def last_rate(function):
    return first(function, 1.0, 2000)[0].original(1999)


def differences(text, length=1000):
    """The policies of the neighbours, by their differences."""
    return {why: other.text for other, why in neighbours(from_text(text, length))}


def test_neighbours_differ_in_one_respect():
    assert differences("POLY(k0=0.1, k1=0.01, p=1.0, l=1000)") == {
        "the smallest rate divided by 10": "POLY(k0=0.1, k1=0.001, p=1.0, l=1000)",
        "the smallest rate times 5": "POLY(k0=0.1, k1=0.05, p=1.0, l=1000)",
        "power 0.5": "POLY(k0=0.1, k1=0.01, p=0.5, l=1000)",
        "power 2": "POLY(k0=0.1, k1=0.01, p=2.0, l=1000)",
        "a warm-up of 5 % of the iterations": (
            "WARMUP(k0=0.01) for 50 then POLY(k0=0.1, k1=0.01, p=1.0, l=950)"
        ),
    }
    assert differences("WARMUP(k0=0.0) for 200 then SGDR(k0=0.1, k1=0.01, l=400)") == {
        "the smallest rate divided by 10": (
            "WARMUP(k0=0.0) for 200 then SGDR(k0=0.1, k1=0.001, l=400)"
        ),
        "the smallest rate times 5": "WARMUP(k0=0.0) for 200 then SGDR(k0=0.1, k1=0.05, l=400)",
        "3 falls": "WARMUP(k0=0.0) for 200 then SGDR(k0=0.1, k1=0.01, l=267)",
        "1 fall": "WARMUP(k0=0.0) for 200 then SGDR(k0=0.1, k1=0.01, l=800)",
        "no warm-up": "SGDR(k0=0.1, k1=0.01, l=500)",
        "a warm-up twice as long": "WARMUP(k0=0.0) for 400 then SGDR(k0=0.1, k1=0.01, l=300)",
    }
    nstep = differences("NSTEP(k0=0.1, gamma=0.1, l=[500, 800])")
    assert nstep["each step 20 % earlier"] == "NSTEP(k0=0.1, gamma=0.1, l=[400, 640])"
    assert nstep["3 steps"] == "NSTEP(k0=0.1, gamma=0.215, l=[500, 800, 900])"
    assert nstep["the final rate divided by 10"] == "NSTEP(k0=0.1, gamma=0.0316, l=[500, 800])"
    plateau = differences("PLATEAU(k0=0.1, gamma=0.25, l=100, of=top1)")
    assert plateau["twice the patience"] == "PLATEAU(k0=0.1, gamma=0.25, l=200, of=top1)"
    assert plateau["smaller reductions"] == "PLATEAU(k0=0.1, gamma=0.5, l=100, of=top1)"


# The same training


def key(text, length=1000, test_interval=100):
    return rates_key(from_text(text, length), length, test_interval)


@pytest.mark.parametrize(
    "text",
    [
        "STEP(k0=0.1, gamma=0.5, l=1000)",
        "STEP(k0=0.1, gamma=1.0, l=10)",
        "NSTEP(k0=0.1, gamma=0.5, l=[1000, 2000])",
        "EXP(k0=0.1, gamma=1.0)",
        "COS(k0=0.1, k1=0.1, l=100)",
        "WARMUP(k0=0.1) for 100 then FIX(k0=0.1)",
        "FIX(k0=0.1) for 1000 then FIX(k0=0.2)",
        "PLATEAU(k0=0.1, gamma=0.5, l=901)",
        "PLATEAU(k0=0.1, gamma=1.0, l=1)",
        "FIX(k0=0.1) for 450 then PLATEAU(k0=0.1, gamma=0.5, l=401)",
    ],
)
def test_policies_with_the_rates_of_a_constant_rate_have_its_key(text):
    assert key(text) == key("FIX(k0=0.1)")


@pytest.mark.parametrize(
    "text, other",
    [
        ("NSTEP(k0=0.1, gamma=0.5, l=[500])", "NSTEP(k0=0.1, gamma=0.5, l=[500, 1000])"),
        ("PLATEAU(k0=0.1, gamma=0.5, l=101)", "PLATEAU(k0=0.1, gamma=0.5, l=200)"),
        ("SGDR(k0=0.1, k1=0.0, l=1000)", "COS(k0=0.1, k1=0.0, l=1000)"),
        (
            "WARMUP(k0=0.1) for 100 then PLATEAU(k0=0.2, gamma=0.5, l=900)",
            "WARMUP(k0=0.1) for 100 then FIX(k0=0.2)",
        ),
    ],
)
def test_the_same_rates_have_the_same_key(text, other):
    assert key(text) == key(other)


@pytest.mark.parametrize(
    "text, other",
    [
        ("FIX(k0=0.1)", "FIX(k0=0.100001)"),
        ("FIX(k0=0.1)", "PLATEAU(k0=0.1, gamma=0.5, l=800)"),
        ("FIX(k0=0.1)", "STEP(k0=0.1, gamma=0.5, l=999)"),
        ("FIX(k0=0.1)", "FIX(k0=0.1) for 450 then PLATEAU(k0=0.1, gamma=0.5, l=400)"),
        ("PLATEAU(k0=0.1, gamma=0.5, l=100)", "PLATEAU(k0=0.1, gamma=0.5, l=101)"),
        ("PLATEAU(k0=0.1, gamma=0.5, l=100)", "PLATEAU(k0=0.1, gamma=0.5, l=100, of=top1)"),
        ("COS(k0=0.1, k1=0.0, l=1000)", "COS(k0=0.1, k1=0.0, l=1001)"),
        # Caffe computes the first with its own rounding.
        (
            "INV(k0=0.1, gamma=0.01, p=0.75)",
            "INV(k0=0.1, gamma=0.01, p=0.75) for 1000 then FIX(k0=1)",
        ),
        # The first has k0 and gamma in single precision, as in Caffe.
        ("NSTEP(k0=0.1, gamma=0.3, l=[500])", "FIX(k0=0.1) for 500 then FIX(k0=0.03)"),
    ],
)
def test_other_rates_have_another_key(text, other):
    assert key(text) != key(other)


@given(
    start=st.integers(0, 300),
    patience=st.integers(1, 1200),
    length=st.integers(1, 1000),
    test_interval=st.integers(1, 400),
)
def test_a_plateau_has_the_key_of_a_constant_rate_if_it_cannot_act(
    start, patience, length, test_interval
):
    policy = Policy("PLATEAU", k0=0.1, gamma=0.5, l=patience)
    if start:
        policy = Composition(Policy("FIX", k0=0.1), start, policy)
    # The worst case: the loss never improves.
    memory, rate = None, 0.1
    for iteration in range(0, length, test_interval):
        row = SimpleNamespace(iteration=iteration, test_loss=1.0)
        memory = policy.observe(memory, row)
        rate = min(rate, policy.schedule(memory)(iteration))
    is_constant = rates_key(from_policy(policy, length), length, test_interval) == "constant 0.1"
    assert is_constant == (rate == 0.1)


@given(
    patiences=st.tuples(st.integers(1, 100), st.integers(1, 100)),
    test_interval=st.integers(1, 50),
    losses=st.lists(st.integers(0, 9), min_size=20, max_size=20),
)
def test_plateaus_with_the_same_key_lower_the_rate_at_the_same_evaluations(
    patiences, test_interval, losses
):
    length = test_interval * len(losses)
    plateaus = [Policy("PLATEAU", k0=0.1, gamma=0.5, l=patience) for patience in patiences]
    keys = {rates_key(from_policy(policy, length), length, test_interval) for policy in plateaus}
    curves = set()
    for policy in plateaus:
        memory, curve = None, []
        for n, loss in enumerate(losses):
            row = SimpleNamespace(iteration=n * test_interval, test_loss=loss)
            memory = policy.observe(memory, row)
            curve.append(policy.schedule(memory)(row.iteration))
        curves.add(tuple(curve))
    assert len(curves) <= len(keys)


@given(st.data())
def test_policies_with_the_same_key_have_the_same_rates(data):
    length = data.draw(st.integers(1, 5))  # short trainings make it likely that the rates agree
    function = st.sampled_from([name for name in TUNED if name != "PLATEAU"])
    pair = [data.draw(policies(function, length)) for _ in range(2)]
    if pair[0](0) and pair[1](0):
        pair[1] = with_peak(from_policy(pair[1], length), pair[0](0)).original
    keys = [rates_key(from_policy(policy, length), length, 1) for policy in pair]
    curves = [policy(np.arange(length)).astype(np.float32) for policy in pair]
    assert keys[0] != keys[1] or np.allclose(*curves, rtol=1e-6)


@pytest.mark.parametrize(
    "text, length",
    [
        ("WARMUP(k0=0.1) for 10 then INV(k0=0.0123456, gamma=100, p=100)", 100),
        ("TRIEXP(k0=1e-12, k1=0.0, gamma=1e-300, l=2)", 10),
        ("NSTEP(k0=0.1, gamma=1e-300, l=[50])", 100),
        ("NSTEP(k0=1e-300, gamma=0.1, l=[50])", 100),
    ],
)
def test_a_policy_with_extreme_numbers_has_a_key_and_neighbours(text, length):
    candidate = from_policy(Policy.parse(text), length)
    assert rates_key(candidate, length, 10)
    for neighbour, _ in neighbours(candidate):
        assert Policy.parse(neighbour.text) != candidate.policy(length)
