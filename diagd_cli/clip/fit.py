"""Bring frames to a preset's size: scale until both sides are covered, then crop the centre (as Cosmos does)."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F


def fit_frames(frames: np.ndarray, height: int, width: int) -> torch.Tensor:
    """uint8 [F, H, W, 3] at any size -> uint8 [F, height, width, 3]; bilinear with antialiasing."""
    pixels = torch.from_numpy(np.ascontiguousarray(frames))
    h, w = pixels.shape[1:3]
    if (h, w) == (height, width):
        return pixels
    factor = max(width / w, height / h)
    scaled = (max(height, math.ceil(factor * h)), max(width, math.ceil(factor * w)))
    x = F.interpolate(pixels.movedim(-1, 1).float(), scaled, mode="bilinear", align_corners=False, antialias=True)
    top, left = round((scaled[0] - height) / 2), round((scaled[1] - width) / 2)
    x = x[:, :, top : top + height, left : left + width]
    return x.round().clamp(0, 255).to(torch.uint8).movedim(1, -1).contiguous()
