"""Which tokens are made at which step, and what is fed to make them.

Plain NumPy; NTP, DiagD and ZipAR are all plans. Token (t, i, j) of the new latent frames is made at
step t*d + i*k + j (equation 5 of the paper counts them). It is predicted from an input fed at its
raster predecessor's position:

1. advance      the left neighbour, made one step before;
2. row start    the end of the row above, whose ids are known; where rows have none, the last token
                of the row above, or a stand-in for it while it is missing;
3. frame start  the ends of the frame before and its conditioning tokens; without any, the last
                token of the frame before, or its stand-in while it is missing;
4. late feed    a token that rules 1-3 have not fed, or for which a stand-in was fed, is fed the
                step after it was made; with it, once more, the end of a row or frame that was fed
                before the row was complete.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from diagd_cli.schedule.decoding import Decoding, Resolved
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
    rules = decoding.resolve(grid, context)
    if context * grid.block + grid.prefix < 1:
        raise ValueError("the first new token needs a token before it: a context frame or a prefix")
    settled = rules.reach(grid)
    frames = [_frame(grid, context, rules, t) for t in range(min(latents, settled + 1))]
    frames += [
        _later(frames[-1], grid, context, rules, n + 1) for n in range(latents - len(frames))
    ]
    feeds = np.concatenate(frames, axis=1)
    steps = rules.steps(grid, latents)
    return _assemble(grid, context, latents, decoding, steps, feeds[:, feeds[0] < steps])


def _frame(grid: Grid, context: int, rules: Resolved, t: int) -> np.ndarray:
    """The feeds of new latent frame t, as `_columns`, also those after the last step of all."""
    k, d, stand_in, repair = rules
    i, j = (x.ravel() for x in np.indices((grid.h, grid.w)))
    made, place = t * d + i * k + j, grid.position(np.full_like(i, context + t), i, j)
    inner = j > 0
    feeds = [_columns(made[inner], place[inner] - 1, place[inner] - 1, place[inner])]  # rule 1
    fed = j < grid.w - 1  # tokens fed truthfully, by raster order; rules 2 and 3 add to them
    covered = np.zeros_like(fed)  # tokens whose position holds a stand-in
    for row in range(grid.h):
        step, goal = made[row * grid.w], place[row * grid.w]
        exists = k == grid.w if row else not t or d == rules.span(grid)  # the token before it
        known = _known_before(grid, context + t, row)
        if len(known):
            targets = np.where(known == goal - 1, goal, -1)
            feeds.append(_columns(step, known, known, targets))
        else:
            # rules 2, 3: it exists (or is the prompt's last token), or something stands in
            source = goal - 1 if exists else find_stand_in(stand_in, grid, context, k, d, t, row)
            feeds.append(_columns(step, source, goal - 1, goal))
            if row:
                (fed if exists else covered)[row * grid.w - 1] = True
    if not grid.tail:  # the next frame's start does that to the last token
        (fed if d == rules.span(grid) else covered)[-1] = True
    late = ~fed & (repair | ~covered)  # rule 4
    feeds.append(_columns(made[late] + 1, place[late], place[late], -1))
    if repair:
        feeds += _early_ends(grid, context, rules, t)
    return np.concatenate(feeds, axis=1)


def _known_before(grid: Grid, t: int, row: int) -> np.ndarray:
    """Flat positions of the known tokens right before a row of frame t: the end of the row above,
    or what ends and follows the frame before. Before the very first frame there are none.
    """
    if row:
        return grid.row_end_positions(t, row - 1)
    return grid.tail_positions(t - 1) if t else np.empty(0, dtype=np.int64)


def _early_ends(grid: Grid, context: int, rules: Resolved, t: int) -> list[np.ndarray]:
    """Feeds, once rows are complete, of what ended them before they were. Conditioning is not of
    the frame that it follows, and stays.
    """
    feeds = []
    for row in range(grid.h):
        last, ends = row == grid.h - 1, grid.row_end_positions(context + t, row)
        if last:
            ends = grid.tail_positions(context + t)[: grid.tail - grid.conditioning]
        complete = t * rules.d + row * rules.k + grid.w
        if ((t + 1) * rules.d if last else t * rules.d + (row + 1) * rules.k) < complete:
            feeds.append(_columns(complete, ends, ends, np.full_like(ends, -1)))
    return feeds


def _later(feeds: np.ndarray, grid: Grid, context: int, rules: Resolved, frames: int) -> np.ndarray:
    """The feeds of a frame so many frames after one whose stand-ins are all of new frames.

    Only the prompt's own tokens (`prompt-frame`) stay where they are.
    """
    step, source, position, target = feeds
    shift = frames * grid.block
    source = np.where(source < grid.position(context, 0, 0), source, source + shift)
    target = np.where(target < 0, target, target + shift)
    return np.stack([step + frames * rules.d, source, position + shift, target])


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
    length = grid.length(context + latents) - grid.tail  # nothing follows the last code
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
