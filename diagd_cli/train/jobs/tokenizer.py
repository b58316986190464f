"""Train an image tokenizer on a folder of clips: `diagd train tokenizer`."""

from __future__ import annotations

from pathlib import Path

import torch

from diagd_cli.errors import PresetError
from diagd_cli.families.freedoom.config import FsqImageConfig
from diagd_cli.families.freedoom.tokenizer import FsqImageTokenizer
from diagd_cli.files.atomic import together
from diagd_cli.preset import Preset
from diagd_cli.progress import Progress, Silent
from diagd_cli.train.data import Episodes, load_episodes
from diagd_cli.train.jobs.by_recipe import training_by_recipe
from diagd_cli.train.jobs.setup import Clips, TrainingSetup, has_checkpoint, run_identity
from diagd_cli.train.loop import Run
from diagd_cli.train.optimiser import freeze
from diagd_cli.train.parallel import rank
from diagd_cli.train.recipe import write_preset
from diagd_cli.train.requests import TrainRequest
from diagd_cli.train.samples import write_reconstructions
from diagd_cli.train.tokenizer import fit_tokenizer
from diagd_cli.weights.load import load_tokenizer, save_weights
from diagd_cli.weights.untold import metadata


def train_tokenizer(request: TrainRequest, progress: Progress = Silent()) -> Path | None:
    """Train the image tokenizer of a preset and write the preset that names it.

    Returns the path of that preset; None in all but the first of several processes.
    A run that was stopped, in request.out, goes on. Raises DiagdError, and KeyboardInterrupt when a
    checkpoint has been saved.
    """
    with training_by_recipe(request, "tokenizer", progress) as (setup, _):
        kind = setup.preset.tokenizer.kind
        if kind != "fsq-image":
            message = f"The tokenizer of {setup.preset.name} is {kind}"
            hint = "Use one of kind fsq-image, or train the Transformer alone"
            raise PresetError(f"{message}, which cannot be trained here", hint)
        same_codes = _preset_of_same_codes(setup) if setup.optimiser.frozen else None
        config = setup.preset.tokenizer
        assert isinstance(config, FsqImageConfig)  # the record of this kind
        run = _fit(setup, config, request.samples)
        return None if rank() else _write(setup, run, same_codes)


def _fit(setup: TrainingSetup, config: FsqImageConfig, samples: bool) -> Run:
    options, preset, optimiser = setup.options, setup.preset, setup.optimiser
    torch.manual_seed(optimiser.seed)
    model = FsqImageTokenizer(config).to(setup.device)
    # Before the clips are read, which takes long: what cannot be frozen or loaded is told at once.
    freeze(model, optimiser.frozen)
    if init := setup.needed_init:
        _load_init(setup, init, model)

    def load(split: str, show: Clips) -> Episodes:
        return load_episodes(options.data, split, preset, show, options.cache)

    train, val = setup.load_splits("reading {}", load)

    def sample(run: Run, shipped: FsqImageTokenizer) -> None:
        if samples:
            write_reconstructions(run, shipped, val)

    identity = run_identity(preset, "tokenizer", "clip")
    with setup.fit_options("tokenizer") as fit:
        run = fit_tokenizer(model, train, val, optimiser, setup.folder, sample, identity, **fit)
    setup.note_extra_steps(run)
    return run


def _write(setup: TrainingSetup, run: Run, same_codes: Preset | None) -> Path:
    """Write the weights and the preset, with the Transformer that has learnt these very codes.

    same_codes: the preset whose Transformer goes with the new weights, None where there is none.
    """
    preset, out = setup.preset, setup.options.out
    path = out / "tokenizer.safetensors"
    with together():
        others = setup.copy_other_weights(same_codes, "transformer") if same_codes else {}
        entry = save_weights(path, run.weights, torch.float16, told=metadata(preset, "tokenizer"))
        if entry != preset.tokenizer_weights and not others:
            # Whatever Transformer there was has learnt the codes of another tokenizer.
            others = {"transformer_weights": None}
            if has_checkpoint(out, "transformer"):
                learnt = f"Remove {out / 'transformer'}, which has learnt other codes"
                setup.progress.note(f"{learnt}, to train a Transformer")
        return write_preset(preset, out, **others, tokenizer_weights=entry)


def _load_init(setup: TrainingSetup, init: Preset, model: FsqImageTokenizer) -> None:
    """Fill a new tokenizer with the weights of the preset `init`.

    Raises PresetError where it is another kind of network.
    """
    preset = setup.preset
    if init.tokenizer != preset.tokenizer:
        message = f"{preset.name} cannot start from {init.name}: their tokenizers differ"
        raise PresetError(message, "Start from a preset whose tokenizer has the same settings")
    trained = load_tokenizer(init, setup.device, folder=setup.options.weights_dir)
    model.load_state_dict(trained.state_dict())


def _preset_of_same_codes(setup: TrainingSetup) -> Preset | None:
    """The preset whose Transformer goes on working when only the decoder learns, None for none.

    Raises PresetError where no encoder has learnt yet.
    """
    frozen = setup.optimiser.frozen
    if not (setup.init or has_checkpoint(setup.options.out, setup.part)):
        message = f"The recipe freezes {', '.join(frozen)}, which has learnt nothing yet"
        raise PresetError(message, "Name a preset with --init")
    source = setup.init or setup.preset
    # The preset that results describes the Transformer of setup.preset.
    fits = source.transformer == setup.preset.transformer
    return source if "encoder" in frozen and source.transformer_weights and fits else None
