"""A world as an application, to be served or mounted by a program of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diagd_cli.errors import MissingExtra, UsageError
from diagd_cli.play import MOST_SESSIONS

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from diagd_cli.loading import Loaded
    from diagd_cli.schedule.decoding import Decoding


def play_app(
    loaded: Loaded,
    clips: Sequence[str | Path] = (),
    decoding: Decoding | None = None,
    *,
    sessions: int = 1,
    seed: int | None = None,
    pace: float | None = None,
    token: str = "",
    loopback: bool = False,
    within: Sequence[str] = (),
) -> Starlette:
    """The page of `diagd play`, its socket and its files as an ASGI application, which works at any
    path: `Starlette(routes=[Mount("/world", play_app(load("freedoom")))])`. Its `state.room` is who
    is there.

    loaded: the models; they serve this application alone while somebody plays.
    clips: with which a world can begin; the shipped ones by default.
    decoding: the preset's by default, with a window that slides where it can.
    sessions: how many can play at once, at most 8.
    seed: of the first world; drawn by default.
    pace: most frames a second, the preset's frame rate by default; 0: no limit.
    token: what the address must have as `?token=...`; "" for nobody's.
    loopback: whether only names of this machine are answered to.
    within: origins of pages that may show it in a frame, such as `https://huggingface.co`.

    Raises MissingExtra without Starlette; UsageError and other DiagdErrors for what `diagd play`
    refuses.
    """
    require_server("play_app")
    from diagd_cli.jobs.settings import choose
    from diagd_cli.play.app import NOWHERE, room_app
    from diagd_cli.play.request import Playing, own_decoding, shipped_clips

    if not 1 <= sessions <= MOST_SESSIONS:
        raise UsageError(f"sessions is {sessions}", f"It goes from 1 to {MOST_SESSIONS}")
    preset = loaded.preset
    settings = choose(preset, decoding=decoding or own_decoding(preset), seed=seed)
    playing = Playing(
        preset,
        settings,
        [Path(clip) for clip in clips] or shipped_clips(preset),
        pace=preset.clip.fps if pace is None else pace,
        sessions=sessions,
    )
    playing.check()
    return room_app(playing.room_of(loaded), token, loopback, " ".join(within) or NOWHERE)


def require_server(purpose: str) -> None:
    """Raise MissingExtra unless all is installed that a served world needs."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
        import websockets  # noqa: F401
    except ImportError as error:
        raise MissingExtra(error.name or "uvicorn", "play", purpose) from None
