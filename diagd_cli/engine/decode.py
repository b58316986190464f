"""Prefill, then the one loop that executes any plan on any model. It knows token ids, not files, pixels or progress."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from diagd_cli.engine.chunk import chunk_on
from diagd_cli.engine.steps import Choose, Cross, Pace, Replay, Steps
from diagd_cli.model.cache import KVCache
from diagd_cli.model.transformer import CAUSAL, Transformer
from diagd_cli.schedule.plan import Plan


@torch.inference_mode()
def prefill(
    model: Transformer, cache: KVCache, tokens: Tensor, positions: np.ndarray, cross: Cross = None, chunk: int = 0
) -> None:
    """Feed known tokens [B, L] at `positions` (ascending, every smaller slot written), `chunk` at a time; no logits.

    chunk 0 is what suits the device (`chunk_on`). What starts the sequence goes through
    the causal kernel, without a mask.
    """
    chunk = chunk or chunk_on(tokens.device)
    for part in np.array_split(positions, -(-len(positions) // chunk) or 1):
        if len(part):
            index, extent = torch.as_tensor(part, device=tokens.device), int(part[-1]) + 1
            mask = CAUSAL if extent == len(part) else torch.arange(extent, device=tokens.device) <= index[:, None]
            model(tokens[:, index], index, mask, cache, extent, outputs=0, cross=cross)


def decode(
    model: Transformer,
    plan: Plan,
    cache: KVCache,
    tokens: Tensor,
    choose: Choose,
    cross: Cross = None,
    capture: bool | None = None,
) -> Iterator[int]:
    """Execute `plan`: fill in tokens int64 [B, >= plan.length] step by step, yielding the number of steps done.

    Slots below `plan.prefill` must have been fed. choose(logits [B, n, vocab], targets int64 [n]) -> ids [B, n].
    A query sees exactly the slots at or before its position that have been written, this step's inputs included; with
    `zero_slots` those that have not been written too, in which the cache should hold zeros.

    capture: replay CUDA graphs of steps of one width (by default on CUDA). It needs one more slot and one more place in
    `tokens` and `choose` than the plan is long, where padded lanes write; without CUDA the same steps run uncaptured.
    """
    capture = tokens.is_cuda if capture is None else capture
    steps = Steps(model, plan.padded() if capture else plan, cache, tokens, choose, cross)
    run = Replay(steps, plan.extents.tolist()) if capture else steps
    pace = Pace(tokens.device)
    for step in range(plan.steps):
        with torch.inference_mode():
            run(step)
        pace()
        yield step + 1


@torch.inference_mode()
def logits(model: Transformer, ids: Tensor, positions: Tensor | None = None, cross: Cross = None) -> Tensor:
    """Logits float [B, Q, vocab] of a full pass over ids int64 [B, Q] at positions int64 [Q] (default 0 .. Q-1).

    Every token sees the tokens at or before its position; the logits at a position are for what follows it.
    """
    if positions is None:
        return model(ids, torch.arange(ids.shape[1], device=ids.device), cross=cross)
    positions = positions.to(ids.device)
    return model(ids, positions, mask=positions <= positions[:, None], cross=cross)


def decode_plan(model: Transformer, plan: Plan, tokens: Tensor, choose: Choose, cross: Cross = None) -> Tensor:
    """The whole of a plan on a cache of its own: prefill, every step; returns tokens int64 [B, plan.length], filled in.

    tokens: int64 [B, L], of which the positions of the context (and its conditioning) are read; see `Grid.flatten`.
    """
    weight = model.embed.weight
    tokens = torch.nn.functional.pad(tokens[:, : plan.length], (0, max(0, plan.length - tokens.shape[1]))).clone()
    cache = KVCache(model.config, len(tokens), plan.length, device=weight.device, dtype=weight.dtype)
    prefill(model, cache, tokens, np.arange(plan.prefill), cross)
    for _ in decode(model, plan, cache, tokens, choose, cross, capture=False):  # there is no slot for padded lanes
        pass
    return tokens
