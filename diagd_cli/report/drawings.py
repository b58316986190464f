"""Drawings of the report, as SVG: fidelity frame by frame, and the order in which tokens are
made.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from diagd_cli.report.animation import EARLY, RECENT
from diagd_cli.report.comparison import ComparisonRow, Fidelity
from diagd_cli.report.figure import figure_class
from diagd_cli.report.timeline import Timeline

# that the colour-blind tell apart
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vP"
INK = "#010203"  # stands for the page's own colour of text, which is light on a dark page
NUMBERED = 32  # columns of tokens at most that have room for their steps
CELL, WIDTH = 22, 900  # pixels: of a token with its number; of two frames at most
LEFT, TOP, APART = 52, 46, 30  # pixels beside and above the first frame, and between the two


def curve(rows: Sequence[ComparisonRow], limit: Fidelity | None) -> str:
    """PSNR to ground truth by new frame of each decoding, as an <svg> element. Raises MissingExtra.

    limit: that of the tokenizer alone, drawn beside them.
    """
    figure = figure_class("--html")(figsize=(9, 4), layout="constrained")
    import matplotlib

    axes = figure.subplots()
    for n, row in enumerate(rows):
        scores = row.fidelity.psnr_by_frame if row.fidelity else ()
        style: dict[str, Any] = {
            "color": COLOURS[n % len(COLOURS)],
            "marker": MARKERS[n % len(MARKERS)],
            "markersize": 5,
        }
        axes.plot(range(1, len(scores) + 1), scores, label=row.label, **style)
    if limit:
        scores = limit.psnr_by_frame
        axes.plot(
            range(1, len(scores) + 1),
            scores,
            color="#888888",
            linestyle="--",
            label="tokenizer alone",
        )
    axes.set(xlabel="new frame", ylabel="PSNR to ground truth, dB")
    # AutoLocator, the usual one, takes it.
    axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
    axes.grid(color="#888888", alpha=0.3)
    axes.legend(frameon=False, labelcolor=INK, ncols=2)
    for part in (axes.xaxis.label, axes.yaxis.label):
        part.set_color(INK)
    axes.tick_params(colors=INK)
    for side, spine in axes.spines.items():
        spine.set_color(INK)
        spine.set_visible(side in ("left", "bottom"))
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    file = io.StringIO()
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "diagd", "font.family": "sans-serif"}
    ):
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")


def step_map(line: Timeline, k: int, d: int) -> str:
    """The first two new frames as grids of tokens, each with its step, counted from 0, as an <svg>
    element.

    A bracket shows k between two rows and d between the frames; what is made in the busiest step
    has a frame.
    """
    made = line.made[:2]
    frames, h, w = made.shape
    cell = CELL if w <= NUMBERED else max(4, WIDTH // (2 * w))
    counts = np.bincount(made.ravel())
    last, busiest = int(made.max()), int(counts.argmax()) if counts.max() > 1 else -1
    parts = []
    for t in range(frames):
        left = LEFT + t * (w * cell + APART)
        parts.append(
            f'<text x="{left}" y="{TOP - 8}">frame {t + 1}: steps {made[t].min()} to '
            f"{made[t].max()}</text>"
        )
        parts += [
            token(
                left + j * cell,
                TOP + i * cell,
                cell,
                int(made[t, i, j]),
                last,
                busiest,
                w <= NUMBERED,
            )
            for i in range(h)
            for j in range(w)
        ]
    if h > 1:
        parts.append(
            bracket((LEFT - 5, TOP + cell / 2), (LEFT - 5, TOP + 1.5 * cell), (-6, 0), f"k={k}")
        )
    if frames > 1 and made[1, 0, 0] == d:  # else the window rolls between them
        start, end = ((LEFT + t * (w * cell + APART) + cell / 2, 22) for t in (0, 1))
        parts.append(bracket(start, end, (0, -6), f"d={d}"))
    wide, high = LEFT + frames * (w * cell + APART), TOP + h * cell + 24
    note = (
        f"framed: the {counts[busiest]:,} tokens made in step {busiest}"
        if busiest >= 0
        else "one token a step"
    )
    parts.append(f'<text x="{LEFT}" y="{high - 6}">{note}</text>')
    label = escape(f"{line.label}: step of each token", quote=True)
    style = 'font-family="system-ui, sans-serif" font-size="12" fill="currentColor"'
    return (
        f'<svg viewBox="0 0 {wide} {high}" width="{wide}" role="img" aria-label="{label}" '
        f"{style}>{''.join(parts)}</svg>"
    )


def token(x: int, y: int, cell: int, step: int, last: int, busiest: int, numbered: bool) -> str:
    """A token's square, the lighter the later it is made, with its step as text, or where there is
    no room as a hint.
    """
    share = step / max(1, last)
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(EARLY, RECENT, strict=True))
    edge = ' stroke="#E69F00" stroke-width="2"' if step == busiest else ""
    side = cell - (2 if edge else 1)
    inset = 0.5 if edge else 0
    square = (
        f'<rect x="{x + inset}" y="{y + inset}" width="{side}" height="{side}" '
        f'fill="#{red:02x}{green:02x}{blue:02x}"{edge}'
    )
    if not numbered:
        return f"{square}><title>step {step}</title></rect>"
    ink = "#fff" if share < 0.55 else "#000"
    size = 10 if step < 1000 else 8
    place = f'x="{x + (cell - 1) / 2}" y="{y + cell / 2 + 3}"'
    return (
        f'{square}/><text {place} text-anchor="middle" font-size="{size}" '
        f'fill="{ink}">{step}</text>'
    )


def bracket(start: tuple, end: tuple, out: tuple[int, int], text: str) -> str:
    """A bracket from `start` to `end` that opens away from `out`, with text on that side."""
    (x1, y1), (x2, y2), (dx, dy) = start, end, out
    path = (
        f'<path d="M{x1} {y1}l{dx} {dy}L{x2 + dx} {y2 + dy}l{-dx} {-dy}" fill="none" '
        'stroke="currentColor"/>'
    )
    if dx:
        return (
            f'{path}<text x="{x1 + dx - 3}" y="{(y1 + y2) / 2 + 4}" text-anchor="end">{text}</text>'
        )
    return f'{path}<text x="{(x1 + x2) / 2}" y="{y1 + dy - 4}" text-anchor="middle">{text}</text>'
