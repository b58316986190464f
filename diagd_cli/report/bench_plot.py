"""Speed-up against steps, beside the line on which a step takes as long however many tokens it makes."""

from __future__ import annotations

from pathlib import Path

from diagd_cli.files.atomic import atomic
from diagd_cli.report.bench_table import rates
from diagd_cli.report.figure import figure_class
from diagd_cli.report.labels import spread


def write_plot(path: Path, rows: list[dict], title: str) -> None:
    """A PNG with a series of points for every dtype and batch size of `rows` (see `report.rows_of`). Raises OutputError."""
    figure = figure_class("--plot")(figsize=(7, 5), dpi=150, layout="constrained")
    from matplotlib.ticker import LogLocator

    axes = figure.subplots()
    series: dict[str, list[dict]] = {}
    for row in rows:
        series.setdefault(f"{row['dtype']}, batch {row['batch']}", []).append(row)
    for name, members in series.items():
        members = sorted(members, key=lambda row: row["steps"])
        guess = any(row["extrapolated"] for row in members)
        points = [(row["steps"], rates(row)["speedup"]) for row in members]
        hollow = {"markerfacecolor": "none", "linestyle": "--"} if guess else {}
        axes.plot(*zip(*points, strict=True), marker="o", label=name + (" (extrapolated)" if guess else ""), **hollow)
    steps = sorted({row["steps"] for row in rows})
    base = rows[rows[0]["baseline"]]["steps"]
    axes.plot(
        steps, [base / n for n in steps], color="grey", linestyle=":", marker=".", label="ideal: the ratio of steps"
    )
    axes.set(xscale="log", yscale="log", xlabel="steps", ylabel=f"speed-up over {rows[rows[0]['baseline']]['label']}")
    axes.set_title(title, size=9)
    axes.grid(True, which="both", alpha=0.2)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis, unit in ((axes.xaxis, ""), (axes.yaxis, "x")):
        axis.set_major_formatter("{x:g}" + unit)
        axis.set_minor_formatter("")
    axes.legend(fontsize=8)
    first = [(row["steps"], rates(row)["speedup"]) for row in next(iter(series.values()))]
    labels = [
        axes.annotate(row["label"], at, size=8) for row, at in zip(next(iter(series.values())), first, strict=True)
    ]
    spread(figure, axes, labels, first, sorted(first))
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png")
