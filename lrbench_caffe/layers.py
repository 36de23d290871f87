"""The Python layer that collects the softmax outputs of the TEST phase for the paper's metrics.

LRBench adds the layer in memory to a net that does not have it. A prototxt can also contain it::

    layer {
      name: "metrics" type: "Python" bottom: "prob" bottom: "label"
      include { phase: TEST }
      python_param { module: "lrbench_caffe.layers" layer: "MetricsLayer" }
    }

A label that the loss layer ignores is ignored here with ``param_str: '{"ignore_label": 255}'``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import caffe
import numpy as np

from lrbench_caffe.metrics import Accumulator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lrbench_caffe.metrics import Metrics

    Blobs = Sequence[Any]  # caffe.Blob


class MetricsLayer(caffe.Layer):
    """A layer without outputs that adds up the metrics of all test batches.

    Bottoms: the softmax outputs of shape (batch, classes, ...), and one label for each of their
    samples. Caffe calls setup, reshape, forward and backward; LRBench calls :meth:`take`.
    """

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        """Read the layer's parameters.

        Raises:
            ValueError: The layer does not have two bottoms.
        """
        if len(bottom) != 2:
            raise ValueError(
                "MetricsLayer: invalid number of bottoms %d, expected 2: the softmax outputs and "
                "the labels" % len(bottom)
            )
        self._ignore_label = json.loads(self.param_str or "{}").get("ignore_label")
        self._accumulator = Accumulator()

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        """Do nothing: there are no tops to reshape."""

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        """Add one batch.

        Raises:
            ValueError: The first bottom is not a softmax output, or a label is invalid.
        """
        if self.phase != caffe.TEST:
            return
        probabilities = np.moveaxis(bottom[0].data, 1, -1)
        probabilities = probabilities.reshape(-1, probabilities.shape[-1])
        if not self._accumulator.samples:
            self._check(probabilities)
        labels = bottom[1].data.reshape(-1)
        if self._ignore_label is not None:
            used = labels != self._ignore_label
            probabilities, labels = probabilities[used], labels[used]
        self._accumulator.add(probabilities, labels)

    def backward(self, top: Blobs, propagate_down: Sequence[bool], bottom: Blobs) -> None:
        """Do nothing: the layer is not part of the loss."""

    def take(self) -> Metrics:
        """Return the metrics of all batches since the last call, and start again.

        Raises:
            ValueError: There was no batch.
        """
        accumulator, self._accumulator = self._accumulator, Accumulator()
        return accumulator.metrics()

    @staticmethod
    def _check(probabilities: NDArray[Any]) -> None:
        """Raise ValueError if the probabilities of a sample do not sum to 1.

        NaN passes, because a net that diverged is connected correctly.
        """
        sums = probabilities.sum(axis=1)
        if (np.abs(sums - 1.0) > 1e-3).any():
            raise ValueError(
                "MetricsLayer: invalid first bottom, expected softmax outputs, which sum to 1, "
                "instead of a sum of %g: put a Softmax layer before it"
                % sums[np.argmax(np.abs(sums - 1.0))]
            )
