"""Key/value cache, written by slot: scattered tokens and whole prompts go through one call."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from diagd_cli.model.config import TransformerConfig


class LayerCache(NamedTuple):
    """Keys and values of one layer, each [B, kv_heads, slots, head_dim]; views of a `KVCache`."""

    keys: Tensor
    values: Tensor

    def write(self, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Put new keys and values in place of what was there.

        slots: int64 [Q], or [B, Q] where clips differ, where they go.
        k, v: float [B, Q, kv_heads, head_dim], in the queries' dtype, not the cache's.
        """
        for store, new in ((self.keys, k), (self.values, v)):
            rows = new.transpose(1, 2).to(store.dtype)
            if slots.ndim == 1:
                store.index_copy_(2, slots, rows)
                continue
            index = slots[:, None, :, None].expand_as(rows)
            if store.is_contiguous():
                store.scatter_(2, index, rows)
            else:  # that lies across, all of which a scatter into a view would copy
                store.mT.scatter_(3, index.mT, rows.mT)

    def read(self, extent: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values [B, kv_heads, extent, head_dim] of the first slots, in a dtype."""
        return self.keys[:, :, :extent].to(dtype), self.values[:, :, :extent].to(dtype)


class KVCache:
    """Keys and values of all layers, each [layers, B, kv_heads, slots, head_dim].

    Keys are stored after norm and rotation. Which slots hold something is not recorded here: the
    plan knows. `Transformer.new_cache` makes one that suits a model.

    across: keys lie in memory channel after channel, not slot after slot: as a product of queries
        and keys wants its second matrix, which would have to be laid out anew in every step.
    """

    def __init__(
        self,
        config: TransformerConfig,
        batch: int,
        slots: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        across: bool = False,
    ):
        front, place = (config.layers, batch, config.kv_heads), (slots, config.head_dim)
        self.values = torch.zeros(*front, *place, device=device, dtype=dtype)
        self.keys = torch.zeros_like(self.values)
        if across:
            self.keys = self.keys.view(*front, *place[::-1]).transpose(-2, -1)

    @property
    def slots(self) -> int:
        """Positions that it has room for."""
        return self.keys.shape[3]

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return 2 * self.keys.numel() * self.keys.element_size()

    def layer(self, index: int) -> LayerCache:
        """One layer's part of it."""
        return LayerCache(self.keys[index], self.values[index])

    def clear(self, slots: Tensor) -> None:
        """Put zeros where `slots`, bool [slots], says so."""
        for store in (self.keys, self.values):
            store.masked_fill_(slots[:, None], 0)
