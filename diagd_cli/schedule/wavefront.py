"""A plan that repeats itself: however many frames, in the arrays of a few of them.

Between its ramp-up and its ramp-down a plan feeds every d steps what it fed before, one latent
frame later. So the steps of a short plan are those of a long one, some of them taken again and
again: memory and planning time do not grow with the clip, which need not even end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from diagd_cli.schedule.decoding import Decoding, Resolved
from diagd_cli.schedule.plan import Plan, build_plan
from diagd_cli.tokens.grid import Grid

LOOKS_BACK = 2  # latent frames of a prompt that a plan feeds from, its first one aside


@dataclass(frozen=True)
class Wavefront:
    """The steps of a decoding of `latents` new latent frames, or of one without end.

    plan: of as many frames as it takes until its steps repeat, or of all.
    latents: new latent frames; None: without end.
    first: the step of `plan` from which on d steps repeat; its last one where none do.
    offset: latent frames of the prompt that `plan` leaves out.
    """

    plan: Plan
    latents: int | None
    first: int
    offset: int = 0

    @property
    def rules(self) -> Resolved:
        """k, d, stand-in and repair."""
        return self.plan.decoding.resolve(self.plan.grid, self.plan.context)

    @property
    def steps(self) -> int | None:
        """Forward passes, the prefill not counted; None: without end."""
        return None if self.latents is None else self.plan.steps + self._rounds * self.rules.d

    @property
    def context(self) -> int:
        """Latent frames that are known."""
        return self.plan.context + self.offset

    @property
    def prefill(self) -> int:
        """Positions 0 .. prefill-1 are fed before the first step."""
        return self.plan.prefill + self.offset * self.plan.grid.block

    @property
    def moves(self) -> np.ndarray:
        """Of source, position and target of each feed of `plan` whether a later frame has it later:
        int64 [3, feeds], 1 or 0.

        The tokens of the first prompt frame that stand in for others stay what they are.
        """
        plan, moves = self.plan, np.ones((3, len(self.plan.source)), dtype=np.int64)
        if self.rules.stand_in == "prompt-frame":
            moves[0] = (plan.source >= plan.grid.length(1)) | (plan.source == plan.position)
        moves[2] = plan.target >= 0
        return moves

    def at(self, step: int) -> tuple[int, int]:
        """The step of `plan` that a step is, and how many latent frames later it is taken."""
        period = self.rules.d
        later = max(0, (step - self.first) // period)
        if self.latents is not None:
            later = min(later, self._rounds)
        return step - later * period, later + self.offset

    def feeds(self, step: int) -> np.ndarray:
        """Source, position and target of everything that a step feeds, int64 [3, n]."""
        row, later = self.at(step)
        part = slice(self.plan.starts[row], self.plan.starts[row + 1])
        arrays = np.stack([self.plan.source, self.plan.position, self.plan.target])[:, part]
        return arrays + self.moves[:, part] * later * self.plan.grid.block

    def complete(self, steps: int) -> int:
        """New latent frames of which every token is made after so many steps."""
        whole = max(0, (steps - self.rules.span(self.plan.grid)) // self.rules.d + 1)
        return whole if self.latents is None else min(whole, self.latents)

    def fed(self, steps: int) -> int:
        """Tokens that are fed in so many steps."""
        if not steps:
            return 0
        row, later = self.at(steps - 1)
        starts = self.plan.starts
        rounds = later - self.offset
        period = starts[self.first + self.rules.d] - starts[self.first] if rounds else 0
        return int(starts[row + 1] + rounds * period)

    def frames_held(self, window: int, kept: int = 0) -> int:
        """Latent frames, one after another, that are read or written at once at most.

        window: that many of the newest frames are read, a token's own one included.
        kept: frames at the front that are held besides, and not counted.
        """
        plan, grid = self.plan, self.plan.grid

        def frame(positions: np.ndarray) -> np.ndarray:
            return (positions - grid.prefix) // grid.block

        newest = frame(np.maximum(plan.position, plan.target))
        oldest = np.maximum(frame(plan.position) - window + 1, kept - self.offset)
        stays = self.moves[0] == 0
        oldest = np.minimum(oldest, np.where(stays, newest, frame(plan.source)))
        starts = plan.starts[:-1]
        begun = np.maximum.accumulate(np.maximum.reduceat(newest, starts))
        return int((begun - np.minimum.reduceat(oldest, starts)).max()) + 1

    @property
    def _rounds(self) -> int:
        """How often d steps are taken beyond those of `plan`."""
        return 0 if self.latents is None else self.latents - self.plan.latents


def whole(plan: Plan) -> Wavefront:
    """A plan that is written out, none of whose steps repeat."""
    return Wavefront(plan, plan.latents, first=plan.steps)


@lru_cache(maxsize=8)
def wavefront(grid: Grid, context: int, latents: int | None, decoding: Decoding) -> Wavefront:
    """The steps for new latent frames after known ones, of any number, or without end.

    grid: how codes and conditioning lie in the sequence.
    context: latent frames that are known.
    latents: new latent frames; None: without end.
    decoding: in which order they are made.

    Raises as `build_plan` does.
    """
    rules, known = decoding.resolve(grid, context), min(context, LOOKS_BACK)
    flight = -(-(rules.span(grid) + 1) // rules.d)  # frames that are fed in one step
    repeats = rules.reach(grid) - 1 + flight  # the first frame at whose start nothing else is new
    if latents is not None and latents <= repeats + 1:
        plan = build_plan(grid, known, latents, decoding)
        return Wavefront(plan, latents, plan.steps, context - known)
    plan = build_plan(grid, known, repeats + 1, decoding)
    return Wavefront(plan, latents, repeats * rules.d, context - known)
