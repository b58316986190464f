"""The section of a preset that leaves the tokenizer out. Torch-free, as presets are checked without
torch.
"""

from __future__ import annotations

from typing import Literal

from diagd_cli.model.config import Codes, Strict
from diagd_cli.tokens.fields import Side


class NoTokenizerConfig(Strict):
    """A frame is a grid of tokens, and a latent frame is a frame.

    codebook: number of codes; in YAML, `tokenizer: none` takes it from the Transformer's outputs.
    spatial: pixels along each side of a token, for a tokenizer that is given in Python; with 1 the
        clip's height and width count tokens.
    """

    kind: Literal["none"] = "none"
    codebook: Codes
    spatial: Side = 1

    @property
    def temporal(self) -> int:
        """Frames a latent frame stands for, after the first: one."""
        return 1
