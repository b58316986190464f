"""diagd plan: what a decoding does on a grid, without loading a model."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from diagd_cli.cli import options as o
from diagd_cli.cli.app import app, guard
from diagd_cli.cli.console import Reporter
from diagd_cli.errors import UsageError

HELP = """Show what a decoding does: steps, tokens a step, ideal speed-up over next-token prediction, and the order.

[bold]Examples[/]

  diagd plan                                # the default preset's own decoding

  diagd plan --grid 3,40,64 --k 2 --d 10    # Cosmos: 3 latent frames

  diagd plan --preset freedoom --decoding zipar --k 4 --json
"""
MOST_TOKENS = 4_000_000  # of one plan, which takes some 300 bytes a token


@app.command(help=HELP)
def plan(
    preset: o.PresetOption = "freedoom",
    grid: Annotated[
        str | None, typer.Option(help="T,h,w: new latent frames, rows, columns; instead of a preset.")
    ] = None,
    frames: o.FramesOption = None,
    decoding: o.DecodingOption = None,
    k: o.KOption = None,
    d: o.DOption = None,
    stand_in: o.StandInOption = None,
    repair: o.RepairOption = True,
    json: o.JsonOption = False,
    verbose: o.VerboseOption = False,
) -> None:
    reporter = Reporter(verbose=verbose)
    with guard(reporter):
        from diagd_cli.config import load_preset
        from diagd_cli.schedule.decoding import Decoding
        from diagd_cli.tokens.grid import Grid

        if grid:
            match = re.fullmatch(r"\s*(\d{1,5})\s*,\s*(\d{1,5})\s*,\s*(\d{1,5})\s*", grid)
            if not match or not all(int(g) for g in match.groups()):
                raise UsageError(f"--grid is {grid!r}", "Write T,h,w as positive whole numbers, such as 3,40,64")
            count, h, w = map(int, match.groups())
            shape, context, chosen = Grid(h, w), 1, None
            defaults = Decoding(k=min(2, w), d=1)
            new = frames or count
            if new * h * w > MOST_TOKENS:
                raise UsageError(f"--grid {grid} has {new * h * w:,} tokens", f"Plan at most {MOST_TOKENS:,}")
        else:
            chosen = load_preset(preset)
            shape, context, defaults = chosen.grid, chosen.context, chosen.decoding
            chosen.check_frames(chosen.clip.context, frames or chosen.clip.frames)
            new = chosen.new_latents(frames or chosen.clip.frames)
        walk = o.merge_decoding(defaults, decoding, k, d, stand_in, repair)
        facts = summary(shape, context, new, walk, chosen)
        if json:
            reporter.result(facts)
        else:
            reporter.result(describe(facts) + "\n\n" + picture(shape, facts["k"], facts["d"], new))


def summary(grid, context: int, frames: int, decoding, preset=None) -> dict:
    """Facts of a decoding of `frames` new frames; with a preset, as often as its window rolls."""
    from diagd_cli.engine.windows import window_parts
    from diagd_cli.schedule.plan import build_plan

    parts = window_parts(context, frames, preset.window, preset.overlap) if preset else [(context, frames)]
    plans = {part: build_plan(grid, *part, decoding) for part in set(parts)}  # most windows are alike
    k, d, stand_in, repair = decoding.resolve(grid, context)
    steps, fed = sum(plans[p].steps for p in parts), sum(len(plans[p].source) for p in parts)
    tokens = frames * grid.area
    return {
        "label": decoding.label(grid),
        "method": decoding.method,
        "k": k,
        "d": d,
        "stand_in": stand_in,
        "repair": repair,
        "grid": [frames, grid.h, grid.w],
        "windows": len(parts),
        "tokens": tokens,
        "steps": steps,
        "fed": fed,
        "tokens_per_step": {"mean": round(tokens / steps, 2), "max": int(max(p.heads.max() for p in plans.values()))},
        "fed_per_step_max": int(max(p.widths.max() for p in plans.values())),
        "ideal_speedup": round(tokens / steps, 2),
    }


def describe(facts: dict) -> str:
    """The facts as a few lines."""
    per_step = facts["tokens_per_step"]
    rolls = f" in {facts['windows']} windows" if facts["windows"] > 1 else ""
    frames, h, w = facts["grid"]
    return "\n".join(
        [
            f"{facts['label']}, stand-in {facts['stand_in']}{'' if facts['repair'] else ', no repair'}",
            f"{frames} new frames of {h}x{w}: {facts['tokens']} tokens in {facts['steps']} steps{rolls}",
            f"{per_step['mean']} tokens a step (at most {per_step['max']}): "
            f"up to {facts['ideal_speedup']}x faster than next-token prediction",
        ]
    )


def picture(grid, k: int, d: int, frames: int, columns: int = 78) -> str:
    """Step numbers over the corner of the first two frames: equation 5 to look at."""
    shown = min(frames, 2)
    digits = len(str((shown - 1) * d + (grid.h - 1) * k + grid.w - 1))
    room = (columns - 3 * (shown - 1)) // shown  # for a frame: cells of digits + 1, and ".." where some are left out
    wide = max(1, min(grid.w, (room - 2) // (digits + 1)))
    cut = " .." if wide < grid.w else ""
    lines = [[f"frame {t}" for t in range(shown)]]
    for i in range(min(grid.h, 8)):
        starts = [t * d + i * k for t in range(shown)]
        lines.append([" ".join(f"{start + j:>{digits}}" for j in range(wide)) + cut for start in starts])
    width = max(map(len, lines[0] + lines[1]))
    text = ["   ".join(part.ljust(width) for part in line).rstrip() for line in lines]
    return "\n".join(["step at which each token is made:", *text, *([".."] if grid.h > 8 else [])])
