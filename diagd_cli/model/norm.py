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
        y = root_mean_square_norm(x.float(), self.eps).to(x.dtype)
        return y if self.weight is None else y * self.weight


def root_mean_square_norm(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps), float32 [..., dim], over the last axis.

    Where PyTorch has no kernel for it, which is on CPUs without gradients, it is made of as few
    operations as will do: PyTorch's own six take twice as long for the few tokens of a step.
    """
    if x.is_cuda or torch.is_grad_enabled():
        return F.rms_norm(x, x.shape[-1:], eps=eps)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x * length.mul_(length).div_(x.shape[-1]).add_(eps).rsqrt_()


def make_norm(config: TransformerConfig, dim: int, affine: bool = True) -> nn.Module:
    """The norm that a configuration names, over `dim` channels."""
    if config.norm == "rms":
        return RMSNorm(dim, config.norm_eps, affine)
    return nn.LayerNorm(dim, config.norm_eps, elementwise_affine=affine, bias=config.bias)
