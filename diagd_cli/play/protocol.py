"""What server and client say to each other: docs/play.md has it in words.

Messages are checked by records, and frames are a fixed header before a picture.
"""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from diagd_cli.play.world import Shown

VERSION = 1
HEADER = struct.Struct("<BBHIddffHHI")
NO_ACTION = 0xFFFF
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
    """An action is held from now on; t: the client's own time."""

    do: Literal["act"]
    action: str = Field(max_length=60)
    t: float = 0.0


class Decode(Message):
    """Another decoding."""

    do: Literal["decode"]
    method: Literal["ntp", "spatial", "diagd"]
    k: int = Field(default=1, ge=1, le=100_000)
    d: int = Field(default=1, ge=1, le=100_000)


class Reset(Message):
    """Begin anew: by another seed where none is given, and with the same clip."""

    do: Literal["reset"]
    seed: int | None = Field(default=None, ge=0, lt=2**64)
    clip: str | None = Field(default=None, max_length=200)


class Pause(Message):
    """No more frames, or again."""

    do: Literal["pause"]
    on: bool


class Choose(Message):
    """How pictures are sent."""

    do: Literal["format"]
    format: Format


class Save(Message):
    """Have what was played as files."""

    do: Literal["save"]


Anything = Ack | Act | Decode | Reset | Pause | Choose | Save
_ADAPTER: TypeAdapter[Anything] = TypeAdapter(Annotated[Anything, Field(discriminator="do")])


def read(text: str) -> Anything:
    """A client's message. Raises pydantic's ValidationError, a ValueError, for anything else."""
    return _ADAPTER.validate_json(text)


def pack(shown: Shown, actions: Mapping[bytes, int], form: Format) -> bytes:
    """A frame as it is sent.

    actions: the number of each row of tokens, by its bytes.
    """
    steered = shown.steered
    action = actions.get(steered.row.tobytes(), NO_ACTION) if steered else NO_ACTION
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
        action,
        0,
        0,
    )
    return header + picture(shown.pixels, form)


def picture(pixels: np.ndarray, form: Format) -> bytes:
    """Pixels uint8 [H, W, 3] as a JPEG or PNG."""
    file = io.BytesIO()
    options = {"quality": QUALITY} if form == "jpeg" else {"compress_level": 1}
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()
