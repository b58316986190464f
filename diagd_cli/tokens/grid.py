"""How video tokens (t, i, j) and the tokens between them lie in the model's flat sequence. NumPy
only.

    prefix | frame 0: w codes, row end | w codes, row end | ... | frame end | conditioning | frame 1

The conditioning tokens after frame t (actions) steer frame t+1. The ends of rows and frames are the
same ids everywhere: nobody has to make them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np


@dataclass(frozen=True)
class Grid:
    """h rows and w columns of codes a latent frame, `conditioning` tokens after each, `prefix`
    tokens before the first.

    row_end: ids after each row of codes, the last one of a frame included.
    frame_end: ids after each frame, between its last row and its conditioning.
    """

    h: int
    w: int
    conditioning: int = 0
    prefix: int = 0
    row_end: tuple[int, ...] = ()
    frame_end: tuple[int, ...] = ()

    @property
    def area(self) -> int:
        """Codes of one latent frame."""
        return self.h * self.w

    @property
    def stride(self) -> int:
        """Tokens of one row, its end included."""
        return self.w + len(self.row_end)

    @property
    def tail(self) -> int:
        """Tokens between the last code of a latent frame and the first one of the next."""
        return len(self.row_end) + len(self.frame_end) + self.conditioning

    @property
    def block(self) -> int:
        """Tokens of one latent frame, its ends and its conditioning included."""
        return self.h * self.stride + len(self.frame_end) + self.conditioning

    @cached_property
    def places(self) -> np.ndarray:
        """Where in its block each code of a latent frame stands, int64 [h, w]."""
        return np.arange(self.h)[:, None] * self.stride + np.arange(self.w)

    @overload
    def position(self, t: int, i: int, j: int) -> int: ...

    @overload
    def position(self, t: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray: ...

    def position(
        self, t: int | np.ndarray, i: int | np.ndarray, j: int | np.ndarray
    ) -> int | np.ndarray:
        """Flat position of token (t, i, j); ints or arrays."""
        return self.prefix + t * self.block + i * self.stride + j

    def row_end_positions(self, t: int, i: int) -> np.ndarray:
        """Flat positions int64 [len(row_end)] of the end of row i of frame t."""
        return self.position(t, i, self.w) + np.arange(len(self.row_end))

    def tail_positions(self, t: int) -> np.ndarray:
        """Flat positions int64 [tail] of what stands between the codes of frame t and of t+1."""
        return self.position(t, self.h - 1, self.w) + np.arange(self.tail)

    def conditioning_positions(self, t: int) -> np.ndarray:
        """Flat positions int64 [conditioning] of the tokens that steer frame t+1."""
        return self.tail_positions(t)[self.tail - self.conditioning :]

    def length(self, latents: int) -> int:
        """Positions that so many latent frames take, ends and conditioning included."""
        return self.prefix + latents * self.block

    def is_code(self, positions: Any) -> Any:
        """Which positions, an int64 array or tensor [...] of those after the prefix, hold codes:
        bool [...].
        """
        place = (positions - self.prefix) % self.block
        return (place < self.h * self.stride) & (place % self.stride < self.w)

    def order(self, positions: Any) -> Any:
        """The how manieth code of its latent frame stands at each position, an int64 array or
        tensor [...] of codes: 0 .. area-1, in raster order.
        """
        place = (positions - self.prefix) % self.block
        return place - place // self.stride * len(self.row_end)

    def ends(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions int64 [n] below `length` that hold the end of a row or of a frame, and what
        they hold, int64 [n].
        """
        frame = [np.concatenate([np.full(self.w, -1), self.row_end])] * self.h
        frame += [np.array(self.frame_end), np.full(self.conditioning, -1)]
        frames = -(-max(0, length - self.prefix) // self.block)
        prefix, block = np.full(self.prefix, -1), np.concatenate(frame)
        ids = np.concatenate([prefix, np.tile(block, frames)])[:length].astype(np.int64)
        where = np.flatnonzero(ids >= 0)
        return where, ids[where]

    def coords(self, length: int) -> np.ndarray:
        """(t, i, j) int64 [length, 3] of every position. Token a of the end of row i of frame t is
        (t, i, w + a), token a of the frame's end or, after it, of its conditioning (t, h, a), and
        the prefix (0, 0, 0).
        """
        index = np.arange(length) - self.prefix
        t, rest = np.divmod(index, self.block)
        i, j = np.divmod(rest, self.stride)
        rows = self.h * self.stride
        below = rest >= rows
        i, j = np.where(below, self.h, i), np.where(below, rest - rows, j)
        return np.where(index[:, None] < 0, 0, np.stack([t, i, j], axis=1))

    def flatten(
        self,
        codes: np.ndarray,
        conditioning: np.ndarray | None = None,
        prefix: np.ndarray | None = None,
    ) -> np.ndarray:
        """Sequence int64 [..., length] of codes [..., T, h, w], conditioning [..., T, A] and prefix
        [prefix].
        """
        *batch, latents, h, w = codes.shape
        if (h, w) != (self.h, self.w):
            raise ValueError(f"codes are {h}x{w}, the grid is {self.h}x{self.w}")
        flat = np.empty((*batch, self.length(latents)), dtype=np.int64)
        where, ids = self.ends(flat.shape[-1])
        flat[..., where] = ids
        frames = np.arange(latents)[:, None, None] * self.block
        flat[..., self.prefix + frames + self.places] = codes
        if self.conditioning:
            assert conditioning is not None  # as whoever has a grid with a prefix has its tokens
            steering = self.block - self.conditioning + np.arange(self.conditioning)
            flat[..., self.prefix + frames[..., 0] + steering] = conditioning
        if self.prefix:
            assert prefix is not None
            flat[..., : self.prefix] = prefix
        return flat

    def codes(self, sequence: np.ndarray, latents: int) -> np.ndarray:
        """The codes [..., latents, h, w] in a sequence [..., >= length(latents)]."""
        body = sequence[..., self.prefix : self.length(latents)]
        return body.reshape(*body.shape[:-1], latents, self.block)[..., self.places]
