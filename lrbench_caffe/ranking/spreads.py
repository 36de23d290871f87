"""The spreads of all metrics over trials, computed when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lrbench_caffe.ranking.criteria import METRICS
from lrbench_caffe.ranking.noise import Spread, spread

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lrbench_caffe.trial import Summary, Trial

    SpreadsByName = Mapping[str, Spread]
else:
    SpreadsByName = Mapping  # Python 3.7 and 3.8 cannot subscript it


class Spreads(SpreadsByName):
    """The spread of each metric in METRICS over trials, by the metric's name.

    A ranking of tens of thousands of policies reads two or three of the metrics of most of them, so
    each is computed when it is read first.

    Args:
        trials: The trials; those without a summary do not count.
        summary: The attribute of a trial that has its metrics.
    """

    def __init__(self, trials: Sequence[Trial], summary: str = "summary") -> None:
        self._trials = trials
        self._summary = summary
        self._summaries: list[Summary] | None = None
        self._spreads: dict[str, Spread] = {}

    def __getitem__(self, name: str) -> Spread:
        if name not in self._spreads:
            if name not in METRICS:
                raise KeyError(name)
            if self._summaries is None:
                summaries = (getattr(trial, self._summary) for trial in self._trials)
                self._summaries = [summary for summary in summaries if summary]
            values = [getattr(summary, name) for summary in self._summaries]
            self._spreads[name] = spread(values)
        return self._spreads[name]

    def __iter__(self) -> Iterator[str]:
        return iter(METRICS)

    def __len__(self) -> int:
        return len(METRICS)

    def __repr__(self) -> str:
        return repr(dict(self))
