"""Inverse dynamics: which action led from one frame to the next? A small CNN reads it from the two
frames.

It judges steering (does a generated video do what it was told?), and its features stand for the
look of motion in the Frechet distance "FD-inv".
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEIGHT, WIDTH = 60, 80  # frames are brought to this size, whatever theirs is
FEATURES = 64
PAIRS_AT_ONCE = 64


class InverseDynamics(nn.Module):
    """Pixels of consecutive frames -> logits of the action between them, and features. 249 thousand
    parameters.
    """

    def __init__(self, actions: int):
        super().__init__()
        sizes = [(6, 32, 5, 2), (32, 64, 3, 2), (64, 64, 3, 1), (64, 96, 3, 2), (96, 96, 3, 1)]
        self.body = nn.Sequential(*(_layer(*size) for size in sizes))
        # Motion ahead looks like growth around the centre: where in the frame something moves must
        # survive the pooling.
        self.features = nn.Sequential(
            nn.AdaptiveAvgPool2d((2, 4)), nn.Flatten(), nn.Linear(96 * 8, FEATURES)
        )
        self.head = nn.Linear(FEATURES, actions)

    def forward(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N, actions] and features [N, FEATURES] of pairs float [N, 6, HEIGHT, WIDTH] in
        [-1, 1].
        """
        features = F.gelu(self.features(self.body(pairs)))
        return self.head(features), features


def _layer(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(8, outputs), nn.GELU())


def to_small(frames: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """Pixels float32 [F, 3, HEIGHT, WIDTH] in [-1, 1] of frames uint8 [F, H, W, 3]: area means."""
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).to(device).movedim(-1, 1).float()
    return F.adaptive_avg_pool2d(pixels, (HEIGHT, WIDTH)) / 127.5 - 1


@torch.inference_mode()
def read_motion(model: InverseDynamics, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Action ids int64 [F-1] and features float32 [F-1, FEATURES] of the pairs (t, t+1) of frames
    uint8 [F, H, W, 3].
    """
    device = next(model.parameters()).device
    parts = [model(pairs) for pairs in _pairs(frames, device)]
    logits, features = (torch.cat(part).float().cpu() for part in zip(*parts, strict=True))
    return logits.argmax(-1).numpy(), features.numpy()


def _pairs(frames: np.ndarray, device: torch.device) -> Iterator[Tensor]:
    for start in range(0, len(frames) - 1, PAIRS_AT_ONCE):
        small = to_small(frames[start : start + PAIRS_AT_ONCE + 1], device)
        yield torch.cat([small[:-1], small[1:]], dim=1)
