"""The display of one training: a line for each evaluation and, on a terminal, its progress.

Below the bar are the rate, the loss and Top-1, each with a sketch of its course.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lrbench_caffe import models
from lrbench_caffe.display.bar import ProgressDisplay
from lrbench_caffe.display.console import model_text, print_line, print_tables
from lrbench_caffe.display.meter import (
    Meter,
    count_text,
    course_line,
    left_text,
    share_of,
    speed_text,
)
from lrbench_caffe.display.sketch import sketch
from lrbench_caffe.display.speed import SpeedMeter
from lrbench_caffe.display.table import number, percent
from lrbench_caffe.display.tables import results
from lrbench_caffe.ranking import sets_remarks
from lrbench_caffe.trial import FINISHED

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from rich.text import Text

    from lrbench_caffe.trial import Evaluation, Trial


ROW_INDENT = 8  # the width of an iteration with its colon, "   100: "
CURVE_WIDTH = 24  # characters of a sketch
MAX_POINTS = 40 * CURVE_WIDTH  # of a course, which is then thinned


class TrainingDisplay(ProgressDisplay):
    """Shows one training: a line for each evaluation, a moving bar on a terminal, and the results.

    The table of the results is printed on leaving the context, and where the model is.
    """

    def __init__(self, format: str = "table") -> None:
        """Create the display.

        Args:
            format: The format of the results, one of
                :data:`lrbench_caffe.display.formats.FORMATS`.
        """
        super().__init__()
        self._meter = Meter("starting", None)
        self._format = format
        self._speed_meter = SpeedMeter()
        self._top1: float | None = None
        self._best_top1: float | None = None
        self._courses = {"rate": _Course(), "loss": _Course(), "Top-1 %": _Course()}
        self._trial: Trial | None = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, traceback)
        if self._trial is not None:
            print_tables(results([self._trial]), format=self._format)
            for sentence in sets_remarks([self._trial]):
                print_line(sentence, aside=self._format != "table")
            model = models.find(self._trial.id)
            if model is not None:
                print_line("model: " + model_text(model), aside=self._format != "table")

    def on_event(self, kind: str, content: Any) -> None:
        """Show an event of :func:`lrbench_caffe.study.process.run`."""
        if kind == "note":
            self.print_line("note: " + content)
        elif kind == "begin":
            setup = content.setup
            self.print_line(
                "%s on %s, seed %d, under %s (trial %s)"
                % (setup.network.name, setup.dataset.name, setup.seed, content.policy, content.id)
            )
        elif kind == "progress":
            self._show_progress(content)
        elif kind == "display":
            # In the words of Caffe's log, so that programs that read it find them.
            self.print_line("Iteration {iteration}, lr = {lr:g}, loss = {loss:g}".format(**content))
        elif kind == "row":
            self._show_row(content)
        elif kind == "end":
            self._trial = content
            self._meter = Meter("", None)
            if content.state == FINISHED and content.error:
                self.print_line(
                    "ended at iteration %d: %s" % (content.rows[-1].iteration, content.error)
                )
            self._show_other_heads(content.best)

    def _show_other_heads(self, best: Evaluation | None) -> None:
        """Print the Top-1 of the heads that the table does not show."""
        if best is not None and best.heads:
            heads = (
                "%s %s %%" % (name, "-" if top1 is None else percent(top1))
                for name, metrics in best.heads.items()
                for top1 in [metrics["top1"]]
            )
            self.print_line(
                "Top-1 of the other heads at iteration %d: %s" % (best.iteration, ", ".join(heads))
            )

    def _show_progress(self, progress: Mapping[str, Any]) -> None:
        iteration, max_iter = progress["iteration"], progress["max_iter"]
        speed, seconds_left = self._speed_meter.update(iteration, max_iter)
        self._courses["rate"].add(progress["lr"])
        self._courses["loss"].add(progress["loss"])
        self._meter = Meter(
            "training",
            share_of(iteration, max_iter),
            amount=count_text(iteration, max_iter),
            speed=speed_text(speed, "it"),
            left=left_text(seconds_left),
        )

    def _lines(self, width: int, height: int) -> list[Text]:
        lines = super()._lines(width, height)
        if not lines:
            return []
        best = "" if self._best_top1 is None else "best " + percent(self._best_top1)
        values = (
            ("rate", "%.4g", ""),
            ("loss", "%.4f", ""),
            ("Top-1 %", "%.2f", best),
        )
        rows = []
        for name, form, remark in values:
            course = self._courses[name]
            if course.last is not None:
                text = "  %-8s %8s" % (name, form % course.last)
                rows.append(course_line(text, course.sketch(), remark, width))
        return [*lines, *rows]

    def _top1_text(self) -> str:
        if self._top1 is None or self._best_top1 is None:
            return ""
        return "  Top-1 %s %%, best %s %%" % (percent(self._top1), percent(self._best_top1))

    def _show_row(self, row: Evaluation) -> None:
        if row.top1 is not None:
            self._top1 = row.top1
            self._best_top1 = max(row.top1, self._best_top1 or 0.0)
            self._courses["Top-1 %"].add(100 * row.top1)
        test_loss = ""
        if row.test_loss is not None:
            test_loss = ", %s %s" % (number(row.test_loss), row.measured_on)
        self.print_line(
            "%6d: lr %-8.4g loss %s train%s%s%s"
            % (
                row.iteration,
                row.lr,
                number(row.train_loss).rjust(6),
                test_loss,
                self._top1_text(),
                _other_sets_text(row),
            ),
            ROW_INDENT,
        )


def _other_sets_text(row: Evaluation) -> str:
    """The set of a row and the Top-1 on the other sets, if there are several."""
    if not row.other_sets:
        return ""
    others = (
        "%s %s" % (name, "-" if top1 is None else percent(top1) + " %")
        for name, metrics in row.other_sets.items()
        for top1 in [metrics["top1"]]
    )
    return " on %s; %s" % (row.measured_on, ", ".join(others))


class _Course:
    """The values of a number so far, thinned so that they never become many."""

    def __init__(self) -> None:
        self.last: float | None = None
        self._values: list[float] = []
        self._pending: list[float] = []  # less than a point
        self._per_point = 1

    def add(self, value: float) -> None:
        self.last = value
        self._pending.append(value)
        if len(self._pending) == self._per_point:
            self._values.append(sum(self._pending) / self._per_point)
            self._pending = []
        if len(self._values) == MAX_POINTS:
            pairs = zip(self._values[::2], self._values[1::2])
            self._values = [(first + second) / 2 for first, second in pairs]
            self._per_point *= 2

    def sketch(self) -> str:
        values = list(self._values)
        finite = [value for value in values if math.isfinite(value)]
        return sketch(values, CURVE_WIDTH, min([0.0, *finite]))
