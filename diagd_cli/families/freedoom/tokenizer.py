"""The shipped tokenizer: a small convolutional autoencoder whose latents are rounded by FSQ, frame
by frame.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagd_cli.families.freedoom.config import FsqImageConfig
from diagd_cli.tokens.fsq import FSQ


class FsqImageTokenizer(nn.Module):
    """Frames uint8 [F, H, W, 3] <-> codes int64 [F, H/8, W/8]."""

    def __init__(self, config: FsqImageConfig):
        super().__init__()
        self.config = config
        fine, coarse = config.channels
        kernel = config.kernel
        self.quantiser = FSQ(config.levels)
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, fine, 3, padding=1),
            *(ConvBlock(fine, kernel) for _ in range(config.encoder[0])),
            nn.Conv2d(fine, coarse, 2, stride=2),
            *(ConvBlock(coarse, kernel) for _ in range(config.encoder[1])),
            ChannelNorm(coarse),
            nn.Conv2d(coarse, len(config.levels), 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(len(config.levels), coarse, 3, padding=1),
            *(ConvBlock(coarse, kernel) for _ in range(config.decoder[1])),
            nn.Conv2d(coarse, fine * 4, 1),
            nn.PixelShuffle(2),
            *(ConvBlock(fine, kernel) for _ in range(config.decoder[0])),
            ChannelNorm(fine),
            nn.Conv2d(fine, 48, 3, padding=1),
            nn.PixelShuffle(4),
        )

    @property
    def codebook(self) -> int:
        """Number of codes."""
        return self.quantiser.size

    def forward(self, pixels: Tensor) -> Tensor:
        """Reconstruction of pixels float [F, 3, H, W] in [-1, 1], with a straight-through gradient;
        for training.
        """
        z = self.encoder(pixels).movedim(1, -1)
        return self.decoder(self.quantiser.quantise(z).movedim(-1, 1))

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> Tensor:
        """Codes int64 [F, h, w] of frames uint8 [F, H, W, 3]; H and W must be multiples of 8."""
        return self.quantiser.indices(self.encoder(to_pixels(frames, self._weight)).movedim(1, -1))

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """Frames uint8 [F, H, W, 3] of codes int64 [F, h, w]."""
        z = self.quantiser.codes(codes).movedim(-1, 1).to(self._weight.dtype)
        return to_frames(self.decoder(z))

    @property
    def _weight(self) -> Tensor:
        return cast(nn.Conv2d, self.decoder[0]).weight


def to_pixels(frames: Tensor, like: Tensor) -> Tensor:
    """uint8 [F, H, W, 3] -> [-1, 1], [F, 3, H, W] in the dtype and on the device of `like`."""
    return frames.to(like.device).movedim(-1, 1).to(like.dtype) / 127.5 - 1


def to_frames(pixels: Tensor) -> Tensor:
    """[-1, 1], [F, 3, H, W] -> uint8 [F, H, W, 3], rounded."""
    return ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(1, -1)


class ConvBlock(nn.Module):
    """Residual block: depthwise convolution, norm over channels, two 1x1 convolutions (ConvNeXt's
    order, half its width).
    """

    def __init__(self, channels: int, kernel: int):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = ChannelNorm(channels)
        self.up = nn.Conv2d(channels, 2 * channels, 1)
        self.down = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.silu(self.up(self.norm(self.depthwise(x)))))


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each pixel of [F, C, H, W]: no statistic leaves the pixel."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)
