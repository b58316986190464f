"""What each query of an attention may see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


@dataclass(frozen=True, eq=False)
class Mask:
    """Which of S keys each of Q queries sees: the first of these that is given.

    visible: bool [Q, S], or [B, Q, S] where clips differ; true where it does.
    blocks: a BlockMask of FlexAttention, for tokens that are many.
    causal: query n sees the keys 0 .. n, and if false all of them.
    bias: `visible` as attention kernels take it; made of it by `laid_out`, and never by hand.
    """

    causal: bool = True
    visible: Tensor | None = None
    blocks: BlockMask | None = None
    bias: Tensor | None = None

    def laid_out(self, group: int, dtype: torch.dtype) -> Mask:
        """The same mask with the `bias` that kernels add, if it has a matrix and has it not yet.

        A Transformer calls it once a pass, so that no layer converts the matrix again.

        group: query heads that share a head of keys; they are laid out as group * Q queries.
        dtype: of the queries. The bias is 0 where a key is visible, -inf elsewhere, [group * Q, S],
            or [B, 1, group * Q, S].
        """
        if self.visible is None or self.bias is not None:
            return self
        # not torch.tensor, whose value would be copied from the host, which no CUDA graph may hold
        hidden = torch.full((), -torch.inf, dtype=dtype, device=self.visible.device)
        bias = torch.where(self.visible, torch.zeros_like(hidden), hidden)
        bias = bias.repeat(group, 1) if bias.ndim == 2 else bias.repeat(1, group, 1).unsqueeze(1)
        return Mask(visible=self.visible, bias=bias)


CAUSAL = Mask()  # of a pass over tokens in the order of their positions
EVERYTHING = Mask(causal=False)
