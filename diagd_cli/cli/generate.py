"""diagd generate: clips in, MP4s with their continuation out."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Annotated

import typer

from diagd_cli.cli import groups as g
from diagd_cli.cli import options as o
from diagd_cli.cli.console import Reporter
from diagd_cli.cli.guard import guard
from diagd_cli.cli.kinds import COUNT, POSITIVE, SAMPLES, one_of, option
from diagd_cli.cli.settings import machine_of, merge, steering_of
from diagd_cli.cli.threads import set_threads
from diagd_cli.errors import Exit, UsageError

if TYPE_CHECKING:
    from diagd_cli.jobs.generation import Checked, Generation, Made, Video

HELP = """Continue video clips: each MP4 holds the clip's context and the frames made after it.

[bold]Examples[/]

  diagd generate walk.mp4                              # the shipped model

  diagd generate walk.mp4 --actions 'forward*8,left*8' # steer it

  diagd generate clips/*.mp4 -o out/ --seed 1 --resume # only what is missing

  diagd generate clips/*.mp4 -o out/ --batch 4         # four clips at a time

  diagd generate --manifest clips.csv -o out/          # each with its own seed

  diagd generate clips/*.mp4 -o out/ --shard 2/8       # an eighth of them

  diagd generate clips/*.mp4 -o out/ --ray auto        # on a Ray cluster

  diagd generate s3://my/clips/a.mp4 -o s3://my/out/   # by way of fsspec

  diagd generate walk.mp4 --samples 4 --batch 4        # four continuations

  diagd generate walk.mp4 --stream -o - | ffplay -     # watch it being made

  diagd generate walk.mp4 --decoding ntp --frames 32   # beyond the window

  diagd generate walk.mp4 --stream --frames 100000     # until Ctrl-C

  diagd generate -p llamagen-c2i-b-256 --label 207     # an image, of a class

  diagd generate -p llamagen-t2i-xl-256 --prompt 'A fox' # and of a text

  diagd generate walk.mp4 --dry-run                    # plan and paths only
"""


@g.grouped
def generate(
    clips: Annotated[
        list[str] | None,
        typer.Argument(
            help="Video files, images, WHAM's .npz, or files of tokens, or URLs of them; none for "
            "a preset that makes images."
        ),
    ] = None,
    *,
    many: g.ManyOptions,
    cluster: g.ClusterOptions,
    tp: o.TpOption = 1,
    preset: o.PresetOption = "freedoom",
    lengths: g.Lengths,
    decoding: o.DecodingOption = None,
    order: g.DecodingOptions,
    sampling: g.SamplingOptions,
    seed: o.SeedOption = None,
    steering: g.SteeringOptions,
    guiding: g.GuidanceOptions,
    start: Annotated[
        int | None,
        typer.Option(
            **COUNT, help="First context frame; by default the clip's last ones are the context."
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="<path>",
            help="An .mp4 file (.png of an image), a folder/, or the URL of one; with --stream "
            "also -, YUV4MPEG on stdout.",
        ),
    ] = None,
    batch: Annotated[
        int, option("--batch", **POSITIVE, help="Clips that are decoded together.")
    ] = 1,
    samples: Annotated[
        int,
        typer.Option(
            **SAMPLES,
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
    machine: g.MachineOptions,
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
    messages: g.OutputOptions,
) -> None:
    reporter = Reporter(messages.quiet, messages.verbose)
    with guard(reporter):
        from diagd_cli.cli.rows import (
            check_stream,
            failures_file,
            rows_of,
            targets_of,
        )
        from diagd_cli.files.url import place
        from diagd_cli.jobs.generation import Generation, check, check_alone
        from diagd_cli.jobs.targets import parse_shard
        from diagd_cli.preset_files import load_preset

        chosen = load_preset(preset)
        settings = merge(chosen, lengths, order, sampling, seed, decoding, stream, guiding.guidance)
        one_of(kv_dtype, o.DTYPES, "'--kv-dtype'")
        one_of(offload, ("tokenizer",), "'--offload'")
        given = {
            "--stream": stream,
            "--offload": offload,
            "--json": messages.json,
            "--resume": resume,
            "--save-tokens": save_tokens,
        }
        check_stream(given, output)
        shard = parse_shard(many.shard) if many.shard else None
        named = [place(clip) for clip in clips or []]
        manifest = place(many.manifest) if many.manifest else None
        rows = rows_of(named, manifest, output, chosen, guiding.label)
        generation = Generation(
            preset=chosen,
            settings=settings,
            targets=targets_of(
                rows,
                chosen,
                guiding.label,
                output,
                settings.seed,
                samples,
                drawn=seed is None,
                shard=shard,
            ),
            steering=steering_of(steering),
            machine=machine_of(
                machine,
                kv_dtype=kv_dtype,
                random=random_weights,
                offload=bool(offload),
                compile=compile,
                tp=tp,
            ),
            start=start,
            batch=batch,
            stream=stream,
            save_tokens=save_tokens,
            force=force,
            resume=resume,
            manifest=manifest,
            failures=failures_file(many, cluster, output, shard),
        )
        if tp > 1 and not dry_run and follows(generation, cluster):
            return
        checked = check(generation)
        if not generation.targets:
            reporter.note(f"The shard {shard} holds none of the {len(rows)} clips")
        if dry_run:
            show(generation, reporter, messages.json)
            return
        check_alone(generation)
        made = make(generation, checked, cluster, machine, reporter, messages.json)
        if made.failed:
            which = generation.failures or ", ".join(map(str, made.failed))
            reporter.error(f"{len(made.failed)} of {len(generation.clips)} clips failed: {which}")
    raise typer.Exit(Exit.FAILED if made.failed else Exit.OK)


def follows(generation: Generation, cluster: g.ClusterOptions) -> bool:
    """Whether this is not the first of the processes of --tp, and has done its share by now. Raises
    UsageError.
    """
    from diagd_cli.cli.peers import last_words
    from diagd_cli.jobs.tensor_parallel import check_together, follow_first

    if cluster.ray:
        raise UsageError("--tp cannot be with --ray", "Leave one of them out")
    check_together(generation)
    with last_words():
        return follow_first(generation)


def make(
    generation: Generation,
    checked: Checked,
    options: g.ClusterOptions,
    machine: g.MachineOptions,
    reporter: Reporter,
    json: bool,
) -> Made:
    """Make the videos: here, by processes that hold one model together, by a process for each GPU,
    or on a cluster.
    """
    from diagd_cli.cli.rows import cluster_of
    from diagd_cli.files.atomic import STDOUT
    from diagd_cli.jobs.devices import ALL

    def tell(video: Video) -> None:
        if video.output != STDOUT:
            reporter.result(video.sidecar or {} if json else str(video.output))

    if cluster := cluster_of(options, machine.threads):
        from diagd_cli.jobs.on_ray import generate_on_ray

        return generate_on_ray(generation, cluster, reporter, tell)
    if machine.device == ALL:
        from diagd_cli.jobs.devices import all_devices, generate_on_devices

        return generate_on_devices(generation, all_devices(), reporter, tell)
    from diagd_cli.jobs.batches import generate as here  # and torch, which takes long
    from diagd_cli.jobs.tensor_parallel import generate_together

    set_threads(machine.threads)
    run = generate_together if generation.machine.tp > 1 else here
    return run(generation, reporter, tell, reporter.started, checked)


def show(generation: Generation, reporter: Reporter, json: bool) -> None:
    """What would be done: the plan and the paths."""
    from diagd_cli.jobs.plans import summary

    preset, settings = generation.preset, generation.settings
    context = preset.latents(settings.context)

    @cache
    def plan(frames: int) -> dict:
        return summary(preset.grid, context, preset.new_latents(frames), settings.decoding, preset)

    for target in generation.targets:
        facts = plan(generation.frames_of(target))
        if json:
            clip = None if generation.of_nothing else str(target.clip)
            told = {"input": clip, "output": str(target.output)}
            reporter.result({**told, "settings": generation.choices(target), "plan": facts})
        else:
            steps = f"{facts['steps']} steps for {facts['tokens']} tokens"
            of = "nothing" if generation.of_nothing else target.clip
            reporter.result(f"{of} -> {target.output}: {facts['label']}, {steps}")
