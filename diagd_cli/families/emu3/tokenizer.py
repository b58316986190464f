"""Emu3's tokenizer of images, by the modules of the `transformers` library."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from diagd_cli.errors import MissingExtra
from diagd_cli.families.emu3.config import TIMES, Emu3VqConfig


class Emu3VqTokenizer(nn.Module):
    """Frames uint8 [F, H, W, 3] <-> codes int64 [F, h, w], each frame an image of its own; H and W
    are multiples of `config.spatial`.

    `vq` is an `Emu3VQVAE`, in evaluation mode: its batch norms are those of training.
    """

    def __init__(self, config: Emu3VqConfig):
        super().__init__()
        self.config = config
        self.vq: Any = _vq(config)

    @property
    def codebook(self) -> int:
        """Number of codes."""
        return self.config.codebook

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> Tensor:
        """Codes int64 [F, h, w] of frames uint8 [F, H, W, 3]. Raises ValueError for sizes that do
        not divide.
        """
        side = self.config.spatial
        if frames.shape[1] % side or frames.shape[2] % side:
            told = "x".join(map(str, frames.shape[1:3]))
            raise ValueError(f"frames are {told}, and sides must be multiples of {side}")
        return torch.stack([self._codes(frame) for frame in frames])

    def _codes(self, frame: Tensor) -> Tensor:
        weight = self.vq.quantize.embedding.weight
        pixels = frame.to(weight.device).movedim(-1, 0).float() / 255
        size = torch.tensor([frame.shape[:2]])
        made = self.vq.encode(((pixels - 0.5) / 0.5).to(weight.dtype)[None], image_sizes=size)
        codes: Tensor = made.image_tokens[0]
        return codes

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """Frames uint8 [F, H, W, 3] of codes int64 [F, h, w]; the fraction of a level is dropped,
        as the official code does.
        """
        device = self.vq.quantize.embedding.weight.device
        parts = [self.vq.decode(part.to(device)) for part in codes.split(1)]  # bounds the memory
        pixels = torch.cat(parts).float() * 0.5 + 0.5
        return (pixels * 255).clamp(0, 255).to(torch.uint8).movedim(1, -1)


def _vq(config: Emu3VqConfig) -> nn.Module:
    """The network. Raises MissingExtra without a `transformers` that has it."""
    try:
        from transformers import Emu3VQVAE, Emu3VQVAEConfig
    except ImportError:
        raise MissingExtra("transformers>=5", "text", "The tokenizer of Emu3") from None
    own = Emu3VQVAEConfig(
        codebook_size=config.codebook,
        embed_dim=config.code_dim,
        latent_channels=config.latent,
        double_latent=False,
        base_channels=config.channels,
        channel_multiplier=list(config.multipliers),
        num_res_blocks=config.blocks,
        attn_resolutions=[len(config.multipliers) - 1],
        hidden_size=config.widths[-1],
        num_attention_heads=1,
        temporal_downsample_factor=TIMES,
    )
    vq: nn.Module = Emu3VQVAE(own).eval()
    for module in vq.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.num_batches_tracked = None  # of training
    return vq
