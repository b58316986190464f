"""What the engine needs of a model, and nothing more: whatever keeps to it can be decoded."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from diagd_cli.model.mask import CAUSAL, Mask

# of a text: per layer, keys and values that it attends to; or the vectors of the prefix [B, P, dim]
Cross = list[tuple[Tensor, Tensor]] | Tensor | None


class Cache(Protocol):
    """What a model remembers of the tokens fed so far, by slot; only the model looks into it."""

    def clear(self, slots: Tensor) -> None:
        """Forget what `slots`, bool [slots], holds: for decodings that see slots never written."""
        ...


class Model(Protocol):
    """Token ids in, logits out, with a memory that is written by position.

    `Transformer` is the one that diagd has; where it is steered by text, it is a `TextModel`.

    CUDA graphs hold a model's steps: nothing in a call with a cache may depend on a value that the
    host would have to read from the device.

    One whose `reads_spans` is there, and true, is given masks without a matrix (`Mask.span`).
    """

    @property
    def device(self) -> torch.device:
        """Where its ids, positions and masks must lie."""
        ...

    def new_cache(self, batch: int, slots: int, dtype: torch.dtype | None = None) -> Cache:
        """An empty cache for `batch` clips and `slots` tokens; dtype None is the model's."""
        ...

    def __call__(
        self,
        ids: Tensor,
        positions: Tensor,
        mask: Mask = CAUSAL,
        cache: Cache | None = None,
        extent: int | None = None,
        outputs: int | None = None,
        cross: Cross = None,
        slots: Tensor | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """Logits float [B, outputs, vocab] of the first fed tokens, for what follows each of them.

        ids: int64 [B, Q], the tokens that are fed.
        positions: int64 [Q], or [B, Q] where clips differ, where they stand in the sequence, in any
            order; without end where the window slides.
        mask: who sees whom: the tokens of this call or, with a cache, its slots 0 .. extent-1.
        cache: of `new_cache`; the call's tokens are written into it, and then read.
        extent: slots of the cache that are read; the mask has as many columns.
        outputs: number of tokens, from the first, whose logits are wanted; None for all.
        cross: what a model that is steered by text attends to; None where there is no text.
        slots: int64 as `positions`, where in the cache they are written, over what was there; None
            is at slot = position.
        start: int64 [B, 1], the first position of each clip that is no padding. It is given only
            where there is padding, to a model whose positions count from their first: the mask
            hides what lies before.
        """
        ...


class TextModel(Model, Protocol):
    """A model that is steered by text, too."""

    def cross_context(self, context: Tensor) -> Cross:
        """What `cross` is to be for embeddings float [B, N, text_dim] of N tokens of text."""
        ...
