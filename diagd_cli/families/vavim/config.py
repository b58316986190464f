"""Hyper-parameters of the tokenizer that VaViM uses. Torch-free, as presets are checked without
torch.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from diagd_cli.model.config import Codes, Width
from diagd_cli.tokens.fields import Pyramid, Widths, check_multiplied, multiplied


class LlamaGenVqConfig(Pyramid):
    """LlamaGen's convolutional VQ tokenizer, VQ-16 by default; one latent frame a frame.

    `channels`: width, times each of `multipliers`, one a level, finest first; every level after the
    first halves the resolution, and the last one attends. `blocks`: residual blocks of an encoder
    level, a decoder level has one more. `latent`: channels before `code_dim`, the width of a code.
    `groups`, `norm_eps`: of the group norms. The defaults are the official ones, which call these
    ch, ch_mult, num_res_blocks, z_channels and codebook_embed_dim.
    """

    kind: Literal["llamagen-vq"] = "llamagen-vq"
    codebook: Codes = 16384
    channels: Width = 128
    multipliers: Widths = (1, 1, 2, 2, 4)
    blocks: int = Field(default=2, gt=0, le=100)
    latent: Width = 256
    code_dim: Width = 8
    groups: Width = 32
    norm_eps: float = Field(default=1e-6, gt=0)

    @model_validator(mode="after")
    def _grouped(self) -> LlamaGenVqConfig:
        check_multiplied(self.channels, self.multipliers, self.groups)
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return multiplied(self.channels, self.multipliers)
