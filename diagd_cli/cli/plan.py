"""diagd plan: what a decoding does on a grid, without loading a model."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diagd_cli.cli import groups as g
from diagd_cli.cli import options as o
from diagd_cli.cli.console import Reporter
from diagd_cli.cli.decodings import parse_decoding
from diagd_cli.cli.guard import guard
from diagd_cli.cli.kinds import FILE, one_of
from diagd_cli.cli.layout import width_of, wrapped
from diagd_cli.cli.settings import merge_decoding
from diagd_cli.errors import UsageError
from diagd_cli.files.paths import path_text
from diagd_cli.inputs import preset_inputs

if TYPE_CHECKING:
    from diagd_cli.files.outputs import Named
    from diagd_cli.schedule.plan import Plan
    from diagd_cli.sections import Defaults
    from diagd_cli.tokens.grid import Grid

HELP = """Show what a decoding does: steps, tokens a step, ideal speed-up over NTP, and their order.

[bold]Examples[/]

  diagd plan                                # the default preset's own decoding

  diagd plan --grid 3,40,64 --k 2 --d 10    # Cosmos: 3 latent frames

  diagd plan --preset freedoom --decoding zipar --k 4 --json

  diagd plan --grid 3,40,64 --k 2 --d 10 --animate order.mp4

  diagd plan --frames 4 --animate race.gif --compare-with ntp
"""
MOST_TOKENS = 4_000_000  # of one plan, which takes some 300 bytes a token


@g.grouped
def plan(
    *,
    preset: o.PresetOption = "freedoom",
    grid: Annotated[
        str | None,
        typer.Option(help="T,h,w: new latent frames, rows, columns; instead of a preset."),
    ] = None,
    frames: o.FramesOption = None,
    decoding: o.DecodingOption = None,
    order: g.DecodingOptions,
    animate: Annotated[
        Path | None,
        typer.Option(
            **FILE,
            help="Write an .mp4 or .gif: the order in which tokens are made, step by step.",
        ),
    ] = None,
    compare_with: Annotated[
        str | None,
        typer.Option(help="With --animate, a second decoding below: NAME, NAME:K or NAME:K:D."),
    ] = None,
    force: o.ForceOption = False,
    json: o.JsonOption = False,
    verbose: o.VerboseOption = False,
) -> None:
    reporter = Reporter(verbose=verbose)
    with guard(reporter):
        from diagd_cli.jobs.plans import plans_of, summary
        from diagd_cli.preset_files import load_preset
        from diagd_cli.schedule.decoding import Decoding
        from diagd_cli.tokens.grid import Grid

        defaults: Decoding | Defaults
        if grid:
            match = re.fullmatch(r"\s*(\d{1,5})\s*,\s*(\d{1,5})\s*,\s*(\d{1,5})\s*", grid)
            if not match or not all(int(g) for g in match.groups()):
                raise UsageError(
                    f"--grid is {grid!r}", "Write T,h,w as positive whole numbers, such as 3,40,64"
                )
            count, h, w = map(int, match.groups())
            shape, context, chosen = Grid(h, w), 1, None
            defaults = Decoding(k=min(2, w), d=1)
            new = frames or count
            if new * h * w > MOST_TOKENS:
                raise UsageError(
                    f"--grid {grid} has {new * h * w:,} tokens", f"Plan at most {MOST_TOKENS:,}"
                )
        else:
            chosen = load_preset(preset)
            shape, context, defaults = chosen.grid, chosen.context, chosen.decoding
            chosen.check_frames(chosen.clip.context, frames or chosen.clip.frames)
            new = chosen.new_latents(frames or chosen.clip.frames)
        shown = merge_decoding(defaults, order, decoding)
        check_animation(animate, compare_with, preset_inputs(chosen, weights=False), force)
        walks = [shown, *([parse_decoding(compare_with, shown)] if compare_with else [])]
        facts = summary(shape, context, new, shown, chosen)
        width = width_of(sys.stderr if animate else sys.stdout)
        lines = [part for line in describe(facts) for part in wrapped(line, width)]
        text = "\n".join(
            [*lines, "", picture(shape, facts["k"], facts["d"], new, min(78, width or 78))]
        )
        if animate:
            with reporter.stage("drawing"):
                facts["animation"] = film(
                    animate, [plans_of(shape, context, new, w, chosen) for w in walks]
                )
            reporter.note(text + "\n\n" + told(facts["animation"]))
            text = str(animate)
        reporter.result(facts if json else text)


def check_animation(
    animate: Path | None, compare_with: str | None, reads: list[Named], force: bool
) -> None:
    """Refuse, before any work is done, what cannot be written. Raises DiagdError."""
    if compare_with and not animate:
        raise UsageError("--compare-with is a part of an animation", "Add --animate OUT.mp4")
    if compare_with:
        one_of(compare_with.partition(":")[0].strip(), o.METHODS, "'--compare-with'")
    if animate and animate.suffix.lower() not in (".mp4", ".gif"):
        raise UsageError(f"--animate is {str(animate)!r}", "Name an .mp4 or a .gif file")
    from diagd_cli.files.outputs import check_outputs

    writes = [(animate, "the animation")] if animate else []
    check_outputs(writes, reads, force=force, instead="Choose another name for it")


def film(path: Path, decodings: list[list[Plan]]) -> dict:
    """Write the animation of one decoding or of two, each as plans one after the other; what it
    shows.
    """
    from diagd_cli.report.animation import animate
    from diagd_cli.report.timeline import timeline

    lines = [timeline(plans) for plans in decodings]
    return {
        "output": path_text(path),
        "decodings": [line.label for line in lines],
        **animate(path, lines),
    }


def told(animation: dict) -> str:
    """What an animation shows, in a line."""
    every = animation["steps_per_picture"]
    text = f"animation: {animation['seconds']:g} s, {animation['steps_per_second']} steps a second"
    text += f", {every} steps a picture" if every > 1 else ""
    left = animation["frames_left_out"]
    return text + (f"; {animation['frames']} frames are drawn, {left} left out" if left else "")


def describe(facts: dict) -> list[str]:
    """The facts as a few lines."""
    per_step = facts["tokens_per_step"]
    rolls = f" in {facts['windows']} windows" if facts["windows"] > 1 else ""
    frames, h, w = facts["grid"]
    if facts["method"] == "exact":
        made = f"{frames} new frames of {h}x{w}: {facts['tokens']} tokens"
        most = f"in at most {facts['steps']} passes{rolls}: how many depends on the guesses"
        return [f"{facts['label']}, the tokens of next-token prediction", f"{made} {most}"]
    start = f"stand-in {facts['stand_in']}"
    if facts.get("row_end"):
        start = "the known end of a row starts the next one"
    return [
        f"{facts['label']}, {start}{'' if facts['repair'] else ', no repair'}",
        f"{frames} new frames of {h}x{w}: {facts['tokens']} tokens in "
        f"{facts['steps']} steps{rolls}",
        f"{per_step['mean']} tokens a step (at most {per_step['max']}): "
        f"up to {facts['ideal_speedup']}x faster than next-token prediction",
    ]


def picture(grid: Grid, k: int, d: int, frames: int, columns: int = 78) -> str:
    """Step numbers over the corner of the first two frames: equation 5 to look at."""
    shown = min(frames, 2)
    digits = len(str((shown - 1) * d + (grid.h - 1) * k + grid.w - 1))
    # for a frame: cells of digits + 1, and ".." where some are left out
    room = (columns - 3 * (shown - 1)) // shown
    wide = max(1, min(grid.w, (room - 2) // (digits + 1)))
    cut = " .." if wide < grid.w else ""
    lines = [[f"frame {t}" for t in range(shown)]]
    for i in range(min(grid.h, 8)):
        starts = [t * d + i * k for t in range(shown)]
        lines.append(
            [" ".join(f"{start + j:>{digits}}" for j in range(wide)) + cut for start in starts]
        )
    width = max(map(len, lines[0] + lines[1]))
    text = ["   ".join(part.ljust(width) for part in line).rstrip() for line in lines]
    return "\n".join(["step at which each token is made:", *text, *([".."] if grid.h > 8 else [])])
