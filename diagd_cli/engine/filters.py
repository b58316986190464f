"""Truncation of logits before a draw, as pure functions. Logits are float [..., n, vocab].

There are two rules for top-p: the usual nucleus keeps the token that crosses top_p, WHAM's
(`strict`) drops it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def nucleus(logits: Tensor, top_p: float, strict: bool = False) -> tuple[Tensor, Tensor]:
    """The likeliest tokens in falling order.

    logits: float [..., n, vocab].
    top_p: the nucleus is the shortest run of tokens whose mass before the last one is at most this.
    strict: leave out the token that crosses top_p, but never the best.

    Returns logits [..., n, m], -inf outside the nucleus, and their ids int64 [..., n, m], any
    where there is -inf. m is as many as one of them needs: a CPU sorts a few dozen tokens a hundred
    times faster than all; elsewhere all are sorted, so that nothing has to be read back.
    """
    size = logits.shape[-1]
    total = logits.logsumexp(-1, keepdim=True)
    counts = _counts(size) if logits.device.type == "cpu" else [size]
    return _among(counts, logits, total, top_p, strict)


def _among(
    counts: list[int], logits: Tensor, total: Tensor, top_p: float, strict: bool
) -> tuple[Tensor, Tensor]:
    """The nucleus among so many of the likeliest, in turn: who needs more has them, and nobody
    else, so that what is kept of one is never decided by others.
    """
    count, size = counts[0], logits.shape[-1]
    best, ids = logits.topk(count, dim=-1)
    likely = best.softmax(-1) if count == size else (best - total).exp()
    mass = likely.cumsum(-1)
    outside = mass > top_p if strict else mass - likely > top_p
    more = ~outside[..., -1]
    if strict:
        outside[..., :1].fill_(False)
    best = best.masked_fill(outside, -torch.inf)
    if count == size or not more.any():
        return best, ids
    found, found_ids = _among(counts[1:], logits[more], total[more], top_p, strict)
    wider = 0, found.shape[-1] - count
    best, ids = F.pad(best, wider, value=-torch.inf), F.pad(ids, wider)
    best[more], ids[more] = found, found_ids
    return best, ids


def _counts(size: int) -> list[int]:
    """How many of the likeliest tokens are tried for a nucleus."""
    return [count for count in (64, 256, 1024, 4096) if count < size] + [size]


def keep_top(logits: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Logits float [..., n, vocab] with -inf for what is not kept.

    top_k: so many of the largest are kept, and what ties with the last; 0 keeps everything.
    top_p: what is outside the nucleus of this mass is not kept; 1 keeps everything.
    """
    if top_k and top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], -torch.inf)
    if top_p >= 1:
        return logits
    kept, ids = nucleus(logits, top_p)
    return torch.full_like(logits, -torch.inf).scatter_reduce(-1, ids, kept, "amax")
