"""The metrics of section III: examples computed by hand, and both implementations compared."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrbench_caffe.metrics import Accumulator, Metrics, from_arrays, loss_difference

# Four samples and three classes. Samples 0, 1 and 3 are classified correctly with the confidences
# 0.8, 0.6 and 0.5. Their classes are 0, 0 and 2.
PROBABILITIES = np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.2, 0.3, 0.5]])
LABELS = np.array([0, 0, 1, 2])


def accumulated(probabilities, labels, batch):
    accumulator = Accumulator()
    for start in range(0, len(labels), batch):
        accumulator.add(probabilities[start : start + batch], labels[start : start + batch])
    return accumulator.metrics()


@pytest.mark.parametrize(
    "compute", [from_arrays, lambda p, y: accumulated(p, y, 1), lambda p, y: accumulated(p, y, 3)]
)
def test_metrics_equal_those_computed_by_hand(compute):
    metrics = compute(PROBABILITIES, LABELS)
    mean = (0.8 + 0.6 + 0.5) / 3
    assert metrics.samples == 4 and metrics.top1 == 0.75 and metrics.top5 == 1.0
    assert metrics.ac == pytest.approx(mean, rel=1e-15)
    assert metrics.cd == pytest.approx(
        math.sqrt(((0.8 - mean) ** 2 + (0.6 - mean) ** 2 + (0.5 - mean) ** 2) / 3), rel=1e-14
    )
    # CDAC leaves out class 1, which has no correctly classified sample.
    assert metrics.cdac == pytest.approx((0.7 - 0.5) / 2, rel=1e-14)
    assert metrics.class_confidence == (pytest.approx(0.7), None, 0.5)
    assert metrics.log_loss == pytest.approx(-math.log(0.8 * 0.6 * 0.4 * 0.5) / 4, rel=1e-14)


@pytest.mark.parametrize("compute", [from_arrays, lambda p, y: accumulated(p, y, 2)])
def test_without_a_correct_sample_the_confidences_are_none(compute):
    metrics = compute(PROBABILITIES, np.array([1, 2, 2, 0]))
    assert metrics.top1 == 0 and (metrics.ac, metrics.cd, metrics.cdac) == (None, None, None)


def test_top_5_ranks_the_classes_and_is_1_for_at_most_five_classes():
    six = np.array([[0.3, 0.25, 0.2, 0.15, 0.07, 0.03]] * 6)
    assert from_arrays(six, np.arange(6)).top5 == pytest.approx(5 / 6)
    assert from_arrays(six[:, :2], np.zeros(6)).top5 == 1.0


@pytest.mark.parametrize("compute", [from_arrays, lambda p, y: accumulated(p, y, 1)])
def test_a_tie_is_a_wrong_prediction_as_in_caffes_accuracy_layer(compute):
    tied = np.full((2, 6), 1 / 6)
    metrics = compute(tied, np.array([0, 5]))
    assert (metrics.top1, metrics.top5) == (0, 0) and metrics.ac is None
    assert compute(tied[:, :5], np.array([0, 4])).top5 == 1.0  # at most five classes


@pytest.mark.parametrize("batch", [None, 1])
def test_scores_rank_classes_whose_probabilities_are_rounded_to_zero(batch):
    scores = np.array([[900, 0, -1, -2, -3, -4, -5], [900, 0, -1, -2, -3, -4, -5]], np.float32)
    probabilities = np.array([[1, 0, 0, 0, 0, 0, 0]] * 2, np.float32)
    labels = np.array([4, 6])
    if batch is None:
        metrics = from_arrays(probabilities, labels, scores)
    else:
        accumulator = Accumulator()
        for n in range(2):
            accumulator.add(probabilities[n : n + 1], labels[n : n + 1], scores[n : n + 1])
        metrics = accumulator.metrics()
    assert (metrics.top1, metrics.top5) == (0, 0.5)


def test_without_probabilities_only_the_accuracies_are_measured():
    scores = np.array([[-3.0, 2.0], [4.0, 1.0]])
    labels = np.array([1, 1])
    accumulator = Accumulator()
    accumulator.add(None, labels, scores)
    expected = Metrics(2, 0.5, 1.0, None, None, None, None)
    assert accumulator.metrics() == from_arrays(None, labels, scores) == expected


def test_nan_is_never_a_correct_prediction():
    metrics = from_arrays(np.full((3, 4), np.nan, np.float32), np.array([0, 1, 2]))
    assert metrics.top1 == 0 and metrics.ac is None


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 300),
    st.integers(1, 12),
    st.integers(1, 50),
    st.floats(0, 40),
)
def test_both_implementations_agree_to_1e_12(seed, samples, classes, batch, sharpness):
    """With a large sharpness nearly all confidences are 1, where sums of squares are imprecise."""
    random = np.random.RandomState(seed)
    scores = random.randn(samples, classes) * sharpness
    probabilities = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities = (probabilities / probabilities.sum(axis=1, keepdims=True)).astype(np.float32)
    labels = np.where(
        random.rand(samples) < 0.8,
        probabilities.argmax(axis=1),
        random.randint(classes, size=samples),
    )
    at_once, by_batch = (
        from_arrays(probabilities, labels),
        accumulated(probabilities, labels, batch),
    )
    assert [c is None for c in at_once.class_confidence] == [
        c is None for c in by_batch.class_confidence
    ]
    assert [c for c in by_batch.class_confidence if c is not None] == pytest.approx(
        [c for c in at_once.class_confidence if c is not None], rel=1e-12
    )
    for name in Metrics._fields[:-1]:
        a, b = getattr(at_once, name), getattr(by_batch, name)
        assert (a is None) == (b is None)
        assert a is None or abs(a - b) <= 1e-12 * max(1, abs(a)), name


def sizes(accumulator):
    """The bytes of the accumulator's arrays by attribute."""
    return {name: getattr(value, "nbytes", 0) for name, value in vars(accumulator).items()}


def test_the_memory_of_the_accumulator_does_not_grow_with_the_samples():
    accumulator = Accumulator()
    accumulator.add(PROBABILITIES, LABELS)
    before = sizes(accumulator)
    for _ in range(100):
        accumulator.add(PROBABILITIES, LABELS)
    assert sizes(accumulator) == before


def test_the_loss_difference_is_absolute():
    assert loss_difference(0.5, 0.75) == loss_difference(0.75, 0.5) == 0.25
    assert loss_difference(0.5, None) is None


@pytest.mark.parametrize(
    "probabilities, labels, expected",
    [
        (PROBABILITIES, LABELS[:3], "shape"),
        (PROBABILITIES[0], LABELS, "shape"),
        (PROBABILITIES, [0, 0, 1, 3], "label 3"),
        (PROBABILITIES, [0, 0, -1, 2], "label -1"),
        (PROBABILITIES, [0, 0.5, 1, 2], "label 0.5"),
        (PROBABILITIES[:0], [], "no samples"),
    ],
)
def test_invalid_arrays_raise(probabilities, labels, expected):
    with pytest.raises(ValueError, match=expected):
        from_arrays(probabilities, labels)
