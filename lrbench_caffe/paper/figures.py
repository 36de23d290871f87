"""The pictures of the paper's tables and of its Figures 3 to 5, drawn from trials."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from matplotlib.ticker import FormatStrFormatter, LogLocator

from lrbench_caffe.paper import scaling, targets
from lrbench_caffe.paper.comparison import counted_trials_under
from lrbench_caffe.ranking import ranges, spread
from lrbench_caffe.report import look
from lrbench_caffe.report.plots import pyplot, save
from lrbench_caffe.trial import DIVERGED, FINISHED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from lrbench_caffe.paper.targets import Published, Target
    from lrbench_caffe.trial import Trial

SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)  # of a training: the five curves of Figures 3 and 4
OURS, PUBLISHED = look.COLORS[0], look.COLORS[1]
# The rates that the paper marks in Figure 3, with the colours of its lines.
MARKED_RATES = ((0.001, "black"), (0.01, "black"), (0.1, "black"), (0.0005, "red"), (0.006, "red"))


@pyplot.rc_context(look.LOOK)
def draw(target: Target, trials: Sequence[Trial], scale: float, path: str) -> None:
    """Write the picture of a target.

    Figures 3 to 5 are drawn like the paper's. The picture of a table shows Top-1 and the published
    Top-1 of each policy.

    Args:
        target: The table or figure.
        trials: Its trials, with all their rows.
        scale: The scale at which they were trained.
        path: The path of the picture.

    Raises:
        InputError: The picture cannot be written.
    """
    n_panels, draw_panels = {
        "figure-3": (3, _draw_rates),
        "figure-4": (1, _draw_step_sizes),
        "figure-5": (2, _draw_training),
    }.get(target.name[:8], (1, _draw_table))
    size = look.WIDTH, {1: 4.5, 2: 3.8, 3: 3.4}[n_panels]
    figure, grid = pyplot.subplots(1, n_panels, figsize=size, squeeze=False)
    panels = list(grid[0])
    draw_panels(panels, target, trials, scale)
    for panel in panels:
        look.style(panel)
    figure.suptitle(targets.scaled_title(target, scale))
    figure.tight_layout()
    save(figure, path)


def _draw_table(
    panels: Sequence[Axes], target: Target, trials: Sequence[Trial], scale: float
) -> None:
    """Draw Top-1 of each policy over the seeds, with the published Top-1 above it."""
    (panel,) = panels
    texts = scaling.scaled_policies(target, scale)
    panel.figure.set_figheight(1.6 + 0.42 * len(texts))
    for place, policy in enumerate(texts.values()):
        _draw_published(panel, target.published[place], place)
        _draw_ours(panel, counted_trials_under(policy, trials), place)
    panel.plot([], [], "o", color=OURS, label="ours (bars: the seeds)")
    panel.set_yticks(range(len(texts)))
    panel.set_yticklabels(list(texts.values()))
    panel.set_ylim(len(texts) - 0.5, -0.5)
    panel.set_xlabel("highest Top-1 (%)")
    panel.legend(frameon=False)


def _draw_published(panel: Axes, published: Published, place: int) -> None:
    panel.errorbar(
        100 * published.metrics["top1"],
        place - 0.13,
        xerr=100 * (published.top1_std or 0),
        fmt="D",
        color=PUBLISHED,
        capsize=3,
        label="published" if place == 0 else None,
    )


def _draw_ours(panel: Axes, trials: Sequence[Trial], place: int) -> None:
    shares = [trial.summary.top1 for trial in trials if trial.summary]
    heights = [place + 0.13] * len(shares)
    panel.plot([100 * top1 for top1 in shares], heights, "|", color=OURS, alpha=0.5)
    top1 = spread(shares)
    if top1.mean is not None:
        panel.errorbar(
            100 * top1.mean,
            place + 0.13,
            xerr=100 * (top1.deviation or 0),
            fmt="o",
            color=OURS,
            capsize=3,
        )


def _draw_rates(
    panels: Sequence[Axes], target: Target, trials: Sequence[Trial], scale: float
) -> None:
    """Draw the three views of Figure 3: Top-1, its highest values, and the error."""
    _, top, error = panels
    for panel in panels:
        label = "learning rate k0 of FIX"
        _draw_curves(panel, target, trials, scale, "k0", label, error=panel is error)
        if target.name == "figure-3":
            for rate, color in MARKED_RATES:
                panel.axvline(rate, color=color, linestyle="--", linewidth=0.7)
    best = 100 * max((trial.summary.top1 for trial in trials if trial.summary), default=0)
    top.set_ylim(best - 2 * (100 - best), best + 0.2 * (100 - best))
    error.set_yscale("log")
    error.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    error.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    error.yaxis.set_minor_formatter(FormatStrFormatter("%g"))


def _draw_step_sizes(
    panels: Sequence[Axes], target: Target, trials: Sequence[Trial], scale: float
) -> None:
    (panel,) = panels
    _draw_curves(panel, target, trials, scale, "l", "step size l of STEP (iterations)")


def _draw_curves(
    panel: Axes,
    target: Target,
    trials: Sequence[Trial],
    scale: float,
    parameter: str,
    label: str,
    error: bool = False,
) -> None:
    """Draw Top-1, or its error, against a parameter after several shares of the training.

    Each point is the mean over the seeds. It is hollow if a training diverged. Such a training
    counts with the last Top-1 before that.
    """
    policies = set(scaling.scaled_policies(target, scale).values())
    members = [
        trial
        for trial in trials
        if trial.policy in policies and trial.state in (FINISHED, DIVERGED) and trial.rows
    ]
    lengths = _curve_lengths(members)
    for n, length in enumerate(lengths):
        results = ranges.top1_after(members, length, parameter)
        values = [value for value, _, _ in results]
        shares = [100 * (1 - top1 if error else top1) for _, top1, _ in results]
        epochs = "%.3g epochs" % (length / target.setting.epoch)
        line, mark = look.line_look(n), look.MARKS[n % len(look.MARKS)]
        panel.plot(values, shares, linewidth=1.1, **line)
        panel.plot([], [], linewidth=1.1, marker=mark, markersize=3.5, label=epochs, **line)
        for (value, _, diverged), share in zip(results, shares):
            color = line["color"]
            fill = "white" if diverged else color
            panel.plot(value, share, mark, color=color, markerfacecolor=fill, markersize=3.5)
    panel.set_xscale("log")
    panel.set_xlabel(label)
    panel.set_ylabel("test error (%)" if error else "Top-1 (%)")
    if lengths:
        panel.legend(frameon=False)


def _curve_lengths(trials: Sequence[Trial]) -> list[int]:
    """The evaluated iterations at SHARES of the longest training, without repetitions."""
    evaluated = sorted({row.iteration for trial in trials for row in trial.rows} - {0})
    if not evaluated:
        return []
    limits = [share * evaluated[-1] for share in SHARES]
    return sorted({max([n for n in evaluated if n <= limit] or evaluated[:1]) for limit in limits})


def _draw_training(
    panels: Sequence[Axes], target: Target, trials: Sequence[Trial], scale: float
) -> None:
    """Draw Top-1 and the losses during the training, with a line at each step of NSTEP."""
    accuracy, losses = panels
    (policy,) = scaling.scaled_policies(target, scale).values()
    for n, trial in enumerate(counted_trials_under(policy, trials)):
        iterations = [row.iteration for row in trial.rows]
        accuracy.plot(
            [iteration for iteration, _ in trial.top1_curve],
            [100 * top1 for _, top1 in trial.top1_curve],
            color=OURS,
            alpha=0.7,
        )
        test_losses, train_losses = (
            [math.nan if loss is None else loss for loss in column]
            for column in zip(*((row.test_loss, row.train_loss) for row in trial.rows))
        )
        for values, number, label in (
            (test_losses, 0, "test loss"),
            (train_losses, 1, "train loss"),
        ):
            line = look.line_look(number)
            losses.plot(iterations, values, alpha=0.7, label=None if n else label, **line)
        steps: Any = trial.parameters["l"]
        for step in steps:
            for panel in panels:
                panel.axvline(step, color="black", linestyle="--", linewidth=0.7)
    accuracy.set_ylabel("Top-1 (%)")
    losses.set_ylabel("loss")
    losses.legend(frameon=False)
    for panel in panels:
        panel.set_xlabel("iteration")
