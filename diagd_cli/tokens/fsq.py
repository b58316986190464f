"""Finite scalar quantisation (Mentzer et al. 2023): every channel is rounded to a few levels; the
code is the digits.

The first channel is the least significant digit of the index, as in Cosmos DV8x16x16.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


class FSQ(nn.Module):
    """Quantiser with `levels` per channel; prod(levels) codes, channels on the last axis."""

    count: Tensor  # levels of each channel; these tables are all [channels]
    basis: Tensor  # what a step of each channel adds to the index
    halfwidth: Tensor
    offset: Tensor
    shift: Tensor
    middle: Tensor

    def __init__(self, levels: tuple[int, ...]):
        super().__init__()
        self.levels, self.size = tuple(levels), math.prod(levels)
        count = torch.tensor(levels)
        basis = torch.tensor([math.prod(levels[:i]) for i in range(len(levels))])
        half = (count - 1) * (1 + 1e-3) / 2
        offset = torch.where(count % 2 == 0, 0.5, 0.0)
        for name, value in {
            "count": count,
            "basis": basis,
            "halfwidth": half,
            "offset": offset,
            "shift": torch.atanh(offset / half),
            "middle": count // 2,
        }.items():
            self.register_buffer(name, value, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FSQ:
        """Move the tables but keep their dtypes: rounded to bfloat16 they would change one code in
        a hundred.
        """
        kept = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        moved = dict(self.named_buffers(recurse=False))
        self._buffers.update({name: table.to(moved[name].device) for name, table in kept.items()})
        return self

    def _digits(self, z: Tensor) -> Tensor:
        bounded = torch.tanh(z.float() + self.shift) * self.halfwidth - self.offset
        rounded = bounded + (bounded.round() - bounded).detach()  # straight-through gradient
        return rounded + self.middle

    def quantise(self, z: Tensor) -> Tensor:
        """Codes in [-1, 1], float [..., channels], with a straight-through gradient to `z`."""
        return ((self._digits(z) - self.middle) / self.middle).to(z.dtype)

    def indices(self, z: Tensor) -> Tensor:
        """Code indices int64 [...] of latents `z` [..., channels]."""
        return (self._digits(z).round().long() * self.basis).sum(-1)

    def codes(self, indices: Tensor) -> Tensor:
        """Codes float32 [..., channels] of `indices` int64 [...]."""
        digits = indices.unsqueeze(-1) // self.basis % self.count
        return (digits - self.middle) / self.middle
