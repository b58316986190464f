"""Sections of a preset that say what it is to make and how: geometry, decoding defaults, text.
Torch-free.
"""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, model_validator

from diagd_cli.model.config import MOST_CODES, Pixels, Strict
from diagd_cli.schedule.decoding import Decoding, Method, Window
from diagd_cli.schedule.standin import StandIn
from diagd_cli.tokens.sampling import TopPRule
from diagd_cli.tokens.template import TEXT, parts_of


class Clip(Strict):
    """Geometry in pixels and frames. `context`: prompt frames, at least `least`; `frames`: new ones
    by default.

    `window`: most frames at once. When more is asked for, it slides or rolls (`decoding.window`);
    where it rolls, the newest `overlap` frames are kept, and 0 forbids it. Images that are made of
    nothing have a context of 0.
    """

    height: Pixels
    width: Pixels
    fps: float = Field(gt=0, le=1000)
    context: int = Field(ge=0)
    least: int = Field(default=1, ge=0)
    frames: int = Field(gt=0, le=100_000)
    window: int = Field(gt=0, le=100_000)
    overlap: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Clip:
        if not self.least <= self.context <= self.window:
            raise ValueError(
                f"needs least <= context <= window, has {self.least}, {self.context}, {self.window}"
            )
        if self.window < 2 and self.context:
            raise ValueError(f"window ({self.window}) has no room for a frame after the context")
        if self.overlap >= self.window:
            raise ValueError(f"overlap ({self.overlap}) must be below window ({self.window})")
        return self


class Alternative(Strict):
    """One decoding that suits the model, and why."""

    method: Method = "diagd"
    k: int = Field(gt=0)
    d: int = Field(default=1, gt=0)
    about: str = ""


class Defaults(Strict):
    """Decoding and sampling when the command line says nothing; `others`: decodings that are worth
    trying too.

    `window`: whether a full window slides or rolls; `sinks`: frames at the front that stay visible
    where it slides; `attend`: newest frames that a token attends to there; `width`: tokens that
    `exact` feeds in a pass; see `schedule.decoding`. `first`: smallest id that the first token of a
    frame may have. `top_p_rule`: see `engine.filters`. `coldest`: what a temperature between 0,
    which is greedy, and it is raised to, as official code may do.
    """

    method: Method = "diagd"
    k: int = Field(gt=0)
    d: int = Field(default=1, gt=0)
    stand_in: StandIn = "previous-frame"
    window: Window = "roll"
    sinks: int = Field(default=0, ge=0)
    attend: int = Field(default=0, ge=0)
    width: int = Field(default=0, ge=0)
    temperature: float = Field(default=1.0, ge=0, le=1000)
    top_k: int = Field(default=0, ge=0, le=MOST_CODES)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_p_rule: TopPRule = "nucleus"
    first: int = Field(default=0, ge=0)
    coldest: float = Field(default=0.0, ge=0, le=1000)
    others: tuple[Alternative, ...] = ()

    @property
    def decoding(self) -> Decoding:
        return Decoding(
            self.method,
            self.k,
            self.d,
            self.stand_in,
            window=self.window,
            sinks=self.sinks,
            attend=self.attend,
            width=self.width,
        )


class Labels(Strict):
    """What is to be seen, by its number: label n is the last id of the prefix, `offset` + n."""

    offset: int = Field(gt=0, le=MOST_CODES)
    count: int = Field(gt=0, le=MOST_CODES)


class Guide(Strict):
    """Classifier-free guidance, see `tokens.sampling.Guidance`. `nothing`: the prefix that asks for
    nothing.
    """

    scale: float = Field(ge=0, le=1000)
    nothing: tuple[NonNegativeInt, ...] = ()
    tokens: int = Field(default=0, ge=0)


class Text(Strict):
    """The text encoder whose embeddings the Transformer attends to, [length, cross_dim], or is led
    on by as its prefix, [length, prefix_dim]; `encoder` is a T5 model's name.

    `cleaned`: prompts are brought to the plain lower-case words that it was trained on, see
    `tokens.caption`.
    """

    encoder: str = "google-t5/t5-11b"
    length: int = Field(default=512, gt=0, le=65536)
    cleaned: bool = False


class Prompt(Strict):
    """How a prompt becomes the ids before the first frame, which a `tokenizer.json` of its own
    numbers (`prompt_weights`).

    `template`: <N> is the id N, {text} the prompt; other text stands as it is. `wording`: what is
    made of a prompt first, but not of a negative one. `length`: ids at most; shorter prompts are
    padded at the left. `offset`: the id there of our id 0; ids go round, as with
    `sources.Weights.offset`. `negative`: the text that guidance leads away from where no other is
    given.
    """

    template: str = Field(min_length=1, max_length=10_000)
    wording: str = Field(default=TEXT, max_length=10_000)
    length: int = Field(gt=0, le=1 << 16)
    offset: int = Field(default=0, ge=0, le=MOST_CODES)
    negative: str = Field(default="", max_length=10_000)

    @model_validator(mode="after")
    def _fits(self) -> Prompt:
        if self.wording.count(TEXT) != 1:
            raise ValueError(f"wording must have one {TEXT}, where the prompt stands")
        if not 0 < len(self.ids) <= self.length:
            raise ValueError(f"template has {len(self.ids)} ids, and length is {self.length}")
        return self

    @property
    def ids(self) -> list[int]:
        """The ids of the template, by the tokenizer's numbers."""
        return [part for part in parts_of(self.template) if isinstance(part, int)]
