"""diagd attention: where a preset's model looks while it reads a clip."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diagd_cli.cli import groups as g
from diagd_cli.cli import options as o
from diagd_cli.cli.console import Reporter
from diagd_cli.cli.guard import guard
from diagd_cli.cli.kinds import COUNT, FILE
from diagd_cli.cli.layout import lay_out, width_of
from diagd_cli.cli.settings import machine_of, merge, steering_of
from diagd_cli.cli.threads import set_threads

if TYPE_CHECKING:
    from diagd_cli.report.attention import AttentionReport

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


@g.grouped
def attention(
    clip: Annotated[Path, typer.Argument(help="A video file, or WHAM's .npz.")],
    *,
    preset: o.PresetOption = "freedoom",
    layer: Annotated[
        int | None, typer.Option(**COUNT, help="One layer, from 0; by default the mean.")
    ] = None,
    head: Annotated[
        int | None, typer.Option(**COUNT, help="One head, from 0; by default the mean.")
    ] = None,
    frame: Annotated[
        int | None,
        typer.Option(
            **COUNT,
            help="Latent frame whose tokens ask, from 0; by default the first after the context.",
        ),
    ] = None,
    radius: Annotated[
        int, typer.Option("--radius", "-r", **COUNT, help="Rows and columns that are near.")
    ] = 2,
    decoding: o.DecodingOption = None,
    k: o.KOption = None,
    d: o.DOption = None,
    steering: g.SteeringOptions,
    start: Annotated[int, typer.Option(**COUNT, help="First frame of the clip that is read.")] = 0,
    seed: o.SeedOption = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", **FILE, help="A .png file; CLIP-attention.png here."),
    ] = None,
    picture: Annotated[
        bool, typer.Option("--picture/--no-picture", help="Draw the map, or only tell shares.")
    ] = True,
    machine: g.MachineOptions,
    random_weights: o.RandomWeightsOption = False,
    force: o.ForceOption = False,
    messages: g.OutputOptions,
) -> None:
    reporter = Reporter(messages.quiet, messages.verbose)
    with guard(reporter):
        from diagd_cli.jobs.attention.request import AttentionRequest
        from diagd_cli.jobs.attention.request import measure_attention as run
        from diagd_cli.preset_files import load_preset

        chosen = load_preset(preset)
        request = AttentionRequest(
            preset=chosen,
            settings=merge(chosen, decoding=g.DecodingOptions(k, d), seed=seed, method=decoding),
            clip=clip,
            frame=frame,
            layer=layer,
            head=head,
            radius=radius,
            steering=steering_of(steering),
            machine=machine_of(machine, random=random_weights),
            start=start,
            output=(output or Path(f"{clip.stem}-attention.png")) if picture else None,
            force=force,
        )
        if machine.threads:
            request.check()  # before torch is imported, which takes long
            set_threads(machine.threads)
        show(run(request, reporter), reporter, messages.json)


def show(report: AttentionReport, reporter: Reporter, json: bool) -> None:
    """The result on stdout: JSON, the picture's path with the table on stderr, or without a picture
    the table.
    """
    if json:
        reporter.result(report.facts())
    elif report.output is not None:
        reporter.note(text(report, width_of(sys.stderr)))
        reporter.result(report.output)
    else:
        reporter.result(text(report, width_of(sys.stdout)))


def text(report: AttentionReport, width: int | None) -> str:
    """The shares as a table."""
    from diagd_cli.report.attention_table import table

    return lay_out(table(report), width)
