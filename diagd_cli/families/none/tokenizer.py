"""What stands in a tokenizer's place where there is none: a frame is its own grid of tokens."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from diagd_cli.errors import UsageError
from diagd_cli.families.none.config import NoTokenizerConfig


class TokenFrames(nn.Module):
    """Frames int64 [T, h, w] <-> codes int64 [T, h, w], which are the same."""

    takes_tokens = True  # whoever gives it frames should see to it

    def __init__(self, config: NoTokenizerConfig):
        super().__init__()
        self.config = config

    def encode(self, frames: Tensor) -> Tensor:
        """The frames. Raises UsageError for a token that is no code."""
        if len(outside := frames[(frames < 0) | (frames >= self.config.codebook)]):
            hint = f"The model's codes are 0 to {self.config.codebook - 1}"
            raise UsageError(f"A token of the clip is {int(outside[0])}", hint)
        return frames

    def encode_resized(self, frames: np.ndarray, height: int, width: int) -> Tensor:
        """The same; tokens cannot be scaled: raises UsageError for frames of another grid."""
        h, w = height // self.config.spatial, width // self.config.spatial
        if frames.shape[1:] != (h, w):
            seen = "x".join(map(str, frames.shape[1:]))
            raise UsageError(f"The clip has {seen} tokens a frame", f"The preset's grid is {h}x{w}")
        return self.encode(torch.from_numpy(np.ascontiguousarray(frames)))

    def decode(self, codes: Tensor) -> Tensor:
        """The codes."""
        return codes
