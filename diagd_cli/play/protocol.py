"""What server and client say to each other: docs/play.md has it in words.

Messages are checked by records, and frames are a fixed header before a picture.
"""

from __future__ import annotations

import io
import struct
import time
from typing import Annotated, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, model_validator

from diagd_cli.play.take import NO_ACTION, Shown

VERSION = 1
HEADER = struct.Struct("<BBHIddffHHI")
QUALITY = 90  # of JPEG
Format = Literal["jpeg", "png"]


class Message(BaseModel):
    """What a client sends."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


class Ack(Message):
    """A frame was shown."""

    do: Literal["ack"]
    frame: int = Field(ge=0)


class Act(Message):
    """An action is held from now on, or several, or none; t: the client's own time."""

    do: Literal["act"]
    action: str | None = Field(default=None, max_length=60)
    actions: list[Annotated[str, Field(max_length=60)]] | None = Field(default=None, max_length=32)
    t: float = 0.0

    @model_validator(mode="after")
    def _either(self) -> Act:
        if (self.action is None) == (self.actions is None):
            raise ValueError("give action or actions")
        return self

    @property
    def names(self) -> list[str]:
        """What is held."""
        return [self.action] if self.action is not None else self.actions or []


class Decode(Message):
    """Another decoding."""

    do: Literal["decode"]
    method: Literal["ntp", "spatial", "diagd"]
    k: int = Field(default=1, ge=1, le=100_000)
    d: int = Field(default=1, ge=1, le=100_000)


def _whole(given: object) -> object:
    """A number that is spelt, as a browser must tell one above 2^53."""
    plain = isinstance(given, str) and given.isascii() and given.isdigit() and len(given) <= 20
    return int(str(given)) if plain else given


class Reset(Message):
    """Begin anew: by another seed where none is given, and with the same clip."""

    do: Literal["reset"]
    seed: Annotated[int | None, BeforeValidator(_whole)] = Field(default=None, ge=0, lt=2**64)
    clip: str | None = Field(default=None, max_length=200)


class Pause(Message):
    """No more frames, or again."""

    do: Literal["pause"]
    on: bool


class Choose(Message):
    """How pictures are sent."""

    do: Literal["format"]
    format: Format


class Watch(Message):
    """See what is played at another place."""

    do: Literal["watch"]
    place: int = Field(ge=0)


class Save(Message):
    """Have what was played as files."""

    do: Literal["save"]


Anything = Ack | Act | Decode | Reset | Pause | Choose | Watch | Save
_ADAPTER: TypeAdapter[Anything] = TypeAdapter(Annotated[Anything, Field(discriminator="do")])


def read(text: str) -> Anything:
    """A client's message. Raises pydantic's ValidationError, a ValueError, for anything else."""
    return _ADAPTER.validate_json(text)


def pack(shown: Shown, form: Format) -> bytes:
    """A frame as it is sent."""
    steered = shown.steered
    came = steered.came if steered else 0.0
    header = HEADER.pack(
        VERSION,
        steered is None,
        min(shown.steps, 0xFFFF),
        shown.number & 0xFFFFFFFF,
        steered.stamp if steered else 0.0,
        1000 * (time.perf_counter() - came) if came else 0.0,
        shown.tokens_per_second,
        shown.frames_per_second,
        steered.action if steered else NO_ACTION,
        0,
        steered.names if steered else 0,
    )
    return header + picture(shown.pixels, form)


def picture(pixels: np.ndarray, form: Format) -> bytes:
    """Pixels uint8 [H, W, 3] as a JPEG or PNG."""
    file = io.BytesIO()
    options = {"quality": QUALITY} if form == "jpeg" else {"compress_level": 1}
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()
