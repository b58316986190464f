"""The norms that a configuration may name."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagd_cli.model.config import TransformerConfig


class RMSNorm(nn.Module):
    """Root-mean-square norm in float32, cast back before the weight is applied, as Llama does."""

    def __init__(self, dim: int, eps: float, affine: bool = True):
        super().__init__()
        self.dim, self.eps = dim, eps
        self.weight = nn.Parameter(torch.ones(dim)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """x [..., dim] with its last axis normed, in x's dtype."""
        if x.dtype == torch.float32:
            return F.rms_norm(x, (self.dim,), self.weight, self.eps)
        y = F.rms_norm(x.float(), (self.dim,), eps=self.eps).to(x.dtype)
        return y if self.weight is None else y * self.weight


def make_norm(config: TransformerConfig, dim: int, affine: bool = True) -> nn.Module:
    """The norm that a configuration names, over `dim` channels."""
    if config.norm == "rms":
        return RMSNorm(dim, config.norm_eps, affine)
    return nn.LayerNorm(dim, config.norm_eps, elementwise_affine=affine, bias=config.bias)
