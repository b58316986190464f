"""Key/value cache, written by slot: scattered diagonal tokens and whole prompts go through the same call."""

from __future__ import annotations

import torch
from torch import Tensor

from diagd_cli.model.config import TransformerConfig


class KVCache:
    """Keys and values of all layers, each [layers, B, kv_heads, slots, head_dim].

    Keys are stored after norm and rotation. Which slots hold something is not recorded here: the plan knows.
    """

    def __init__(self, config: TransformerConfig, batch: int, slots: int, *, device=None, dtype=torch.float32):
        shape = (config.layers, batch, config.kv_heads, slots, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)

    @property
    def slots(self) -> int:
        return self.keys.shape[3]

    @property
    def bytes(self) -> int:
        return 2 * self.keys.numel() * self.keys.element_size()

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer, each [B, kv_heads, slots, head_dim], as views."""
        return self.keys[index], self.values[index]

    def clear(self, slots: Tensor) -> None:
        """Put zeros where `slots`, bool [slots], says so."""
        for store in (self.keys, self.values):
            store.masked_fill_(slots[:, None], 0)


def write(store: Tensor, slots: Tensor, x: Tensor) -> None:
    """Put x [B, Q, kv_heads, head_dim] at `slots` [Q] of a layer's keys or values; a later write replaces an earlier one."""
    store.index_copy_(2, slots, x.transpose(1, 2).to(store.dtype))
