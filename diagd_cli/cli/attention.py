"""diagd attention: where a preset's model looks while it reads a clip."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diagd_cli.cli import options as o
from diagd_cli.cli.console import Reporter
from diagd_cli.cli.guard import guard
from diagd_cli.cli.layout import lay_out, width_of
from diagd_cli.cli.settings import machine_of, merge, steering_of
from diagd_cli.cli.threads import set_threads
from diagd_cli.errors import UsageError
from diagd_cli.files.paths import path_text
from diagd_cli.inputs import clip_inputs, preset_inputs
from diagd_cli.report.table import Table

if TYPE_CHECKING:
    from diagd_cli.files.outputs import Named
    from diagd_cli.jobs.attention import AttentionMap
    from diagd_cli.preset import Preset

HELP = """Show where the model looks: a PNG of one frame's attention, and shares on its neighbours.

The clip's own tokens are read, from its start. The map has a row for each
token of a frame, and in it what the query at that token attends to: mean over
layers and heads. Diagonals are neighbours, on which Diagonal Decoding rests.
"uniform" is what a share would be if all that is seen were attended alike.

[bold]Examples[/]

  diagd attention walk.mp4                    # walk-attention.png and a table

  diagd attention walk.mp4 --layer 5 --head 0 -o head.png

  diagd attention walk.mp4 --k 1 --d 5 --no-picture --json
"""
WORDS = {
    "this_frame": "this frame",
    "itself": "  the token itself",
    "same_row": "  same row, itself included",
    "row_above": "  row above",
    "near": "  within {r}, itself included",
    "previous_frame": "previous frame",
    "same_place_before": "  same place",
    "near_before": "  within {r} of the same place",
    "earlier_frames": "earlier frames",
    "conditioning": "conditioning tokens",
    "prefix": "tokens before the first frame",
    "prompt_frames": "all prompt frames",
    "not_yet_made": "not yet made by {decoding}",
}


@o.grouped
def attention(
    clip: Annotated[Path, typer.Argument(help="A video file, or WHAM's .npz.")],
    *,
    preset: o.PresetOption = "freedoom",
    layer: Annotated[int | None, typer.Option(**o.COUNT, help="One layer, from 0; by default the mean.")] = None,
    head: Annotated[int | None, typer.Option(**o.COUNT, help="One head, from 0; by default the mean.")] = None,
    frame: Annotated[
        int | None,
        typer.Option(**o.COUNT, help="Latent frame whose tokens ask, from 0; by default the first after the context."),
    ] = None,
    radius: Annotated[int, typer.Option("--radius", "-r", **o.COUNT, help="Rows and columns that are near.")] = 2,
    decoding: o.DecodingOption = None,
    k: o.KOption = None,
    d: o.DOption = None,
    steer: o.SteeringOptions,
    start: Annotated[int, typer.Option(**o.COUNT, help="First frame of the clip that is read.")] = 0,
    seed: o.SeedOption = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", **o.FILE, help="A .png file; CLIP-attention.png here.")
    ] = None,
    picture: Annotated[bool, typer.Option("--picture/--no-picture", help="Draw the map, or only tell shares.")] = True,
    machine: o.MachineOptions,
    random_weights: o.RandomWeightsOption = False,
    force: o.ForceOption = False,
    tell: o.OutputOptions,
) -> None:
    reporter = Reporter(tell.quiet, tell.verbose)
    with guard(reporter):
        from diagd_cli.clip.read import read_clip
        from diagd_cli.jobs.prompts import find_prompts
        from diagd_cli.preset import load_preset
        from diagd_cli.tokens.actions import clip_actions

        chosen = load_preset(preset)
        settings = merge(chosen, decoding=o.DecodingOptions(k, d), seed=seed, method=decoding)
        at = frame_of(chosen, frame)
        check_model(chosen, layer, head)
        reads = preset_inputs(chosen, folder=machine.weights_dir, weights=not random_weights)
        reads += clip_inputs(chosen, [clip], steer.actions, steer.prompt_file, steer.prompt_embedding)
        target = target_of(clip, output, reads, force) if picture else None
        source = read_clip(clip, 1 + at * chosen.tokenizer.temporal, start, tell=reporter.note)
        if source.damage:
            reporter.note(f"{clip} is {source.damage}")
        asked = chosen.parse_actions(steer.actions)
        steering = clip_actions(clip, chosen.actions, asked, start, max(at, 1), min(at, 1))  # they lead to the frame
        prompts = find_prompts(chosen, [clip], steering_of(steer), random_weights)
        prompts.embed(reporter)
        with reporter.stage(f"loading {chosen.name}"):
            from diagd_cli.jobs.models import load_models

            set_threads(machine.threads)
            loaded = load_models(chosen, settings, machine_of(machine, random=random_weights))
        with reporter.stage("reading"):
            from diagd_cli.jobs.attention import attention_map
            from diagd_cli.pipeline import encode_frames

            codes = encode_frames(loaded, source.frames).cpu().numpy()
            seen = attention_map(
                loaded, codes, at, actions=steering, text=prompts.of(clip),
                layer=layer, head=head, radius=radius, decoding=settings.decoding,
            )  # fmt: skip
        facts = {"input": {"path": path_text(clip), "sha256": source.sha256, "first": start}, "preset": chosen.name}
        facts |= describe(seen, chosen, settings.decoding, layer, head, radius)
        if target:
            from diagd_cli.report.attention_map import write_map

            write_map(target, seen, title(facts))
            facts["output"] = path_text(target)
        say(reporter, facts, tell.json)


def frame_of(preset: Preset, frame: int | None) -> int:
    """The latent frame to look at. Raises UsageError where the model's window ends before it."""
    chosen = min(preset.context, preset.window - 1) if frame is None else frame
    if chosen >= preset.window:
        raise UsageError(f"The frame is {chosen}", f"The preset {preset.name} holds frames 0 to {preset.window - 1}")
    return chosen


def check_model(preset: Preset, layer: int | None, head: int | None) -> None:
    """Refuse a layer or a head that the preset's model has not, before it is loaded. Raises UsageError."""
    counts = ("layer", layer, preset.transformer.layers), ("head", head, preset.transformer.heads)
    for name, value, count in counts:
        if value is not None and value >= count:
            raise UsageError(f"--{name} is {value}", f"The preset {preset.name} has {count}: give 0 to {count - 1}")


def target_of(clip: Path, output: Path | None, reads: list[Named], force: bool) -> Path:
    """Where the picture goes, checked before any work is done, as is what draws it. Raises DiagdError."""
    from diagd_cli.files.outputs import check_outputs
    from diagd_cli.report.figure import figure_class

    target = output or Path(f"{clip.stem}-attention.png")
    if target.suffix.lower() != ".png":
        raise UsageError(f"-o is {str(target)!r}", "Name a .png file")
    figure_class("The picture (leave it out with --no-picture)")
    check_outputs([(target, "the picture")], reads, force=force)
    return target


def describe(seen: AttentionMap, preset: Preset, decoding, layer: int | None, head: int | None, radius: int) -> dict:
    """What was seen, as JSON can hold it."""

    def rounded(shares: dict[str, float]) -> dict[str, float]:
        return {name: round(share, 6) for name, share in shares.items()}

    grid, context = preset.grid, preset.context
    return {
        "frame": seen.frame,
        "grid": [grid.h, grid.w],
        "positions": seen.weights.shape[1],
        "layer": layer,
        "head": head,
        "radius": radius,
        "decoding": {"label": decoding.label(grid), **decoding.facts(grid, context)},
        "shares": rounded(seen.shares),
        "uniform": rounded(seen.uniform),
        "layers": [rounded(shares) for shares in seen.layers],
    }


def title(facts: dict) -> str:
    """What the map shows, in a line."""
    layer = "mean of all layers" if facts["layer"] is None else f"layer {facts['layer']}"
    heads = "all heads" if facts["head"] is None else f"head {facts['head']}"
    name = Path(facts["input"]["path"]).name
    return f"{facts['preset']}, {name}: attention of frame {facts['frame']}, {layer}, {heads}"


def say(reporter: Reporter, facts: dict, json: bool) -> None:
    """The result on stdout: JSON, the picture's path with the table on stderr, or without a picture the table."""
    if json:
        reporter.result(facts)
    elif "output" in facts:
        reporter.note(text(facts, width_of(sys.stderr)))
        reporter.result(facts["output"])
    else:
        reporter.result(text(facts, width_of(sys.stdout)))


def text(facts: dict, width: int | None) -> str:
    """The shares as a table."""
    rows = []
    for name, words in WORDS.items():
        share, uniform = facts["shares"][name], facts["uniform"][name]
        if uniform or name == "not_yet_made":
            label = words.format(r=facts["radius"], decoding=facts["decoding"]["label"])
            rows.append((label, f"{share:.1%}", f"{uniform:.1%}", f"{share / uniform:.1f}" if uniform else "-"))
    return lay_out(Table(["attention on", "share", "uniform", "times"], rows, title(facts)), width)
