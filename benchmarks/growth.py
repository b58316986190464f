"""How the cost of a step grows with the work: frames, rows and columns, clips at once, context.
DiagD as shipped.

One thing grows at a time, from the shipped preset's shape; weights are random. Prefill is told
apart. Windows slide where the preset has them do so.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks import common
from benchmarks.common import Lap
from diagd_cli import Preset, Session, load_preset, random_transformer
from diagd_cli.model.linear import pack
from diagd_cli.model.transformer import Transformer

CONTEXT = 4  # frames, where they do not grow
TOKEN = 8  # pixels of a frame that a token stands for, each way


def main(argv: list[str] | None = None) -> None:
    parser = common.options(__doc__)
    parser.add_argument(
        "--frames",
        nargs="*",
        type=int,
        default=[4, 8, 16, 32, 64],
        help="new frames, as far as they go beyond the window",
    )
    parser.add_argument(
        "--grids",
        nargs="*",
        default=["8x10", "15x20", "30x20", "15x40", "30x40"],
        help="tokens, HxW",
    )
    parser.add_argument(
        "--batches", nargs="*", type=int, default=[1, 2, 4, 8], help="clips at once"
    )
    parser.add_argument(
        "--contexts",
        nargs="*",
        type=int,
        default=[1, 4, 8, 16, 32],
        help="frames before the new ones",
    )
    parser.add_argument("--new", type=int, default=4, help="new frames where something else grows")
    parser.add_argument(
        "--layers",
        type=int,
        default=load_preset("freedoom").transformer.layers,
        help="of the model",
    )
    args = common.parse(parser, argv)
    common.report("growth", args, sweep(args))


def sweep(args) -> list[dict]:
    """A row for every point of every sweep."""
    shipped = common.vary("freedoom", transformer={"layers": args.layers})
    model = built(shipped)
    points = {("frames", n): partial(run, shipped, model, n) for n in args.frames}
    points |= {("batch", n): partial(run, shipped, model, args.new, batch=n) for n in args.batches}
    for text in args.grids:
        h, w = map(int, text.split("x"))
        preset = common.vary(shipped, clip={"height": TOKEN * h, "width": TOKEN * w})
        points["grid", text] = partial(run, preset, built(preset), args.new)
    for n in args.contexts:
        preset = common.vary(shipped, clip={"context": n, "window": n + args.new, "overlap": n})
        points["context", n] = partial(run, preset, built(preset), args.new, context=n)
    laps = common.interleave(points, args.repeats)
    rows = []
    for (what, value), own in laps.items():
        rows.append(
            {
                "grows": what,
                "to": value,
                **common.figures(own),
                "prefill s": common.median(own).prefill,
            }
        )
    return rows


def built(preset: Preset) -> Transformer:
    return pack(common.sharpen(random_transformer(preset, seed=0)))


def run(
    preset: Preset, model: Transformer, frames: int, batch: int = 1, context: int = CONTEXT
) -> Lap:
    """A session of `batch` clips, each of `context` random frames, that is continued by the
    preset's decoding.
    """
    grid = preset.grid
    codes = np.random.default_rng(0).integers(
        preset.tokenizer.codebook, size=(batch, context, grid.h, grid.w)
    )
    steering = np.tile(preset.actions.rest, (batch, context + frames, 1))
    sampling, seeds = preset.sampling(), list(range(batch))
    session = Session(model, grid, codes, steering, seeds, sampling, preset.window, preset.overlap)
    for _ in session.extend(frames, preset.decoding.decoding):
        pass
    times = session.times
    return Lap(times.decode, times.steps, times.tokens, prefill=times.prefill)


if __name__ == "__main__":
    main()
