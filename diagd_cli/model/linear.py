"""The layer that a Transformer spends its time in, by the product that suits its case.

On CPUs, PyTorch's default for float32 reads a large matrix at a fraction of the memory's speed when
2 to 50 tokens are multiplied, which is what a diagonal has; oneDNN's kernels on packed weights do
not, and so it is with bfloat16 where the processor multiplies it. Where it does not, bfloat16 is
emulated at a tenth of float32's rate, unless a few rows are made float32 at a time, within the
processor's cache.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagd_cli.model.eight_bits import FORMATS, fill
from diagd_cli.model.products import Float8, Int8, Packed, can_pack, onednn
from diagd_cli.processor import native_bfloat16

EMULATION_LIMIT = 4  # up to so many tokens emulated bfloat16 is the fastest: it reads half as much
BLOCK = 1 << 21  # numbers of a matrix that are made float32 at a time


class Linear(nn.Linear):
    """nn.Linear; `pack` lays out its weights for a faster product, and takes the plain ones.

    `scale`, float32 [outputs, 1], is there where the weights are of 8 bits.
    """

    product: Packed | Int8 | Float8 | None = None
    scale: nn.Parameter | None

    def __init__(self, *sizes: Any, **options: Any):
        super().__init__(*sizes, **options)
        self.register_parameter("scale", None)

    def forward(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """The product [..., outputs] of x [..., inputs], in x's dtype, added to `onto` of its
        shape.
        """
        if isinstance(self.product, Packed):
            return self.product(x, onto)
        y = self._product(x)
        return y if onto is None else onto + y

    def _product(self, x: Tensor) -> Tensor:
        if self.product is not None:
            return self.product(x)
        if x.dtype == torch.bfloat16 and _emulated(x):
            return _by_blocks(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)

    @torch.no_grad()
    def hold(self, kind: str, rows: Tensor | None = None) -> None:
        """Have weights of 8 bits instead, with a scale a row: those of a float matrix, or unset.

        kind: a name of `FORMATS`.
        rows: float [outputs, inputs].
        """
        weight = torch.empty_like(self.weight, dtype=FORMATS[kind].dtype)
        scale = torch.empty(len(weight), 1, dtype=torch.float32, device=weight.device)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        if rows is not None:
            fill(weight, scale, rows)


def _emulated(x: Tensor) -> bool:
    """Whether bfloat16 x [..., inputs] of many tokens would be emulated, and needs no gradient."""
    many = x.numel() > EMULATION_LIMIT * x.shape[-1]
    return many and not (x.is_cuda or torch.is_grad_enabled() or native_bfloat16())


def _by_blocks(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The product in float32, bfloat16 in and out: `weight` is made float32 block after block."""
    rows = max(1, BLOCK // weight.shape[1])
    x, out = x.float(), x.new_empty(*x.shape[:-1], len(weight))
    block = torch.empty(rows, weight.shape[1])
    product = onednn if can_pack(block) else F.linear
    for start in range(0, len(weight), rows):
        part = slice(start, start + rows)
        own = block[: len(weight[part])].copy_(weight[part])
        out[..., part] = product(x, own, None if bias is None else bias[part].float())
    return out


def pack(model: nn.Module) -> nn.Module:
    """Lay out the weights of every `Linear` where that is faster, or its product needs it.

    This is for inference only. A packed layer's `weight` is None and appears in no state_dict. A
    matrix that is also the embedding is copied. Where torch lacks the product, nothing happens.
    """
    shared = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for module in model.modules():
        if isinstance(module, Linear) and module.weight is not None:
            module.product = _product(module)
            if module.product is not None and id(module.weight) not in shared:
                module.register_parameter("weight", None)
                module.register_parameter("scale", None)
    return model


def _product(layer: Linear) -> Packed | Int8 | Float8 | None:
    if layer.scale is not None:
        kind = Int8 if layer.weight.dtype == torch.int8 else Float8
        return kind(layer.weight, layer.scale, layer.bias)
    return Packed(layer.weight, layer.bias) if can_pack(layer.weight) else None
