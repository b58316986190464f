"""VaViM's tokenizer: LlamaGen's VQ-16 on frames that are brought to its size as bytes."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diagd_cli.families.vavim.network import VqNetwork

FRAMES_AT_ONCE = 1  # bounds the memory; one of 288x512 pixels keeps a processor busy


class LlamaGenVqTokenizer(VqNetwork):
    """Frames uint8 [F, H, W, 3] <-> codes int64 [F, h, w]; H and W are multiples of
    `config.spatial`.
    """

    @property
    def codebook(self) -> int:
        """Number of codes."""
        return self.config.codebook

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> Tensor:
        """Codes int64 [F, h, w] of frames uint8 [F, H, W, 3]. Raises ValueError for sizes that do
        not divide.
        """
        parts = frames.split(FRAMES_AT_ONCE)
        return torch.cat([self.encode_pixels(to_pixels(part, self.codes)) for part in parts])

    def encode_resized(self, frames: np.ndarray, height: int, width: int) -> Tensor:
        """The same of frames uint8 [F, H, W, 3] of any size: of 16:9, as the official data are, by
        their kernel and to the bit; of another shape what exceeds it is cut at both sides.
        """
        return self.encode(fit_bytes(torch.from_numpy(np.ascontiguousarray(frames)), height, width))

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """Frames uint8 [F, H, W, 3] of codes int64 [F, h, w]."""
        parts = codes.split(FRAMES_AT_ONCE)
        return torch.cat([to_frames(self.decode_pixels(part)) for part in parts])


def fit_bytes(frames: Tensor, height: int, width: int) -> Tensor:
    """uint8 [F, H, W, 3] at any size -> uint8 [F, height, width, 3]: scaled until both sides are
    covered, the centre of what exceeds them cut out.
    """
    factor = min(frames.shape[1] / height, frames.shape[2] / width)
    scaled = shrink(frames, factor, (height, width))
    top, left = (scaled.shape[1] - height) // 2, (scaled.shape[2] - width) // 2
    return scaled[:, top : top + height, left : left + width]


def shrink(frames: Tensor, factor: float, least: tuple[int, int] = (1, 1)) -> Tensor:
    """uint8 [F, H, W, 3] -> uint8 [F, h, w, 3], each side divided by the factor and cut off to a
    whole number, which is `least` at the least; bilinear with antialiasing.

    On bytes, whose kernel in torch rounds otherwise than that of floats, as the official code does.
    """
    sides = zip(frames.shape[1:3], least, strict=True)
    size = tuple(max(int(side / factor), at_least) for side, at_least in sides)
    if size == tuple(frames.shape[1:3]):
        return frames
    channels_first = frames.movedim(-1, 1)
    y = F.interpolate(channels_first, size, mode="bilinear", align_corners=False, antialias=True)
    return y.movedim(1, -1)


def to_pixels(frames: Tensor, like: Tensor) -> Tensor:
    """uint8 [F, H, W, 3] -> [-1, 1], [F, 3, H, W] in the dtype and on the device of `like`."""
    pixels = frames.to(like.device).movedim(-1, 1).float()
    return (2 * (pixels * (1 / 255)) - 1).to(like.dtype)  # to the bit as the official code


def to_frames(pixels: Tensor) -> Tensor:
    """[-1, 1], [F, 3, H, W] -> uint8 [F, H, W, 3]; truncated, not rounded, as the official code
    does.
    """
    return (127.5 * pixels.float() + 128).clamp(0, 255).to(torch.uint8).movedim(1, -1)
