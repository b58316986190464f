"""diagd train: the tokenizer, then the Transformer, on a folder of clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diagd_cli.cli import options as o
from diagd_cli.cli.app import app, guard
from diagd_cli.cli.console import Reporter
from diagd_cli.errors import PresetError

commands = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(
    commands,
    name="train",
    help="""Train a world of one's own on a folder of clips with actions (see: diagd record).

A run that is stopped goes on where it was: checkpoint.pt and log.jsonl are in
its folder.

[bold]Examples[/]

  diagd train tokenizer data --out runs/mine

  diagd train transformer data --out runs/mine

  diagd generate clip.mp4 --preset runs/mine/preset.yaml
""",
)

DataArgument = Annotated[Path, typer.Argument(help="Folder with train/ and val/, each with NAME.mp4 and NAME.jsonl.")]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; it holds the preset that results.")]
RecipeOption = Annotated[str, typer.Option(help="Name of a shipped recipe, or a YAML file.")]
StepsOption = Annotated[int | None, typer.Option(**o.POSITIVE, help="Steps; the recipe's number by default.")]
EveryOption = Annotated[
    int, typer.Option(**o.POSITIVE, help="Steps between validations, which also save a checkpoint.")
]
PrecisionOption = Annotated[str, typer.Option(help="auto (bf16 where the hardware has it), bf16 or fp32.")]
PRECISIONS = ("auto", "bf16", "fp32")


@commands.command(help="Train the image tokenizer on frames; validation PSNR and codes in use are logged.")
def tokenizer(
    data: DataArgument,
    out: OutOption = Path("runs/freedoom"),
    recipe: RecipeOption = "freedoom",
    steps: StepsOption = None,
    every: EveryOption = 200,
    device: o.DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    threads: o.ThreadsOption = 0,
    quiet: o.QuietOption = False,
    verbose: o.VerboseOption = False,
) -> None:
    reporter = Reporter(quiet, verbose)
    with guard(reporter):
        import torch

        from diagd_cli.tokens.image import FsqImageTokenizer
        from diagd_cli.train.recipe import load_recipe, trained_preset, write_preset
        from diagd_cli.train.tokenizer import train_tokenizer
        from diagd_cli.weights.load import save_weights

        o.one_of(precision, PRECISIONS, "'--precision'")
        o.set_threads(threads)
        chosen = load_recipe(recipe)
        preset, settings = trained_preset(chosen, out), _with_steps(chosen.tokenizer, steps)
        if preset.tokenizer.kind != "fsq-image":
            message = f"The tokenizer of {preset.name} is {preset.tokenizer.kind}, which cannot be trained here"
            raise PresetError(message, "Use one of kind fsq-image, or train the Transformer alone")
        splits = _episodes(data, preset, reporter)
        torch.manual_seed(settings.seed)
        model = FsqImageTokenizer(preset.tokenizer).to(_device(device))
        with reporter.bar("tokenizer", settings.steps) as bar:
            run = train_tokenizer(
                model, *splits, settings, out / "tokenizer", every=every, precision=precision, on_step=_show(bar)
            )
        entry = save_weights(out / "tokenizer.safetensors", run.weights, torch.float16)
        weights = {"tokenizer_weights": entry}
        if entry != preset.tokenizer_weights:
            weights["transformer_weights"] = None  # whatever there was has learnt the codes of another tokenizer
        reporter.result(str(write_preset(preset, out, **weights)))


@commands.command(help="Train the Transformer on the clips' tokens; the NLL by frame index is logged.")
def transformer(
    data: DataArgument,
    out: OutOption = Path("runs/freedoom"),
    recipe: RecipeOption = "freedoom",
    steps: StepsOption = None,
    every: EveryOption = 200,
    device: o.DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    threads: o.ThreadsOption = 0,
    quiet: o.QuietOption = False,
    verbose: o.VerboseOption = False,
) -> None:
    reporter = Reporter(quiet, verbose)
    with guard(reporter):
        import numpy as np

        from diagd_cli.model.transformer import initialise
        from diagd_cli.train.recipe import load_recipe, trained_preset, write_preset
        from diagd_cli.train.transformer import Sampler, tokenise, train_transformer
        from diagd_cli.weights.load import build_transformer, copy_weights, load_tokenizer, save_weights

        o.one_of(precision, PRECISIONS, "'--precision'")
        o.set_threads(threads)
        chosen = load_recipe(recipe)
        preset, settings = trained_preset(chosen, out), _with_steps(chosen.transformer, steps)
        where = _device(device)
        encoder = load_tokenizer(preset, where)
        ids = preset.actions.offset + np.arange(len(preset.actions.names))
        none = int(preset.actions.rest[0])
        samplers = []
        for name, episodes in zip(("train", "val"), _episodes(data, preset, reporter), strict=True):
            cache = data / "cache" / f"{name}-{episodes.key}-{preset.tokenizer_weights.key[:12]}.npy"
            with reporter.bar(f"tokens of {name}", len(episodes), "frames") as bar:
                codes = tokenise(encoder, episodes, cache, lambda done, total, bar=bar: bar.update(done))
            samplers.append(Sampler(codes, episodes, preset.grid, ids, none))
        model = build_transformer(preset, where)
        initialise(model, settings.seed)
        with reporter.bar("transformer", settings.steps) as bar:
            run = train_transformer(
                model, *samplers, settings, chosen.windows, out / "transformer", every=every, precision=precision,
                on_step=_show(bar),
            )  # fmt: skip
        entry = save_weights(out / "transformer.safetensors", run.weights)
        codec = copy_weights(preset, "tokenizer", out)
        reporter.result(str(write_preset(preset, out, tokenizer_weights=codec, transformer_weights=entry)))


def _device(name: str):
    from diagd_cli.engine.device import choose_device

    return choose_device(name)


def _with_steps(settings, steps: int | None):
    return settings.model_copy(update={"steps": steps}) if steps else settings


def _show(bar):
    return lambda step, total, loss: bar.update(step, lambda seconds: f"loss {loss:.3f}")


def _episodes(data: Path, preset, reporter: Reporter) -> list:
    """Train and validation episodes at the preset's size."""
    from diagd_cli.train.data import load_episodes

    splits = []
    for split in ("train", "val"):
        with reporter.bar(f"reading {split}", 1, "clips") as bar:

            def show(done: int, total: int, bar=bar) -> None:
                bar.total = total
                bar.update(done)

            names = list(preset.actions.names)
            splits.append(load_episodes(data, split, preset.clip.height, preset.clip.width, names, show))
    return splits
