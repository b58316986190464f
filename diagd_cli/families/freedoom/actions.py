"""Actions that have names, one token a frame: the shipped world's, and those of whoever trains on
clips of their own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from diagd_cli.errors import UsageError, did_you_mean
from diagd_cli.model.config import Strict
from diagd_cli.tokens.actions import WALKING, action_lines, held, is_file, repeated


class NamedActions(Strict):
    """One token a frame: `names[n]` is token `offset + n`; `none` is what an unsteered model
    reads.
    """

    kind: Literal["names"] = "names"
    offset: int = Field(ge=0)
    names: tuple[str, ...] = Field(min_length=1)
    none: str = "none"

    @model_validator(mode="after")
    def _consistent(self) -> NamedActions:
        if self.none not in self.names:
            raise ValueError(f"none ({self.none!r}) is not among names")
        return self

    @property
    def size(self) -> int:
        """Tokens after each frame."""
        return 1

    @property
    def vocabulary(self) -> int:
        """Number of token ids, from `offset` on."""
        return len(self.names)

    @property
    def rest(self) -> np.ndarray:
        """The row int64 [size] of a frame whose action is unknown."""
        return self.encode([self.none])[0]

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Endings of an action file beside a clip."""
        return (".jsonl",)

    @property
    def keys(self) -> Mapping[str, tuple[str, ...]]:
        """See `tokens.protocols.Playable`."""
        return {name: WALKING.get(name, ()) for name in self.names}

    @property
    def several(self) -> bool:
        """A frame has one action, whose name may join directions by +."""
        return False

    def hold(self, names: Sequence[str]) -> np.ndarray:
        """The row int64 [1] of what is held: of several names, the action that joins their
        directions, or else one that is among them; of none, standing still.
        """
        parts = held(names, self.names)
        found = [name for name in self.names if name in parts]
        if len(names) > 1:
            joined = [name for name in self.names if set(name.split("+")) == parts]
            found = joined + found
        still = "idle" if "idle" in self.names else self.none
        return self.encode([found[0] if found else still])[0]

    def lines(self, rows: np.ndarray) -> list[Any]:
        """See `tokens.protocols.Playable`."""
        return [{"action": name} for name in self.describe(rows)]

    def encode(self, names: list[str]) -> np.ndarray:
        """Rows int64 [n, 1] of action names. Raises ValueError when one is unknown."""
        return np.array(
            [[self.offset + self.names.index(name)] for name in names], dtype=np.int64
        ).reshape(-1, 1)

    def describe(self, rows: np.ndarray) -> list[str]:
        """Names of rows [n, 1]."""
        return [self.names[token - self.offset] for token in rows[:, 0].tolist()]

    def read(self, path: Path) -> np.ndarray:
        """Rows of a JSONL file, one line a frame: {"action": NAME}, taken after that frame was
        seen. Raises UsageError.
        """
        actions = []
        for number, line in enumerate(
            action_lines(path, "Give a JSONL file, or a list such as forward*8"), 1
        ):
            try:
                action = json.loads(line)["action"]
            except (ValueError, TypeError, KeyError, RecursionError):
                message = f'{path}, line {number}: not {{"action": NAME}}'
                raise UsageError(message, "Write one JSON object a line") from None
            actions.append(self._known(action, f"{path}, line {number}: "))
        return self.encode(actions)

    def parse(self, text: str) -> np.ndarray:
        """Rows of a file, or of a list such as `forward*8,left*4`. Raises UsageError."""
        if is_file(text):
            return self.read(Path(text))
        return self.encode(
            [self._known(name) for name, count in repeated(text) for _ in range(count)]
        )

    def _known(self, name: object, where: str = "") -> str:
        if name in self.names:
            return str(name)
        guess = did_you_mean(str(name), self.names, f"Known: {', '.join(self.names)}")
        raise UsageError(f"{where}unknown action {str(name)!r}", guess)
