"""Prefill, then the one loop that executes any plan on any model. It knows token ids alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from diagd_cli.engine.ring import NEVER
from diagd_cli.engine.steps import Choose, Pace, Replay, Steps
from diagd_cli.model.contract import Cache, Cross, Model
from diagd_cli.model.mask import Mask
from diagd_cli.schedule.plan import Plan
from diagd_cli.schedule.wavefront import Wavefront, whole


@torch.inference_mode()
def prefill(
    model: Model,
    cache: Cache,
    tokens: Tensor,
    positions: np.ndarray,
    cross: Cross = None,
    chunk: int = 0,
    start: Tensor | None = None,
) -> None:
    """Feed known tokens, some at a time; no logits are made of them.

    model: what remembers them.
    cache: of `model.new_cache`; every slot before the first of `positions` is written already.
    tokens: int64 [B, L], of which those at `positions` are fed.
    positions: int64 [n], ascending.
    cross: what the model attends to of a text.
    chunk: tokens that are fed together; 0 is what suits the device (`chunk_on`).
    start: as of `Steps`.
    """
    steps = Steps(model, cache, tokens, _nothing, cross, start=start)
    steps.held.copy_(steps.lanes)  # whatever lies before a token is there
    steps.prefill(positions, chunk)


def _nothing(logits: Tensor, targets: Tensor) -> Tensor:
    raise AssertionError("a prefill makes no tokens")


def decode(
    model: Model,
    plan: Plan,
    cache: Cache,
    tokens: Tensor,
    choose: Choose,
    cross: Cross = None,
    capture: bool | None = None,
    start: Tensor | None = None,
) -> Iterator[int]:
    """Execute a plan: fill in new tokens step by step, yielding the number of steps done.

    A query sees exactly the slots at or before its position that have been written, this step's
    inputs included; with `zero_slots` also those that have not been written, in which the cache
    should hold zeros.

    model: what predicts.
    plan: whose prompt, the slots below `plan.prefill`, has been fed.
    cache: of `model.new_cache`.
    tokens: int64 [B, >= plan.length], which the new ones are put into.
    choose: of logits [B, n, vocab] and targets int64 [n], where they go, makes ids int64 [B, n].
    cross: what the model attends to of a text.
    capture: as in `runner`.
    start: as of `Steps`.
    """
    steps = Steps(model, cache, tokens, choose, cross, start=start)
    # what is written in the first step is written before it is read
    there = torch.from_numpy(plan.visible_from <= 0).to(tokens.device)
    steps.held[: plan.length] = steps.lanes[: plan.length].where(there, NEVER)
    return execute(runner(steps, capture), whole(plan))


def runner(steps: Steps, capture: bool | None = None) -> Steps | Replay:
    """What `execute` takes: the steps themselves, or with `capture` the CUDA graphs of them.

    capture: replay graphs of steps of one width; None is whether the tokens are on CUDA. Store,
        cache and `choose` need one place more than a plan is long, where lanes without a feed
        write. Without CUDA the same wide steps run uncaptured.
    """
    capture = steps.tokens.is_cuda if capture is None else capture
    return Replay(steps) if capture else steps


def execute(
    run: Steps | Replay, wave: Wavefront, begin: Callable[[int], None] = lambda latent: None
) -> Iterator[int]:
    """Take every step of a decoding, yielding the number of steps done; another may follow it.

    run: of `runner`.
    wave: what is fed and made.
    begin: is called with the number of each new latent frame, from 0, before its first step: what
        steers it must lie in the store then.
    """
    with torch.inference_mode():
        run.load(wave)
    pace, period, frames = Pace(run.device), wave.rules.d, wave.latents
    for step in itertools.count() if wave.steps is None else range(wave.steps):
        with torch.inference_mode():
            latent, since = divmod(step, period)
            if not since and (frames is None or latent < frames):
                begin(latent)
                run.begin(latent)
            run(step)
        pace()
        yield step + 1


@torch.inference_mode()
def logits(
    model: Model,
    ids: Tensor,
    positions: Tensor | None = None,
    cross: Cross = None,
) -> Tensor:
    """Logits float [B, Q, vocab] of a full pass; those at a position are for what follows it.

    Every token sees the tokens at or before its position.

    model: what predicts.
    ids: int64 [B, Q].
    positions: int64 [Q], where they stand; by default 0 .. Q-1.
    cross: what the model attends to of a text.
    """
    if positions is None:
        return model(ids, torch.arange(ids.shape[1], device=ids.device), cross=cross)
    positions = positions.to(ids.device)
    mask = Mask(visible=positions <= positions[:, None])
    return model(ids, positions, mask=mask, cross=cross)


def decode_plan(
    model: Model,
    plan: Plan,
    tokens: Tensor,
    choose: Choose,
    cross: Cross = None,
) -> Tensor:
    """The whole of a plan on a cache of its own: prefill, then every step.

    model: what predicts.
    plan: what is fed and made.
    tokens: int64 [B, L], of which the positions of the context (and all conditioning) are read; see
        `Grid.flatten`.
    choose: of logits [B, n, vocab] and targets int64 [n], where they go, makes ids int64 [B, n].
    cross: what the model attends to of a text.

    Returns tokens int64 [B, plan.length], filled in.
    """
    room = max(0, plan.length - tokens.shape[1])
    tokens = torch.nn.functional.pad(tokens[:, : plan.length], (0, room)).clone()
    places, ids = plan.grid.ends(plan.length)
    tokens[:, places] = torch.as_tensor(ids, device=tokens.device)
    cache = model.new_cache(len(tokens), plan.length)
    prefill(model, cache, tokens, np.arange(plan.prefill), cross)
    # uncaptured: there is no slot for padded lanes
    for _ in decode(model, plan, cache, tokens, choose, cross, capture=False):
        pass
    return tokens
