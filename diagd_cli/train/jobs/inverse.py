"""Train inverse dynamics on a folder of clips with actions: `diagd train inverse`."""

from __future__ import annotations

from pathlib import Path

import torch

from diagd_cli.device import choose_device
from diagd_cli.errors import PresetError, UsageError
from diagd_cli.families.freedoom.actions import NamedActions
from diagd_cli.files.atomic import together, write_json
from diagd_cli.inputs import preset_inputs
from diagd_cli.model.inverse import InverseDynamics
from diagd_cli.progress import Progress, Silent
from diagd_cli.train import inverse
from diagd_cli.train.data import Episodes, load_episodes
from diagd_cli.train.jobs.by_recipe import recipe_inputs
from diagd_cli.train.jobs.outputs import check_run_outputs
from diagd_cli.train.jobs.setup import Clips, TrainingSetup
from diagd_cli.train.loop import Run
from diagd_cli.train.parallel import launched
from diagd_cli.train.recipe import load_recipe, trained_preset, write_preset
from diagd_cli.train.requests import InverseRequest
from diagd_cli.weights.load import save_weights


def train_inverse(request: InverseRequest, progress: Progress = Silent()) -> Path:
    """Train the model that reads the action between two frames, and write the preset that names it.

    Returns the path of that preset. How well each action is read goes to inverse/confusion.json in
    request.out. A run that was stopped goes on. Raises DiagdError, and KeyboardInterrupt when a
    checkpoint has been saved.
    """
    if launched() > 1:
        message = f"These are {launched()} processes, and one trains inverse dynamics"
        raise UsageError(message, "Start it without torchrun")
    preset = trained_preset(load_recipe(request.recipe), request.out, request.preset)
    reads = preset_inputs(preset, weights=False)
    reads += recipe_inputs(request.recipe, request.preset)
    check_run_outputs(request, "inverse", preset, reads)
    if not isinstance(preset.actions, NamedActions):
        hint = "Inverse dynamics reads named actions: name them under actions, with kind: names"
        raise PresetError(f"The preset {preset.name} has no named actions", hint)
    changes = {"steps": request.steps} if request.steps else {}
    optimiser = inverse.SETTINGS.model_copy(update=changes)
    device = choose_device(request.device)
    setup = TrainingSetup(request, "inverse", preset, optimiser, device, progress)
    return _write(setup, preset.actions, *_fit(setup, preset.actions))


def _fit(setup: TrainingSetup, actions: NamedActions) -> tuple[Run[InverseDynamics], inverse.Pairs]:
    """Train it. Returns the run and the pairs of frames that validate it."""
    options, preset, optimiser = setup.options, setup.preset, setup.optimiser

    def load(split: str, show: Clips) -> Episodes:
        return load_episodes(options.data, split, preset, show, options.cache)

    splits = setup.load_splits("reading {}", load)
    train, val = (inverse.Pairs(episodes, actions) for episodes in splits)
    torch.manual_seed(optimiser.seed)
    model = InverseDynamics(len(actions.names)).to(setup.device)
    with setup.fit_options("inverse dynamics") as fit:
        run = inverse.fit_inverse(model, train, val, optimiser, setup.folder, **fit)
    return run, val


def _write(
    setup: TrainingSetup, actions: NamedActions, run: Run[InverseDynamics], val: inverse.Pairs
) -> Path:
    """Say how well the validation clips are read, and write that, the weights and the preset."""
    preset, out = setup.preset, setup.options.out
    names = actions.names
    confusion = inverse.confusion(run.shipped(), val)
    shares = inverse.accuracies(confusion)
    by_action = zip(names, shares["by_action"], strict=True)
    listed = ", ".join(f"{name} {share:.0%}" for name, share in by_action if share is not None)
    right = f"{shares['accuracy']:.1%} of {confusion.sum()} validation pairs"
    setup.progress.note(f"read right: {right} ({listed})")
    table = {"actions": names, **shares, "confusion": confusion.tolist()}
    with together():
        write_json(setup.folder / "confusion.json", table)
        entry = save_weights(out / "inverse.safetensors", run.weights, torch.float16)
        return write_preset(preset, out, inverse_weights=entry)
