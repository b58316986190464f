"""MineWorld's tokenizer: a convolutional encoder, the nearest code of a learned codebook, a
convolutional decoder.

It is the VQ-VAE of aMUSEd, fine-tuned on Minecraft video (appendix G of the Diagonal Decoding
paper). The modules bear the names of the official weights (those of the VQ model in the library
diffusers), so that no map of names is needed; a wrapper that looks idle, such as `Resample`, stands
for a part of a name.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagd_cli.families.mineworld.config import VqImageConfig
from diagd_cli.tokens.vq import (
    Resample,
    ResBlock,
    check_sides,
    codebook,
    group_norm,
    run_through,
    vectors,
)

# bounds the memory; a frame of 224x384 pixels keeps a processor busy: 0.6 TFLOP to decode
FRAMES_AT_ONCE = 1
# residual blocks between the last encoder level and the code, and again before the first decoder
# level
MIDDLE = 2


class VqImageTokenizer(nn.Module):
    """Frames uint8 [F, H, W, 3] <-> codes int64 [F, h, w]; H and W are multiples of
    `config.spatial`.

    C latent channels, E the width of a code, N codes.
    """

    def __init__(self, config: VqImageConfig):
        super().__init__()
        self.config = config
        width = config.code_dim or config.latent
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(config.latent, width, 1)
        self.quantize = codebook(config.codebook, width)
        self.post_quant_conv = nn.Conv2d(width, config.latent, 1)
        self.decoder = Decoder(config)

    @property
    def codebook(self) -> int:
        """Number of codes."""
        return self.config.codebook

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> Tensor:
        """Codes int64 [F, h, w] of frames uint8 [F, H, W, 3]. Raises ValueError for sizes that do
        not divide.
        """
        return torch.cat(
            [
                self.encode_pixels(to_pixels(part, self._codes))
                for part in frames.split(FRAMES_AT_ONCE)
            ]
        )

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """Frames uint8 [F, H, W, 3] of codes int64 [F, h, w]."""
        return torch.cat(
            [to_frames(self.decode_pixels(part)) for part in codes.split(FRAMES_AT_ONCE)]
        )

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Codes int64 [F, h, w] of pixels float [F, 3, H, W] in [-1, 1]: the nearest by Euclidean
        distance.
        """
        z = self.embed(pixels).movedim(1, -1).float()
        # frame by frame: the distances of one frame to all codes are already the largest tensor
        flat, codes = z.flatten(1, 2), self._codes.float()
        return torch.stack([torch.cdist(frame, codes).argmin(-1) for frame in flat]).unflatten(
            1, z.shape[1:3]
        )

    def embed(self, pixels: Tensor) -> Tensor:
        """What is quantised: float [F, E, h, w] of pixels float [F, 3, H, W]."""
        check_sides(pixels, self.config.spatial)
        return self.quant_conv(self.encoder(pixels))

    def decode_pixels(self, codes: Tensor) -> Tensor:
        """Pixels float [F, 3, H, W], about [-1, 1], of codes int64 [F, h, w]."""
        z = F.embedding(codes, self._codes).movedim(-1, 1)
        return self.decoder(
            self.post_quant_conv(z.contiguous())
        )  # the strides choose the kernels, and so the last bits

    @property
    def _codes(self) -> Tensor:
        """The codebook [N, E]."""
        return vectors(self.quantize)


def to_pixels(frames: Tensor, like: Tensor) -> Tensor:
    """uint8 [F, H, W, 3] -> [-1, 1], [F, 3, H, W] in the dtype and on the device of `like`."""
    return ((frames.to(like.device).movedim(-1, 1).float() / 255 - 0.5) / 0.5).to(like.dtype)


def to_frames(pixels: Tensor) -> Tensor:
    """[-1, 1], [F, 3, H, W] -> uint8 [F, H, W, 3]; truncated, not rounded, as the official code
    does.
    """
    return ((pixels.float().clamp(-1, 1) + 1) / 2 * 255).to(torch.uint8).movedim(1, -1)


class Encoder(nn.Module):
    """Pixels [F, 3, H, W] -> latents [F, C, h, w]."""

    def __init__(self, config: VqImageConfig):
        super().__init__()
        widths = config.channels
        inputs = (widths[0], *widths[:-1])
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            Level(config, inputs[n], widths[n], config.blocks, "down" if n < last else None)
            for n in range(last + 1)
        )
        self.mid_block = Level(config, widths[-1], widths[-1], MIDDLE)
        self.conv_norm_out = group_norm(config, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.latent, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(run_through(self.down_blocks, self.conv_in(x)))
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class Decoder(nn.Module):
    """Latents [F, C, h, w] -> pixels [F, 3, H, W]."""

    def __init__(self, config: VqImageConfig):
        super().__init__()
        widths = config.channels[::-1]
        inputs = (widths[0], *widths[:-1])
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(config.latent, widths[0], 3, padding=1)
        self.mid_block = Level(config, widths[0], widths[0], MIDDLE)
        self.up_blocks = nn.ModuleList(
            Level(config, inputs[n], widths[n], config.blocks + 1, "up" if n < last else None)
            for n in range(last + 1)
        )
        self.conv_norm_out = group_norm(config, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = run_through(self.up_blocks, self.mid_block(self.conv_in(z)))
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class Level(nn.Module):
    """Residual blocks of one width, then, unless it is the last level, a change of the
    resolution.
    """

    def __init__(
        self,
        config: VqImageConfig,
        inputs: int,
        width: int,
        blocks: int,
        change: Literal["down", "up"] | None = None,
    ):
        super().__init__()
        self.resnets = nn.ModuleList(
            ResBlock(config, width if n else inputs, width, "conv_shortcut") for n in range(blocks)
        )
        self.downsamplers = nn.ModuleList([Resample(width, True)] if change == "down" else [])
        self.upsamplers = nn.ModuleList([Resample(width, False)] if change == "up" else [])

    def forward(self, x: Tensor) -> Tensor:
        return run_through((*self.resnets, *self.downsamplers, *self.upsamplers), x)
