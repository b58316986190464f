"""diagd generate: clips in, MP4s with their continuation out."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from diagd_cli.cli import options as o
from diagd_cli.cli.batch import Batch, Job
from diagd_cli.cli.console import Reporter
from diagd_cli.cli.guard import guard
from diagd_cli.cli.prompts import find_prompts
from diagd_cli.cli.settings import merge
from diagd_cli.errors import Exit, UsageError
from diagd_cli.inputs import clip_inputs, preset_inputs

HELP = """Continue video clips: each MP4 holds the clip's context and the frames made after it.

[bold]Examples[/]

  diagd generate walk.mp4                              # the shipped model

  diagd generate walk.mp4 --actions 'forward*8,left*8' # steer it

  diagd generate clips/*.mp4 -o out/ --seed 1 --resume # only what is missing

  diagd generate clips/*.mp4 -o out/ --batch 4         # four clips at a time

  diagd generate walk.mp4 --samples 4 --batch 4        # four continuations

  diagd generate walk.mp4 --stream -o - | ffplay -     # watch it being made

  diagd generate walk.mp4 --decoding ntp --frames 32   # beyond the window

  diagd generate walk.mp4 --dry-run                    # plan and paths only
"""


@o.grouped
def generate(
    clips: Annotated[list[Path], typer.Argument(help="Video files, images, or WHAM's .npz.")],
    *,
    preset: o.PresetOption = "freedoom",
    lengths: o.Lengths,
    decoding: o.DecodingOption = None,
    walk: o.Walk,
    draw: o.Draw,
    seed: o.SeedOption = None,
    steer: o.Steer,
    start: Annotated[
        int | None,
        typer.Option(**o.COUNT, help="First context frame; by default the clip's last ones are the context."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="<path>",
            help="An .mp4 file, or a folder/; with --stream also -, YUV4MPEG on stdout.",
        ),
    ] = None,
    batch: Annotated[int, o.option("--batch", **o.POSITIVE, help="Clips that are decoded together.")] = 1,
    samples: Annotated[
        int,
        typer.Option(**o.SAMPLES, help="Continuations of each clip, CLIP-1.mp4 ..., by seeds SEED, SEED+1, ..."),
    ] = 1,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Write each frame as soon as it is made, to an MP4 that plays while it grows. It grows under its own "
            "name, where other outputs appear when they are complete, and is removed on failure.",
        ),
    ] = False,
    save_tokens: Annotated[
        bool, typer.Option("--save-tokens", help="Write the token grid beside the MP4 (.npz).")
    ] = False,
    machine: o.Machine,
    kv_dtype: o.KvDtypeOption = "auto",
    offload: o.OffloadOption = None,
    compile: o.CompileOption = False,
    random_weights: o.RandomWeightsOption = False,
    force: o.ForceOption = False,
    resume: Annotated[bool, typer.Option("--resume", help="Skip clips whose output matches these settings.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and the paths; make nothing.")] = False,
    tell: o.Tell,
) -> None:
    reporter = Reporter(tell.quiet, tell.verbose)
    with guard(reporter):
        from diagd_cli.preset import load_preset

        chosen = load_preset(preset)
        settings = merge(chosen, lengths, walk, draw, seed, decoding)
        o.one_of(kv_dtype, o.DTYPES, "'--kv-dtype'")
        o.one_of(offload, ("tokenizer",), "'--offload'")
        targets = stream_paths(clips, output, samples, {
            "--stream": stream, "--offload": offload, "--json": tell.json, "--resume": resume, "--save-tokens": save_tokens,
        }) or output_paths(clips, output, samples)  # fmt: skip
        seeds = o.seeds_from(settings.seed, samples)
        jobs = [Job(*job) for job in zip([c for c in clips for _ in seeds], targets, seeds * len(clips), strict=True)]
        asked = chosen.parse_actions(steer.actions)
        prompts = find_prompts(chosen, clips, steer, random_weights)
        work = Batch(
            chosen, settings, steer.actions, asked, prompts, start, machine, kv_dtype, offload == "tokenizer", compile,
            random_weights, min(batch, len(jobs)), stream, save_tokens, force, resume,
            seeded=seed is not None, json=tell.json, reporter=reporter, alone=len(jobs) == 1,
        )  # fmt: skip
        inputs = preset_inputs(chosen, folder=machine.weights_dir, weights=not random_weights)
        inputs += clip_inputs(chosen, clips, steer.actions, steer.prompt_file, steer.prompt_embedding)
        work.check(jobs, inputs)
        if dry_run:
            work.show(jobs)
            return
        failed = work.run(jobs)
    raise typer.Exit(Exit.FAILED if failed else Exit.OK)


def stream_paths(clips: list[Path], output: str | None, samples: int, given: dict[str, object]) -> list[Path] | None:
    """The path of a stream to stdout where one is asked for, else None; `given` is what else was. Raises UsageError."""
    if given["--stream"] and given["--offload"]:
        raise UsageError("--stream needs the tokenizer while --offload takes it away", "Leave one of them out")
    if output != "-":
        return None
    if not given["--stream"]:
        raise UsageError("-o - writes a video to stdout, which only --stream can", "Add --stream, or name a file")
    if len(clips) * samples > 1:
        raise UsageError(f"-o - is one stream for {len(clips) * samples} videos", "Name a folder")
    for name in ("--json", "--resume", "--save-tokens"):
        if given[name]:
            raise UsageError(f"-o - fills stdout with the video and leaves no file for {name}", f"Leave {name} out")
    if sys.stdout.isatty():
        raise UsageError("-o - would write a video to the terminal", "Pipe it into a player: | ffplay -")
    return [Path(output)]


def output_paths(clips: list[Path], output: str | Path | None, samples: int = 1) -> list[Path]:
    """The MP4 paths of each clip's samples in turn: `-o FILE`, `-o FOLDER` (FOLDER/CLIP.mp4), or CLIP-continued.mp4 here.

    A folder is one that exists, ends with a slash, or has no dot in its name. Several samples of a clip are numbered:
    CLIP-1.mp4, CLIP-2.mp4, ... Raises UsageError.
    """
    path = Path(output or "")
    if output is None:
        targets = [Path(f"{clip.stem}-continued.mp4") for clip in clips]
    elif str(output).endswith(o.SLASHES) or os.path.isdir(path) or not path.suffix:
        targets = [path / f"{clip.stem}.mp4" for clip in clips]
    elif path.suffix.lower() != ".mp4":
        raise UsageError(f"-o {output} does not end in .mp4", f"Name an .mp4 file or a folder, such as {path}/")
    elif len(clips) > 1:
        raise UsageError(f"-o {output} is one file for {len(clips)} clips", "Name a folder")
    else:
        targets = [path]
    numbers = [f"-{n + 1}" for n in range(samples)] if samples > 1 else [""]
    targets = [target.with_name(f"{target.stem}{n}{target.suffix}") for target in targets for n in numbers]
    taken: dict[Path, Path] = {}
    for clip, target in zip([clip for clip in clips for _ in numbers], targets, strict=True):
        if target in taken:
            pair = f"{taken[target]} and {clip} would both be written to {target}"
            raise UsageError(pair, "Rename one, or run them apart")
        taken[target] = clip
    return targets
