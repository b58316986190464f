"""What is fed for a row's first token while its raster predecessor does not exist yet.

The paper has several answers. The missing token is the predecessor: (t, i-1, w-1), or
(t-1, h-1, w-1) at the start of a frame. Where a rule points at a token that does not exist yet
either (small d), the newest earlier frame that has that place is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from diagd_cli.errors import UsageError

if TYPE_CHECKING:
    from diagd_cli.tokens.grid import Grid

StandIn = Literal["previous-frame", "previous-frame-target", "prompt-frame", "above", "newest"]


def find_stand_in(policy: StandIn, grid: Grid, context: int, k: int, d: int, t: int, i: int) -> int:
    """Flat position of the token that stands in for the predecessor of (t, i, 0).

    grid: how codes and conditioning lie in the sequence.
    context: latent frames that are known.
    k, d: of the decoding.
    t, i: latent frame, from the first new one, and row.
    policy: which token it is:

    - `previous-frame`         the missing token's place, one frame earlier;
    - `previous-frame-target`  the target's place, one frame earlier (the text of section 3.2);
    - `prompt-frame`           the missing token's place in the first prompt frame (the
                               authors' batch code);
    - `above`                  the first token of the row above (appendix D, ZipAR);
    - `newest`                 the newest token of the row above (the authors' demo).

    Raises UsageError where no frame has the place: without a context frame, d can be too small.
    """
    step = t * d + i * k
    frame, row = (t, i - 1) if i else (t - 1, grid.h - 1)  # of the missing token

    def count(f: int) -> int:
        """Tokens of `row` that frame f has before this step."""
        return grid.w if f < 0 else min(max(step - f * d - row * k, 0), grid.w)

    def newest_frame(before: int, row: int, column: int) -> int:
        """The newest frame <= before that has (row, column)."""
        earlier = range(before, -context - 1, -1)
        return first(f for f in earlier if f < 0 or f * d + row * k + column < step)

    def first(candidates: Iterator[int]) -> int:
        found = next(candidates, None)
        if found is None:
            missing = f"row {row} of frame {frame}"
            raise UsageError(f"With d={d} nothing can stand in ({policy}) for {missing}", "Raise d")
        return found

    if policy == "previous-frame":
        f, r, c = newest_frame(frame - 1, row, grid.w - 1), row, grid.w - 1
    elif policy == "previous-frame-target":
        f, r, c = newest_frame(t - 1, i, 0), i, 0
    elif policy == "prompt-frame":
        f, r, c = -context, row, grid.w - 1
    elif policy == "above":
        f, r, c = newest_frame(frame, row, 0), row, 0
    elif policy == "newest":
        f = first(f for f in range(frame, -context - 1, -1) if count(f))
        r, c = row, count(f) - 1
    else:
        raise ValueError(f"unknown stand-in {policy!r}")
    return int(grid.position(context + f, r, c))
