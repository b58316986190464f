"""A decoding with the tokens given, as one pass without a cache: what its steps see is a mask.

Every token that a decoding gives to the model is an entry: the prompt's positions, and the feeds of
the plan. Entry a sees entry b where b stands at or before a, was given no later than a, and had not
been overwritten by then:

    position[b] <= position[a]    and    step[b] <= step[a] < expires[b]

and, where the window slides, b is of the newest frames that a sees, or of the sinks. Padding at the
left of a clip's prefix is seen by itself alone. Two entries may stand at one position: a stand-in,
and the true token that replaces it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from diagd_cli.model.contract import Cross, Model
from diagd_cli.model.mask import Mask
from diagd_cli.schedule.plan import Plan

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


@dataclass(frozen=True)
class Entries:
    """Everything that a decoding gives to the model, as int64 arrays [N].

    source: flat position of the token.
    position: where it stands.
    step: from when on, -1 for the prompt.
    expires: the first step at which it no longer does.
    target: flat position of the token that comes from its output, -1 for none.
    oldest: the first position that it sees.
    always: positions before this one are seen, too.

    Those with a target come first, in raster order of their targets, then the others by position.
    """

    source: np.ndarray
    position: np.ndarray
    step: np.ndarray
    expires: np.ndarray
    target: np.ndarray
    oldest: np.ndarray
    always: int = 0

    def __len__(self) -> int:
        return len(self.source)

    @property
    def visible(self) -> np.ndarray:
        """mask[a, b], bool [N, N]: entry a sees entry b."""
        index = np.arange(len(self))
        return visibility(self.rule, self.always)(0, 0, index[:, None], index)

    @property
    def rule(self) -> Sequence[np.ndarray]:
        """The arrays that decide what is seen: position, step, expires and oldest."""
        return self.position, self.step, self.expires, self.oldest


def plan_entries(plan: Plan, window: int = 0) -> Entries:
    """The entries of a plan: the prompt before `plan.prefill`, then every feed.

    window: latent frames that an entry sees, its own one included, besides the sinks of the
        decoding, and no more than it attends to; 0: all.

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

    grid, always = plan.grid, plan.grid.length(plan.decoding.sinks)
    window = plan.decoding.sees(window)
    frame = (position - grid.prefix) // grid.block
    oldest = grid.prefix + (frame - (window - 1)) * grid.block if window else np.zeros_like(frame)

    order = np.lexsort((step, position, target < 0))  # a target is one past its entry's position
    return Entries(
        source=source[order],
        position=position[order],
        step=step[order],
        expires=expires[order],
        target=target[order],
        oldest=oldest[order],
        always=always,
    )


def visibility(
    rule: Sequence[Any], always: int = 0, start: Tensor | None = None
) -> Callable[..., Any]:
    """The rule of what is seen, as FlexAttention wants it: f(batch, head, a, b) of indices.

    rule: position, step, expires and oldest, each a NumPy array or a tensor [N], tensors where
        there is `start`.
    always: positions before this one are in every window.
    start: int64 [B, 1], the first position of each clip that is no padding; None is 0.
    """
    position, step, expires, oldest = rule

    def sees(batch: Any, head: Any, a: Any, b: Any) -> Any:
        written = (step[b] <= step[a]) & (step[a] < expires[b])
        near = (position[b] >= oldest[a]) | (position[b] < always)
        return (position[b] <= position[a]) & written & near

    if start is None:
        return sees
    first = start.flatten()

    def sees_no_padding(batch: Any, head: Any, a: Any, b: Any) -> Any:
        # but itself: softmax over nothing would be no number
        real = position[b] >= torch.minimum(position[a], first[batch])
        return sees(batch, head, a, b) & real

    return sees_no_padding


def block_mask(
    entries: Entries, device: torch.device | str, start: Tensor | None = None
) -> BlockMask:
    """The mask for FlexAttention: blocks of 128 x 128 entries, without those that nobody sees.

    start: as in `visibility`; with it there is a mask for each clip.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    rule = [torch.as_tensor(array, device=device) for array in entries.rule]
    sees, clips = visibility(rule, entries.always, start), None if start is None else len(start)
    return create_block_mask(sees, clips, None, len(entries), len(entries), device=str(device))


def entry_mask(entries: Entries, device: torch.device, start: Tensor | None = None) -> Mask:
    """What the entries see of one another, in the form that suits the device; `start` as in
    `visibility`.
    """
    if device.type == "cuda":
        return Mask(blocks=block_mask(entries, device, start))
    if start is None:
        return Mask(visible=torch.from_numpy(entries.visible))
    rule = [torch.from_numpy(array) for array in entries.rule]
    clips, index = torch.arange(len(start)), torch.arange(len(entries))
    sees = visibility(rule, entries.always, start)
    return Mask(visible=sees(clips[:, None, None], 0, index[:, None], index))


def forced_logits(
    model: Model,
    tokens: Tensor,
    plan: Plan,
    cross: Cross = None,
    window: int = 0,
    start: Tensor | None = None,
) -> Tensor:
    """Logits [B, plan.new_tokens, vocab] of all new tokens in raster order, as by a plan's steps.

    model: what predicts, in one pass without a cache.
    tokens: int64 [B, >= plan.length], the new ones included.
    plan: of any number of latent frames.
    cross: what the model attends to of a text.
    window: latent frames that are seen where the window slides; 0: all.
    start: int64 [B, 1], the first position of each clip that is no padding; None is 0.

    Equal to the cached steps' logits when these choose the same tokens, up to rounding; gradients
    flow.
    """
    entries, device = plan_entries(plan, window), tokens.device
    fed = entries.source, entries.position
    source, position = (torch.as_tensor(a, device=device) for a in fed)
    mask = entry_mask(entries, device, start)
    padded: dict[str, Any] = {} if start is None else {"start": start}
    return model(tokens[:, source], position, mask, outputs=plan.new_tokens, cross=cross, **padded)
