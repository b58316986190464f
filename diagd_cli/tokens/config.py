"""Hyper-parameters of the tokenizers, by kind. Torch-free, so that presets can be checked without loading torch."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from diagd_cli.model.config import Codes, Depth, Pixels, Strict, Width

Levels = Annotated[tuple[Annotated[int, Field(ge=2, le=1 << 16)], ...], Field(min_length=1, max_length=16)]
Blocks = Annotated[int, Field(ge=0, le=1000)]
Multiplier = Annotated[int, Field(gt=0, le=64)]
Side = Annotated[int, Field(gt=0, le=1 << 10)]  # of a patch or a token
MOST_LEVELS = 12  # of resolution: a token of 2048x2048 pixels


class FsqImageConfig(Strict):
    """Convolutional image autoencoder with finite scalar quantisation; one latent frame a frame, 8x8 pixels a token.

    `channels`: width at 1/4 and at 1/8 of the resolution. `encoder`, `decoder`: residual blocks at each of the two.
    """

    kind: Literal["fsq-image"] = "fsq-image"
    levels: Levels = (8, 8, 5, 5)
    channels: tuple[Width, Width] = (96, 192)
    encoder: tuple[Blocks, Blocks] = (1, 3)
    decoder: tuple[Blocks, Blocks] = (2, 4)
    kernel: int = Field(default=5, gt=0, le=255)

    @field_validator("kernel")
    @classmethod
    def _odd(cls, kernel: int) -> int:
        if not kernel % 2:
            raise ValueError("must be odd, so that frames keep their size")
        return kernel

    @property
    def spatial(self) -> int:
        """Pixels along each side of a token."""
        return 8

    @property
    def codebook(self) -> int:
        """Number of codes."""
        return math.prod(self.levels)

    @property
    def temporal(self) -> int:
        """Frames a latent frame stands for, after the first."""
        return 1


class VitVqConfig(Strict):
    """ViT-VQGAN on frames of one fixed size, as WHAM has it; one latent frame a frame, `patch` x `patch` pixels a token.

    A side that is no multiple of the patch is padded at the right and bottom. `dim`, `layers` and `head_size` are those
    of encoder and decoder alike. The defaults are the official ones; head_size shows in no shape of a weights file.
    """

    kind: Literal["vit-vq"] = "vit-vq"
    height: Pixels = 180
    width: Pixels = 300
    patch: Side = 10
    dim: Width = 1024
    layers: Depth = 12
    head_size: Width = 64
    code_dim: Width = 32
    codebook: Codes = 16384

    @model_validator(mode="after")
    def _consistent(self):
        if self.dim % self.head_size:
            raise ValueError(f"dim ({self.dim}) must be a multiple of head_size ({self.head_size})")
        return self

    @property
    def rows(self) -> int:
        """Tokens from top to bottom of a frame."""
        return -(-self.height // self.patch)

    @property
    def columns(self) -> int:
        """Tokens from left to right of a frame."""
        return -(-self.width // self.patch)

    @property
    def spatial(self) -> int:
        """Pixels along each side of a token."""
        return self.patch

    @property
    def temporal(self) -> int:
        """Frames a latent frame stands for, after the first."""
        return 1


class VqImageConfig(Strict):
    """Convolutional autoencoder with a learned codebook, as MineWorld and aMUSEd have it; one latent frame a frame.

    `channels`: width of each level, finest first; every level after the first halves the resolution. `blocks`: residual
    blocks of an encoder level, a decoder level has one more. `latent`: channels before `code_dim`, the width of a code,
    which is the same by default (0). `groups`, `norm_eps`: of the group norms. The defaults are the official ones, which
    call these block_out_channels, layers_per_block, latent_channels, vq_embed_dim, norm_num_groups and num_vq_embeddings.
    """

    kind: Literal["vq-image"] = "vq-image"
    codebook: Codes = 8192
    channels: tuple[Width, ...] = Field(default=(128, 256, 256, 512, 768), min_length=1, max_length=MOST_LEVELS)
    blocks: int = Field(default=2, gt=0, le=100)
    latent: Width = 64
    code_dim: int = Field(default=0, ge=0, le=1 << 16)
    groups: Width = 32
    norm_eps: float = Field(default=1e-6, gt=0)

    @model_validator(mode="after")
    def _grouped(self):
        for width in self.channels:
            if width % self.groups:
                raise ValueError(f"channels ({width}) must be multiples of groups ({self.groups})")
        return self

    @property
    def spatial(self) -> int:
        """Pixels along each side of a token."""
        return 2 ** (len(self.channels) - 1)

    @property
    def temporal(self) -> int:
        """Frames a latent frame stands for, after the first."""
        return 1


class CosmosDvConfig(Strict):
    """Discrete causal video tokenizer of Cosmos; the defaults are DV8x16x16. One token is 8 frames of 16x16 pixels.

    `patch`: side of the Haar patches, in frames and pixels. Widths are `channels` times each of `multipliers`, one per
    level, with `blocks` residual blocks each (one more in the decoder). The levels halve space and time until
    `spatial_compression` and `temporal_compression` are reached. Levels attend where `resolution`, the nominal size in
    pixels, has come down to one of `attention`: in the official tokenizer nowhere.
    """

    kind: Literal["cosmos-dv"] = "cosmos-dv"
    levels: Levels = (8, 8, 8, 5, 5, 5)
    channels: Width = 128
    multipliers: tuple[Multiplier, ...] = Field(default=(2, 4, 4), min_length=1, max_length=MOST_LEVELS)
    blocks: int = Field(default=2, gt=0, le=100)
    z_channels: Width = 16
    patch: Side = 4
    spatial_compression: Side = 16
    temporal_compression: Side = 8
    resolution: PositiveInt = 1024
    attention: tuple[PositiveInt, ...] = (32,)

    @model_validator(mode="after")
    def _consistent(self):
        for name in ("patch", "spatial_compression", "temporal_compression"):
            size = getattr(self, name)
            if size & (size - 1):
                raise ValueError(f"{name} ({size}) must be a power of two")
            if size < self.patch:
                raise ValueError(f"{name} ({size}) cannot be below patch ({self.patch})")
        space, time = self._halvings
        if time > space:
            raise ValueError(
                f"temporal_compression ({self.temporal}) cannot exceed spatial_compression ({self.spatial})"
            )
        if self.depth <= max(space, time + (time > 0)):
            raise ValueError(f"multipliers names {self.depth} levels, too few to reach {self.temporal}x{self.spatial}")
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
        """Whether the decoder's level doubles space and time. It walks the levels down; the first never doubles time."""
        space, time = self._halvings
        walked = self.depth - 1 - level
        in_time = 0 < walked <= time
        return in_time or (walked < space and space > time), in_time

    def attends(self, level: int) -> bool:
        """Whether blocks of the level are followed by attention. Nominal resolution halves at every level."""
        return (self.resolution // self.patch) >> level in self.attention


TokenizerConfig = Annotated[FsqImageConfig | CosmosDvConfig | VqImageConfig | VitVqConfig, Field(discriminator="kind")]
