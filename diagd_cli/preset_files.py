"""Presets as YAML files: the shipped ones, others by their path; what is wrong with one is told in
a line.
"""

from __future__ import annotations

import os
import reprlib
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from diagd_cli import families
from diagd_cli.errors import PresetError, UsageError, did_you_mean, near
from diagd_cli.mapping import read_mapping
from diagd_cli.model.config import Strict
from diagd_cli.preset import Preset


def preset_folder() -> Path:
    """Where the shipped presets lie: inside the installed package, or beside it in a source
    tree.
    """
    packaged = Path(__file__).parent / "presets"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "presets"


def option_word(preset: Preset, absolute: bool = False) -> str:
    """What `--preset` takes for it: the name of a shipped one, else its path; the name for one that
    is in no file.
    """
    if preset.path is None or is_shipped(preset):
        return preset.name
    return os.path.abspath(preset.path) if absolute else str(preset.path)


def is_shipped(preset: Preset) -> bool:
    """Whether it is one of the package's."""
    return preset.path is not None and preset.path.resolve().parent == preset_folder().resolve()


def preset_names() -> list[str]:
    """Names of the shipped presets."""
    return sorted(p.stem for p in preset_folder().glob("*.yaml"))


def load_preset(name_or_path: str | Path) -> Preset:
    """Read and check a preset, by shipped name or by path to a YAML file. Raises PresetError."""
    text = str(name_or_path)
    is_path = text.endswith((".yaml", ".yml")) or os.sep in text
    path = Path(text) if is_path else preset_folder() / f"{text}.yaml"
    if not os.path.exists(path):
        if is_path:
            hint = "Give a path to a YAML file, or a name from: diagd presets list"
            raise PresetError(f"No preset file {path}", hint)
        raise PresetError(
            f"Unknown preset {text!r}",
            did_you_mean(text, preset_names(), "See: diagd presets list"),
        )
    try:
        return Preset.model_validate({**read_mapping(path), "path": path})
    except ValidationError as error:
        raise PresetError(
            f"{path}: {describe(error, Preset)}", "Compare with: diagd presets show freedoom"
        ) from None
    except UsageError as error:  # its default decoding does not fit its grid
        raise PresetError(f"{path}: decoding: {error.message}", error.hint) from None


def preset_text(preset: Preset) -> str:
    """A preset as YAML for people, a short mapping on a line; `load_preset` reads it."""
    settings = preset.model_dump(mode="json")
    return yaml.safe_dump(
        settings, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True
    )


def save_preset(preset: Preset, path: Path) -> None:
    """Write a preset as YAML that `load_preset` reads. Raises OutputError."""
    from diagd_cli.files.atomic import write_text  # which imports much, and presets are mostly read

    text = yaml.safe_dump(
        preset.model_dump(mode="json"), sort_keys=False, width=110, allow_unicode=True
    )
    write_text(path, text)


def describe(error: ValidationError, model: type[Strict]) -> str:
    """The worst problem of a YAML file in one line, with a suggestion for a misspelt key."""
    problems = error.errors()
    # or a key would seem missing
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    loc = first["loc"]
    where = ".".join(str(part) for part in loc)
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])  # which may be right elsewhere
        found = near(key, _known_keys(model) - {key})
        return f"unknown key {where!r}" + (f" (did you mean {found[0]!r}?)" if found else "")
    message = first["msg"].removeprefix("Value error, ")
    seen = first.get("input")
    value = (
        f" (it is {reprlib.repr(seen)})"
        if not isinstance(seen, dict) and first["type"] != "missing"
        else ""
    )
    return f"{where}: {message}{value}" if where else message


def _known_keys(model: type[Strict]) -> set[str]:
    """Every key of a record and of the records within it, those of a preset's families included."""
    every = families.known() if model is Preset else []
    records = [
        record
        for own in every
        for record in (own.tokenizer and own.tokenizer.config, own.actions)
        if record
    ]
    return _keys(model).union(*map(_keys, records))


def _keys(kind: Any) -> set[str]:
    if parts := get_args(kind):  # asked first: list[int] is a type in Python 3.10
        return set().union(*map(_keys, parts))
    if isinstance(kind, type) and issubclass(kind, Strict):
        fields = kind.model_fields
        return set(fields).union(*(_keys(field.annotation) for field in fields.values()))
    return set()
