"""WHAM's tokenizer: a ViT encodes the patches of a frame, each becomes its nearest code, a ViT
decodes them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagd_cli.families.wham.config import VitVqConfig
from diagd_cli.model.config import Positions, TransformerConfig
from diagd_cli.model.transformer import Block

FRAMES_AT_ONCE = 8  # bounds the memory, whatever the clip's length
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels, R, G, B, in 0..1


class VitVqTokenizer(nn.Module):
    """Frames uint8 [F, H, W, 3] <-> codes int64 [F, h, w]; H x W is the one size that the model was
    made for.

    h and w are H and W over the patch, rounded up. Codes are compared as directions: encoder output
    and codebook are both brought to length 1.
    """

    def __init__(self, config: VitVqConfig):
        super().__init__()
        self.config = config
        values = 3 * config.patch**2
        self.encoder = ViT(config, values, config.code_dim)
        self.codes = nn.Embedding(config.codebook, config.code_dim)
        self.decoder = ViT(config, config.code_dim, values)

    @property
    def codebook(self) -> int:
        """Number of codes."""
        return self.config.codebook

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> Tensor:
        """Codes int64 [F, h, w] of frames uint8 [F, H, W, 3]. Raises ValueError for frames of
        another size.
        """
        return torch.cat(
            [
                self.encode_pixels(normalise(part, self._weight))
                for part in frames.split(FRAMES_AT_ONCE)
            ]
        )

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """Frames uint8 [F, H, W, 3] of codes int64 [F, h, w]. Raises ValueError for codes of
        another size.
        """
        return torch.cat(
            [to_frames(self.decode_pixels(part)) for part in codes.split(FRAMES_AT_ONCE)]
        )

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Codes int64 [F, h, w] of normalised pixels float [F, 3, H, W]."""
        directions = F.normalize(self.codes.weight.float(), dim=-1)
        # frame by frame: the similarities of one frame to all codes are already the largest tensor
        return torch.cat(
            [(frame @ directions.T).argmax(-1) for frame in self.embed(pixels).split(1)]
        )

    def embed(self, pixels: Tensor) -> Tensor:
        """What is quantised: unit vectors float32 [F, h, w, code_dim] of normalised pixels float
        [F, 3, H, W].
        """
        height, width, (h, w), patch = (
            self.config.height,
            self.config.width,
            self._grid,
            self.config.patch,
        )
        if pixels.shape[1:] != (3, height, width):
            raise ValueError(
                f"pixels are {tuple(pixels.shape[1:])}, the tokenizer takes {(3, height, width)}"
            )
        padded = F.pad(pixels, (0, w * patch - width, 0, h * patch - height))
        patches = padded.unflatten(3, (w, patch)).unflatten(2, (h, patch)).permute(0, 2, 4, 1, 3, 5)
        vectors = self.encoder(patches.flatten(3).flatten(1, 2)).float()
        return F.normalize(vectors, dim=-1).unflatten(1, (h, w))

    def decode_pixels(self, codes: Tensor) -> Tensor:
        """Normalised pixels float [F, 3, H, W] of codes int64 [F, h, w]."""
        (h, w), patch = self._grid, self.config.patch
        if codes.shape[1:] != (h, w):
            raise ValueError(f"codes are {tuple(codes.shape[1:])}, the tokenizer takes {(h, w)}")
        patches = self.decoder(F.normalize(self.codes(codes.flatten(1)), dim=-1))
        pixels = (
            patches.view(-1, h, w, 3, patch, patch)
            .permute(0, 3, 1, 4, 2, 5)
            .flatten(4, 5)
            .flatten(2, 3)
        )
        return pixels[..., : self.config.height, : self.config.width]

    @property
    def _grid(self) -> tuple[int, int]:
        return self.config.rows, self.config.columns

    @property
    def _weight(self) -> Tensor:
        return self.codes.weight


class ViT(nn.Module):
    """Vectors [F, h*w, inputs] -> [F, h*w, outputs]: linear, learned positions, blocks that see the
    whole frame, linear.
    """

    def __init__(self, config: VitVqConfig, inputs: int, outputs: int):
        super().__init__()
        block = block_config(config)
        self.enter = nn.Linear(inputs, config.dim)
        self.positions = nn.Embedding(config.rows * config.columns, config.dim)
        self.blocks = nn.ModuleList(Block(block) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim, block.norm_eps)
        self.leave = nn.Linear(config.dim, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x) + self.positions.weight
        for block in self.blocks:
            x = block(x)
        return self.leave(self.norm(x))


def block_config(config: VitVqConfig) -> TransformerConfig:
    """The blocks of the ViT as blocks of the one Transformer: no biases, norms with a weight
    only.
    """
    heads = config.dim // config.head_size
    return TransformerConfig(
        vocab=config.codebook,
        dim=config.dim,
        layers=config.layers,
        heads=heads,
        kv_heads=heads,
        head_dim=config.head_size,
        mlp_dim=4 * config.dim,
        activation="gelu-tanh",
        norm="layer",
        positions=Positions(kind="learned"),
    )


def normalise(frames: Tensor, like: Tensor) -> Tensor:
    """uint8 [F, H, W, 3] -> zero mean and unit variance over ImageNet, [F, 3, H, W], dtype and
    device of `like`.
    """
    pixels = frames.to(like.device).float() / 255
    return (
        ((pixels - pixels.new_tensor(MEAN)) / pixels.new_tensor(STD)).to(like.dtype).movedim(-1, 1)
    )


def to_frames(pixels: Tensor) -> Tensor:
    """The way back, [F, 3, H, W] -> uint8 [F, H, W, 3]; truncated, not rounded, as the official
    code does.
    """
    pixels = pixels.float().movedim(1, -1)
    return ((pixels * pixels.new_tensor(STD) + pixels.new_tensor(MEAN)).clamp(0, 1) * 255).to(
        torch.uint8
    )
