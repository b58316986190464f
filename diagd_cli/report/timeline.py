"""When each token of a decoding is made and fed, as grids: what an animation of it needs to
know.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diagd_cli.schedule.plan import Plan

NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class Timeline:
    """Steps counted from 0 over all windows, int64 [T, h, w]; NEVER where it does not happen.

    made: when the token is made.
    stand_in: when another token is fed at its place, as it is missing.
    gone: when that stand-in is replaced, or the window rolls.
    late: when the token is fed without a target, over a stand-in or not.
    """

    label: str
    steps: int
    made: np.ndarray
    stand_in: np.ndarray
    gone: np.ndarray
    late: np.ndarray

    @property
    def frames(self) -> int:
        return len(self.made)

    @property
    def span(self) -> int:
        """Steps until the last of these frames is made."""
        return int(self.made.max()) + 1

    def first(self, frames: int) -> Timeline:
        """The same decoding, of which only the first frames are looked at."""
        return Timeline(
            self.label,
            self.steps,
            *(a[:frames] for a in (self.made, self.stand_in, self.gone, self.late)),
        )


def timeline(plans: list[Plan]) -> Timeline:
    """The timeline of plans that are executed one after the other, one for each window."""
    grid, steps, parts = plans[0].grid, 0, []
    for n, plan in enumerate(plans):
        made, stand_in, late = (np.full(plan.latents * grid.block, NEVER) for _ in range(3))
        start = grid.length(plan.context)
        step = plan.step_of_feed + steps
        target = plan.target >= 0
        made[plan.target[target] - start] = step[target]
        own = plan.position >= start  # the others are the prompt's last tokens
        odd = own & (plan.source != plan.position)
        stand_in[plan.position[odd] - start] = step[odd]
        alone = own & ~target & ~odd
        late[plan.position[alone] - start] = step[alone]
        steps += plan.steps
        gone = np.minimum(late, steps if n + 1 < len(plans) else NEVER)
        parts.append([_codes(a, plan) for a in (made, stand_in, gone, late)])
    return Timeline(
        plans[0].decoding.label(grid), steps, *(np.concatenate(a) for a in zip(*parts, strict=True))
    )


def _codes(values: np.ndarray, plan: Plan) -> np.ndarray:
    """Of values [frames * block], those of the codes [frames, h, w]."""
    return values.reshape(plan.latents, plan.grid.block)[:, plan.grid.places]
