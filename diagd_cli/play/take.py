"""What is played, as records: where it begins, what steers it, what was made, what is shown."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

import numpy as np

from diagd_cli.clip.image import stamped
from diagd_cli.clip.read import Clip
from diagd_cli.loading import Loaded
from diagd_cli.pipeline import encode, to_frames
from diagd_cli.schedule.decoding import Decoding

MOST_FRAMES = 100_000  # of a take: what is older is forgotten, and the take begins later
NOBODY = 0.0  # the time stamp of an input that nobody gave
NO_ACTION = 0xFFFF  # the number of what is none of the names alone


@dataclass(frozen=True)
class Input:
    """What is held.

    row: int64 [A].
    stamp: the client's own time of it.
    came: time.perf_counter() when it was received; 0 where nobody gave it.
    action: the number of its name; `NO_ACTION` for none, or several.
    names: bit n is set where name n is part of it; 0 where a frame has one action.
    """

    row: np.ndarray
    stamp: float = NOBODY
    came: float = 0.0
    action: int = NO_ACTION
    names: int = 0


@dataclass(frozen=True)
class Shown:
    """A frame, and how it came about.

    number: since the reset, the clip's frames included.
    pixels: uint8 [H, W, 3].
    steps: that were taken since the frame before.
    steered: by which input; None for a frame of the clip.
    frames_per_second, tokens_per_second: of the last frames; 0 until there are two.
    """

    number: int
    pixels: np.ndarray
    steps: int = 0
    steered: Input | None = None
    frames_per_second: float = 0.0
    tokens_per_second: float = 0.0


class Start:
    """A clip with which a world can begin; what is made of it is made once, when it is first
    asked for.
    """

    def __init__(self, loaded: Loaded, clip: Clip):
        self.loaded, self.clip = loaded, clip

    @cached_property
    def codes(self) -> np.ndarray:
        """int64 [T, h, w]. Raises UsageError for a clip that the preset cannot take."""
        return encode(self.loaded, self.clip)

    @cached_property
    def frames(self) -> np.ndarray:
        """Pixels uint8 [T, H, W, 3], as the tokenizer has them."""
        return stamped(to_frames(self.loaded, self.codes), self.loaded.preset.stamp)

    @cached_property
    def rows(self) -> np.ndarray:
        """The actions between its frames, int64 [T-1, A]: those recorded beside it, or rest.

        Raises UsageError where the file beside it has other actions.
        """
        count, preset = len(self.clip.frames), self.loaded.preset
        assert preset.actions is not None  # whoever makes a world has checked
        found = self.loaded.request(1, clip=self.clip).actions
        rest = np.tile(preset.actions.rest, (count, 1))
        return (rest if found is None else found)[: count - 1]

    def prepare(self) -> None:
        """Make it all now."""
        _ = self.rows, self.frames


@dataclass(eq=False)
class Take:
    """What has been played since the last reset.

    start, seed: with what it began.
    codes: int32 [h, w] of each new frame.
    rows: int64 [A], the action that steered each.
    begun: (new frames before it, decoding) of each sequence of tokens, in turn: the first begins
        with the take, others where the decoding was changed, or who plays.
    forgotten: new frames before these.
    """

    start: Start
    seed: int
    codes: deque[np.ndarray] = field(default_factory=lambda: deque(maxlen=MOST_FRAMES))
    rows: deque[np.ndarray] = field(default_factory=lambda: deque(maxlen=MOST_FRAMES))
    begun: list[tuple[int, Decoding]] = field(default_factory=list)
    forgotten: int = 0

    @property
    def clip(self) -> Clip:
        """With which it began."""
        return self.start.clip

    @property
    def made(self) -> int:
        """New frames."""
        return self.forgotten + len(self.codes)

    @property
    def known(self) -> int:
        """Frames since the reset, the clip's included."""
        return len(self.clip.frames) + self.made

    def add(self, codes: np.ndarray, row: np.ndarray) -> None:
        """Another frame, and the action that steered it."""
        self.forgotten += len(self.codes) == MOST_FRAMES
        self.codes.append(codes.astype(np.int32))  # a view would keep all that it is a view of
        self.rows.append(row)

    def begin(self, decoding: Decoding) -> None:
        """A sequence of tokens begins here, in place of one that has not made a frame."""
        if self.begun and self.begun[-1][0] == self.made:
            self.begun.pop()
        self.begun.append((self.made, decoding))

    def newest(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Codes int64 [count, h, w] of its newest frames, and the actions [count-1, A] between
        them.
        """
        codes = [*self.start.codes, *_last(self.codes, count)][-count:]
        rows = [*self.start.rows, *_last(self.rows, count)]
        kept = np.array(rows[len(rows) - (count - 1) :], dtype=np.int64)
        return np.stack(codes).astype(np.int64), kept.reshape(count - 1, self.start.rows.shape[1])


def _last(values: deque[np.ndarray], count: int) -> list[np.ndarray]:
    return list(islice(reversed(values), count))[::-1]
