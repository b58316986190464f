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
from diagd_cli.families.emu3.folder import tokenizer_of
from diagd_cli.families.huggingface.folder import CONFIG, files_of
from diagd_cli.families.huggingface.settings import (
    Settings,
    read_json,
    read_settings,
    require_reach,
    transformer_config,
)
from diagd_cli.preset import Preset
from diagd_cli.preset_files import describe
from diagd_cli.sources import Source, Weights, WeightsFile
from diagd_cli.tokens.template import TEXT, parts_of
from diagd_cli.weights.load import tensors
from diagd_cli.weights.locate import digest, locate

LONGEST_WINDOW = 16  # latent frames, where nothing is asked for
WORDS = "tokenizer.json"
LICENCE = "that of the model; see its folder"


@dataclass(frozen=True)
class FromHf:
    """What a folder does not tell.

    grid: rows and columns of a frame's codes. codes: their number, the tokenizer's by default.
    offset, prefix: ids in the model's vocabulary: of code 0, and of what stands before the first
        frame.
    row_end, frame_end: ids there after each row of codes, and after each frame.
    tokenizer: a preset whose tokenizer made the codes; None is the folder's, where it has one, and
        else leaves it out.
    context, frames, window: frames, as in a preset; None is 1, what the window leaves, and as many
        as the model was trained with, at most `LONGEST_WINDOW` latent ones. A context of 0 makes
        images.
    template: of prompts, as in `sections.Prompt`; {h} and {w} are the grid's. None takes none.
    wording, prompt_length, negative: of prompts too.
    guidance: its scale; None guides nothing.
    """

    folder: Path
    grid: tuple[int, int]
    codes: int | None = None
    offset: int = 0
    prefix: tuple[int, ...] = ()
    row_end: tuple[int, ...] = ()
    frame_end: tuple[int, ...] = ()
    tokenizer: Preset | None = None
    name: str = ""
    fps: float = 10.0
    context: int | None = None
    frames: int | None = None
    window: int | None = None
    template: str | None = None
    wording: str = TEXT
    prompt_length: int = 256
    negative: str = ""
    guidance: float | None = None

    @property
    def before(self) -> int:
        """Tokens before the first frame."""
        return len(self.prefix) if self.template is None else self.prompt_length

    @property
    def block(self) -> int:
        """Tokens of a latent frame."""
        return self.grid[0] * (self.grid[1] + len(self.row_end)) + len(self.frame_end)


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
    codes, tokenizer = _tokenizer(asked, paths)
    _require_ids(asked, settings, codes)
    transformer = transformer_config(asked.folder / CONFIG, settings, codes)
    window, temporal = _window(asked, settings), getattr(tokenizer["tokenizer"], "temporal", 1)
    context = 1 if asked.context is None else asked.context
    side = getattr(tokenizer["tokenizer"], "spatial", 1)
    h, w = asked.grid
    of_nothing = {} if context else {"least": 0}
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
            "overlap": 0 if temporal > 1 else min(window - 1, max(1, window // 2)),
            **of_nothing,
        },
        **tokenizer,
        "transformer": transformer,
        "transformer_weights": _entry(paths, asked.offset),
        **{
            name: [(each - asked.offset) % settings.vocab_size for each in ids]
            for name, ids in (
                ("prefix", asked.prefix),
                ("row_end", asked.row_end),
                ("frame_end", asked.frame_end),
            )
        },
        **_prompt(asked),
        "decoding": {
            "method": "spatial",
            "k": min(2, w),
            **({} if context else {"stand_in": "newest"}),
        },
    }
    preset = Preset.model_validate(given)
    length = preset.grid.length(preset.window)
    require_reach(asked.folder / CONFIG, settings, length)
    if length > settings.max_position_embeddings:
        told = f"the window is {length} tokens, and max_position_embeddings "
        told += f"{settings.max_position_embeddings}"
        warnings.warn(told, DiagdWarning, stacklevel=3)
    tensors(preset, "transformer", paths)
    if preset.prompt_weights:
        tensors(preset, "prompt", [asked.folder / WORDS])
    return preset.model_copy(
        update={"transformer_weights": _entry(paths, asked.offset, checksums=True)}
    )


def _prompt(asked: FromHf) -> dict[str, Any]:
    """The sections of a preset that prompts have. Raises UsageError for a template that is none,
    PresetError where the folder has no tokenizer of text.
    """
    if asked.template is None:
        if asked.guidance is not None or asked.negative:
            message = "Guidance leads away from a prompt, and there is no --template"
            raise UsageError(message, "Give one, such as '<1>{text}<2>'")
        return {}
    if asked.prefix:
        raise UsageError("--prefix and --template both say what is first", "Give one of them")
    h, w = map(str, asked.grid)
    template = asked.template.replace("{h}", h).replace("{w}", w)
    try:
        parts_of(template)
    except ValueError as error:
        raise UsageError(f"--template: {error}", "Such as '<1>{text}<2>'") from None
    path = asked.folder.resolve() / WORDS
    if not path.is_file():
        hint = "Save the tokenizer of its text there, as transformers does"
        raise PresetError(f"{asked.folder} has no {WORDS}", hint)
    told = {
        "template": template,
        "wording": asked.wording,
        "length": asked.prompt_length,
        "offset": asked.offset,
        "negative": asked.negative,
    }
    found = {"prompt": told, "prompt_weights": Weights.single(str(path), digest(path))}
    return found if asked.guidance is None else {**found, "guidance": {"scale": asked.guidance}}


def _tokenizer(asked: FromHf, paths: list[Path]) -> tuple[int, dict[str, Any]]:
    """How many codes there are, and a preset's sections that tell where they come from. Raises
    UsageError.
    """
    if asked.tokenizer is None:
        config = asked.folder / CONFIG
        if asked.codes is None and (found := tokenizer_of(config, read_json(config))):
            files = _entry(paths, 0, checksums=True).model_copy(update={"format": "emu3"})
            return found.codebook, {"tokenizer": found, "tokenizer_weights": files}
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
            near = tuple(file.at(name) for file, name in pairs)
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
    for name in ("prefix", "row_end", "frame_end"):
        if beyond := [each for each in getattr(asked, name) if each >= vocab]:
            option, words = f"--{name.replace('_', '-')}", name.replace("_", " ")
            raise UsageError(
                f"The {words} has {beyond[0]}, and the vocabulary {vocab} tokens",
                f"Correct {option}",
            )


def _temporal(asked: FromHf) -> int:
    return asked.tokenizer.tokenizer.temporal if asked.tokenizer else 1


def _window(asked: FromHf, settings: Settings) -> int:
    """Frames that the model holds. Raises PresetError where not even two latent ones fit."""
    if asked.window is not None:
        return asked.window
    if asked.context == 0:
        return 1
    reach = min(settings.sees[0] or math.inf, settings.max_position_embeddings)
    latents = int(reach - asked.before) // asked.block
    if latents < 2:
        tokens = asked.block
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
