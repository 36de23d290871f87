"""The Python layer that collects the outputs of the TEST phase for the paper's metrics.

LRBench adds the layer in memory to a net that does not have it. A prototxt can also contain it::

    layer {
      name: "metrics" type: "Python" bottom: "prob" bottom: "label"
      include { phase: TEST }
      python_param { module: "lrbench_caffe.layers" layer: "MetricsLayer" }
    }

Its ``param_str`` is a JSON object with these optional keys:

* ``"axis": 2``: the axis of the classes (default: 1, as in Caffe);
* ``"ignore_label": 255``: samples with this label do not count;
* ``"probabilities": false``: the first bottom has scores, and there are no probabilities.

A third bottom, the inputs of the softmax, ranks the classes more finely than its outputs do.
LRBench itself uses more keys: ``"head"``, the name of the head; ``"optional": true`` for a head
whose problems do not end the training; ``"flat": true`` for a loss to which all axes after the
first are classes; and ``"binary": true`` for one score in each sample.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import caffe
import numpy as np

from lrbench_caffe.errors import InputError
from lrbench_caffe.metrics import Accumulator, Metrics, from_arrays

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Blobs = Sequence[Any]  # caffe.Blob


class MetricsLayer(caffe.Layer):
    """A layer without outputs that adds up the metrics of all test batches.

    Bottoms: the softmax outputs, with one axis of classes; one label for each of their samples;
    and optionally the scores, in the shape of the softmax outputs. Caffe calls setup, reshape,
    forward and backward; LRBench calls :meth:`take`.

    Attributes:
        head: The name of the head, None if LRBench has not given it one.
        problem: Why an optional head cannot be measured, None if it can.
        is_reported: Whether a note has reported the problem.
    """

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        """Read the layer's parameters.

        Raises:
            InputError: The number of bottoms is wrong.
        """
        param = json.loads(self.param_str or "{}")
        self._axis: int = param.get("axis", 1)
        self._ignore_label: int | None = param.get("ignore_label")
        self._has_probabilities: bool = param.get("probabilities", True)
        self._is_flat: bool = param.get("flat", False)
        self._is_binary: bool = param.get("binary", False)
        self.head: str | None = param.get("head")
        self._is_optional: bool = param.get("optional", False)
        self.problem: str | None = None
        self.is_reported = False
        self._accumulator = Accumulator()
        self._accuracies: list[tuple[float, float]] = []  # of each batch, if samples are ignored
        if len(bottom) != 2 and not (len(bottom) == 3 and self._has_probabilities):
            raise InputError(
                "MetricsLayer: invalid number of bottoms %d, expected 2, the softmax outputs and "
                "the labels, or 3, with the scores at the end" % len(bottom)
            )

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        """Check the shapes; there are no tops to reshape.

        Raises:
            InputError: The bottoms do not fit each other, or do not have the axis of the classes.
        """
        try:
            self._check_shapes(bottom)
        except ValueError as error:
            self._reject(str(error))

    def _check_shapes(self, bottom: Blobs) -> None:
        """Raise ValueError if the shapes of the bottoms are invalid."""
        shape, labels = tuple(bottom[0].shape), bottom[1].count
        if len(bottom) == 3 and tuple(bottom[2].shape) != shape:
            raise ValueError(
                "%s: the scores have the shape %s, but the softmax outputs %s"
                % (self._name, tuple(bottom[2].shape), shape)
            )
        if self._is_binary and not _has_one_score(shape):
            raise ValueError(
                "%s: the scores have the shape %s, so a sample may have several labels; LRBench "
                "measures classifiers with one label for each sample" % (self._name, shape)
            )
        samples = bottom[0].count // max(self._classes(shape), 1)
        if labels != samples:
            raise ValueError(
                "%s: the first bottom has the shape %s, so %d labels are expected instead of %d"
                % (self._name, shape, samples, labels)
            )

    def _classes(self, shape: tuple[int, ...]) -> int:
        """The number of classes, or of scores in a sample, of a first bottom of this shape."""
        if self._is_binary:
            return 1
        if self._is_flat:
            return int(np.prod(shape[1:]))
        if not -len(shape) <= self._axis < len(shape):
            raise ValueError(
                "%s: the first bottom has the shape %s, which does not have the axis %d of the "
                "classes" % (self._name, shape, self._axis)
            )
        return shape[self._axis]

    @property
    def _name(self) -> str:
        """What messages call this layer."""
        return "MetricsLayer" if self.head is None else "the head %s" % self.head

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        """Add one batch; do nothing once an optional head had a problem.

        Raises:
            InputError: The first bottom is not a softmax output, or a label is invalid.
        """
        if self.phase != caffe.TEST or self.problem is not None:
            return
        labels = bottom[1].data.reshape(-1)
        rows = scores = self._rows(bottom[0])
        probabilities: NDArray[Any] | None = None
        if self._is_binary:
            scores = np.hstack([np.zeros_like(rows), rows])  # a sigmoid is above 0.5 above 0
        elif self._has_probabilities:
            probabilities = rows
            scores = self._rows(bottom[2]) if len(bottom) == 3 else rows
            if not self._accumulator.samples and not self._sums_to_1(rows):
                return
        if self._ignore_label is not None:
            used = labels != self._ignore_label
            labels, scores = labels[used], scores[used]
            probabilities = None if probabilities is None else probabilities[used]
        try:
            if self._ignore_label is not None:
                self._accuracies.append(_accuracies(labels, scores))
            self._accumulator.add(probabilities, labels, scores)
        except ValueError as error:
            self._reject("%s: %s" % (self._name, error))

    def backward(self, top: Blobs, propagate_down: Sequence[bool], bottom: Blobs) -> None:
        """Do nothing: the layer is not part of the loss."""

    def take(self) -> Metrics:
        """Return the metrics of all batches since the last call, and start again.

        If samples are ignored, Top-1 and Top-5 are the means of the batches, as Caffe prints them.

        Raises:
            ValueError: There was no batch.
        """
        accumulator, self._accumulator = self._accumulator, Accumulator()
        accuracies, self._accuracies = self._accuracies, []
        if not accuracies:
            return accumulator.metrics()
        top1, top5 = np.mean(accuracies, axis=0).tolist()
        if not accumulator.samples:  # all of them were ignored
            return Metrics(0, top1, top5, None, None, None, None)
        return accumulator.metrics()._replace(top1=top1, top5=top5)

    def _rows(self, blob: Any) -> NDArray[Any]:
        """The values of a blob as (samples, classes), with the samples in the labels' order."""
        if self._is_binary:
            return blob.data.reshape(-1, 1)
        if self._is_flat:
            return blob.data.reshape(len(blob.data), -1)
        values = np.moveaxis(blob.data, self._axis, -1)
        return values.reshape(-1, values.shape[-1])

    def _sums_to_1(self, probabilities: NDArray[Any]) -> bool:
        """Whether the probabilities of each sample sum to 1; reject them if not.

        NaN passes, because a net that diverged is connected correctly.
        """
        sums = probabilities.sum(axis=1)
        if not (np.abs(sums - 1.0) > 1e-3).any():
            return True
        self._reject(
            "%s: invalid first bottom, expected softmax outputs, which sum to 1, instead of a sum "
            "of %g: put a Softmax layer before it"
            % (self._name, sums[np.argmax(np.abs(sums - 1.0))])
        )
        return False

    def _reject(self, problem: str) -> None:
        """Keep the problem of an optional head, which does not end the training; raise others."""
        if not self._is_optional:
            raise InputError(problem)
        self.problem = problem


def _has_one_score(shape: tuple[int, ...]) -> bool:
    """Whether scores of this shape are one for each sample, pixel, or step of a sequence."""
    return len(shape) == 1 or shape[1] == 1 or (len(shape) == 3 and shape[2] == 1)


def _accuracies(labels: NDArray[Any], scores: NDArray[Any]) -> tuple[float, float]:
    """Top-1 and Top-5 of a batch; 0 without a sample that counts, as in Caffe's Accuracy."""
    if not len(labels):
        return 0.0, 0.0
    batch = from_arrays(None, labels, scores)
    return batch.top1, batch.top5
