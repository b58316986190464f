"""Training recipes in YAML: the preset whose geometry is trained, and how."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import ValidationError, model_validator

from diagd_cli.errors import PresetError, did_you_mean
from diagd_cli.mapping import read_mapping
from diagd_cli.model.config import Strict
from diagd_cli.preset import Preset
from diagd_cli.preset_files import describe, load_preset, preset_folder, save_preset
from diagd_cli.sources import Weights
from diagd_cli.train.optimiser import Optimiser
from diagd_cli.train.transformer import Windows


class Recipe(Strict):
    """`preset`: a name, or a path relative to the recipe; the rest: settings of the two trainings.

    A part that is used as it is has none. `windows` go with `transformer`.
    """

    preset: str
    tokenizer: Optimiser | None = None
    transformer: Optimiser | None = None
    windows: Windows | None = None

    @model_validator(mode="after")
    def _whole(self) -> Recipe:
        if bool(self.transformer) != bool(self.windows):
            raise ValueError("transformer and windows go together: one is set, the other is not")
        return self

    def part(self, name: Literal["tokenizer", "transformer"]) -> Optimiser:
        """The settings of one training. Raises PresetError where the recipe has none for it."""
        settings = self.tokenizer if name == "tokenizer" else self.transformer
        if settings is None:
            raise PresetError(f"The recipe has no {name} part", "Train the other part, or add one")
        return settings


def recipe_names() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(path.stem for path in (preset_folder() / "recipes").glob("*.yaml"))


def recipe_path(name_or_path: str) -> Path:
    """Where a recipe lies."""
    path = Path(name_or_path)
    return (
        path
        if path.suffix in (".yaml", ".yml")
        else preset_folder() / "recipes" / f"{name_or_path}.yaml"
    )


def load_recipe(name_or_path: str) -> Recipe:
    """A shipped recipe by name, or a YAML file. Raises PresetError."""
    path = recipe_path(name_or_path)
    if not os.path.exists(path):
        hint = f"Use {', '.join(recipe_names())}, or a path to a YAML file"
        raise PresetError(f"No recipe {path}", did_you_mean(path.stem, recipe_names(), hint))
    try:
        recipe = Recipe.model_validate(read_mapping(path))
    except ValidationError as error:
        raise PresetError(
            f"{path}: {describe(error, Recipe)}", "Compare with the shipped recipe"
        ) from None
    if not recipe.preset.endswith((".yaml", ".yml")):
        return recipe
    return recipe.model_copy(update={"preset": str(path.parent / recipe.preset)})


def trained_preset(recipe: Recipe, folder: Path, chosen: str | None = None) -> Preset:
    """The preset of a training folder, with the weights that the folder has so far.

    folder: of the run.
    chosen: name or path of the preset; None is the recipe's.

    Raises PresetError, also where the folder holds another preset's run, and for a preset that is
    steered by text.
    """
    preset, path = load_preset(chosen or recipe.preset), folder / "preset.yaml"
    if path.exists():
        found = load_preset(path)
        if found.name != preset.name:
            message = f"{folder} holds a run of {found.name}, not of {preset.name}"
            raise PresetError(message, "Name another folder with --out")
        mine, theirs = learnt_by(preset), learnt_by(found)
        for key in sorted(mine.keys() | theirs.keys()):
            if mine.get(key) != theirs.get(key):
                message = (
                    f"{folder} holds a run of {found.name} with {key} {theirs.get(key)}, not "
                    f"{mine.get(key)}"
                )
                raise PresetError(
                    message, f"Name another folder with --out, or go on with --preset {path}"
                )
        preset = found
    if preset.text:
        hint = "Train a preset without text: clips have none beside them"
        raise PresetError(f"The preset {preset.name} is steered by text", hint)
    return preset


def learnt_by(preset: Preset) -> dict[str, object]:
    """What weights are learnt for, by key: the networks' settings, the frames' size, the
    actions.
    """
    parts = preset.model_dump(
        mode="json", include={"tokenizer", "transformer", "actions", "prefix"}
    )
    parts["clip"] = {"height": preset.clip.height, "width": preset.clip.width}
    flat: dict[str, object] = {}
    for name, part in parts.items():
        flat |= (
            {f"{name}.{key}": v for key, v in part.items()}
            if isinstance(part, dict)
            else {name: part}
        )
    return flat


def write_preset(preset: Preset, folder: Path, **weights: Weights | None) -> Path:
    """Write `folder/preset.yaml`: the preset with new weights. It runs with --preset."""
    path = folder / "preset.yaml"
    save_preset(preset.model_copy(update=weights), path)
    return path
