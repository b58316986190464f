"""How video tokens (t, i, j) and the tokens that steer them lie in the model's flat sequence. NumPy
only.

    prefix | frame 0: h*w codes in raster order | its conditioning tokens | frame 1 | ...

The conditioning tokens after frame t (actions) steer frame t+1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import overload

import numpy as np


@dataclass(frozen=True)
class Grid:
    """h rows and w columns of codes a latent frame, `conditioning` tokens after each, `prefix`
    tokens before the first.
    """

    h: int
    w: int
    conditioning: int = 0
    prefix: int = 0

    @property
    def area(self) -> int:
        """Codes of one latent frame."""
        return self.h * self.w

    @property
    def block(self) -> int:
        """Tokens of one latent frame, its conditioning included."""
        return self.area + self.conditioning

    @overload
    def position(self, t: int, i: int, j: int) -> int: ...

    @overload
    def position(self, t: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray: ...

    def position(
        self, t: int | np.ndarray, i: int | np.ndarray, j: int | np.ndarray
    ) -> int | np.ndarray:
        """Flat position of token (t, i, j); ints or arrays."""
        return self.prefix + t * self.block + i * self.w + j

    def conditioning_positions(self, t: int) -> np.ndarray:
        """Flat positions int64 [conditioning] of the tokens after frame t."""
        return self.prefix + t * self.block + self.area + np.arange(self.conditioning)

    def length(self, latents: int) -> int:
        """Positions that so many latent frames take, conditioning included."""
        return self.prefix + latents * self.block

    def coords(self, length: int) -> np.ndarray:
        """(t, i, j) int64 [length, 3] of every position; conditioning token a of frame t is (t, h,
        a), the prefix (0, 0, 0).
        """
        index = np.arange(length) - self.prefix
        t, rest = np.divmod(index, self.block)
        i, j = np.divmod(rest, self.w)
        steering = rest >= self.area
        i, j = np.where(steering, self.h, i), np.where(steering, rest - self.area, j)
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
        rows = codes.reshape(*batch, latents, self.area)
        if self.conditioning:
            rows = np.concatenate([rows, conditioning], axis=-1)
        flat = rows.reshape(*batch, latents * self.block)
        if self.prefix:
            assert prefix is not None  # whoever has a grid with a prefix has its tokens
            flat = np.concatenate([np.broadcast_to(prefix, (*batch, self.prefix)), flat], axis=-1)
        return flat.astype(np.int64)

    def codes(self, sequence: np.ndarray, latents: int) -> np.ndarray:
        """The codes [..., latents, h, w] in a sequence [..., >= length(latents)]."""
        body = sequence[..., self.prefix : self.length(latents)]
        blocks = body.reshape(*body.shape[:-1], latents, self.block)[..., : self.area]
        return blocks.reshape(*body.shape[:-1], latents, self.h, self.w)
