"""Labels of points in a chart, put where they can be read."""

from __future__ import annotations

from itertools import pairwise, product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import BboxBase

# of a label to its point
ANGLES = ((1, 0.4), (1, -0.4), (-1, 0.4), (-1, -0.4), (0, 1), (0, -1), (1, 0), (-1, 0))
RADII = (8, 16, 26, 38, 52)  # points; from the second on a thin line leads to the label
GAP = 1.5  # pixels between labels


def spread(
    figure: Figure,
    axes: Axes,
    labels: list[Annotation],
    points: list[tuple[float, float]],
    line: list[tuple[float, float]],
) -> None:
    """Move each label to the first place near its point, in the axes, where it covers no label, no
    point and no `line`.

    Where there is none, it may cover the line.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.patheffects import withStroke

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # the layout, from which sizes in pixels follow
    figure.set_layout_engine("none")
    renderer, scale = canvas.get_renderer(), figure.dpi / 72
    inside, spots = axes.get_window_extent(renderer), axes.transData.transform(points)
    taken = [(x - 5 * scale, y - 5 * scale, x + 5 * scale, y + 5 * scale) for x, y in spots]
    crossed = _along(axes.transData.transform(line))
    for label, (x, y) in zip(labels, spots, strict=True):
        label.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
        size = label.get_window_extent(renderer)
        places = [
            _place(x, y, size.width, size.height, r * scale, *a) for r, a in product(RADII, ANGLES)
        ]
        clear = [
            p
            for p in places
            if _within(p, inside) and not any(_overlap(p, other) for other in taken)
        ]
        free = (p for p in clear if not any(_overlap(p, spot) for spot in crossed))
        box = next(free, clear[0] if clear else places[0])
        taken.append(box)
        label.xyann, label.anncoords = ((box[0] - x) / scale, (box[1] - y) / scale), "offset points"
        if places.index(box) >= len(ANGLES):
            corner = min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3])
            ends = axes.transData.inverted().transform([(x, y), corner])
            axes.plot(*zip(*ends, strict=True), color="#767676", linewidth=0.5, zorder=1)


def _place(
    x: float, y: float, width: float, height: float, radius: float, right: float, up: float
) -> tuple:
    """The box (x0, y0, x1, y1) of a label at a distance from its point, in pixels."""
    left = x + right * radius - (0 if right > 0 else width if right < 0 else width / 2)
    low = y + up * radius - (0 if up > 0 else height if up < 0 else height / 2)
    return left, low, left + width, low + height


def _along(line: np.ndarray) -> list[tuple]:
    """Spots on a line float [n, 2] of pixels, so close that no label lies between two of them, each
    as an empty box.
    """
    parts = [np.linspace(a, b, 2 + int(np.hypot(*(b - a)) / 6)) for a, b in pairwise(line)]
    return [(x, y, x, y) for part in parts for x, y in part]


def _within(box: tuple, inside: BboxBase) -> bool:
    return (
        inside.x0 <= box[0] and box[2] <= inside.x1 and inside.y0 <= box[1] and box[3] <= inside.y1
    )


def _overlap(a: tuple, b: tuple) -> bool:
    return a[0] < b[2] + GAP and b[0] < a[2] + GAP and a[1] < b[3] + GAP and b[1] < a[3] + GAP
