"""A training by a recipe, from what was asked for to what may begin."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from diagd_cli.device import choose_device
from diagd_cli.files.outputs import Named
from diagd_cli.inputs import preset_inputs
from diagd_cli.preset_files import load_preset
from diagd_cli.progress import Progress
from diagd_cli.train.jobs.outputs import check_run_outputs
from diagd_cli.train.jobs.setup import TrainingSetup, first_process_tells, note_data_and_board
from diagd_cli.train.parallel import check_batch_size, process_group
from diagd_cli.train.recipe import Recipe, load_recipe, recipe_path, trained_preset
from diagd_cli.train.requests import TrainRequest


@contextmanager
def training_by_recipe(
    request: TrainRequest,
    part: Literal["tokenizer", "transformer"],
    progress: Progress,
) -> Iterator[tuple[TrainingSetup, Recipe]]:
    """Check a request and join the processes that torchrun started, for the time of the block.

    Raises DiagdError, before any clip is read.
    """
    recipe = load_recipe(request.recipe)
    preset = trained_preset(recipe, request.out, request.preset)
    init = load_preset(request.init) if request.init else None
    folder = request.weights_dir
    reads = preset_inputs(preset, folder=folder)
    reads += recipe_inputs(request.recipe, request.preset)
    init_reads = preset_inputs(init, folder=folder)
    check_run_outputs(request, part, preset, reads, init_reads=init_reads)

    asked = {"steps": request.steps, "accumulate": request.accumulate}
    changes = {name: value for name, value in asked.items() if value}
    optimiser = recipe.part(part).model_copy(update=changes)
    phases = recipe.windows.phases if part == "transformer" and recipe.windows else (optimiser,)

    with (
        process_group(choose_device(request.device)) as device,
        first_process_tells(progress) as told,
    ):
        check_batch_size(min(phase.batch for phase in phases))
        note_data_and_board(request, preset, told)
        yield TrainingSetup(request, part, preset, optimiser, device, told, init), recipe


def recipe_inputs(recipe: str, preset: str | None) -> list[Named]:
    """The files that a recipe and a preset are read from, where they were named."""
    named = [(Path(preset), "the preset")] if preset else []
    return [(recipe_path(recipe), "the recipe"), *named]
