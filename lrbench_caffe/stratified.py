"""Which samples of a data set are for validation: the same share of each class, by a fixed rule."""

from __future__ import annotations

import numpy as np

from lrbench_caffe.errors import InputError

_SEED = 0  # of the order of the samples


def choose(labels: np.ndarray, validation: int, name: str) -> np.ndarray:
    """Choose samples for validation. The same labels always give the same samples.

    Each class gives samples in proportion to its size. The shares are rounded so that their sum is
    right, each class gives at least one sample, and each class keeps at least one. The only sample
    of a class is kept. The samples are put into a random order with a fixed seed, and the last ones
    of each class are chosen.

    Args:
        labels: The labels, whole numbers of shape (samples,).
        validation: How many samples to choose.
        name: The name of the data set, for a message.

    Returns:
        Whether each sample is chosen, a bool array of shape (samples,).

    Raises:
        InputError: validation is too small or too large.

    Example:
        >>> choose(np.array([7, 7, 7, 7, 3, 3, 3, 3]), 4, "mine")
        array([ True, False, False,  True,  True, False, False,  True])
    """
    _, classes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    _check(validation, sizes, name)
    order = np.random.RandomState(_SEED).permutation(len(labels))
    chosen = np.zeros(len(labels), bool)
    for number, share in enumerate(_shares(sizes, validation)):
        members = order[classes[order] == number]
        chosen[members[len(members) - share :]] = True
    return chosen


def _check(validation: int, sizes: np.ndarray, name: str) -> None:
    if validation < len(sizes):
        raise InputError(
            "%s: invalid validation=%d, expected at least %d, a sample of each class"
            % (name, validation, len(sizes))
        )
    most = int(sizes.sum()) - len(sizes)
    if validation > most:
        raise InputError(
            "%s: invalid validation=%d of %d samples, expected at most %d, because each of the %d "
            "classes keeps a training sample" % (name, validation, sizes.sum(), most, len(sizes))
        )


def _shares(sizes: np.ndarray, validation: int) -> np.ndarray:
    """How many samples each class gives."""
    least, most = np.minimum(1, sizes - 1), sizes - 1
    exact = validation * sizes / sizes.sum()
    shares: np.ndarray = np.maximum(np.floor(exact).astype(int), least)
    while shares.sum() != validation:
        step = 1 if shares.sum() < validation else -1
        limit = most if step == 1 else least
        shares[np.argmax(np.where(shares == limit, -np.inf, step * (exact - shares)))] += step
    return shares
