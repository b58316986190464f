"""How a long continuation is cut into windows when the model cannot hold all frames at once."""

from __future__ import annotations

from diagd_cli.errors import UsageError


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
