"""What a decoding does on a grid, in figures: nothing is loaded. Torch-free."""

from __future__ import annotations

from diagd_cli.engine.windows import fresh_plans
from diagd_cli.preset import Preset
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.schedule.plan import Plan
from diagd_cli.tokens.grid import Grid


def plans_of(
    grid: Grid, context: int, frames: int, decoding: Decoding, preset: Preset | None = None
) -> list[Plan]:
    """The plans of a decoding of `frames` new frames, one after the other; with a preset, as often
    as its window rolls.
    """
    window, overlap = (preset.window, preset.overlap) if preset else (context + frames, 0)
    return fresh_plans(grid, context, frames, decoding, window, overlap)


def summary(
    grid: Grid, context: int, frames: int, decoding: Decoding, preset: Preset | None = None
) -> dict:
    """Facts of a decoding of `frames` new frames; with a preset, as often as its window rolls."""
    plans = plans_of(grid, context, frames, decoding, preset)
    resolved = decoding.resolve(grid, context)
    steps, fed = sum(p.steps for p in plans), sum(len(p.source) for p in plans)
    tokens = frames * grid.area
    return {
        "label": decoding.label(grid),
        "method": decoding.method,
        **resolved._asdict(),
        "grid": [frames, grid.h, grid.w],
        **({"row_end": len(grid.row_end)} if grid.row_end else {}),
        **({"frame_end": len(grid.frame_end)} if grid.frame_end else {}),
        "windows": len(plans),
        "tokens": tokens,
        "steps": steps,
        "fed": fed,
        "tokens_per_step": {
            "mean": round(tokens / steps, 2),
            "max": int(max(p.outputs.max() for p in plans)),
        },
        "fed_per_step_max": int(max(p.widths.max() for p in plans)),
        "ideal_speedup": round(tokens / steps, 2),
    }
