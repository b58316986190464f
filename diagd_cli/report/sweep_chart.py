"""The chart of a sweep: NLL against speed-up, with intervals, the front as a line, and a label k/d
at every point.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diagd_cli.files.atomic import atomic
from diagd_cli.report.evaluation import EvaluationRow
from diagd_cli.report.figure import figure_class
from diagd_cli.report.labels import spread
from diagd_cli.report.measures import NLL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

# that the colour-blind tell apart; markers tell the methods
FRONT, OTHER, BASE = "#0072B2", "#767676", "#D55E00"
MARKERS = {
    "ntp": ("*", "NTP"),
    "exact": ("D", "exact"),
    "diagd": ("o", "DiagD"),
    "spatial": ("s", "spatial DiagD"),
    "zipar": ("^", "ZipAR"),
}


def check() -> type:
    """matplotlib's Figure. Raises MissingExtra."""
    return figure_class("The chart (--no-chart leaves it out)")


def write_chart(path: Path, rows: Sequence[EvaluationRow], title: str) -> None:
    """Write the PNG for rows of a sweep, the first of which is NTP.

    Raises MissingExtra, OutputError.
    """
    figure = check()(figsize=(9, 6), dpi=150, layout="constrained")
    draw(figure, rows, title)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png")


def draw(figure: Figure, rows: Sequence[EvaluationRow], title: str) -> list[Annotation]:
    """Draw into a figure; returns the labels, one a row."""
    axes, base = figure.subplots(), rows[0]
    points = [point_of(row) for row in rows]
    axes.axhline(points[0][1], color=BASE, linestyle=":", linewidth=1, zorder=1)
    line = sorted(point for point, row in zip(points, rows, strict=True) if row.front)
    axes.plot(*zip(*line, strict=True), color=FRONT, linewidth=1.2, zorder=2)
    for row, point in zip(rows, points, strict=True):
        _point(axes, row, point)
    _axes(axes, base, [x for x, _ in points], title)
    _legend(axes, rows)
    labels = [
        axes.annotate(short(row, rows), point, fontsize=8, va="bottom")
        for row, point in zip(rows, points, strict=True)
    ]
    spread(figure, axes, labels, points, line)
    return labels


def short(row: EvaluationRow, rows: Sequence[EvaluationRow]) -> str:
    """`NTP`, or `k/d`, and what else tells it from others: a stand-in where there are several, and
    missing repair.
    """
    facts = row.made
    if facts["method"] == "ntp":
        return "NTP"
    if facts["method"] == "exact":
        return f"exact {facts['width']}" if facts["width"] else "exact"
    text = f"{facts['k']}/{facts['d']}"
    others = [other.made for other in rows if other.made["method"] in ("diagd", "spatial")]
    if facts["method"] != "zipar" and len({other["stand_in"] for other in others}) > 1:
        text += f" {facts['stand_in']}"
    text += "" if facts["repair"] else " no repair"
    return text + (" zero slots" if facts.get("zero_slots") else "")


def bars(row: EvaluationRow) -> tuple[float, float] | None:
    """How far the interval of the paired difference to NTP reaches below and above the NLL; None
    where it has none.
    """
    found = row.change(NLL)
    if found is None or found.low is None or found.high is None:
        return None
    return found.mean - found.low, found.high - found.mean


def point_of(row: EvaluationRow) -> tuple[float, float]:
    """(speed-up, NLL) of a decoding."""
    return row.mean("speedup"), row.mean("nll")


def _point(axes: Axes, row: EvaluationRow, point: tuple[float, float]) -> None:
    method = row.made["method"]
    marker = MARKERS[method][0]
    colour = BASE if method == "ntp" else FRONT if row.front else OTHER
    if reach := bars(row):
        axes.errorbar(
            *point,
            yerr=[[reach[0]], [reach[1]]],
            color=colour,
            alpha=0.5,
            linewidth=1,
            capsize=2,
            zorder=2,
        )
    face = colour if row.front or method == "ntp" else "white"
    size = 12 if method == "ntp" else 6
    axes.plot(*point, marker, color=colour, markerfacecolor=face, markersize=size, zorder=3)


def _legend(axes: Axes, rows: Sequence[EvaluationRow]) -> None:
    """What the markers stand for, below the axes, where no point can be."""
    from matplotlib.lines import Line2D

    used = [MARKERS[name] for name in MARKERS if any(row.made["method"] == name for row in rows)]
    marks = [
        Line2D(
            [], [], color=BASE if name == "NTP" else OTHER, marker=marker, linestyle="", label=name
        )
        for marker, name in used
    ]
    marks.append(Line2D([], [], color=FRONT, marker="o", linewidth=1.2, label="on the front"))
    axes.figure.legend(
        handles=marks, loc="outside lower center", ncols=len(marks), frameon=False, fontsize=8
    )


def _axes(axes: Axes, base: EvaluationRow, speeds: list[float], title: str) -> None:
    """Scales, names, and a second scale for the difference to NTP in percent."""
    nll = base.mean("nll")
    if max(speeds) > 4 * min(speeds):
        axes.set_xscale("log")
        ticks = [
            n
            for n in (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100, 200, 500, 1000)
            if 0.8 < n < 1.3 * max(speeds)
        ]
        axes.set_xticks(ticks, [f"{n}x" for n in ticks])
        axes.set_xticks([], minor=True)
    axes.margins(x=0.07, y=0.1)

    def percent(value: Any) -> Any:
        return 100 * (value / nll - 1)

    def absolute(share: Any) -> Any:
        return nll * (1 + share / 100)

    share = axes.secondary_yaxis("right", functions=(percent, absolute))
    share.set_ylabel("over NTP, %")
    note = "labels: k/d; bars: 95% interval of the paired difference to NTP"
    axes.set(
        xlabel=f"speed-up over NTP\n{note}", ylabel="NLL under NTP, nats a token (low is good)"
    )
    axes.set_title(title, fontsize=10)
    axes.grid(color=OTHER, alpha=0.15)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
