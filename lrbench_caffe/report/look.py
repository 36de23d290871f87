"""The look of pictures: sizes at which they are legible, and lines that differ without colour.

A page shows a picture at most some 860 pixels wide, which are 9 inches. So a picture of this width
is shown as large as it is drawn, and its texts have their size in points.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 9  # inches
SMALL, NORMAL, LARGE = 8.5, 9, 10  # points
DPI = 200  # of pictures made of pixels, sharp on screens with twice the pixels
LOOK = {
    "font.size": NORMAL,
    "axes.titlesize": LARGE,
    "axes.labelsize": NORMAL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.handlelength": 3.2,
    "figure.titlesize": LARGE,
    "savefig.dpi": DPI,
}
# The palette of Okabe and Ito, which colour-blind people can tell apart, as on the page.
COLORS = ("#1c7fc0", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#000000", "#56b4e9")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (2, 2)))
MARKS = "osD^vPX"
MARKED_POINTS = 8  # about, of a line


def line_look(n: int) -> dict[str, Any]:
    """Return the colour and the dash of the n-th line of a panel, counted from 0."""
    return {"color": COLORS[n % len(COLORS)], "linestyle": DASHES[n % len(DASHES)]}


def marked(n: int, points: int) -> dict[str, Any]:
    """Return the mark of the n-th line of a panel, on some of its points."""
    step = max(1, points // MARKED_POINTS)
    return {"marker": MARKS[n % len(MARKS)], "markevery": (n % step, step), "markersize": 4}


def style(panel: Axes) -> None:
    """Give a panel a pale grid and no frame above and to the right."""
    panel.grid(alpha=0.25)
    panel.tick_params(labelsize=SMALL)
    panel.spines["top"].set_visible(False)
    panel.spines["right"].set_visible(False)
