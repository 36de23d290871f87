"""Plots with matplotlib: trained policies, learning rate schedules, and range tests."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Iterable, NamedTuple, Sequence

import matplotlib
import matplotlib.figure
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lrbench_caffe import files
from lrbench_caffe.display.printable import printable
from lrbench_caffe.errors import InputError
from lrbench_caffe.policies import parse_or_none
from lrbench_caffe.policies.catalogue import FAMILIES
from lrbench_caffe.report import look
from lrbench_caffe.report.curves import sample_schedule, trial_schedule, typical_length

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lrbench_caffe.display.protocols import RangeTest
    from lrbench_caffe.policies import Policy
    from lrbench_caffe.ranking.ranges import Curve
    from lrbench_caffe.trial import Trial

__all__ = [
    "check_path",
    "curves",
    "curves_figure",
    "drawn_length",
    "pyplot",
    "range_test",
    "rates",
    "rates_figure",
    "save",
]

TERMINAL_COLOURS = ("blue", "orange", "green", "red", "cyan", "magenta")
TERMINAL_HEIGHT = 24  # lines of a picture in the terminal
RATES_SIZE = (look.WIDTH, 4.5)  # inches
LABEL_WIDTH = 27  # characters of a policy beside a panel
POINTS = 5000  # of a learning rate curve
DEFAULT_LENGTH = 10000  # iterations to draw for policies without a length of their own
MAX_ITERATION = 2**31 - 1  # Caffe counts iterations with 32 bits
MAX_RATE = 3.4e38  # the largest float32, in which Caffe keeps the learning rate
if not os.environ.get("MPLBACKEND", "").startswith("module://"):  # that of a notebook stays
    matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  (after the backend is chosen: servers have no window)


class _RateCurve(NamedTuple):
    """A policy's learning rates (lr) at some iterations (t), and its label."""

    label: str
    t: np.ndarray
    lr: np.ndarray


class Picture(matplotlib.figure.Figure):
    """A figure that a notebook shows, whichever backend matplotlib uses there."""

    def _repr_png_(self) -> bytes:
        return _encoded(self, "png", None)


def curves(trials: Sequence[Trial], path: str, title: str) -> None:
    """Write the figure of :func:`curves_figure` to a file.

    Args:
        trials: The trials with their rows. Trials without a Top-1 are left out.
        path: The picture to write; its extension chooses the format.
        title: The first line of the picture's title.

    Raises:
        InputError: No trial has a Top-1, or the picture cannot be written.
    """
    save(curves_figure(trials, title), path)


@pyplot.rc_context(look.LOOK)
def curves_figure(trials: Sequence[Trial], title: str) -> Picture:
    """Plot the learning rate and the Top-1 of trials against the iteration.

    Each family of functions has a row of two panels: learning rates left, Top-1 right.

    Args:
        trials: The trials with their rows. Trials without a Top-1 are left out.
        title: The first line of the picture's title.

    Raises:
        InputError: No trial has a Top-1.
    """
    trials = [trial for trial in trials if trial.top1_curve]
    if not trials:
        raise InputError("there is nothing to draw: no trial has been evaluated yet")
    families = _by_family(trials)
    heights = [0.4 + 0.36 * max(5, len(members)) for _, members in families]
    figure = _new_picture((look.WIDTH, 0.5 + sum(heights)))
    panels = figure.subplots(
        len(families), 2, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    best = 100 * max(top1 for trial in trials for _, top1 in trial.top1_curve)
    for (name, members), (rates, accuracy) in zip(families, panels):
        for n, trial in enumerate(members):
            _draw_trial(trial, rates, accuracy, n)
        rates.set_ylabel("%s\nlearning rate" % name)
        rates.set_ylim(bottom=0)
        accuracy.set_ylabel("Top-1 (%)")
        accuracy.set_ylim(best - 12, best + 0.6)  # where the policies differ
        accuracy.axhline(best, color="gray", linewidth=0.8, linestyle=":")
        accuracy.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
        for panel in (rates, accuracy):
            look.style(panel)
    for panel in panels[-1]:
        panel.set_xlabel("iteration")
    figure.suptitle(
        "%s\n%s; large mark: the best evaluation of a policy; dotted line: the best of all"
        % (_plain(title), _top1_label(trials))
    )
    figure.tight_layout()
    return figure


def _new_picture(size: tuple[float, float]) -> Picture:
    """A figure of this width and height in inches, which matplotlib does not keep."""
    figure = Picture(figsize=size)
    FigureCanvasAgg(figure)
    return figure


def _top1_label(trials: Iterable[Trial]) -> str:
    """The label of an axis with the Top-1 on the sets that decide."""
    names = sorted({row.measured_on for trial in trials for row in trial.rows})
    return "Top-1 (%%) on the %s set" % _plain(", ".join(names)) if names else "Top-1 (%)"


def _by_family(trials: list[Trial]) -> list[tuple[str, list[Trial]]]:
    """The trials of each family that has any, in the order of FAMILIES."""
    *paper, others = FAMILIES
    families = []
    for name in paper:
        families.append((name, [trial for trial in trials if trial.function in FAMILIES[name]]))
    members = [trial for _, family in families for trial in family]
    families.append((others, [trial for trial in trials if trial not in members]))
    return [(name, family) for name, family in families if family]


def _draw_trial(trial: Trial, rates: Axes, accuracy: Axes, n: int) -> None:
    """Draw the n-th trial of a family: its learning rates, and its Top-1 with a mark."""
    schedule = trial_schedule(
        parse_or_none(trial.policy), [(row.iteration, row.lr) for row in trial.rows]
    )
    t, lr = sample_schedule(schedule, trial.rows[-1].iteration, POINTS)
    line = dict(look.line_look(n), linewidth=1.3)
    rates.plot(t, lr, **line)
    best = trial.deciding_summary
    assert best is not None, "curves() leaves out trials without a Top-1"
    text = "%s  (%.2f)" % (trial.policy, 100 * best.top1)
    label = _plain_lines(textwrap.fill(text, LABEL_WIDTH, break_long_words=False))
    iterations, top1 = zip(*trial.top1_curve)
    mark = look.marked(n, len(iterations))
    accuracy.plot(iterations, [100 * share for share in top1], label=label, **line, **mark)
    mark = dict(color=line["color"], marker=mark["marker"], markersize=7, markeredgecolor="white")
    accuracy.plot([best.iterations], [100 * best.top1], **mark)


def rates(
    policies: Sequence[Policy],
    max_iter: int | None = None,
    out: str | None = None,
    terminal: bool = False,
) -> None:
    """Draw the learning rates of policies against the iteration.

    A policy with memory is drawn as it is before it lowers its rate.

    Args:
        policies: The policies, in the order of their legend.
        max_iter: The last iteration to draw; None for :func:`drawn_length`.
        out: A picture to write; its extension chooses the format.
        terminal: Whether to draw in the terminal. With neither out nor terminal, a window opens.

    Raises:
        InputError: A rate is beyond Caffe's numbers, the picture cannot be written, or no window
            can be opened.
    """
    if out:
        check_path(out)
    if terminal:
        _draw_in_terminal(_rate_curves(policies, max_iter))
    if out:
        save(rates_figure(policies, max_iter), out)
    elif not terminal:
        _show_window(_rate_curves(policies, max_iter))


@pyplot.rc_context(look.LOOK)
def rates_figure(policies: Sequence[Policy], max_iter: int | None = None) -> Picture:
    """Plot the learning rates of policies against the iteration, as :func:`rates` does.

    Args:
        policies: The policies, in the order of the legend.
        max_iter: The last iteration to draw; None for :func:`drawn_length`.

    Raises:
        InputError: A rate is beyond Caffe's numbers.
    """
    figure = _new_picture(RATES_SIZE)
    _draw_rates(figure, figure.subplots(), _rate_curves(policies, max_iter))
    return figure


def _plain(text: str) -> str:
    """A text that matplotlib draws as it is: a name with two dollar signs is not a formula."""
    return printable(text).replace("$", r"\$")


def _plain_lines(text: str) -> str:
    return "\n".join(map(_plain, text.split("\n")))


def drawn_length(policies: Sequence[Policy]) -> int:
    """Return the number of iterations that shows the shape of each of the policies."""
    lengths = [typical_length(policy) for policy in policies]
    return min(max(filter(None, lengths), default=DEFAULT_LENGTH), MAX_ITERATION)


def _rate_curves(policies: Sequence[Policy], max_iter: int | None) -> list[_RateCurve]:
    last = max_iter or drawn_length(policies)
    return [_rate_curve(policy, last) for policy in policies]


def _rate_curve(policy: Policy, last: int) -> _RateCurve:
    label = "%s, before it lowers its rate" % policy if policy.has_memory else str(policy)
    t, lr = sample_schedule(policy.schedule(None), int(min(last, policy.end)), POINTS)
    if lr.max() > MAX_RATE:
        raise InputError(
            "%s: its rate reaches %g, beyond the largest of Caffe's learning rates, %g: "
            "give lower rates" % (policy, lr.max(), MAX_RATE)
        )
    return _RateCurve(label, t, lr)


def _draw_in_terminal(lines: list[_RateCurve]) -> None:
    import plotext  # nothing else needs it

    plotext.clear_figure()
    plotext.theme("clear")
    width, height = shutil.get_terminal_size()
    plotext.plot_size(width, min(height - 3, TERMINAL_HEIGHT))
    single = len(lines) == 1
    marked = list(zip(lines, itertools.cycle("xo+*#@"), itertools.cycle(TERMINAL_COLOURS)))
    for line, marker, colour in marked:
        mark = "braille" if single else marker
        plotext.plot(line.t.tolist(), line.lr.tolist(), marker=mark, color=colour)
    plotext.ylim(0, 1.05 * max(line.lr.max() for line in lines))
    plotext.xlabel("iteration")
    plotext.ylabel("learning rate")
    picture = plotext.build()
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    print(picture if coloured else plotext.uncolorize(picture))
    for line, marker, colour in marked:
        label = printable(line.label if single else "%s  %s" % (marker, line.label))
        print(plotext.colorize(label, colour) if coloured else label)


def _draw_rates(figure: Figure, panel: Axes, lines: list[_RateCurve]) -> None:
    columns, width = (1, 100) if len(lines) < 4 else (2, 50)
    for n, line in enumerate(lines):
        label = _plain_lines(textwrap.fill(line.label, width))
        panel.plot(line.t, line.lr, label=label, linewidth=1.4, **look.line_look(n))
    panel.set_xlabel("iteration")
    panel.set_ylabel("learning rate")
    panel.set_ylim(bottom=0)
    look.style(panel)
    panel.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, ncol=columns)
    figure.tight_layout()


def _show_window(lines: list[_RateCurve]) -> None:
    try:
        pyplot.switch_backend("TkAgg")
        figure, panel = pyplot.subplots(figsize=RATES_SIZE, num="lrbench plot")
    except Exception as error:  # matplotlib and Tk raise several types without a display
        reason = error if os.environ.get("DISPLAY") else "DISPLAY is not set"
        raise InputError(
            "cannot open a window (%s): give --out FILE.png, or --terminal" % reason
        ) from None
    _draw_rates(figure, panel, lines)
    pyplot.show()


@pyplot.rc_context(look.LOOK)
def range_test(test: RangeTest, path: str) -> None:
    """Plot a range test as in Figure 3 of the paper: Top-1 against the constant rate.

    There is a curve for each number of iterations. A hollow mark is a training that diverged.
    Dashed vertical lines bound the good range.

    Args:
        test: A :class:`lrbench_caffe.evaluator.range_test.RangeTest`.
        path: The picture to write; its extension chooses the format.

    Raises:
        InputError: The picture cannot be written.
    """
    figure, panel = pyplot.subplots(figsize=(look.WIDTH, 4.5))
    for n, curve in enumerate(test.curves):
        epochs = "\n(%.3g epochs)" % (curve.iteration / test.epoch) if test.epoch else ""
        _draw_range_curve(panel, curve, n, "%d iterations%s" % (curve.iteration, epochs))
    title = test.title
    if test.good:
        title += ": good from %r to %r" % (test.good.low, test.good.high)
        for bound in {test.good.low, test.good.high}:
            panel.axvline(bound, color="tab:red", linewidth=1, linestyle="--")
    panel.set_xscale("log")
    panel.set_xlabel(
        "learning rate while it grows" if test.swept else "constant learning rate k0 (FIX)"
    )
    panel.set_ylabel(_top1_label(test.trials))
    look.style(panel)
    panel.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    panel.set_title(_plain(title))
    figure.tight_layout()
    save(figure, path)


def _draw_range_curve(panel: Axes, curve: Curve, n: int, label: str) -> None:
    line, mark = look.line_look(n), look.marked(n, len(curve.points))["marker"]
    color = line["color"]
    k0 = [point.k0 for point in curve.points]
    top1 = [100 * point.top1 for point in curve.points]
    panel.plot(k0, top1, linewidth=1.3, **line)
    # The legend shows the line with its mark; the points of the line have marks of two kinds.
    panel.plot([], [], linewidth=1.3, marker=mark, markersize=5, label=label, **line)
    for diverged, fill in ((False, color), (True, "white")):
        marks = [n for n, point in enumerate(curve.points) if point.diverged == diverged]
        panel.plot(
            [k0[n] for n in marks],
            [top1[n] for n in marks],
            mark,
            color=color,
            markerfacecolor=fill,
            markersize=5,
        )


def check_path(path: str) -> None:
    """Check, before anything is trained, that :func:`save` can write a picture to a path.

    Raises:
        InputError: The extension is not a picture's, or the folder cannot be written to.
    """
    extensions = sorted(FigureCanvasAgg.get_supported_filetypes())
    if _extension(path) not in extensions:
        raise InputError(
            "cannot write the picture to %s: unknown file type, expected a name that ends in one "
            "of %s" % (path, ", ".join(extensions))
        )
    with files.reported_errors(path, "picture", "name another file with --out"):
        files.check_writable(path)


def save(figure: Figure, path: str) -> None:
    """Write a figure to a file and close it.

    Raises:
        InputError: The picture cannot be written.
    """
    # The same figure gives the same file: an SVG would have random ids and the time.
    metadata = {"Date": None} if _extension(path) == "svg" else None
    try:
        picture = _encoded(figure, _extension(path), metadata)
    except ValueError as error:
        raise InputError(
            "cannot write the picture to %s (%s): name another file" % (path, error)
        ) from None
    finally:
        pyplot.close(figure)
    files.write(path, picture, "picture")


def _encoded(figure: Figure, format: str, metadata: dict[str, None] | None) -> bytes:
    """A figure in the format of a picture file."""
    picture = io.BytesIO()
    with pyplot.rc_context(dict(look.LOOK, **{"svg.hashsalt": "lrbench"})):
        figure.savefig(picture, format=format, dpi=look.DPI, metadata=metadata)
    return picture.getvalue()


def _extension(path: str) -> str:
    return os.path.splitext(path)[1][1:].lower()
