"""diagd compare: one clip, seed and context, by two or more decodings, side by side."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from diagd_cli.cli import groups as g
from diagd_cli.cli import options as o
from diagd_cli.cli.console import Reporter
from diagd_cli.cli.decodings import DECODINGS_HELP, parse_candidates
from diagd_cli.cli.guard import guard
from diagd_cli.cli.kinds import COUNT
from diagd_cli.cli.layout import lay_out, width_of
from diagd_cli.cli.settings import machine_of, merge, steering_of
from diagd_cli.cli.threads import set_threads
from diagd_cli.errors import UsageError
from diagd_cli.files.paths import path_text
from diagd_cli.report.table import Table

HELP = """Continue one clip by several decodings: an MP4 with a panel each, a table, a JSON report.

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


@g.grouped
def compare(
    ctx: typer.Context,
    clip: Annotated[
        Path, typer.Argument(help="A video file, longer than the context to have ground truth.")
    ],
    *,
    decodings: Annotated[str, typer.Option(help=DECODINGS_HELP)] = "ntp,diagd",
    preset: o.PresetOption = "freedoom",
    lengths: g.Lengths,
    order: g.DecodingOptions,
    sampling: g.SamplingOptions,
    seed: o.SeedOption = None,
    steering: g.SteeringOptions,
    start: Annotated[int, typer.Option(**COUNT, help="First context frame.")] = 0,
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", metavar="<path>", help="An .mp4 file, or a folder/."),
    ] = None,
    heat: Annotated[
        bool, typer.Option("--heat", help="Below each panel, its difference to the first one.")
    ] = False,
    race: Annotated[
        bool,
        typer.Option("--race", help="Also write NAME-race.mp4: frames when the decoders had them."),
    ] = False,
    sheet: Annotated[
        bool, typer.Option("--sheet", help="Also write a PNG beside it: frames of every panel.")
    ] = False,
    html: Annotated[
        bool,
        typer.Option("--html", help="Also write a page with all of it, and nothing else needed."),
    ] = False,
    machine: g.MachineOptions,
    random_weights: o.RandomWeightsOption = False,
    force: o.ForceOption = False,
    messages: g.OutputOptions,
) -> None:
    reporter = Reporter(messages.quiet, messages.verbose)
    with guard(reporter):
        from diagd_cli.files.url import Url
        from diagd_cli.jobs.comparison import Comparing
        from diagd_cli.jobs.comparison import compare as run
        from diagd_cli.jobs.targets import output_paths
        from diagd_cli.preset_files import load_preset

        chosen = load_preset(preset)
        settings = merge(chosen, lengths, order, sampling, seed)
        asked = parse_candidates(decodings, chosen, settings.for_clip(clip, chosen))
        [target] = output_paths([clip], output or f"{clip.stem}-compared.mp4")
        if isinstance(target, Url):
            raise UsageError(f"compare writes files, and {target} is a URL", "Name a path")
        comparing = Comparing(
            preset=chosen,
            settings=settings,
            clip=clip,
            candidates=asked,
            output=target,
            steering=steering_of(steering),
            machine=machine_of(machine, random=random_weights),
            start=start,
            heat=heat,
            race=race,
            sheet=sheet,
            html=html,
            force=force,
            command=command_line(ctx, settings.seed),
        )
        set_threads(machine.threads)
        facts = run(comparing, reporter)
        if not messages.quiet:
            reporter.note(text(facts, width_of(sys.stderr)))
        reporter.result(facts if messages.json else str(comparing.output))


def command_line(ctx: typer.Context, seed: int) -> str:
    """The command that does this again: what was given as options or in the environment, and the
    seed.
    """
    words = ["diagd", str(ctx.info_name)]
    for parameter in ctx.command.params:
        value, given = ctx.params[parameter.name], ctx.get_parameter_source(parameter.name)
        if (
            given is None
            or given.name not in ("COMMANDLINE", "ENVIRONMENT")
            or parameter.name == "seed"
        ):
            continue
        text = path_text(value) if isinstance(value, Path) else str(value)
        if parameter.param_type_name == "argument":
            words += map(path_text, value) if isinstance(value, (list, tuple)) else [text]
        elif isinstance(value, bool):
            words.append((parameter.opts if value else parameter.secondary_opts)[-1])
        else:
            words.append(f"{max(parameter.opts, key=len)}={text}")
    return shlex.join([*words, f"--seed={seed}"])


def text(facts: dict, width: int | None) -> str:
    """The figures as a table."""
    head = [
        "decoding",
        "steps",
        "decode s",
        "tokens/s",
        "fps",
        "gap s",
        "speed-up",
        "PSNR",
        "SSIM",
        "same",
    ]
    rows = []
    for row in facts["decodings"]:
        fidelity = (f"{row['psnr']:.2f}", f"{row['ssim']:.3f}") if "psnr" in row else ("-", "-")
        rows.append((
            row["label"],
            str(row["steps"]),
            f"{row['seconds']['decode']:.2f}",
            f"{row['tokens_per_second']:.0f}",
            f"{row['frames_per_second']:.1f}",
            "-" if row["longest_gap"] is None else f"{row['longest_gap']:.2f}",
            f"{row['speedup']:.1f}x",
            *fidelity,
            f"{row['token_agreement']:.0%}",
        ))  # fmt: skip
    notes = ["gap: between one frame and the next, at most."]
    if limit := facts["tokenizer_limit"]:
        alone = f"Tokenizer alone: {limit['psnr']:.2f} dB, {limit['ssim']:.3f}"
        notes.append(f"same: tokens equal to the first row's. {alone}")
    title = f"{facts['preset']}, {facts['frames']} new frames, seed {facts['seed']}"
    return lay_out(Table(head, rows, title, notes), width)
