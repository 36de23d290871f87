"""The samples of a dataset as arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np


class Part(NamedTuple):
    """The training, validation or test samples of a dataset.

    Attributes:
        images: A uint8 array of shape (samples, channels, height, width).
        labels: A uint8 array of shape (samples,).
    """

    images: np.ndarray
    labels: np.ndarray
