"""Several continuations of one clip, as records: made by `jobs.comparison`, shown by videos and a
page, and in JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Fidelity:
    """How near frames are to ground truth.

    psnr: mean, dB.
    ssim: mean.
    psnr_by_frame: of each new frame, dB.
    """

    psnr: float
    ssim: float
    psnr_by_frame: Sequence[float]


@dataclass(frozen=True)
class ComparisonRow:
    """The figures of one decoding.

    decoding: what was asked for, see `Decoding.facts`.
    steps: of the whole decoding.
    tokens: that it made.
    seconds: by stage: encode, prefill, decode, pixels.
    completed: seconds of decoding after which each new latent frame had all its tokens.
    tokens_per_second, frames_per_second, ms_per_step: of the decode stage.
    speedup: over the first decoding.
    token_agreement: share of tokens that are those of the first decoding.
    fidelity: None where there is no ground truth.
    """

    label: str
    decoding: Mapping
    steps: int
    tokens: int
    seconds: Mapping[str, float]
    completed: Sequence[float]
    tokens_per_second: float
    frames_per_second: float
    ms_per_step: float
    speedup: float
    token_agreement: float
    fidelity: Fidelity | None = None

    @property
    def longest_gap(self) -> float | None:
        """Seconds of decoding between two new latent frames at most; None where there is one."""
        pairs = zip(self.completed, self.completed[1:], strict=False)
        return max((later - before for before, later in pairs), default=None)

    def facts(self) -> dict:
        """The row as JSON has it: without ground truth there is nothing of fidelity."""
        gap = self.longest_gap
        found = asdict(self) | {"longest_gap": None if gap is None else round(gap, 4)}
        return found | (found.pop("fidelity") or {})


@dataclass(frozen=True, eq=False)
class Comparison:
    """Continuations by several decodings, which begin with the same `context` frames.

    rows: the figures of each decoding.
    videos: of each, uint8 [F, H, W, 3].
    truth: the clip itself, uint8 [context + n, H, W, 3]; None where it ends with the context.
    context: frames.
    temporal: frames a latent frame.
    fps: frames a second.
    limit: what the tokenizer alone scores on ground truth; None where there is none.
    """

    rows: Sequence[ComparisonRow]
    videos: Sequence[np.ndarray]
    truth: np.ndarray | None
    context: int
    temporal: int
    fps: float
    limit: Fidelity | None = None

    @property
    def new(self) -> int:
        """New frames of each continuation."""
        return len(self.videos[0]) - self.context

    @property
    def shown(self) -> list[np.ndarray]:
        """Every video, ground truth first where there is one."""
        return [*self.videos] if self.truth is None else [self.truth, *self.videos]

    @property
    def names(self) -> list[str]:
        """What `shown` is called."""
        labels = [row.label for row in self.rows]
        return labels if self.truth is None else ["ground truth", *labels]

    def abouts(self) -> list[str]:
        """A line about each of `shown`: what it took."""
        lines = [
            f"{steps(row)}, {duration(row.seconds['decode'])}, {row.speedup:.1f}x"
            for row in self.rows
        ]
        return lines if self.truth is None else ["how the clip goes on", *lines]

    def count(self, frame: int) -> str:
        """Which frame that is, counted from 1 in the context and in what is new."""
        if frame < self.context:
            return f"context {frame + 1}/{self.context}"
        return f"frame {frame - self.context + 1}/{self.new}"


def steps(row: ComparisonRow) -> str:
    """How many steps a decoding took."""
    return f"{row.steps:,} step{'' if row.steps == 1 else 's'}"


def duration(seconds: float) -> str:
    """Seconds as they are read: milliseconds where they are few."""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"
