"""diagd train: the tokenizer, then the Transformer, on a folder of clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from diagd_cli.cli import options as o
from diagd_cli.cli.console import Reporter
from diagd_cli.cli.guard import guard
from diagd_cli.cli.help import Commands
from diagd_cli.cli.kinds import POSITIVE, number, one_of
from diagd_cli.cli.threads import THREADS, spin_little
from diagd_cli.train.requests import Precision, TrainRequest

commands = Commands(no_args_is_help=True)
HELP = """Train a world of one's own on a folder of clips, with or without actions.

A run that is stopped goes on where it was: checkpoint.pt and log.jsonl are in
its folder. Several GPUs or machines: start it with torchrun.

[bold]Examples[/]

  diagd train tokenizer data --out runs/mine

  diagd train transformer data --out runs/mine

  diagd generate clip.mp4 --preset runs/mine/preset.yaml
"""

COUNTED = number(int, "a whole number in 1..10000000", 1, 10**7)  # as in recipes
DATA_HELP = "Folder of clips: train/ and val/, or all in one. Actions lie beside, in NAME.jsonl."
DataArgument = Annotated[Path, typer.Argument(help=DATA_HELP)]
OUT_HELP = "Folder of the run; runs/RECIPE by default. Holds the new preset."
OutOption = Annotated[Path | None, typer.Option("--out", "-o", help=OUT_HELP)]
RecipeOption = Annotated[str, typer.Option(help="Name of a shipped recipe, or a YAML file.")]
PresetOption = Annotated[
    str | None,
    typer.Option("--preset", "-p", help="Name or YAML file; the recipe's by default."),
]
INIT_HELP = """\
Start from this preset's weights, not from nothing; a Transformer's codes may be others."""
InitOption = Annotated[str | None, typer.Option(help=INIT_HELP)]
STEPS_HELP = "Steps; the recipe's number by default."
StepsOption = Annotated[
    int | None,
    typer.Option(**COUNTED, rich_help_panel="Training", help=STEPS_HELP),
]
AccumulateOption = Annotated[
    int | None,
    typer.Option(**COUNTED, help="Parts of a batch, one after the other, to save memory."),
]
EveryOption = Annotated[
    int,
    typer.Option(**POSITIVE, help="Steps between validations, which also save a checkpoint."),
]
SamplesOption = Annotated[
    bool,
    typer.Option(
        "--samples/--no-samples",
        rich_help_panel="Output",
        help="Write what the model makes at each validation, to look at.",
    ),
]
CacheOption = Annotated[
    Path | None,
    typer.Option(help="Folder for decoded frames and tokens; DATA/cache by default."),
]
PRECISION_HELP = "auto (bf16 where the hardware has it), bf16 or fp32."
PrecisionOption = Annotated[str, typer.Option(help=PRECISION_HELP)]


def start_training(precision: str, threads: int) -> Precision:
    """What every training does first; returns the precision, checked. It may import torch, so it
    comes after `spin_little`.
    """
    spin_little()
    one_of(precision, get_args(Precision), "'--precision'")
    THREADS.fix(threads)
    return cast(Precision, precision)


def run_folder(out: Path | None, recipe: str) -> Path:
    """The folder of a run, by default one that is called as its recipe."""
    return out or Path("runs") / Path(recipe).stem


def _command(part: str, about: str) -> None:
    """Register `diagd train PART`; both parts take the same options."""

    @commands.command(name=part, help=about)
    def run(
        data: DataArgument,
        out: OutOption = None,
        recipe: RecipeOption = "freedoom",
        preset: PresetOption = None,
        init: InitOption = None,
        steps: StepsOption = None,
        accumulate: AccumulateOption = None,
        every: EveryOption = 200,
        samples: SamplesOption = True,
        cache: CacheOption = None,
        weights_dir: o.WeightsDirOption = None,
        device: o.DeviceOption = "auto",
        precision: PrecisionOption = "auto",
        threads: o.ThreadsOption = 0,
        quiet: o.QuietOption = False,
        verbose: o.VerboseOption = False,
    ) -> None:
        reporter = Reporter(quiet, verbose)
        with guard(reporter, training=True):
            products = start_training(precision, threads)
            from diagd_cli.train.jobs.tokenizer import train_tokenizer
            from diagd_cli.train.jobs.transformer import train_transformer

            request = TrainRequest(
                data=data,
                out=run_folder(out, recipe),
                recipe=recipe,
                preset=preset,
                init=init,
                steps=steps,
                accumulate=accumulate,
                every=every,
                samples=samples,
                cache=cache,
                weights_dir=weights_dir,
                device=device,
                precision=products,
                verbose=verbose,
            )
            job = train_tokenizer if part == "tokenizer" else train_transformer
            if path := job(request, reporter):
                reporter.result(str(path))


_command(
    "tokenizer",
    "Train the image tokenizer on frames; validation PSNR and codes in use are logged.",
)
_command(
    "transformer",
    "Train the Transformer on the clips' tokens; the NLL by frame index is logged.",
)
