"""diagd play: a world in the browser, live."""

from __future__ import annotations

import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar
from urllib.parse import urlencode

import typer

from diagd_cli.cli import groups as g
from diagd_cli.cli import options as o
from diagd_cli.cli.console import Reporter
from diagd_cli.cli.guard import guard
from diagd_cli.cli.kinds import FILE
from diagd_cli.cli.settings import machine_of, merge
from diagd_cli.cli.threads import THREADS, set_threads
from diagd_cli.errors import DiagdError
from diagd_cli.play import LARGEST_MESSAGE, LOOPBACK
from diagd_cli.play.mount import require_server

if TYPE_CHECKING:
    from diagd_cli.loading import Loaded
    from diagd_cli.play.request import Playing

Result = TypeVar("Result")

HELP = """Walk through a generated world in the browser, live.

[bold]Examples[/]

  diagd play                              # the shipped world; arrow keys walk

  diagd play room.mp4 --k 1 --d 10        # from a clip of one's own

  diagd play --sessions 4                 # four people, each in a world of his own

  diagd play --host 0.0.0.0 --token SECRET --no-browser
"""


@g.grouped
def play(
    clips: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[CLIP]...", help="Where it can begin; else the shipped ones."),
    ] = None,
    *,
    preset: o.PresetOption = "freedoom-sliding",
    decoding: o.DecodingOption = None,
    order: g.DecodingOptions,
    sampling: g.SamplingOptions,
    seed: o.SeedOption = None,
    fps: Annotated[
        float | None,
        typer.Option(min=0, max=1000, help="Most frames a second, the preset's; 0: no limit."),
    ] = None,
    sessions: Annotated[
        int, typer.Option(min=1, max=8, help="How many can play at once, in one batch.")
    ] = 1,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = LOOPBACK[0],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 0,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="DIAGD_PLAY_TOKEN",
            rich_help_panel="Serving",
            help="What the address must have; for other machines there is always one.",
        ),
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
    record: Annotated[
        Path | None,
        typer.Option(
            **FILE, help="At the end, write what was played since the last reset, an .mp4."
        ),
    ] = None,
    machine: g.MachineOptions,
    random_weights: o.RandomWeightsOption = False,
    force: o.ForceOption = False,
    quiet: o.QuietOption = False,
    verbose: o.VerboseOption = False,
) -> None:
    reporter = Reporter(quiet, verbose)
    with guard(reporter):
        from diagd_cli.play.request import Playing, shipped_clips
        from diagd_cli.preset_files import load_preset

        chosen = load_preset(preset)
        if order.window is None and not chosen.why_rolls:
            order = replace(order, window="slide")  # one that rolls stalls
        settings = merge(chosen, decoding=order, sampling=sampling, seed=seed, method=decoding)
        playing = Playing(
            preset=chosen,
            settings=settings,
            clips=clips or shipped_clips(chosen),
            sessions=sessions,
            machine=machine_of(machine, random=random_weights),
            pace=chosen.clip.fps if fps is None else fps,
            record=record,
            force=force,
        )
        playing.check()
        if token is None and host not in LOOPBACK:
            token = secrets.token_urlsafe(12)
        serve(playing, reporter, host, port, token or "", browser, machine.threads)


def serve(
    playing: Playing,
    reporter: Reporter,
    host: str,
    port: int,
    token: str,
    browser: bool,
    threads: int,
) -> None:
    """Serve until Ctrl-C. Raises DiagdError."""
    require_server("diagd play")
    import uvicorn

    from diagd_cli.jobs.settings import AUTO
    from diagd_cli.play.app import room_app
    from diagd_cli.play.saving import write

    with closing(listen(host, port)) as listening:
        set_threads(threads)
        room = apart(lambda: playing.room(reporter, THREADS.look))
        app = room_app(room, token, loopback=host in LOOPBACK)
        address = address_of(listening, host, token)
        if playing.machine.dtype == AUTO and slower_than_it_could(room.loaded):
            reporter.note("This processor multiplies bfloat16: --dtype bfloat16 makes more frames")
        if host not in LOOPBACK:
            reporter.warning(f"other machines can reach it at {host}: the address has a token")
        reporter.result(address)
        if browser:
            webbrowser.open(address)
        config = uvicorn.Config(
            app, log_level="error", ws_max_size=LARGEST_MESSAGE, timeout_graceful_shutdown=2
        )
        with suppress(KeyboardInterrupt):  # which is how it ends
            uvicorn.Server(config).run(sockets=[listening])
        if room.world.failure:
            raise room.world.failure
        for take, path in room.takes(playing.record) if playing.record else ():
            write(room.loaded, take, path, room.words)
            reporter.note(f"What was played: {path}")


def slower_than_it_could(loaded: Loaded) -> bool:
    """Whether bfloat16 would be faster: on a CPU diagonals wait for arithmetic."""
    from diagd_cli.device import native_bfloat16

    return loaded.device.type == "cpu" and loaded.numbers == "float32" and native_bfloat16()


def apart(work: Callable[[], Result]) -> Result:
    """Do it on a thread that ends with it, and OpenMP's threads of that one, too: later the world's
    thread is the only one that has any (`stream` tells why that matters).
    """
    done: Future[Result] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # for whoever waits
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done.result()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises DiagdError where it cannot."""
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        hint = "Choose another --port, or 0 for any that is free"
        raise DiagdError(f"{host}:{port} cannot be listened at: {reason}", hint) from None


def address_of(listening: socket.socket, host: str, token: str) -> str:
    """What to open in a browser."""
    shown = f"[{host}]" if ":" in host else host
    query = f"?{urlencode({'token': token})}" if token else ""
    return f"http://{shown}:{listening.getsockname()[1]}/{query}"
