"""Train the Transformer by next-token prediction on windows of frames and the actions between them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.func import functional_call

from diagd_cli.clip.write import atomic
from diagd_cli.errors import ClipError
from diagd_cli.model.config import Strict
from diagd_cli.model.transformer import Transformer
from diagd_cli.tokens.grid import Grid
from diagd_cli.train.data import Episodes, Progress
from diagd_cli.train.loop import Optimiser, Run, fit


class Phase(Strict):
    """From step `start` on, a batch is `batch` windows of `frames` frames."""

    start: int = Field(ge=0)
    frames: int = Field(gt=1)
    batch: int = Field(gt=0)


class Windows(Strict):
    """What a training sample is. With probability `dropout` all its actions read "none"; as often, only the first few."""

    phases: tuple[Phase, ...] = Field(min_length=1)
    dropout: float = Field(default=0.1, ge=0, le=0.5)

    @model_validator(mode="after")
    def _ordered(self):
        starts = [phase.start for phase in self.phases]
        if starts[0] or starts != sorted(set(starts)):
            raise ValueError(f"phases must start at 0 and rise, they start at {starts}")
        return self

    def at(self, step: int) -> Phase:
        return [p for p in self.phases if p.start <= step][-1]


def tokenise(
    tokenizer: nn.Module, episodes: Episodes, target: Path, progress: Progress = lambda d, t: None
) -> np.ndarray:
    """Codes int16 [N, h, w] of all frames, from `target` (.npy) if it exists, else encoded and written there."""
    if not target.exists():
        chunks, size = [], 64
        for start in range(0, len(episodes), size):
            frames = torch.from_numpy(np.array(episodes.frames[start : start + size]))
            chunks.append(tokenizer.encode(frames).to(torch.int16).cpu().numpy())
            progress(min(start + size, len(episodes)), len(episodes))
        with atomic(target) as part:
            np.save(part, np.concatenate(chunks))
    return np.load(target)


class Sampler:
    """Draws windows of consecutive frames: sequences int64 [batch, L] as the grid lays them out."""

    def __init__(self, codes: np.ndarray, episodes: Episodes, grid: Grid, action_ids: np.ndarray, none: int):
        self.codes, self.grid, self.none = codes, grid, none
        self.actions = action_ids[episodes.actions]
        self.left = np.repeat(episodes.starts[1:], np.diff(episodes.starts)) - np.arange(len(codes))

    def need(self, frames: int) -> None:
        """Raise ClipError where no clip holds a window of `frames` frames."""
        if self.left.max() < frames:
            message = f"The longest clip has {self.left.max()} frames, and the recipe's windows have {frames}"
            raise ClipError(message, "Record longer clips, or shorten the windows")

    def draw(self, windows: Windows, seed: int, step: int) -> Tensor:
        """The batch of a step: a function of (seed, step) alone."""
        phase, rng = windows.at(step), np.random.default_rng([seed, step])
        firsts = rng.choice(np.flatnonzero(self.left >= phase.frames), size=phase.batch)
        chance, cut = rng.random(phase.batch), rng.integers(phase.frames, size=phase.batch)
        unsteered = np.where(chance < windows.dropout, phase.frames, np.where(chance < 2 * windows.dropout, cut, 0))
        return self.sequences(firsts, phase.frames, unsteered)

    def sequences(self, firsts: np.ndarray, frames: int, unsteered: np.ndarray | int = 0) -> Tensor:
        """Windows that start at `firsts`; the first `unsteered` actions of each read "none"."""
        index = firsts[:, None] + np.arange(frames)
        dropped = np.arange(frames) < np.broadcast_to(unsteered, len(firsts))[:, None]
        actions = np.where(dropped, self.none, self.actions[index])
        return torch.from_numpy(self.grid.flatten(self.codes[index], actions[..., None]))


def token_nll(model: Transformer, weights: dict[str, Tensor] | None, sequences: Tensor, grid: Grid) -> Tensor:
    """Negative log-likelihood (nats) float32 [B, T*h*w - 1] of every code but the very first, which nothing precedes."""
    positions = torch.arange(sequences.shape[1] - 1, device=sequences.device)
    coords = grid.coords(sequences.shape[1])
    codes = torch.from_numpy(np.flatnonzero(coords[:, 1] < grid.h)[1:]).to(sequences.device)
    arguments = (sequences[:, :-1], positions)
    logits = model(*arguments) if weights is None else functional_call(model, weights, arguments)
    picked = logits[:, codes - 1].float()
    return F.cross_entropy(picked.flatten(0, 1), sequences[:, codes].flatten(), reduction="none").view(
        len(sequences), -1
    )


def train_transformer(
    model: Transformer, train: Sampler, val: Sampler, optimiser: Optimiser, windows: Windows, folder: Path, **options
) -> Run:
    """Fit by next-token prediction over the codes (conditioning tokens are read, never predicted)."""
    for sampler in (train, val):
        sampler.need(max(phase.frames for phase in windows.phases))
    run = Run(folder, model, optimiser)
    device = next(model.parameters()).device

    def loss(step: int) -> Tensor:
        sequences = train.draw(windows, optimiser.seed, step).to(device)
        return token_nll(model, None, sequences, train.grid).mean()

    def validate(weights: dict[str, Tensor]) -> dict:
        return validate_transformer(model, weights, val, windows.at(run.step).frames)

    fit(run, loss, validate, **options)
    return run


@torch.inference_mode()
def validate_transformer(
    model: Transformer, weights: dict[str, Tensor], val: Sampler, frames: int, count: int = 24
) -> dict:
    """Mean NLL per code (nats), in all and by frame index, on `count` windows spread over the validation split.

    The health sign of a world model: the NLL falls clearly after the first frame.
    """
    device = next(model.parameters()).device
    starts = np.flatnonzero(val.left >= frames)
    firsts = starts[np.linspace(0, len(starts) - 1, count).astype(int)]
    rows = [
        token_nll(model, weights, val.sequences(part, frames).to(device), val.grid)
        for part in np.array_split(firsts, max(1, count // 4))
    ]
    nll = torch.cat(rows).mean(0)
    area = val.grid.area
    by_frame = [nll[: area - 1].mean(), *(f.mean() for f in nll[area - 1 :].split(area))]
    return {"nll": round(nll.mean().item(), 4), "nll_by_frame": [round(x.item(), 3) for x in by_frame]}
