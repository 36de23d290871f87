"""Figure 1: gradient descent under three policies on a surface with a local and a global minimum.

The paper gives neither its surface nor its starting point. They are chosen here so that they show
what the paper describes. The surface is a valley, flat along x and steep along y. Its lowest point
is at (1.2, 0), and it has a narrow well on the way there:

    f(x, y) = (x - 1.2)^2 / 2 + 25/4 * (sqrt(1 + (2 y)^2) - 1)
              - 0.162 * exp(-(x^2 + y^2) / (2 * 0.06^2))

Descent with the rate r cannot stay where the curvature is above 2 / r. The curvature of the well is
45 along x and 70 along y: FIX with 0.025 comes to rest in it, rates of 0.05 and more do not. The
curvature across the valley is 25: a rate of 0.05 descends in it, a rate above 0.08 bounces.

The paper's TRIEXP(k0=0.05, k1=0.3, gamma=0.1, l=100) would, by Table I, decay with 0.1^t. From the
third iteration on it would be FIX(k0=0.05), not the fast and chaotic path that the paper shows.
Therefore gamma=0.1 is the decay over l iterations here, which is 0.1^(1/100) for one iteration.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lrbench_caffe import files
from lrbench_caffe.policies import Policy
from lrbench_caffe.report import look
from lrbench_caffe.report.plots import pyplot, save

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from lrbench_caffe.display.bar import ProgressCallback

ITERATIONS = 200
START = (-1.6, 0.6)
LOCAL, GLOBAL = (0.029, 0.0), (1.2, 0.0)  # the minima
POLICIES = (  # the label, the policy, and its colour in the paper
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
_WELL_DEPTH, _WELL_WIDTH = 0.162, 0.06
_STILL_ITERATIONS = (20, 70, 199)  # of the contours in the still picture
_TABLE_ITERATIONS = (20, 70, 200)


class Descent(NamedTuple):
    """A descent.

    Attributes:
        label: The policy as it is written in the figure.
        policy: The policy.
        color: The colour of the path.
        points: The points from START on, an array of shape (ITERATIONS + 1, 2).
        heights: The height of the surface at each point, an array of shape (ITERATIONS + 1,).
    """

    label: str
    policy: Policy
    color: str
    points: np.ndarray
    heights: np.ndarray


def surface(x: Any, y: Any) -> Any:
    """Return the height f(x, y), for numbers or for arrays of the same shape."""
    well = np.exp(-(x**2 + y**2) / (2 * _WELL_WIDTH**2))
    return (x - 1.2) ** 2 / 2 + 6.25 * (np.sqrt(1 + 4 * y**2) - 1) - _WELL_DEPTH * well


def gradient(x: float, y: float) -> tuple[float, float]:
    """Return the gradient of :func:`surface`."""
    well = np.exp(-(x**2 + y**2) / (2 * _WELL_WIDTH**2))
    pull = _WELL_DEPTH / _WELL_WIDTH**2 * well
    return x - 1.2 + pull * x, 25 * y / np.sqrt(1 + 4 * y**2) + pull * y


def descend(
    policy: Policy, start: tuple[float, float] = START, iterations: int = ITERATIONS
) -> np.ndarray:
    """Return the points of gradient descent (Formula 1), an array of shape (iterations + 1, 2)."""
    points = [np.array(start)]
    for t in range(iterations):
        points.append(points[-1] - policy(t) * np.array(gradient(*points[-1])))
    return np.array(points)


def descents() -> tuple[Descent, ...]:
    """Return the three descents of the figure."""
    return tuple(_descent(label, policy, color) for label, policy, color in POLICIES)


def _descent(label: str, policy: Policy, color: str) -> Descent:
    points = descend(policy)
    return Descent(label, policy, color, points, surface(*points.T))


def _grid(step: float = 0.02) -> Sequence[np.ndarray]:
    return np.meshgrid(np.arange(-1.8, 1.7, step), np.arange(-0.85, 0.86, step))


def _draw_contours(panel: Axes, descents: Sequence[Descent], iteration: int) -> list[Any]:
    """Draw the contours and the paths up to an iteration. Return (line, end point) of each path."""
    x, y = _grid(0.01)
    panel.contourf(x, y, surface(x, y), levels=np.linspace(0, 8, 17) ** 2 / 8 - 0.2, cmap="Blues_r")
    lines = [_draw_path(panel, descent, iteration) for descent in descents]
    panel.plot(*START, "ws", markeredgecolor="black")
    for point, name in ((LOCAL, "local\nminimum"), (GLOBAL, "global\nminimum")):
        panel.plot(*point, "x", color="white", markersize=9)
        panel.annotate(
            name,
            point,
            (point[0], -0.78),
            color="white",
            ha="center",
            fontsize=look.SMALL,
            arrowprops={"arrowstyle": "-", "color": "white", "alpha": 0.5},
        )
    panel.set_xlim(-1.8, 1.65)
    panel.set_ylim(-0.85, 0.85)
    return lines


def _draw_path(panel: Axes, descent: Descent, iteration: int) -> tuple[Any, Any]:
    points, color = descent.points[: iteration + 1], descent.color
    (line,) = panel.plot(*points.T, color=color, linewidth=1.1, marker=".", markersize=3)
    (end,) = panel.plot(*points[-1:].T, "o", color=color, markeredgecolor="white", markersize=8)
    return line, end


@pyplot.rc_context(look.LOOK)
def draw(path: str) -> None:
    """Write the still picture: contours at three iterations, the surface, rates and heights.

    Raises:
        InputError: The picture cannot be written.
    """
    paths = descents()
    figure = pyplot.figure(figsize=(look.WIDTH, 6.3))
    for place, iteration in enumerate(_STILL_ITERATIONS, 1):
        panel = figure.add_subplot(2, 3, place)
        _draw_contours(panel, paths, iteration)
        panel.set_title("iteration %d" % iteration)
    _draw_surface(figure.add_subplot(2, 3, 4, projection="3d"), paths)
    rates, heights = figure.add_subplot(2, 3, 5), figure.add_subplot(2, 3, 6)
    for descent, dashes in zip(paths, look.DASHES):
        line = {"color": descent.color, "linestyle": dashes}
        rates.plot(descent.policy(np.arange(ITERATIONS)), label=descent.label, **line)
        heights.plot(descent.heights, **line)
    rates.set_title("learning rate")
    heights.set_title("height")
    for panel in (rates, heights):
        panel.set_xlabel("iteration")
        panel.grid(alpha=0.25)
    figure.legend(*rates.get_legend_handles_labels(), loc="lower center", ncol=1, frameon=False)
    figure.suptitle("Figure 1: gradient descent from the white square, on a surface chosen here")
    figure.tight_layout(rect=(0, 0.11, 1, 1))
    save(figure, path)


def _draw_surface(panel: Axes, descents: Sequence[Descent]) -> None:
    x, y = _grid()
    z = surface(x, y)
    panel.plot_surface(x, y, z, cmap="Blues_r", alpha=0.45, linewidth=0, rcount=90, ccount=180)
    for descent in descents:
        heights, color = descent.heights + 0.05, descent.color
        panel.plot(*descent.points.T, heights, color=color, linewidth=1.4, marker=".", markersize=3)
    panel.view_init(50, -70)
    panel.set_title("the surface")


def animate(path: str, progress: ProgressCallback | None = None) -> None:
    """Write the animation: a GIF of the paths on the contours.

    Args:
        path: The path of the GIF.
        progress: Called with (what, done, total) for each frame.

    Raises:
        InputError: The animation cannot be written.
    """
    from PIL import Image  # the library that matplotlib writes pictures with

    paths = descents()
    figure, panel = pyplot.subplots(figsize=(6.4, 3.6), dpi=100)
    lines = _draw_contours(panel, paths, 0)
    labels = [descent.label for descent in paths]
    panel.legend([line for line, _ in lines], labels, fontsize=8, loc="upper right")
    panel.set_title("Figure 1: iteration 0", fontsize=10)
    figure.tight_layout()
    frames = [*range(40), *range(40, ITERATIONS + 1, 5)]
    pictures = []
    for n, iteration in enumerate(frames, 1):
        for (line, end), descent in zip(lines, paths):
            line.set_data(*descent.points[: iteration + 1].T)
            end.set_data(*descent.points[iteration : iteration + 1].T)
        panel.set_title("Figure 1: iteration %d" % iteration, fontsize=10)
        figure.canvas.draw()
        pictures.append(Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB"))
        if progress is not None:
            progress("drawing frames", n, len(frames))
    pyplot.close(figure)
    _save_gif(pictures, path)


def _save_gif(pictures: Sequence[Any], path: str) -> None:
    palette = pictures[-1].quantize(128)  # shared by all frames, for a small file
    first, *others = [picture.quantize(palette=palette, dither=0) for picture in pictures]
    durations = [125] * len(others) + [2000]  # milliseconds
    animation = io.BytesIO()
    first.save(animation, "GIF", save_all=True, append_images=others, duration=durations, loop=0)
    files.write(path, animation.getvalue(), "animation", "choose another folder with --out")


def outcome() -> str:
    """Return a Markdown table of the points after some iterations and of the final heights."""
    titles = ["iteration %d" % iteration for iteration in _TABLE_ITERATIONS]
    lines = [
        "| policy | %s | final height |" % " | ".join(titles),
        "| --- | --- | --- | --- | ---: |",
    ]
    for descent in descents():
        points = [tuple(descent.points[t] + 0.0) for t in _TABLE_ITERATIONS]
        cells = [descent.label, *("(%.2f, %.2f)" % point for point in points)]
        lines.append("| %s | %.4f |" % (" | ".join(cells), descent.heights[-1]))
    return "\n".join(lines)
