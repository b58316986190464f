"""Hyper-parameters of Cosmos' video tokenizer. Torch-free, as presets are checked without torch."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from diagd_cli.model.config import Strict, Width
from diagd_cli.tokens.fields import MOST_LEVELS, Levels, Side

Multiplier = Annotated[int, Field(gt=0, le=64)]


class CosmosDvConfig(Strict):
    """Discrete causal video tokenizer of Cosmos; the defaults are DV8x16x16. One token is 8 frames
    of 16x16 pixels.

    `patch`: side of the Haar patches, in frames and pixels. Widths are `channels` times each of
    `multipliers`, one per level, with `blocks` residual blocks each (one more in the decoder). The
    levels halve space and time until `spatial_compression` and `temporal_compression` are reached.
    Levels attend where `resolution`, the nominal size in pixels, has come down to one of
    `attention`: in the official tokenizer nowhere.
    """

    kind: Literal["cosmos-dv"] = "cosmos-dv"
    levels: Levels = (8, 8, 8, 5, 5, 5)
    channels: Width = 128
    multipliers: tuple[Multiplier, ...] = Field(
        default=(2, 4, 4), min_length=1, max_length=MOST_LEVELS
    )
    blocks: int = Field(default=2, gt=0, le=100)
    z_channels: Width = 16
    patch: Side = 4
    spatial_compression: Side = 16
    temporal_compression: Side = 8
    resolution: PositiveInt = 1024
    attention: tuple[PositiveInt, ...] = (32,)

    @model_validator(mode="after")
    def _consistent(self) -> CosmosDvConfig:
        for name in ("patch", "spatial_compression", "temporal_compression"):
            size = getattr(self, name)
            if size & (size - 1):
                raise ValueError(f"{name} ({size}) must be a power of two")
            if size < self.patch:
                raise ValueError(f"{name} ({size}) cannot be below patch ({self.patch})")
        space, time = self._halvings
        if time > space:
            raise ValueError(
                f"temporal_compression ({self.temporal}) cannot exceed spatial_compression "
                f"({self.spatial})"
            )
        if self.depth <= max(space, time + (time > 0)):
            raise ValueError(
                f"multipliers names {self.depth} levels, too few to reach "
                f"{self.temporal}x{self.spatial}"
            )
        return self

    @property
    def spatial(self) -> int:
        """Pixels along each side of a token."""
        return self.spatial_compression

    @property
    def temporal(self) -> int:
        """Frames a latent frame stands for, after the first."""
        return self.temporal_compression

    @property
    def codebook(self) -> int:
        """Number of codes."""
        return math.prod(self.levels)

    @property
    def depth(self) -> int:
        """Number of levels."""
        return len(self.multipliers)

    @property
    def _halvings(self) -> tuple[int, int]:
        """Times that the levels halve space and time, after the patches."""
        sides = self.spatial_compression, self.temporal_compression
        space, time = ((side // self.patch).bit_length() - 1 for side in sides)
        return space, time

    def downsamples(self, level: int) -> tuple[bool, bool]:
        """Whether the encoder's level halves space and time: the first ones do."""
        space, time = self._halvings
        return level < space, level < time

    def upsamples(self, level: int) -> tuple[bool, bool]:
        """Whether the decoder's level doubles space and time. It walks the levels down; the first
        never doubles time.
        """
        space, time = self._halvings
        walked = self.depth - 1 - level
        in_time = 0 < walked <= time
        return in_time or (walked < space and space > time), in_time

    def attends(self, level: int) -> bool:
        """Whether blocks of the level are followed by attention. Nominal resolution halves at every
        level.
        """
        return (self.resolution // self.patch) >> level in self.attention
