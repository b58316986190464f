"""How a long continuation is cut into windows when the model cannot hold all frames at once."""

from __future__ import annotations

from diagd_cli.errors import UsageError
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.schedule.plan import Plan, build_plan
from diagd_cli.tokens.grid import Grid


def window_parts(known: int, frames: int, window: int, overlap: int) -> list[tuple[int, int]]:
    """(frames known, new frames) of each part: fill the window, then keep the newest `overlap` frames and go on.

    `known` frames are already in the window; counts are latent frames. Raises UsageError when it would have to roll and
    `overlap` is 0.
    """
    if not overlap and known + frames > window:
        message = f"{known} latent frames and {frames} new ones are more than the model's window of {window}"
        raise UsageError(message, "Ask for fewer frames")
    parts = []
    while frames:
        known = known if known < window else overlap
        new = min(frames, window - known)
        parts.append((known, new))
        known, frames = known + new, frames - new
    return parts


def fresh_plans(grid: Grid, context: int, frames: int, decoding: Decoding, window: int, overlap: int) -> list[Plan]:
    """The plans of a clip that begins with `context` latent frames. Of a full window, the oldest one makes room."""
    return window_plans(grid, min(context, window - 1), frames, decoding, window, overlap)


def window_plans(grid: Grid, known: int, frames: int, decoding: Decoding, window: int, overlap: int) -> list[Plan]:
    """The plans of the parts that `window_parts` makes of `frames` new latent frames after `known` ones in the window."""
    return [build_plan(grid, *part, decoding) for part in window_parts(known, frames, window, overlap)]
