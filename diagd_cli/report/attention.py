"""Where a model looked, as records: made by `jobs.attention`, shown by a picture and a table, and
written as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diagd_cli.tokens.grid import Grid

# everything, each position once
PARTS = ("this_frame", "previous_frame", "earlier_frames", "conditioning", "prefix")
NEIGHBOURS = (
    *PARTS,
    "itself",
    "same_row",
    "row_above",
    "near",
    "same_place_before",
    "near_before",
    "prompt_frames",
    "not_yet_made",
)


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """Attention of the tokens of one latent frame, each query standing at its own token.

    frame: from 0.
    weights: float32 [h*w, S], a row for each token in raster order, over all positions up to the
        frame's last; rows sum to 1.
    shares: the part of it that falls on each of `NEIGHBOURS`, mean over the tokens.
    layers: the same for each layer.
    uniform: what the shares would be if every token attended alike to all that it sees.
    """

    grid: Grid
    frame: int
    weights: np.ndarray
    shares: Mapping[str, float]
    layers: Sequence[Mapping[str, float]]
    uniform: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class AttentionReport:
    """Where a preset's model looked while it read a clip.

    clip: path, `sha256`: of the file, `first`: frame of it that was read first.
    preset: its name.
    layer, head: the one that was looked at; None for the mean of all.
    radius: rows and columns that are near.
    decoding: label and facts of the one whose `not_yet_made` is told.
    output: the picture; None where none was drawn.
    """

    clip: str
    sha256: str
    first: int
    preset: str
    seen: AttentionMap
    layer: int | None
    head: int | None
    radius: int
    decoding: Mapping
    output: str | None = None

    def facts(self) -> dict:
        """The report as JSON has it."""
        seen = self.seen
        found = {
            "input": {"path": self.clip, "sha256": self.sha256, "first": self.first},
            "preset": self.preset,
            "frame": seen.frame,
            "grid": [seen.grid.h, seen.grid.w],
            "positions": seen.weights.shape[1],
            "layer": self.layer,
            "head": self.head,
            "radius": self.radius,
            "decoding": self.decoding,
            "shares": rounded(seen.shares),
            "uniform": rounded(seen.uniform),
            "layers": [rounded(shares) for shares in seen.layers],
        }
        return found if self.output is None else {**found, "output": self.output}


def rounded(shares: Mapping[str, float]) -> dict[str, float]:
    """Shares as JSON and tables have them."""
    return {name: round(share, 6) for name, share in shares.items()}
