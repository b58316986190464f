"""Train inverse dynamics on clips with actions: which action led from frame t to frame t+1?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diagd_cli.errors import ClipError
from diagd_cli.families.freedoom.actions import NamedActions
from diagd_cli.model.inverse import PAIRS_AT_ONCE, InverseDynamics, to_small
from diagd_cli.train.clips import describe_clips
from diagd_cli.train.data import Episodes
from diagd_cli.train.loop import Run, fit
from diagd_cli.train.optimiser import Optimiser

SETTINGS = Optimiser(
    steps=1800, batch=64, lr=2e-3, warmup=100, weight_decay=0.02, betas=(0.9, 0.99), ema=0.99
)
# deviation of pixel noise, of a range of 2: generated frames are not as clean as real ones
NOISE = 0.06
SHIFT = 0.05  # of a frame's brightness, alike


class Pairs:
    """Consecutive frames of the same episode, with the action after the first, which the second one
    shows.

    Pairs whose action is unknown are left out. Raises ClipError where no pair is left.
    """

    def __init__(self, episodes: Episodes, actions: NamedActions):
        last = np.zeros(len(episodes), dtype=bool)
        last[episodes.starts[1:] - 1] = True
        rows = episodes.actions[:, 0]
        self.frames, self.actions = episodes.frames, rows - actions.offset
        self.firsts = np.flatnonzero(~last & (rows != actions.rest[0]))
        if not len(self.firsts):
            message = (
                f"None of {describe_clips(episodes.split, episodes.clips)} has a known action "
                "between two frames"
            )
            raise ClipError(
                message, "Give longer clips, with their actions beside them in NAME.jsonl"
            )

    def take(self, firsts: np.ndarray, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Pixels float32 [N, 6, h, w] of the pairs that start at `firsts`, and their actions int64
        [N].
        """
        small = to_small(np.concatenate([self.frames[firsts], self.frames[firsts + 1]]), device)
        return torch.cat(small.chunk(2), dim=1), torch.from_numpy(self.actions[firsts]).to(device)


def fit_inverse(
    model: InverseDynamics,
    train: Pairs,
    val: Pairs,
    optimiser: Optimiser,
    folder: Path,
    **options: Any,
) -> Run[InverseDynamics]:
    """Fit by cross-entropy. Returns the run, whose weights are the result.

    folder: of the checkpoint, which is gone on from where there is one, and of the log.
    options: those of `train.loop.fit`.
    """
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch types no such overload
    run, device = Run(folder, model, optimiser), next(model.parameters()).device

    def loss(step: int) -> Tensor:
        rng = np.random.default_rng([optimiser.seed, step])
        pairs, actions = train.take(np.sort(rng.choice(train.firsts, size=optimiser.batch)), device)
        logits, _ = model(augment(pairs).contiguous(memory_format=torch.channels_last))
        return F.cross_entropy(logits, actions, label_smoothing=0.05)

    def validate(weights: dict[str, Tensor]) -> dict:
        return {"accuracy": accuracies(confusion(run.shipped(), val, 1024))["accuracy"]}

    fit(run, loss, validate, **options)
    return run


def augment(pairs: Tensor) -> Tensor:
    """Pairs [N, 6, h, w] with noise, and each frame a little brighter or darker."""
    shift = SHIFT * torch.randn(len(pairs), 2, 1, 1, 1, device=pairs.device)
    moved = (pairs.unflatten(1, (2, 3)) + shift).flatten(1, 2)
    return moved + NOISE * torch.rand(len(pairs), 1, 1, 1, device=pairs.device) * torch.randn_like(
        pairs
    )


@torch.inference_mode()
def confusion(model: InverseDynamics, pairs: Pairs, count: int = 0) -> np.ndarray:
    """How often action a (row) was read as b (column), int64 [A, A], on all pairs or on `count`
    spread over them.
    """
    firsts = pairs.firsts
    if 0 < count < len(firsts):
        firsts = firsts[np.linspace(0, len(firsts) - 1, count).astype(int)]
    actions = model.head.out_features
    table = np.zeros((actions, actions), dtype=np.int64)
    for part in np.array_split(firsts, -(-len(firsts) // PAIRS_AT_ONCE)):
        pixels, truth = pairs.take(part, next(model.parameters()).device)
        read = model(pixels)[0].argmax(-1)
        np.add.at(table, (truth.cpu().numpy(), read.cpu().numpy()), 1)
    return table


def accuracies(table: np.ndarray) -> dict:
    """Share of actions that were read right, in all and by action id (None for one that did not
    occur).
    """
    rows = table.sum(1)
    by_action = [round(float(table[a, a] / n), 4) if n else None for a, n in enumerate(rows)]
    return {"accuracy": round(float(np.trace(table) / rows.sum()), 4), "by_action": by_action}
