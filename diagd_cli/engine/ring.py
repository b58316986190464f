"""Where a position lies in a cache that holds the newest frames alone, and what it sees there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from diagd_cli.schedule.decoding import Decoding
from diagd_cli.schedule.wavefront import LOOKS_BACK, wavefront
from diagd_cli.tokens.grid import Grid

if TYPE_CHECKING:
    from torch import Tensor

    from diagd_cli.model.mask import Span

AHEAD = 2  # latent frames by which a clip may be ahead of the slowest of its batch
NEVER = 1 << 62  # the position that an empty slot holds: nobody sees it


@dataclass(frozen=True)
class Ring:
    """Slots of positions: the first have one of their own, the later ones take the rest in turns.

    fixed: positions 0 .. fixed-1 lie at slot = position.
    turns: slots after them; 0 where there are no more positions than slots.
    window: latent frames that a token sees, its own one included; 0: all.
    sinks: latent frames at the front that it sees besides; so it does the prefix.
    grid: how latent frames lie in the sequence.
    """

    grid: Grid
    fixed: int
    turns: int = 0
    window: int = 0
    sinks: int = 0

    @property
    def frames(self) -> int:
        """Latent frames that take turns."""
        return self.turns // self.grid.block

    @property
    def places(self) -> int:
        """Slots in all."""
        return self.fixed + self.turns

    def slots(self, positions: Tensor) -> Tensor:
        """Where positions int64 [..., n] lie."""
        if not self.turns:
            return positions
        later = (positions - self.fixed).remainder(self.turns) + self.fixed
        return later.where(positions >= self.fixed, positions)

    def serves(self, other: Ring) -> bool:
        """Whether it does what another one would, with as much room or more."""
        return replace(self, turns=0) == replace(other, turns=0) and self.turns >= other.turns

    def extent(self, positions: int) -> int:
        """Slots, from the first, that `positions` positions from the first have used."""
        return min(positions, self.places)

    def sees_all(self, positions: int) -> bool:
        """Whether of so many positions from the first each sees all before it."""
        return not self.window or positions <= self.grid.length(self.window)

    def visible(self, held: Tensor, positions: Tensor, start: Tensor | None = None) -> Tensor:
        """Which slots tokens see, bool [..., n, S]; the parameters are those of `span`."""
        return self.span(held, positions, start).visible()

    def span(self, held: Tensor, positions: Tensor, start: Tensor | None = None) -> Span:
        """Which slots tokens see: the rule of what is visible, for all decodings.

        Those that hold a position at or before their own, in the window. What lies before `start`
        is padding, which nobody sees but itself: softmax over nothing would be no number.

        held: int64 [..., S], the position that each slot holds, `NEVER` where none.
        positions: int64 [..., n], of the tokens.
        start: int64 [B, 1], the first position of each clip that is no padding; None is 0.
        """
        from diagd_cli.model.mask import Span  # the memory of a ring is asked for without torch

        least = None if start is None else positions.minimum(start)
        if not self.window:
            return Span(held, positions, least=least)
        grid = self.grid
        frame = (positions - grid.prefix).div(grid.block, rounding_mode="floor")
        oldest = (frame - (self.window - 1)) * grid.block + grid.prefix
        return Span(held, positions, oldest, grid.length(self.sinks), least)


def ring_for(grid: Grid, decoding: Decoding, window: int) -> Ring:
    """Room for the window, and where it slides for the frames in flight.

    grid: how latent frames lie in the sequence.
    decoding: by which they are made.
    window: latent frames that the model holds.
    """
    if decoding.window == "roll":
        return Ring(grid, grid.length(window))
    window = decoding.sees(window)
    kept = max(decoding.sinks, decoding.stand_in == "prompt-frame")
    if decoding.method in ("exact", "ntp"):  # alike, as sums are made in the order of slots
        turns = (window + AHEAD) * grid.block
        return Ring(grid, grid.length(kept), turns, window, decoding.sinks)
    # far from the first frame, where nothing is left out because it is not there
    wave = wavefront(grid, LOOKS_BACK + window + kept, None, decoding)
    turns = wave.frames_held(window, kept) * grid.block
    return Ring(grid, grid.length(kept), turns, window, decoding.sinks)
