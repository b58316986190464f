"""Logits to token ids. The noise of a token depends on its clip's seed and its place alone, never on the decoding."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diagd_cli.engine.filters import keep_top, nucleus
from diagd_cli.tokens.sampling import Sampling

COLD = 1e-6  # temperatures below this are greedy: logits divided by less leave the range of float32
_GOLDEN, _MIX1, _MIX2 = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15  # SplitMix64, as signed 64-bit


class Sampler:
    """Chooses tokens by the Gumbel-max rule with noise drawn per (seed, place, id), on the device, without a stream.

    seeds: one per clip. places: int64 [positions], the absolute place in the video of each flat position (so that a
    window that rolls goes on drawing fresh noise). opening: bool [positions], where a frame's first token lies
    (`Grid.opening`); a sampling with `first` needs it, and raises ValueError without.
    """

    def __init__(
        self, sampling: Sampling, seeds: list[int], places: np.ndarray, opening: np.ndarray | None = None, device=None
    ):
        if sampling.first and opening is None:
            raise ValueError(f"first is {sampling.first}: give opening, where frames begin (Grid.opening)")
        self.sampling = sampling
        keys = torch.tensor([[_signed(s)] for s in seeds], device=device)
        places = torch.as_tensor(places, device=device)
        self.keys = _mix(_mix(keys * _GOLDEN) + places * _GOLDEN)  # [B, positions]
        self.ids = torch.arange(sampling.codes, device=device)
        self.opening = torch.as_tensor(opening, device=device) if sampling.first and opening is not None else None

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Ids int64 [B, n] from logits [B, n, vocab] for the tokens at flat positions `targets` [n]."""
        s = self.sampling
        logits = logits[..., : s.codes].float()
        if self.opening is not None:
            logits = logits.masked_fill(self.opening[targets].unsqueeze(-1) & (self.ids < s.first), -torch.inf)
        if s.temperature < COLD:
            return logits.argmax(-1)
        logits, ids = keep_top(logits / s.temperature, s.top_k), self.ids
        if s.top_p < 1:
            logits, ids = nucleus(logits, s.top_p, s.top_p_rule == "strict")
        chosen = (logits + self._gumbel(self.keys[:, targets], ids)).argmax(-1, keepdim=True)
        return (chosen if ids is self.ids else ids.gather(-1, chosen)).squeeze(-1)

    def _gumbel(self, keys: Tensor, ids: Tensor) -> Tensor:
        """Standard Gumbel noise float32 [..., m] for keys int64 [...] and ids int64 [..., m] or [m]."""
        bits = _mix(keys.unsqueeze(-1) + ids * _GOLDEN) & 0xFFFFFF
        # the highest would round to 1: infinite noise
        uniform = ((bits.float() + 0.5) / 0x1000000).clamp(max=1 - 2**-24)
        return -torch.log(-torch.log(uniform))


def _signed(seed: int) -> int:
    return (seed & 0xFFFFFFFFFFFFFFFF) - (1 << 64 if seed & (1 << 63) else 0)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 (products wrap)."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _MIX1
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _MIX2
    return x ^ ((x >> 31) & 0x1FFFFFFFF)
