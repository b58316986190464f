"""Where a model looked, as a table of shares."""

from __future__ import annotations

from pathlib import Path

from diagd_cli.report.attention import AttentionReport, rounded
from diagd_cli.report.table import Table

WORDS = {
    "this_frame": "this frame",
    "itself": "  the token itself",
    "same_row": "  same row, itself included",
    "row_above": "  row above",
    "near": "  within {radius}, itself included",
    "previous_frame": "previous frame",
    "same_place_before": "  same place",
    "near_before": "  within {radius} of the same place",
    "earlier_frames": "earlier frames",
    "conditioning": "conditioning tokens",
    "prefix": "tokens before the first frame",
    "prompt_frames": "all prompt frames",
    "not_yet_made": "not yet made by {decoding}",
}


def title(report: AttentionReport) -> str:
    """What the map shows, in a line."""
    layer = "mean of all layers" if report.layer is None else f"layer {report.layer}"
    heads = "all heads" if report.head is None else f"head {report.head}"
    return (
        f"{report.preset}, {Path(report.clip).name}: attention of frame {report.seen.frame}, "
        f"{layer}, {heads}"
    )


def table(report: AttentionReport) -> Table:
    """The shares; what no token could see has no row."""
    shares, expected = rounded(report.seen.shares), rounded(report.seen.uniform)
    rows = []
    for name, words in WORDS.items():
        share, uniform = shares[name], expected[name]
        if uniform or name == "not_yet_made":
            label = words.format(radius=report.radius, decoding=report.decoding["label"])
            times = f"{share / uniform:.1f}" if uniform else "-"
            rows.append((label, f"{share:.1%}", f"{uniform:.1%}", times))
    return Table(["attention on", "share", "uniform", "times"], rows, title(report))
