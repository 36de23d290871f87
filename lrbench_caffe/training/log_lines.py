"""The values of Caffe's own log, every `display` iterations: the rate and the averaged loss."""

from __future__ import annotations

import collections
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from caffe.proto import caffe_pb2

LINES = 5  # between two evaluations, if the solver does not have a display interval


class LogLines:
    """Emits a "display" event for each iteration at which Caffe writes its rate and its loss.

    As in Caffe, the loss is the mean over the mini-batches of an iteration, and then over the last
    ``average_loss`` iterations since the training was started or resumed.

    Attributes:
        interval: The iterations between two events.
    """

    def __init__(
        self,
        param: caffe_pb2.SolverParameter,
        test_interval: int,
        emit: Callable[[str, Any], object],
    ) -> None:
        """Read the intervals from a resolved SolverParameter.

        Args:
            param: The SolverParameter. If it does not have a display interval, there are LINES
                events between two evaluations.
            test_interval: The iterations between two evaluations.
            emit: Receives the events.
        """
        self.interval = param.display or max(1, test_interval // LINES)
        self._iter_size, self._emit = param.iter_size, emit
        self._losses: collections.deque[float] = collections.deque(maxlen=param.average_loss)

    def record(self, iteration: int, lr: float, losses: Sequence[float]) -> None:
        """Record iterations, of which only the first one can be displayed.

        Args:
            iteration: The first iteration.
            lr: Its learning rate.
            losses: The losses of all mini-batches, of this iteration and those after it.
        """
        size = self._iter_size
        for start in range(0, len(losses), size):
            self._losses.append(math.fsum(losses[start : start + size]) / size)
            if start == 0 and iteration % self.interval == 0 and math.isfinite(self._losses[-1]):
                loss = math.fsum(self._losses) / len(self._losses)
                self._emit("display", {"iteration": iteration, "lr": lr, "loss": loss})
