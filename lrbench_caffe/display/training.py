"""The display of one training: a line for each evaluation and, on a terminal, a bar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrbench_caffe.display.bar import ProgressDisplay
from lrbench_caffe.display.console import format_duration, print_line, print_tables
from lrbench_caffe.display.speed import SpeedMeter
from lrbench_caffe.display.table import number, percent
from lrbench_caffe.display.tables import results
from lrbench_caffe.ranking import sets_remarks

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from lrbench_caffe.trial import Evaluation, Trial


class TrainingDisplay(ProgressDisplay):
    """Shows one training: a line for each evaluation, a moving bar on a terminal, and the results.

    The table of the results is printed on leaving the context.
    """

    def __init__(self, format: str = "table") -> None:
        """Create the display.

        Args:
            format: The format of the results, one of
                :data:`lrbench_caffe.display.formats.FORMATS`.
        """
        super().__init__()
        self._format = format
        self._speed_meter = SpeedMeter()
        self._top1: float | None = None
        self._best_top1: float | None = None
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
        elif kind == "row":
            self._show_row(content)
        elif kind == "end":
            self._trial = content
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
        status = "%d/%d%s  %.4g it/s%s  lr %.4g  loss %.4g" % (
            iteration,
            max_iter,
            "  %s left" % format_duration(seconds_left) if seconds_left else "",
            speed,
            self._top1_text(),
            progress["lr"],
            progress["loss"],
        )
        self("training", iteration, max_iter, status)

    def _top1_text(self) -> str:
        if self._top1 is None or self._best_top1 is None:
            return ""
        return "  Top-1 %s %%, best %s %%" % (percent(self._top1), percent(self._best_top1))

    def _show_row(self, row: Evaluation) -> None:
        if row.top1 is not None:
            self._top1 = row.top1
            self._best_top1 = max(row.top1, self._best_top1 or 0.0)
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
            )
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
