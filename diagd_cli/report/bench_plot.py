"""Speed-up against steps, beside the line on which a step takes as long however many tokens it
makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diagd_cli.files.atomic import atomic
from diagd_cli.report.bench import BenchReport, BenchRow
from diagd_cli.report.bench_table import describe
from diagd_cli.report.figure import figure_class
from diagd_cli.report.labels import spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_plot(path: Path, report: BenchReport) -> None:
    """A PNG with a series of points for every dtype and batch size.

    Raises MissingExtra, OutputError.
    """
    figure = figure_class("--plot")(figsize=(7, 5), dpi=150, layout="constrained")
    axes, series = figure.subplots(), series_of(report.rows)
    for name, members in series.items():
        draw_series(axes, name, members)
    base = report.rows[report.rows[0].baseline]
    steps = sorted({row.steps for row in report.rows})
    ideal = [base.steps / count for count in steps]
    axes.plot(
        steps, ideal, color="grey", linestyle=":", marker=".", label="ideal: the ratio of steps"
    )
    axes.set(xscale="log", yscale="log", xlabel="steps", ylabel=f"speed-up over {base.label}")
    axes.set_title(f"{report.preset}, {report.frames} new frames\n{describe(report)}", size=9)
    scale(axes)

    # the points of the first series alone have names: those of the others lie at the same steps
    first = next(iter(series.values()))
    points = [(float(row.steps), row.rates.speedup) for row in first]
    labels = [axes.annotate(row.label, at, size=8) for row, at in zip(first, points, strict=True)]
    spread(figure, axes, labels, points, sorted(points))
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png")


def series_of(rows: Sequence[BenchRow]) -> dict[str, list[BenchRow]]:
    """The rows of each dtype and batch size."""
    series: dict[str, list[BenchRow]] = {}
    for row in rows:
        series.setdefault(f"{row.dtype}, batch {row.batch}", []).append(row)
    return series


def draw_series(axes: Axes, name: str, rows: Sequence[BenchRow]) -> None:
    """The points of one series; hollow and dashed where they are extrapolated."""
    points = [(row.steps, row.rates.speedup) for row in sorted(rows, key=lambda row: row.steps)]
    guess = any(row.extrapolated for row in rows)
    hollow: dict[str, Any] = {"markerfacecolor": "none", "linestyle": "--"} if guess else {}
    label = f"{name} (extrapolated)" if guess else name
    axes.plot(*zip(*points, strict=True), marker="o", label=label, **hollow)


def scale(axes: Axes) -> None:
    """Logarithmic axes with plain numbers, a grid and a legend."""
    from matplotlib.ticker import LogLocator

    axes.grid(True, which="both", alpha=0.2)
    for axis, unit in ((axes.xaxis, ""), (axes.yaxis, "x")):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}" + unit)
        axis.set_minor_formatter("")
    axes.legend(fontsize=8)
