"""Minecraft actions: a dictionary of keys and a camera motion <-> the 11 tokens that follow a frame
in MineWorld.

    begin | camera pitch | camera yaw | hotbar | forward/back | left/right | sprint/sneak
    | use/attack | jump | drop/pickItem | end

Camera motion is binned by the mu-law of VPT (Baker et al. 2022). Two kinds of JSONL files tell the
actions, one line a
frame: action dictionaries, and lines of the VPT recorder. They are parsed, never evaluated.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from diagd_cli.errors import UsageError, did_you_mean
from diagd_cli.model.config import Strict
from diagd_cli.tokens.actions import LOOKING, WALKING, action_lines, held, is_file, repeated

HOTBAR = tuple(f"hotbar.{n}" for n in range(1, 10))
KEYS = (  # in the order of their ids
    *("use", "attack", "forward", "back", "left", "right", "jump", "sneak", "sprint"),
    *("drop", "swapHands", "pickItem", "inventory", "ESC", *HOTBAR),
)
BEGIN, NULL, END = "<act_bos>", "<null_act>", "<act_eos>"
PITCH, YAW = "cam_0_{}", "cam_1_{}"
# slots 4 to 9; a slot with both of its keys pressed is as empty as one with neither
SLOTS = (
    ("forward", "back"),
    ("left", "right"),
    ("sprint", "sneak"),
    ("use", "attack"),
    ("jump",),
    ("drop", "pickItem"),
)
STILL = {**dict.fromkeys(sorted(KEYS), 0), "camera": [0.0, 0.0]}
NEEDED = (*(key for slot in SLOTS for key in slot), "camera")
EXAMPLE = 'Write one object a line, such as {"forward": 1, ..., "camera": [0, 0]}'

LOOK = 15.0  # degrees by which a held key turns the camera in a frame
PLAYED = {  # what can be held, and its keys
    **{name: keys[:1] for name, keys in WALKING.items()},
    **{"jump": ("Space",), "sneak": ("ShiftLeft",), "sprint": ("KeyR",), "attack": ("KeyF",)},
    **{"use": ("KeyE",), "drop": ("KeyQ",), "pickItem": ("KeyC",)},
    **LOOKING,
    **{name: (f"Digit{n}",) for n, name in enumerate(HOTBAR, 1)},
}
DEGREES_PER_DOT = 360 / 2400  # of the recorder's mouse
BUTTONS = {0: "attack", 1: "use", 2: "pickItem"}
KEYBOARD = {
    **{
        "w": "forward",
        "s": "back",
        "a": "left",
        "d": "right",
        "space": "jump",
        "left.shift": "sneak",
    },
    **{"left.control": "sprint", "q": "drop", "e": "inventory", "escape": "ESC", "f": "swapHands"},
    **{str(n): f"hotbar.{n}" for n in range(1, 10)},
}
CANCELLING = (
    ("forward", "back"),
    ("left", "right"),
    ("jump", "sneak"),
    ("sprint", "sneak"),
    ("attack", "use"),
)

LONGEST = 1 << 16  # characters of a line; an action takes a few hundred
# how NumPy writes an array; its brackets may hold no call and no further bracket
ARRAY = re.compile(r"\b(?:np\.|numpy\.)?array\(\s*(\[[^\[\]()]*\])\s*(?:,\s*dtype=[\w.]+\s*)?\)")


class MinecraftActions(Strict):
    """The action vocabulary: ids from `offset` on. `limit`, `bin_width` (both in degrees) and `mu`:
    of the camera bins.
    """

    kind: Literal["minecraft"] = "minecraft"
    offset: int = Field(default=8192, ge=0)
    limit: float = Field(default=90.0, gt=0, le=360)
    bin_width: float = Field(default=9.0, ge=0.001)
    mu: float = Field(default=11.4887, gt=0)

    @property
    def size(self) -> int:
        """Tokens after each frame."""
        return len(SLOTS) + 5

    @property
    def vocabulary(self) -> int:
        """Number of token ids, from `offset` on."""
        return len(KEYS) + 2 * self.bins + 3

    @property
    def rest(self) -> np.ndarray:
        """The row int64 [size] of a frame without action."""
        return self.rows([STILL])[0]

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
        """Keys are held together, and the camera turns besides."""
        return True

    def hold(self, names: Sequence[str]) -> np.ndarray:
        """The row int64 [size] of keys that are held, and of `LOOK` degrees for a camera that
        turns. Raises UsageError for an unknown name.
        """
        left = held(names, PLAYED)
        pitch = LOOK * (("look down" in left) - ("look up" in left))
        yaw = LOOK * (("look right" in left) - ("look left" in left))
        pressed = dict.fromkeys(left - LOOKING.keys(), 1)
        return self.rows([{**STILL, **pressed, "camera": [pitch, yaw]}])[0]

    def lines(self, rows: np.ndarray) -> list[Any]:
        """Whole action dictionaries; see `tokens.protocols.Playable`."""
        return [self.decode(row) for row in rows.tolist()]

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Endings of an action file beside a clip."""
        return (".jsonl",)

    def rows(self, actions: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Rows int64 [n, size] of actions. Raises UsageError."""
        return np.array([self.encode(action) for action in actions], dtype=np.int64).reshape(
            -1, self.size
        )

    def describe(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """What is pressed in each row [n, size], and how the camera moves."""
        actions = [self.decode(row) for row in rows.tolist()]
        return [
            {key: value for key, value in action.items() if value not in (0, [0.0, 0.0])}
            for action in actions
        ]

    def read(self, path: Path) -> np.ndarray:
        """Rows of a JSONL file of either kind. Raises UsageError."""
        return self.rows(read_minecraft_actions(path))

    def parse(self, text: str) -> np.ndarray:
        """Rows of a file, or of a list such as `forward+jump*8,yaw=15*4,none`. Raises
        UsageError.
        """
        if is_file(text):
            return self.read(Path(text))
        return self.rows([spelt(name) for name, count in repeated(text) for _ in range(count)])

    @property
    def bins(self) -> int:
        """Camera bins of each axis; the middle one is rest."""
        return round(2 * self.limit / self.bin_width) + 1

    @cached_property
    def ids(self) -> dict[str, int]:
        """Token ids by name, in their order: keys, pitch bins, yaw bins, begin, null, end."""
        camera = [axis.format(n) for axis in (PITCH, YAW) for n in range(self.bins)]
        return {name: self.offset + n for n, name in enumerate((*KEYS, *camera, BEGIN, NULL, END))}

    def encode(self, action: Mapping[str, Any]) -> list[int]:
        """Token ids [size] of an action. Pressed is what equals 1; hotbar keys may be absent.
        Raises UsageError.
        """
        missing = next((key for key in NEEDED if key not in action), None)
        if missing:
            raise UsageError(f"The action lacks {missing!r}", EXAMPLE)
        pitch, yaw = _pair(action["camera"])
        names = [BEGIN, PITCH.format(self.camera_bin(pitch)), YAW.format(self.camera_bin(yaw))]
        names.append(next((key for key in HOTBAR if action.get(key) == 1), NULL))
        for slot in SLOTS:
            pressed = [key for key in slot if action[key] == 1]
            names.append(pressed[0] if len(pressed) == 1 else NULL)
        return [self.ids[name] for name in (*names, END)]

    def decode(self, ids: list[int]) -> dict[str, Any]:
        """The action of token ids [size]: all keys 0 or 1, the camera in degrees. Raises ValueError
        for others' ids.
        """
        if len(ids) != self.size:
            raise ValueError(f"an action takes {self.size} tokens, not {len(ids)}")
        names = {token: name for name, token in self.ids.items()}
        cameras = [[axis.format(n) for n in range(self.bins)] for axis in (PITCH, YAW)]
        allowed = [[BEGIN], *cameras, [*HOTBAR, NULL], *([*slot, NULL] for slot in SLOTS), [END]]
        action: dict[str, Any] = {**STILL, "camera": [0.0, 0.0]}
        for place, (token, choices) in enumerate(zip(ids, allowed, strict=True)):
            name = names.get(int(token))
            if name not in choices:
                raise ValueError(
                    f"token {int(token)} ({name}) cannot stand at place {place} of an action"
                )
            if name in KEYS:
                action[name] = 1
            elif place in (1, 2):
                action["camera"][place - 1] = self.camera_degrees(choices.index(name))
        return action

    def camera_bin(self, degrees: float) -> int:
        """Bin of a camera motion; halves go to the even bin."""
        share = max(-self.limit, min(self.limit, degrees)) / self.limit
        squeezed = math.copysign(math.log(1 + self.mu * abs(share)) / math.log(1 + self.mu), share)
        return round((squeezed * self.limit + self.limit) / self.bin_width)

    def camera_degrees(self, n: int) -> float:
        """Motion at the centre of bin n."""
        squeezed = (n * self.bin_width - self.limit) / self.limit
        return math.copysign(((1 + self.mu) ** abs(squeezed) - 1) / self.mu * self.limit, squeezed)


def spelt(text: str) -> dict[str, Any]:
    """The action of keys joined by `+`; `pitch=DEGREES` and `yaw=DEGREES` turn the camera, `none`
    is nothing.
    """
    action: dict[str, Any] = {**STILL, "camera": [0.0, 0.0]}
    for part in text.split("+"):
        name, _, degrees = part.partition("=")
        if name in ("pitch", "yaw") and re.fullmatch(r"-?\d{1,3}(\.\d{1,6})?", degrees):
            action["camera"][name == "yaw"] = float(degrees)
        elif part in KEYS:
            action[part] = 1
        elif part != "none":
            hint = f"Join keys by +, such as forward+jump or yaw=15. Keys: {', '.join(KEYS)}"
            raise UsageError(f"Unknown action {part!r}", did_you_mean(part, KEYS, hint))
    return action


def recorded_action(line: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The action of a line of the VPT recorder, {"mouse": {dx, dy, buttons}, "keyboard": {keys}},
    and whether it is null.

    Camera [pitch, yaw] in whole degrees, cut off toward zero, as MineWorld's demo has them. Null:
    nothing pressed and no motion, or the inventory or menu opened. Raises UsageError.
    """
    try:
        mouse, keys = line["mouse"], line["keyboard"]["keys"]
        dx, dy = _pair([mouse["dx"], mouse["dy"]])
        pressed = {BUTTONS[button] for button in mouse["buttons"] if button in BUTTONS}
        names = [
            str(key).removeprefix("key.keyboard.")
            for key in keys
            if str(key).startswith("key.keyboard.")
        ]
    except (KeyError, TypeError, AttributeError):
        expected = '{"mouse": {"dx", "dy", "buttons"}, "keyboard": {"keys"}}'
        raise UsageError(
            "The line is no line of the recorder", f"It must have {expected}"
        ) from None
    pressed |= {KEYBOARD[name] for name in names if name in KEYBOARD}
    null = not (pressed or dx or dy) or bool(pressed & {"inventory", "ESC"})
    for pair in CANCELLING:
        if pressed.issuperset(pair):
            pressed -= set(pair)
    camera = [math.trunc(dots * DEGREES_PER_DOT) for dots in (dy, dx)]
    return {**{key: int(key in pressed) for key in sorted(KEYS)}, "camera": camera}, null


def read_minecraft_actions(path: Path) -> list[dict[str, Any]]:
    """The actions of a JSONL file, one a line, of either kind. Raises UsageError with the line."""
    actions = []
    for number, line in enumerate(action_lines(path, "Give a JSONL file"), 1):
        try:
            actions.append(_action(line))
        except UsageError as error:
            raise UsageError(
                f"{path}, line {number}: {error.message[0].lower()}{error.message[1:]}", error.hint
            ) from None
    return actions


def _action(line: str) -> dict[str, Any]:
    """The action that one line tells, checked."""
    value = _literal(line)
    if not isinstance(value, dict):
        raise UsageError(f"It is a {type(value).__name__}, not an action", EXAMPLE)
    if "mouse" in value and "keyboard" in value:
        return recorded_action(value)[0]
    MinecraftActions().encode(value)
    return value


def _literal(line: str) -> Any:
    """The value that a line spells in JSON, or as a Python literal in which arrays may be written
    as NumPy prints them.
    """
    if len(line) > LONGEST:
        raise UsageError(f"It has {len(line):,} characters", EXAMPLE)
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(ARRAY.sub(r"\1", line.strip()))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise UsageError("It is neither JSON nor a Python literal", EXAMPLE) from None


def _pair(values: Any) -> tuple[float, float]:
    """Two finite numbers. Raises UsageError."""
    try:
        first, second = (math.nan if isinstance(value, str) else float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        first = second = math.nan
    if not math.isfinite(first) or not math.isfinite(second):
        raise UsageError(
            f"The camera or mouse motion is {str(values)[:40]}, not two numbers",
            "Give [pitch, yaw]",
        )
    return first, second
