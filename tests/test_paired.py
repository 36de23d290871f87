"""Candidates that were trained with different seeds are compared as if they had the same ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrbench_caffe.evaluator.paired import compare

values = st.floats(-10, 10).map(lambda number: round(number, 3))


@given(
    st.lists(values, min_size=1, max_size=6),
    st.dictionaries(st.integers(1, 9), values, min_size=1, max_size=5),
    st.data(),
)
def test_what_a_seed_adds_to_all_candidates_does_not_count(qualities, effects, data):
    """All candidates have the first seed; which others each of them has is drawn."""
    first, *others = sorted(effects)
    seeds = [
        [first, *(data.draw(st.sets(st.sampled_from(others))) if others else ())] for _ in qualities
    ]
    observed = [
        {seed: quality + effects[seed] for seed in own} for quality, own in zip(qualities, seeds)
    ]
    paired = compare(observed)
    for n, quality in enumerate(qualities):
        assert paired.mean(n) - paired.mean(0) == pytest.approx(quality - qualities[0], abs=1e-6)
        assert len(paired.adjusted[n]) == len(seeds[n])
    assert paired.deviation == pytest.approx(0, abs=1e-6)
    places = [sum(other > quality for other in qualities) for quality in qualities]
    assert paired.places(prior_seeds=0) == places


def test_the_deviation_is_what_neither_candidate_nor_seed_explains():
    # Means 0.92 and 0.90, seeds +0.01 and -0.01, residuals of 0.002 with one degree of freedom.
    paired = compare([{1: 0.932, 2: 0.908}, {1: 0.908, 2: 0.892}])
    assert paired.deviation == pytest.approx((4 * 0.002**2) ** 0.5)
    assert paired.mean(0) - paired.mean(1) == pytest.approx(0.02)
    assert not paired.are_level(0, 1)
    assert paired.are_level(1, 0), "the second one is not the better"


def test_equal_candidates_have_equal_places_whatever_the_rounding_of_the_fit():
    thirds = {seed: share / 3 for seed, share in enumerate((2.9, 2.8, 2.7), 1)}
    single = {2: 2.8 / 3}
    assert compare([thirds, thirds, single]).places(prior_seeds=0) == [0, 0, 0]


def test_a_single_training_counts_less_than_several():
    several, single, others = {1: 0.95, 2: 0.95, 3: 0.95}, {1: 0.951}, [{1: 0.9}] * 3
    assert compare([several, single, *others]).places(prior_seeds=0)[:2] == [1, 0]
    assert compare([several, single, *others]).places(prior_seeds=0.5)[:2] == [0, 1]


def test_without_values_there_is_nothing_to_compare():
    assert compare([]).places(prior_seeds=0.5) == []
