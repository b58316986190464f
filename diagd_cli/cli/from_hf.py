"""diagd presets from-hf: a preset of a model of Hugging Face's `transformers`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from diagd_cli.cli import options as o
from diagd_cli.cli.console import Reporter
from diagd_cli.cli.guard import guard
from diagd_cli.cli.kinds import COUNT, FILE, POSITIVE, number, numbers

HELP = """Write a preset of a Llama, Mistral, Qwen2 or Qwen3 whose vocabulary holds codes of frames.

FOLDER is as save_pretrained leaves it: config.json and safetensors, in one file or in parts.

[bold]Examples[/]

  diagd presets from-hf Llama/ --grid 24x24 --codes 8192 --offset 32000 > a.yaml

  diagd presets from-hf Llama/ --grid 18x32 --tokenizer vavim-s -o mine.yaml
"""


PANEL = "Input"


def rows_and_columns(text: str) -> tuple[int, int]:
    """Of 24x24. Raises typer.BadParameter."""
    match = re.fullmatch(r"\s*([1-9]\d{0,3})\s*x\s*([1-9]\d{0,3})\s*", text)
    if match is None:
        told = f"{text!r} is not ROWSxCOLUMNS, such as 24x24"
        raise typer.BadParameter(told, param_hint="'--grid'")
    return int(match[1]), int(match[2])


def from_hf(
    folder: Annotated[Path, typer.Argument(help="Folder of the model.")],
    grid: Annotated[
        str,
        typer.Option(
            metavar="<h>x<w>", rich_help_panel=PANEL, help="Rows x columns of codes of a frame."
        ),
    ],
    codes: Annotated[
        int | None,
        typer.Option(
            **POSITIVE,
            rich_help_panel=PANEL,
            help="How many codes there are; the tokenizer's by default.",
        ),
    ] = None,
    offset: Annotated[
        int,
        typer.Option(
            **COUNT, rich_help_panel=PANEL, help="Id of code 0 in the model's vocabulary."
        ),
    ] = 0,
    prefix: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=PANEL,
            help="Ids before the first frame, by comma, such as the begin of a sequence.",
        ),
    ] = None,
    row_end: Annotated[
        str | None,
        typer.Option(rich_help_panel=PANEL, help="Ids after each row of codes, by comma."),
    ] = None,
    frame_end: Annotated[
        str | None,
        typer.Option(rich_help_panel=PANEL, help="Ids after each frame, by comma."),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=PANEL,
            help="What stands before the first frame: <N> is the id N, {text} the prompt, {h} and "
            "{w} the grid's; text becomes ids by the folder's tokenizer.json.",
        ),
    ] = None,
    wording: Annotated[
        str,
        typer.Option(
            rich_help_panel=PANEL, help="What is made of a prompt first: {text} is what is given."
        ),
    ] = "{text}",
    prompt_length: Annotated[
        int,
        typer.Option(**POSITIVE, rich_help_panel=PANEL, help="Ids of the template at most."),
    ] = 256,
    guidance: Annotated[
        float | None,
        typer.Option(
            **number(float, "a number from 0 to 1000", 0, 1000),
            rich_help_panel=PANEL,
            help="Scale of the guidance.",
        ),
    ] = None,
    negative_prompt: Annotated[
        str, typer.Option(rich_help_panel=PANEL, help="What guidance leads away from.")
    ] = "",
    tokenizer: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=PANEL,
            help="A preset whose tokenizer made the codes; without it, it is the folder's, or "
            "clips are tokens.",
        ),
    ] = None,
    name: Annotated[
        str, typer.Option(rich_help_panel=PANEL, help="The preset's name; the folder's by default.")
    ] = "",
    fps: Annotated[
        float,
        typer.Option(
            **number(float, "a number above 0, at most 1000", 1e-6, 1000),
            rich_help_panel=PANEL,
            help="Frames a second where a clip does not say.",
        ),
    ] = 10.0,
    context: Annotated[
        int | None,
        typer.Option(
            **COUNT,
            rich_help_panel=PANEL,
            help="Prompt frames by default: 1. With 0 the model makes images.",
        ),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(
            **POSITIVE,
            rich_help_panel=PANEL,
            help="New frames by default: what the window leaves.",
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            **POSITIVE,
            rich_help_panel=PANEL,
            help="Frames at once; as many as the model takes, at most 16.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", **FILE, help="File to write; stdout by default."),
    ] = None,
    force: o.ForceOption = False,
    verbose: o.VerboseOption = False,
) -> None:
    reporter = Reporter(verbose=verbose)
    with guard(reporter):
        from diagd_cli.files.atomic import write_text
        from diagd_cli.files.outputs import check_outputs
        from diagd_cli.jobs.from_hf import FromHf, preset_from_hf
        from diagd_cli.preset_files import load_preset, preset_text

        if out:
            check_outputs([(out, "the preset")], force=force)
        asked = FromHf(
            folder=folder,
            grid=rows_and_columns(grid),
            codes=codes,
            offset=offset,
            prefix=tuple(numbers(prefix, 0, "--prefix")) if prefix else (),
            row_end=tuple(numbers(row_end, 0, "--row-end")) if row_end else (),
            frame_end=tuple(numbers(frame_end, 0, "--frame-end")) if frame_end else (),
            template=template,
            wording=wording,
            prompt_length=prompt_length,
            guidance=guidance,
            negative=negative_prompt,
            tokenizer=load_preset(tokenizer) if tokenizer else None,
            name=name,
            fps=fps,
            context=context,
            frames=frames,
            window=window,
        )
        with reporter.stage("reading the model"):
            text = preset_text(preset_from_hf(asked))
        if out:
            write_text(out, text)
        reporter.result(str(out) if out else text.rstrip())
