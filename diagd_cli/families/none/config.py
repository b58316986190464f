"""The section of a preset that leaves the tokenizer out. Torch-free, as presets are checked without torch."""

from __future__ import annotations

from typing import Literal

from diagd_cli.model.config import Codes, Strict


class NoTokenizerConfig(Strict):
    """A frame is a grid of tokens: the clip's height and width count tokens, and a latent frame is a frame.

    codebook: number of codes; in YAML, `tokenizer: none` takes it from the Transformer's outputs.
    """

    kind: Literal["none"] = "none"
    codebook: Codes

    @property
    def spatial(self) -> int:
        """Places along each side of a token: one."""
        return 1

    @property
    def temporal(self) -> int:
        """Frames a latent frame stands for, after the first: one."""
        return 1
