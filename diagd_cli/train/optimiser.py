"""What a training run is told: steps, rates, decay; the optimisers that follow from it; what does
not learn.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from diagd_cli.errors import PresetError
from diagd_cli.model.config import Strict
from diagd_cli.train.muon import Muon

MOST = 10**7
Share = Annotated[float, Field(ge=0, lt=1)]


class Optimiser(Strict):
    """AdamW with linear warm-up and cosine decay to `final` x lr; `ema` 0 keeps the last weights
    instead of an average.

    `muon` > 0: the matrices inside Transformer blocks follow Muon instead, at that learning rate
    and the same schedule.
    `accumulate`: parts in which a batch is worked through, to save memory; the gradient is the
        whole batch's.
    `frozen`: parts of the model that stay as they are, such as "encoder": a tokenizer's codes are
        then what they were.
    """

    steps: int = Field(gt=0, le=MOST)
    batch: int = Field(default=1, gt=0, le=MOST)
    accumulate: int = Field(default=1, gt=0, le=MOST)
    lr: float = Field(gt=0)
    muon: float = Field(default=0.0, ge=0)
    warmup: int = Field(default=100, ge=0)
    final: float = Field(default=0.05, ge=0, le=1)
    betas: tuple[Share, Share] = (0.9, 0.95)
    weight_decay: float = Field(default=0.1, ge=0)
    clip: float = Field(default=1.0, gt=0)
    ema: Share = 0.0
    frozen: tuple[str, ...] = ()
    seed: int = Field(default=0, ge=0, lt=2**32)

    def rate(self, step: int) -> float:
        """Share of the learning rate at a step."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * done))


def freeze(model: nn.Module, parts: tuple[str, ...]) -> None:
    """Leave these parts (names of submodules) out of training. Raises PresetError for one that is
    not there, and for all.
    """
    for part in parts:
        try:
            model.get_submodule(part).requires_grad_(False)
        except AttributeError:
            known = ", ".join(name for name, _ in model.named_children())
            raise PresetError(
                f"The recipe freezes {part!r}, and the model has no such part", f"It has {known}"
            ) from None
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise PresetError(
            f"The recipe freezes {', '.join(parts)}, which is all of the model",
            "Leave a part to learn",
        )


def make_optimisers(model: nn.Module, settings: Optimiser) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the blocks' matrices and AdamW for the rest; vectors are
    not decayed.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    hidden = [p for name, p in named if settings.muon and p.ndim == 2 and "blocks." in name]
    taken = {id(p) for p in hidden}
    rest = [p for _, p in named if id(p) not in taken]
    groups = [
        {
            "params": [p for p in rest if p.ndim >= 2],
            "weight_decay": settings.weight_decay,
            "peak": settings.lr,
        },
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0, "peak": settings.lr},
    ]
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas)
    ]
    if hidden:
        optimisers.append(
            Muon([{"params": hidden, "peak": settings.muon}], weight_decay=settings.weight_decay)
        )
    return optimisers
