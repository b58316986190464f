"""Logits to token ids. The noise of a token depends on its clip's seed and its place alone."""

from __future__ import annotations

import torch
from torch import Tensor

from diagd_cli.engine.filters import keep_top, nucleus
from diagd_cli.model.own import own_kernels
from diagd_cli.tokens.grid import Grid
from diagd_cli.tokens.sampling import Sampling

GREEDY_BELOW = 1e-6  # temperature: logits divided by less leave the range of float32
# of SplitMix64, as signed 64-bit numbers
_GOLDEN, _MIX1, _MIX2 = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


class Sampler:
    """Chooses tokens by the Gumbel-max rule, with noise that is a hash of (seed, place, id).

    Everything lies on the device, and there is no stream of random numbers.

    sampling: how tokens are drawn.
    seeds: one a clip.
    grid: how latent frames lie in the sequence, for a sampling with `first`.
    device: where the logits will be.

    `origin`, int64 [B, 1], is the place of position 0 in each clip's video: a window that rolls
    goes on drawing fresh noise. It is written in place, where a CUDA graph that draws reads it.

    Raises ValueError for a sampling with `first` without a grid.
    """

    def __init__(
        self,
        sampling: Sampling,
        seeds: list[int],
        grid: Grid | None = None,
        device: torch.device | str | None = None,
    ):
        if sampling.first and grid is None:
            raise ValueError(f"first is {sampling.first}: give the grid, where frames begin")
        self.sampling, self.grid = sampling, grid
        signed = torch.tensor([[_signed(seed)] for seed in seeds], device=device)
        self.seeds = mix(signed * _GOLDEN)  # [B, 1]
        self.origin = torch.zeros_like(self.seeds)
        self.ids = torch.arange(sampling.codes, device=device)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Draw tokens.

        logits: [B, n, vocab].
        targets: int64 [n], the flat positions where they go.

        Returns ids int64 [B, n].
        """
        if self._by_kernel(logits.device):
            from diagd_cli.engine.draw import draw

            s, keys = self.sampling, self._keys(targets)
            logits = self._barred(logits[..., : s.codes], targets)
            return draw(logits, keys, s.temperature, s.top_p, s.top_p_rule == "strict")
        return self.by_scores(logits, targets)

    def by_scores(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The same from `scores`, on any device."""
        scores, ids = self.scores(logits, targets)
        chosen = scores.argmax(-1, keepdim=True)
        return (chosen if ids is self.ids else ids.gather(-1, chosen)).squeeze(-1)

    def scores(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Of what is drawn the largest one decides: float32 [B, n, m], and ids int64 [B, n, m], or
        [m] where they are all; the parameters are those of a call.
        """
        s = self.sampling
        logits = self._barred(logits[..., : s.codes].float(), targets)
        if s.temperature < GREEDY_BELOW:
            return logits, self.ids
        logits, ids = keep_top(logits / s.temperature, s.top_k), self.ids
        if s.top_p < 1:
            logits, ids = nucleus(logits, s.top_p, s.top_p_rule == "strict")
        return logits + self._gumbel(self._keys(targets), ids), ids

    def _by_kernel(self, device: torch.device) -> bool:
        """Whether the draw is one kernel: of a GPU, and where no number of ids is asked for."""
        s = self.sampling
        return own_kernels(device) and s.temperature >= GREEDY_BELOW and not s.top_k

    def _barred(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits [B, n, codes], with -inf for ids that no frame begins with."""
        if not self.sampling.first or self.grid is None:
            return logits
        index = targets - self.grid.prefix
        opening = (index >= 0) & (index.remainder(self.grid.block) == 0)
        barred = opening.unsqueeze(-1) & (self.ids < self.sampling.first)
        return logits.masked_fill(barred, -torch.inf)

    def _keys(self, targets: Tensor) -> Tensor:
        """What the noise of each token is a hash of, with its id: int64 [B, n]."""
        return mix(self.seeds + (targets + self.origin) * _GOLDEN)

    def _gumbel(self, keys: Tensor, ids: Tensor) -> Tensor:
        """Standard Gumbel noise float32 [..., m]; keys: int64 [...]; ids: int64 [..., m] or [m]."""
        bits = mix(keys.unsqueeze(-1) + ids * _GOLDEN) & 0xFFFFFF
        # the highest would round to 1: infinite noise
        uniform = ((bits.float() + 0.5) / 0x1000000).clamp(max=1 - 2**-24)
        return -torch.log(-torch.log(uniform))


def _signed(seed: int) -> int:
    return (seed & 0xFFFFFFFFFFFFFFFF) - (1 << 64 if seed & (1 << 63) else 0)


def mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 (products wrap)."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _MIX1
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _MIX2
    return x ^ ((x >> 31) & 0x1FFFFFFFF)
