"""diagd train: the tokenizer, then the Transformer, on a folder of clips."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from diagd_cli.cli import options as o
from diagd_cli.cli.console import Reporter
from diagd_cli.cli.guard import guard
from diagd_cli.cli.help import Commands
from diagd_cli.cli.job import Job, check_run, keep_weights, load_splits, origin, show_loss, tell_notes, tell_steps
from diagd_cli.cli.threads import THREADS, spin_little
from diagd_cli.errors import PresetError, UsageError
from diagd_cli.inputs import preset_inputs

commands = Commands(no_args_is_help=True)
HELP = """Train a world of one's own on a folder of clips, with or without actions.

A run that is stopped goes on where it was: checkpoint.pt and log.jsonl are in
its folder. Several GPUs or machines: start it with torchrun.

[bold]Examples[/]

  diagd train tokenizer data --out runs/mine

  diagd train transformer data --out runs/mine

  diagd generate clip.mp4 --preset runs/mine/preset.yaml
"""

COUNTED = o.number(int, "a whole number in 1..10000000", 1, 10**7)  # as in recipes
DataArgument = Annotated[
    Path, typer.Argument(help="Folder of clips: train/ and val/, or all in one. Actions lie beside, in NAME.jsonl.")
]
OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder of the run; runs/RECIPE by default. Holds the new preset.")
]
RecipeOption = Annotated[str, typer.Option(help="Name of a shipped recipe, or a YAML file.")]
PresetOption = Annotated[str | None, typer.Option("--preset", "-p", help="Name or YAML file; the recipe's by default.")]
InitOption = Annotated[
    str | None,
    typer.Option(help="Start from this preset's weights, not from nothing; a Transformer's codes may be others."),
]
StepsOption = Annotated[
    int | None, typer.Option(**COUNTED, rich_help_panel="Training", help="Steps; the recipe's number by default.")
]
AccumulateOption = Annotated[
    int | None, typer.Option(**COUNTED, help="Parts of a batch, one after the other, to save memory.")
]
EveryOption = Annotated[
    int, typer.Option(**o.POSITIVE, help="Steps between validations, which also save a checkpoint.")
]
SamplesOption = Annotated[
    bool,
    typer.Option(
        "--samples/--no-samples",
        rich_help_panel="Output",
        help="Write what the model makes at each validation, to look at.",
    ),
]
CacheOption = Annotated[Path | None, typer.Option(help="Folder for decoded frames and tokens; DATA/cache by default.")]
PrecisionOption = Annotated[str, typer.Option(help="auto (bf16 where the hardware has it), bf16 or fp32.")]
PRECISIONS = ("auto", "bf16", "fp32")


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
        with guard(reporter, training=True), ExitStack() as stack:
            spin_little()
            from diagd_cli.device import choose_device
            from diagd_cli.preset import load_preset
            from diagd_cli.train.parallel import need, processes, rank
            from diagd_cli.train.recipe import load_recipe, recipe_path, trained_preset

            o.one_of(precision, PRECISIONS, "'--precision'")
            THREADS.fix(threads)
            chosen = load_recipe(recipe)
            out = out or Path("runs") / Path(recipe).stem
            model = trained_preset(chosen, out, preset)
            start = load_preset(init) if init else None
            reads = [*preset_inputs(model, folder=weights_dir), (recipe_path(recipe), "the recipe")]
            reads += [(Path(preset), "the preset")] if preset else []
            begun = preset_inputs(start, folder=weights_dir)
            check_run(out, part, data, model, reads, cache, start=begun)
            asked = {"steps": steps, "accumulate": accumulate}
            settings = chosen.part(part).model_copy(update={name: value for name, value in asked.items() if value})
            where = stack.enter_context(processes(choose_device(device)))
            need(settings.batch if part == "tokenizer" else min(phase.batch for phase in chosen.windows.phases))
            reporter.quiet, reporter.live = quiet or rank() > 0, reporter.live and rank() == 0
            tell_notes(data, model, reporter)
            options = {"every": every, "precision": precision}
            job = Job(data, out, chosen, model, settings, where, samples, cache, weights_dir, options, reporter, start)
            path = PARTS[part](job)
            if rank() == 0:
                reporter.result(str(path))


def _train_tokenizer(job: Job) -> Path:
    """Train the image tokenizer and write the preset that names it."""
    import torch

    from diagd_cli.families.freedoom.tokenizer import FsqImageTokenizer
    from diagd_cli.files.atomic import together
    from diagd_cli.train.data import load_episodes
    from diagd_cli.train.optimiser import freeze
    from diagd_cli.train.parallel import rank
    from diagd_cli.train.recipe import write_preset
    from diagd_cli.train.samples import write_reconstructions
    from diagd_cli.train.tokenizer import train_tokenizer
    from diagd_cli.weights.load import save_weights
    from diagd_cli.weights.untold import metadata

    preset, settings = job.preset, job.settings
    if preset.tokenizer.kind != "fsq-image":
        message = f"The tokenizer of {preset.name} is {preset.tokenizer.kind}, which cannot be trained here"
        raise PresetError(message, "Use one of kind fsq-image, or train the Transformer alone")
    coded = _codes_stay(job) if settings.frozen else None
    torch.manual_seed(settings.seed)
    model = FsqImageTokenizer(preset.tokenizer).to(job.device)
    freeze(model, settings.frozen)  # before the data are read, which takes long: what does not fit is told at once
    if job.begins("tokenizer"):
        _start_tokenizer(job, model)
    splits = load_splits(job, "reading {}", lambda name, show: load_episodes(job.data, name, preset, show, job.cache))

    def sample(run, shipped) -> None:
        if job.samples:
            write_reconstructions(run, shipped, splits[1])

    with job.reporter.bar("tokenizer", settings.steps) as bar:
        run = train_tokenizer(
            model, *splits, settings, job.out / "tokenizer", sample, origin(preset, "tokenizer", "clip"),
            on_step=show_loss(bar), **job.fit,
        )  # fmt: skip
    tell_steps(job, run)
    if rank():
        return job.out
    told = metadata(preset, "tokenizer")
    with together():
        kept = keep_weights(job, coded, "transformer") if coded else {}
        entry = save_weights(job.out / "tokenizer.safetensors", run.weights, torch.float16, told=told)
        if entry != preset.tokenizer_weights and not kept:
            kept = {"transformer_weights": None}  # whatever there was has learnt the codes of another tokenizer
            if job.goes_on("transformer"):
                lost = job.out / "transformer"
                job.reporter.note(f"Remove {lost}, which has learnt other codes, to train a Transformer")
        return write_preset(preset, job.out, **kept, tokenizer_weights=entry)


def _train_transformer(job: Job) -> Path:
    """Train the Transformer on the tokens of the preset's tokenizer and write the preset that names both."""
    import torch

    from diagd_cli.files.atomic import together
    from diagd_cli.model.transformer import initialise
    from diagd_cli.pipeline import Loaded
    from diagd_cli.train.data import codes_digest, load_tokens
    from diagd_cli.train.optimiser import freeze
    from diagd_cli.train.parallel import rank
    from diagd_cli.train.recipe import write_preset
    from diagd_cli.train.samples import write_continuation
    from diagd_cli.train.transformer import Sampler, train_transformer
    from diagd_cli.weights.load import build_transformer, load_tokenizer, save_weights
    from diagd_cli.weights.untold import metadata

    preset, settings = job.preset, job.settings
    encoder = load_tokenizer(preset, job.device, folder=job.weights_dir)
    model = build_transformer(_reaching(preset, job.recipe.windows.longest), job.device)
    loaded = Loaded(preset, encoder, model, job.device, torch.float32, 0.0)
    initialise(model, settings.seed)
    freeze(model, settings.frozen)
    if job.begins("transformer"):
        _start_transformer(job, model, loaded)
    splits = load_splits(job, "tokens of {}", lambda name, show: load_tokens(job.data, name, loaded, show, job.cache))

    def sample(run) -> None:
        if job.samples:
            write_continuation(run, loaded, splits[1])

    samplers = [Sampler(tokens, preset) for tokens in splits]
    of = origin(preset, "transformer", "actions", "prefix", tokenizer=codes_digest(encoder))
    with job.reporter.bar("transformer", settings.steps) as bar:
        run = train_transformer(
            model, *samplers, settings, job.recipe.windows, job.out / "transformer", sample,
            of, on_step=show_loss(bar), **job.fit,
        )  # fmt: skip
    tell_steps(job, run)
    if rank():
        return job.out
    with together():
        kept = keep_weights(job, preset, "tokenizer")
        entry = save_weights(job.out / "transformer.safetensors", run.weights, told=metadata(preset, "transformer"))
        return write_preset(preset, job.out, **kept, transformer_weights=entry)


def _start_tokenizer(job: Job, model) -> None:
    """Fill a new tokenizer with the weights of --init. Raises PresetError where it is another kind of network."""
    from diagd_cli.weights.load import load_tokenizer

    if job.start.tokenizer != job.preset.tokenizer:
        hint = "Start from a preset whose tokenizer has the same settings"
        raise PresetError(f"{job.preset.name} cannot start from {job.start.name}: their tokenizers differ", hint)
    model.load_state_dict(load_tokenizer(job.start, job.device, folder=job.weights_dir).state_dict())


def _start_transformer(job: Job, model, loaded) -> None:
    """Fill a new Transformer with the weights of --init, its codes matched to ours where its tokenizer is another."""
    from diagd_cli.pipeline import Loaded
    from diagd_cli.train import transfer
    from diagd_cli.train.clips import find_clips
    from diagd_cli.train.data import codes_digest
    from diagd_cli.weights.load import load_tokenizer, load_transformer

    transfer.check_alike(job.preset, job.start)
    source = load_transformer(job.start, job.device, folder=job.weights_dir)
    codec = load_tokenizer(job.start, job.device, folder=job.weights_dir)
    counts = None
    if codes_digest(codec) != codes_digest(loaded.tokenizer):
        other = Loaded(job.start, codec, source, job.device, loaded.dtype, 0.0)
        clips = find_clips(job.data, job.preset)["train"]
        with job.reporter.bar("matching codes", len(clips), "clips") as bar:
            counts = transfer.count_pairs(clips, loaded, other, lambda done, _: bar.update(done))
    transfer.transfer(model, job.preset, source.state_dict(), job.start, counts)


PARTS: dict[str, Callable[[Job], Path]] = {"tokenizer": _train_tokenizer, "transformer": _train_transformer}
_command("tokenizer", "Train the image tokenizer on frames; validation PSNR and codes in use are logged.")
_command("transformer", "Train the Transformer on the clips' tokens; the NLL by frame index is logged.")


def _reaching(preset, frames: int):
    """The preset with a window of `frames` latent frames at least: training may see more than is decoded at once later."""
    if frames <= preset.window:
        return preset
    if preset.transformer.positions.kind == "learned":
        hint = "Shorten the phases' frames in the recipe"
        raise UsageError(f"The recipe's windows have {frames} latent frames, the preset's table {preset.window}", hint)
    window = 1 + (frames - 1) * preset.tokenizer.temporal
    return preset.model_copy(update={"clip": preset.clip.model_copy(update={"window": window})})


def _codes_stay(job: Job):
    """The preset whose Transformer goes on working when only the decoder learns, None where there is none.

    Raises PresetError where no encoder has learnt yet.
    """
    if not (job.start or job.goes_on("tokenizer")):
        frozen = ", ".join(job.settings.frozen)
        raise PresetError(f"The recipe freezes {frozen}, which has learnt nothing yet", "Name a preset with --init")
    source = job.start or job.preset
    fits = source.transformer == job.preset.transformer  # which the preset that results describes
    return source if "encoder" in job.settings.frozen and source.transformer_weights and fits else None
