"""Classifier-free guidance: two rows of a batch make one choice."""

from __future__ import annotations

from torch import Tensor

from diagd_cli.engine.steps import Choose
from diagd_cli.tokens.grid import Grid
from diagd_cli.tokens.sampling import Guidance


class Guided:
    """Chooses for the rows of a batch whose second half holds the clips of the first once more,
    after a prefix that asks for nothing: both get what is chosen by their mixed logits.

    guidance: how they are mixed.
    choose: of the mixed logits [B, n, vocab] and targets makes ids int64 [B, n].
    grid: how latent frames lie in the sequence.
    """

    def __init__(self, guidance: Guidance, choose: Choose, grid: Grid):
        self.guidance, self.choose, self.grid = guidance, choose, grid

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Ids int64 [2B, n] of logits [2B, n, vocab], and targets int64 [n], or [2B, n] where clips
        differ, the flat positions where they go.
        """
        own, nothing = logits.float().chunk(2)
        targets = targets if targets.ndim == 1 else targets[: len(own)]
        mixed = nothing + (own - nothing) * self.guidance.scale
        if self.guidance.tokens:
            guided = self.grid.order(targets) < self.guidance.tokens
            mixed = mixed.where(guided.unsqueeze(-1), own)
        return self.choose(mixed, targets).repeat(2, 1)
