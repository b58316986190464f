"""How likely a model's own next-token prediction finds given tokens: the base by which decodings
are compared.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diagd_cli.engine.chunk import CHUNK
from diagd_cli.engine.ring import NEVER, Ring
from diagd_cli.engine.session import Session
from diagd_cli.engine.windows import window_parts
from diagd_cli.model.mask import Mask
from diagd_cli.tokens.grid import Grid


@torch.inference_mode()
def token_nll(session: Session, codes: np.ndarray, slides: bool = False) -> np.ndarray:
    """Negative log-likelihood (nats, temperature 1) float64 [B, new, h, w] of the codes after the
    session's context.

    session: stands after the context of clips, and is not extended.
    codes: int64 [B, context + new, h, w].
    slides: whether the window in which a token is scored slides, or rolls.

    Every token is scored given the true ones before it, in the windows in which the session would
    make them, among all codes and no other ids. One pass over each window; logits exist for a few
    hundred places at once.
    """
    grid, known, window = session.grid, session.latents, session.window
    if slides:
        first = max(0, known - window)
        return _scores(session, codes[:, first:], first, known - first, _ring(grid, window))
    first, scores = max(0, known - window + 1), []
    parts = window_parts(known - first, codes.shape[1] - known, window, session.overlap)
    for context, new in parts:
        if known - first > context:
            first = known - context
        part = codes[:, first : known + new]
        scores.append(_scores(session, part, first, context, Ring(grid, grid.length(window))))
        known += new
    return np.concatenate(scores, axis=1)


def _ring(grid: Grid, window: int) -> Ring:
    """Room for a window that slides over what is fed together."""
    frames = window + 1 + -(-CHUNK // grid.block)
    return Ring(grid, grid.prefix, frames * grid.block, window)


def _scores(
    session: Session, codes: np.ndarray, first: int, context: int, ring: Ring
) -> np.ndarray:
    """Scores float64 [B, new, h, w] of the codes [B, T, h, w] after `context` frames of a sequence.

    first: the clip's latent frame with which the sequence begins.
    """
    model, grid = session.model, session.grid
    steering = session.conditioning[:, first : first + codes.shape[1]]
    flat = torch.from_numpy(grid.flatten(codes, steering, session.prefix))
    tokens = flat.to(session.model.device)
    cache = model.new_cache(len(tokens), ring.places)
    held = torch.full((ring.places,), NEVER, device=tokens.device)
    start = grid.position(context, 0, 0) - 1  # its logits are for the first new code
    index, found = torch.arange(tokens.shape[1] - 1, device=tokens.device), []
    for part in [*index[:start].split(CHUNK), *index[start:].split(CHUNK)]:
        if not len(part):
            continue
        slots, extent = ring.slots(part), ring.extent(int(part[-1]) + 1)
        held.index_copy_(0, slots, part)
        mask = Mask(visible=ring.visible(held[:extent], part))
        wanted = len(part) if part[0] >= start else 0
        fed = tokens[:, part], part, mask, cache, extent
        logits = model(*fed, outputs=wanted, cross=session.cross, slots=slots)
        if wanted:
            found.append(_cross_entropy(logits[..., : session.sampling.codes], tokens[:, part + 1]))
    rows = torch.cat(found, dim=1).unflatten(1, (codes.shape[1] - context, grid.block))
    return rows.cpu().numpy()[..., grid.places].astype(np.float64)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Scores float32 [B, n] of what follows, by logits [B, n, codes].

    That may be a conditioning token: given, not made; its score is dropped later.
    """
    targets = targets.clamp(max=logits.shape[-1] - 1)
    flat = logits.float().flatten(0, 1), targets.flatten()
    return F.cross_entropy(*flat, reduction="none").view(targets.shape)
