"""How positions enter: rotary angles over a flat index or over (t, i, j), for any t, the fixed 3-D
table of Cosmos Video2World, and learned tables.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from diagd_cli.model.config import Positions, Yarn


def rope_angles(config: Positions, coords: Tensor, head_dim: int) -> Tensor:
    """Angles float64 [L, head_dim / 2] for coordinates `coords` int64 [L, 3] (t, i, j).

    `rope-1d` ignores the coordinates: the position is the index itself. Frequencies are rounded to
    float32, as official code has them, and their products with positions are not: at t = 10^6
    float32 would be off by a sixteenth of a radian.
    """
    if config.kind == "rope-1d":
        index = torch.arange(len(coords), dtype=torch.float64)
        own = torch.tensor(config.frequencies, dtype=torch.float32)
        frequency = own if config.frequencies else _frequencies(head_dim, config.base)
        return torch.outer(index, frequency.double())
    spatial, temporal = _axis_sizes(head_dim) if config.kind == "rope-3d" else (head_dim // 2, 0)
    parts = [
        torch.outer(coords[:, axis].double(), _axis_frequencies(size, axis, config).double())
        for axis, size in enumerate((temporal, spatial, spatial))
    ]
    return torch.cat(parts, dim=1)


def rope_table(config: Positions, coords: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each float32 [L, head_dim], for coordinates `coords` int64 [L, 3].

    Half-split layout: the angle of channel c and of channel c + head_dim/2 is the same.
    """
    angles = rope_angles(config, coords, head_dim).repeat(1, 2)
    return angles.cos().float(), angles.sin().float()


class Rotary:
    """Cosines and sines of any position: the angles of a frame's places, and of a frame's time.

    No table has to reach as far as the positions, and none is a part of a model's state: float64
    stays float64 whatever a model is brought to.

    config: of any kind but `learned`.
    coords: int64 [L, 3], of the positions from 0 on, one latent frame at least; what follows
        repeats that frame at later t.
    prefix: positions before the first frame.
    head_dim: channels of a head.
    """

    def __init__(self, config: Positions, coords: Tensor, prefix: int, head_dim: int):
        self.config, self.coords, self.head_dim = config, coords, head_dim
        self.prefix = 0 if config.kind == "rope-1d" else prefix
        self.zeros = prefix if config.prefix == "zero" else 0  # positions without an angle
        self._lying: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and `signed` sines, each [..., Q, 1, head_dim], of positions int64 [..., Q]."""
        if positions.device not in self._lying:
            self._lying[positions.device] = self._frame(positions.device)
        places, later = self._lying[positions.device]
        index = (positions - self.prefix).clamp(min=0)  # the prefix stands at (0, 0, 0)
        t = index.div(len(places), rounding_mode="floor")
        angles = torch.addcmul(places[index - t * len(places)], t.double().unsqueeze(-1), later)
        cos, sin = angles.cos().to(dtype).unsqueeze(-2), angles.sin().to(dtype).unsqueeze(-2)
        if self.zeros:
            turned = (positions >= self.zeros).to(dtype)[..., None, None]
            cos, sin = cos * turned, sin * turned
        return cos, sin

    @torch.inference_mode(False)  # whoever comes first, training may follow
    def _frame(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Angles float64 of the first frame's places [block, head_dim], and [1, head_dim] that
        every frame adds; of `rope-1d` a position is a frame.
        """
        if self.config.kind == "rope-1d":
            first = torch.zeros(1, 3, dtype=torch.int64)
        else:
            coords = self.coords[self.prefix :].cpu()
            first = coords[coords[:, 0] == 0]
        next_one = torch.tensor([[0, 0, 0], [1, 0, 0]])
        tables = []
        for coords in (first, next_one):
            angles = rope_angles(self.config, coords, self.head_dim)
            # a sign a half: sines come out `signed`, and cosines do not mind
            tables.append(torch.cat([-angles, angles], dim=1).to(device))
        return tables[0], tables[1][1:]


def signed(sin: Tensor) -> Tensor:
    """The sines as `rotate` takes them: minus in the first half of the channels."""
    first, second = sin.chunk(2, dim=-1)
    return torch.cat([-first, second], dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [B, Q, H, D] by the tables [Q, 1, D] or [B, Q, 1, D], sin `signed`: (a, b) -> (a cos
    - b sin, b cos + a sin).
    """
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


def learned_table(config: Positions, positions: int, dim: int) -> nn.Module:
    """What gives learned vectors float [Q, dim] of positions int64 [Q] below `positions`."""
    if not config.places:
        return nn.Embedding(positions, dim)
    return FramesAndPlaces(config.frames(positions), config.places, dim)


class FramesAndPlaces(nn.Module):
    """Learned positions as the sum of two tables: of the frame, and of the place in it."""

    def __init__(self, frames: int, places: int, dim: int):
        super().__init__()
        self.frames, self.places = nn.Embedding(frames, dim), nn.Embedding(places, dim)

    def forward(self, positions: Tensor) -> Tensor:
        """Vectors float [Q, dim] of positions int64 [Q]; what lies behind the last frame counts as
        in it.
        """
        places = self.places.num_embeddings
        frame = positions.div(places, rounding_mode="floor").clamp(
            max=self.frames.num_embeddings - 1
        )
        return self.frames(frame) + self.places(positions % places)


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
