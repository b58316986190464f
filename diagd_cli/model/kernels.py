"""What a Transformer does between its products, by kernels of our own on CUDA: each does at once
what takes PyTorch two to ten, rounded where those would round.

Triton comes with PyTorch's builds for CUDA on Linux. Without gradients.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from diagd_cli.model.eight_bits import FORMATS, TINY, Scaled


def normed(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """As `RMSNorm`, of x [..., dim]; weight: [dim]."""
    y, dim = torch.empty_like(x, memory_format=torch.contiguous_format), x.shape[-1]
    x = x.contiguous()
    width = triton.next_power_of_2(dim)
    _normed[x.numel() // dim,](
        x, x if weight is None else weight, y, eps,
        WEIGHTED=weight is not None, DIM=dim, WIDTH=width, num_warps=min(8, max(1, width // 512)),
    )  # fmt: skip
    return y


@triton.jit
def _normed(
    x, weight, y, eps, WEIGHTED: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    d, row = tl.arange(0, WIDTH), tl.program_id(0).to(tl.int64) * DIM
    own = tl.load(x + row + d, mask=d < DIM, other=0.0).to(tl.float32)
    own = (own * tl.rsqrt(tl.sum(own * own, 0) / DIM + eps)).to(y.dtype.element_ty)
    if WEIGHTED:
        own = own * tl.load(weight + d, mask=d < DIM, other=0.0)
    tl.store(y + row + d, own, mask=d < DIM)


def gated(x: Tensor) -> Tensor:
    """silu(a) * b, [..., m], of x [..., 2 * m], which is a beside b."""
    m = x.shape[-1] // 2
    y = x.new_empty(*x.shape[:-1], m)
    x, rows = x.contiguous(), y.numel() // m
    _gated[rows, triton.cdiv(m, 1024)](x, y, m, BLOCK=1024, num_warps=4)
    return y


@triton.jit
def _gated(x, y, m, BLOCK: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(x + row * 2 * m + at, mask=at < m, other=0.0).to(tl.float32)
    up = tl.load(x + row * 2 * m + m + at, mask=at < m, other=0.0)
    tl.store(y + row * m + at, (gate * tl.sigmoid(gate)).to(up.dtype) * up, mask=at < m)


def remembered(
    qkv: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
    rope: tuple[Tensor, Tensor] | None,
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
) -> Tensor:
    """Queries [B, Q, H, D], normed and rotated; keys, alike, and values go into the cache.

    qkv: float [B, Q, H + 2 * G, D], queries, keys and values by head.
    norms: weights [D] of the `RMSNorm` of queries and of keys; None is without.
    rope: cosines and `signed` sines, as of `rotate`; None is without.
    slots: int64 [Q], or [B, Q], where keys and values go.
    keys, values: [B, G, S, D], written.
    """
    b, n, all_heads, dim = qkv.shape
    kv_heads = keys.shape[1]
    heads = all_heads - 2 * kv_heads
    q, qkv, slots = qkv.new_empty(b, n, heads, dim), qkv.contiguous(), slots.contiguous()
    cos, sin = (qkv, qkv) if rope is None else (part.contiguous() for part in rope)
    _remembered[b * n, all_heads](
        qkv, *(norms or (qkv, qkv)), cos, sin, slots, q, keys, values, n, heads, kv_heads, eps,
        n if rope is not None and cos.ndim == 4 else 0, n if slots.ndim == 2 else 0,
        *keys.stride(), *values.stride(),
        NORM=norms is not None, ROPE=rope is not None, DIM=dim,
        WIDTH=triton.next_power_of_2(dim), num_warps=1,
    )  # fmt: skip
    return q


@triton.jit
def _remembered(
    qkv, q_weight, k_weight, cos, sin, slots, q, keys, values, n, heads, kv_heads, eps,
    cos_b, slots_b, k_b, k_g, k_s, k_d, v_b, v_g, v_s, v_d,
    NORM: tl.constexpr, ROPE: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One head of one token."""
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    clip, row = token // n, token % n
    d = tl.arange(0, WIDTH)
    inside, across = d < DIM, (d + DIM // 2) % DIM  # the channel that one is rotated with
    start = qkv + (token * (heads + 2 * kv_heads) + head) * DIM
    x = tl.load(start + d, mask=inside, other=0.0)
    kind = x.dtype
    if head < heads + kv_heads:
        y = tl.load(start + across, mask=inside, other=0.0)
        if NORM:
            own = x.to(tl.float32)
            length = tl.rsqrt(tl.sum(own * own, 0) / DIM + eps)
            if head < heads:  # noqa: SIM108  (Triton)
                weight = q_weight
            else:
                weight = k_weight
            x = (own * length).to(kind) * tl.load(weight + d, mask=inside, other=0.0)
            y = (y.to(tl.float32) * length).to(kind)
            y = y * tl.load(weight + across, mask=inside, other=0.0)
        if ROPE:
            turn = (clip * cos_b + row) * DIM + d
            c = tl.load(cos + turn, mask=inside, other=0.0)
            s = tl.load(sin + turn, mask=inside, other=0.0)
            x = ((x * c).to(tl.float32) + y.to(tl.float32) * s.to(tl.float32)).to(kind)
    if head < heads:
        tl.store(q + (token * heads + head) * DIM + d, x, mask=inside)
    else:
        slot = tl.load(slots + clip * slots_b + row)
        if head < heads + kv_heads:
            key = keys + clip * k_b + (head - heads).to(tl.int64) * k_g
            tl.store(key + slot * k_s + d * k_d, x, mask=inside)
        else:
            value = values + clip * v_b + (head - heads - kv_heads).to(tl.int64) * v_g
            tl.store(value + slot * v_s + d * v_d, x, mask=inside)


def rounded(x: Tensor) -> Scaled:
    """Float x [rows, columns] as float8, as `quantise`."""
    rows, columns = x.shape
    form, x = FORMATS["fp8"], x.contiguous()
    values, scale = (
        x.new_empty(x.shape, dtype=form.dtype),
        x.new_empty(rows, 1, dtype=torch.float32),
    )
    _rounded[rows,](
        x, values, scale, columns, form.largest, TINY * form.largest, BLOCK=2048, num_warps=4
    )  # fmt: skip
    return Scaled(values, scale)


@triton.jit
def _rounded(x, values, scale, columns, largest, tiny, BLOCK: tl.constexpr):
    start, lane = tl.program_id(0).to(tl.int64) * columns, tl.arange(0, BLOCK)
    most = tl.zeros([BLOCK], tl.float32)
    for first in range(0, columns, BLOCK):
        at = first + lane
        own = tl.load(x + start + at, mask=at < columns, other=0.0).to(tl.float32)
        most = tl.maximum(most, tl.abs(own))
    one = tl.maximum(tl.max(most, 0), tiny) / largest
    tl.store(scale + tl.program_id(0), one)
    for first in range(0, columns, BLOCK):
        at = first + lane
        own = tl.load(x + start + at, mask=at < columns, other=0.0).to(tl.float32) / one
        own = tl.minimum(tl.maximum(own, -largest), largest)
        tl.store(values + start + at, own.to(values.dtype.element_ty), mask=at < columns)
