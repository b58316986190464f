"""Which tokens are made at which step, and what is fed to make them.

Plain NumPy; NTP, DiagD and ZipAR are all plans. Token (t, i, j) of the new latent frames is made at
step t*d + i*k + j (equation 5 of the paper counts them). It is predicted from an input fed at its
raster predecessor's position:

1. advance      the left neighbour, made one step before;
2. row start    the last token of the row above, or a stand-in for it while it is missing;
3. frame start  the conditioning tokens after the frame before; without any, the last token of the
                frame before, or its stand-in while it is missing;
4. late feed    a token that rules 1-3 have not fed, or for which a stand-in was fed, is fed the
                step after it was made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from diagd_cli.schedule.decoding import Decoding
from diagd_cli.schedule.standin import find_stand_in
from diagd_cli.tokens.grid import Grid


@dataclass(frozen=True)
class Plan:
    """A decoding of new latent frames, as index arrays int64.

    grid: how codes and conditioning lie in the sequence.
    context: latent frames that are known.
    latents: new latent frames after them.
    decoding: what has been planned.
    source: [feeds], the flat position of the token that each feed gives to the model.
    position: [feeds], where it stands: rotary angle and cache slot.
    target: [feeds], the flat position of the token that comes from its output, -1 for none.
    starts: [steps + 1]; the feeds of step s are starts[s] : starts[s+1].
    outputs: [steps], how many of them, the first ones, have a target.
    first_write: [length], the step at which each slot is first written: -1 for the prompt, `steps`
        for never.
    """

    grid: Grid
    context: int
    latents: int
    decoding: Decoding
    source: np.ndarray
    position: np.ndarray
    target: np.ndarray
    starts: np.ndarray
    outputs: np.ndarray
    first_write: np.ndarray

    @property
    def steps(self) -> int:
        """Forward passes, the prefill not counted."""
        return len(self.outputs)

    @property
    def new_tokens(self) -> int:
        """Codes that are made."""
        return self.latents * self.grid.area

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
        """The first step at which each slot may be seen, int64 [length].

        That is once it is written, or with `zero_slots` from the start.
        """
        return np.full(self.length, -1) if self.decoding.zero_slots else self.first_write

    @property
    def step_of_feed(self) -> np.ndarray:
        """The step of each feed, int64 [feeds]."""
        return np.repeat(np.arange(self.steps), self.widths)

    @property
    def extents(self) -> np.ndarray:
        """Cache slots that each step needs to read, int64 [steps].

        That is one past the largest position written so far.
        """
        largest = np.maximum.reduceat(self.position, self.starts[:-1])
        return np.maximum.accumulate(largest) + 1

    def padded(self, width: int | None = None) -> Plan:
        """The same plan with all steps equally wide, for one static shape.

        width: feeds of a step; by default those of the widest.

        Raises ValueError if it is less.

        Padded lanes feed token 0 at one scratch position past the end, write the scratch slot
        there, and put what they make there; no real lane can see it.
        """
        width = int(self.widths.max()) if width is None else width
        if width < self.widths.max():
            raise ValueError(f"width {width} is below the widest step ({self.widths.max()})")
        scratch = self.length
        shape = self.steps, width
        lane = np.arange(len(self.source)) - self.starts[self.step_of_feed]

        def filled(values: np.ndarray, fill: int) -> np.ndarray:
            padded = np.full(shape, fill, np.int64)
            padded[self.step_of_feed, lane] = np.where(values < 0, scratch, values)
            return padded.ravel()

        return replace(
            self,
            source=filled(self.source, 0),
            position=filled(self.position, scratch),
            target=filled(self.target, scratch),
            starts=np.arange(self.steps + 1) * width,
            outputs=np.full(self.steps, width),
            first_write=np.append(self.first_write, 0),
        )


@lru_cache(maxsize=4)  # of a long clip most windows are alike; nothing changes a plan
def build_plan(grid: Grid, context: int, latents: int, decoding: Decoding) -> Plan:
    """The plan for new latent frames after known ones.

    grid: how codes and conditioning lie in the sequence.
    context: latent frames that are known.
    latents: new latent frames.
    decoding: in which order they are made.

    Raises UsageError for k, d or a stand-in that the grid or the context does not allow, ValueError
    where no token comes before the first new one.
    """
    k, d, stand_in, repair = decoding.resolve(grid, context)
    if context * grid.block + grid.prefix < 1:
        raise ValueError("the first new token needs a token before it: a context frame or a prefix")
    steps = (latents - 1) * d + (grid.h - 1) * k + grid.w
    t, i, j = (x.ravel() for x in np.indices((latents, grid.h, grid.w)))
    made, place = t * d + i * k + j, grid.position(context + t, i, j)

    inner = j > 0
    feeds = [_columns(made[inner], place[inner] - 1, place[inner] - 1, place[inner])]  # rule 1
    fed = j < grid.w - 1  # tokens fed truthfully, by raster order; rules 2 and 3 add to them
    covered = np.zeros_like(fed)  # tokens whose position holds a stand-in
    for start in np.flatnonzero(j == 0):
        step, goal = made[start], place[start]
        if i[start] == 0 and grid.conditioning and context + t[start]:
            # rule 3; nothing steers the very first frame
            steering = grid.conditioning_positions(context + t[start] - 1)
            targets = np.where(steering == goal - 1, goal, -1)
            feeds.append(_columns(step, steering, steering, targets))
        elif start == 0 or made[start - 1] < step:
            # rules 2, 3: the predecessor exists (or is the prompt's last token)
            feeds.append(_columns(step, goal - 1, goal - 1, goal))
            if start:
                fed[start - 1] = True
        else:
            source = find_stand_in(stand_in, grid, context, k, d, t[start], i[start])
            feeds.append(_columns(step, source, goal - 1, goal))
            covered[start - 1] = True
    late = ~fed & (made + 1 < steps) & (repair | ~covered)  # rule 4
    feeds.append(_columns(made[late] + 1, place[late], place[late], -1))
    return _assemble(grid, context, latents, decoding, steps, np.concatenate(feeds, axis=1))


def _columns(
    step: ArrayLike, source: ArrayLike, position: ArrayLike, target: ArrayLike
) -> np.ndarray:
    """Feeds as int64 [4, n]: step, source, position, target."""
    columns = np.broadcast_arrays(*map(np.atleast_1d, (step, source, position, target)))
    return np.stack(columns).astype(np.int64)


def _assemble(
    grid: Grid,
    context: int,
    latents: int,
    decoding: Decoding,
    steps: int,
    feeds: np.ndarray,
) -> Plan:
    """Sort feeds by step, those with a target first, then by position."""
    order = np.lexsort((feeds[2], feeds[3] < 0, feeds[0]))
    step, source, position, target = map(np.ascontiguousarray, feeds[:, order])
    # nothing follows the last code
    length = grid.position(context + latents, 0, 0) - grid.conditioning
    first_write = np.full(length, steps)
    np.minimum.at(first_write, position, step)
    first_write[: position[step == 0].min()] = -1
    return Plan(
        grid=grid,
        context=context,
        latents=latents,
        decoding=decoding,
        source=source,
        position=position,
        target=target,
        starts=np.searchsorted(step, np.arange(steps + 1)),
        outputs=np.bincount(step[target >= 0], minlength=steps),
        first_write=first_write,
    )
