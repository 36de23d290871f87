"""The handwritten digits of scikit-learn."""

from __future__ import annotations

import numpy as np

from lrbench_caffe.datasets.samples import Part
from lrbench_caffe.errors import InputError


def read() -> tuple[Part, Part]:
    """Read scikit-learn's handwritten digits.

    Their order is a fixed shuffle, and the first 40 samples of each digit are the test samples.
    Pixels are stretched from 0..16 to 0..255, as in MNIST.

    Returns:
        1,397 training and 400 test samples of shape (1, 8, 8).

    Raises:
        InputError: Scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError(
            "the digits come with scikit-learn, which is not installed for this Python: install "
            "scikit-learn"
        ) from None
    digits = load_digits()
    order = np.random.RandomState(0).permutation(len(digits.target))
    images = np.rint(digits.images[order] * (255 / 16)).astype(np.uint8)[:, np.newaxis]
    labels = digits.target[order].astype(np.uint8)
    is_test = np.zeros(len(labels), bool)
    is_test[[i for digit in range(10) for i in np.flatnonzero(labels == digit)[:40]]] = True
    return Part(images[~is_test], labels[~is_test]), Part(images[is_test], labels[is_test])
