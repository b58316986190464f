"""How likely a model's own next-token prediction finds given tokens: the base by which decodings
are compared.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diagd_cli.engine.chunk import CHUNK
from diagd_cli.engine.decode import prefill
from diagd_cli.engine.session import Session
from diagd_cli.engine.windows import window_parts
from diagd_cli.model.mask import Mask


@torch.inference_mode()
def token_nll(session: Session, codes: np.ndarray) -> np.ndarray:
    """Negative log-likelihood (nats, temperature 1) float64 [B, new, h, w] of the codes after the
    session's context.

    `session` stands after the context of clips whose codes are int64 [B, context + new, h, w].
    Every token is scored given the true ones before it, in the windows in which the session would
    make them, among all codes and no other ids. One pass over each window; logits exist for a few
    hundred places at once.
    """
    grid, known = session.grid, session.latents
    first, scores = max(0, known - session.window + 1), []
    for context, new in window_parts(
        known - first, codes.shape[1] - known, session.window, session.overlap
    ):
        if known - first > context:
            first = known - context
        window = slice(first, known + new)
        tokens = torch.from_numpy(
            grid.flatten(codes[:, window], session.conditioning[:, window], session.prefix)
        )
        scores.append(_window_nll(session, tokens.to(session.model.device), context, new))
        known += new
    return np.concatenate(scores, axis=1).astype(np.float64)


def _window_nll(session: Session, tokens: Tensor, context: int, new: int) -> np.ndarray:
    """Scores float32 [B, new, h, w] of the codes after `context` frames of a window, tokens int64
    [B, L].
    """
    model, grid, length = session.model, session.grid, tokens.shape[1]
    cache = model.new_cache(len(tokens), length)
    start = grid.position(context, 0, 0) - 1  # its logits are for the first new code
    prefill(model, cache, tokens, np.arange(start), session.cross)
    slots, found = torch.arange(length, device=tokens.device), []
    for part in torch.arange(start, length - 1, device=tokens.device).split(CHUNK):
        extent = int(part[-1]) + 1
        mask = Mask(visible=slots[:extent] <= part[:, None])
        logits = model(tokens[:, part], part, mask, cache, extent, cross=session.cross)
        logits = logits[..., : session.sampling.codes].float()
        # what follows may be a conditioning token: given, not made; its score is dropped below
        targets = tokens[:, part + 1].clamp(max=session.sampling.codes - 1)
        found.append(
            F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(
                targets.shape
            )
        )
    rows = torch.cat(found, dim=1).unflatten(1, (new, grid.block))
    return rows[..., : grid.area].unflatten(2, (grid.h, grid.w)).cpu().numpy()
