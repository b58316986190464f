"""Training recipes in YAML: the preset whose geometry is trained, and how."""

from __future__ import annotations

import os
from pathlib import Path

import yaml
from pydantic import ValidationError

from diagd_cli.clip.write import atomic
from diagd_cli.config import Preset, describe, load_preset, preset_folder, read_mapping
from diagd_cli.errors import PresetError
from diagd_cli.model.config import Strict
from diagd_cli.tokens.actions import NamedActions
from diagd_cli.train.loop import Optimiser
from diagd_cli.train.transformer import Windows
from diagd_cli.weights.source import Weights


class Recipe(Strict):
    """`preset`: a name, or a path relative to the recipe; the rest: settings of the two trainings."""

    preset: str
    tokenizer: Optimiser
    transformer: Optimiser
    windows: Windows


def load_recipe(name_or_path: str) -> Recipe:
    """A shipped recipe by name, or a YAML file. Raises PresetError."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = preset_folder() / "recipes" / f"{name_or_path}.yaml"
    if not os.path.exists(path):
        raise PresetError(f"No recipe {path}", "Use freedoom, or a path to a YAML file")
    try:
        recipe = Recipe.model_validate(read_mapping(path))
    except ValidationError as error:
        raise PresetError(f"{path}: {describe(error, Recipe)}", "Compare with the shipped recipe") from None
    if not recipe.preset.endswith((".yaml", ".yml")):
        return recipe
    return recipe.model_copy(update={"preset": str(path.parent / recipe.preset)})


def trained_preset(recipe: Recipe, folder: Path) -> Preset:
    """The preset of a training folder: the recipe's, with the weights that the folder has so far. Raises PresetError."""
    path = folder / "preset.yaml"
    preset = load_preset(path if path.exists() else recipe.preset)
    if not isinstance(preset.actions, NamedActions):
        hint = "Training is on clips with named actions: name them under actions, with kind: names"
        raise PresetError(f"The preset {preset.name} has no named actions", hint)
    return preset


def write_preset(preset: Preset, folder: Path, **weights: Weights | None) -> Path:
    """Write `folder/preset.yaml`: the preset with new weights. It runs with --preset."""
    path = folder / "preset.yaml"
    text = yaml.safe_dump(preset.model_copy(update=weights).model_dump(mode="json"), sort_keys=False, width=110)
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8")
    return path
