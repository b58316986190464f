"""Hyper-parameters of the shipped world's tokenizer. Torch-free, as presets are checked without
torch.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, field_validator

from diagd_cli.model.config import Strict, Width
from diagd_cli.tokens.fields import Levels

Blocks = Annotated[int, Field(ge=0, le=1000)]


class FsqImageConfig(Strict):
    """Convolutional image autoencoder with finite scalar quantisation; one latent frame a frame,
    8x8 pixels a token.

    `channels`: width at 1/4 and at 1/8 of the resolution. `encoder`, `decoder`: residual blocks at
    each of the two.
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
