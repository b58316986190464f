"""diagd compare: one clip, seed and context, by two or more decodings, side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from diagd_cli.cli import options as o
from diagd_cli.cli.app import app, guard
from diagd_cli.cli.console import Reporter, path_text
from diagd_cli.cli.prompts import find_prompts

HELP = """Continue one clip by several decodings: an MP4 with a panel each, a table, and a JSON report.

The context is taken from the clip's start: what follows in the clip is the
ground truth. Token for token the same noise is drawn in every decoding, so
that differences come from the decoding alone.

[bold]Examples[/]

  diagd compare walk.mp4                                    # NTP and DiagD

  diagd compare walk.mp4 --decodings ntp,spatial,diagd,zipar:4

  diagd compare walk.mp4 --decodings diagd:2:10,diagd:1:15  # k and d
"""


@app.command(help=HELP)
def compare(
    clip: Annotated[Path, typer.Argument(help="A video file, longer than the context to have ground truth.")],
    decodings: Annotated[str, typer.Option(help="By comma, each NAME, NAME:K or NAME:K:D.")] = "ntp,diagd",
    preset: o.PresetOption = "freedoom",
    frames: o.FramesOption = None,
    context: o.ContextOption = None,
    k: o.KOption = None,
    d: o.DOption = None,
    stand_in: o.StandInOption = None,
    repair: o.RepairOption = True,
    temperature: o.TemperatureOption = None,
    top_p: o.TopPOption = None,
    top_p_rule: o.TopPRuleOption = None,
    top_k: o.TopKOption = None,
    seed: o.SeedOption = None,
    actions: o.ActionsOption = None,
    prompt: o.PromptOption = None,
    prompt_file: o.PromptFileOption = None,
    prompt_embedding: o.PromptEmbeddingOption = None,
    start: Annotated[int, typer.Option(**o.COUNT, help="First context frame.")] = 0,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="An .mp4 file.")] = None,
    sheet: Annotated[bool, typer.Option("--sheet", help="Also write a PNG beside it: frames of every panel.")] = False,
    device: o.DeviceOption = "auto",
    dtype: o.DtypeOption = "auto",
    threads: o.ThreadsOption = 0,
    weights_dir: o.WeightsDirOption = None,
    random_weights: o.RandomWeightsOption = False,
    force: o.ForceOption = False,
    json: o.JsonOption = False,
    quiet: o.QuietOption = False,
    verbose: o.VerboseOption = False,
) -> None:
    reporter = Reporter(quiet, verbose)
    with guard(reporter):
        from diagd_cli.cli.generate import output_paths
        from diagd_cli.clip.read import read_clip
        from diagd_cli.clip.write import check_target, write_json
        from diagd_cli.config import load_preset

        chosen = load_preset(preset)
        settings = o.merge(
            chosen, frames, context, None, k, d, stand_in, repair, temperature, top_p, top_p_rule, top_k, seed
        )
        prefix = o.context_of(clip, chosen, settings)
        walks = [o.parse_decoding(text, settings.decoding) for text in decodings.split(",")]
        for walk in walks:
            walk.resolve(chosen.grid, chosen.latents(prefix))
        target = output_paths([clip], output or Path(f"{clip.stem}-compared.mp4"))[0]
        for suffix in (target.suffix, ".json", *([".png"] if sheet else [])):
            check_target(target.with_suffix(suffix), force)
        source = read_clip(clip, prefix, start, settings.frames)
        asked = o.parse_actions(chosen, actions)
        steering = o.clip_actions(clip, chosen, asked, start, prefix, settings.frames)
        prompts = find_prompts(chosen, [clip], prompt, prompt_file, prompt_embedding, random_weights)
        prompts.embed(reporter)
        with reporter.stage(f"loading {chosen.name}"):
            loaded = o.load_models(chosen, settings, device, dtype, threads, weights_dir, random_weights)
        requests = [o.request(settings, walk, steering, prompts.of(clip)) for walk in walks]
        rows, results = run_all(loaded, source, requests, reporter)
        limit = judge(loaded, source, rows, results)
        write_panels(target, source, results, rows, chosen, sheet)
        facts = {
            "output": path_text(target),
            "input": {"path": path_text(clip), "sha256": source.sha256, "first": start},
        }
        s = settings
        facts |= {"preset": chosen.name, "seed": s.seed, "frames": s.frames, "context_frames": prefix}
        told = None if steering is None else chosen.actions.describe(steering)
        facts |= {"sampling": s.sampling, "steered_by": told, **prompts.about(clip)}
        facts |= {"tokenizer_limit": limit, "decodings": rows, **machine_facts(loaded)}
        write_json(target.with_suffix(".json"), facts)
        if not quiet:
            reporter.err.print(table(facts))
        reporter.result(facts if json else str(target))


def run_all(loaded, source, requests, reporter) -> tuple[list[dict], list]:
    """Every decoding after a short warm-up: a row of figures and a Result each."""
    from diagd_cli.pipeline import continue_clip

    with reporter.stage("warming up"):
        continue_clip(loaded, source, replace(requests[-1], frames=1))
    rows, results = [], []
    for request in requests:
        label = request.decoding.label(loaded.preset.grid)
        tokens = loaded.preset.new_latents(request.frames) * loaded.preset.grid.area
        with reporter.follow(label, tokens, request.frames) as follow:
            result = continue_clip(loaded, source, request, follow.stage, follow.on_steps)
        rows.append(
            {
                "label": label,
                "decoding": request.decoding.facts(loaded.preset.grid, loaded.preset.latents(result.context)),
                "steps": result.steps,
                "tokens": result.tokens,
                "seconds": {name: round(value, 4) for name, value in result.seconds.items()},
                **{name: round(value, 3) for name, value in result.rates.items()},
            }
        )
        results.append(result)
    return rows, results


def judge(loaded, source, rows: list[dict], results: list) -> dict | None:
    """Add speed-up, agreement and fidelity to the rows; returns what the tokenizer alone would score on the truth."""
    import numpy as np

    from diagd_cli.clip.fit import fit_frames
    from diagd_cli.pipeline import encode_frames, to_frames

    size = loaded.preset.clip.height, loaded.preset.clip.width
    truth = fit_frames(source.future, *size) if len(source.future) else None
    known = loaded.preset.latents(results[0].context)
    for row, result in zip(rows, results, strict=True):
        row["speedup"] = round(results[0].seconds["decode"] / result.seconds["decode"], 2)
        row["token_agreement"] = round(float(np.mean(result.codes[known:] == results[0].codes[known:])), 4)
        if truth is not None:
            row |= fidelity(result.frames[result.context :], truth.numpy())
    if truth is None:
        return None
    whole = np.concatenate([source.frames, source.future])
    step = loaded.preset.tokenizer.temporal
    whole = whole[: 1 + (len(whole) - 1) // step * step]  # whole latent frames
    ceiling = to_frames(loaded, encode_frames(loaded, whole).cpu().numpy())[results[0].context :]
    return fidelity(ceiling, truth.numpy()[: len(ceiling)]) if len(ceiling) else None


def fidelity(frames, truth) -> dict:
    """PSNR (dB) and SSIM to ground truth: means, and PSNR by frame."""
    from diagd_cli.metrics import psnr, ssim

    count = min(len(frames), len(truth))
    scores = psnr(frames[:count], truth[:count])
    similarity = float(ssim(frames[:count], truth[:count]).mean())
    by_frame = [round(float(x), 2) for x in scores]
    return {"psnr": round(float(scores.mean()), 2), "ssim": round(similarity, 4), "psnr_by_frame": by_frame}


def write_panels(target: Path, source, results: list, rows: list[dict], preset, sheet: bool) -> None:
    """The video of all panels, ground truth first where the clip has it; and every few frames of each on one PNG."""
    import numpy as np

    from diagd_cli.clip.fit import fit_frames
    from diagd_cli.clip.image import contact_sheet, write_png
    from diagd_cli.clip.panels import side_by_side
    from diagd_cli.clip.write import VideoWriter

    videos = [r.frames for r in results]
    captions = [[f"{row['label']}: {row['steps']} steps, {row['seconds']['decode']:.1f} s"] for row in rows]
    if len(source.future):
        truth = np.concatenate([source.frames, source.future])
        videos.insert(0, fit_frames(truth, preset.clip.height, preset.clip.width).numpy())
        captions.insert(0, ["ground truth"])
    context = results[0].context
    frames = side_by_side(videos, [["context"] * context + texts for texts in captions])
    with VideoWriter(target, *frames.shape[1:3], source.fps or preset.clip.fps) as writer:
        writer.write(frames)
    if sheet:
        every = max(1, (len(videos[-1]) - context) // 4)
        write_png(target.with_suffix(".png"), contact_sheet([video[context - 1 :: every] for video in videos]))


def machine_facts(loaded) -> dict:
    from diagd_cli.cli.info import versions
    from diagd_cli.cli.sidecar import machine

    return {"machine": machine(loaded), "versions": versions()}


def table(facts: dict):
    """The rows as a rich table."""
    from rich import box
    from rich.table import Table

    title = f"{facts['preset']}, {facts['frames']} new frames, seed {facts['seed']}"
    left = {"title_justify": "left", "caption_justify": "left"}
    result = Table(title=title, **left, box=box.SIMPLE_HEAD, padding=0, pad_edge=False)  # to fit 80 columns
    columns = ("decoding", "steps", "decode s", "tokens/s", "frames/s", "speed-up", "PSNR", "SSIM", "same")
    for i, name in enumerate(columns):
        result.add_column(name, justify="right" if i else "left", no_wrap=True)
    for row in facts["decodings"]:
        fidelity = (f"{row['psnr']:.2f}", f"{row['ssim']:.3f}") if "psnr" in row else ("-", "-")
        result.add_row(
            row["label"], str(row["steps"]), f"{row['seconds']['decode']:.2f}", f"{row['tokens_per_second']:.0f}",
            f"{row['frames_per_second']:.1f}", f"{row['speedup']:.1f}x", *fidelity, f"{row['token_agreement']:.0%}",
        )  # fmt: skip
    if facts["tokenizer_limit"]:
        limit = facts["tokenizer_limit"]
        result.caption = (
            f"same: tokens equal to the first row's. Tokenizer alone: {limit['psnr']:.2f} dB, {limit['ssim']:.3f}"
        )
    return result
