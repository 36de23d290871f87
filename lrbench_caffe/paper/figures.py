"""Pictures of the paper's tables and of its Figures 3 to 5, drawn from trials."""

import math

import numpy as np
from matplotlib.ticker import FormatStrFormatter, LogLocator

from lrbench_caffe.paper import targets
from lrbench_caffe.ranking import ranges, spread
from lrbench_caffe.report.plots import pyplot, save
from lrbench_caffe.trial import DIVERGED, FINISHED

_SHARES = (
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
)  # of a training, at which Figures 3 and 4 look: the paper's five curves


def draw(target, trials, scale, path):
    """Write the picture of a Target: its figure, or its table's Top-1 beside the published one."""
    count, drawn = {
        "figure-3": (3, _along_rates),
        "figure-4": (1, _along_steps),
        "figure-5": (2, _training),
    }.get(target.name[:8], (1, _table))
    figure, panels = pyplot.subplots(1, count, figsize=(15 if count == 3 else 11, 5), squeeze=False)
    drawn(panels[0], target, trials, scale)
    for panel in panels[0]:
        panel.grid(alpha=0.25)
    figure.suptitle(targets.title(target, scale), fontsize=11)
    figure.tight_layout()
    save(figure, path)


def _table(panels, target, trials, scale):
    """Top-1 of each policy with the seeds' deviation, ours and the published."""
    (panel,) = panels
    chosen = targets.policies(target, scale)
    panel.figure.set_figheight(1.6 + 0.42 * len(chosen))
    for place, text in enumerate(chosen):
        ours = targets.finished(trials, chosen[text])
        found = spread(trial.best.top1 for trial in ours)
        printed = target.published[place]
        panel.errorbar(
            100 * printed.metrics["top1"],
            place - 0.13,
            xerr=100 * (printed.top1_std or 0),
            fmt="D",
            color="tab:orange",
            capsize=3,
            label="published" if place == 0 else None,
        )
        panel.plot(
            [100 * trial.best.top1 for trial in ours],
            [place + 0.13] * len(ours),
            "|",
            color="tab:blue",
            alpha=0.5,
        )
        if ours:
            panel.errorbar(
                100 * found.mean,
                place + 0.13,
                xerr=100 * (found.deviation or 0),
                fmt="o",
                color="tab:blue",
                capsize=3,
            )
    panel.plot([], [], "o", color="tab:blue", label="ours (bars: the seeds)")
    panel.set_yticks(range(len(chosen)))
    panel.set_yticklabels(list(chosen.values()), fontsize=8)
    panel.invert_yaxis()
    panel.set_xlabel("highest Top-1 (%)")
    panel.legend(frameon=False, fontsize=8)


def _along_rates(panels, target, trials, scale):
    """The paper's three views: Top-1, the highest of it, and the error."""
    for panel in panels:
        _curves(
            panel, target, trials, scale, "k0", "learning rate k0 of FIX", error=panel is panels[2]
        )
        if target.name == "figure-3":  # the paper's lines
            for rate, color in (
                (0.001, "black"),
                (0.01, "black"),
                (0.1, "black"),
                (0.0005, "red"),
                (0.006, "red"),
            ):
                panel.axvline(rate, color=color, linestyle="--", linewidth=0.7)
    best = 100 * max((trial.best.top1 for trial in trials if trial.best), default=0)
    panels[1].set_ylim(best - 2 * (100 - best), best + 0.2 * (100 - best))
    panels[2].set_yscale("log")
    panels[2].yaxis.set_major_formatter(FormatStrFormatter("%g"))
    panels[2].yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    panels[2].yaxis.set_minor_formatter(FormatStrFormatter("%g"))


def _along_steps(panels, target, trials, scale):
    _curves(panels[0], target, trials, scale, "l", "step size l of STEP (iterations)")


def _curves(panel, target, trials, scale, parameter, label, error=False):
    """Top-1, or its error, after several lengths of training against a parameter: the mean over the seeds of each.

    Hollow: a training diverged, and counts with what it had then.
    """
    known = set(targets.policies(target, scale).values())
    members = [
        trial
        for trial in trials
        if trial.policy in known and trial.state in (FINISHED, DIVERGED) and trial.rows
    ]
    seen = sorted({row.iteration for trial in members for row in trial.rows} - {0})
    lengths = (
        {max((at for at in seen if at <= share * seen[-1]), default=seen[0]) for share in _SHARES}
        if seen
        else ()
    )
    for color, length in zip(
        pyplot.get_cmap("viridis")(np.linspace(0.85, 0.1, len(lengths))), sorted(lengths)
    ):
        points = [
            (value, 100 * (1 - top1 if error else top1), diverged)
            for value, top1, diverged in ranges.top1_after(members, length, parameter)
        ]
        panel.plot(
            *list(zip(*points))[:2],
            color=color,
            label="%.3g epochs" % (length / target.setting.epoch),
        )
        for value, mean, diverged in points:
            panel.plot(
                value,
                mean,
                "o",
                color=color,
                markerfacecolor="white" if diverged else color,
                markersize=4,
            )
    panel.set_xscale("log")
    panel.set_xlabel(label)
    panel.set_ylabel("test error (%)" if error else "Top-1 (%)")
    if lengths:
        panel.legend(frameon=False, fontsize=8)


def _training(panels, target, trials, scale):
    """Top-1 and losses along the training, with a line at each step of NSTEP."""
    accuracy, losses = panels
    (policy,) = targets.policies(target, scale).values()
    for n, trial in enumerate(targets.finished(trials, policy)):
        at = [row.iteration for row in trial.rows]
        accuracy.plot(at, [100 * row.top1 for row in trial.rows], color="tab:blue", alpha=0.7)
        losses.plot(
            at,
            [row.test_loss for row in trial.rows],
            color="tab:orange",
            alpha=0.7,
            label=None if n else "test loss",
        )
        train = [math.nan if row.train_loss is None else row.train_loss for row in trial.rows]
        losses.plot(at, train, color="tab:green", alpha=0.7, label=None if n else "train loss")
        for step in trial.parameters["l"]:
            for panel in panels:
                panel.axvline(step, color="black", linestyle="--", linewidth=0.7)
    accuracy.set_ylabel("Top-1 (%)")
    losses.set_ylabel("loss")
    losses.legend(frameon=False)
    for panel in panels:
        panel.set_xlabel("iteration")
