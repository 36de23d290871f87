"""Candidates whose trainings have different seeds are compared nearly as if they had the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrbench_caffe.evaluator.paired import NOISE_RATIO, compare

values = st.floats(-10, 10).map(lambda number: round(number, 3))


@given(st.lists(st.lists(values, min_size=3, max_size=3), min_size=1, max_size=6))
def test_candidates_with_the_same_seeds_are_compared_by_their_means(rows):
    comparison = compare([dict(enumerate(row, 1)) for row in rows])
    for n, row in enumerate(rows):
        lead = comparison.means[n] - comparison.means[0]
        assert lead == pytest.approx(sum(row) / 3 - sum(rows[0]) / 3, abs=1e-6)
    means = [round(sum(row) / 3, 6) for row in rows]
    places = comparison.places(prior_seeds=0)
    assert places == [sum(other > mean for other in means) for mean in means]


@given(st.lists(st.dictionaries(st.integers(1, 5), values, min_size=1), min_size=1, max_size=6))
def test_a_shift_of_all_values_changes_no_lead(rows):
    before = compare(rows).means
    shifted = compare([{seed: value + 7 for seed, value in row.items()} for row in rows]).means
    assert [mean - 7 for mean in shifted] == pytest.approx(before, abs=1e-6)


def test_what_two_candidates_lost_with_a_seed_counts_in_part():
    """Both lost 2 points with the second seed, so the first one is taken as an easy one."""
    two = [{1: 0.95, 2: 0.93}, {1: 0.94, 2: 0.92}]
    first, second, third = compare([*two, {1: 0.943}]).means
    assert first - second == pytest.approx(0.01)
    assert third < first, "although 0.943 is more than its mean of 0.94"
    first, _, third = compare([*two, {1: 0.947}]).means
    assert third > first


def test_a_seed_that_only_one_candidate_has_is_hardly_a_hard_one():
    """If a net fails with a seed, this seed is hardly a hard one for the others."""
    policies = [{1: 0.95, 2: 0.60}, {1: 0.90, 2: 0.90}, {1: 0.948}, {1: 0.945}, {1: 0.935}]
    failed, other, *_ = compare(policies).means
    assert failed < other
    places = compare(policies).places(prior_seeds=0.5)
    assert places[1] > 0, "it is worse than the others with each seed that they have, too"


def test_the_error_of_a_lead_is_that_of_its_seeds():
    """With the same seeds, it is the deviation of the differences, divided by sqrt(seeds)."""
    first, second = {1: 0.95, 2: 0.93, 3: 0.94}, {1: 0.93, 2: 0.93, 3: 0.93}
    comparison = compare([first, second])
    lead, error = 0.01, error_of(comparison, 0, 1)
    assert comparison.are_level(0, 1) == (lead <= error)
    more_seeds = compare([{n: 0.94 + 0.01 * (n % 3 - 1) for n in range(1, 31)}] * 2)
    assert error_of(more_seeds, 0, 1) < error
    assert comparison.are_level(1, 0), "the second one does not lead"


def error_of(comparison, n, m):
    covariance = comparison.covariance
    return (covariance[n, n] + covariance[m, m] - 2 * covariance[n, m]) ** 0.5


def test_equal_candidates_are_level_and_have_equal_places():
    thirds = {seed: share / 3 for seed, share in enumerate((2.9, 2.8, 2.7), 1)}
    comparison = compare([thirds, dict(reversed(list(thirds.items()))), thirds])
    assert comparison.places(prior_seeds=0) == [0, 0, 0]
    assert comparison.are_level(0, 1) and comparison.are_level(1, 0)
    assert compare([{1: 0.9}, {1: 0.9}]).are_level(0, 1)
    assert not compare([{1: 0.9}, {1: 0.8}]).are_level(0, 1), "nothing tells how large noise is"


def test_candidates_without_a_common_seed_are_compared_by_their_values():
    means = compare([{1: 0.92}, {1: 0.91}, {2: 0.93}]).means
    assert means == pytest.approx((0.92, 0.91, 0.93))


def test_a_single_training_counts_less_than_several():
    several, single, others = {1: 0.95, 2: 0.95, 3: 0.95}, {1: 0.951}, [{1: 0.9}] * 3
    assert compare([several, single, *others]).places(prior_seeds=0)[:2] == [1, 0]
    assert compare([several, single, *others]).places(prior_seeds=0.5)[:2] == [0, 1]


def test_without_candidates_there_is_nothing_to_compare():
    assert compare([]).places(prior_seeds=0.5) == []
    assert NOISE_RATIO > 0, "the equations have one solution"
