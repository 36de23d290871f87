"""The paper's metrics of one evaluation (section III, Formulas 3 to 6), from softmax outputs and labels.

The same numbers come in two ways: :func:`from_arrays` reads as the formulas do and needs all probabilities at once;
:class:`Accumulator` sees them batch by batch and remembers a few numbers for each class.  They agree to 1e-12.
"""

from typing import NamedTuple, Optional, Tuple

import numpy as np


class Metrics(NamedTuple):
    """The metrics of one pass over a test set.

    top1, top5: accuracies as shares of 1; ac, cd, cdac: average confidence, confidence deviation and confidence deviation across
    classes, None when no sample is classified correctly; log_loss: the mean of -log(confidence) over all samples, the value of
    Caffe's SoftmaxWithLoss, clipped as there at the smallest normal float32; class_confidence: for each class the mean confidence
    of its samples that are classified correctly, None where there are none: CDAC is their deviation.
    """

    samples: int
    top1: float
    top5: float
    ac: Optional[float]
    cd: Optional[float]
    cdac: Optional[float]
    log_loss: float
    class_confidence: Tuple[Optional[float], ...] = ()


def from_arrays(probabilities, labels) -> Metrics:
    """Metrics from probabilities of shape (samples, classes) and labels of shape (samples,).

    Raises ValueError when the shapes do not fit, no sample is given, or a label is no class.
    """
    confidence, rank, labels, classes = _read(probabilities, labels)
    if not len(labels):
        raise ValueError("no samples: the metrics need at least one")
    correct = confidence[rank == 0]  # conf_i over C
    classes_of_correct = labels[rank == 0]
    by_class = [correct[classes_of_correct == c].mean() for c in np.unique(classes_of_correct)]
    none = not len(correct)
    return Metrics(
        samples=len(labels),
        top1=float(np.mean(rank == 0)),
        top5=float(np.mean(rank < 5)),
        ac=None if none else float(np.mean(correct)),
        cd=None if none else float(np.std(correct)),
        cdac=None if none else float(np.std(by_class)),
        log_loss=float(np.mean(_log_loss(confidence))),
        class_confidence=tuple(
            float(correct[classes_of_correct == c].mean())
            if (classes_of_correct == c).any()
            else None
            for c in range(classes)
        ),
    )


def loss_difference(test_loss, train_loss) -> Optional[float]:
    """LD, the absolute difference of the two losses (Formula 6); None before there is a train loss."""
    return None if train_loss is None else abs(test_loss - train_loss)


class Accumulator:
    """Metrics in one pass, batch by batch, in memory that grows with the number of classes and not of samples.

    For each class it keeps how many samples are correct, the mean of their confidences and the sum of squared differences from
    that mean; batches are merged by the pairwise update of Chan, Golub and LeVeque, which does not lose the digits that sums of
    squares lose when nearly all confidences are 1.
    """

    def __init__(self):
        self.samples = 0
        self._top1 = self._top5 = 0
        self._log_loss = 0.0
        self._count = self._mean = self._squares = np.zeros(0)

    def add(self, probabilities, labels):
        """One batch; shapes and errors as in :func:`from_arrays`."""
        confidence, rank, labels, classes = _read(probabilities, labels)
        if not self.samples:
            self._count, self._mean, self._squares = np.zeros((3, classes))
        correct = rank == 0
        self.samples += len(labels)
        self._top1 += int(np.count_nonzero(correct))
        self._top5 += int(np.count_nonzero(rank < 5))
        self._log_loss += float(_log_loss(confidence).sum())
        self._merge(labels[correct], confidence[correct], classes)

    def _merge(self, labels, confidence, classes):
        count = np.bincount(labels, minlength=classes)
        mean = np.bincount(labels, confidence, classes) / np.maximum(count, 1)
        squares = np.bincount(labels, (confidence - mean[labels]) ** 2, classes)
        total = self._count + count
        shift = mean - self._mean
        share = count / np.maximum(total, 1)
        self._squares = self._squares + squares + shift**2 * self._count * share
        self._mean = self._mean + shift * share
        self._count = total

    def metrics(self) -> Metrics:
        """The metrics of all batches so far.  Raises ValueError before the first."""
        if not self.samples:
            raise ValueError("no samples: the metrics need at least one")
        seen = self._count > 0
        count, mean = self._count[seen], self._mean[seen]
        ac = cd = cdac = None
        if len(count):
            ac = float(count @ mean / count.sum())
            cd = float(
                np.sqrt((self._squares[seen].sum() + count @ (mean - ac) ** 2) / count.sum())
            )
            cdac = float(np.std(mean))
        return Metrics(
            self.samples,
            self._top1 / self.samples,
            self._top5 / self.samples,
            ac,
            cd,
            cdac,
            self._log_loss / self.samples,
            tuple(m if s else None for m, s in zip(self._mean.tolist(), seen)),
        )


def _read(probabilities, labels):
    """The label's confidence and rank (0: the most probable class) for each sample, the labels as int, the number of classes."""
    probabilities = np.asarray(probabilities)
    given = np.asarray(labels)
    if probabilities.ndim != 2 or given.shape != probabilities.shape[:1]:
        raise ValueError(
            "probabilities of shape (samples, classes) and as many labels are needed, not %s and %s"
            % (probabilities.shape, given.shape)
        )
    classes = probabilities.shape[1]
    labels = given.astype(np.int64)
    if len(labels) and (labels.min() < 0 or labels.max() >= classes or (labels != given).any()):
        raise ValueError(
            "label %g is no class: the network tells %d classes apart, 0 to %d"
            % (
                given[(labels < 0) | (labels >= classes) | (labels != given)][0],
                classes,
                classes - 1,
            )
        )
    own = probabilities[np.arange(len(labels)), labels]
    # Among equals the first class counts as the more probable, as arg max has it; a NaN is never more probable than anything.
    ahead = ~(probabilities < own[:, None])
    ahead &= (probabilities != own[:, None]) | (np.arange(classes) < labels[:, None])
    return own.astype(np.float64), ahead.sum(axis=1), labels, classes


def _log_loss(confidence):
    return -np.log(np.maximum(confidence, np.finfo(np.float32).tiny))
