"""The network of LlamaGen's VQ tokenizers: a convolutional encoder and decoder whose coarsest level
attends, and a codebook of directions.

The modules bear the names of the official weights, so that no map of names is needed.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagd_cli.families.vavim.config import LlamaGenVqConfig
from diagd_cli.tokens.vq import (
    Resample,
    ResBlock,
    check_sides,
    codebook,
    group_norm,
    run_through,
    vectors,
)

Change = Literal["downsample", "upsample"]


class VqNetwork(nn.Module):
    """Pixels float [F, 3, H, W] <-> codes int64 [F, h, w]; H and W are multiples of
    `config.spatial`.

    C latent channels, E the width of a code, N codes. Encoder output and codebook are both brought
    to length 1 before they are compared, and codes are looked up with length 1.
    """

    def __init__(self, config: LlamaGenVqConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(config.latent, config.code_dim, 1)
        self.quantize = codebook(config.codebook, config.code_dim)
        self.post_quant_conv = nn.Conv2d(config.code_dim, config.latent, 1)
        self.decoder = Decoder(config)

    @property
    def codes(self) -> Tensor:
        """The codebook [N, E], of any length."""
        return vectors(self.quantize)

    def embed(self, pixels: Tensor) -> Tensor:
        """What is quantised: float [F, E, h, w] of pixels float [F, 3, H, W] in [-1, 1]. Raises
        ValueError for sizes that do not divide.
        """
        check_sides(pixels, self.config.spatial)
        return self.quant_conv(self.encoder(pixels))

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Codes int64 [F, h, w] of pixels float [F, 3, H, W] in [-1, 1]: of the nearest
        direction.
        """
        z = F.normalize(self.embed(pixels).movedim(1, -1).float(), dim=-1)
        directions = F.normalize(self.codes.float(), dim=-1)
        # frame by frame: the similarities of one frame to all codes are already the largest tensor
        return torch.cat([(frame @ directions.T).argmax(-1) for frame in z.split(1)])

    def look_up(self, codes: Tensor) -> Tensor:
        """Unit vectors float [..., E] of codes int64 [...]."""
        return F.normalize(F.embedding(codes, self.codes), dim=-1)

    def decode_pixels(self, codes: Tensor) -> Tensor:
        """Pixels float [F, 3, H, W], about [-1, 1], of codes int64 [F, h, w]."""
        z = self.look_up(codes).movedim(-1, 1)
        # the strides choose the kernels, and so the last bits
        return self.decoder(self.post_quant_conv(z.contiguous()))


class Encoder(nn.Module):
    """Pixels [F, 3, H, W] -> latents [F, C, h, w]."""

    def __init__(self, config: LlamaGenVqConfig):
        super().__init__()
        widths, last = config.widths, len(config.widths) - 1
        inputs = (config.channels, *widths[:-1])
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1)
        self.conv_blocks = nn.ModuleList(
            Level(
                config,
                inputs[n],
                width,
                config.blocks,
                attends=n == last,
                change="downsample" if n < last else None,
            )
            for n, width in enumerate(widths)
        )
        self.mid = middle(config, widths[-1])
        self.norm_out = group_norm(config, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.latent, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(run_through(self.conv_blocks, self.conv_in(x)))
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """Latents [F, C, h, w] -> pixels [F, 3, H, W]; its levels are coarsest first."""

    def __init__(self, config: LlamaGenVqConfig):
        super().__init__()
        widths, last = config.widths[::-1], len(config.widths) - 1
        inputs = (widths[0], *widths[:-1])
        self.conv_in = nn.Conv2d(config.latent, widths[0], 3, padding=1)
        self.mid = middle(config, widths[0])
        self.conv_blocks = nn.ModuleList(
            Level(
                config,
                inputs[n],
                width,
                config.blocks + 1,
                attends=n == 0,
                change="upsample" if n < last else None,
            )
            for n, width in enumerate(widths)
        )
        self.norm_out = group_norm(config, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = run_through(self.conv_blocks, self.mid(self.conv_in(z)))
        return self.conv_out(F.silu(self.norm_out(x)))


class Level(nn.Module):
    """Residual blocks of one width, each followed by attention where the level attends, then a
    change of the resolution.
    """

    def __init__(
        self,
        config: LlamaGenVqConfig,
        inputs: int,
        width: int,
        blocks: int,
        *,
        attends: bool,
        change: Change | None,
    ):
        super().__init__()
        self.res = nn.ModuleList(
            res_block(config, width if n else inputs, width) for n in range(blocks)
        )
        self.attn = nn.ModuleList(SelfAttention(config, width) for _ in range(blocks * attends))
        if change:
            self.add_module(change, Resample(width, change == "downsample"))
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        for n, block in enumerate(self.res):
            x = block(x)
            if len(self.attn):
                x = self.attn[n](x)
        return self.get_submodule(self.change)(x) if self.change else x


class SelfAttention(nn.Module):
    """x + what each cell of x [F, width, h, w] reads of all cells, by one head."""

    def __init__(self, config: LlamaGenVqConfig, width: int):
        super().__init__()
        self.norm = group_norm(config, width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (part(y).flatten(2).transpose(1, 2) for part in (self.q, self.k, self.v))
        read = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.proj_out(read)


def middle(config: LlamaGenVqConfig, width: int) -> nn.Sequential:
    """What lies between the coarsest level and the latents."""
    blocks = (res_block(config, width, width) for _ in range(2))
    return nn.Sequential(next(blocks), SelfAttention(config, width), next(blocks))


def res_block(config: LlamaGenVqConfig, inputs: int, width: int) -> ResBlock:
    return ResBlock(config, inputs, width, "nin_shortcut")
