"""A preset of a language model that the `transformers` library of Hugging Face has saved, whose
vocabulary holds the codes of frames.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from diagd_cli.errors import DiagdWarning, PresetError, UsageError, WeightsError
from diagd_cli.families.huggingface.folder import CONFIG, files_of
from diagd_cli.families.huggingface.settings import (
    Settings,
    read_settings,
    require_reach,
    transformer_config,
)
from diagd_cli.preset import Preset
from diagd_cli.preset_files import describe
from diagd_cli.sources import Source, Weights, WeightsFile
from diagd_cli.weights.load import tensors
from diagd_cli.weights.locate import digest, locate

LONGEST_WINDOW = 16  # latent frames, where nothing is asked for
LICENCE = "that of the model; see its folder"


@dataclass(frozen=True)
class FromHf:
    """What a folder does not tell.

    grid: rows and columns of a frame's codes. codes: their number, the tokenizer's by default.
    offset, prefix: ids in the model's vocabulary: of code 0, and of what stands before the first
        frame.
    tokenizer: a preset whose tokenizer made the codes; None leaves it out.
    context, frames, window: frames, as in a preset; None is 1, what the window leaves, and as many
        as the model was trained with, at most `LONGEST_WINDOW` latent ones.
    """

    folder: Path
    grid: tuple[int, int]
    codes: int | None = None
    offset: int = 0
    prefix: tuple[int, ...] = ()
    tokenizer: Preset | None = None
    name: str = ""
    fps: float = 10.0
    context: int | None = None
    frames: int | None = None
    window: int | None = None


def preset_from_hf(asked: FromHf) -> Preset:
    """The preset of a folder: its settings, its files with their checksums, which are read whole,
    and the geometry that is asked for. Names and shapes of the weights have been checked.

    A window that is longer than the model was trained with is told by a DiagdWarning. Raises
    PresetError for a folder that holds no model that diagd has, and for what does not fit it;
    UsageError.
    """
    try:
        return _preset(asked)
    except WeightsError as error:
        raise PresetError(error.message, error.hint) from None
    except ValidationError as error:
        problem = describe(error, Preset)
        raise PresetError(f"The preset of {asked.folder} is none: {problem}", "Change it") from None


def _preset(asked: FromHf) -> Preset:
    paths = files_of(asked.folder)
    settings = read_settings(asked.folder / CONFIG)
    codes, tokenizer = _tokenizer(asked)
    _require_ids(asked, settings, codes)
    transformer = transformer_config(asked.folder / CONFIG, settings, codes)
    window, context, temporal = _window(asked, settings), asked.context or 1, _temporal(asked)
    side = asked.tokenizer.tokenizer.spatial if asked.tokenizer else 1
    h, w = asked.grid
    name = asked.name or asked.folder.resolve().name
    given: dict[str, Any] = {
        "name": name,
        "about": f"{name}: {settings.model_type}, {settings.num_hidden_layers} layers of "
        f"{settings.hidden_size}; codes are its ids from {asked.offset} on.",
        "licence": LICENCE,
        "clip": {
            "height": h * side,
            "width": w * side,
            "fps": asked.fps,
            "context": context,
            "frames": asked.frames or max(1, window - context),
            "window": window,
            "overlap": 0 if temporal > 1 else max(1, window // 2),
        },
        **tokenizer,
        "transformer": transformer,
        "transformer_weights": _entry(paths, asked.offset),
        "prefix": [(each - asked.offset) % settings.vocab_size for each in asked.prefix],
        "decoding": {"method": "spatial", "k": min(2, w)},
    }
    preset = Preset.model_validate(given)
    length = preset.grid.length(preset.window)
    require_reach(asked.folder / CONFIG, settings, length)
    if length > settings.max_position_embeddings:
        told = f"the window is {length} tokens, and max_position_embeddings "
        told += f"{settings.max_position_embeddings}"
        warnings.warn(told, DiagdWarning, stacklevel=3)
    tensors(preset, "transformer", paths)
    return preset.model_copy(
        update={"transformer_weights": _entry(paths, asked.offset, checksums=True)}
    )


def _tokenizer(asked: FromHf) -> tuple[int, dict[str, Any]]:
    """How many codes there are, and a preset's sections that tell where they come from. Raises
    UsageError.
    """
    if asked.tokenizer is None:
        if asked.codes is None:
            raise UsageError("How many codes there are is not told", "Give --codes or --tokenizer")
        return asked.codes, {"tokenizer": {"kind": "none", "codebook": asked.codes}}
    own = asked.tokenizer.tokenizer
    if asked.codes not in (None, own.codebook):
        hint = "Leave --codes out"
        raise UsageError(f"The tokenizer of {asked.tokenizer.name} has {own.codebook} codes", hint)
    entry = asked.tokenizer.tokenizer_weights
    if entry is not None:
        try:
            source, paths = locate(asked.tokenizer, "tokenizer")
        except WeightsError:
            pass  # they can be fetched later
        else:
            names = [str(path.resolve()) for path in paths]
            pairs = zip(source.files, names, strict=True)
            near = tuple(file.model_copy(update={"file": name}) for file, name in pairs)
            sources = (*(s for s in entry.sources if s.repo), Source(files=near))
            entry = entry.model_copy(update={"sources": sources})
    return own.codebook, {"tokenizer": own, "tokenizer_weights": entry}


def _require_ids(asked: FromHf, settings: Settings, codes: int) -> None:
    """Raise UsageError for ids that the vocabulary has not."""
    vocab = settings.vocab_size
    if asked.offset + codes > vocab:
        raise UsageError(
            f"{codes} codes from {asked.offset} on end at {asked.offset + codes}, and the "
            f"vocabulary has {vocab} tokens",
            "Correct --offset or --codes",
        )
    if beyond := [each for each in asked.prefix if each >= vocab]:
        raise UsageError(
            f"The prefix has {beyond[0]}, and the vocabulary {vocab} tokens", "Correct --prefix"
        )


def _temporal(asked: FromHf) -> int:
    return asked.tokenizer.tokenizer.temporal if asked.tokenizer else 1


def _window(asked: FromHf, settings: Settings) -> int:
    """Frames that the model holds. Raises PresetError where not even two latent ones fit."""
    if asked.window is not None:
        return asked.window
    reach = min(settings.sees[0] or math.inf, settings.max_position_embeddings)
    latents = int(reach - len(asked.prefix)) // (asked.grid[0] * asked.grid[1])
    if latents < 2:
        tokens = asked.grid[0] * asked.grid[1]
        hint = "Give a smaller --grid, or --window to go beyond"
        raise PresetError(f"The model reaches {reach} tokens, and a frame has {tokens}", hint)
    return 1 + (min(latents, LONGEST_WINDOW) - 1) * _temporal(asked)


def _entry(paths: list[Path], offset: int, checksums: bool = False) -> Weights:
    """The preset's entry for files, named by their whole paths."""
    files = tuple(
        WeightsFile(
            file=str(path.parent.resolve() / path.name),  # a link is kept, as the hub's cache has
            sha256=digest(path) if checksums else "",
        )
        for path in paths
    )
    return Weights(format="huggingface", offset=offset, sources=(Source(files=files),))
