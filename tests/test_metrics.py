"""PSNR and SSIM of frames."""

import numpy as np
import pytest
import torch
from tiny import moving

from diagd_cli.metrics import psnr, ssim


def noise(count=3, height=40, width=56, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def test_psnr_by_its_definition():
    black, off = np.zeros((3, 8, 8, 3), np.uint8), np.zeros((3, 8, 8, 3), np.uint8)
    off[0], off[1] = 255, 10  # errors of 255 and of 10 levels everywhere, and none
    assert psnr(black, off) == pytest.approx([0, 20 * np.log10(255 / 10), 100])
    assert psnr(off, black) == pytest.approx(psnr(black, off))
    off[0, 0, 0, 0] = 254
    assert psnr(black, off)[0] == pytest.approx(
        10 * np.log10(255**2 * 192 / (191 * 255**2 + 254**2))
    )


@pytest.mark.parametrize(
    "a, b",
    [
        (noise(seed=0), noise(seed=1)),
        (moving(3, 40, 56), moving(4, 40, 56)[1:]),
        (moving(3, 40, 56), np.clip(moving(3, 40, 56) + noise(3) / 16.0, 0, 255).astype(np.uint8)),
        (moving(3, 40, 56), moving(3, 40, 56)),
    ],
    ids=["noise", "next frame", "a little noise", "equal"],
)
def test_ssim_against_torchmetrics(a, b):
    """torchmetrics also averages over the 5 pixels at each edge, where its window sees the frame
    reflected; ours does not.
    """
    # which takes seconds to import
    from torchmetrics.functional.image import structural_similarity_index_measure

    x, y = (torch.from_numpy(v).movedim(-1, 1).double() / 255 for v in (a, b))
    whole, places = structural_similarity_index_measure(
        x, y, data_range=1.0, reduction="none", return_full_image=True
    )
    assert ssim(a, b) == pytest.approx(places[:, :, 5:-5, 5:-5].mean((1, 2, 3)).numpy(), abs=1e-6)
    assert ssim(a, b) == pytest.approx(whole.numpy(), abs=0.05)


def test_ssim_of_frames_below_the_window():
    frames = noise(2, 6, 9)
    assert (
        ssim(frames, frames) == pytest.approx([1, 1]) and (ssim(frames, 255 - frames) < 0.5).all()
    )
