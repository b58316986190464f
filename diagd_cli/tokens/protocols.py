"""What a tokenizer, its configuration and actions must offer; a model family brings one of each
(`diagd_cli.families`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


class Tokenizer(Protocol):
    """Frames to codes and back: any object with these two methods, which need not be a module of
    torch.

    It may have `encode_resized(frames, height, width)` too, which is then given frames of any size:
    for a model whose official code does more than to scale frames and round them. With
    `takes_tokens` true its frames are tokens.
    """

    def encode(self, frames: Tensor) -> Tensor:
        """Codes int64 [T, h, w] of frames uint8 [F, H, W, 3] of the preset's size, on any
        device.
        """
        ...

    def decode(self, codes: Tensor) -> Tensor:
        """Frames uint8 [F, H, W, 3] of codes int64 [T, h, w]."""
        ...


class TokenizerConfig(Protocol):
    """The section `tokenizer` of a preset: a `model.config.Strict` record whose `kind` tells it
    from others.

    It may have `height` and `width`: then it takes frames of this one size, in pixels, and pads
    what is no whole token.
    """

    kind: Any

    @property
    def codebook(self) -> int:
        """Number of codes."""
        ...

    @property
    def spatial(self) -> int:
        """Pixels along each side of a token."""
        ...

    @property
    def temporal(self) -> int:
        """Frames a latent frame stands for, after the first."""
        ...


class Actions(Protocol):
    """The section `actions` of a preset, a record with a `kind`: what steers a clip, as rows of
    token ids, one a frame.
    """

    kind: Any
    offset: int

    @property
    def size(self) -> int:
        """Tokens after each frame."""
        ...

    @property
    def vocabulary(self) -> int:
        """Number of token ids, from `offset` on."""
        ...

    @property
    def rest(self) -> np.ndarray:
        """The row int64 [size] of a frame of whose action nothing is known."""
        ...

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Endings of an action file beside a clip."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """What each id is called, where a frame has one token and its actions are told apart by it;
        else nothing.
        """
        ...

    def read(self, path: Path) -> np.ndarray:
        """Rows int64 [n, size] of a file. Raises UsageError."""
        ...

    def parse(self, text: str) -> np.ndarray:
        """Rows int64 [n, size] of the text of --actions. Raises UsageError."""
        ...

    def describe(self, rows: np.ndarray) -> list:
        """Rows int64 [n, size] as JSON can hold them."""
        ...

    def model_dump(self, *, mode: str = "python") -> dict[str, Any]:
        """Its settings by name, as every record of pydantic gives them."""
        ...


@runtime_checkable
class Playable(Actions, Protocol):
    """Actions that somebody can hold while frames are made, as `diagd play` needs them."""

    @property
    def keys(self) -> Mapping[str, tuple[str, ...]]:
        """What can be held, by name, and the keys that suggest themselves for it, as a browser's
        `KeyboardEvent.code` calls them; none for what has no usual key.
        """
        ...

    @property
    def several(self) -> bool:
        """Whether any of them can be held together; else a frame has one of them."""
        ...

    def hold(self, names: Sequence[str]) -> np.ndarray:
        """The row int64 [size] of what is held at once, nothing or some of `keys`; what is opposed
        cancels out. Raises UsageError for another name.
        """
        ...

    def lines(self, rows: np.ndarray) -> list[Any]:
        """Rows int64 [n, size] as objects of a file that `read` takes, one a frame."""
        ...
