"""A decoding with the tokens given, as one forward pass without a cache: what the stepped engine sees becomes a mask.

Every token that a decoding gives to the model is an entry: the prompt's positions, and the feeds of the plan. Entry a
sees entry b where b stands at or before a, was given no later than a, and had not been overwritten by then:

    position[b] <= position[a]    and    step[b] <= step[a] < expires[b]

Two entries may stand at one position: a stand-in, and the true token that replaces it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from diagd_cli.model.transformer import Transformer
from diagd_cli.schedule.plan import Plan

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    from diagd_cli.engine.steps import Cross


@dataclass(frozen=True)
class Entries:
    """Everything that a decoding gives to the model, as int64 arrays [N].

    Entry n is the token at flat position `source[n]`, standing at `position[n]` from step `step[n]` (-1: the prompt) up
    to, not including, step `expires[n]`. From its output comes the token at `target[n]`, -1 for none. Those with a
    target come first, in raster order of their targets, then the others by position.
    """

    source: np.ndarray
    position: np.ndarray
    step: np.ndarray
    expires: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.source)

    @property
    def visible(self) -> np.ndarray:
        """mask[a, b], bool [N, N]: entry a sees entry b."""
        index = np.arange(len(self))
        return visibility(self.position, self.step, self.expires)(0, 0, index[:, None], index)


def plan_entries(plan: Plan) -> Entries:
    """The entries of a plan that is not padded: positions 0 .. prefill-1 as the prompt, then every feed.

    Raises ValueError for a decoding that sees what is no entry.
    """
    if plan.decoding.zero_slots:
        raise ValueError("slots that hold nothing are no entries: zero_slots has no mask")
    prompt = np.arange(plan.prefill)
    none = np.full(plan.prefill, -1)
    source, position = np.append(prompt, plan.source), np.append(prompt, plan.position)
    step, target = np.append(none, plan.step_of_feed), np.append(none, plan.target)

    writes = np.lexsort((step, position))  # those to one slot side by side, the earliest first
    again = position[writes[1:]] == position[writes[:-1]]
    expires = np.full(len(source), plan.steps)
    expires[writes[:-1][again]] = step[writes[1:][again]]

    order = np.lexsort((step, position, target < 0))  # a target is one past its entry's position
    return Entries(*(array[order] for array in (source, position, step, expires, target)))


def visibility(position, step, expires) -> Callable:
    """The rule of what is seen, as FlexAttention wants it: f(batch, head, a, b) of indices; NumPy arrays or tensors [N]."""

    def sees(batch, head, a, b):
        return (position[b] <= position[a]) & (step[b] <= step[a]) & (step[a] < expires[b])

    return sees


def block_mask(entries: Entries, device: torch.device | str) -> BlockMask:
    """The mask for FlexAttention: by blocks of 128 x 128 entries, those that nobody sees left out."""
    from torch.nn.attention.flex_attention import create_block_mask

    arrays = (torch.as_tensor(a, device=device) for a in (entries.position, entries.step, entries.expires))
    return create_block_mask(visibility(*arrays), None, None, len(entries), len(entries), device=str(device))


def forced_logits(model: Transformer, tokens: Tensor, plan: Plan, cross: Cross = None) -> Tensor:
    """Logits [B, plan.new_tokens, vocab] of every new token in raster order, as the engine would see them by `plan`.

    tokens: int64 [B, >= plan.length], the new ones included. plan: not padded. cross: `Transformer.cross_context`.
    Equal to the cached steps' logits when these choose the same tokens, up to rounding; gradients flow.
    """
    entries, device = plan_entries(plan), tokens.device
    mask = block_mask(entries, device) if tokens.is_cuda else torch.from_numpy(entries.visible)
    source, position = (torch.as_tensor(a, device=device) for a in (entries.source, entries.position))
    return model(tokens[:, source], position, mask, outputs=plan.new_tokens, cross=cross)
