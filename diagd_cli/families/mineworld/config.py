"""Hyper-parameters of MineWorld's tokenizer. Torch-free, as presets are checked without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from diagd_cli.model.config import Codes, Width
from diagd_cli.tokens.fields import Pyramid, Widths


class VqImageConfig(Pyramid):
    """Convolutional autoencoder with a learned codebook, as MineWorld and aMUSEd have it; one
    latent frame a frame.

    `channels`: width of each level, finest first; every level after the first halves the
    resolution. `blocks`: residual blocks of an encoder level, a decoder level has one more.
    `latent`: channels before `code_dim`, the width of a code, which is the same by default (0).
    `groups`, `norm_eps`: of the group norms. The defaults are the official ones, which call these
    block_out_channels, layers_per_block, latent_channels, vq_embed_dim, norm_num_groups and
    num_vq_embeddings.
    """

    kind: Literal["vq-image"] = "vq-image"
    codebook: Codes = 8192
    channels: Widths = (128, 256, 256, 512, 768)
    blocks: int = Field(default=2, gt=0, le=100)
    latent: Width = 64
    code_dim: int = Field(default=0, ge=0, le=1 << 16)
    groups: Width = 32
    norm_eps: float = Field(default=1e-6, gt=0)

    @model_validator(mode="after")
    def _grouped(self) -> VqImageConfig:
        for width in self.channels:
            if width % self.groups:
                raise ValueError(f"channels ({width}) must be multiples of groups ({self.groups})")
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return self.channels
