"""Hyper-parameters of Emu3's tokenizer. Torch-free, as presets are checked without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from diagd_cli.model.config import Codes, Width
from diagd_cli.tokens.fields import Pyramid, Widths, check_multiplied, multiplied

GROUPS = 32  # of the group norms
TIMES = 4  # frames that a latent frame stands for: an image is given so often, and the first kept


class Emu3VqConfig(Pyramid):
    """Emu3's VQ tokenizer, on single frames. `channels`: width, times each of `multipliers`, one a
    level, finest first; every level after the first halves the resolution, and the last one
    attends. `blocks`: residual blocks of an encoder level, a decoder level has one more. `latent`:
    channels before the codes, `code_dim` wide. The defaults are the official ones, which
    `transformers` calls base_channels, channel_multiplier, num_res_blocks, latent_channels and
    embed_dim.
    """

    kind: Literal["emu3-vq"] = "emu3-vq"
    codebook: Codes = 32768
    channels: Width = 256
    multipliers: Widths = (1, 2, 2, 4)
    blocks: int = Field(default=2, gt=0, le=100)
    latent: Width = 4
    code_dim: Width = 4

    @model_validator(mode="after")
    def _grouped(self) -> Emu3VqConfig:
        check_multiplied(self.channels, self.multipliers, GROUPS)
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return multiplied(self.channels, self.multipliers)
