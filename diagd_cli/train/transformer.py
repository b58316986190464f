"""Train the Transformer by next-token prediction on windows of latent frames and the actions
between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.func import functional_call

from diagd_cli.errors import ClipError
from diagd_cli.model.config import Strict
from diagd_cli.model.transformer import Transformer
from diagd_cli.preset import Preset
from diagd_cli.tokens.grid import Grid
from diagd_cli.train import parallel
from diagd_cli.train.clips import describe_clips
from diagd_cli.train.data import Tokens
from diagd_cli.train.loop import Run, fit
from diagd_cli.train.optimiser import Optimiser


class Phase(Strict):
    """From step `start` on, a batch is `batch` windows of `frames` latent frames.

    balance: how much more often windows of rare actions are drawn. At 0 all windows are equally
        likely; a window's likelihood is the mean over its actions of 1 / (how often each is
        taken)^balance.
    """

    start: int = Field(ge=0)
    frames: int = Field(gt=1)
    batch: int = Field(gt=0)
    balance: float = Field(default=0.0, ge=0, le=1)


class Windows(Strict):
    """What a training sample is. With probability `dropout` all its actions are the preset's rest;
    as often, the first few.

    validation: how many windows of the validation split each validation reads.
    """

    phases: tuple[Phase, ...] = Field(min_length=1)
    validation: int = Field(default=24, gt=1)
    dropout: float = Field(default=0.1, ge=0, le=0.5)

    @model_validator(mode="after")
    def _ordered(self) -> Windows:
        starts = [phase.start for phase in self.phases]
        if starts[0] or starts != sorted(set(starts)):
            raise ValueError(f"phases must start at 0 and rise, they start at {starts}")
        return self

    @property
    def longest(self) -> int:
        """Latent frames of the longest window."""
        return max(phase.frames for phase in self.phases)

    def at(self, step: int) -> Phase:
        return [p for p in self.phases if p.start <= step][-1]


class WindowSampler:
    """Draws windows of consecutive latent frames of a preset's tokens.

    A window is a sequence int64 [L], as the preset's grid lays it out.
    `left` int64 [M]: how many latent frames a window may have that begins at each of the M latent
    frames; 0 where none may begin.
    """

    def __init__(self, tokens: Tokens, preset: Preset):
        self.tokens, self.grid = tokens, preset.grid
        self.rest = preset.actions.rest if preset.actions else np.zeros(0, dtype=np.int64)
        self.prefix = np.array(preset.prefix, dtype=np.int64)
        self.left = np.repeat(tokens.starts[1:], np.diff(tokens.starts)) - np.arange(len(tokens))
        if tokens.whole:
            inside = np.ones(len(tokens), dtype=bool)
            inside[tokens.starts[:-1]] = False
            self.left[inside] = 0

    @cached_property
    def times(self) -> np.ndarray:
        """How often each frame's action is taken in all, int64 [M]."""
        _, action, times = np.unique(
            self.tokens.actions, axis=0, return_inverse=True, return_counts=True
        )
        return times[action.ravel()]

    def check_window(self, frames: int) -> None:
        """Raise ClipError where no clip holds a window of `frames` latent frames."""
        if self.left.max() < frames:
            unit = "latent frames" if self.tokens.whole else "frames"
            clips = describe_clips(self.tokens.split, self.tokens.clips)
            longest = f"The longest of {clips} has {self.left.max()} {unit}"
            hint = "Give longer clips, or shorten the windows"
            raise ClipError(f"{longest}, and windows have {frames}", hint)

    def draw(self, windows: Windows, seed: int, step: int) -> Tensor:
        """The batch of a step: a function of (seed, step) alone."""
        phase, rng = windows.at(step), np.random.default_rng([seed, step])
        firsts = np.flatnonzero(self.left >= phase.frames)
        chances = self.chances(firsts, phase) if phase.balance else None
        firsts = rng.choice(firsts, size=phase.batch, p=chances)
        chance, cut = rng.random(phase.batch), rng.integers(phase.frames, size=phase.batch)
        unsteered = np.where(
            chance < windows.dropout, phase.frames, np.where(chance < 2 * windows.dropout, cut, 0)
        )
        return self.sequences(firsts, phase.frames, unsteered)

    def chances(self, firsts: np.ndarray, phase: Phase) -> np.ndarray:
        """How likely each window is drawn, float64 [len(firsts)]; no frame of it follows its last
        action, which is left out.
        """
        sums = np.append(0, np.cumsum(self.times**-phase.balance))
        weights = sums[firsts + phase.frames - 1] - sums[firsts]
        return weights / weights.sum()

    def sequences(self, firsts: np.ndarray, frames: int, unsteered: np.ndarray | int = 0) -> Tensor:
        """Windows that start at `firsts`; the first `unsteered` actions of each are the preset's
        rest.
        """
        index = firsts[:, None] + np.arange(frames)
        dropped = np.arange(frames) < np.broadcast_to(unsteered, len(firsts))[:, None]
        actions = np.where(dropped[..., None], self.rest, self.tokens.actions[index])
        return torch.from_numpy(self.grid.flatten(self.tokens.codes[index], actions, self.prefix))


def token_nll(
    model: nn.Module, weights: dict[str, Tensor] | None, sequences: Tensor, grid: Grid
) -> Tensor:
    """Negative log-likelihood (nats) float32 [B, N] of every code that something precedes.

    N is T*h*w, without a prefix one less: nothing precedes the very first code.

    model: a Transformer, or what `parallel.data_parallel` made of it.
    """
    length = sequences.shape[1]
    positions = torch.arange(length - 1, device=sequences.device)
    every = np.arange(length)
    is_code = grid.is_code(every) & (every >= max(grid.prefix, 1))
    codes = torch.from_numpy(np.flatnonzero(is_code)).to(sequences.device)
    arguments = (sequences[:, :-1], positions)
    logits = (
        model(*arguments)
        if weights is None
        else functional_call(model, weights, arguments, tie_weights=False)
    )
    picked = logits[:, codes - 1].float()
    targets = sequences[:, codes].flatten()
    return F.cross_entropy(picked.flatten(0, 1), targets, reduction="none").view(len(sequences), -1)


def fit_transformer(
    model: Transformer,
    train: WindowSampler,
    val: WindowSampler,
    optimiser: Optimiser,
    windows: Windows,
    folder: Path,
    sample: Callable[[Run[Transformer]], None] = lambda run: None,
    identity: dict[str, str] | None = None,
    **options: Any,
) -> Run[Transformer]:
    """Fit by next-token prediction over the codes (conditioning tokens are read, never predicted).

    folder: of the checkpoint, which is gone on from where there is one, and of the log.
    sample: sample(run) is called at each validation.
    identity: what the run is of, see `Run`.
    options: those of `train.loop.fit`.

    Returns the run, whose weights are the result.
    """
    for sampler in (train, val):
        sampler.check_window(windows.longest)
    run = Run(folder, model, optimiser, identity)
    device, wrapped = next(model.parameters()).device, parallel.data_parallel(model)

    def loss(step: int) -> Iterator[Tensor]:
        batch = train.draw(windows, optimiser.seed, step)
        for part, weight in parallel.micro_batches(batch, wrapped, optimiser.accumulate):
            yield token_nll(wrapped, None, part.to(device), train.grid).mean() * weight

    def validate(weights: dict[str, Tensor]) -> dict:
        figures = validate_transformer(
            model, weights, val, windows.at(run.step).frames, windows.validation
        )
        sample(run)
        return figures

    fit(run, loss, validate, **options)
    return run


@torch.inference_mode()
def validate_transformer(
    model: Transformer,
    weights: dict[str, Tensor] | None,
    val: WindowSampler,
    frames: int,
    count: int,
) -> dict:
    """Mean NLL per code (nats), in all and by frame index, on `count` windows spread over the
    validation split.

    Clips differ far more than training steps do: what a mean over other windows would be is within
    about two of `nll_by_frame_error`, its standard errors. Several processes share the windows. The
    health sign of a world model: the NLL falls clearly after the first frame.
    """
    device = next(model.parameters()).device
    starts = np.flatnonzero(val.left >= frames)
    firsts = starts[np.linspace(0, len(starts) - 1, count).astype(int)]
    share = np.array_split(firsts, parallel.world_size())[parallel.rank()]
    # codes predicted of each frame
    sizes = [val.grid.area - (val.grid.prefix == 0)] + [val.grid.area] * (frames - 1)
    sums = torch.zeros(2, frames, dtype=torch.float64, device=device)
    for part in np.array_split(share, max(1, len(share) // 4)):
        if len(part):
            nll = token_nll(
                model, weights, val.sequences(part, frames).to(device), val.grid
            ).double()
            windows = torch.stack([f.mean(1) for f in nll.split(sizes, dim=1)], dim=1)
            sums += torch.stack([windows.sum(0), windows.square().sum(0)])
    mean, square = parallel.all_reduce(sums).cpu().numpy() / count
    error = np.sqrt((square - mean**2).clip(0) / max(1, count - 1))
    figures = {
        "nll_by_frame": mean.round(3).tolist(),
        "nll_by_frame_error": error.round(3).tolist(),
    }
    return {"nll": round(float(np.average(mean, weights=sizes)), 4), **figures}
