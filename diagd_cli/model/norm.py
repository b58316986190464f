"""The norms that a configuration may name."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagd_cli.model.config import TransformerConfig
from diagd_cli.model.own import own_kernels


class RMSNorm(nn.Module):
    """Root-mean-square norm in float32, cast back before the weight is applied, as Llama does."""

    def __init__(self, dim: int, eps: float, affine: bool = True):
        super().__init__()
        self.dim, self.eps = dim, eps
        self.weight = nn.Parameter(torch.ones(dim)) if affine else None
        self.least = torch.tensor(eps)  # no buffer: it stays float32 on the CPU

    def forward(self, x: Tensor) -> Tensor:
        """x [..., dim] with its last axis normed, in x's dtype."""
        if own_kernels(x.device):
            from diagd_cli.model import kernels

            return kernels.normed(x, self.weight, self.eps)
        y = self._normed(x.float()).to(x.dtype)
        return y if self.weight is None else y * self.weight

    def _normed(self, x: Tensor) -> Tensor:
        """x / sqrt(mean(x^2) + eps), in float32.

        CPUs have no kernel for it in PyTorch: there it is made of as few operations as will do
        where no gradient is wanted. PyTorch's own six take twice as long for the tokens of a step.
        """
        if x.device.type != "cpu" or torch.is_grad_enabled():
            return F.rms_norm(x, (self.dim,), eps=self.eps)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        mean = torch.addcmul(self.least, length, length, value=1 / self.dim)
        return x * mean.rsqrt_()


def make_norm(config: TransformerConfig, dim: int, affine: bool = True) -> nn.Module:
    """The norm that a configuration names, over `dim` channels."""
    if config.norm == "rms":
        return RMSNorm(dim, config.norm_eps, affine)
    return nn.LayerNorm(dim, config.norm_eps, elementwise_affine=affine, bias=config.norm_bias)
