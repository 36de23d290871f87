"""Pictures with matplotlib: trials' learning rate and accuracy against the iteration, and policies by themselves."""

import itertools
import os
import sys
import textwrap

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lrbench_caffe.errors import InputError
from lrbench_caffe.policies import parse_or_none
from lrbench_caffe.report.curves import measured, reach, thinned

POINTS = 5000  # of a curve
LARGEST = 3.4e38  # that a float32 holds
matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  (the backend is chosen first: a server has no window)

FAMILIES = (  # the classes of section II, the cyclic ones in two so that no panel has too many lines
    ("constant and decaying", ("FIX", "STEP", "NSTEP", "EXP", "INV", "POLY")),
    ("triangular cycles", ("TRI", "TRI2", "TRIEXP")),
    ("sine and cosine cycles", ("SIN", "SIN2", "SINEXP", "COS")),
)


def curves(trials, path, title):
    """Write a picture of trials: a row of panels for each family of functions, learning rate left and Top-1 right.

    Trials without rows are left out.  Raises InputError when there are none with, or the picture cannot be written.
    """
    trials = [trial for trial in trials if trial.rows]
    if not trials:
        raise InputError("there is nothing to draw: no trial has been evaluated")
    families = [
        (name, [t for t in trials if t.function in functions]) for name, functions in FAMILIES
    ]
    drawn = [trial for _, members in families for trial in members]
    families.append(("beyond the 13", [trial for trial in trials if trial not in drawn]))
    families = [(name, members) for name, members in families if members]
    figure, panels = pyplot.subplots(
        len(families), 2, figsize=(13, 3.4 * len(families)), sharex=True, squeeze=False
    )
    best = max(row.top1 for trial in trials for row in trial.rows)
    for (name, members), (rates, accuracy) in zip(families, panels):
        colors = pyplot.get_cmap("tab10")
        for n, trial in enumerate(
            members
        ):  # the later ones dashed, since cycles coincide before they decay
            _draw(trial, rates, accuracy, colors(n), "-" if n == 0 else (0, (4, 3)))
        rates.set_ylabel("%s\nlearning rate" % name)
        accuracy.set_ylabel("Top-1 (%)")
        accuracy.set_ylim(
            100 * best - 12, 100 * best + 0.6
        )  # where policies differ; what is below is no contest
        accuracy.axhline(100 * best, color="gray", linewidth=0.8, linestyle=":")
        accuracy.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
        for panel in (rates, accuracy):
            _open(panel)
    for panel in panels[-1]:
        panel.set_xlabel("iteration")
    figure.suptitle(
        "%s\ndots: a policy's best evaluation; dotted line: the best of all" % title, fontsize=11
    )
    figure.tight_layout(rect=(0, 0, 1, 0.99))
    save(figure, path)


def rates(policies, max_iter=None, out=None, terminal=False):
    """Draw policies' learning rates over max_iter iterations (None: :func:`span`) to the file out, the terminal, or a window.

    A policy with memory is drawn as it is until it lowers its rate.  Raises InputError when the file cannot be written or no
    window opened, and for rates beyond Caffe's numbers.
    """
    last = max_iter or span(policies)
    curves = []
    for policy in policies:
        label = "%s, before it lowers its rate" % policy if policy.has_memory else str(policy)
        curves.append((label, *thinned(policy.schedule(None), int(min(last, policy.end)), POINTS)))
        if curves[-1][2].max() > LARGEST:
            raise InputError(
                "%s goes up to %g, and Caffe's learning rates to %g: give smaller ones"
                % (policy, curves[-1][2].max(), LARGEST)
            )
    if terminal:
        _in_terminal(curves)
    if out or not terminal:
        _in_picture(curves, out)


def range_test(test, path):
    """Write figure 3 of the paper for a :class:`lrbench_caffe.evaluator.range_test.RangeTest`: Top-1 against the constant rate.

    A curve for each number of iterations; hollow: the training diverged; dashed lines: the good range.
    """
    figure, panel = pyplot.subplots(figsize=(9, 5))
    colors = pyplot.get_cmap("viridis")(np.linspace(0.85, 0.1, len(test.curves)))
    for curve, color in zip(test.curves, colors):
        k0, top1 = (
            [point.k0 for point in curve.points],
            [100 * point.top1 for point in curve.points],
        )
        epochs = " (%.3g epochs)" % (curve.iteration / test.epoch) if test.epoch else ""
        panel.plot(
            k0,
            top1,
            color=color,
            linewidth=1.3,
            label="%d iterations%s" % (curve.iteration, epochs),
        )
        for diverged, fill in ((False, color), (True, "white")):
            marks = [n for n, point in enumerate(curve.points) if point.diverged == diverged]
            panel.plot(
                [k0[n] for n in marks],
                [top1[n] for n in marks],
                "o",
                color=color,
                markerfacecolor=fill,
                markersize=5,
            )
    for end in {test.good.low, test.good.high} if test.good else ():
        panel.axvline(end, color="tab:red", linewidth=1, linestyle="--")
    panel.set_xscale("log")
    panel.set_xlabel(
        "learning rate while it grows" if test.swept else "constant learning rate k0 (FIX)"
    )
    panel.set_ylabel("Top-1 (%)")
    _open(panel)
    panel.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    panel.set_title(
        test.title
        + (": good from %r to %r" % (test.good.low, test.good.high) if test.good else ""),
        fontsize=11,
    )
    figure.tight_layout()
    save(figure, path)


def span(policies):
    """How many iterations show what each of the policies does, as far as Caffe counts; 10,000 where none has a length."""
    return min(max(filter(None, map(reach, policies)), default=10000), 2**31 - 1)


def _in_terminal(curves):
    import plotext  # here, since nothing else needs it

    plotext.clear_figure()
    plotext.theme("clear")
    marked = list(zip(curves, itertools.cycle("xo+*#@")))
    for (_, t, lr), marker in marked:
        plotext.plot(t.tolist(), lr.tolist(), marker="braille" if len(marked) == 1 else marker)
    plotext.ylim(0, 1.05 * max(lr.max() for _, _, lr in curves))
    plotext.xlabel("iteration")
    plotext.ylabel("learning rate")
    picture = plotext.build()
    print(picture if sys.stdout.isatty() else plotext.uncolorize(picture))
    for (label, _, _), marker in marked:
        print(label if len(marked) == 1 else "%s  %s" % (marker, label))


def _in_picture(curves, out):
    try:
        if not out:
            pyplot.switch_backend("TkAgg")
        figure, panel = pyplot.subplots(figsize=(10, 4.5), num="lrbench plot")
    except (
        Exception
    ) as error:  # of matplotlib or of Tk, where there is no display or none that answers
        raise InputError(
            "no window can be opened here (%s): give --out FILE.png, or --terminal"
            % (error if os.environ.get("DISPLAY") else "DISPLAY is not set")
        ) from None
    columns, width = (1, 110) if len(curves) < 4 else (2, 55)
    for n, (text, t, lr) in enumerate(curves):
        panel.plot(
            t,
            lr,
            label=textwrap.fill(text, width),
            linewidth=1.4,
            linestyle="-" if n == 0 else (0, (4, 3)),
        )
    panel.set_xlabel("iteration")
    panel.set_ylabel("learning rate")
    panel.set_ylim(bottom=0)
    _open(panel)
    panel.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, ncol=columns)
    figure.tight_layout()
    if out:
        save(figure, out)
    else:
        pyplot.show()


def _open(panel):
    """A panel with a pale grid, and open above and to the right."""
    panel.grid(alpha=0.25)
    panel.spines["top"].set_visible(False)
    panel.spines["right"].set_visible(False)


def check_path(path):
    """Raise InputError, before anything is trained for it, where :func:`save` could not write a picture to this path."""
    kinds = sorted(FigureCanvasAgg.get_supported_filetypes())
    if os.path.splitext(path)[1][1:].lower() not in kinds:
        raise InputError(
            "the picture cannot be written to %s: its name has to end as one of %s"
            % (path, ", ".join(kinds))
        )
    target = path if os.path.exists(path) else os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path) or not os.access(target, os.W_OK):
        raise InputError("the picture cannot be written to %s: name another file with --out" % path)


def save(figure, path):
    """Write a figure and forget it.  Raises InputError when the picture cannot be written."""
    try:
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise InputError(
            "the picture cannot be written to %s: %s"
            % (path, getattr(error, "strerror", None) or error)
        ) from None
    finally:
        pyplot.close(figure)


def _draw(trial, rates, accuracy, color, linestyle):
    rows = [(row.iteration, row.lr) for row in trial.rows]
    rates.plot(
        *thinned(measured(parse_or_none(trial.policy), rows), rows[-1][0], POINTS),
        color=color,
        linewidth=1.3,
        linestyle=linestyle,
    )
    accuracy.plot(
        [row.iteration for row in trial.rows],
        [100 * row.top1 for row in trial.rows],
        color=color,
        linewidth=1.3,
        linestyle=linestyle,
        label="%s  (%.2f)" % (trial.policy, 100 * trial.best.top1),
    )
    accuracy.plot([trial.best.iteration], [100 * trial.best.top1], "o", color=color, markersize=4)
