"""Hyper-parameters of WHAM's tokenizer. Torch-free, as presets are checked without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from diagd_cli.model.config import Codes, Depth, Pixels, Strict, Width
from diagd_cli.tokens.fields import Side


class VitVqConfig(Strict):
    """ViT-VQGAN on frames of one fixed size, as WHAM has it; one latent frame a frame, `patch` x
    `patch` pixels a token.

    A side that is no multiple of the patch is padded at the right and bottom. `dim`, `layers` and
    `head_size` are those of encoder and decoder alike. The defaults are the official ones;
    head_size shows in no shape of a weights file.
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
    def _consistent(self) -> VitVqConfig:
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
