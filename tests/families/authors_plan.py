"""The decoding of MineWorld's own code as a `Plan`: its order of work, its feeds and its defects,
for diagd's one loop.

What it does otherwise than diagd:

1. a slot that nothing has been written to is seen all the same, as a zero key and a zero value, or
    as what an earlier clip left there: `first_write` is 0 everywhere;
2. the last token of a row is never fed when a row follows: its slot keeps the stand-in's key and
    value;
3. in video mode the last token of a frame is never fed either: its slot is never written;
4. a row starts from a stand-in even where its predecessor exists (k = w).

The prompt is part of step 0, whose last output is the first new token. A feed whose output is
thrown away puts its token at a scratch position past the end, as the padded lanes of `Plan.padded`
do: so a step's feeds keep the authors' order.
"""

from __future__ import annotations

import numpy as np

from diagd_cli.schedule.decoding import Decoding
from diagd_cli.schedule.plan import Plan
from diagd_cli.tokens.grid import Grid


def authors_plan(
    grid: Grid,
    context: int,
    frames: int,
    mode: str,
    k: int | None,
    stand_in: str = "prompt-frame",
    demo: bool = False,
) -> Plan:
    """The plan of `mode`: `naive`, `image_diagd` or `video_diagd` with window size k.

    stand_in: `prompt-frame`, or `newest` for the newest token of the row above. demo: frame by
    frame as in the authors' web page, which prefills up to the newest frame without the actions
    after it, and ends a frame with a step that feeds its last token. In the token store [B,
    plan.length + 1] the last place is the scratch.
    """
    k, d = steps_between(grid, mode, k)
    first, d = (1, d + 1) if demo else (0, d)
    feeds = []  # (step, 1 for what starts a row or frame, source, position, target)
    if demo:
        feeds += [(0, 0, p, p, None) for p in range(grid.conditioning_positions(context - 1)[0])]
    for f in range(frames):
        for i in range(grid.h):
            for j in range(grid.w):
                step, goal = first + f * d + i * k + j, grid.position(context + f, i, j)
                if j or (i and mode == "naive"):
                    feeds.append((step, 0, goal - 1, goal - 1, goal))
                elif i:
                    place = (
                        (0, i - 1, grid.w - 1)
                        if stand_in == "prompt-frame"
                        else (context + f, i - 1, k - 1)
                    )
                    feeds.append((step, 1, grid.position(*place), goal - 1, goal))
                else:
                    opening = frame_start(grid, context, f, mode, demo)
                    feeds += [(step, 1, p, p, goal if p == goal - 1 else None) for p in opening]
        if demo:
            last = grid.position(context + f, grid.h - 1, grid.w - 1)
            feeds.append((first + f * d + d - 1, 0, last, last, None))
    return as_plan(
        grid, context, frames, k, sorted(feeds, key=lambda feed: (feed[0], feed[1], feed[3]))
    )


def steps_between(grid: Grid, mode: str, k: int | None) -> tuple[int, int]:
    """(k, d): steps from row to row and from frame to frame."""
    if mode == "naive":
        return grid.w, grid.area
    return k, (grid.h - 1) * k + grid.w if mode == "image_diagd" else grid.h * k


def frame_start(grid: Grid, context: int, f: int, mode: str, demo: bool) -> list[int]:
    """Positions fed for the first token of new frame f."""
    actions = grid.conditioning_positions(context + f - 1).tolist()
    if demo:
        return actions
    if f == 0:
        return list(range(actions[-1] + 1))
    return actions if mode == "video_diagd" else [actions[0] - 1, *actions]


def as_plan(grid: Grid, context: int, frames: int, k: int, feeds: list[tuple]) -> Plan:
    length = grid.position(context + frames, 0, 0) - grid.conditioning
    step, source, position = (np.array([feed[n] for feed in feeds]) for n in (0, 2, 3))
    steps = int(step[-1]) + 1
    starts = np.searchsorted(step, np.arange(steps + 1))
    return Plan(
        grid=grid,
        context=context,
        latents=frames,
        decoding=Decoding("spatial", k),  # of no consequence: the arrays say it all
        source=source,
        position=position,
        target=np.array([length if feed[4] is None else feed[4] for feed in feeds]),
        starts=starts,
        outputs=np.diff(starts),
        first_write=np.zeros(length, np.int64),
    )


def unwritten(plan: Plan) -> list[list[list[int]]]:
    """Per step, for each feed with a target: the slots it sees that nothing has been written to so
    far.
    """
    written, seen = np.zeros(plan.length, bool), []
    for start, end in zip(plan.starts[:-1], plan.starts[1:], strict=True):
        written[plan.position[start:end]] = True
        predicts = plan.target[start:end] < plan.length
        seen.append(
            [np.flatnonzero(~written[: p + 1]).tolist() for p in plan.position[start:end][predicts]]
        )
    return seen


def cache_map(plan: Plan) -> list[list[str]]:
    """What the image slots hold in the end, a string a row: T the true token's key, P a stand-in's,
    - nothing.
    """
    held = np.full(plan.length, "-")
    # of several writes the last one stays
    held[plan.position] = np.where(plan.source == plan.position, "T", "P")
    held = np.append(held, ["-"] * plan.grid.conditioning)
    return [
        ["".join(row) for row in frame]
        for frame in plan.grid.codes(held, plan.context + plan.latents)
    ]
