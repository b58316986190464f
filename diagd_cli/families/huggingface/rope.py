"""Rotary positions by the names that `config.json` has for them: each rule as the frequencies that
it makes, and what it multiplies cosines and sines by. Torch-free.

Rules: Chen et al. 2023 (linear), Peng et al. 2023 (yarn), Ding et al. 2024 (longrope), Llama 3.1.
In float32, as the library computes them.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

Factor = Annotated[float, Field(gt=0, le=1e6)]
Factors = Annotated[list[Factor], Field(max_length=512)]
Length = Annotated[int, Field(gt=1, le=1 << 40)]


class Rope(BaseModel):
    """What `rope_parameters`, or `rope_scaling` in older files, may hold; the library's names."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    rope_type: str = "default"
    rope_theta: float = Field(default=10000.0, gt=1, le=1e15)
    factor: Factor | None = None
    original_max_position_embeddings: Length
    low_freq_factor: Factor | None = None
    high_freq_factor: Factor | None = None
    attention_factor: Annotated[float, Field(gt=0, le=1e3)] | None = None
    beta_fast: Factor | None = None
    beta_slow: Factor | None = None
    mscale: Factor | None = None
    mscale_all_dim: Factor | None = None
    truncate: bool = True
    short_factor: Factors | None = None
    long_factor: Factors | None = None

    def missing(self) -> list[str]:
        """Keys that its rule cannot do without."""
        return [name for name in NEEDED[self.rope_type] if getattr(self, name) is None]


NEEDED = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "longrope": ("short_factor", "long_factor"),
}
# whose angles are others once a sequence is longer than the original one
BOUND = ("dynamic", "longrope")


def frequencies(rope: Rope, head_dim: int) -> np.ndarray:
    """Radians a position, float32 [head_dim / 2], of a sequence within the original length."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    turns = np.float32(1) / np.float32(rope.rope_theta) ** exponents
    if rope.rope_type == "linear":
        return turns / np.float32(_given(rope.factor))
    if rope.rope_type == "yarn":
        return _yarn(rope, turns, head_dim)
    if rope.rope_type == "llama3":
        return _llama3(rope, turns)
    if rope.rope_type == "longrope":
        return turns / np.array(rope.short_factor, dtype=np.float32)
    return turns


def magnitude(rope: Rope, longest: int) -> float:
    """What cosines and sines are multiplied by; `longest`: max_position_embeddings."""
    if rope.rope_type not in ("yarn", "longrope"):
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor
    original = rope.original_max_position_embeddings
    factor = rope.factor or longest / original
    if rope.rope_type == "longrope":
        return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    if rope.mscale and rope.mscale_all_dim:
        return _grown(factor, rope.mscale) / _grown(factor, rope.mscale_all_dim)
    return _grown(factor)


def _grown(factor: float, scale: float = 1.0) -> float:
    return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0


def _yarn(rope: Rope, turns: np.ndarray, head_dim: int) -> np.ndarray:
    """Slow channels are divided by the factor, fast ones kept, with a ramp over channels between.
    The ramp's ends are where a channel turns `beta` times within the original length.
    """

    def channel(beta: float) -> float:
        length = rope.original_max_position_embeddings / (beta * 2 * math.pi)
        return head_dim * math.log(length) / (2 * math.log(rope.rope_theta))

    low, high = channel(rope.beta_fast or 32.0), channel(rope.beta_slow or 1.0)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    width = high - low or 0.001
    ramp = ((np.arange(len(turns), dtype=np.float32) - np.float32(low)) / np.float32(width)).clip(
        0, 1
    )
    return turns / np.float32(_given(rope.factor)) * ramp + turns * (1 - ramp)


def _llama3(rope: Rope, turns: np.ndarray) -> np.ndarray:
    """Waves longer than original / low are divided by the factor, those shorter than original /
    high are kept, with a ramp over frequencies between.
    """
    low, high = _given(rope.low_freq_factor), _given(rope.high_freq_factor)
    rounds = rope.original_max_position_embeddings / (2 * math.pi / turns.astype(np.float64))
    ramp = ((rounds - low) / (high - low)).clip(0, 1).astype(np.float32)
    return turns / np.float32(_given(rope.factor)) * (1 - ramp) + turns * ramp


def _given(value: float | None) -> float:
    assert value is not None, "`missing` has been asked"
    return value
