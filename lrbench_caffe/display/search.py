"""The display of a search: its stage, what is tried and why, the best so far, and the budget.

A search trains in rounds. Its display lasts for the whole search::

    with SearchDisplay() as search:
        search.show(SearchStatus("range", "8 constant rates", "...", None, None, 0, 9000))
        with search.round() as display:  # a StudyDisplay, one for each round
            study.train(pool, display, jobs)
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, Optional

from lrbench_caffe.display.meter import (
    Meter,
    count_text,
    left_text,
    meter_lines,
    plain_line,
    share_of,
    speed_text,
)
from lrbench_caffe.display.screen import SCREEN, Drawing
from lrbench_caffe.display.study import StudyDisplay
from lrbench_caffe.display.table import percent

if TYPE_CHECKING:
    from rich.text import Text

    from lrbench_caffe.ranking import Spread


class SearchStatus(NamedTuple):
    """Where a search is.

    Attributes:
        stage: The stage, such as "coarse".
        tried: What it tries, such as "13 policies, 150 iterations each".
        why: The reason, such as "one of each function".
        incumbent: The text of the best policy of the whole search; None as long as there is none.
        top1: Its Top-1 over its seeds, on the set that decides; None if it is from the database and
            was not trained yet.
        spent: The iterations spent before the round that runs now.
        budget: The iterations that may be spent; infinite without a limit.
    """

    stage: str
    tried: str
    why: str
    incumbent: Optional[str] = None
    top1: Optional[Spread] = None
    spent: int = 0
    budget: float = float("inf")


class SearchDisplay(Drawing):
    """Shows a search from its beginning to its end.

    On a terminal it draws the status of the search, and below it the round of trainings that runs.
    Elsewhere only the lines of the rounds are printed.
    """

    def __init__(self) -> None:
        self._status: SearchStatus | None = None
        self._round: _Round | None = None
        self._started = time.monotonic()
        self._iterations = 0  # of the rounds that have ended
        self._counted = 0  # of these, those that the status counts as spent

    def show(self, status: SearchStatus) -> None:
        """Show another status. What it has spent must not include the round that runs."""
        self._status, self._counted = status, self._iterations
        SCREEN.draw()

    def round(self) -> StudyDisplay:
        """Return the display of a round of trainings, a context manager."""
        return _Round(self)

    def begin_round(self, display: _Round) -> None:
        """Draw a round below the status."""
        self._round = display

    def end_round(self, display: _Round) -> None:
        """Stop to draw a round."""
        if self._round is display:
            self._iterations += display.iterations
            self._round = None

    def _lines(self, width: int, height: int) -> list[Text]:
        status, current = self._status, self._round
        if status is None:
            return [] if current is None else current.search_lines(width, height, [], [])
        meters = [self._budget_meter(status, current)]
        sentences = [
            "%s: %s (%s)" % (status.stage, status.tried, status.why),
            _incumbent_text(status),
        ]
        if current is not None:
            return current.search_lines(width, height, meters, sentences)
        lines = [plain_line(sentence, width) for sentence in sentences]
        return [*meter_lines(meters, width), *lines][:height]

    def _budget_meter(self, status: SearchStatus, current: _Round | None) -> Meter:
        trained = self._iterations + (current.iterations if current else 0)
        spent = min(status.spent + trained - self._counted, status.budget)
        total = None if status.budget == float("inf") else status.budget
        speed = trained / max(time.monotonic() - self._started, 1e-9)
        left = (total - spent) / speed if speed and total is not None else None
        return Meter(
            "budget",
            share_of(spent, total),
            amount=count_text(spent, total),
            speed=speed_text(speed, "it"),
            left=left_text(left),
        )


class _Round(StudyDisplay):
    """The display of a round, which the search draws."""

    def __init__(self, search: SearchDisplay) -> None:
        super().__init__()
        self._search = search

    @property
    def iterations(self) -> int:
        """The iterations that the round has trained so far."""
        return self._iterations

    def _show(self) -> None:
        self._search.begin_round(self)
        SCREEN.draw()

    def _hide(self) -> None:
        self._search.end_round(self)

    def search_lines(
        self, width: int, height: int, meters: list[Meter], sentences: list[str]
    ) -> list[Text]:
        """The lines of the search with this round."""
        with self._lock:
            return self._picture(width, height, meters, sentences)


def _incumbent_text(status: SearchStatus) -> str:
    if status.incumbent is None:
        return "best of the search: nothing measured yet"
    if status.top1 is None:
        return "best in the database, not trained here yet: %s" % status.incumbent
    return "best of the search: Top-1 %s %%, %s" % (percent.spread(status.top1), status.incumbent)
