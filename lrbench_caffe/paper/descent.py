"""Figure 1: gradient descent under three policies on a surface with a local and a global minimum.

The paper gives neither its surface nor its starting point; they are chosen here so that what it describes can be seen.  The
surface is a valley, flat along x and steep across, whose lowest point is at (1.2, 0) and which has a narrow well on the way:

    f(x, y) = (x - 1.2)^2 / 2 + 25/4 * (sqrt(1 + (2 y)^2) - 1) - 0.162 * exp(-(x^2 + y^2) / (2 * 0.06^2))

Descent with a rate r cannot stay where the curvature is above 2 / r.  That of the well is 45 along x and 70 across: FIX with 0.025
comes to rest in it, rates of 0.05 and more do not.  Across the valley it is 25: 0.05 goes down it, more than 0.08 bounces.

The paper's TRIEXP(k0=0.05, k1=0.3, gamma=0.1, l=100) would, by Table I, decay with 0.1^t and be FIX(k0=0.05) from the third
iteration on, which is not the fast and chaotic path that it shows.  gamma = 0.1 is taken for the decay over l iterations here, that
is 0.1^(1/100) for one.
"""

from typing import NamedTuple, Tuple

import numpy as np

from lrbench_caffe.errors import InputError
from lrbench_caffe.policies import Policy
from lrbench_caffe.report.plots import pyplot, save

ITERATIONS = 200
START = (-1.6, 0.6)
LOCAL, GLOBAL = (0.029, 0.0), (1.2, 0.0)
POLICIES = (  # how the paper writes it, what is descended with, the paper's colour
    ("FIX(k0=0.025)", Policy.parse("FIX(k0=0.025)"), "black"),
    (
        "NSTEP(k0=0.05, gamma=0.1, l=[150, 180])",
        Policy.parse("NSTEP(k0=0.05, gamma=0.1, l=[150, 180])"),
        "red",
    ),
    (
        "TRIEXP(k0=0.05, k1=0.3, gamma=0.1 in l iterations, l=100)",
        Policy("TRIEXP", k0=0.05, k1=0.3, gamma=0.1 ** (1 / 100), l=100),
        "gold",
    ),
)
_WELL = 0.162, 0.06  # depth, width


class Descent(NamedTuple):
    """A descent: its label, policy and colour, the points (ITERATIONS + 1, 2) from START on, and the surface's height at each."""

    label: str
    policy: Policy
    color: str
    points: np.ndarray
    heights: np.ndarray


def surface(x, y):
    """f(x, y), for arrays too."""
    depth, width = _WELL
    return (
        (x - 1.2) ** 2 / 2
        + 6.25 * (np.sqrt(1 + 4 * y**2) - 1)
        - depth * np.exp(-(x**2 + y**2) / (2 * width**2))
    )


def gradient(x, y):
    """The gradient of :func:`surface`, as a pair."""
    depth, width = _WELL
    pull = depth / width**2 * np.exp(-(x**2 + y**2) / (2 * width**2))
    return x - 1.2 + pull * x, 25 * y / np.sqrt(1 + 4 * y**2) + pull * y


def descend(policy, start=START, iterations=ITERATIONS):
    """The points of gradient descent (Formula 1), an array (iterations + 1, 2)."""
    points = [np.array(start)]
    for t in range(iterations):
        points.append(points[-1] - policy(t) * np.array(gradient(*points[-1])))
    return np.array(points)


def descents() -> Tuple[Descent, ...]:
    """The three descents of the figure."""
    found = [(label, policy, color, descend(policy)) for label, policy, color in POLICIES]
    return tuple(Descent(*parts, heights=surface(*parts[3].T)) for parts in found)


def _grid(step=0.02):
    return np.meshgrid(np.arange(-1.8, 1.7, step), np.arange(-0.85, 0.86, step))


def _contours(panel, found, until):
    x, y = _grid(0.01)
    panel.contourf(x, y, surface(x, y), levels=np.linspace(0, 8, 17) ** 2 / 8 - 0.2, cmap="Blues_r")
    lines = [_path(panel, descent, until) for descent in found]
    panel.plot(*START, "ws", markeredgecolor="black")
    for (px, py), name in ((LOCAL, "local minimum"), (GLOBAL, "global minimum")):
        panel.plot(px, py, "x", color="white", markersize=9)
        panel.annotate(
            name,
            (px, py),
            (px, -0.72),
            color="white",
            ha="center",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "color": "white", "alpha": 0.5},
        )
    panel.set_xlim(-1.8, 1.65)
    panel.set_ylim(-0.85, 0.85)
    return lines


def _path(panel, descent, until):
    points = descent.points[: until + 1]
    (line,) = panel.plot(*points.T, color=descent.color, linewidth=1.1, marker=".", markersize=3)
    (end,) = panel.plot(
        *points[-1:].T, "o", color=descent.color, markeredgecolor="white", markersize=8
    )
    return line, end


def draw(path):
    """Write the still picture: contours at the iterations 20, 70 and 199, the surface, the rates and the heights."""
    found = descents()
    figure = pyplot.figure(figsize=(15, 9))
    for place, until in enumerate((20, 70, 199), 1):
        panel = figure.add_subplot(2, 3, place)
        _contours(panel, found, until)
        panel.set_title("iteration %d" % until, fontsize=10)
    panel = figure.add_subplot(2, 3, 4, projection="3d")
    x, y = _grid()
    panel.plot_surface(
        x, y, surface(x, y), cmap="Blues_r", alpha=0.45, linewidth=0, rcount=90, ccount=180
    )
    for descent in found:
        panel.plot(
            *descent.points.T,
            descent.heights + 0.05,
            color=descent.color,
            linewidth=1.4,
            marker=".",
            markersize=3,
        )
    panel.view_init(50, -70)
    panel.set_title("the surface", fontsize=10)
    rates, heights = figure.add_subplot(2, 3, 5), figure.add_subplot(2, 3, 6)
    for descent in found:
        rates.plot(descent.policy(np.arange(ITERATIONS)), color=descent.color, label=descent.label)
        heights.plot(descent.heights, color=descent.color)
    rates.set_title("learning rate", fontsize=10)
    heights.set_title("height", fontsize=10)
    for panel in (rates, heights):
        panel.set_xlabel("iteration")
        panel.grid(alpha=0.25)
    figure.legend(*rates.get_legend_handles_labels(), loc="lower center", ncol=3, frameon=False)
    figure.suptitle("Figure 1: gradient descent from the white square, on a surface chosen here")
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    save(figure, path)


def animate(path, progress=lambda what, done, total: None):
    """Write the animation, a GIF of the descents on the contours."""
    from PIL import Image  # what matplotlib writes pictures with

    found = descents()
    figure, panel = pyplot.subplots(figsize=(6.4, 3.6), dpi=100)
    lines = _contours(panel, found, 0)
    panel.legend(
        [line for line, _ in lines],
        [descent.label for descent in found],
        fontsize=7,
        loc="upper right",
    )
    panel.set_title("Figure 1: iteration 0", fontsize=10)
    figure.tight_layout()
    frames = list(range(40)) + list(range(40, ITERATIONS + 1, 5))
    pictures = []
    for n, t in enumerate(frames):
        for (line, end), descent in zip(lines, found):
            line.set_data(*descent.points[: t + 1].T)
            end.set_data(*descent.points[t : t + 1].T)
        panel.set_title("Figure 1: iteration %d" % t, fontsize=10)
        figure.canvas.draw()
        pictures.append(Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB"))
        progress("drawing frames", n + 1, len(frames))
    pyplot.close(figure)
    palette = pictures[-1].quantize(128)  # one for all frames, which makes the file small
    first, *others = [picture.quantize(palette=palette, dither=0) for picture in pictures]
    try:
        first.save(
            path, save_all=True, append_images=others, duration=[125] * len(others) + [2000], loop=0
        )
    except OSError as error:
        raise InputError(
            "the animation cannot be written to %s: %s" % (path, error.strerror or error)
        ) from None


def outcome():
    """A line of Markdown for each descent: where it is after 20, 70 and 200 iterations."""
    lines = [
        "| policy | at 20 | at 70 | at 200 | height at the end |",
        "| --- | --- | --- | --- | ---: |",
    ]
    for descent in descents():
        places = ["(%.2f, %.2f)" % tuple(descent.points[t] + 0.0) for t in (20, 70, 200)]
        lines.append(
            "| %s | %s | %.4f |" % (descent.label, " | ".join(places), descent.heights[-1])
        )
    return "\n".join(lines)
