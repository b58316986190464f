"""Bring frames to a preset's size: scale until both sides are covered, then crop the centre (as
Cosmos does).
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F


def fit_frames(frames: np.ndarray, height: int, width: int) -> torch.Tensor:
    """uint8 [F, H, W, 3] at any size -> uint8 [F, height, width, 3], rounded."""
    pixels = torch.from_numpy(np.ascontiguousarray(frames))
    if pixels.shape[1:3] == (height, width):
        return pixels
    x = fit_pixels(pixels.movedim(-1, 1).float(), height, width)
    return x.round().clamp(0, 255).to(torch.uint8).movedim(1, -1).contiguous()


def fit_pixels(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """float [F, C, H, W] at any size and scale -> [F, C, height, width]; bilinear with
    antialiasing.
    """
    h, w = pixels.shape[2:]
    if (h, w) == (height, width):
        return pixels
    factor = max(width / w, height / h)
    scaled = (max(height, math.ceil(factor * h)), max(width, math.ceil(factor * w)))
    x = F.interpolate(pixels, scaled, mode="bilinear", align_corners=False, antialias=True)
    top, left = round((scaled[0] - height) / 2), round((scaled[1] - width) / 2)
    return x[:, :, top : top + height, left : left + width]
