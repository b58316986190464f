"""diagd weights: which presets have their weights, fetching them, and checking them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diagd_cli.cli import options as o
from diagd_cli.cli.console import Reporter, one_line
from diagd_cli.cli.guard import guard
from diagd_cli.cli.help import Commands
from diagd_cli.cli.kinds import one_of
from diagd_cli.cli.layout import listed, width_of
from diagd_cli.errors import Exit, WeightsError
from diagd_cli.files.paths import path_text

if TYPE_CHECKING:
    from diagd_cli.preset import Preset
    from diagd_cli.weights.check import Finding

commands = Commands(no_args_is_help=False)
HELP = """List, fetch and check the weights of presets.

[bold]Examples[/]

  diagd weights                                    # what is there

  diagd weights pull cosmos-4b                     # into the hub's cache

  diagd weights pull cosmos-4b --weights-dir /data # into a folder

  diagd weights check cosmos-4b                    # whole, and of this model

  diagd weights pack runs/mine/preset.yaml --out mine --bits 8
"""

PresetArgument = Annotated[str, typer.Argument(help="Name, or path of a YAML file.")]
TokenOption = Annotated[
    str | None,
    typer.Option(help="The hub's token; $HF_TOKEN or that of `hf auth login` by default."),
]
MARKS = {True: "ok", False: "wrong", None: "unknown"}


@commands.callback(invoke_without_command=True)
def _default(
    context: typer.Context, weights_dir: o.WeightsDirOption = None, json: o.JsonOption = False
) -> None:
    if context.invoked_subcommand is None:
        list_weights(weights_dir, json)


@commands.command(
    "list",
    help="The shipped presets, one a line: whether their weights are there, where, how large.",
)
def list_weights(weights_dir: o.WeightsDirOption = None, json: o.JsonOption = False) -> None:
    reporter = Reporter()
    with guard(reporter):
        from diagd_cli.preset_files import load_preset, preset_names

        for name in preset_names():
            facts = gather(load_preset(name), weights_dir)
            reporter.result(
                facts if json else "\n".join(listed(_cells(facts), (24, 10), width_of(sys.stdout)))
            )


def gather(preset: Preset, folder: Path | None) -> dict:
    """Files of a preset's weights that are there and their bytes, and the models whose weights are
    missing.
    """
    from diagd_cli.weights.locate import ROLES, locate

    paths, missing = [], []
    for role in ROLES:
        try:
            paths += locate(preset, role, folder)[1]
        except WeightsError:
            missing.append(role)
    paths = list(dict.fromkeys(paths))  # one file may hold both models
    size = sum(path.stat().st_size for path in paths)
    return {
        "name": preset.name,
        "missing": missing,
        "files": [path_text(path) for path in paths],
        "bytes": size,
    }


def _cells(facts: dict) -> list[str]:
    from rich.filesize import decimal

    if facts["missing"]:
        return [facts["name"], "missing", " and ".join(facts["missing"])]
    folders = dict.fromkeys(str(Path(file).parent) for file in facts["files"])
    return [facts["name"], decimal(facts["bytes"]), ", ".join(folders)]


@commands.command(
    help=(
        "Fetch a preset's weights from the Hugging Face hub, or a release on GitHub; what is there "
        "already is not fetched again."
    )
)
def pull(
    preset: PresetArgument,
    weights_dir: o.WeightsDirOption = None,
    token: TokenOption = None,
    json: o.JsonOption = False,
    quiet: o.QuietOption = False,
    verbose: o.VerboseOption = False,
) -> None:
    reporter = Reporter(quiet, verbose)
    with guard(reporter):
        from huggingface_hub.utils import disable_progress_bars

        from diagd_cli.preset_files import load_preset
        from diagd_cli.weights import fetch

        if not reporter.live:
            disable_progress_bars()
        loaded = load_preset(preset)
        paths = fetch.pull(loaded, weights_dir, token, lambda line: reporter.note(one_line(line)))
        names = [path_text(path) for path in paths]
        for result in [{"name": loaded.name, "files": names}] if json else map(str, paths):
            reporter.result(result)


@commands.command(
    help="Check a preset's weights: that they are there, whole, and of its models. Loads nothing."
)
def check(
    preset: PresetArgument,
    weights_dir: o.WeightsDirOption = None,
    json: o.JsonOption = False,
    verbose: o.VerboseOption = False,
) -> None:
    reporter = Reporter(verbose=verbose)
    with guard(reporter):
        from diagd_cli.preset_files import load_preset
        from diagd_cli.weights import check as weights

        loaded = load_preset(preset)
        with reporter.stage("reading the weights"):
            findings = weights.check(loaded, weights_dir)
        for finding in findings:
            path = path_text(finding.path) if finding.path else None
            reporter.result({**vars(finding), "path": path} if json else _finding(finding))
        if any(finding.good is False for finding in findings):
            raise typer.Exit(Exit.FAILED)


def _finding(finding: Finding) -> str:
    about = f"{finding.path}: " if finding.path and str(finding.path) not in finding.text else ""
    cells = (finding.role, finding.subject, MARKS[finding.good], one_line(about + finding.text))
    return "\n".join(listed(cells, (13, 10, 9), width_of(sys.stdout)))


@commands.command(
    help=(
        "Gather a preset and its weights in one folder, to give away; in 8 bits a Transformer "
        "takes half the room, and may lose what a short fine-tuning has taught it."
    )
)
def pack(
    preset: PresetArgument,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder to write preset.yaml and the weights into."),
    ],
    bits: Annotated[
        str,
        typer.Option(help="16 copies the files; 8 stores the Transformer's matrices in int8."),
    ] = "16",
    weights_dir: o.WeightsDirOption = None,
    force: o.ForceOption = False,
    quiet: o.QuietOption = False,
    verbose: o.VerboseOption = False,
) -> None:
    reporter = Reporter(quiet, verbose)
    with guard(reporter):
        from diagd_cli.preset_files import load_preset
        from diagd_cli.weights.pack import pack as write

        one_of(bits, ("16", "8"), "'--bits'")
        with reporter.stage("writing the weights"):
            path = write(load_preset(preset), out, int(bits), weights_dir, force)
        reporter.result(str(path))
