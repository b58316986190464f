"""Next-token prediction's own tokens by guesses that are checked: passes, tokens fed and seconds.

Real clips are continued, since it is their stillness that makes guesses right. Each decoding is
compared with next-token prediction of the same seed: `same` is the share of equal tokens. The
window of 64 random guesses, all in a row, is what SCD does (arXiv 2510.24211): same model, clips
and noise.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from PIL import Image

from benchmarks import common
from benchmarks.common import Lap
from diagd_cli import Decoding, Preset, load
from diagd_cli.clip.read import read_clip
from diagd_cli.device import choose_device
from diagd_cli.engine.session import Session
from diagd_cli.engine.state import Times
from diagd_cli.loading import Loaded
from diagd_cli.pipeline import encode, start_session

PIXELS = 8  # of the picture, each way, a token
GOLDEN = 0.618


def main(argv: list[str] | None = None) -> None:
    parser = common.options(__doc__, repeats=1)
    parser.add_argument("--preset", default="freedoom", help="whose clips are continued")
    parser.add_argument("--dtype", default="float32", help="as --dtypes of diagd bench")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--clips", nargs="+", help="others than those that it ships")
    parser.add_argument("--frames", type=int, default=4, help="new ones of each clip")
    parser.add_argument("--start", type=int, default=0, help="first frame of the context")
    parser.add_argument("--windows", nargs="+", type=int, default=[32, 64, 96, 128])
    parser.add_argument("--raster", nargs="+", type=int, default=[16, 32, 64, 128])
    parser.add_argument("--picture", help="PNG of when each token proved to be true")
    args = common.parse(parser, argv)
    dtype, _, weights = args.dtype.partition("+")
    device = choose_device(args.device)
    loaded = load(args.preset, device, dtype, weights=weights or "float")
    near = loaded.preset.path.parent / loaded.preset.name / "clips"
    clips = args.clips or sorted(map(str, near.glob("*.mp4")))
    sessions = [open_clip(loaded, clip, args.start, args.frames) for clip in clips]
    contest(loaded, sessions, args)
    if args.picture:
        draw(sessions[0], loaded, args)


def open_clip(loaded: Loaded, path: str, start: int, frames: int) -> Session:
    """A session after a clip's context, with the actions that were really taken."""
    clip = read_clip(path, loaded.preset.clip.context, start)
    request = loaded.request(frames, 0, clip=clip)
    return start_session(loaded, encode(loaded, clip)[None], [request])


def decodings(preset: Preset, args) -> list[Decoding]:
    """Next-token prediction first, then what others do, what we do, and what makes other tokens."""
    most, default = preset.grid.block, preset.decoding.decoding
    rival = min(64, most)
    raster = [Decoding("exact", width=width, row=width) for width in args.raster if width <= most]
    return [
        Decoding("ntp"),
        Decoding("exact", width=rival, row=rival, guess="random"),
        *raster,
        *(Decoding("exact", width=width) for width in args.windows if width <= most),
        Decoding("exact", width=rival, guess="random"),
        Decoding("spatial", k=2),
        default,
        replace(default, k=1),
    ]


def contest(loaded: Loaded, sessions: list[Session], args) -> None:
    walks = {name_of(walk, loaded): walk for walk in decodings(loaded.preset, args)}
    work: dict[str, list[Times]] = {}

    def run(name: str) -> Lap:
        started, ids, work[name] = 0.0, [], []
        for session in sessions:
            known = session.latents
            session.times = Times()
            for _ in session.extend(args.frames, walks[name]):
                pass
            ids += session.codes[0, known:].ravel().tolist()
            session.rewind(known)
            work[name].append(session.times)
            started += session.times.decode
        steps = sum(times.steps for times in work[name])
        return Lap(started, steps, len(ids), ids)

    laps = common.interleave({name: partial(run, name) for name in walks}, args.repeats)
    first = common.median(laps["NTP"])
    frames, rows = args.frames * len(sessions), []
    for name, own in laps.items():
        lap = common.median(own)
        same = np.mean(np.equal(lap.ids, first.ids))
        rows.append(
            {
                "decoding": name,
                "passes a frame": lap.steps / frames,
                "fed a frame": sum(times.fed for times in work[name]) / frames,
                "made a pass": lap.tokens / lap.steps,
                "same": f"{100 * same:.4g}%",
                "ms/step": 1000 * lap.seconds / lap.steps,
                "tokens/s": lap.tokens / lap.seconds,
                "times NTP": first.seconds / lap.seconds,
            }
        )
    common.report("exact", args, rows)


def name_of(walk: Decoding, loaded: Loaded) -> str:
    if walk.method != "exact":
        return walk.label(loaded.preset.grid)
    kind = "in a row" if walk.row else "ours"
    return f"exact, {walk.width} guesses, {kind}" + (", random" * (walk.guess == "random"))


def draw(session: Session, loaded: Loaded, args) -> None:
    """Frames side by side, a colour for each pass: runs of one colour proved to be true at once."""
    grid, known, seen, passes = loaded.preset.grid, session.latents, 0, 0
    when = np.zeros(args.frames * grid.area)
    for done in session.extend(args.frames, Decoding("exact")):
        passes += 1
        when[seen:done], seen = passes, done
    session.rewind(known)
    shade = when.reshape(args.frames, grid.h, grid.w)
    gap = np.full((grid.h, 1), np.nan)
    line = np.concatenate([part for frame in shade for part in (frame, gap)][:-1], axis=1)
    # neighbouring hues are far apart, and later passes are brighter
    hue, value = (line * GOLDEN) % 1, 0.45 + 0.5 * line / passes
    parts = np.stack([hue, np.full_like(line, 0.55), value], axis=2)
    colours = np.where(np.isnan(line)[:, :, None], [0, 0, 1], parts)
    image = Image.fromarray((255 * colours).astype(np.uint8), "HSV").convert("RGB")
    size = line.shape[1] * PIXELS, grid.h * PIXELS
    image.resize(size, Image.Resampling.NEAREST).save(args.picture)


if __name__ == "__main__":
    main()
