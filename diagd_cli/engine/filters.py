"""Truncation of logits before a draw, as pure functions. Logits are float [..., n, vocab].

Two rules for top-p are about: the usual nucleus (`keep_top`), and WHAM's (`top_p_strict`), which keeps less. The order
of WHAM's official sampler: temperature, allowed ids, then top-k or top-p (never both), softmax, one draw.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

MIN_TEMPERATURE = 0.1


def clamp_temperature(temperature: float) -> float:
    """The temperature that is divided by: never below 0.1, so 0 is not greedy there."""
    return max(temperature, MIN_TEMPERATURE)


def nucleus(logits: Tensor, top_p: float, strict: bool = False, keep: int = 1) -> tuple[Tensor, Tensor]:
    """The likeliest tokens in falling order: logits [..., n, m], -inf outside the nucleus, and their ids int64 [..., n, m].

    The nucleus is the shortest run of tokens whose mass before the last one is at most top_p; `strict` leaves out the
    token that crosses top_p, but never the `keep` best. m is as many as needed: a CPU sorts a few hundred tokens a
    hundred times faster than all; elsewhere all are sorted, so that nothing has to be read back.
    """
    size, total = logits.shape[-1], logits.logsumexp(-1, keepdim=True)
    for count in _counts(size) if logits.device.type == "cpu" else [size]:
        best, ids = logits.topk(count, dim=-1)
        likely = best.softmax(-1) if count == size else (best - total).exp()
        mass = likely.cumsum(-1)
        outside = mass > top_p if strict else mass - likely > top_p
        if count == size or outside[..., -1].all():
            break
    if strict:
        outside[..., :keep].fill_(False)
    return best.masked_fill(outside, -torch.inf), ids


def _counts(size: int) -> list[int]:
    """How many of the likeliest tokens are tried for a nucleus."""
    return [count for count in (64, 256, 1024, 4096) if count < size] + [size]


def _spread(kept: Tensor, ids: Tensor, like: Tensor) -> Tensor:
    """Logits back at their ids, -inf elsewhere."""
    return torch.full_like(like, -torch.inf).scatter(-1, ids, kept)


def keep_top(logits: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Set to -inf all but the `top_k` largest (ties kept) and all outside the nucleus of mass `top_p`."""
    if top_k and top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], -torch.inf)
    return _spread(*nucleus(logits, top_p), logits) if top_p < 1 else logits


def top_p_strict(logits: Tensor, p: float, keep: int = 1) -> Tensor:
    """Set to -inf all but the most probable tokens whose probabilities, their own included, sum to at most p.

    The token that crosses p is dropped, where the usual nucleus (`keep_top`) keeps it; the `keep` best always stay.
    With 0.5, 0.3, 0.15, 0.05 and p = 0.6 one token stays, not two.
    """
    return _spread(*nucleus(logits, p, strict=True, keep=keep), logits)


def allowed_ids(codes: int, area: int, conditioning: np.ndarray, first: int = 1) -> np.ndarray:
    """Smallest and largest id, int64 [area + A, 2], that each place of one step may hold.

    codes: image ids 0 .. codes-1 at each of `area` places, those below `first` barred at the very first (WHAM bars id
    0). conditioning: int64 [A, 2], the ranges of the tokens after the frame, such as `gamepad.token_ranges`.
    """
    image = np.tile(np.array([0, codes - 1]), (area, 1))
    image[0, 0] = first
    return np.concatenate([image, conditioning]).astype(np.int64)


def keep_allowed(logits: Tensor, ranges: Tensor) -> Tensor:
    """Set to -inf the ids outside ranges [n, 2], inclusive, one range for each of the n rows of logits [..., n, vocab]."""
    ids = torch.arange(logits.shape[-1], device=logits.device)
    low, high = ranges.to(logits.device).unsqueeze(-1).unbind(-2)
    return logits.masked_fill((ids < low) | (ids > high), -torch.inf)


def truncate(
    logits: Tensor, ranges: Tensor, temperature: float, top_k: int = 0, top_p: float | None = None, keep: int = 1
) -> Tensor:
    """All of it in the official order; softmax gives the probabilities of the draw. top_k 0 and top_p None are off.

    Raises ValueError when both are on.
    """
    if top_k and top_p is not None:
        raise ValueError("top-k and top-p exclude each other")
    logits = keep_allowed(logits / clamp_temperature(temperature), ranges)
    return keep_top(logits, top_k) if top_p is None else top_p_strict(logits, top_p, keep)
