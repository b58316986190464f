"""Train the Transformer by next-token prediction on windows of frames and the actions between them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from diagd_cli.clip.write import atomic
from diagd_cli.model.config import Strict
from diagd_cli.model.transformer import Transformer
from diagd_cli.tokens.grid import Grid
from diagd_cli.train.data import Episodes, Progress
from diagd_cli.train.loop import Optimiser, Run, fit


class Windows(Strict):
    """What a training sample is: `frames` consecutive frames; with probability `dropout` its actions read "none"."""

    frames: int = Field(gt=1)
    dropout: float = Field(default=0.1, ge=0, le=1)


def tokenise(tokenizer: nn.Module, episodes: Episodes, target: Path, progress: Progress = lambda d, t: None) -> np.ndarray:
    """Codes int16 [N, h, w] of all frames, from `target` (.npy) if it exists, else encoded and written there."""
    if not target.exists():
        chunks, size = [], 64
        for start in range(0, len(episodes), size):
            frames = torch.from_numpy(episodes.frames[start : start + size])
            chunks.append(tokenizer.encode(frames).to(torch.int16).cpu().numpy())
            progress(min(start + size, len(episodes)), len(episodes))
        with atomic(target) as part:
            np.save(part, np.concatenate(chunks))
    return np.load(target)


class Sampler:
    """Draws windows: sequences int64 [batch, L] as the grid lays them out, a function of (seed, step) alone."""

    def __init__(self, codes: np.ndarray, episodes: Episodes, grid: Grid, windows: Windows, action_ids: list[int], none: int):
        self.codes, self.grid, self.windows, self.none = codes, grid, windows, none
        self.actions = np.asarray(action_ids)[episodes.actions]
        ends = np.repeat(episodes.starts[1:], np.diff(episodes.starts))
        self.firsts = np.flatnonzero(np.arange(len(codes)) + windows.frames <= ends)

    def draw(self, seed: int, step: int, batch: int) -> Tensor:
        rng = np.random.default_rng([seed, step])
        return self.sequences(rng.choice(self.firsts, size=batch), rng.random(batch) < self.windows.dropout)

    def sequences(self, firsts: np.ndarray, dropped: np.ndarray) -> Tensor:
        index = firsts[:, None] + np.arange(self.windows.frames)
        actions = np.where(dropped[:, None], self.none, self.actions[index])
        return torch.from_numpy(self.grid.flatten(self.codes[index], actions[..., None]))


def token_nll(model: Transformer, weights: dict[str, Tensor] | None, sequences: Tensor, grid: Grid) -> Tensor:
    """Negative log-likelihood (nats) float32 [B, T*h*w - 1] of every code but the very first, which nothing precedes."""
    positions = torch.arange(sequences.shape[1] - 1, device=sequences.device)
    coords = grid.coords(sequences.shape[1])
    codes = torch.from_numpy(np.flatnonzero(coords[:, 1] < grid.h)[1:]).to(sequences.device)
    arguments = (sequences[:, :-1], positions)
    logits = model(*arguments) if weights is None else functional_call(model, weights, arguments)
    picked = logits[:, codes - 1].float()
    return F.cross_entropy(picked.flatten(0, 1), sequences[:, codes].flatten(), reduction="none").view(len(sequences), -1)


def train_transformer(
    model: Transformer, train: Sampler, val: Sampler, optimiser: Optimiser, folder: Path, **options
) -> Run:
    """Fit by next-token prediction over the codes (conditioning tokens are read, never predicted)."""
    run = Run(folder, model, optimiser)
    device = next(model.parameters()).device

    def loss(step: int) -> Tensor:
        sequences = train.draw(optimiser.seed, step, optimiser.batch).to(device)
        return token_nll(model, None, sequences, train.grid).mean()

    run.figures = fit(run, loss, lambda weights: validate_transformer(model, weights, val, device), **options)
    return run


@torch.inference_mode()
def validate_transformer(model: Transformer, weights: dict[str, Tensor], val: Sampler, device, count: int = 24) -> dict:
    """Mean NLL per code (nats), in all and by frame index, on `count` windows spread over the validation split.

    The health sign of a world model: the NLL falls clearly after the first frame.
    """
    firsts = val.firsts[np.linspace(0, len(val.firsts) - 1, count).astype(int)]
    rows = [
        token_nll(model, weights, val.sequences(part, np.zeros(len(part), bool)).to(device), val.grid)
        for part in np.array_split(firsts, max(1, count // 4))
    ]
    nll = torch.cat(rows).mean(0)
    area = val.grid.area
    by_frame = [nll[: area - 1].mean(), *(f.mean() for f in nll[area - 1 :].split(area))]
    return {"nll": round(nll.mean().item(), 4), "nll_by_frame": [round(x.item(), 3) for x in by_frame]}
