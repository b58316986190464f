"""diagd finetune: teach a trained Transformer the decodings that it will run."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diagd_cli.cli import options as o
from diagd_cli.cli import train as t
from diagd_cli.cli.console import Reporter
from diagd_cli.cli.decodings import parse_decoding
from diagd_cli.cli.guard import guard
from diagd_cli.cli.job import Job, check_run, keep_weights, load_splits, origin, show_loss, tell_notes, tell_steps
from diagd_cli.cli.settings import merge_decoding
from diagd_cli.cli.threads import THREADS, spin_little
from diagd_cli.errors import UsageError
from diagd_cli.inputs import preset_inputs
from diagd_cli.jobs.prompts import find_prompts
from diagd_cli.schedule.decoding import Decoding

if TYPE_CHECKING:
    from torch import Tensor

    from diagd_cli.preset import Preset
    from diagd_cli.train.diagonal import Mixture
    from diagd_cli.train.transformer import Windows

HELP = """Fine-tune a preset's Transformer under the masks of Diagonal Decoding, on a folder of clips.

Each step draws one decoding of a set: all pairs of --k and --d, and those of
--decodings. A run that is stopped goes on where it was. Its log.jsonl has the
NLL under NTP and under each decoding, from before the first step on.

[bold]Examples[/]

  diagd finetune data --preset freedoom --out runs/ft

  diagd finetune data --k 1,2 --d 10,20 --steps 1000 --lr 1e-4

  diagd generate clip.mp4 --preset runs/ft/preset.yaml --k 1 --d 10
"""

RATE = o.number(float, "a number above 0 and at most 1", 1e-12, 1)
SHARE = o.number(float, "a number in 0..1", 0, 1)
SEED = o.number(int, "a whole number in 0..2^32-1", 0, 2**32 - 1)


def finetune(
    data: t.DataArgument,
    preset: o.PresetOption = "freedoom",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the run; runs/NAME-diagonal by default.")
    ] = None,
    k: Annotated[str | None, o.option("--k", "-k", help="By comma; the preset's by default.")] = None,
    d: Annotated[str | None, o.option("--d", "-d", help="By comma; the preset's by default.")] = None,
    decodings: Annotated[str, typer.Option(help="More, by comma, each NAME, NAME:K or NAME:K:D; '' is none.")] = "ntp",
    stand_in: o.StandInOption = None,
    repair: o.RepairOption = True,
    window: Annotated[
        int | None, typer.Option(**o.FRAMES, help="Frames of a training sample; the preset's window by default.")
    ] = None,
    steps: Annotated[int, typer.Option(**t.COUNTED, help="Steps.")] = 1000,
    batch: Annotated[int, typer.Option(**t.COUNTED, help="Windows of a step.")] = 1,
    balance: Annotated[
        float, typer.Option(**SHARE, help="Draw windows of rare actions more often; 1: the most.")
    ] = 0.0,
    accumulate: t.AccumulateOption = None,
    lr: Annotated[float, typer.Option(**RATE, help="Peak learning rate.")] = 1e-4,
    seed: Annotated[int, typer.Option(**SEED, help="Of what is drawn: windows, decodings, prompts.")] = 0,
    prompt_embedding: Annotated[
        Path | None, typer.Option(help="The T5 embedding (.safetensors) of a text that describes all clips.")
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
    with guard(reporter, training=True), ExitStack() as stack:
        spin_little()
        from diagd_cli.device import choose_device
        from diagd_cli.preset import load_preset
        from diagd_cli.train.optimiser import Optimiser
        from diagd_cli.train.parallel import need, processes, rank

        o.one_of(precision, t.PRECISIONS, "'--precision'")
        THREADS.fix(threads)
        chosen = load_preset(preset)
        out = out or Path("runs") / f"{chosen.name}-diagonal"
        if chosen.path.resolve() == (out / "preset.yaml").resolve():
            raise UsageError(f"{out} is the folder of the preset itself", "Name another folder with --out")
        if (out / "preset.yaml").exists() and not (out / "finetune").exists():
            raise UsageError(f"{out} holds a preset that was not fine-tuned there", "Name another folder with --out")
        reads = preset_inputs(chosen, folder=weights_dir)
        reads += [(prompt_embedding, "the prompt's embedding")] if prompt_embedding else []
        check_run(out, "finetune", data, chosen, reads, cache, weights="transformer")
        default = merge_decoding(chosen.decoding, o.DecodingOptions(stand_in=stand_in, repair=repair))
        mixed = mixture(chosen, decoding_set(chosen, default, k, d, decodings), window, batch, balance)
        text = context_text(chosen, prompt_embedding, reporter)
        settings = Optimiser(
            steps=steps, batch=batch, accumulate=accumulate or 1, lr=lr, warmup=min(100, steps // 10), seed=seed
        )
        where = stack.enter_context(processes(choose_device(device)))
        need(batch)
        reporter.quiet, reporter.live = quiet or rank() > 0, reporter.live and rank() == 0
        tell_notes(data, chosen, reporter)
        options = {"every": every, "precision": precision}
        job = Job(data, out, None, chosen, settings, where, False, cache, weights_dir, options, reporter)
        path = run(job, *mixed, text)
        if rank() == 0:
            reporter.result(str(path))


def run(job: Job, mixed, windows, text: Tensor | None) -> Path:
    """Fine-tune and write the preset that names the new weights."""
    import torch

    from diagd_cli.device import require_compiler
    from diagd_cli.files.atomic import together
    from diagd_cli.pipeline import Loaded
    from diagd_cli.train.data import codes_digest, load_tokens
    from diagd_cli.train.diagonal import finetune
    from diagd_cli.train.parallel import rank
    from diagd_cli.train.recipe import write_preset
    from diagd_cli.train.transformer import Sampler
    from diagd_cli.weights.load import load_tokenizer, load_transformer, save_weights
    from diagd_cli.weights.untold import metadata

    preset = job.preset
    if job.device.type == "cuda":
        require_compiler("Fine-tuning on CUDA", "use --device cpu")
    encoder = load_tokenizer(preset, job.device, folder=job.weights_dir)
    model = load_transformer(preset, job.device, folder=job.weights_dir).requires_grad_(True)
    base = {"Transformer to begin with": preset.weight_keys["transformer"] or ""}
    loaded = Loaded(preset, encoder, model, job.device, torch.float32, 0.0)
    splits = load_splits(job, "tokens of {}", lambda name, show: load_tokens(job.data, name, loaded, show, job.cache))
    samplers = [Sampler(tokens, preset) for tokens in splits]
    with job.reporter.bar("fine-tuning", job.settings.steps) as bar:
        done = finetune(
            model, *samplers, job.settings, windows, mixed, job.out / "finetune", text,
            origin(preset, tokenizer=codes_digest(encoder), **base), on_step=show_loss(bar), **job.fit,
        )  # fmt: skip
    tell_steps(job, done)
    if rank():
        return job.out
    with together():
        kept = keep_weights(job, preset, "tokenizer")
        entry = save_weights(job.out / "transformer.safetensors", done.weights, told=metadata(preset, "transformer"))
        return write_preset(preset, job.out, **kept, transformer_weights=entry)


def decoding_set(
    preset: Preset, default: Decoding, k: str | None, d: str | None, names: str
) -> tuple[Decoding, ...]:  # fmt: skip
    """The decodings of --decodings, then a DiagD for every pair of --k and --d, each once.

    Without --d, the pairs are of the preset's method: a spatial decoding has no d. Raises UsageError.
    """
    found = [parse_decoding(name, default, words=False) for name in names.split(",") if name.strip()]
    method = "diagd" if d or default.method == "ntp" else default.method
    rows, diagonals = o.numbers(k, default.k, "--k"), o.numbers(d, default.d, "--d")
    found += [replace(default, method=method, k=row, d=diagonal) for row in rows for diagonal in diagonals]
    for decoding in found:
        decoding.resolve(preset.grid, context=1)
    return tuple({decoding.label(preset.grid): decoding for decoding in found}.values())


def mixture(
    preset: Preset, decodings: tuple[Decoding, ...], window: int | None, batch: int, balance: float = 0.0
) -> tuple[Mixture, Windows]:
    """What a step draws, and the windows that it draws from. Raises UsageError."""
    from diagd_cli.train.diagonal import Mixture
    from diagd_cli.train.transformer import Phase, Windows

    clip, step = preset.clip, preset.tokenizer.temporal
    window = clip.window if window is None else window
    if not clip.least < window <= clip.window or (window - 1) % step:
        every = f", in steps of {step}" if step > 1 else ""
        hint = f"The preset {preset.name} takes {clip.least + step} to {clip.window}{every}"
        raise UsageError(f"The window is {window} frame(s)", hint)
    frames = preset.latents(window)
    prompts = range(preset.latents(clip.least), min(preset.context, frames - 1) + 1)
    named = preset.actions is not None and preset.actions.kind == "names"  # the others have no token for "unknown"
    phase = Phase(start=0, frames=frames, batch=batch, balance=balance)
    windows = Windows(phases=(phase,), dropout=0.1 if named else 0.0)
    return Mixture(decodings, prompts), windows


def context_text(preset: Preset, embedding: Path | None, reporter: Reporter) -> Tensor | None:
    """The embedding [N, cross_dim] that all clips attend to. Raises UsageError where it is missing or not wanted."""
    prompts = find_prompts(preset, [], o.SteeringOptions(prompt_embedding=embedding))
    if preset.text and not embedding:
        hint = "Give --prompt-embedding FILE, of a text that describes all clips (see: diagd embed)"
        raise UsageError(f"The preset {preset.name} is steered by text", hint)
    prompts.embed(reporter)
    return prompts.of(Path())
