"""Logits to token ids. The noise of a token depends on its clip's seed and its place alone, never on the decoding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_GOLDEN, _MIX1, _MIX2 = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15  # SplitMix64, as signed 64-bit


@dataclass(frozen=True)
class Sampling:
    """Temperature 0 is greedy; top_k 0 and top_p 1 keep everything. Ids lie in 0 .. `codes`-1."""

    codes: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


class Sampler:
    """Chooses tokens by the Gumbel-max rule with noise drawn per (seed, place, id), on the device, without a stream.

    seeds: one per clip. places: int64 [positions], the absolute place in the video of each flat position (so that a
    window that rolls goes on drawing fresh noise).
    """

    def __init__(self, sampling: Sampling, seeds: list[int], places: np.ndarray, device=None):
        self.sampling = sampling
        keys = torch.tensor([[_signed(s)] for s in seeds], device=device)
        places = torch.as_tensor(places, device=device)
        self.keys = _mix(_mix(keys * _GOLDEN) + places * _GOLDEN)  # [B, positions]
        self.steps = torch.arange(sampling.codes, device=device) * _GOLDEN

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Ids int64 [B, n] from logits [B, n, vocab] for the tokens at flat positions `targets` [n]."""
        logits = logits[..., : self.sampling.codes].float()
        if self.sampling.temperature == 0:
            return logits.argmax(-1)
        logits = keep_top(logits / self.sampling.temperature, self.sampling.top_k, self.sampling.top_p)
        return (logits + self._gumbel(self.keys[:, targets])).argmax(-1)

    def _gumbel(self, keys: Tensor) -> Tensor:
        """Standard Gumbel noise float32 [..., codes] for keys int64 [...]."""
        bits = _mix(keys.unsqueeze(-1) + self.steps) & 0xFFFFFF
        uniform = ((bits.float() + 0.5) / 0x1000000).clamp(
            max=1 - 2**-24
        )  # the highest would round to 1: infinite noise
        return -torch.log(-torch.log(uniform))


def keep_top(logits: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Set to -inf all but the `top_k` largest (ties kept) and all outside the nucleus of mass `top_p`.

    The nucleus is the shortest run of tokens, by falling probability, whose mass before the last one is at most top_p.
    """
    if top_k and top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], -torch.inf)
    if top_p < 1:
        ordered, index = logits.sort(dim=-1, descending=True)
        mass = ordered.softmax(-1).cumsum(-1)
        outside = (mass - ordered.softmax(-1)) > top_p
        logits = logits.masked_fill(outside.scatter(-1, index, outside), -torch.inf)
    return logits


def _signed(seed: int) -> int:
    return (seed & 0xFFFFFFFFFFFFFFFF) - (1 << 64 if seed & (1 << 63) else 0)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 (products wrap)."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _MIX1
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _MIX2
    return x ^ ((x >> 31) & 0x1FFFFFFFF)
