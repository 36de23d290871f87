"""The paper's metrics of one evaluation (section III, Formulas 3 to 6).

There are two implementations that agree to 1e-12. :func:`from_arrays` follows the formulas and
needs all probabilities at once. :class:`Accumulator` works batch by batch.

Notation: p_i is the softmax output for sample i, y_i its label, and conf_i = p_i[y_i] the
confidence of the network in the correct class. C is the set of the correctly classified samples,
those whose most probable class is y_i. C_c is the set of the samples in C that have class c. std is
the population standard deviation.

The rank of a label is the number of other classes whose score is at least as high. A sample is in
C if the rank is 0, and counts for Top-5 if it is below 5. A tie is therefore a wrong prediction, as
in Caffe's Accuracy layer: a net whose scores are all equal has learned nothing. Scores are the
inputs of the softmax. They rank more finely than its outputs, which single precision rounds to 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class Metrics(NamedTuple):
    """The metrics of one pass over a test set.

    Attributes:
        samples: The number of samples.
        top1: Top-1 accuracy, the share of the samples in C, from 0 to 1.
        top5: Top-5 accuracy, the share of the samples whose label is among the five most probable
            classes, from 0 to 1. With at most five classes it is 1.
        ac: Average confidence, mean of conf_i over C. None if C is empty, and, like cd, cdac and
            log_loss, if there are no probabilities.
        cd: Confidence deviation, std of conf_i over C. None if C is empty.
        cdac: Confidence deviation across classes, std of the class confidences. Classes without a
            correctly classified sample do not count. None if C is empty.
        log_loss: Mean of -log(conf_i) over all samples, which is the value of Caffe's
            SoftmaxWithLoss. As in Caffe, conf_i is at least the smallest normal float32.
        class_confidence: For each class c, the mean of conf_i over C_c. None if C_c is empty. Empty
            as a whole if there are no probabilities.
    """

    samples: int
    top1: float
    top5: float
    ac: float | None
    cd: float | None
    cdac: float | None
    log_loss: float | None
    class_confidence: tuple[float | None, ...] = ()


def from_arrays(
    probabilities: ArrayLike | None, labels: ArrayLike, scores: ArrayLike | None = None
) -> Metrics:
    """Compute the metrics from the softmax outputs and the scores of all samples.

    A NaN is never a correct prediction.

    Args:
        probabilities: Softmax outputs p of shape (samples, classes). None for a classifier without
            probabilities, of which only top1 and top5 can be measured.
        labels: Labels y of shape (samples,), whole numbers from 0 to classes - 1, of any type.
        scores: What ranks the classes, of shape (samples, classes). None: the probabilities.

    Raises:
        ValueError: The shapes do not match, there are no samples, or a label is not a class.

    Example:
        Two of three samples are classified correctly, with the confidences 0.75 and 0.5:

        >>> metrics = from_arrays([[0.75, 0.25], [0.5, 0.25], [1.0, 0.0]], labels=[0, 0, 1])
        >>> metrics.ac, metrics.cd, metrics.class_confidence
        (0.625, 0.125, (0.625, None))
        >>> round(metrics.top1, 3)
        0.667
    """
    confidence, rank, y, classes = _confidence_and_rank(probabilities, labels, scores)
    if not len(y):
        raise ValueError("no samples: the metrics need at least one sample")
    top1, top5 = float(np.mean(rank == 0)), float(np.mean(rank < 5))
    if confidence is None:
        return Metrics(len(y), top1, top5, None, None, None, None)
    confidence_of_c = confidence[rank == 0]
    y_of_c = y[rank == 0]
    by_class = [
        float(confidence_of_c[y_of_c == c].mean()) if (y_of_c == c).any() else None
        for c in range(classes)
    ]
    is_empty = not len(confidence_of_c)
    return Metrics(
        samples=len(y),
        top1=top1,
        top5=top5,
        ac=None if is_empty else float(np.mean(confidence_of_c)),
        cd=None if is_empty else float(np.std(confidence_of_c)),
        cdac=None if is_empty else float(np.std([mean for mean in by_class if mean is not None])),
        log_loss=float(np.mean(_log_loss(confidence))),
        class_confidence=tuple(by_class),
    )


@overload
def loss_difference(test_loss: float, train_loss: float) -> float: ...
@overload
def loss_difference(test_loss: float | None, train_loss: float | None) -> float | None: ...
def loss_difference(test_loss: float | None, train_loss: float | None) -> float | None:
    """Return LD, the loss difference abs(test loss - train loss) (Formula 6).

    Args:
        test_loss: Mean loss over the test set, None if it was not measured.
        train_loss: Mean loss of the mini-batches since the last evaluation, None if there is no
            such batch.

    Returns:
        The difference, None without one of the losses.

    Example:
        >>> loss_difference(0.5, 0.75)
        0.25
    """
    if test_loss is None or train_loss is None:
        return None
    return abs(test_loss - train_loss)


class Accumulator:
    """The metrics in one pass, batch by batch.

    The memory grows with the number of classes, not with the number of samples. For each class the
    accumulator keeps the size of C_c, the mean of conf_i over C_c, and the sum of the squared
    differences from that mean. Batches are merged with the pairwise update of Chan, Golub and
    LeVeque, which stays precise when nearly all confidences are 1. Sums of squares do not.

    Attributes:
        samples: The number of samples so far.

    Example:
        >>> accumulator = Accumulator()
        >>> accumulator.add([[0.75, 0.25], [0.5, 0.25]], labels=[0, 0])
        >>> accumulator.add([[1.0, 0.0]], labels=[1])
        >>> accumulator.metrics().class_confidence
        (0.625, None)
    """

    def __init__(self) -> None:
        self.samples = 0
        self._top1 = 0
        self._top5 = 0
        self._log_loss: float | None = 0.0
        self._count = self._mean = self._squares = np.zeros(0)

    def add(
        self,
        probabilities: ArrayLike | None,
        labels: ArrayLike,
        scores: ArrayLike | None = None,
    ) -> None:
        """Add one batch.

        Args:
            probabilities: Softmax outputs of shape (batch, classes), with the same number of
                classes in each batch. None, then in every batch, for a classifier without
                probabilities.
            labels: Labels of shape (batch,), whole numbers from 0 to classes - 1, of any type.
            scores: What ranks the classes, of shape (batch, classes). None: the probabilities.

        Raises:
            ValueError: The shapes do not match, or a label is not a class.
        """
        confidence, rank, y, classes = _confidence_and_rank(probabilities, labels, scores)
        if not self.samples:
            self._count, self._mean, self._squares = np.zeros((3, classes))
        is_correct = rank == 0
        self.samples += len(y)
        self._top1 += int(np.count_nonzero(is_correct))
        self._top5 += int(np.count_nonzero(rank < 5))
        if confidence is None or self._log_loss is None:
            self._log_loss = None
            return
        self._log_loss += float(_log_loss(confidence).sum())
        self._merge(confidence[is_correct], y[is_correct], classes)

    def _merge(self, confidence: NDArray[Any], y: NDArray[Any], classes: int) -> None:
        """Merge the count, mean and squares of a batch's correctly classified samples."""
        count = np.bincount(y, minlength=classes)
        mean = np.bincount(y, confidence, classes) / np.maximum(count, 1)
        squares = np.bincount(y, (confidence - mean[y]) ** 2, classes)
        total = self._count + count
        shift = mean - self._mean
        share = count / np.maximum(total, 1)
        self._squares = self._squares + squares + shift**2 * self._count * share
        self._mean = self._mean + shift * share
        self._count = total

    def metrics(self) -> Metrics:
        """Return the metrics of all batches so far.

        Raises:
            ValueError: There are no samples.
        """
        if not self.samples:
            raise ValueError("no samples: the metrics need at least one sample")
        top1, top5 = self._top1 / self.samples, self._top5 / self.samples
        if self._log_loss is None:
            return Metrics(self.samples, top1, top5, None, None, None, None)
        has_correct = self._count > 0
        count, mean = self._count[has_correct], self._mean[has_correct]
        ac = cd = cdac = None
        if len(count):
            ac = float(count @ mean / count.sum())
            squares = self._squares[has_correct].sum() + count @ (mean - ac) ** 2
            cd = float(np.sqrt(squares / count.sum()))
            cdac = float(np.std(mean))
        return Metrics(
            samples=self.samples,
            top1=top1,
            top5=top5,
            ac=ac,
            cd=cd,
            cdac=cdac,
            log_loss=self._log_loss / self.samples,
            class_confidence=tuple(
                mean if has else None for mean, has in zip(self._mean.tolist(), has_correct)
            ),
        )


def _confidence_and_rank(
    probabilities: ArrayLike | None, labels: ArrayLike, scores: ArrayLike | None
) -> tuple[NDArray[np.float64] | None, NDArray[Any], NDArray[np.int64], int]:
    """The confidence and the rank of each label, the labels as int, and the number of classes.

    The confidences are None without probabilities.
    """
    p = None if probabilities is None else np.asarray(probabilities)
    s = p if scores is None else np.asarray(scores)
    if s is None:
        raise ValueError("neither probabilities nor scores: the metrics need one of them")
    original = np.asarray(labels)
    if s.ndim != 2 or original.shape != s.shape[:1] or (p is not None and p.shape != s.shape):
        raise ValueError(
            "invalid shapes %s of the probabilities or scores and %s of the labels, expected "
            "(samples, classes) and (samples,)" % (s.shape, original.shape)
        )
    samples, classes = s.shape
    y = original.astype(np.int64)
    if samples and (y.min() < 0 or y.max() >= classes or (y != original).any()):
        is_invalid = (y < 0) | (y >= classes) | (y != original)
        raise ValueError(
            "invalid label %g, expected a class from 0 to %d, because the network has %d classes"
            % (original[is_invalid][0], classes - 1, classes)
        )
    index = np.arange(samples)
    # Every comparison with NaN is false, so ~(s < score) also counts a NaN, and always the label.
    rank = (~(s < s[index, y][:, None])).sum(axis=1) - 1
    confidence = None if p is None else p[index, y].astype(np.float64)
    return confidence, rank, y, classes


def _log_loss(confidence: NDArray[np.float64]) -> NDArray[np.float64]:
    losses: NDArray[np.float64] = -np.log(np.maximum(confidence, np.finfo(np.float32).tiny))
    return losses
