"""diagd compare: one clip, seed and context, by two or more decodings, side by side."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diagd_cli.cli import options as o
from diagd_cli.cli.console import Reporter, path_text
from diagd_cli.cli.decodings import DECODINGS_HELP, load_others, others_of, parse_candidates
from diagd_cli.cli.guard import guard
from diagd_cli.cli.layout import lay_out, width_of
from diagd_cli.cli.prompts import find_prompts
from diagd_cli.cli.settings import context_of, load_models, make_request, merge
from diagd_cli.inputs import clip_inputs, preset_inputs
from diagd_cli.report.table import Table

if TYPE_CHECKING:
    from diagd_cli.files.atomic import Held
    from diagd_cli.files.outputs import Named
    from diagd_cli.report.comparison import Comparison

HELP = """Continue one clip by several decodings: an MP4 with a panel each, a table, and a JSON report.

The context is taken from the clip's start: what follows in the clip is the
ground truth. Token for token the same noise is drawn in every decoding, so
that differences come from the decoding alone.

[bold]Examples[/]

  diagd compare walk.mp4                                    # NTP and DiagD

  diagd compare walk.mp4 --decodings ntp,spatial,diagd,zipar:4

  diagd compare walk.mp4 --decodings diagd:2:10,diagd:1:15  # k and d

  diagd compare walk.mp4 --decodings ntp,diagd,diagd@freedoom-diagonal

  diagd compare walk.mp4 --race --heat --html               # all there is
"""


@o.grouped
def compare(
    ctx: typer.Context,
    clip: Annotated[Path, typer.Argument(help="A video file, longer than the context to have ground truth.")],
    *,
    decodings: Annotated[str, typer.Option(help=DECODINGS_HELP)] = "ntp,diagd",
    preset: o.PresetOption = "freedoom",
    lengths: o.Lengths,
    walk: o.Walk,
    draw: o.Draw,
    seed: o.SeedOption = None,
    steer: o.Steer,
    start: Annotated[int, typer.Option(**o.COUNT, help="First context frame.")] = 0,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="<path>", help="An .mp4 file, or a folder/.")
    ] = None,
    heat: Annotated[bool, typer.Option("--heat", help="Below each panel, its difference to the first one.")] = False,
    race: Annotated[
        bool, typer.Option("--race", help="Also write NAME-race.mp4: frames when the decoders had them.")
    ] = False,
    sheet: Annotated[bool, typer.Option("--sheet", help="Also write a PNG beside it: frames of every panel.")] = False,
    html: Annotated[
        bool, typer.Option("--html", help="Also write a page with all of it, and nothing else needed.")
    ] = False,
    machine: o.Machine,
    random_weights: o.RandomWeightsOption = False,
    force: o.ForceOption = False,
    tell: o.Tell,
) -> None:
    reporter = Reporter(tell.quiet, tell.verbose)
    with guard(reporter):
        from diagd_cli.cli.generate import output_paths
        from diagd_cli.cli.sidecar import weights
        from diagd_cli.clip.read import read_clip
        from diagd_cli.files.atomic import together, write_json
        from diagd_cli.preset import load_preset
        from diagd_cli.tokens.actions import clip_actions

        chosen = load_preset(preset)
        settings = merge(chosen, lengths, walk, draw, seed)
        prefix = context_of(clip, chosen, settings)
        asked = parse_candidates(decodings, chosen, replace(settings, context=prefix))
        target = output_paths([clip], output or f"{clip.stem}-compared.mp4")[0]
        reads = preset_inputs(chosen, *others_of(asked), folder=machine.weights_dir, weights=not random_weights)
        reads += clip_inputs(chosen, [clip], steer.actions, steer.prompt_file, steer.prompt_embedding)
        check(target, race, sheet, html, reads, force)
        source = read_clip(clip, prefix, start, settings.frames, whole=True, tell=reporter.note)
        given, truth = chosen.parse_actions(steer.actions), len(source.future)
        steering = clip_actions(clip, chosen.actions, given, start, prefix, settings.frames, truth)
        prompts = find_prompts(chosen, [clip], steer, random_weights)
        prompts.embed(reporter)
        with reporter.stage(f"loading {chosen.name}"):
            loaded = load_models(chosen, settings, machine, random_weights, beside=others_of(asked))
            others = load_others(asked, loaded, machine.weights_dir, random_weights)
        requests = [(one, make_request(settings, one.decoding, steering, prompts.of(clip))) for one in asked]
        comparison, limit = run_all(loaded, others, source, requests, reporter)
        facts = {
            "output": path_text(target),
            "input": {"path": path_text(clip), "sha256": source.sha256, "first": start},
        }
        facts |= {"preset": chosen.name, "seed": settings.seed, "frames": settings.frames, "context_frames": prefix}
        told = None if steering is None else chosen.actions.describe(steering)
        facts |= {"sampling": settings.sampling, "steered_by": told, **prompts.about(clip)}
        facts |= {"command": command_line(ctx, settings.seed), "weights": weights(chosen, random_weights)}
        facts |= {"tokenizer_limit": limit, "decodings": comparison.rows, **machine_facts(loaded)}
        from diagd_cli.device import device_name

        facts["machine"]["name"] = device_name(loaded.device)
        with reporter.stage("drawing"), together() as held:
            facts |= write_pictures(target, comparison, heat, race, sheet)
            if html:
                write_report(target, facts, comparison, asked, chosen, held)
            write_json(target.with_suffix(".json"), facts)
        if not tell.quiet:
            reporter.note(text(facts, width_of(sys.stderr)))
        reporter.result(facts if tell.json else str(target))


def race_path(target: Path) -> Path:
    """Where the race of a comparison goes."""
    return target.with_name(f"{target.stem}-race.mp4")


def check(target: Path, race: bool, sheet: bool, html: bool, reads: list[Named], force: bool) -> None:
    """Refuse, before any work is done, what cannot be written or drawn. Raises DiagdError."""
    from diagd_cli.files.outputs import check_outputs
    from diagd_cli.report.figure import figure_class

    writes = [(target, "the output"), (target.with_suffix(".json"), "the report")]
    writes += [(race_path(target), "the race")] if race else []
    writes += [(target.with_suffix(".png"), "the contact sheet")] if sheet else []
    writes += [(target.with_suffix(".html"), "the page")] if html else []
    check_outputs(writes, reads, force=force)
    if html:
        figure_class("--html")


def run_all(loaded, others, source, requests, reporter) -> tuple[Comparison, dict | None]:
    """Every candidate's request after a short warm-up; and what the tokenizer alone scores on ground truth."""
    from diagd_cli.jobs.judge import judge, row_of, truth_of
    from diagd_cli.pipeline import continue_clip
    from diagd_cli.report.comparison import Comparison

    preset, results = loaded.preset, []
    with reporter.stage("warming up"):
        continue_clip(loaded, source, replace(requests[-1][1], frames=1))
    for one, request in requests:
        tokens, models = preset.new_latents(request.frames) * preset.grid.area, others.get(one.label, loaded)
        with reporter.follow(one.label, tokens, request.frames) as follow:
            results.append(continue_clip(models, source, request, follow.stage, follow.on_steps))
    rows = [
        row_of(made, one.label, one.facts(preset, made.context))
        for made, (one, _) in zip(results, requests, strict=True)
    ]
    truth = truth_of(loaded, source)
    limit = judge(loaded, source, truth, rows, results)
    fps = source.fps or preset.clip.fps
    videos = [result.frames for result in results]
    return Comparison(rows, videos, truth, results[0].context, preset.tokenizer.temporal, fps), limit


def write_pictures(target: Path, comparison: Comparison, heat: bool, race: bool, sheet: bool) -> dict:
    """Write the videos and the contact sheet; what they show, for the report."""
    from diagd_cli.clip.image import write_png
    from diagd_cli.report.race import write_race
    from diagd_cli.report.sheet import contact_sheet_of
    from diagd_cli.report.video import write_panels

    about = {"heat": write_panels(target, comparison, heat), "race": None}
    if race:
        about["race"] = {"output": path_text(race_path(target)), **write_race(race_path(target), comparison)}
    if sheet:
        write_png(target.with_suffix(".png"), contact_sheet_of(comparison))
    return about


def write_report(target: Path, facts: dict, comparison: Comparison, asked: list, preset, held: Held) -> None:
    """Write the page beside the video, which is `held` back with it."""
    from diagd_cli.cli.plan import plans_of
    from diagd_cli.report.page import write_page
    from diagd_cli.report.race import pace
    from diagd_cli.report.sheet import contact_sheet_of
    from diagd_cli.report.timeline import timeline

    videos = {"The continuations at the clip's own speed": held.at(target)}
    if heat := facts["heat"]:
        videos = {f"The continuations, and below each its difference to {heat['reference']}": held.at(target)}
    if facts["race"]:
        videos[f"The decodings as they ran, {pace(facts['race']['speed'])}"] = held.at(race_path(target))
    known = preset.latents(comparison.context)
    new = preset.new_latents(comparison.new)
    lines = [
        replace(timeline(plans_of(preset.grid, known, new, one.decoding, preset)), label=one.label) for one in asked
    ]
    write_page(target.with_suffix(".html"), facts, videos, contact_sheet_of(comparison), lines)


def command_line(ctx: typer.Context, seed: int) -> str:
    """The command that does this again: what was given as options or in the environment, and the seed."""
    words = ["diagd", ctx.info_name]
    for parameter in ctx.command.params:
        value, given = ctx.params[parameter.name], ctx.get_parameter_source(parameter.name).name
        if given not in ("COMMANDLINE", "ENVIRONMENT") or parameter.name == "seed":
            continue
        text = path_text(value) if isinstance(value, Path) else str(value)
        if parameter.param_type_name == "argument":
            words += map(path_text, value) if isinstance(value, (list, tuple)) else [text]
        elif isinstance(value, bool):
            words.append((parameter.opts if value else parameter.secondary_opts)[-1])
        else:
            words.append(f"{max(parameter.opts, key=len)}={text}")
    return shlex.join([*words, f"--seed={seed}"])


def machine_facts(loaded) -> dict:
    from diagd_cli.cli.info import versions
    from diagd_cli.cli.sidecar import machine

    return {"machine": machine(loaded), "versions": versions()}


def text(facts: dict, width: int | None) -> str:
    """The figures as a table."""
    head = ["decoding", "steps", "decode s", "tokens/s", "frames/s", "speed-up", "PSNR", "SSIM", "same"]
    rows = []
    for row in facts["decodings"]:
        fidelity = (f"{row['psnr']:.2f}", f"{row['ssim']:.3f}") if "psnr" in row else ("-", "-")
        rows.append((
            row["label"], str(row["steps"]), f"{row['seconds']['decode']:.2f}", f"{row['tokens_per_second']:.0f}",
            f"{row['frames_per_second']:.1f}", f"{row['speedup']:.1f}x", *fidelity, f"{row['token_agreement']:.0%}",
        ))  # fmt: skip
    notes = []
    if limit := facts["tokenizer_limit"]:
        alone = f"Tokenizer alone: {limit['psnr']:.2f} dB, {limit['ssim']:.3f}"
        notes.append(f"same: tokens equal to the first row's. {alone}")
    title = f"{facts['preset']}, {facts['frames']} new frames, seed {facts['seed']}"
    return lay_out(Table(head, rows, title, notes), width)
