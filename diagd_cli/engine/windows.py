"""How a long continuation is cut into windows when the model cannot hold all frames at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from diagd_cli.errors import UsageError
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.schedule.plan import Plan, build_plan
from diagd_cli.tokens.grid import Grid


def window_parts(
    known: int, latents: int | None, window: int, overlap: int
) -> Iterator[tuple[int, int]]:
    """(known, new) latent frames of each part: fill the window, keep its newest, and go on.

    known: latent frames that are in the window already.
    latents: new latent frames in all; None: without end.
    window: latent frames that the model can hold.
    overlap: latent frames that are kept when the window is full.

    Raises UsageError when it would have to roll and `overlap` is 0.
    """
    if not overlap and (latents is None or known + latents > window):
        asked = f"{known} latent frames and {latents or 'endlessly many'} new ones"
        message = f"{asked} are more than the model's window of {window}"
        raise UsageError(message, "Ask for fewer frames")
    while latents is None or latents:
        known = known if known < window else overlap
        new = window - known if latents is None else min(latents, window - known)
        yield known, new
        known, latents = known + new, None if latents is None else latents - new


def sequences(
    known: int, latents: int | None, decoding: Decoding, window: int, overlap: int
) -> Iterable[tuple[int, int | None]]:
    """(known, new) latent frames of each sequence in turn: `window_parts`, whose numbers these are;
    one, where the window slides.
    """
    if decoding.window == "slide":
        return [(known, latents)]
    return window_parts(known, latents, window, overlap)


def fresh_plans(
    grid: Grid,
    context: int,
    latents: int,
    decoding: Decoding,
    window: int,
    overlap: int,
) -> list[Plan]:
    """The plans of a clip that begins with `context` latent frames.

    The other parameters are those of `window_plans`. Of a full window, the oldest one makes room.
    """
    return window_plans(grid, min(context, window - 1), latents, decoding, window, overlap)


def window_plans(
    grid: Grid,
    known: int,
    latents: int,
    decoding: Decoding,
    window: int,
    overlap: int,
) -> list[Plan]:
    """The plan of each of the `sequences`, whose numbers these are."""
    parts = sequences(known, latents, decoding, window, overlap)
    return [build_plan(grid, before, new or 0, decoding) for before, new in parts]
