"""The product that a Transformer spends its time in, by the kernel that suits its case.

On CPUs, PyTorch's default for float32 reads a large matrix at a fraction of the memory's speed when
2 to 50 tokens are multiplied, which is what a diagonal has; oneDNN's kernels on packed weights do
not. bfloat16 without hardware for it is emulated at a tenth of float32's rate, unless a few rows
are made float32 at a time, within the processor's cache.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagd_cli.device import native_bfloat16

EMULATION_LIMIT = 4  # up to so many tokens emulated bfloat16 is the fastest: it reads half as much
BLOCK = 1 << 21  # numbers of a matrix that are made float32 at a time
OPERATORS = "_linear_pointwise", "_reorder_linear_weight"  # of torch.ops.mkldnn; private


class Linear(nn.Linear):
    """nn.Linear; `pack` gives it weights laid out for oneDNN, and takes the plain ones."""

    packed: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """The product [..., outputs] of x [..., inputs], in x's dtype."""
        if self.packed is not None:
            return onednn(x, self.packed, self.bias)
        if x.dtype == torch.bfloat16 and _emulated(x):
            return _by_blocks(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)


def _emulated(x: Tensor) -> bool:
    """Whether bfloat16 x [..., inputs] of many tokens would be emulated, and needs no gradient."""
    many = x.numel() > EMULATION_LIMIT * x.shape[-1]
    return many and not (x.is_cuda or torch.is_grad_enabled() or native_bfloat16())


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """oneDNN's product of float32 x [..., inputs] and weight [outputs, inputs], packed or not."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


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
    """Lay out the weights of every `Linear` for oneDNN where that is faster: float32 on a CPU.

    This is for inference only. A packed layer's `weight` is None and appears in no state_dict. A
    matrix that is also the embedding is copied. Where torch lacks the product, nothing happens.
    """
    shared = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for module in model.modules():
        if isinstance(module, Linear) and module.weight is not None and can_pack(module.weight):
            module.packed = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach())
            if id(module.weight) not in shared:
                module.register_parameter("weight", None)
    return model


def can_pack(weight: Tensor) -> bool:
    """Whether this build of torch has the packed product, for this tensor."""
    available = torch.backends.mkldnn.is_available()
    known = available and all(hasattr(torch.ops.mkldnn, name) for name in OPERATORS)
    return known and weight.device.type == "cpu" and weight.dtype == torch.float32
