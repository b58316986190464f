"""What those get who play: frames a second, and how long a key takes to be seen.

The world is served by the command line, in a process of its own, as fast as it goes. A script
presses another key whenever the last one was seen. First one player, by several decodings; then
several in one batch, by the last but one of them.

With --soak MINUTES one plays for that long, while others send what cannot be read, vanish without a
word, and come and go; a row a minute tells whether memory, threads and tasks grow, and the last one
what is left when all have gone. With --judge FRAMES the inverse dynamics model reads the keys from
the frames that came, and from the game's own in which they are held as long (by ViZDoom).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np
import psutil
import torch
import uvicorn
from PIL import Image

from benchmarks import common
from benchmarks.visitors import Visitor, come_and_go, malformed, play, serving, vanish, walk
from diagd_cli import load, load_preset, play_app
from diagd_cli.cli.play import listen
from diagd_cli.clip.read import read_clip
from diagd_cli.model.inverse import read_motion
from diagd_cli.play.request import own_decoding, shipped_clips, suggestions
from diagd_cli.train.record import SCENARIOS, follow, open_game
from diagd_cli.weights.load import load_inverse

KEYS = "forward", "left", "forward+right", "right", "back"
FIRST_PLACE, PLACES = 7000, 8  # seeds of episodes in the game
SETTLED = 5.0  # seconds after which what is gone should be gone


def main(argv: list[str] | None = None) -> None:
    parser = common.options(__doc__, repeats=1)
    parser.add_argument("--preset", default="freedoom-sliding", help="name, or path of a YAML file")
    parser.add_argument("--clip", action="append", default=[], help="where to begin")
    parser.add_argument("--dtype", default="auto", help="of the Transformer, as diagd play has it")
    parser.add_argument("--seconds", type=float, default=30, help="that each one plays, a lap")
    parser.add_argument("--players", type=int, nargs="+", default=[1, 2, 4], help="in one batch")
    parser.add_argument("--soak", type=float, default=0, help="minutes; nothing else is measured")
    parser.add_argument("--judge", type=int, default=0, help="frames; nothing else is measured")
    args = common.parse(parser, argv)
    if args.soak:
        common.report("play_soak", args, soak(args))
    elif args.judge:
        common.report("play_judged", args, judge(args))
    else:
        common.report("play", args, figures(args))


# ---- figures -------------------------------------------------------------------------------------


def figures(args: argparse.Namespace) -> list[dict]:
    preset = load_preset(args.preset)
    decodings = suggestions(preset, own_decoding(preset))
    rows = []
    for players in args.players:
        with served(args, players) as address, ExitStack() as stack:
            visitors = [stack.enter_context(closing(Visitor(address))) for _ in range(players)]
            for visitor in visitors:
                visitor.frame()
            for decoding in decodings if players == 1 else decodings[2:3]:
                for _ in range(args.repeats):
                    rows.append(lap(args, preset, visitors, decoding))
    return rows


def lap(args: argparse.Namespace, preset, visitors: list[Visitor], decoding) -> dict:
    """What all of them get by a decoding; the frames that were in flight do not count."""
    order = {"method": decoding.method, "k": decoding.k, "d": decoding.d}
    visitors[0].say(do="decode", **order)
    keys = list(preset.actions.keys)[:5]
    with ThreadPoolExecutor(len(visitors)) as pool:

        def one(visitor: Visitor):
            while visitor.word("state")["decoding"] != {**order, "label": label}:
                pass
            visitor.frame()
            return play(visitor, args.seconds, keys)

        label = decoding.label(preset.grid)
        played = list(pool.map(one, visitors))
    delays = sorted(delay for each in played for delay in each.delays)
    seconds = float(np.mean([each.seconds for each in played]))
    frames = float(np.mean([each.frames for each in played]))
    return {
        "decoding": label,
        "players": len(visitors),
        "frames/s each": frames / seconds,
        "key to picture, median ms": 1000 * quantile(delays, 0.5),
        "95th percentile": 1000 * quantile(delays, 0.95),
        "keys": len(delays),
        "ms/step": 1000 * seconds / max(1, played[0].steps),
        "tokens/s": len(visitors) * frames * preset.grid.area / seconds,
    }


def quantile(values: list[float], share: float) -> float:
    return values[round(share * (len(values) - 1))] if values else float("nan")


@contextmanager
def served(args: argparse.Namespace, sessions: int) -> Iterator[str]:
    """`diagd play` in a process of its own; its address, `host:port`."""
    words = [*args.clip, "-p", args.preset, "--sessions", sessions, "--fps", 0, "--seed", 1]
    with serving(*words, "--threads", args.threads, "--dtype", args.dtype) as page:
        yield page.removeprefix("http://").strip("/")


# ---- for a long time -----------------------------------------------------------------------------


def soak(args: argparse.Namespace) -> list[dict]:
    """A row a minute, and one of what is left at the end."""
    loaded = load(args.preset)
    threads, rows = threading.active_count(), []
    app = play_app(loaded, args.clip, seed=1, pace=0)
    room, keys = app.state.room, list(loaded.preset.actions.keys)[:5]
    with here(app) as (address, loop):
        with closing(Visitor(address)) as player:
            player.frame()
            ends = time.monotonic() + 60 * args.soak
            while not rows or time.monotonic() < ends:
                with ThreadPoolExecutor(1) as pool:
                    harm = pool.submit(harass, address)
                    minute = min(60.0, 60 * args.soak)
                    played = play(player, minute, keys)
                    refused, seconds = harm.result()
                rows.append(
                    {
                        "minute": len(rows) + 1,
                        **left(room, loop),
                        "frames/s": played.frames / played.seconds,
                        "95th percentile, ms": played.delay(0.95),
                        "refused": refused,
                        "s for 50 visits": seconds,
                    }
                )
        time.sleep(SETTLED)
        rows.append(dict.fromkeys(rows[0]) | {"minute": "all have gone"} | left(room, loop))
    rows.append(dict.fromkeys(rows[0]) | {"minute": "closed"})
    rows[-1] |= {"threads": threading.active_count() - threads, "MB": memory()}
    return rows


def harass(address: str) -> tuple[int, float]:
    """1,000 messages that cannot be read, 100 who vanish, 50 visits; how many were refused, and the
    seconds of the visits.
    """
    refused = malformed(address, 1000)
    vanish(address, 100)
    return refused, come_and_go(address, 50)


def left(room, loop: asyncio.AbstractEventLoop) -> dict:
    """Memory, and what is there of connections, tasks and threads."""
    return {
        "MB": memory(),
        "connections": len(room.clients),
        "tasks": len(asyncio.all_tasks(loop)),
        "threads": threading.active_count(),
    }


def memory() -> int:
    """Megabytes of this process."""
    gc.collect()
    return psutil.Process().memory_info().rss // 1_000_000


@contextmanager
def here(app) -> Iterator[tuple[str, asyncio.AbstractEventLoop]]:
    """An application served by a thread of this process: its address and its event loop."""
    with closing(listen("127.0.0.1", 0)) as socket:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws_max_size=4096))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
        thread.start()
        try:
            while not (server.started and app.state.room.loop):
                time.sleep(0.01)
            yield f"127.0.0.1:{socket.getsockname()[1]}", app.state.room.loop
        finally:
            server.should_exit = True
            thread.join()


# ---- judged --------------------------------------------------------------------------------------


def judge(args: argparse.Namespace) -> list[dict]:
    """How often the inverse dynamics model reads the key that was held: from frames that came over
    the socket, of all clips in turn; from those of the game itself, in which the same keys are held
    as long; and from the shipped clips, in which somebody wandered who turns away from walls.
    """
    preset = load_preset(args.preset)
    inverse, names = load_inverse(preset, torch.device("cpu"), None), list(preset.actions.keys)
    clips = [Path(clip) for clip in args.clip] or shipped_clips(preset)
    hits = [hit for clip in clips for hit in read_back(inverse, *recorded(preset, clip))]
    rows = [read_row("recorded clips", hits)]
    with served(args, 1) as address, closing(Visitor(address)) as visitor:
        for decoding in suggestions(preset, own_decoding(preset))[2:]:  # NTP takes long
            visitor.say(do="decode", method=decoding.method, k=decoding.k, d=decoding.d)
            hits, walks = [], []
            for clip in clips:
                walked = walk(visitor, clip.stem, -(-args.judge // len(clips)), KEYS)
                pixels = [np.asarray(Image.open(io.BytesIO(each.picture))) for each in walked]
                walks.append([names[each.action] for each in walked[1:]])
                hits += read_back(inverse, np.stack(pixels), walks[-1], names)
            label = decoding.label(preset.grid)
            real = read_row(
                f"the game's, keys as by {label}", in_the_game(preset, inverse, walks, names)
            )
            made = read_row(label, hits)
            made["share of the game's"] = made["read as held"] / real["read as held"]
            rows += [real, made]
    return [{"share of the game's": None} | row for row in rows]


def read_row(what: str, hits: list[bool]) -> dict:
    return {"frames": what, "pairs": len(hits), "read as held": float(np.mean(hits))}


def in_the_game(preset, inverse, walks: list[list[str]], names: list[str]) -> list[bool]:
    """What is read from the game's own frames where the same keys are held, from several places."""
    hits = []
    for scenario in SCENARIOS:
        with open_game(scenario) as game:
            for seed in range(FIRST_PLACE, FIRST_PLACE + PLACES):
                for held in walks:
                    frames = follow(game, seed, held, preset.clip.height, preset.clip.width)
                    hits += read_back(inverse, frames, held[: len(frames) - 1], names)
    return hits


def read_back(inverse, frames: np.ndarray, held: list[str], names: list[str]) -> list[bool]:
    """Of each pair of frames, whether what was held is read from them."""
    read, _ = read_motion(inverse, frames)
    return [names[n] == name for n, name in zip(read.tolist(), held, strict=True)]


def recorded(preset, clip: Path) -> tuple[np.ndarray, list[str], list[str]]:
    """Frames of a clip, the actions that were recorded between them, and the names of all."""
    rows = preset.actions.read(clip.with_suffix(".jsonl"))
    found = read_clip(clip, 1, 0, len(rows) - 1)
    frames = np.concatenate([found.frames, found.future])
    held = preset.actions.describe(rows)[: len(frames) - 1]
    return frames, held, list(preset.actions.keys)


if __name__ == "__main__":
    main()
