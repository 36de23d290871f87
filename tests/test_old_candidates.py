"""The candidates of the tuner that is being replaced."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trials import trial

from lrbench_caffe.evaluator import old_candidates
from lrbench_caffe.evaluator.loss_curve import warmup_length
from lrbench_caffe.evaluator.old_candidates import (
    TUNED,
    Candidate,
    first,
    from_plateau,
    from_policy,
    from_text,
    highest_rate,
    neighbours,
    transfer,
    without_noise,
)
from lrbench_caffe.policies import Policy
from lrbench_caffe.ranking.ranges import Range

GOOD = Range(0.005, 0.06, 0.02, 0.99)
LENGTH = 6000


def first_policy(function, length=LENGTH, epoch=None):
    """The policy of the first candidate of a function."""
    candidate, _ = first(function, GOOD)
    return candidate.policy(length, epoch)


def constant(losses):
    """A trial under FIX with these test losses, the first one before training."""
    finished = trial("FIX(k0=0.02)", [0.1] * len(losses))
    rows = [dataclasses.replace(row, test_loss=loss) for row, loss in zip(finished.rows, losses)]
    return dataclasses.replace(finished, rows=tuple(rows))


WITH_PLATEAU = constant([2.0, 1.0, 0.5, 0.4, 0.3, 0.3, 0.299, 0.31, 0.3, 0.3, 0.3])
WITHOUT_PLATEAU = constant([1 / (n + 1) for n in range(11)])


@pytest.mark.parametrize("function", TUNED)
@given(
    length=st.integers(50, 100000),
    epoch=st.one_of(st.none(), st.floats(1, 5000)),
    low=st.floats(1e-5, 0.1),
    width=st.floats(1, 100),
)
def test_every_candidate_makes_a_policy_of_any_length_with_rates_from_the_good_range(
    function, length, epoch, low, width
):
    good = Range(low, min(1.0, low * width), low, 0.9)
    candidate, why = first(function, good)
    assert why
    beside = [neighbour for neighbour, _ in neighbours(candidate, 2, good, 40)]
    for member in [candidate, *beside]:
        policy = member.policy(length, epoch)
        assert Policy.parse(str(policy)) == policy
        assert without_noise(str(policy)) == str(policy)
        assert policy.end >= length - 1
        if not policy.has_memory:
            rates = [policy(t) for t in (0, length // 2, length - 1)]
            assert all(0 <= rate <= 1.06 * 2 * good.high for rate in rates)


@pytest.mark.parametrize("steps", range(1, 20))
def test_the_gamma_of_a_step_has_at_most_three_digits(steps):
    gamma = Candidate("STEP", 0.1, count=steps, final=0.01).policy(10000).parameters["gamma"]
    assert len(repr(gamma)) <= len("0.123")


@pytest.mark.parametrize(
    "noisy, text",
    [
        ("EXP(k0=0.30000000000000004, gamma=0.9989999999999999)", "EXP(k0=0.3, gamma=0.999)"),
        ("COS(k0=0.05, k1=5.000000000000001e-05, l=100)", "COS(k0=0.05, k1=5e-05, l=100)"),
        ("NSTEP(k0=0.1, gamma=0.1, l=[150, 180])", "NSTEP(k0=0.1, gamma=0.1, l=[150, 180])"),
        (
            "WARMUP(k0=0.01) for 50 then EXP(k0=0.1, gamma=0.99999877)",
            "WARMUP(k0=0.01) for 50 then EXP(k0=0.1, gamma=0.99999877)",
        ),
    ],
)
def test_rounding_errors_are_removed_from_a_text(noisy, text):
    assert without_noise(noisy) == text


def test_decays_begin_at_the_best_constant_rate_and_cycles_span_the_good_range():
    assert str(first_policy("STEP", epoch=600)).startswith("STEP(k0=0.02, ")
    assert str(first_policy("FIX")) == "FIX(k0=0.02)"
    assert str(first_policy("COS")) == "COS(k0=0.02, k1=0.0005, l=6000)"
    assert str(first_policy("TRI")) == "TRI(k0=0.0005, k1=0.06, l=3000)"


def test_the_cycle_of_sinexp_peaks_below_the_upper_end_of_the_good_range():
    policy = first_policy("SINEXP")
    rates = [policy(t) for t in range(LENGTH)]
    assert 0.7 * GOOD.high < max(rates) < GOOD.high
    assert 0.25 < rates.index(max(rates)) / LENGTH < 0.35


@pytest.mark.parametrize("function", ["STEP", "NSTEP", "EXP"])
def test_gamma_depends_on_the_number_of_steps_so_that_the_last_rate_is_not_too_small(function):
    expected = pytest.approx(0.02 * old_candidates.FINAL_SHARE, rel=0.05)
    for length in (500, 6000, 70000):
        assert first_policy(function, length, 500)(length - 1) == expected


def test_step_lengths_are_multiples_of_an_epoch():
    assert first_policy("STEP", 10000, 600).parameters["l"] % 600 == 0


@pytest.mark.parametrize("warmup", [0, 50])
@pytest.mark.parametrize("function", TUNED)
def test_from_policy_is_the_inverse_of_policy(function, warmup):
    policy = dataclasses.replace(first(function, GOOD)[0], warmup=warmup).policy(LENGTH)
    assert from_policy(policy, LENGTH).policy(LENGTH) == policy


def test_from_text_accepts_steps_that_end_at_a_rate_of_almost_zero():
    assert from_text("STEP(k0=0.05, gamma=0.1, l=1)", 600).policy(600)(599) > 0


def test_from_policy_rejects_policies_that_no_rule_makes():
    assert from_policy(Policy.parse("FIX(k0=0.001) for 5 then FIX(k0=0.1)"), LENGTH) is None
    assert from_text("whatever Caffe has", LENGTH) is None


def test_the_highest_rate_of_short_cycles():
    candidate = from_text("TRI(k0=0.01, k1=0.06, l=100)", 40000)
    assert highest_rate(candidate, 40000) == pytest.approx(0.06)


def test_a_neighbour_above_the_best_constant_rate_has_a_warm_up():
    poly = neighbours(Candidate("POLY", 0.05), 2, GOOD, 50)
    neighbour, why = poly[0]
    expected = "WARMUP(k0=0.01) for 50 then POLY(k0=0.1, p=1.0, l=950)"
    assert str(neighbour.policy(1000)) == expected
    assert "above the best constant rate" in why
    assert not any(beside.high > 0.06 and not beside.warmup for beside, _ in poly)
    assert "a warm-up twice as long" in neighbours(neighbour, 2, GOOD, 50)[0][1]
    low = neighbours(Candidate("POLY", 0.01), 2, GOOD, 50)
    assert not any(beside.warmup for beside, _ in low)


def test_a_warm_up_does_not_grow_with_the_length_and_takes_at_most_a_quarter_of_it():
    candidate = Candidate("COS", 0.1, 0.001, warmup=50)
    assert str(candidate.policy(10000)).startswith("WARMUP(k0=0.01) for 50 then ")
    assert str(candidate.policy(100)).startswith("WARMUP(k0=0.01) for 25 then ")


def test_a_warm_up_takes_as_long_as_the_steep_fall_of_the_loss():
    assert warmup_length(constant([2.3, 1.5, 0.6, 0.4, 0.3, 0.3])) == 300
    assert warmup_length(constant([2.3, 0.4, 0.3, 0.3])) == 100
    assert warmup_length(constant([0.3, 0.4, 0.5])) == 200, "it never falls: the whole trial"


def test_the_first_step_of_nstep_is_where_the_loss_stopped_improving():
    candidate, why = from_plateau("NSTEP", GOOD, WITH_PLATEAU)
    assert candidate.policy(1000).parameters["l"] == (400, 700, 850)
    assert "FIX(k0=0.02) stopped improving after 40 %" in why
    assert from_plateau("NSTEP", GOOD, WITHOUT_PLATEAU) is None


def test_the_patience_of_plateau_divides_the_rest_of_the_training():
    candidate, why = from_plateau("PLATEAU", GOOD, WITH_PLATEAU)
    expected = "PLATEAU(k0=0.02, k1=0.0002, gamma=0.316, l=120)"  # 60 % in five parts
    assert str(candidate.policy(1000)) == expected
    assert "stopped improving after 40 %" in why
    assert "before that, it improved at least every 10 %" in why
    assert from_plateau("PLATEAU", GOOD, WITHOUT_PLATEAU) is None


def test_the_patience_of_plateau_is_at_least_the_longest_wait_for_an_improvement():
    waits = constant([2.0, 2.1, 2.1, 1.0, 1.1, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6])
    candidate, _ = from_plateau("PLATEAU", GOOD, waits)
    parameters = candidate.policy(1000).parameters
    assert parameters["l"] == 300
    assert parameters["gamma"] == 0.01, "there is time to lower the rate once, at 80 %"
    patience = [
        neighbour.policy(1000).parameters["l"]
        for neighbour, why in neighbours(candidate, 2, GOOD, 50)
        if "patience" in why
    ]
    assert patience == [150, 600]


@pytest.mark.parametrize("function", TUNED)
def test_transfer_of_a_first_candidate_is_the_first_candidate_of_the_other_range(function):
    target = Range(0.001, 0.2, 0.1, 0.9)
    moved = transfer(first(function, GOOD)[0], GOOD, target)
    assert moved.policy(LENGTH) == first(function, target)[0].policy(LENGTH)


@pytest.mark.parametrize("function", TUNED)
def test_transfer_to_an_almost_equal_range_changes_nothing(function):
    candidate = first(function, GOOD)[0]
    assert transfer(candidate, GOOD, Range(0.002, 0.12, 0.05, 0.9)) == candidate


def test_transfer_keeps_decays_inside_the_good_range():
    source, target = Range(0.01, 0.1, 0.05, 0.9), Range(0.005, 0.02, 0.02, 0.9)
    assert transfer(Candidate("POLY", 0.05), source, target).high == 0.02


def test_transfer_keeps_the_smallest_rate_below_the_largest():
    source, target = Range(0.01, 0.05, 0.05, 0.9), Range(0.1, 0.1, 0.1, 0.9)
    moved = transfer(Candidate("SIN", 0.05, 0.01), source, target)
    assert moved.low <= moved.high
