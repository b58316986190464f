"""diagd finetune: teach a trained Transformer the decodings that it will run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diagd_cli.cli import groups as g
from diagd_cli.cli import options as o
from diagd_cli.cli import train as t
from diagd_cli.cli.console import Reporter
from diagd_cli.cli.decodings import parse_decoding
from diagd_cli.cli.guard import guard
from diagd_cli.cli.kinds import POSITIVE, number, numbers, option
from diagd_cli.cli.settings import merge_decoding
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.train.requests import FinetuneRequest

if TYPE_CHECKING:
    from diagd_cli.preset import Preset

HELP = """\
Fine-tune a preset's Transformer under the masks of Diagonal Decoding, on a folder of clips.

Each step draws one decoding of a set: all pairs of --k and --d, and those of
--decodings. A run that is stopped goes on where it was. Its log.jsonl has the
NLL under NTP and under each decoding, from before the first step on.

[bold]Examples[/]

  diagd finetune data --preset freedoom --out runs/ft

  diagd finetune data --k 1,2 --d 10,20 --steps 1000 --lr 1e-4

  diagd generate clip.mp4 --preset runs/ft/preset.yaml --k 1 --d 10
"""

RATE = number(float, "a number above 0 and at most 1", 1e-12, 1)
SHARE = number(float, "a number in 0..1", 0, 1)
SEED = number(int, "a whole number in 0..2^32-1", 0, 2**32 - 1)
LIST_HELP = "By comma; the preset's by default."
DECODINGS_HELP = "More, by comma, each NAME, NAME:K or NAME:K:D; '' is none."
WINDOW_HELP = (
    "Frames of a training sample, more than the window where it slides; the preset's by default."
)
OWN_HELP = "The model sees up to this share of a sample's new tokens as it would make them itself."
SEED_HELP = "Of what is drawn: windows, decodings, prompts."


def finetune(
    data: t.DataArgument,
    preset: o.PresetOption = "freedoom",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of the run; runs/NAME-diagonal by default."),
    ] = None,
    k: Annotated[str | None, option("--k", "-k", help=LIST_HELP)] = None,
    d: Annotated[str | None, option("--d", "-d", help=LIST_HELP)] = None,
    decodings: Annotated[str, typer.Option(help=DECODINGS_HELP)] = "ntp",
    stand_in: o.StandInOption = None,
    repair: o.RepairOption = True,
    window: Annotated[
        int | None,
        typer.Option(**POSITIVE, help=WINDOW_HELP),
    ] = None,
    steps: Annotated[int, typer.Option(**t.COUNTED, help="Steps.")] = 1000,
    batch: Annotated[int, typer.Option(**t.COUNTED, help="Windows of a step.")] = 1,
    balance: Annotated[
        float, typer.Option(**SHARE, help="Draw windows of rare actions more often; 1: the most.")
    ] = 0.0,
    accumulate: t.AccumulateOption = None,
    lr: Annotated[float, typer.Option(**RATE, help="Peak learning rate.")] = 1e-4,
    seed: Annotated[int, typer.Option(**SEED, help=SEED_HELP)] = 0,
    scheduled_sampling: Annotated[float, typer.Option(**SHARE, help=OWN_HELP)] = 0.0,
    prompt_embedding: Annotated[
        Path | None,
        typer.Option(help="The T5 embedding (.safetensors) of a text that describes all clips."),
    ] = None,
    every: t.EveryOption = 200,
    cache: t.CacheOption = None,
    weights_dir: o.WeightsDirOption = None,
    device: o.DeviceOption = "auto",
    precision: t.PrecisionOption = "auto",
    threads: o.ThreadsOption = 0,
    quiet: o.QuietOption = False,
    verbose: o.VerboseOption = False,
) -> None:
    reporter = Reporter(quiet, verbose)
    with guard(reporter, training=True):
        products = t.start_training(precision, threads)
        from diagd_cli.preset_files import load_preset
        from diagd_cli.train.jobs.finetune import finetune

        chosen = load_preset(preset)
        default = merge_decoding(
            chosen.decoding, g.DecodingOptions(stand_in=stand_in, repair=repair)
        )
        request = FinetuneRequest(
            data=data,
            out=out or Path("runs") / f"{chosen.name}-diagonal",
            preset=chosen,
            decodings=decoding_set(chosen, default, k, d, decodings),
            window=window,
            steps=steps,
            batch=batch,
            balance=balance,
            accumulate=accumulate or 1,
            lr=lr,
            seed=seed,
            scheduled_sampling=scheduled_sampling,
            prompt_embedding=prompt_embedding,
            every=every,
            cache=cache,
            weights_dir=weights_dir,
            device=device,
            precision=products,
            verbose=verbose,
        )
        if path := finetune(request, reporter):
            reporter.result(str(path))


def decoding_set(
    preset: Preset, default: Decoding, k: str | None, d: str | None, names: str
) -> tuple[Decoding, ...]:  # fmt: skip
    """The decodings of --decodings, then a DiagD for every pair of --k and --d, each once.

    Without --d, the pairs are of the preset's method: a spatial decoding has no d.
    Raises UsageError.
    """
    texts = [text for text in names.split(",") if text.strip()]
    found = [parse_decoding(text, default, words=False) for text in texts]
    method = "diagd" if d or default.method == "ntp" else default.method
    rows, diagonals = numbers(k, default.k, "--k"), numbers(d, default.d, "--d")
    pairs = [(row, diagonal) for row in rows for diagonal in diagonals]
    found += [replace(default, method=method, k=row, d=diagonal) for row, diagonal in pairs]
    for decoding in found:
        decoding.resolve(preset.grid, context=1)
    return tuple({decoding.label(preset.grid): decoding for decoding in found}.values())
