"""The spreads of all metrics over trials, computed when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lrbench_caffe.ranking.criteria import METRICS
from lrbench_caffe.ranking.noise import Spread, spread

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lrbench_caffe.trial import Evaluation, Trial

    SpreadsByName = Mapping[str, Spread]
else:
    SpreadsByName = Mapping  # Python 3.7 and 3.8 cannot subscript it


class Spreads(SpreadsByName):
    """The spread of each metric in METRICS over trials, by the metric's name.

    A ranking of tens of thousands of policies reads two or three of the metrics of most of them, so
    each is computed when it is read first.

    Args:
        trials: The trials; those without a Top-1 do not count.
        row: The attribute of a trial that has its metrics, "reported" or "best".
    """

    def __init__(self, trials: Sequence[Trial], row: str = "reported") -> None:
        self._trials = trials
        self._row = row
        self._measured: list[tuple[Trial, Evaluation]] | None = None
        self._spreads: dict[str, Spread] = {}

    def __getitem__(self, name: str) -> Spread:
        if name not in self._spreads:
            if name not in METRICS:
                raise KeyError(name)
            if self._measured is None:
                pairs = [(trial, getattr(trial, self._row)) for trial in self._trials]
                self._measured = [
                    (trial, row)
                    for trial, row in pairs
                    if row is not None and row.top1 is not None and row.top5 is not None
                ]
            self._spreads[name] = spread(self._values(name, self._measured))
        return self._spreads[name]

    def _values(self, name: str, measured: list[tuple[Trial, Evaluation]]) -> list[float | None]:
        if name == "n_params":
            return [trial.n_params for trial, _ in measured]
        field = "iteration" if name == "iterations" else name
        return [getattr(row, field) for _, row in measured]

    def __iter__(self) -> Iterator[str]:
        return iter(METRICS)

    def __len__(self) -> int:
        return len(METRICS)

    def __repr__(self) -> str:
        return repr(dict(self))
