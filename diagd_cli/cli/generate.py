"""diagd generate: clips in, MP4s with their continuation out."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diagd_cli.cli import options as o
from diagd_cli.cli.console import Reporter
from diagd_cli.cli.guard import UsageProblem, guard
from diagd_cli.cli.settings import machine_of, merge, steering_of
from diagd_cli.cli.threads import set_threads
from diagd_cli.errors import Exit, UsageError

if TYPE_CHECKING:
    from diagd_cli.jobs.generation import Generation, Video
    from diagd_cli.jobs.targets import Target
    from diagd_cli.preset import Preset

HELP = """Continue video clips: each MP4 holds the clip's context and the frames made after it.

[bold]Examples[/]

  diagd generate walk.mp4                              # the shipped model

  diagd generate walk.mp4 --actions 'forward*8,left*8' # steer it

  diagd generate clips/*.mp4 -o out/ --seed 1 --resume # only what is missing

  diagd generate clips/*.mp4 -o out/ --batch 4         # four clips at a time

  diagd generate walk.mp4 --samples 4 --batch 4        # four continuations

  diagd generate walk.mp4 --stream -o - | ffplay -     # watch it being made

  diagd generate walk.mp4 --decoding ntp --frames 32   # beyond the window

  diagd generate walk.mp4 --stream --frames 100000     # until Ctrl-C

  diagd generate -p llamagen-c2i-b-256 --label 207     # an image, of a class

  diagd generate walk.mp4 --dry-run                    # plan and paths only
"""


@o.grouped
def generate(
    clips: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Video files, images, WHAM's .npz, or files of tokens; none for a preset that "
            "makes images."
        ),
    ] = None,
    *,
    preset: o.PresetOption = "freedoom",
    lengths: o.Lengths,
    decoding: o.DecodingOption = None,
    order: o.DecodingOptions,
    sampling: o.SamplingOptions,
    seed: o.SeedOption = None,
    steering: o.SteeringOptions,
    guiding: o.GuidanceOptions,
    start: Annotated[
        int | None,
        typer.Option(
            **o.COUNT, help="First context frame; by default the clip's last ones are the context."
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="<path>",
            help="An .mp4 file (.png of an image), or a folder/; with --stream also -, YUV4MPEG on "
            "stdout.",
        ),
    ] = None,
    batch: Annotated[
        int, o.option("--batch", **o.POSITIVE, help="Clips that are decoded together.")
    ] = 1,
    samples: Annotated[
        int,
        typer.Option(
            **o.SAMPLES,
            help="Continuations of each clip, CLIP-1.mp4 ..., by seeds SEED, SEED+1, ...",
        ),
    ] = 1,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Write each frame as soon as it is made, to an MP4 that plays while it grows, of "
            "any number of frames in the same memory. It grows under its own name, where other "
            "outputs appear when they are complete; Ctrl-C ends it with what has been made, and a "
            "failure removes it.",
        ),
    ] = False,
    save_tokens: Annotated[
        bool, typer.Option("--save-tokens", help="Write the token grid beside the MP4 (.npz).")
    ] = False,
    machine: o.MachineOptions,
    kv_dtype: o.KvDtypeOption = "auto",
    offload: o.OffloadOption = None,
    compile: o.CompileOption = False,
    random_weights: o.RandomWeightsOption = False,
    force: o.ForceOption = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Skip clips whose output matches these settings.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and the paths; make nothing.")
    ] = False,
    messages: o.OutputOptions,
) -> None:
    reporter = Reporter(messages.quiet, messages.verbose)
    with guard(reporter):
        from diagd_cli.jobs.generation import Generation, check, check_alone
        from diagd_cli.preset_files import load_preset

        chosen = load_preset(preset)
        given_clips = clips_of(chosen, clips, guiding)
        settings = merge(chosen, lengths, order, sampling, seed, decoding, stream, guiding.guidance)
        o.one_of(kv_dtype, o.DTYPES, "'--kv-dtype'")
        o.one_of(offload, ("tokenizer",), "'--offload'")
        given = {
            "--stream": stream,
            "--offload": offload,
            "--json": messages.json,
            "--resume": resume,
        }
        given |= {"--save-tokens": save_tokens}
        targets = stream_target(given_clips, output, settings.seed, samples, given)
        generation = Generation(
            preset=chosen,
            settings=settings,
            targets=targets
            or targets_of(chosen, given_clips, guiding, output, settings.seed, samples),
            steering=steering_of(steering),
            machine=machine_of(
                machine,
                kv_dtype=kv_dtype,
                random=random_weights,
                offload=bool(offload),
                compile=compile,
            ),
            start=start,
            batch=batch,
            stream=stream,
            save_tokens=save_tokens,
            force=force,
            resume=resume,
            any_seed=seed is None,
        )
        checked = check(generation)
        if dry_run:
            show(generation, reporter, messages.json)
            return
        check_alone(generation)
        from diagd_cli.jobs.batches import generate as run  # and torch, which takes long

        set_threads(machine.threads)

        def tell_video(video: Video) -> None:
            if video.sidecar:
                reporter.result(video.sidecar if messages.json else str(video.output))

        made = run(generation, reporter, tell_video, reporter.started, checked)
        if made.failed:
            names = ", ".join(map(str, made.failed))
            reporter.error(f"{len(made.failed)} of {len(generation.clips)} clips failed: {names}")
    raise typer.Exit(Exit.FAILED if made.failed else Exit.OK)


def clips_of(preset: Preset, clips: list[Path] | None, guiding: o.GuidanceOptions) -> list[Path]:
    """The clips; none for a preset that makes images of nothing. Raises UsageError."""
    if guiding.label is not None and preset.labels is None:
        raise UsageError(f"The preset {preset.name} takes no labels", "Leave --label out")
    if clips and (preset.still or guiding.label is not None):
        told = "makes images of nothing" if preset.still else "takes a clip or a label"
        raise UsageError(f"The preset {preset.name} {told}", f"Leave {clips[0]} out")
    if not clips and preset.clip.context:
        raise UsageProblem("Missing argument 'CLIPS...'")
    return clips or []


def targets_of(
    preset: Preset,
    clips: list[Path],
    guiding: o.GuidanceOptions,
    output: str | None,
    seed: int,
    samples: int,
) -> list[Target]:
    """What is made of the clips, or of nothing. Raises UsageError and typer.BadParameter."""
    from diagd_cli.jobs.targets import continuations, of_nothing, suffix_of

    if clips:
        return continuations(clips, output, seed, samples, suffix_of(preset))
    labels = [] if guiding.label is None else o.numbers(guiding.label, 0, "--label")
    return of_nothing(preset, labels, output, seed, samples)


def stream_target(
    clips: list[Path], output: str | None, seed: int, samples: int, given: Mapping[str, object]
) -> list[Target] | None:
    """The stream to stdout where one is asked for, else None; `given` is what else was. Raises
    UsageError.
    """
    from diagd_cli.jobs.targets import Target

    if given["--stream"] and given["--offload"]:
        raise UsageError(
            "--stream needs the tokenizer while --offload takes it away", "Leave one of them out"
        )
    if given["--stream"] and given["--resume"]:
        raise UsageError(
            "A --stream that ended early cannot be gone on with by --resume",
            "Leave --stream out, or make it anew with --force",
        )
    if output != "-":
        return None
    if not given["--stream"]:
        raise UsageError(
            "-o - writes a video to stdout, which only --stream can", "Add --stream, or name a file"
        )
    if len(clips) * samples > 1:
        raise UsageError(f"-o - is one stream for {len(clips) * samples} videos", "Name a folder")
    for name in ("--json", "--resume", "--save-tokens"):
        if given[name]:
            raise UsageError(
                f"-o - fills stdout with the video and leaves no file for {name}",
                f"Leave {name} out",
            )
    if sys.stdout.isatty():
        raise UsageError(
            "-o - would write a video to the terminal", "Pipe it into a player: | ffplay -"
        )
    return [Target(clips[0], Path(output), seed)]


def show(generation: Generation, reporter: Reporter, json: bool) -> None:
    """What would be done: the plan and the paths."""
    from diagd_cli.jobs.plans import summary

    preset, settings = generation.preset, generation.settings
    new, context = preset.new_latents(settings.frames), preset.latents(settings.context)
    facts = summary(preset.grid, context, new, settings.decoding, preset)
    for target in generation.targets:
        if json:
            clip = None if generation.of_nothing else str(target.clip)
            told = {"input": clip, "output": str(target.output)}
            reporter.result({**told, "settings": generation.choices(target), "plan": facts})
        else:
            steps = f"{facts['steps']} steps for {facts['tokens']} tokens"
            of = "nothing" if generation.of_nothing else target.clip
            reporter.result(f"{of} -> {target.output}: {facts['label']}, {steps}")
