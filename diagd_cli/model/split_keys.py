"""Attention of a few queries to many keys, by kernels of our own on CUDA.

PyTorch's kernels give each few rows of queries one multiprocessor, which reads all the keys alone.
Here the keys are shared out among as many multiprocessors as there are, and what they found is put
together after that. What is seen is decided by positions: no matrix of it is made.

Triton comes with PyTorch's builds for CUDA on Linux. Without gradients.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from diagd_cli.model.mask import Span
from diagd_cli.processor import multiprocessors

LEAST = 128  # keys that a program has at least
# bytes of keys that are read at once beside many rows: with them, their values, and those that are
# under way there is room for them in the 99 KB of a small GPU's multiprocessor
LARGE = 8192
LOG2E = 1.4426950408889634


def attention(q: Tensor, k: Tensor, v: Tensor, span: Span, scale: float | None = None) -> Tensor:
    """Scaled dot-product attention, [B, Q, H, D] in q's dtype; of who sees nothing, zeros.

    q: float [B, H, Q, D].
    k, v: float [B, G, S, D], of q's dtype, in which the H/G query heads of a group share a head.
    span: who sees what.
    scale: what the products of queries and keys are multiplied by; None is 1/sqrt(D).
    """
    b, heads, n, dim = q.shape
    kv_heads, slots = k.shape[1:3]
    group, pairs = heads // kv_heads, b * kv_heads
    rows, exact = group * n, q.dtype == torch.float32
    height = min(max(16, triton.next_power_of_2(rows)), 32 if exact else 64)
    width, tiles = triton.next_power_of_2(dim), triton.cdiv(rows, height)
    room = LARGE if exact or height > 32 else 2 * LARGE
    keys = max(16, min(64, room // (width * q.element_size())))
    most = max(1, multiprocessors(q.device) // pairs)
    chunk = max(LEAST, triton.cdiv(triton.cdiv(slots, keys), most) * keys)
    parts = triton.cdiv(slots, chunk)
    sums = q.new_empty(pairs, parts, rows, dim, dtype=torch.float32)
    tops = q.new_empty(2, pairs, parts, rows, dtype=torch.float32)
    low, least = (span.high if bound is None else bound for bound in (span.low, span.least))
    scale = dim**-0.5 if scale is None else scale
    _parts[tiles, pairs, parts](
        q, k, v, span.held, span.high, low, least, sums, tops,
        *q.stride(), *k.stride(), *v.stride(), *map(_by_clip, (span.held, span.high, low, least)),
        span.front, kv_heads, group, n, slots, chunk, parts, pairs, scale * LOG2E,
        ROWS=height, KEYS=keys, DIM=dim, WIDTH=width,
        LOW=span.low is not None, LEAST=span.least is not None,
        PRECISION="ieee" if exact else "tf32", num_warps=4, num_stages=3,
    )  # fmt: skip
    out = q.new_empty(b, n, heads, dim)
    _whole[rows, pairs](
        sums, tops, out, kv_heads, group, n, parts, pairs,
        PARTS=triton.next_power_of_2(parts), DIM=dim, WIDTH=width, num_warps=4,
    )  # fmt: skip
    return out


def _by_clip(positions: Tensor) -> int:
    """Numbers from one clip's positions to the next one's, int64 [n] or [B, n]."""
    return positions.stride(0) if positions.ndim == 2 else 0


@triton.jit
def _parts(
    q, k, v, held, high, low, least, sums, tops,
    q_b, q_h, q_n, q_d, k_b, k_g, k_s, k_d, v_b, v_g, v_s, v_d, held_b, high_b, low_b, least_b,
    front, kv_heads, group, n, slots, chunk, parts, pairs, scale,
    ROWS: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr,
    LOW: tl.constexpr, LEAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What some rows of a group find among one chunk of the keys: the sum of values, weighted by
    2^(score - top), the sum of weights, and the top score.

    A row is a query and one head of the group: row = query * group + head.
    """
    pair, part = tl.program_id(1), tl.program_id(2)
    clip, key_head = (pair // kv_heads).to(tl.int64), pair % kv_heads
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live, query, head = row < group * n, row // group, key_head * group + row % group
    d, lane = tl.arange(0, WIDTH), tl.arange(0, KEYS)
    inside = d < DIM
    at = q + clip * q_b + head[:, None] * q_h + query[:, None] * q_n + d[None, :] * q_d
    queries = tl.load(at, mask=live[:, None] & inside[None, :], other=0.0)
    last = tl.load(high + clip * high_b + query, mask=live, other=-1)
    # positions are told from the last of all, in 32 bits, of which a processor compares more
    origin = tl.max(last, 0)
    last = _near(last - origin)
    if LOW:
        first_seen = _near(tl.load(low + clip * low_b + query, mask=live, other=0) - origin)
    if LEAST:
        least_seen = _near(tl.load(least + clip * least_b + query, mask=live, other=0) - origin)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    weight = tl.zeros([ROWS], tl.float32)
    found = tl.zeros([ROWS, WIDTH], tl.float32)
    keys = k + clip * k_b + key_head.to(tl.int64) * k_g + d[:, None] * k_d
    values = v + clip * v_b + key_head.to(tl.int64) * v_g + d[None, :] * v_d
    end = tl.minimum((part + 1) * chunk, slots)
    for first in range(part * chunk, end, KEYS):
        slot = first + lane
        there = slot < end
        position = tl.load(held + clip * held_b + slot, mask=there, other=1 << 62)
        key = tl.load(keys + slot[None, :] * k_s, mask=inside[:, None] & there[None, :], other=0.0)
        scores = tl.dot(queries, key, input_precision=PRECISION) * scale
        own = _near(position - origin)[None, :]
        seen = own <= last[:, None]
        if LOW:
            seen = seen & ((own >= first_seen[:, None]) | (position < front)[None, :])
        if LEAST:
            seen = seen & (own >= least_seen[:, None])
        scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)  # nothing was seen yet
        likely, fading = tl.exp2(scores - base[:, None]), tl.exp2(top - base)
        weight = weight * fading + tl.sum(likely, 1)
        value = tl.load(
            values + slot[:, None] * v_s, mask=there[:, None] & inside[None, :], other=0.0
        )
        found = tl.dot(
            likely.to(value.dtype), value, found * fading[:, None], input_precision=PRECISION
        )
        top = higher
    place = (pair.to(tl.int64) * parts + part) * group * n + row
    tl.store(sums + place[:, None] * DIM + d[None, :], found, mask=live[:, None] & inside[None, :])
    tl.store(tops + place, top, mask=live)
    tl.store(tops + pairs.to(tl.int64) * parts * group * n + place, weight, mask=live)


@triton.jit
def _near(distance):
    """Int64 as int32; what is farther off than that is as far off as can be."""
    return tl.minimum(tl.maximum(distance, -(1 << 30)), 1 << 30).to(tl.int32)


@triton.jit
def _whole(
    sums, tops, out, kv_heads, group, n, parts, pairs,
    PARTS: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One row's parts, put together, where its query and head lie in `out`; zeros where it sees
    nothing.
    """
    row, pair = tl.program_id(0), tl.program_id(1).to(tl.int64)
    rows = group * n
    d, part = tl.arange(0, WIDTH), tl.arange(0, PARTS)
    there = part < parts
    place = (pair * parts + part) * rows + row
    top = tl.load(tops + place, mask=there, other=float("-inf"))
    highest = tl.max(top, 0)
    share = tl.exp2(top - tl.where(highest == float("-inf"), 0.0, highest))
    whole = tl.sum(share * tl.load(tops + pairs * parts * rows + place, mask=there, other=0.0), 0)
    mask = there[:, None] & (d < DIM)[None, :]
    found = tl.load(sums + place[:, None] * DIM + d[None, :], mask=mask, other=0.0)
    mean = tl.sum(found * share[:, None], 0) / tl.where(whole == 0.0, 1.0, whole)
    head = (pair % kv_heads) * group + row % group
    at = ((pair // kv_heads) * n + row // group) * kv_heads * group + head
    tl.store(out + at * DIM + d, mean.to(out.dtype.element_ty), mask=d < DIM)
