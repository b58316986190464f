"""Fidelity of frames to ground truth, on lossless frames."""

from __future__ import annotations

import numpy as np
import torch


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB, float64 [F], of uint8 frames [F, H, W, 3]; capped at 100
    for equal frames.
    """
    error = np.square(a.astype(np.float64) - b).mean(axis=(1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(error, 255**2 * 1e-10))


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Structural similarity, float64 [F], of uint8 frames [F, H, W, 3] (Wang et al. 2004: Gaussian
    window 11, sigma 1.5).

    The mean is over places where the window lies within the frame; in frames smaller than it, the
    window is smaller too.
    """
    size = min(11, *a.shape[1:3])
    x, y = (torch.from_numpy(np.ascontiguousarray(v)).movedim(-1, 1).double() / 255 for v in (a, b))
    offset = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    line = torch.exp(-(offset**2) / (2 * 1.5**2))
    rows, columns = (bands(line / line.sum(), side) for side in a.shape[1:3])

    def blur(v: torch.Tensor) -> torch.Tensor:
        return rows @ v @ columns.T

    mx, my = blur(x), blur(y)
    vx, vy, vxy = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    score = ((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return score.mean((1, 2, 3)).numpy()


def bands(line: torch.Tensor, side: int) -> torch.Tensor:
    """The matrix [side - n + 1, side] by which `line` [n] slides along a side, wherever it lies
    within it.

    A blur by two such products is many times as fast on a CPU as torch's convolution in float64.
    """
    count = side - len(line) + 1
    return sum(
        weight * torch.eye(side, dtype=line.dtype)[n : n + count] for n, weight in enumerate(line)
    )
