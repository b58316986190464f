"""Position tables: rotary angles over a flat index or over (t, i, j), and the fixed 3-D table of
Cosmos Video2World.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diagd_cli.model.config import Positions, Yarn


def rope_table(config: Positions, coords: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each float32 [L, head_dim], for coordinates `coords` int64 [L, 3] (t, i,
    j).

    Half-split layout: the angle of channel c and of channel c + head_dim/2 is the same.
    `rope-1d` ignores the coordinates: the position is the index itself.
    """
    if config.kind == "rope-1d":
        index = torch.arange(len(coords), dtype=torch.float32)
        angles = torch.outer(index, _frequencies(head_dim, config.base))
    else:
        spatial, temporal = _axis_sizes(head_dim)
        parts = [
            torch.outer(coords[:, axis].float(), _axis_frequencies(size, axis, config))
            for axis, size in enumerate((temporal, spatial, spatial))
        ]
        angles = torch.cat(parts, dim=1)
    angles = torch.cat([angles, angles], dim=1)
    return angles.cos(), angles.sin()


def signed(sin: Tensor) -> Tensor:
    """The sines as `rotate` takes them: minus in the first half of the channels."""
    first, second = sin.chunk(2, dim=-1)
    return torch.cat([-first, second], dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [..., Q, H, D] by the tables [Q, 1, D], sin `signed`: (a, b) -> (a cos - b sin, b
    cos + a sin).
    """
    a, b = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat([b, a], dim=-1), sin)


def absolute_table(coords: Tensor, dim: int, prefix: int) -> Tensor:
    """Fixed sine/cosine table [L, dim], rounded to bfloat16 as in the official code; rows <
    `prefix` are zero.

    Per axis of size s: all sines, then all cosines, of p * 10000^(-i / (s/2)); axes in the order t,
    i, j.
    """
    spatial, temporal = _axis_sizes(dim)
    sizes = temporal, spatial, spatial
    table = torch.empty(len(coords), sum(sizes), dtype=torch.bfloat16)
    for place, size, part in zip(coords.unbind(1), sizes, table.split(sizes, dim=1), strict=True):
        frequency = 10000.0 ** (-torch.arange(size // 2, dtype=torch.float64) / (size / 2))
        angle = torch.outer(torch.arange(int(place.max()) + 1, dtype=torch.float64), frequency)
        axis = torch.cat([angle.sin(), angle.cos()], dim=1).to(torch.bfloat16)
        part.copy_(axis[place])  # sines of a few coordinates, not of every position
    table[:prefix] = 0
    return table


def _axis_sizes(dim: int) -> tuple[int, int]:
    """Channels of each spatial axis and of the temporal axis: 2*floor(dim/6) twice, the rest for
    time.
    """
    spatial = dim // 6 * 2
    return spatial, dim - 2 * spatial


def _frequencies(size: int, base: float) -> Tensor:
    return 1.0 / base ** (torch.arange(0, size, 2, dtype=torch.float32) / size)


def _axis_frequencies(size: int, axis: int, config: Positions) -> Tensor:
    frequency = _frequencies(size, config.base)
    return _yarn(frequency, axis, config.yarn) if config.yarn else frequency


def _yarn(frequency: Tensor, axis: int, yarn: Yarn) -> Tensor:
    """Slow frequencies are divided by the scale, fast ones kept, with a linear blend between (both
    spatial axes use h).
    """
    length = yarn.original[0 if axis == 0 else 1]
    high = 2 * math.pi * yarn.beta_fast / length
    low = 2 * math.pi * yarn.beta_slow / length
    keep = ((frequency - low) / (high - low)).clamp(0, 1)
    return frequency * ((1 - keep) / yarn.scale + keep)
