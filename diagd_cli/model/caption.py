"""A text as the tokens before the first frame, made of an encoder's features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagd_cli.model.config import TransformerConfig
from diagd_cli.model.linear import Linear


class Caption(nn.Module):
    """down(gelu_tanh(up(features))): a vector for each of the positions of the prefix.

    `nothing`, float [prefix_tokens, prefix_dim], is learned, and what asks for nothing.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.up = Linear(config.prefix_dim, config.dim, bias=False)
        self.down = Linear(config.dim, config.dim, bias=False)
        self.nothing = nn.Parameter(torch.empty(config.prefix_tokens, config.prefix_dim))

    def forward(self, features: Tensor) -> Tensor:
        """Vectors [B, N, dim] of features [B, N, prefix_dim]."""
        return self.down(F.gelu(self.up(features), approximate="tanh"))


def with_prefix(x: Tensor, vectors: Tensor, positions: Tensor) -> Tensor:
    """Tokens x [B, Q, dim], where they stand in the prefix replaced by its vectors [B, P, dim];
    positions: int64 [Q], or [B, Q] where clips differ.
    """
    last = vectors.shape[1] - 1
    places = positions.clamp(max=last).expand(x.shape[:2])
    own = vectors.gather(1, places.unsqueeze(-1).expand(-1, -1, x.shape[2]))
    return own.where((positions <= last).unsqueeze(-1), x)
