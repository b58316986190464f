"""The chart of a sweep: NLL against speed-up, with intervals, the front as a line, and a label k/d at every point."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diagd_cli.files.atomic import atomic
from diagd_cli.report.figure import figure_class
from diagd_cli.report.labels import spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

FRONT, OTHER, BASE = "#0072B2", "#767676", "#D55E00"  # that the colour-blind tell apart; markers tell the methods
MARKERS = {"ntp": ("*", "NTP"), "diagd": ("o", "DiagD"), "spatial": ("s", "spatial DiagD"), "zipar": ("^", "ZipAR")}


def check() -> type[Figure]:
    """matplotlib's Figure. Raises MissingExtra."""
    return figure_class("The chart (--no-chart leaves it out)")


def write_chart(path: Path, rows: list[dict], title: str) -> None:
    """Write the PNG for rows of a sweep, the first of which is NTP. Raises MissingExtra, OutputError."""
    figure = check()(figsize=(9, 6), dpi=150, layout="constrained")
    draw(figure, rows, title)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png")


def draw(figure: Figure, rows: list[dict], title: str) -> list[Annotation]:
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
    spread(figure, axes, labels, points, line)
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
    text += "" if facts["repair"] else " no repair"
    return text + (" zero slots" if facts.get("zero_slots") else "")


def bars(row: dict) -> tuple[float, float] | None:
    """How far the interval of the paired difference to NTP reaches below and above the row's NLL; None where it has none."""
    found = row["difference"] and row["difference"]["nll"]
    if not found or found["low"] is None:
        return None
    return found["mean"] - found["low"], found["high"] - found["mean"]


def _point(axes: Axes, row: dict, point: tuple[float, float]) -> None:
    method = row["decoding"]["method"]
    marker = MARKERS[method][0]
    colour = BASE if method == "ntp" else FRONT if row["front"] else OTHER
    if reach := bars(row):
        axes.errorbar(*point, yerr=[[reach[0]], [reach[1]]], color=colour, alpha=0.5, linewidth=1, capsize=2, zorder=2)
    face = colour if row["front"] or method == "ntp" else "white"
    size = 12 if method == "ntp" else 6
    axes.plot(*point, marker, color=colour, markerfacecolor=face, markersize=size, zorder=3)


def _legend(axes: Axes, rows: list[dict]) -> None:
    """What the markers stand for, below the axes, where no point can be."""
    from matplotlib.lines import Line2D

    used = [MARKERS[name] for name in MARKERS if any(row["decoding"]["method"] == name for row in rows)]
    marks = [
        Line2D([], [], color=BASE if name == "NTP" else OTHER, marker=m, linestyle="", label=name) for m, name in used
    ]
    marks.append(Line2D([], [], color=FRONT, marker="o", linewidth=1.2, label="on the front"))
    axes.figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False, fontsize=8)


def _axes(axes: Axes, base: dict, speeds: list[float], title: str) -> None:
    """Scales, names, and a second scale for the difference to NTP in percent."""
    nll = base["nll"]["mean"]
    if max(speeds) > 4 * min(speeds):
        axes.set_xscale("log")
        ticks = [n for n in (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100, 200, 500, 1000) if 0.8 < n < 1.3 * max(speeds)]
        axes.set_xticks(ticks, [f"{n}x" for n in ticks])
        axes.set_xticks([], minor=True)
    axes.margins(x=0.07, y=0.1)
    percent = (lambda y: 100 * (np.asarray(y) / nll - 1)), (lambda p: nll * (1 + np.asarray(p) / 100))
    share = axes.secondary_yaxis("right", functions=percent)
    share.set_ylabel("over NTP, %")
    note = "labels: k/d; bars: 95% interval of the paired difference to NTP"
    axes.set(xlabel=f"speed-up over NTP\n{note}", ylabel="NLL under NTP, nats a token (low is good)")
    axes.set_title(title, fontsize=10)
    axes.grid(color=OTHER, alpha=0.15)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
