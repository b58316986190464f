"""The discrete Cosmos video tokenizer (DV8x16x16): Haar patches, a causal convolutional
autoencoder, and FSQ.

The facts come from the public Cosmos code (Apache-2.0); parameters have the names of the official
checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from diagd_cli.families.cosmos.config import CosmosDvConfig
from diagd_cli.families.cosmos.layers import (
    Conv,
    Downsample,
    Middle,
    Norm,
    ResBlock,
    Upsample,
    activated,
    attention,
    factorised,
    patch,
    unpatch,
)
from diagd_cli.tokens.fit import fit_pixels
from diagd_cli.tokens.fsq import FSQ

COLOURS = 3


class CosmosTokenizer(nn.Module):
    """Frames uint8 [1 + n*temporal, H, W, 3] <-> codes int64 [1 + n, H/spatial, W/spatial].

    Causal: the codes of the first frames, and their pixels, do not depend on later ones.
    """

    encoder: Encoder
    quant_conv: Conv
    post_quant_conv: Conv
    decoder: Decoder

    def __init__(self, config: CosmosDvConfig):
        super().__init__()
        self.config = config
        for name, network in _networks(config).items():
            self.add_module(name, network)
        self.quantiser = FSQ(config.levels)

    @property
    def codebook(self) -> int:
        """Number of codes."""
        return self.quantiser.size

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> Tensor:
        """Codes int64 [T, h, w] of frames uint8 [F, H, W, 3], F = 1 + (T-1)*temporal. Raises
        ValueError for other sizes.
        """
        return self.encode_pixels(to_pixels(frames))[0]

    def encode_resized(self, frames: np.ndarray, height: int, width: int) -> Tensor:
        """The same of frames uint8 [F, H, W, 3] of any size, which are scaled before they are
        rounded.
        """
        pixels = to_pixels(torch.from_numpy(np.ascontiguousarray(frames)))
        return self.encode_pixels(
            fit_pixels(pixels[0].movedim(0, 1), height, width).movedim(0, 1)[None]
        )[0]

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """Frames uint8 [F, H, W, 3] of codes int64 [T, h, w]; the official code truncates, it does
        not round.
        """
        return to_frames(self.decode_pixels(codes[None]))

    @torch.inference_mode()
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Codes int64 [B, T, h, w] of pixels [B, 3, F, H, W] in [-1, 1]. Raises ValueError for
        sizes that do not fit.
        """
        self._check(*pixels.shape[2:])
        weight = self.quant_conv.conv3d.weight
        z = self.quant_conv(self.encoder(pixels.to(weight.device, weight.dtype)))
        return self.quantiser.indices(z.movedim(1, -1))

    @torch.inference_mode()
    def decode_pixels(self, codes: Tensor) -> Tensor:
        """Pixels [B, 3, F, H, W] of codes int64 [B, T, h, w]: nominally in [-1, 1], not clamped."""
        weight = self.quant_conv.conv3d.weight
        z = self.quantiser.codes(codes.to(weight.device).long()).movedim(-1, 1).to(weight.dtype)
        return self.decoder(self.post_quant_conv(z))

    def _check(self, frames: int, height: int, width: int) -> None:
        temporal, spatial = self.config.temporal, self.config.spatial
        if (frames - 1) % temporal or not frames or height % spatial or width % spatial:
            wanted = f"1 + n*{temporal} frames whose sides are multiples of {spatial}"
            raise ValueError(f"clip is {frames}x{height}x{width}, the tokenizer takes {wanted}")


def _networks(config: CosmosDvConfig) -> dict[str, nn.Module]:
    return {
        "encoder": Encoder(config),
        "quant_conv": Conv(config.z_channels, len(config.levels)),
        "post_quant_conv": Conv(len(config.levels), config.z_channels),
        "decoder": Decoder(config),
    }


def parameter_shapes(config: CosmosDvConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tokenizer's parameters, without making them."""
    with torch.device(
        "meta"
    ):  # not of the whole tokenizer: arithmetic on this device imports torch's compiler, seconds
        networks = nn.ModuleDict(_networks(config))
    return {name: tuple(tensor.shape) for name, tensor in networks.state_dict().items()}


def to_pixels(frames: Tensor) -> Tensor:
    """uint8 [F, H, W, 3] -> float32 [1, 3, F, H, W] in [-1, 1]."""
    return frames.movedim(-1, 0)[None].float().div_(255).mul_(2).sub_(1)


def to_frames(pixels: Tensor) -> Tensor:
    """[1, 3, F, H, W] in [-1, 1] -> uint8 [F, H, W, 3], clamped and truncated, in the precision of
    `pixels`.
    """
    scaled = (pixels[0] * 0.5 + 0.5).clamp_(0, 1).mul_(255)
    return scaled.to(torch.uint8).movedim(0, -1)


class Encoder(nn.Module):
    """Pixels [B, 3, 1 + n*temporal, H, W] -> latents [B, z_channels, 1 + n, h, w]."""

    def __init__(self, config: CosmosDvConfig):
        super().__init__()
        self.patch = config.patch
        widths = [config.channels, *(config.channels * m for m in config.multipliers)]
        self.conv_in = factorised(COLOURS * config.patch**3, config.channels)
        self.down = nn.ModuleList(
            Level(widths[n : n + 2], config.blocks, config.attends(n), down=config.downsamples(n))
            for n in range(config.depth)
        )
        self.mid = Middle(widths[-1])
        self.norm_out = Norm(widths[-1])
        self.conv_out = factorised(widths[-1], config.z_channels)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv_in(patch(pixels, self.patch))
        for level in self.down:
            x = level(x)
        return activated(self.norm_out, self.conv_out, self.mid(x))


class Decoder(nn.Module):
    """Latents [B, z_channels, 1 + n, h, w] -> pixels [B, 3, 1 + n*temporal, H, W]. Levels are
    numbered as the encoder's.
    """

    def __init__(self, config: CosmosDvConfig):
        super().__init__()
        self.patch = config.patch
        widths = [config.channels * m for m in (*config.multipliers, config.multipliers[-1])]
        self.conv_in = factorised(config.z_channels, widths[-1])
        self.mid = Middle(widths[-1])
        self.up = nn.ModuleList(
            Level(
                widths[n : n + 2][::-1],
                config.blocks + 1,
                config.attends(n),
                up=config.upsamples(n),
            )
            for n in range(config.depth)
        )
        self.norm_out = Norm(widths[0])
        self.conv_out = factorised(widths[0], COLOURS * config.patch**3)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        return unpatch(activated(self.norm_out, self.conv_out, x), self.patch)


class Level(nn.Module):
    """Residual blocks at one resolution, from `widths[0]` to `widths[1]` channels, then a change of
    resolution.

    down, up: whether space and time are halved or doubled.
    """

    def __init__(
        self,
        widths: Sequence[int],
        blocks: int,
        attends: bool,
        down: tuple[bool, bool] = (False, False),
        up: tuple[bool, bool] = (False, False),
    ):
        super().__init__()
        first, width = widths
        self.block = nn.ModuleList(ResBlock(width if n else first, width) for n in range(blocks))
        self.attn = nn.ModuleList(attention(width) for _ in range(blocks if attends else 0))
        self.downsample = Downsample(width, *down) if any(down) else nn.Identity()
        self.upsample = Upsample(width, *up) if any(up) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for n, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[n](x)
        return self.upsample(self.downsample(x))
