"""The chart of a sweep: NLL against speed-up, with intervals, the front as a line, and a label k/d at every point."""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path

import numpy as np

from diagd_cli.clip.write import atomic
from diagd_cli.picture.figure import figure_class

FRONT, OTHER, BASE = "#0072B2", "#767676", "#D55E00"  # that the colour-blind tell apart; markers tell the methods
MARKERS = {"ntp": ("*", "NTP"), "diagd": ("o", "DiagD"), "spatial": ("s", "spatial DiagD"), "zipar": ("^", "ZipAR")}
ANGLES = ((1, 0.4), (1, -0.4), (-1, 0.4), (-1, -0.4), (0, 1), (0, -1), (1, 0), (-1, 0))  # of a label to its point
RADII = (8, 16, 26, 38, 52)  # points; from the third on a thin line leads to the label
GAP = 1.5  # pixels between labels


def check() -> type:
    """matplotlib's Figure. Raises MissingExtra."""
    return figure_class("The chart (--no-chart leaves it out)")


def write_chart(path: Path, rows: list[dict], title: str) -> None:
    """Write the PNG for rows of a sweep, the first of which is NTP. Raises MissingExtra, OutputError."""
    figure = check()(figsize=(9, 6), dpi=150, layout="constrained")
    draw(figure, rows, title)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png")


def draw(figure, rows: list[dict], title: str) -> list:
    """Draw into a matplotlib figure; returns the labels, matplotlib texts, one a row."""
    axes, base = figure.subplots(), rows[0]
    points = [(row["speedup"]["mean"], row["nll"]["mean"]) for row in rows]
    axes.axhline(points[0][1], color=BASE, linestyle=":", linewidth=1, zorder=1)
    line = sorted(point for point, row in zip(points, rows, strict=True) if row["front"])
    axes.plot(*zip(*line, strict=True), color=FRONT, linewidth=1.2, zorder=2)
    for row, point in zip(rows, points, strict=True):
        _point(axes, row, point)
    _axes(axes, base, [x for x, _ in points], title)
    _legend(axes, rows)
    labels = [
        axes.annotate(short(row, rows), point, fontsize=8, va="bottom") for row, point in zip(rows, points, strict=True)
    ]
    _spread(figure, axes, labels, points, line)
    return labels


def short(row: dict, rows: list[dict]) -> str:
    """`NTP`, or `k/d`; with what else tells it from others, where the sweep has several stand-ins or leaves repair out."""
    facts = row["decoding"]
    if facts["method"] == "ntp":
        return "NTP"
    text = f"{facts['k']}/{facts['d']}"
    others = [other["decoding"] for other in rows if other["decoding"]["method"] in ("diagd", "spatial")]
    if facts["method"] != "zipar" and len({other["stand_in"] for other in others}) > 1:
        text += f" {facts['stand_in']}"
    return text if facts["repair"] else f"{text} no repair"


def bars(row: dict) -> tuple[float, float] | None:
    """How far the interval of the paired difference to NTP reaches below and above the row's NLL; None where it has none."""
    found = row["difference"] and row["difference"]["nll"]
    if not found or found["low"] is None:
        return None
    return found["mean"] - found["low"], found["high"] - found["mean"]


def _point(axes, row: dict, point: tuple[float, float]) -> None:
    method = row["decoding"]["method"]
    marker = MARKERS[method][0]
    colour = BASE if method == "ntp" else FRONT if row["front"] else OTHER
    if reach := bars(row):
        axes.errorbar(*point, yerr=[[reach[0]], [reach[1]]], color=colour, alpha=0.5, linewidth=1, capsize=2, zorder=2)
    face = colour if row["front"] or method == "ntp" else "white"
    size = 12 if method == "ntp" else 6
    axes.plot(*point, marker, color=colour, markerfacecolor=face, markersize=size, zorder=3)


def _legend(axes, rows: list[dict]) -> None:
    """What the markers stand for, below the axes, where no point can be."""
    from matplotlib.lines import Line2D

    used = [MARKERS[name] for name in MARKERS if any(row["decoding"]["method"] == name for row in rows)]
    marks = [
        Line2D([], [], color=BASE if name == "NTP" else OTHER, marker=m, linestyle="", label=name) for m, name in used
    ]
    marks.append(Line2D([], [], color=FRONT, marker="o", linewidth=1.2, label="on the front"))
    axes.figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False, fontsize=8)


def _axes(axes, base: dict, speeds: list[float], title: str) -> None:
    """Scales, names, and a second scale for the difference to NTP in percent."""
    nll = base["nll"]["mean"]
    if max(speeds) > 4 * min(speeds):
        axes.set_xscale("log")
        ticks = [n for n in (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100, 200, 500, 1000) if 0.8 < n < 1.3 * max(speeds)]
        axes.set_xticks(ticks, [f"{n}x" for n in ticks])
        axes.set_xticks([], minor=True)
    axes.margins(x=0.07, y=0.1)
    share = axes.secondary_yaxis("right", functions=(lambda y: 100 * (y / nll - 1), lambda p: nll * (1 + p / 100)))
    share.set_ylabel("over NTP, %")
    note = "labels: k/d; bars: 95% interval of the paired difference to NTP"
    axes.set(xlabel=f"speed-up over NTP\n{note}", ylabel="NLL under NTP, nats a token (low is good)")
    axes.set_title(title, fontsize=10)
    axes.grid(color=OTHER, alpha=0.15)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _spread(figure, axes, labels: list, points: list[tuple[float, float]], line: list[tuple[float, float]]) -> None:
    """Move each label to the first place near its point, in the axes, where it covers no label, no point and no `line`.

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
        places = [_place(x, y, size.width, size.height, r * scale, *a) for r, a in product(RADII, ANGLES)]
        clear = [p for p in places if _within(p, inside) and not any(_overlap(p, other) for other in taken)]
        free = (p for p in clear if not any(_overlap(p, spot) for spot in crossed))
        box = next(free, clear[0] if clear else places[0])
        taken.append(box)
        label.xyann, label.anncoords = ((box[0] - x) / scale, (box[1] - y) / scale), "offset points"
        if places.index(box) >= 2 * len(ANGLES):
            corner = min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3])
            ends = axes.transData.inverted().transform([(x, y), corner])
            axes.plot(*zip(*ends, strict=True), color=OTHER, linewidth=0.5, zorder=1)


def _place(x: float, y: float, width: float, height: float, radius: float, right: float, up: float) -> tuple:
    """The box (x0, y0, x1, y1) of a label at a distance from its point, in pixels."""
    left = x + right * radius - (0 if right > 0 else width if right < 0 else width / 2)
    low = y + up * radius - (0 if up > 0 else height if up < 0 else height / 2)
    return left, low, left + width, low + height


def _along(line) -> list[tuple]:
    """Spots on a line float [n, 2] of pixels, so close that no label lies between two of them, each as an empty box."""
    parts = [np.linspace(a, b, 2 + int(np.hypot(*(b - a)) / 6)) for a, b in pairwise(line)]
    return [(x, y, x, y) for part in parts for x, y in part]


def _within(box: tuple, inside) -> bool:
    return inside.x0 <= box[0] and box[2] <= inside.x1 and inside.y0 <= box[1] and box[3] <= inside.y1


def _overlap(a: tuple, b: tuple) -> bool:
    return a[0] < b[2] + GAP and b[0] < a[2] + GAP and a[1] < b[3] + GAP and b[1] < a[3] + GAP
