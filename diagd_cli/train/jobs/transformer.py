"""Train a Transformer on the tokens of a folder of clips: `diagd train transformer`."""

from __future__ import annotations

from pathlib import Path

from diagd_cli.errors import UsageError
from diagd_cli.files.atomic import together
from diagd_cli.model.transformer import Transformer, initialise
from diagd_cli.pipeline import Loaded
from diagd_cli.preset import Preset
from diagd_cli.progress import Progress, Silent
from diagd_cli.train.clips import find_clips
from diagd_cli.train.data import Tokens, codes_digest, load_tokens
from diagd_cli.train.jobs.by_recipe import training_by_recipe
from diagd_cli.train.jobs.setup import Clips, TrainingSetup, as_loaded, run_identity
from diagd_cli.train.loop import Run
from diagd_cli.train.optimiser import freeze
from diagd_cli.train.parallel import rank
from diagd_cli.train.recipe import write_preset
from diagd_cli.train.requests import TrainRequest
from diagd_cli.train.samples import write_continuation
from diagd_cli.train.transfer import check_alike, count_pairs, transfer
from diagd_cli.train.transformer import Windows, WindowSampler, fit_transformer
from diagd_cli.weights.load import (
    build_transformer,
    load_tokenizer,
    load_transformer,
    save_weights,
)
from diagd_cli.weights.untold import metadata


def train_transformer(request: TrainRequest, progress: Progress = Silent()) -> Path | None:
    """Train a Transformer on the tokens of the preset's tokenizer and write the preset of both.

    Returns the path of that preset; None in all but the first of several processes.
    A run that was stopped, in request.out, goes on. Raises DiagdError, and KeyboardInterrupt when a
    checkpoint has been saved.
    """
    with training_by_recipe(request, "transformer", progress) as (setup, recipe):
        assert recipe.windows  # which go with the settings of a Transformer, and these are there
        run = _fit(setup, recipe.windows, request.samples)
        return None if rank() else write_transformer(setup, run)


def _fit(setup: TrainingSetup, windows: Windows, samples: bool) -> Run:
    options, preset, optimiser = setup.options, setup.preset, setup.optimiser
    tokenizer = load_tokenizer(preset, setup.device, folder=options.weights_dir)
    model = build_transformer(_with_window(preset, windows.longest), setup.device)
    loaded = as_loaded(preset, tokenizer, model, setup.device)
    initialise(model, optimiser.seed)
    freeze(model, optimiser.frozen)
    if init := setup.needed_init:
        _load_init(setup, init, model, loaded)
    train, val = load_token_splits(setup, loaded)

    def sample(run: Run[Transformer]) -> None:
        if samples:
            write_continuation(run, loaded, val)

    samplers = WindowSampler(train, preset), WindowSampler(val, preset)
    codes = codes_digest(tokenizer)
    identity = run_identity(preset, "transformer", "actions", "prefix", tokenizer=codes)
    with setup.fit_options("transformer") as fit:
        run = fit_transformer(
            model,
            *samplers,
            optimiser,
            windows,
            setup.folder,
            sample=sample,
            identity=identity,
            **fit,
        )
    setup.note_extra_steps(run)
    return run


def load_token_splits(setup: TrainingSetup, loaded: Loaded) -> tuple[Tokens, Tokens]:
    """The tokens of the training and of the validation clips, made by the tokenizer of `loaded`."""
    options = setup.options

    def load(split: str, show: Clips) -> Tokens:
        return load_tokens(options.data, split, loaded, show, options.cache)

    return setup.load_splits("tokens of {}", load)


def write_transformer(setup: TrainingSetup, run: Run) -> Path:
    """Write the weights of a run and the preset of them and of the tokenizer, which lies beside."""
    preset, out = setup.preset, setup.options.out
    path, told = out / "transformer.safetensors", metadata(preset, "transformer")
    with together():
        others = setup.copy_other_weights(preset, "tokenizer")
        entry = save_weights(path, run.weights, told=told)
        return write_preset(preset, out, **others, transformer_weights=entry)


def _load_init(setup: TrainingSetup, init: Preset, model: Transformer, own: Loaded) -> None:
    """Fill the new Transformer, `model` of `own`, with the weights of the preset `init`.

    Its codes are matched to ours on the training clips where its tokenizer is another.
    """
    preset, folder = setup.preset, setup.options.weights_dir
    check_alike(preset, init)
    source = load_transformer(init, setup.device, folder=folder)
    tokenizer = load_tokenizer(init, setup.device, folder=folder)
    counts = None
    if codes_digest(tokenizer) != codes_digest(own.tokenizer):
        other = as_loaded(init, tokenizer, source, setup.device)
        clips = find_clips(setup.options.data, preset)["train"]
        with setup.progress.bar("matching codes", len(clips), "clips") as bar:
            counts = count_pairs(clips, own, other, lambda done, _: bar.update(done))
    transfer(model, preset, source.state_dict(), init, counts)


def _with_window(preset: Preset, latents: int) -> Preset:
    """The preset with a window of at least so many latent frames.

    Training may see more of them than are decoded at once later. Raises UsageError where learned
    positions have no room for them.
    """
    if latents <= preset.window:
        return preset
    if preset.transformer.positions.kind == "learned":
        windows = f"The recipe's windows have {latents} latent frames"
        message = f"{windows}, the preset's table {preset.window}"
        raise UsageError(message, "Shorten the phases' frames in the recipe")
    window = 1 + (latents - 1) * preset.tokenizer.temporal
    clip = preset.clip.model_copy(update={"window": window})
    return preset.model_copy(update={"clip": clip})
