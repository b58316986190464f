"""Presets: one tokenizer + one Transformer + a token grid + decoding defaults, from YAML, checked before anything loads."""

from __future__ import annotations

import difflib
import os
import reprlib
from functools import cached_property
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from diagd_cli.errors import PresetError, UsageError
from diagd_cli.model.config import Strict, TransformerConfig
from diagd_cli.schedule.decoding import METHODS, Decoding
from diagd_cli.schedule.standin import StandIn
from diagd_cli.tokens.config import FsqImageConfig
from diagd_cli.tokens.grid import Grid

DEFAULT = "freedoom"


class WeightsFile(Strict):
    """A safetensors file, relative to the preset or to a weights folder, and its SHA-256."""

    file: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Clip(Strict):
    """Geometry in pixels and frames. `context`: prompt frames; `frames`: new ones by default; `window`: most frames at once.

    When more is asked for than the window holds, it rolls: the newest `overlap` frames are kept.
    """

    height: int = Field(gt=0)
    width: int = Field(gt=0)
    fps: float = Field(gt=0, le=1000)
    context: int = Field(gt=0)
    frames: int = Field(gt=0)
    window: int = Field(gt=1)
    overlap: int = Field(gt=0)

    @model_validator(mode="after")
    def _consistent(self):
        if not self.context <= self.overlap < self.window:
            raise ValueError(f"needs context <= overlap < window, has {self.context}, {self.overlap}, {self.window}")
        return self


class Actions(Strict):
    """Per-frame actions as one token a frame: `names[n]` is token `offset + n`; `none` is what an unsteered model reads."""

    offset: int = Field(ge=0)
    names: tuple[str, ...]
    none: str = "none"

    def token(self, name: str) -> int:
        """Token id of an action name. Raises ValueError when unknown."""
        return self.offset + self.names.index(name)

    @property
    def size(self) -> int:
        """Tokens after each frame."""
        return 1


class Defaults(Strict):
    """Decoding and sampling when the command line says nothing."""

    method: Literal[METHODS] = "diagd"
    k: int = Field(gt=0)
    d: int = Field(gt=0)
    stand_in: StandIn = "previous-frame"
    temperature: float = Field(default=1.0, ge=0, le=1000)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)

    @property
    def decoding(self) -> Decoding:
        return Decoding(self.method, self.k, self.d, self.stand_in)


class Preset(Strict):
    """Everything that names a model. `path` is where it was read from; file names are relative to its folder."""

    name: str
    about: str
    licence: str
    clip: Clip
    tokenizer: FsqImageConfig
    tokenizer_weights: WeightsFile | None = None
    transformer: TransformerConfig
    transformer_weights: WeightsFile | None = None
    actions: Actions | None = None
    decoding: Defaults
    path: Path | None = Field(default=None, exclude=True)

    @model_validator(mode="after")
    def _consistent(self):
        side = self.tokenizer.spatial
        for name, size in (("height", self.clip.height), ("width", self.clip.width)):
            if size % side:
                raise ValueError(f"clip.{name} ({size}) must be a multiple of {side}, the tokenizer's pixels a token")
        codes = self.tokenizer.codebook
        needed = codes if not self.actions else self.actions.offset + len(self.actions.names)
        if self.transformer.vocab < needed:
            raise ValueError(f"transformer.vocab ({self.transformer.vocab}) is below the {needed} tokens in use")
        if self.transformer.logits < codes:
            raise ValueError(f"transformer.outputs ({self.transformer.outputs}) is below the tokenizer's {codes} codes")
        if self.actions and self.actions.offset < codes:
            raise ValueError(f"actions.offset ({self.actions.offset}) lies within the tokenizer's {codes} codes")
        if self.actions and self.actions.none not in self.actions.names:
            raise ValueError(f"actions.none ({self.actions.none!r}) is not among actions.names")
        self.decoding.decoding.resolve(self.grid, self.clip.context)
        return self

    @cached_property
    def grid(self) -> Grid:
        """The token grid that clip size and tokenizer make."""
        side = self.tokenizer.spatial
        steering = self.actions.size if self.actions else 0
        return Grid(self.clip.height // side, self.clip.width // side, steering)


def preset_folder() -> Path:
    """Where the shipped presets lie: inside the installed package, or beside it in a source tree."""
    packaged = Path(__file__).parent / "presets"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "presets"


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
        near = difflib.get_close_matches(text, preset_names(), n=1)
        guess = f"Did you mean {near[0]}?" if near else "See: diagd presets list"
        raise PresetError(f"Unknown preset {text!r}", guess)
    try:
        return Preset.model_validate({**read_mapping(path), "path": path})
    except ValidationError as error:
        raise PresetError(f"{path}: {describe(error, Preset)}", "Compare with: diagd presets show freedoom") from None
    except UsageError as error:  # its default decoding does not fit its grid
        raise PresetError(f"{path}: decoding: {error.message}", error.hint) from None


def read_mapping(path: Path) -> dict:
    """The mapping that a YAML file holds. Raises PresetError, with the line where it is malformed."""
    where, reason = "", ""
    try:
        text = path.read_text(encoding="utf-8")
        raw = yaml.safe_load(text)
    except OSError as error:
        raise PresetError(f"{path} cannot be read: {error.strerror.lower()}", "Give the path of a YAML file") from None
    except UnicodeDecodeError:
        raise PresetError(f"{path} is not a text file", "Give the path of a YAML file") from None
    except yaml.MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}"
        reason = error.problem
    except yaml.reader.ReaderError as error:
        where, reason = f", line {text.count(chr(10), 0, error.position) + 1}", error.reason
    except RecursionError:
        reason = "it is nested too deeply"
    if reason:
        raise PresetError(f"{path}{where}: not valid YAML: {reason}", "Correct it there")
    if not isinstance(raw, dict):
        kind = "empty" if raw is None else f"a {type(raw).__name__}"
        raise PresetError(f"{path} is {kind}, not a mapping of keys", "Write lines of KEY: VALUE")
    return raw


def describe(error: ValidationError, model: type[Strict]) -> str:
    """The worst problem of a YAML file in one line, with a suggestion for a misspelt key."""
    problems = error.errors()
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])  # or a key would seem missing
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(first["loc"][-1]), _known_keys(model), n=1)
        return f"unknown key {where!r}" + (f" (did you mean {near[0]!r}?)" if near else "")
    message = first["msg"].removeprefix("Value error, ")
    seen = first.get("input")
    value = f" (it is {reprlib.repr(seen)})" if not isinstance(seen, dict) and first["type"] != "missing" else ""
    return f"{where}: {message}{value}" if where else message


def _known_keys(model: type[Strict]) -> set[str]:
    keys = set(model.model_fields)
    for field in model.model_fields.values():
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, Strict):
                keys |= _known_keys(kind)
    return keys
