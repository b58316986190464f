"""What was made of a clip, and what it took."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from diagd_cli.clip.image import stamped


@dataclass
class Result:
    """What was made of a clip; steps, seconds and rates are those of its whole batch.

    pixels: uint8 [context + new, H, W, 3], as the tokenizer decodes them, to be measured; none
        where they were handed on and not held.
    codes: int64 [T, h, w]; where frames are not held those of the newest.
    context: frames that were given.
    new: frames that were made.
    steps: of the decoding.
    tokens: that were made for this clip.
    seconds: by stage.
    batch: clips that were decoded together.
    began: when the decode began, as time.perf_counter() tells it.
    first_frame: seconds from there until the pixels of the first new frame.
    completed: seconds of decoding, prefill not counted, after which each new latent frame had all
        its tokens.
    stamp: text that `frames` bear.
    stopped: whether it was interrupted, and holds what was made until then.
    """

    pixels: np.ndarray
    codes: np.ndarray
    context: int
    new: int
    steps: int
    tokens: int
    seconds: dict[str, float] = field(default_factory=dict)
    batch: int = 1
    began: float = 0.0
    first_frame: float = 0.0
    completed: list[float] = field(default_factory=list)
    stamp: str = ""
    stopped: bool = False

    @cached_property
    def frames(self) -> np.ndarray:
        """What may be shown: uint8 [context + new, H, W, 3], stamped where a licence asks
        for it.
        """
        return stamped(self.pixels, self.stamp)

    @property
    def rates(self) -> dict[str, float]:
        """Throughput of the decode stage alone, over all clips of the batch."""
        decode = max(self.seconds["decode"], 1e-9)
        return {
            "tokens_per_second": self.batch * self.tokens / decode,
            "frames_per_second": self.batch * self.new / decode,
            "ms_per_step": 1000 * decode / self.steps,
        }

    @property
    def evenness(self) -> dict[str, float]:
        """Seconds of decoding until the first new latent frame was complete, and between one and
        the next: the median, the 95th percentile and the longest; 0 where there is one frame only.
        """
        gaps = np.diff(self.completed) if len(self.completed) > 1 else np.zeros(1)
        middle, most = np.percentile(gaps, [50, 95])
        first = self.completed[0] if self.completed else 0.0
        return {"first": first, "median": middle, "p95": most, "longest": float(gaps.max())}
