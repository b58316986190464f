"""The products of a Transformer on weights that are laid out once, for the processor at hand.

Each takes x [..., inputs] and gives [..., outputs] in x's dtype. For inference only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diagd_cli.model.eight_bits import BY_DTYPE, FORMATS, Scaled, quantise, scales
from diagd_cli.model.own import own_kernels
from diagd_cli.processor import exact_int8, native_bfloat16

# of torch.ops.mkldnn and torch.ops.onednn; private
OPERATORS = "_linear_pointwise", "_reorder_linear_weight"
OPERATORS_8 = "qlinear_pointwise", "qlinear_prepack"
INT8 = FORMATS["int8"]
ZERO = 128  # what stands for 0 in the unsigned numbers that oneDNN takes


class Packed:
    """oneDNN's product on float weights, in float32 or bfloat16.

    weight: float [outputs, inputs], for which `can_pack` says yes.
    bias: float [outputs].
    """

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self.weight, self.bias = torch.ops.mkldnn._reorder_linear_weight(weight.detach()), bias

    def __call__(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """The product, added to `onto` [..., outputs], which costs no operation of its own."""
        if onto is None:
            return onednn(x, self.weight, self.bias)
        pointwise = torch.ops.mkldnn._linear_pointwise.binary
        return pointwise(x, onto, self.weight, self.bias, "add")


class Int8:
    """The product of int8 weights and tokens that are rounded to int8, added up in whole numbers.

    Those sums are exact, so that a token's result is the same in any company.

    weight: int8 [outputs, inputs].
    scale: float32 [outputs, 1].
    bias: float [outputs].
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None):
        self.scale, self.bias = scale.detach().flatten(), bias
        self.half = torch.tensor(ZERO + 0.5)
        self.onednn = exact_int8() and all(hasattr(torch.ops.onednn, op) for op in OPERATORS_8)
        if self.onednn:
            self.zeros = torch.zeros(len(weight), dtype=torch.int64)
            self.weight = torch.ops.onednn.qlinear_prepack(weight.detach(), None)
        else:  # right on every processor, and slow
            self.weight = weight.detach().t()

    def __call__(self, x: Tensor) -> Tensor:
        """The product."""
        scale = scales(x, INT8)
        # to the nearest by cutting off what is behind the point: they are positive
        unsigned = torch.addcmul(self.half, x, scale.reciprocal()).to(torch.uint8)
        y = (self._fast if self.onednn else self._slow)(unsigned).mul_(scale)
        return (y if self.bias is None else y.add_(self.bias)).to(x.dtype)

    def _fast(self, x: Tensor) -> Tensor:
        kernel = torch.ops.onednn.qlinear_pointwise
        weight = self.weight, self.scale, self.zeros, None
        return kernel(x, 1.0, ZERO, *weight, 1.0, 0, torch.float32, "none", [], "")

    def _slow(self, x: Tensor) -> Tensor:
        # whole numbers are exact in float64; torch._int_mm adds up in 16 bits where oneDNN
        # is told to do without the products that it would have
        sums = (x.double() - ZERO) @ self.weight.double()
        return sums.float().mul_(self.scale)


class Float8:
    """The product of float8 weights and tokens that are rounded to float8, added up in float32.

    weight: float8 [outputs, inputs], on CUDA with both sizes divisible by 16.
    scale: float32 [outputs, 1].
    bias: float [outputs].
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None):
        self.weight, self.scale, self.bias = weight.detach().t(), scale.detach().t(), bias

    def __call__(self, x: Tensor) -> Tensor:
        """The product."""
        values, scale = self._round(x.flatten(0, -2))
        y = torch._scaled_mm(values, self.weight, scale, self.scale, out_dtype=torch.bfloat16)
        y = y.to(x.dtype).view(*x.shape[:-1], -1)
        return y if self.bias is None else y.add_(self.bias)

    def _round(self, x: Tensor) -> Scaled:
        if own_kernels(x.device):
            from diagd_cli.model import kernels

            return kernels.rounded(x)
        return quantise(x, BY_DTYPE[self.weight.dtype])


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """oneDNN's product of x [..., inputs] and weight [outputs, inputs], packed or not."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def can_pack(weight: Tensor) -> bool:
    """Whether this build of torch has the packed product, and it is the faster one, for a tensor.

    It is for float32, and for bfloat16 where the processor multiplies it.
    """
    available = torch.backends.mkldnn.is_available()
    known = available and all(hasattr(torch.ops.mkldnn, name) for name in OPERATORS)
    if not known or weight.device.type != "cpu":
        return False
    return weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and packs_bfloat16())


def packs_bfloat16() -> bool:
    """Whether bfloat16 weights are laid out: the processor multiplies them, and oneDNN knows."""
    known = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    return native_bfloat16() and known()
