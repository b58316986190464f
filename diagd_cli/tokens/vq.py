"""What convolutional VQ tokenizers have in common, whatever their official weights call it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Normed(Protocol):
    """What a configuration says of its group norms."""

    @property
    def groups(self) -> int: ...

    @property
    def norm_eps(self) -> float: ...


def group_norm(config: Normed, width: int) -> nn.GroupNorm:
    """A norm over so many channels."""
    return nn.GroupNorm(config.groups, width, eps=config.norm_eps)


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))); where the width changes, x goes through a 1x1
    convolution.

    config: of the norms.
    inputs, width: channels before and after.
    shortcut: what the weights call that convolution.
    """

    def __init__(self, config: Normed, inputs: int, width: int, shortcut: str):
        super().__init__()
        self.norm1 = group_norm(config, inputs)
        self.conv1 = nn.Conv2d(inputs, width, 3, padding=1)
        self.norm2 = group_norm(config, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.shortcut = shortcut if inputs != width else ""
        if self.shortcut:
            self.add_module(shortcut, nn.Conv2d(inputs, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """float [F, width, h, w] of x [F, inputs, h, w]."""
        # one expression, so that nothing but x is kept while the widest convolution works
        y = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return y + (self.get_submodule(self.shortcut)(x) if self.shortcut else x)


def run_through(levels: Iterable[nn.Module], x: Tensor) -> Tensor:
    """x after one level after the other."""
    for level in levels:
        x = level(x)
    return x


class Resample(nn.Module):
    """Half the resolution by a convolution of stride 2, or twice by repeating pixels before a
    convolution.
    """

    def __init__(self, width: int, down: bool):
        super().__init__()
        self.down = down
        stride, padding = (2, 0) if down else (1, 1)
        self.conv = nn.Conv2d(width, width, 3, stride=stride, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """float [F, width, h/2, w/2], or [F, width, 2h, 2w], of x [F, width, h, w]."""
        if self.down:
            return self.conv(F.pad(x, (0, 1, 0, 1)))  # at the right and at the bottom only
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def codebook(codes: int, width: int) -> nn.ModuleDict:
    """A learned codebook, called `embedding`, as official weights have it."""
    # zeros, because drawing normal numbers on the meta device imports half of torch, for seconds
    zeros = torch.zeros(codes, width)
    return nn.ModuleDict({"embedding": nn.Embedding.from_pretrained(zeros, freeze=False)})


def vectors(quantize: nn.ModuleDict) -> Tensor:
    """The vectors float [codes, width] of a codebook."""
    return cast(nn.Embedding, quantize["embedding"]).weight


def check_sides(pixels: Tensor, side: int) -> None:
    """Raise ValueError for pixels [F, C, H, W] that have not three channels, or no whole tokens of
    `side` pixels.
    """
    if pixels.shape[1] != 3 or pixels.shape[2] % side or pixels.shape[3] % side:
        raise ValueError(
            f"pixels are {tuple(pixels.shape[1:])}, the tokenizer takes 3 channels, "
            f"sides of {side}n"
        )
