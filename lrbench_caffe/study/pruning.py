"""Pruning: which trials need not be trained to their end, hopeless beside others at the same iteration or by themselves."""

import math
import threading
from bisect import insort
from collections import defaultdict

from lrbench_caffe.trial import DIVERGED, PRUNED

OTHERS = 3  # trials that got as far, at least, before one is hopeless beside them
EVALUATIONS = 2  # in a row that are no better than guessing: such a training is stuck


class Pruner:
    """Compares the highest Top-1 that a trial has reached with the median of what the others had reached at the same iteration.

    Only trials of the same network and dataset are compared.  The best so far counts, since under a cyclic policy accuracy comes
    and goes.  A training that diverged to a constant loss, as Caffe's softmax has it, is hopeless too.
    """

    def __init__(self, margin, reached=()):
        """margin: how far below the median is hopeless, as a share of 1.

        reached: (network's hash, dataset's name, iteration, highest Top-1 so far) of trials that have ended.
        """
        self._margin, self._lock = margin, threading.Lock()
        self._reached = defaultdict(
            list
        )  # (network, dataset, iteration): the highest Top-1 so far of each trial, in order
        self._running = {}  # the trial's id: (its network, its dataset, its highest Top-1 so far)
        for network, dataset, iteration, top1 in reached:
            insort(self._reached[network, dataset, iteration], top1)

    def on_event(self, trial_id, kind, content):
        """An event of a trial, as :func:`lrbench_caffe.study.process.run` tells it.

        Returns (PRUNED, why) when the trial is hopeless, else None.
        """
        with self._lock:
            if kind == "begin":
                self._running[trial_id] = (
                    content.setup.network.hash,
                    content.setup.dataset.name,
                    0.0,
                )
            elif kind == "row":
                network, dataset, best = self._running[trial_id]
                best = max(best, content.top1)
                self._running[trial_id] = network, dataset, best
                return self._judge(
                    self._reached[network, dataset, content.iteration], content.iteration, best
                )
            elif kind == "end":
                self._running.pop(trial_id, None)
        return None

    def _judge(self, others, iteration, best):
        median = others[len(others) // 2] if others else 0.0
        hopeless = len(others) >= OTHERS and best < median - self._margin
        count = len(others)
        insort(others, best)
        if not hopeless:
            return None
        return PRUNED, (
            "at iteration %d its best Top-1, %.2f %%, was more than %.4g points below %.2f %%, the median of %d others"
            % (iteration, 100 * best, 100 * self._margin, 100 * median, count)
        )


class StuckDetector:
    """Sees trainings that diverged without a loss that is no number: Caffe's softmax bounds it, and units that died stay dead.

    Such a one tells the classes apart no better than guessing from its first evaluations on, and its test loss, no better either,
    does not fall any more or is above that of the untrained net; where the rate is only too small it falls from there.
    """

    def __init__(self):
        self._lock, self._losses = (
            threading.Lock(),
            {},
        )  # by the trial's id, while it is no better than guessing
        self._classes, self._untrained = {}, {}

    def on_event(self, job, kind, content):
        """An event of a trial, as a watcher of :func:`lrbench_caffe.study.go_on`; (DIVERGED, why) when it is stuck."""
        with self._lock:
            if kind == "begin":
                self._classes[job.id], self._untrained[job.id], self._losses[job.id] = (
                    content.setup.classes,
                    math.inf,
                    [],
                )
            elif kind == "end":
                self._losses.pop(job.id, None)
            elif kind == "row" and not content.iteration:
                self._untrained[job.id] = content.test_loss
            elif kind == "row" and job.id in self._losses:
                return self._judge(job.id, content)
        return None

    def _judge(self, trial_id, row):
        classes, losses = self._classes[trial_id], self._losses[trial_id]
        if classes is None or row.top1 > 1.5 / classes or row.test_loss < 0.999 * math.log(classes):
            del self._losses[trial_id]  # it learns
            return None
        losses.append(row.test_loss)
        if len(losses) < EVALUATIONS or row.test_loss < min(
            [self._untrained[trial_id]] + losses[:-1]
        ):
            return None
        return DIVERGED, (
            "at iteration %d it is still no better than guessing: Top-1 %.2f %%, test loss %.4g"
            % (row.iteration, 100 * row.top1, row.test_loss)
        )
