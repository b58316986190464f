"""The panels of a comparison as a video: every decoding beside ground truth, with difference maps
below if wanted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from diagd_cli.clip.panels import PAPER, captioned, enlarged, enlargement, stacked, tiled
from diagd_cli.clip.write import VideoWriter
from diagd_cli.report.comparison import Comparison
from diagd_cli.report.heat import coloured, difference, legend, top_of


def write_panels(path: Path, comparison: Comparison, heat: bool = False) -> dict | None:
    """Write the video. With `heat`, each panel has its difference to the first one below it.

    Returns what the maps show: `reference`, and the level of 0..255 at the `top` of the scale.
    Raises OutputError.
    """
    maps, about = difference_maps(comparison) if heat else (None, None)
    frames = pictures(comparison, maps, about)
    first = next(frames)
    with VideoWriter(path, first.shape[0], first.shape[1], comparison.fps) as writer:
        writer.write(first[None])
        for frame in frames:
            writer.write(frame[None])
    return about


def difference_maps(comparison: Comparison) -> tuple[list[np.ndarray], dict]:
    """Of all but the first of `shown`, their differences to it [F, H, W]; and what they show."""
    reference, *others = comparison.shown
    maps = [difference(video, reference) for video in others]
    return maps, {"reference": comparison.names[0], "top": top_of(maps)}


def pictures(
    comparison: Comparison, maps: list[np.ndarray] | None = None, about: dict | None = None
) -> Iterator[np.ndarray]:
    """The frames of the video, uint8 [H, W, 3]; `maps` and `about` are those of
    `difference_maps`.
    """
    videos, scale = comparison.shown, enlargement(comparison.videos[0].shape[2])
    height, width = (side * scale for side in videos[0].shape[1:3])
    blank = Image.new("RGB", (width, height), PAPER)
    key = legend(width, height, about["reference"], about["top"]) if about else blank
    for t in range(max(map(len, videos))):
        panels = []
        for n, (video, name, line) in enumerate(
            zip(videos, comparison.names, comparison.abouts(), strict=True)
        ):
            panel = captioned(
                enlarged(at(video, t), scale),
                f"{name}\n{line}",
                comparison.count(min(t, len(video) - 1)),
            )
            if maps is not None and about:
                known = n and t < len(maps[n - 1])
                below = enlarged(coloured(maps[n - 1][t], about["top"]), scale) if known else blank
                panel = stacked(panel, below if n else key)
            panels.append(panel)
        yield tiled(panels)


def at(video: np.ndarray, t: int) -> np.ndarray:
    """Frame t of a video, which stands still after its last one."""
    return video[min(t, len(video) - 1)]
