"""diagd presets: what can be run, and checking a preset of one's own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from diagd_cli.cli import from_hf
from diagd_cli.cli import options as o
from diagd_cli.cli.console import Reporter
from diagd_cli.cli.guard import guard
from diagd_cli.cli.help import Commands
from diagd_cli.cli.layout import listed, width_of

commands = Commands(no_args_is_help=False)
HELP = """List, show and check presets.

[bold]Examples[/]

  diagd presets                     # the shipped ones

  diagd presets show freedoom       # every setting

  diagd presets check mine.yaml     # keys, sizes and weights of one's own

  diagd presets from-hf Llama/ --grid 24x24 --codes 8192 > mine.yaml
"""


@commands.callback(invoke_without_command=True)
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_presets()


@commands.command("list", help="Names of the shipped presets, one a line, with what they are.")
def list_presets(json: o.JsonOption = False) -> None:
    reporter = Reporter()
    with guard(reporter):
        from diagd_cli.preset_files import load_preset, preset_names

        for name in preset_names():
            preset = load_preset(name)
            lines = listed((name, preset.about), (24,), width_of(sys.stdout))
            reporter.result({"name": name, "about": preset.about} if json else "\n".join(lines))


@commands.command(help="Every setting of a preset, as YAML, environment variables not applied.")
def show(
    preset: Annotated[str, typer.Argument(help="Name or path.")], json: o.JsonOption = False
) -> None:
    reporter = Reporter()
    with guard(reporter):
        from diagd_cli.files.outputs import check_outputs
        from diagd_cli.preset_files import load_preset, preset_text

        chosen = load_preset(preset)
        check_outputs([], [(chosen.path, "the preset")] if chosen.path else [])
        why = f"it cannot slide: {chosen.why_rolls}" if chosen.why_rolls else "slide or roll"
        text = f"{preset_text(chosen).rstrip()}\n# window of frames: {why}"
        reporter.result(chosen.model_dump(mode="json") if json else text)


@commands.command(
    help="Check a preset file: its keys and sizes, and that its weights are there and fit."
)
def check(
    path: Annotated[Path, typer.Argument(help="A YAML file, or a name.")],
    weights_dir: o.WeightsDirOption = None,
    verbose: o.VerboseOption = False,
) -> None:
    reporter = Reporter(verbose=verbose)
    with guard(reporter):
        from diagd_cli.errors import WeightsError
        from diagd_cli.preset_files import load_preset
        from diagd_cli.weights.check import check as check_weights

        preset = load_preset(path)
        with reporter.stage("reading the weights"):
            findings = check_weights(preset, weights_dir)
        wrong = next((finding for finding in findings if finding.good is False), None)
        if wrong:
            raise WeightsError(wrong.text)
        for finding in findings:
            if finding.subject == "settings":
                reporter.warning(f"{preset.name}: {finding.text}")
        reporter.result(f"{preset.name}: the preset is valid and its weights fit")


commands.command("from-hf", help=from_hf.HELP)(from_hf.from_hf)
