"""Train the FSQ image tokenizer: reconstruct frames, with a gradient term that keeps edges
sharp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diagd_cli.families.freedoom.tokenizer import FsqImageTokenizer, to_pixels
from diagd_cli.train import parallel
from diagd_cli.train.data import Episodes
from diagd_cli.train.loop import Run, fit
from diagd_cli.train.optimiser import Optimiser


def reconstruction_loss(
    output: Tensor,
    target: Tensor,
    gradient: float = 0.5,
    square: float = 2.0,
    structure: float = 0.2,
) -> Tensor:
    """|e| + square * e^2 + gradient * |difference of gradients| + structure * (1 - SSIM); pixels in
    [-1, 1].
    """
    error = output - target
    across = (error[..., 1:] - error[..., :-1]).abs().mean()
    down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    pixelwise = error.abs().mean() + square * error.square().mean() + gradient * (across + down)
    return pixelwise + structure * (1 - similarity(output, target))


def similarity(a: Tensor, b: Tensor, window: int = 7) -> Tensor:
    """Mean SSIM of pixels [F, C, H, W] in [-1, 1] with a box window: cheaper than the Gaussian of
    `metrics.ssim`.
    """
    x, y = a.float(), b.float()
    mx, my, xx, yy, xy = F.avg_pool2d(
        torch.cat([x, y, x * x, y * y, x * y]), window, stride=2
    ).chunk(5)
    c1, c2 = (2 * 0.01) ** 2, (2 * 0.03) ** 2
    score = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2)
    return (score / ((mx**2 + my**2 + c1) * (xx - mx**2 + yy - my**2 + c2))).mean()


def fit_tokenizer(
    model: FsqImageTokenizer,
    train: Episodes,
    val: Episodes,
    optimiser: Optimiser,
    folder: Path,
    sample: Callable[[Run[FsqImageTokenizer], FsqImageTokenizer], None] = lambda run, shipped: None,
    identity: dict[str, str] | None = None,
    **options: Any,
) -> Run[FsqImageTokenizer]:
    """Fit the autoencoder on frames of `train`. Returns the run, whose weights are the result.

    folder: of the checkpoint, which is gone on from where there is one, and of the log.
    sample: sample(run, shipped) is called at each validation with the weights that it judges.
    identity: what the run is of, see `Run`.
    options: those of `train.loop.fit`.
    """
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch types no such overload
    run = Run(folder, model, optimiser, identity)
    like, wrapped = next(model.parameters()), parallel.data_parallel(model)

    def loss(step: int) -> Iterator[Tensor]:
        chosen = np.random.default_rng([optimiser.seed, step]).integers(
            len(train), size=optimiser.batch
        )
        for part, weight in parallel.micro_batches(
            torch.from_numpy(np.sort(chosen)), wrapped, optimiser.accumulate
        ):
            pixels = to_pixels(torch.from_numpy(train.frames[part.numpy()]), like)
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            yield reconstruction_loss(wrapped(pixels), pixels) * weight

    def validate(weights: dict[str, Tensor]) -> dict:
        shipped = run.shipped()
        figures = validate_tokenizer(shipped, val)
        sample(run, shipped)
        return figures

    fit(run, loss, validate, **options)
    return run


@torch.inference_mode()
def validate_tokenizer(model: FsqImageTokenizer, val: Episodes, count: int = 256) -> dict:
    """PSNR (dB, mean over frames) and number of codes in use, on `count` frames spread over the
    validation split.
    """
    chosen = np.linspace(0, len(val) - 1, min(count, len(val))).astype(int)
    scores, used = [], set()
    for part in np.array_split(chosen, max(1, len(chosen) // 32)):
        frames = torch.from_numpy(val.frames[part])
        codes = model.encode(frames)
        error = F.mse_loss(
            model.decode(codes).cpu().float(), frames.float(), reduction="none"
        ).mean((1, 2, 3))
        scores += (10 * torch.log10(255**2 / error.clamp(min=1e-3))).tolist()
        used |= set(codes.flatten().tolist())
    return {"psnr": round(float(np.mean(scores)), 3), "codes": len(used)}
