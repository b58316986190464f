"""Drawing tokens on CUDA by one kernel: no sort, and nothing of the vocabulary's size is written.

Triton comes with PyTorch's builds for CUDA on Linux.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096  # ids of a row that are looked at together
WARP = 512  # of them, to a warp
DEEP = 40.0  # what is likelier by less than e^-40 than the best is in no nucleus
CUTS = 13  # each finds two more bits of where the nucleus ends
GOLDEN: tl.constexpr = tl.constexpr(-0x61C8864680B583EB)
MIX1: tl.constexpr = tl.constexpr(-0x40A7B892E31B1A47)
MIX2: tl.constexpr = tl.constexpr(-0x6B2FB644ECCEEE15)


def draw(
    logits: Tensor, keys: Tensor, temperature: float, top_p: float, strict: bool = False
) -> Tensor:
    """What `Sampler` draws, ids int64 [B, n], but that ids of equal logits are in a nucleus
    together or not at all.

    logits: float [B, n, codes].
    keys: int64 [B, n], of whose hash with an id the noise is.
    temperature: above 0.
    top_p: mass of the nucleus; 1 is everything.
    strict: as of `nucleus`.
    """
    b, n, codes = logits.shape
    ids = keys.new_empty(b, n)
    block = min(BLOCK, triton.next_power_of_2(codes))
    _draw[b * n,](
        logits, keys.contiguous(), ids, *logits.stride(), n, codes, temperature, top_p,
        STRICT=strict, ALL=top_p >= 1, BLOCK=block, CUTS=CUTS, DEEP=DEEP,
        num_warps=max(1, block // WARP),
    )  # fmt: skip
    return ids


@triton.jit
def _draw(
    logits, keys, ids, by_clip, by_row, by_id, n, codes, temperature, top_p,
    STRICT: tl.constexpr, ALL: tl.constexpr, BLOCK: tl.constexpr, CUTS: tl.constexpr,
    DEEP: tl.constexpr,
):  # fmt: skip
    """One token. The logit at which the nucleus ends is searched for by halves and quarters."""
    row = tl.program_id(0).to(tl.int64)
    start = logits + (row // n) * by_clip + (row % n) * by_row
    lane = tl.arange(0, BLOCK)
    most = tl.full([BLOCK], float("-inf"), tl.float32)
    for first in range(0, codes, BLOCK):
        most = tl.maximum(most, _some(start, first + lane, by_id, codes, temperature))
    best = tl.max(most, 0)
    # what is above `low` has more mass than top_p, what is above `high` has not
    low, high = best - DEEP, best
    if not ALL:
        mass = tl.zeros([BLOCK], tl.float32)
        for first in range(0, codes, BLOCK):
            mass += tl.exp(_some(start, first + lane, by_id, codes, temperature) - best)
        enough = top_p * tl.sum(mass, 0)
        for _ in range(CUTS):
            quarter = (high - low) * 0.25
            a, b, c = low + quarter, low + 2 * quarter, low + 3 * quarter
            over_a = tl.zeros([BLOCK], tl.float32)
            over_b = tl.zeros([BLOCK], tl.float32)
            over_c = tl.zeros([BLOCK], tl.float32)
            for first in range(0, codes, BLOCK):
                x = _some(start, first + lane, by_id, codes, temperature)
                likely = tl.exp(x - best)
                over_a += tl.where(x > a, likely, 0.0)
                over_b += tl.where(x > b, likely, 0.0)
                over_c += tl.where(x > c, likely, 0.0)
            from_c = tl.sum(over_c, 0) > enough
            from_b = tl.sum(over_b, 0) > enough
            from_a = tl.sum(over_a, 0) > enough
            low, high = (
                tl.where(from_c, c, tl.where(from_b, b, tl.where(from_a, a, low))),
                tl.where(from_c, high, tl.where(from_b, c, tl.where(from_a, b, a))),
            )
    key = tl.load(keys + row)
    top = tl.full([BLOCK], float("-inf"), tl.float32)
    chosen = tl.zeros([BLOCK], tl.int64)
    for first in range(0, codes, BLOCK):
        index = first + lane
        x = _some(start, index, by_id, codes, temperature)
        if ALL:
            kept = index < codes
        elif STRICT:
            kept = (x > high) | (x == best)
        else:
            kept = x > low
        bits = _mix(key + index.to(tl.int64) * GOLDEN) & 0xFFFFFF
        # the highest would round to 1: infinite noise
        uniform = tl.minimum((bits.to(tl.float32) + 0.5) / 16777216.0, 1.0 - 5.960464477539063e-08)
        score = tl.where(kept, x - tl.log(-tl.log(uniform)), float("-inf"))
        chosen = tl.where(score > top, index.to(tl.int64), chosen)
        top = tl.maximum(top, score)
    highest = tl.max(top, 0)
    tl.store(ids + row, tl.min(tl.where(top == highest, chosen, codes), 0))


@triton.jit
def _some(start, index, by_id, codes, temperature):
    """Some logits of a row over the temperature, -inf behind the last."""
    x = tl.load(start + index.to(tl.int64) * by_id, mask=index < codes, other=float("-inf"))
    return x.to(tl.float32) / temperature


@triton.jit
def _mix(x):
    """As `sample.mix`."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * MIX1
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * MIX2
    return x ^ ((x >> 31) & 0x1FFFFFFFF)
