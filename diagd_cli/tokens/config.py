"""Hyper-parameters of the tokenizers, by kind. Torch-free, so that presets can be checked without loading torch."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from diagd_cli.model.config import Strict


class FsqImageConfig(Strict):
    """Convolutional image autoencoder with finite scalar quantisation; one latent frame a frame, 8x8 pixels a token.

    `channels`: width at 1/4 and at 1/8 of the resolution. `encoder`, `decoder`: residual blocks at each of the two.
    """

    kind: Literal["fsq-image"] = "fsq-image"
    levels: tuple[int, ...] = (8, 8, 5, 5)
    channels: tuple[int, int] = (96, 192)
    encoder: tuple[int, int] = (1, 3)
    decoder: tuple[int, int] = (2, 4)
    kernel: int = Field(default=5, gt=0)

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
