"""Presets: one tokenizer + one Transformer + a token grid + decoding defaults, from YAML, checked
before anything loads.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
from pydantic import Field, NonNegativeInt, PlainValidator, field_validator, model_validator

from diagd_cli import families
from diagd_cli.consistency import check_sections
from diagd_cli.errors import DiagdWarning, UsageError
from diagd_cli.model.config import Strict, TransformerConfig
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.sections import Clip, Defaults, Guide, Labels, Prompt, Text
from diagd_cli.sources import Weights
from diagd_cli.tokens.grid import Grid
from diagd_cli.tokens.protocols import Actions, TokenizerConfig
from diagd_cli.tokens.sampling import TOP_P_RULES, Guidance, Sampling, TopPRule

# what may name a file anywhere, and is no option and no path
NAME = re.compile(r'[^-. /\\:*?"<>|][^/\\:*?"<>|]{0,59}')


def _of_kind(given: Any, find: Callable[[str], type[Strict]]) -> Any:
    """The record that a section of a preset makes, whose `kind` says which one; a record as
    it is.
    """
    if not isinstance(given, (dict, type(None))):
        return given
    if not given or not isinstance(kind := given.get("kind"), str):
        raise ValueError("must be a mapping whose kind says what it is")
    return find(kind).model_validate(given)


def _read_tokenizer(given: Any) -> TokenizerConfig:
    return _of_kind(given, lambda kind: families.tokenizer_kind(kind).config)


def _read_actions(given: Any) -> Actions | None:
    return None if given is None else _of_kind(given, families.actions_kind)


class Preset(Strict):
    """Everything that names a model. `path` is where it was read from; file names are relative to
    its folder.

    `inverse_weights`: of the model by which `diagd eval` judges steering; see `evaluate.inverse`.
    `weights`: how the Transformer's matrices are held where the device has products for it.
    `prefix`: token ids before the first frame.
    `row_end`, `frame_end`: ids after each row of codes and after each frame, which are known and
        not made; see `tokens.grid`.
    `prompt`: how words become ids before the first frame, by the file of `prompt_weights`, a
        `tokenizer.json`.
    `stamp`: text that must be seen on every frame that is made.
    """

    name: str
    about: str
    licence: str
    duties: str = ""
    clip: Clip
    tokenizer: Annotated[TokenizerConfig, PlainValidator(_read_tokenizer)]
    tokenizer_weights: Weights | None = None
    transformer: TransformerConfig
    transformer_weights: Weights | None = None
    inverse_weights: Weights | None = None
    weights: Literal["float", "int8", "fp8"] = "float"
    prefix: tuple[NonNegativeInt, ...] = ()
    row_end: tuple[NonNegativeInt, ...] = ()
    frame_end: tuple[NonNegativeInt, ...] = ()
    actions: Annotated[Actions | None, PlainValidator(_read_actions)] = None
    text: Text | None = None
    prompt: Prompt | None = None
    prompt_weights: Weights | None = None
    labels: Labels | None = None
    guidance: Guide | None = None
    decoding: Defaults
    stamp: str = ""
    path: Path | None = Field(default=None, exclude=True)

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not is_plain(name):
            raise ValueError(
                "must be a plain file name, of at most 60 characters and not beginning with . or -"
            )
        return name

    @model_validator(mode="before")
    @classmethod
    def _without_tokenizer(cls, given: Any) -> Any:
        """`tokenizer: none`: its codes are what the Transformer can put out."""
        if isinstance(given, dict) and given.get("tokenizer", "none") in ("none", None):
            sizes = given.get("transformer")
            sizes = sizes if isinstance(sizes, dict) else {}
            codes = sizes.get("outputs") or sizes.get("vocab")
            return {**given, "tokenizer": {"kind": "none", "codebook": codes}} if codes else given
        return given

    @model_validator(mode="after")
    def _consistent(self) -> Preset:
        check_sections(self)
        self.decoding.decoding.resolve(self.grid, self.context)
        self.check_window(self.decoding.decoding)
        return self

    @property
    def pixels(self) -> bool:
        """Whether frames are pixels; without a tokenizer clips are files of tokens."""
        return families.tokenizer_kind(self.tokenizer.kind).pixels

    def require_pixels(self, what: str) -> None:
        """Raise UsageError where there is no tokenizer, or no video; `what` cannot do without."""
        self.require_videos(what)
        if not self.pixels:
            hint = "Use diagd generate, which takes and makes files of tokens"
            raise UsageError(
                f"The preset {self.name} has no tokenizer, and {what} needs pixels", hint
            )

    def require_videos(self, what: str) -> None:
        """Raise UsageError where images are made; `what` goes on from clips."""
        if self.still:
            hint = "Use diagd generate"
            raise UsageError(f"The preset {self.name} makes images, and {what} needs videos", hint)

    @property
    def takes_text(self) -> bool:
        """Whether words steer: as features, or as ids before the first frame."""
        return bool(self.text or self.prompt)

    @property
    def still(self) -> bool:
        """Whether single images are made, not videos."""
        return self.clip.window == 1

    def check_kind(self, path: Path, frames: np.ndarray, pixels: bool | None = None) -> None:
        """Raise UsageError where a clip's frames are tokens and pixels are taken, or the other way
        round.

        pixels: whether they are taken; None is what the preset says.
        """
        pixels = self.pixels if pixels is None else pixels
        if pixels and frames.ndim == 3:
            raise UsageError(
                f"{path} is a file of tokens", f"The preset {self.name} takes videos and images"
            )
        if not pixels and frames.ndim == 4:
            hint = "Give an .npz with codes, whole numbers [T, h, w]"
            raise UsageError(
                f"{path} has pixels, and the preset {self.name} has no tokenizer", hint
            )

    @cached_property
    def grid(self) -> Grid:
        """The token grid that clip size and tokenizer make."""
        side = self.tokenizer.spatial
        steering = self.actions.size if self.actions else 0
        rows, columns = -(-self.clip.height // side), -(-self.clip.width // side)
        ends = self.row_end, self.frame_end
        return Grid(rows, columns, steering, len(self.prefix_of()), *ends)

    def sampling(
        self,
        *,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        top_p_rule: str | None = None,
    ) -> Sampling:
        """How tokens are drawn: by the preset's defaults, where nothing else is given.

        A temperature below `decoding.coldest` is raised to it, with a DiagdWarning. Raises
        UsageError for a rule that there is not.
        """
        default = self.decoding
        rule = default.top_p_rule if top_p_rule is None else top_p_rule
        if rule not in TOP_P_RULES:
            raise UsageError(f"Unknown rule of top_p {rule!r}", f"Use {' or '.join(TOP_P_RULES)}")
        chosen = default.temperature if temperature is None else temperature
        if 0 < chosen < default.coldest:
            told = (
                f"temperature {chosen:g} counts as {default.coldest:g}, as in this model's "
                "official code; 0 is greedy"
            )
            warnings.warn(told, DiagdWarning, stacklevel=2)
            chosen = default.coldest
        return Sampling(
            codes=self.tokenizer.codebook,
            temperature=chosen,
            top_k=default.top_k if top_k is None else top_k,
            top_p=default.top_p if top_p is None else top_p,
            top_p_rule=cast(TopPRule, rule),
            first=default.first,
        )

    def prefix_of(self, label: int | None = None) -> tuple[int, ...]:
        """The ids before the first frame, of one that shows what a label says. Raises UsageError
        for a label that there is not.
        """
        if label is None and self.prompt:
            return (0,) * self.prompt.length  # each clip has its own
        if label is None and self.transformer.prefix_tokens:
            return (0,) * self.transformer.prefix_tokens  # vectors of the text take their place
        if label is None:
            return self.prefix
        if self.labels is None:
            raise UsageError(f"The preset {self.name} takes no labels", "Leave --label out")
        if not 0 <= label < self.labels.count:
            hint = f"The labels of {self.name} are 0 to {self.labels.count - 1}"
            raise UsageError(f"The label is {label}", hint)
        return (*self.prefix[:-1], self.labels.offset + label)

    def guided(self, scale: float | None = None) -> Guidance | None:
        """How tokens are guided; None where they are not, as with a scale of 1. Raises UsageError
        for a scale where nothing can be guided.

        scale: None is the preset's.
        """
        own = self.guidance
        if own is None:
            if scale is not None:
                raise UsageError(f"The preset {self.name} has no guidance", "Leave --guidance out")
            return None
        scale = own.scale if scale is None else scale
        if scale == 1:
            return None
        return Guidance(scale, own.nothing or self.prefix_of(), own.tokens)

    @property
    def weight_keys(self) -> dict[str, str | None]:
        """What tells each part's weights from others: "tokenizer" and "transformer" -> key, None
        where none are named.
        """
        entries = {"tokenizer": self.tokenizer_weights, "transformer": self.transformer_weights}
        return {part: entry.key if entry else None for part, entry in entries.items()}

    @property
    def transformer_facts(self) -> dict[str, str | None]:
        """Whose Transformer a decoding runs on, as reports tell it where several run."""
        return {"preset": self.name, "transformer": self.weight_keys["transformer"]}

    def latents(self, frames: int) -> int:
        """Latent frames of a clip of `frames` frames, the first of which has a latent frame of its
        own; rounded up.
        """
        return 1 + -(-(frames - 1) // self.tokenizer.temporal) if frames else 0

    @property
    def context(self) -> int:
        """Latent frames of the context by default."""
        return self.latents(self.clip.context)

    @property
    def window(self) -> int:
        """Latent frames that the model holds."""
        return self.latents(self.clip.window)

    @property
    def positions(self) -> int:
        """Positions that the model's tables reach: the window's, and one past it, where padded
        plans write.
        """
        return self.grid.length(self.window) + 1

    @property
    def overlap(self) -> int:
        """Latent frames that are kept when the window rolls; 0: it does not."""
        return self.latents(self.clip.overlap) if self.clip.overlap else 0

    @property
    def why_rolls(self) -> str:
        """Why the model's window cannot slide; "" where it can."""
        positions = self.transformer.positions
        if positions.kind == "learned" or positions.absolute:
            kind = "learned" if positions.kind == "learned" else "absolute"
            return f"its positions are {kind}, and end where the window does"
        if self.tokenizer.temporal > 1:
            return "the first latent frame of its tokenizer stands for one frame only"
        return ""

    def check_window(self, decoding: Decoding) -> None:
        """Raise UsageError where the window is to slide and cannot, or where sinks or the frames
        that are attended to are not in it.
        """
        if decoding.window == "slide" and self.why_rolls:
            message = f"The window of {self.name} cannot slide: {self.why_rolls}"
            raise UsageError(message, "Let it roll")
        if decoding.sinks and decoding.window == "roll":
            raise UsageError(
                f"sinks is {decoding.sinks}, and the window rolls", "Only one that slides has sinks"
            )
        if decoding.attend > self.window:
            hint = f"Use at most {self.window}, which the model's window holds"
            raise UsageError(f"The window slides over {decoding.attend} latent frames", hint)
        if decoding.sinks >= (seen := decoding.sees(self.window)):
            hint = f"Use at most {seen - 1}, for a window of {seen} latent frames"
            raise UsageError(f"sinks is {decoding.sinks}", hint)

    def check_frames(self, context: int, frames: int, slides: bool = False) -> None:
        """Raise UsageError unless the model takes `context` frames and can make `frames` more.

        slides: whether a full window slides.
        """
        clip, step = self.clip, self.tokenizer.temporal
        if not clip.least <= context <= clip.window or (context and (context - 1) % step):
            every = f", in steps of {step}" if step > 1 else ""
            hint = (
                f"The preset {self.name} takes {clip.least} to {clip.window} context frames{every}"
            )
            raise UsageError(f"The context is {context} frame(s)", hint)
        room = (self.window - self.latents(context)) * step
        if not slides and not clip.overlap and frames > room:
            hint = f"Ask for at most {room}" if room else "Give it less context"
            raise UsageError(
                f"The preset {self.name} cannot make {frames} frames after {context}", hint
            )

    def parse_actions(self, text: str | None) -> np.ndarray | None:
        """Rows of tokens int64 [n, A] that a text asks for, None for none. Raises UsageError where
        no actions are taken.
        """
        if not text:
            return None
        if self.actions is None:
            raise UsageError(f"The preset {self.name} takes no actions", "Leave --actions out")
        return self.actions.parse(text)

    def whole(self, frames: int) -> int:
        """The most of `frames` (1 or more) frames that make whole latent frames."""
        return frames - (frames - 1) % self.tokenizer.temporal

    def new_latents(self, frames: int) -> int:
        """Latent frames that `frames` new frames take, rounded up."""
        return -(-frames // self.tokenizer.temporal)


def is_plain(name: str) -> bool:
    """Whether a preset may bear the name: runs and files are called by it, so that it must not lead
    anywhere.
    """
    return bool(NAME.fullmatch(name)) and name.isprintable()
