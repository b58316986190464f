"""Which positions are what to the tokens of a frame: its neighbours in the frame and in those
before.

Shapes: Q queries, S cache slots.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diagd_cli.report.attention import NEIGHBOURS
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.schedule.plan import build_plan
from diagd_cli.tokens.grid import Grid


class Surroundings:
    """Which positions are what to the tokens of a frame.

    A token belongs to its own row, and is near itself.

    grid: of the latent frames.
    frame: the latent frame whose tokens ask.
    context: latent frames that are given; all of them but `frame` are `prompt_frames`.
    radius: rows and columns that are `near`.
    decoding: decides what is `not_yet_made`: what comes before a token, but has not been fed when
        the decoding feeds it, so that its query cannot see it.
    device: of the masks.

    `queries`, int64 [h*w], is where the frame's tokens stand, and `end` one past the last of them.
    """

    def __init__(
        self,
        grid: Grid,
        frame: int,
        context: int,
        radius: int,
        decoding: Decoding,
        device: torch.device | str = "cpu",
    ):
        self.grid, self.frame, self.context, self.radius = grid, frame, context, radius
        queries = grid.length(frame) + grid.places.ravel()
        self.end = int(queries[-1]) + 1
        self.queries = torch.as_tensor(queries, device=device)
        written = np.zeros(self.end, np.int64)
        if frame >= context:  # of the frames before, everything is fed at once
            written = build_plan(grid, context, frame - context + 1, decoding).first_write
        self.written = torch.as_tensor(written, device=device)
        self.coords = torch.as_tensor(grid.coords(self.end), device=device).unbind(1)

    def masks(self, slots: Tensor, extent: int) -> dict[str, Tensor]:
        """By each of `NEIGHBOURS`, which positions 0 .. extent-1 are that to those at `slots` [Q]:
        bool [Q, extent].
        """
        t, i, j = (axis[:extent] for axis in self.coords)
        prefix = torch.arange(extent, device=slots.device) < self.grid.prefix
        code = (i < self.grid.h) & (j < self.grid.w) & ~prefix
        steering = ~code & ~prefix  # and what else is known
        own, before = code & (t == self.frame), code & (t == self.frame - 1)
        # how far above, how far to the left
        rows, columns = (axis[slots][:, None] - axis[:extent] for axis in self.coords[1:])
        near, same = (
            (rows.abs() <= self.radius) & (columns.abs() <= self.radius),
            (rows == 0) & (columns == 0),
        )
        masks = [
            own, before, code & (t < self.frame - 1), steering, prefix,
            own & same, own & (rows == 0), own & (rows == 1), own & near,
            before & same, before & near,
            code & (t < self.context) & ~own,
            visible(slots, extent) & (self.written[:extent] > self.written[slots][:, None]),
        ]  # fmt: skip
        return {
            name: mask.expand(len(slots), extent)
            for name, mask in zip(NEIGHBOURS, masks, strict=True)
        }

    def mass(self, weights: Tensor, slots: Tensor) -> Tensor:
        """Of weights [Q, S] of the queries at `slots`, the sum in each of `NEIGHBOURS`, a token of
        the frame; float64.
        """
        masks = self.masks(slots, weights.shape[1])
        return (
            torch.stack([(weights * mask).sum(dtype=torch.float64) for mask in masks.values()])
            / self.grid.area
        )


def visible(slots: Tensor, extent: int) -> Tensor:
    """Bool [Q, extent]: the positions at or before each of `slots` int64 [Q]."""
    return torch.arange(extent, device=slots.device) <= slots[:, None]
