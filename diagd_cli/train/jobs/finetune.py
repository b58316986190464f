"""Fine-tune a preset's Transformer for the decodings that it will run: `diagd finetune`."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from diagd_cli.device import choose_device, require_compiler
from diagd_cli.errors import UsageError
from diagd_cli.inputs import preset_inputs
from diagd_cli.preset import Preset
from diagd_cli.progress import Progress, Silent
from diagd_cli.tokens.text import read_embedding
from diagd_cli.train.data import codes_digest
from diagd_cli.train.diagonal import Mixture, fit_diagonal
from diagd_cli.train.jobs.outputs import check_run_outputs
from diagd_cli.train.jobs.setup import (
    TrainingSetup,
    as_loaded,
    first_process_tells,
    note_data_and_board,
    run_identity,
)
from diagd_cli.train.jobs.transformer import load_token_splits, write_transformer
from diagd_cli.train.loop import Run
from diagd_cli.train.optimiser import Optimiser
from diagd_cli.train.parallel import check_batch_size, process_group, rank
from diagd_cli.train.requests import FinetuneRequest
from diagd_cli.train.transformer import Phase, Windows, WindowSampler
from diagd_cli.weights.load import load_tokenizer, load_transformer

PART = "finetune"  # the folder of the run's checkpoint
MOST_WINDOWS = 8  # that a sample may be long, where the window slides


def finetune(request: FinetuneRequest, progress: Progress = Silent()) -> Path | None:
    """Fine-tune a Transformer under the masks of decodings and write the preset with new weights.

    Returns the path of that preset; None in all but the first of several processes.
    A run that was stopped, in request.out, goes on. Raises DiagdError, and KeyboardInterrupt when a
    checkpoint has been saved.
    """
    preset, embedding = request.preset, request.prompt_embedding
    _check_folder(preset, request.out)
    reads = preset_inputs(preset, folder=request.weights_dir)
    reads += [(embedding, "the prompt's embedding")] if embedding else []
    check_run_outputs(request, PART, preset, reads, weights="transformer")
    mixture, windows = decodings_and_windows(request)
    text = _shared_text(preset, embedding, progress)
    optimiser = Optimiser(
        steps=request.steps,
        batch=request.batch,
        accumulate=request.accumulate,
        lr=request.lr,
        warmup=min(100, request.steps // 10),
        seed=request.seed,
    )
    with (
        process_group(choose_device(request.device)) as device,
        first_process_tells(progress) as told,
    ):
        check_batch_size(request.batch)
        note_data_and_board(request, preset, told)
        setup = TrainingSetup(request, PART, preset, optimiser, device, told)
        run = _fit(setup, mixture, windows, text)
        return None if rank() else write_transformer(setup, run)


def _fit(setup: TrainingSetup, mixture: Mixture, windows: Windows, text: Tensor | None) -> Run:
    """text: embedding float32 [N, cross_dim] that all clips attend to."""
    preset, device, folder = setup.preset, setup.device, setup.options.weights_dir
    if device.type == "cuda":
        require_compiler("Fine-tuning on CUDA", "use --device cpu")
    tokenizer = load_tokenizer(preset, device, folder=folder)
    model = load_transformer(preset, device, folder=folder).requires_grad_(True)
    loaded = as_loaded(preset, tokenizer, model, device)
    identity = run_identity(preset, tokenizer=codes_digest(tokenizer))
    identity["Transformer to begin with"] = preset.weight_keys["transformer"] or ""
    train, val = (WindowSampler(tokens, preset) for tokens in load_token_splits(setup, loaded))
    how = setup.optimiser, windows, mixture
    with setup.fit_options("fine-tuning") as fit:
        run = fit_diagonal(model, train, val, *how, setup.folder, text, identity, **fit)
    setup.note_extra_steps(run)
    return run


def _check_folder(preset: Preset, out: Path) -> None:
    """Raise UsageError where the folder of the run holds a preset that must stay as it is."""
    written, hint = out / "preset.yaml", "Name another folder with --out"
    if preset.path and preset.path.resolve() == written.resolve():
        raise UsageError(f"{out} is the folder of the preset itself", hint)
    if written.exists() and not (out / PART).exists():
        raise UsageError(f"{out} holds a preset that was not fine-tuned there", hint)


def decodings_and_windows(request: FinetuneRequest) -> tuple[Mixture, Windows]:
    """What a step draws, and the windows that it draws from. Raises UsageError."""
    preset = request.preset
    clip, temporal = preset.clip, preset.tokenizer.temporal
    window = clip.window if request.window is None else request.window
    slides = {decoding.window for decoding in request.decodings} == {"slide"}
    longest = MOST_WINDOWS * clip.window if slides else clip.window
    if not clip.least < window <= longest or (window - 1) % temporal:
        every = f", in steps of {temporal}" if temporal > 1 else ""
        takes = f"{clip.least + temporal} to {longest}{every}"
        hint = f"The preset {preset.name} takes {takes}"
        raise UsageError(f"The window is {window} frame(s)", hint)
    for decoding in request.decodings:
        decoding.resolve(preset.grid, context=1)
        preset.check_window(decoding)
    latents = preset.latents(window)
    prompts = range(preset.latents(clip.least), min(preset.context, latents - 1) + 1)
    # Actions of other kinds have no token for "unknown".
    named = preset.actions is not None and preset.actions.kind == "names"
    phase = Phase(start=0, frames=latents, batch=request.batch, balance=request.balance)
    windows = Windows(phases=(phase,), dropout=0.1 if named else 0.0)
    seen = preset.window if latents > preset.window else 0
    own = request.scheduled_sampling
    return Mixture(request.decodings, prompts, seen, own, preset.sampling()), windows


def _shared_text(preset: Preset, embedding: Path | None, progress: Progress) -> Tensor | None:
    """The embedding float32 [length, cross_dim] that all clips attend to, None without text.

    Raises UsageError where it is missing or not wanted, and WeightsError where it cannot be read.
    """
    if preset.text is None:
        if embedding:
            message = f"The preset {preset.name} takes no text, and --prompt-embedding gives one"
            raise UsageError(message, "Leave it out, or use a video2world preset")
        return None
    if not embedding:
        which = "of a text that describes all clips (see: diagd embed)"
        hint = f"Give --prompt-embedding FILE, {which}"
        raise UsageError(f"The preset {preset.name} is steered by text", hint)
    with progress.stage("reading the prompt"):
        return read_embedding(embedding, preset.text.length, preset.transformer.text_dim)
