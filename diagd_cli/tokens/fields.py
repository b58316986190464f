"""What the sections of tokenizers in a preset have in common: types of their numbers, within which
bounds a stranger's preset cannot ask too much, and levels of resolution. Torch-free.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated

from pydantic import Field

from diagd_cli.model.config import Strict, Width

Levels = Annotated[
    tuple[Annotated[int, Field(ge=2, le=1 << 16)], ...], Field(min_length=1, max_length=16)
]
Side = Annotated[int, Field(gt=0, le=1 << 10)]  # of a patch or a token, in pixels
MOST_LEVELS = 12  # of resolution: a token of 2048x2048 pixels
MOST_CHANNELS = 1 << 16
# one a level
Widths = Annotated[tuple[Width, ...], Field(min_length=1, max_length=MOST_LEVELS)]


class Pyramid(Strict):
    """A convolutional tokenizer of single frames; every level after the first halves the
    resolution.
    """

    @property
    @abstractmethod
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""

    @property
    def spatial(self) -> int:
        """Pixels along each side of a token."""
        return 2 ** (len(self.widths) - 1)

    @property
    def temporal(self) -> int:
        """Frames a latent frame stands for, after the first."""
        return 1


def multiplied(channels: int, multipliers: tuple[int, ...]) -> tuple[int, ...]:
    """`channels` times the multiplier of each level."""
    return tuple(channels * factor for factor in multipliers)


def check_multiplied(channels: int, multipliers: tuple[int, ...], groups: int) -> None:
    """Raise ValueError for such widths that no groups of norms divide, or that are too large."""
    if channels % groups:
        raise ValueError(f"channels ({channels}) must be a multiple of groups ({groups})")
    if (widest := max(multiplied(channels, multipliers))) > MOST_CHANNELS:
        raise ValueError(f"channels x multipliers ({widest}) is above {MOST_CHANNELS}")
