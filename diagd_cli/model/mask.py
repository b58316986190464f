"""What each query of an attention may see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


@dataclass(frozen=True, eq=False)
class Span:
    """Which slots of a cache queries see, by the positions that those hold: from one to another.

    held: int64 [S], or [B, S] where clips differ, the position that each slot holds.
    high: int64 [Q], or [B, Q], the last position that each query sees.
    low: of the same shape, the first one; None is 0.
    front: positions before it are seen although they lie before `low`.
    least: int64 [B, Q], positions before it are not seen whatever `front` says; None is 0.
    """

    held: Tensor
    high: Tensor
    low: Tensor | None = None
    front: int = 0
    least: Tensor | None = None

    def visible(self) -> Tensor:
        """The same as a matrix, bool [..., Q, S]."""
        held = self.held.unsqueeze(-2)
        seen = held <= self.high.unsqueeze(-1)
        if self.least is not None:
            seen = seen & (held >= self.least.unsqueeze(-1))
        if self.low is None:
            return seen
        return seen & ((held >= self.low.unsqueeze(-1)) | (held < self.front))


@dataclass(frozen=True, eq=False)
class Mask:
    """Which of S keys each of Q queries sees: the first of these that is given.

    visible: bool [Q, S], or [B, Q, S] where clips differ; true where it does.
    span: the same without a matrix, for who reads it (`Transformer.reads_spans`).
    blocks: a BlockMask of FlexAttention, for tokens that are many.
    causal: query n sees the keys 0 .. n, and if false all of them.
    bias: `visible` as attention kernels take it; made of it by `laid_out`, and never by hand.
    """

    causal: bool = True
    visible: Tensor | None = None
    span: Span | None = None
    blocks: BlockMask | None = None
    bias: Tensor | None = None

    def laid_out(self, group: int, dtype: torch.dtype) -> Mask:
        """The same mask with the `bias` that kernels add, if it has a matrix and has it not yet.

        A Transformer calls it once a pass, so that no layer converts the matrix again.

        group: query heads that share a head of keys; they are laid out as group * Q queries.
        dtype: of the queries. The bias is 0 where a key is visible, -inf elsewhere, [group * Q, S],
            or [B, 1, group * Q, S].
        """
        visible = self.span.visible() if self.span else self.visible
        if visible is None or self.bias is not None:
            return self
        # not torch.tensor, whose value would be copied from the host, which no CUDA graph may hold
        hidden = torch.full((), -torch.inf, dtype=dtype, device=visible.device)
        bias = torch.where(visible, torch.zeros_like(hidden), hidden)
        bias = bias.repeat(group, 1) if bias.ndim == 2 else bias.repeat(1, group, 1).unsqueeze(1)
        return Mask(visible=visible, bias=bias)


CAUSAL = Mask()  # of a pass over tokens in the order of their positions
EVERYTHING = Mask(causal=False)
