"""Which tokens are made at which step, and what is fed to make them. Plain NumPy; NTP, DiagD and ZipAR are all plans.

Token (t, i, j) of the new frames is made at step t*d + i*k + j (equation 5 of the paper counts them). It is predicted
from an input fed at its raster predecessor's position:

1. advance      the left neighbour, made one step before;
2. row start    the last token of the row above, or a stand-in for it while it is missing;
3. frame start  the conditioning tokens after the frame before; without any, the last token of the frame before, or its
                stand-in while it is missing;
4. late feed    a token that rules 1-3 have not fed, or for which a stand-in was fed, is fed the step after it was made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from diagd_cli.schedule.decoding import Decoding
from diagd_cli.schedule.standin import find_stand_in
from diagd_cli.tokens.grid import Grid


@dataclass(frozen=True)
class Plan:
    """A decoding of `frames` new latent frames after `context` known ones, as index arrays.

    Feed n gives the model the token at flat position `source[n]`, standing at flat position `position[n]` (rotary angle
    and cache slot); from its output comes the token at `target[n]`, -1 for none. The feeds of step s are
    starts[s] : starts[s+1], the first heads[s] of which have a target. All int64.

    `first_write[p]` is the step at which slot p is first written: -1 for the prompt, `steps` for never.
    """

    grid: Grid
    context: int
    frames: int
    decoding: Decoding
    source: np.ndarray
    position: np.ndarray
    target: np.ndarray
    starts: np.ndarray
    heads: np.ndarray
    first_write: np.ndarray

    @property
    def steps(self) -> int:
        """Forward passes, the prefill not counted."""
        return len(self.heads)

    @property
    def new_tokens(self) -> int:
        return self.frames * self.grid.area

    @property
    def length(self) -> int:
        """Flat positions in all: the slots that cache and token store need."""
        return len(self.first_write)

    @property
    def prefill(self) -> int:
        """Positions 0 .. prefill-1 are fed before the first step."""
        return int(np.argmax(self.first_write >= 0))

    @property
    def widths(self) -> np.ndarray:
        """Tokens fed at each step, int64 [steps]."""
        return np.diff(self.starts)

    @property
    def visible_from(self) -> np.ndarray:
        """The first step at which each slot may be seen, int64 [length]: once it is written, or from the start."""
        return np.full(self.length, -1) if self.decoding.zero_slots else self.first_write

    @property
    def step_of_feed(self) -> np.ndarray:
        return np.repeat(np.arange(self.steps), self.widths)

    @property
    def extents(self) -> np.ndarray:
        """Cache slots that each step needs to read: one past the largest position written so far, int64 [steps]."""
        return np.maximum.accumulate(np.maximum.reduceat(self.position, self.starts[:-1])) + 1

    def padded(self, width: int | None = None) -> Plan:
        """The same plan with every step `width` feeds wide (default: the widest step), for one static shape.

        Padded lanes feed token 0 at one scratch position past the end, write the scratch slot there, and put what they
        make there; no real lane can see it.
        """
        width = int(self.widths.max()) if width is None else width
        if width < self.widths.max():
            raise ValueError(f"width {width} is below the widest step ({self.widths.max()})")
        scratch = self.length
        shape, lane = (self.steps, width), np.arange(len(self.source)) - self.starts[self.step_of_feed]
        arrays = {}
        for name, fill in (("source", 0), ("position", scratch), ("target", scratch)):
            values = getattr(self, name)
            padded = np.full(shape, fill, np.int64)
            padded[self.step_of_feed, lane] = np.where(values < 0, scratch, values)
            arrays[name] = padded.ravel()
        return replace(
            self,
            **arrays,
            starts=np.arange(self.steps + 1) * width,
            heads=np.full(self.steps, width),
            first_write=np.append(self.first_write, 0),
        )


@lru_cache(maxsize=4)  # of a long clip most windows are alike; nothing changes a plan
def build_plan(grid: Grid, context: int, frames: int, decoding: Decoding) -> Plan:
    """The plan for `frames` new latent frames after `context` known ones.

    Raises UsageError for k, d or a stand-in that the grid or the context does not allow.
    """
    k, d, stand_in, repair = decoding.resolve(grid, context)
    if context * grid.block + grid.prefix < 1:
        raise ValueError("the first new token needs a token before it: a context frame or a prefix")
    steps = (frames - 1) * d + (grid.h - 1) * k + grid.w
    t, i, j = (x.ravel() for x in np.indices((frames, grid.h, grid.w)))
    made, place = t * d + i * k + j, grid.position(context + t, i, j)

    feeds = [_columns(made[j > 0], place[j > 0] - 1, place[j > 0] - 1, place[j > 0])]  # rule 1
    fed = j < grid.w - 1  # tokens fed truthfully, by raster order; rules 2 and 3 add to them
    covered = np.zeros_like(fed)  # tokens whose position holds a stand-in
    for start in np.flatnonzero(j == 0):
        step, goal = made[start], place[start]
        if i[start] == 0 and grid.conditioning and context + t[start]:  # rule 3; nothing steers the very first frame
            steering = grid.conditioning_positions(context + t[start] - 1)
            feeds.append(_columns(step, steering, steering, np.where(steering == goal - 1, goal, -1)))
        elif start == 0 or made[start - 1] < step:  # rules 2, 3: the predecessor exists (or is the prompt's last token)
            feeds.append(_columns(step, goal - 1, goal - 1, goal))
            if start:
                fed[start - 1] = True
        else:
            source = find_stand_in(stand_in, grid, context, k, d, t[start], i[start])
            feeds.append(_columns(step, source, goal - 1, goal))
            covered[start - 1] = True
    late = ~fed & (made + 1 < steps) & (repair | ~covered)  # rule 4
    feeds.append(_columns(made[late] + 1, place[late], place[late], -1))
    return _assemble(grid, context, frames, decoding, steps, np.concatenate(feeds, axis=1))


def _columns(step, source, position, target) -> np.ndarray:
    """Feeds as int64 [4, n]: step, source, position, target."""
    return np.stack(np.broadcast_arrays(np.atleast_1d(step), source, position, target)).astype(np.int64)


def _assemble(grid: Grid, context: int, frames: int, decoding: Decoding, steps: int, feeds: np.ndarray) -> Plan:
    """Sort feeds by step, those with a target first, then by position."""
    order = np.lexsort((feeds[2], feeds[3] < 0, feeds[0]))
    step, source, position, target = map(np.ascontiguousarray, feeds[:, order])
    length = grid.position(context + frames, 0, 0) - grid.conditioning  # nothing follows the last code
    first_write = np.full(length, steps)
    np.minimum.at(first_write, position, step)
    first_write[: position[step == 0].min()] = -1
    return Plan(
        grid=grid,
        context=context,
        frames=frames,
        decoding=decoding,
        source=source,
        position=position,
        target=target,
        starts=np.searchsorted(step, np.arange(steps + 1)),
        heads=np.bincount(step[target >= 0], minlength=steps),
        first_write=first_write,
    )
