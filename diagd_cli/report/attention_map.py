"""The attention map of a frame: a row for each of its tokens, its neighbours marked, and shares by
layer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diagd_cli.files.atomic import atomic
from diagd_cli.report.attention import AttentionMap
from diagd_cli.report.figure import figure_class

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# of the map at most: neighbouring positions of a larger one are drawn as their mean
COLUMNS, ROWS = 2400, 600
SHOWN = {  # shares that are drawn by layer, in colours that the colour-blind tell apart
    "same_row": ("#0072B2", "o", "same row"),
    "row_above": ("#56B4E9", "s", "row above"),
    "near": ("#009E73", "^", "near, this frame"),
    "near_before": ("#D55E00", "v", "near, previous frame"),
    "same_place_before": ("#E69F00", "D", "same place, previous frame"),
}


def write_map(path: Path, attention: AttentionMap, title: str) -> None:
    """Write an attention map as a PNG, `path` complete or untouched.

    Raises MissingExtra, OutputError.
    """
    figure = figure_class("The picture")(figsize=(14, 8), dpi=150, layout="constrained")
    figure.suptitle(title, fontsize=11)
    above, below = figure.subplots(2, 1, height_ratios=[5, 3])
    draw_map(above, attention)
    draw_layers(below, attention)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png")


def draw_map(axes: Axes, attention: AttentionMap) -> None:
    """The map on a logarithmic scale, three powers of ten down from its brightest places."""
    from matplotlib.colors import LogNorm

    grid, weights = attention.grid, attention.weights
    tokens, length = weights.shape
    small = pooled(weights)
    top = float(np.quantile(small, 0.999))
    image = axes.imshow(
        small, norm=LogNorm(max(top / 1000, 1e-9), top, clip=True), cmap="gray", aspect="auto",
        extent=(0, length, tokens, 0), interpolation="nearest",
    )  # fmt: skip
    axes.figure.colorbar(image, ax=axes, label="attention", pad=0.01, aspect=40)
    starts = [int(grid.position(t, 0, 0)) for t in range(attention.frame + 1)]
    for start in starts[1:]:
        axes.axvline(start, color="#888888", linewidth=0.6)
    mark_neighbours(axes, attention, starts)
    names = [f"frame {t}" if len(starts) < 12 else str(t) for t in range(len(starts))]
    axes.set_xticks([start + (grid.block - grid.tail) / 2 for start in starts], names)
    axes.tick_params(axis="x", length=0)
    note = (
        "a query stands at its token and predicts the next one: what is bright beside a mark is a "
        "neighbour of that"
    )
    axes.set(
        ylabel=f"query: token of frame {attention.frame}",
        xlabel=note,
        xlim=(0, length),
        ylim=(tokens, 0),
    )
    axes.legend(loc="upper right", fontsize=7, framealpha=1)  # where nothing can be seen


def mark_neighbours(axes: Axes, attention: AttentionMap, starts: list[int]) -> None:
    """Short strokes on the diagonals where neighbours lie, with gaps through which the map
    is seen.
    """
    grid, rows = attention.grid, np.arange(attention.grid.area)
    own, places = starts[-1], attention.grid.places.ravel()
    strokes: dict[str, Any] = {"linestyle": (0, (6, 14)), "linewidth": 1.4}
    above = rows[grid.w :]
    axes.plot(
        own + places,
        rows,
        color="#0072B2",
        label="the token itself, and left of it its row",
        **strokes,
    )
    axes.plot(
        own + places[: len(above)],
        above,
        color="#56B4E9",
        label="row above, same column",
        **strokes,
    )
    for n, start in enumerate(starts[:-1]):
        label = "same place, frames before" if not n else None
        axes.plot(start + places, rows, color="#E69F00", label=label, **strokes)


def draw_layers(axes: Axes, attention: AttentionMap) -> None:
    """Shares of the attention on each kind of neighbour, layer by layer; dotted: were attention
    uniform.
    """
    numbers = np.arange(len(attention.layers))
    for name, (colour, marker, label) in SHOWN.items():
        values = [100 * layer[name] for layer in attention.layers]
        axes.plot(numbers, values, color=colour, marker=marker, markersize=5, label=label)
        axes.axhline(100 * attention.uniform[name], color=colour, linestyle=":", linewidth=1)
    axes.set(xlabel="layer", ylabel="% of the attention", ylim=(0, None))
    axes.set_xticks(numbers)
    axes.grid(True, alpha=0.2)
    axes.legend(
        fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(SHOWN), frameon=False
    )
    axes.set_title("dotted: if uniform", loc="right", fontsize=8)


def pooled(weights: np.ndarray) -> np.ndarray:
    """Weights [Q, S] as means over blocks, of which at most about ROWS x COLUMNS are left; the rest
    is cut off.
    """
    down, across = (
        max(1, -(-size // most)) for size, most in zip(weights.shape, (ROWS, COLUMNS), strict=True)
    )
    height, width = (
        max(1, size // by) for size, by in zip(weights.shape, (down, across), strict=True)
    )
    blocks = weights[: height * down, : width * across].reshape(height, down, width, across)
    return blocks.mean(axis=(1, 3))
