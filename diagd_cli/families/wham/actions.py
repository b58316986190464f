"""WHAM's actions: 12 buttons and 4 stick axes a step, as 16 tokens after the frame's image tokens.
NumPy only.

A model sees a stick as one of 11 bins of unequal width; bin 5 is the dead zone around 0. An
*action* is a row of 16
numbers: buttons 0 or 1, then sticks as bins 0..10. Token of button b: offset + 2b + value; of stick
    s: offset + 24 + 11s + bin.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from diagd_cli.errors import UsageError
from diagd_cli.files.npz import DAMAGED, LARGEST
from diagd_cli.model.config import Strict
from diagd_cli.tokens.actions import LOOKING, WALKING, action_lines, held, is_file

BUTTONS, STICKS, BINS = 12, 4, 11
VALUES = BUTTONS + STICKS
VOCABULARY = 2 * BUTTONS + BINS * STICKS
# bin n holds boundaries[n] <= value < boundaries[n + 1]
BOUNDARIES = np.array([-1.05, -0.95, -0.75, -0.5, -0.25, -0.05, 0.05, 0.25, 0.5, 0.75, 0.95, 1.05])
# first token of each of the 16 values, and how many it has
_SIZES = np.array([2] * BUTTONS + [BINS] * STICKS)
_STARTS = np.cumsum(_SIZES) - _SIZES
NEUTRAL = np.array([0] * BUTTONS + [BINS // 2] * STICKS, dtype=np.float32)

# The order of buttons is not published; that sticks are left x, left y, right x, right y, with up
# and right at their upper ends, is what the official examples look like.
PUSHES = {
    **{"left": (0, 0), "right": (0, BINS - 1), "back": (1, 0), "forward": (1, BINS - 1)},
    **{"look left": (2, 0), "look right": (2, BINS - 1)},
    **{"look down": (3, 0), "look up": (3, BINS - 1)},
}
PRESSES = [f"button {n}" for n in range(BUTTONS)]
PLAYED = {  # what can be held, and its keys
    **{name: keys[:1] for name, keys in WALKING.items()},
    **LOOKING,
    **dict(zip(PRESSES, [("Space",), *((f"Digit{n}",) for n in range(1, 10))], strict=False)),
    **{PRESSES[10]: ("KeyQ",), PRESSES[11]: ("KeyE",)},
}

_FORMS = ({"buttons": BUTTONS, "sticks": STICKS}, {"action": VALUES})
_JSONL = (
    '{"buttons": [12 of 0 or 1], "sticks": [4 from -1 to 1]} or {"action": [16, sticks as bins 0 '
    "to 10]}"
)


class GamepadActions(Strict):
    """WHAM's actions as a record of a preset: ids from `offset` on, after the image codes."""

    kind: Literal["gamepad"] = "gamepad"
    offset: int = Field(default=16384, ge=0)

    @property
    def size(self) -> int:
        """Tokens after each frame."""
        return VALUES

    @property
    def vocabulary(self) -> int:
        """Number of token ids, from `offset` on."""
        return VOCABULARY

    @property
    def rest(self) -> np.ndarray:
        """The row int64 [size] of a frame without action."""
        return encode_actions(NEUTRAL, self.offset)

    @property
    def names(self) -> tuple[str, ...]:
        """None: a frame has many tokens."""
        return ()

    @property
    def keys(self) -> Mapping[str, tuple[str, ...]]:
        """See `tokens.protocols.Playable`."""
        return PLAYED

    @property
    def several(self) -> bool:
        """Buttons are held together, and sticks are pushed besides."""
        return True

    def hold(self, names: Sequence[str]) -> np.ndarray:
        """The row int64 [size] of buttons that are held and sticks that are pushed to their ends.
        Raises UsageError for an unknown name.
        """
        action = NEUTRAL.copy()
        for name in held(names, PLAYED):
            if name in PUSHES:
                stick, end = PUSHES[name]
                action[BUTTONS + stick] = end
            else:
                action[PRESSES.index(name)] = 1
        return encode_actions(action, self.offset)

    def lines(self, rows: np.ndarray) -> list[Any]:
        """See `tokens.protocols.Playable`."""
        return [{"action": values} for values in self.describe(rows)]

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Endings of an action file beside a clip."""
        return (".jsonl", ".npz")

    def describe(self, rows: np.ndarray) -> list[list[int]]:
        """Buttons and stick bins of each row [n, size]."""
        return decode_actions(rows, self.offset).astype(int).tolist()

    def read(self, path: Path) -> np.ndarray:
        """Rows of an official .npz or of JSONL. Raises UsageError."""
        return encode_actions(read_gamepad(path), self.offset)

    def parse(self, text: str) -> np.ndarray:
        """Rows of a file. Raises UsageError."""
        if not is_file(text):
            raise UsageError(
                f"Cannot read the actions {text!r}",
                f"Give a file: an official .npz, or JSONL of {_JSONL}",
            )
        return self.read(Path(text))


@dataclass(frozen=True)
class Episode:
    """A recorded game: images uint8 [F, H, W, 3] and the actions float32 [F, 16] taken after each
    was seen.
    """

    images: np.ndarray
    actions: np.ndarray


def stick_bins(values: np.ndarray) -> np.ndarray:
    """Bins int64 [...] of stick values [...]; float32 values are compared as they are. Raises
    UsageError for others than those in -1.05 <= value < 1.05.
    """
    values = np.asarray(values, dtype=np.float64)
    outside = ~((values >= BOUNDARIES[0]) & (values < BOUNDARIES[-1]))
    if outside.any():
        raise UsageError(f"A stick is at {values[outside][0]:g}", "Stick values go from -1 to 1")
    return np.searchsorted(BOUNDARIES, values, side="right") - 1


def encode_actions(actions: np.ndarray, offset: int = 0) -> np.ndarray:
    """Tokens int64 [..., 16] of actions [..., 16].

    offset: the token of the first button at 0, after the image codes.

    Raises UsageError for a value that is none of its button's or stick's.
    """
    actions = np.asarray(actions)
    if actions.shape[-1:] != (VALUES,):
        raise UsageError(
            f"An action has {actions.shape[-1] if actions.ndim else 1} values",
            f"WHAM's has {VALUES}",
        )
    wrong = ~((actions >= 0) & (actions < _SIZES) & (actions == np.trunc(actions)))
    if wrong.any():
        place = tuple(np.argwhere(wrong)[0])
        index, seen = place[-1], actions[place]
        frame = f" of frame {place[-2]}" if actions.ndim > 1 else ""
        if index < BUTTONS:
            raise UsageError(f"Button {index}{frame} is {seen:g}", "A button is 0 or 1")
        raise UsageError(
            f"Stick {index - BUTTONS}{frame} is {seen:g}",
            f"A stick is a whole bin, 0 to {BINS - 1}",
        )
    return offset + _STARTS + actions.astype(np.int64)


def decode_actions(tokens: np.ndarray, offset: int = 0) -> np.ndarray:
    """Actions float32 [..., 16] of tokens [..., 16]. Raises ValueError for a token out of its
    place.
    """
    values = np.asarray(tokens, dtype=np.int64) - offset - _STARTS
    if ((values < 0) | (values >= _SIZES)).any():
        raise ValueError("an action token stands in another one's place")
    return values.astype(np.float32)


def read_gamepad(path: Path) -> np.ndarray:
    """Actions float32 [F, 16] from an official .npz or from JSONL. Raises UsageError."""
    return (
        read_npz(path, images=False).actions if path.suffix.lower() == ".npz" else read_jsonl(path)
    )


def read_npz(path: Path, images: bool = True) -> Episode:
    """An official recording: fields images uint8 [F, 3, H, W] and actions float [F, 16], sticks as
    bins.

    images=False leaves them unread, and empty. Raises UsageError.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names = ("images", "actions") if images else ("actions",)
            lacking = [name for name in names if name not in getattr(file, "files", ())]
            if lacking:
                raise UsageError(
                    f"{path} has no field {lacking[0]}", "An official .npz has images and actions"
                )
            size = sum(file.zip.getinfo(f"{name}.npy").file_size for name in names)
            if size > LARGEST:
                raise UsageError(
                    f"{path} unpacks to {size:,} bytes",
                    f"A recording of at most {LARGEST:,} can be read",
                )
            fields = {name: file[name] for name in names}
    except OSError as error:
        raise UsageError(
            f"Cannot read {path}: {error.strerror or error}", "Give an official .npz"
        ) from None
    except MemoryError as error:  # or it claims to be larger than it is
        hint = "Free some memory; if the recording should be smaller, fetch it again"
        raise UsageError(f"{path} does not fit into memory: {error}", hint) from None
    except DAMAGED as error:
        raise UsageError(
            f"{path} is no .npz of plain arrays, or damaged: {error}", "Fetch it again"
        ) from None
    actions, frames = fields["actions"], fields.get("images", np.empty((0, 3, 0, 0), np.uint8))
    if actions.ndim != 2 or actions.shape[1] != VALUES or actions.dtype.kind not in "fiu":
        raise UsageError(
            f"{path}: actions are {_describe(actions)}", f"They must be numbers [frames, {VALUES}]"
        )
    if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != np.uint8:
        raise UsageError(
            f"{path}: images are {_describe(frames)}",
            "They must be uint8 [frames, 3, height, width]",
        )
    if images and len(frames) != len(actions):
        raise UsageError(
            f"{path} has {len(frames)} images and {len(actions)} actions",
            "It must have as many of both",
        )
    return Episode(frames.transpose(0, 2, 3, 1), _checked(actions, f"{path}: "))


def read_jsonl(path: Path) -> np.ndarray:
    """Actions float32 [F, 16], one JSON object a line: buttons and sticks, or an action. Raises
    UsageError.
    """
    lines = action_lines(path, "Give JSONL, or an official .npz")
    return np.stack(
        [_row(line, f"{path}, line {number}: ") for number, line in enumerate(lines, 1)]
    )


def _row(line: str, where: str) -> np.ndarray:
    try:
        given = json.loads(line)
    except (ValueError, RecursionError):
        given = None
    form = next(
        (form for form in _FORMS if isinstance(given, dict) and given.keys() == form.keys()), None
    )
    if form is None:
        raise UsageError(f"{where}not an action: {line.strip()[:60]}", f"Write {_JSONL}")
    for key, size in form.items():
        numbers = isinstance(given[key], list) and all(
            isinstance(value, (int, float)) for value in given[key]
        )
        if not numbers or len(given[key]) != size:
            raise UsageError(f"{where}{key} is {json.dumps(given[key])[:60]}", f"Write {_JSONL}")
    try:
        sticks = stick_bins(given["sticks"]).tolist() if "sticks" in form else []
        row = np.array([*given.get("action", given.get("buttons")), *sticks], dtype=np.float64)
    except UsageError as error:
        raise UsageError(f"{where}{error.message}", error.hint) from None
    except OverflowError:
        raise UsageError(f"{where}a value is too large", f"Write {_JSONL}") from None
    return _checked(row, where)


def _checked(actions: np.ndarray, where: str) -> np.ndarray:
    try:
        encode_actions(actions)
    except UsageError as error:
        raise UsageError(f"{where}{error.message}", error.hint) from None
    return actions.astype(np.float32)


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"
