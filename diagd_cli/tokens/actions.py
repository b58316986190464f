"""Actions that steer a clip, as rows of token ids, one row a frame. Files are parsed, never
evaluated.

Each kind of action - names here, Minecraft's keys in `minecraft`, a gamepad's in `gamepad` - is a
record of a preset with the same few members: `size` tokens a frame, `vocabulary` ids from `offset`
on, `rest` (the row where nothing is known), `read` and `parse` (rows of a file, or of the text of
--actions), `describe` (rows as JSON can hold them), and `suffixes` of the files that may lie beside
a clip. Those that can be played have `keys`, `several`, `hold` and `lines` too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diagd_cli.errors import UsageError

if TYPE_CHECKING:
    from diagd_cli.tokens.protocols import Actions

ACTION_FILES = (".jsonl", ".json", ".npz")


WALKING = {  # by what a keyboard has for it, whatever its layout
    "forward": ("KeyW", "ArrowUp"),
    "back": ("KeyS", "ArrowDown"),
    "left": ("KeyA", "ArrowLeft"),
    "right": ("KeyD", "ArrowRight"),
}
LOOKING = {
    "look up": ("ArrowUp",),
    "look down": ("ArrowDown",),
    "look left": ("ArrowLeft",),
    "look right": ("ArrowRight",),
}
OPPOSED = (
    ("forward", "back"),
    ("left", "right"),
    ("look up", "look down"),
    ("look left", "look right"),
)


def held(names: Sequence[str], known: Collection[str]) -> set[str]:
    """What is left of names that are held at once, without what is opposed; those joined by + are
    taken apart, where there are others. Raises UsageError for one that is not known.
    """
    for name in names:
        if name not in known:
            raise UsageError(f"no action {name[:20]!r}", f"Use {', '.join(known)}")
    if len(names) == 1:
        return set(names)
    left = {part for name in names for part in name.split("+")}
    for pair in OPPOSED:
        if left.issuperset(pair):
            left -= set(pair)
    return left


def is_file(text: str) -> bool:
    """Whether the text of --actions is the path of a file."""
    return text.endswith(ACTION_FILES) or os.path.isfile(text)


def repeated(text: str) -> list[tuple[str, int]]:
    """(NAME, COUNT) of each part of a list `NAME*COUNT,NAME,...`. Raises UsageError."""
    parts = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([\w+.=-]+?)\s*(?:\*\s*([1-9]\d{0,5})\s*)?", part)
        if not match:
            hint = "Write NAME or NAME*COUNT, such as forward*8,left*4"
            raise UsageError(f"Cannot read the action {part.strip()!r}", hint)
        parts.append((match[1], int(match[2] or 1)))
    return parts


def action_lines(path: Path, hint: str) -> list[str]:
    """The lines of a file of actions, one a frame. Raises UsageError, with `hint` where it cannot
    be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(f"Cannot read the actions {path}: {reason}", hint) from None
    if not lines:
        raise UsageError(f"{path} holds no action", "Write one JSON object a line")
    for number, line in enumerate(lines, 1):
        if not line.strip():  # left out, it would move the actions that follow to other frames
            raise UsageError(
                f"{path}, line {number}: it is blank",
                "Write one JSON object a line, for each frame",
            )
    return lines


def file_beside(clip: Path, actions: Actions) -> Path | None:
    """The file of actions beside a clip, None where there is none. `actions`: of the preset."""
    beside = [clip.with_suffix(suffix) for suffix in actions.suffixes]
    # false, too, for a name that none can have
    return next((file for file in beside if os.path.isfile(file)), None)


def recorded_beside(clip: Path, actions: Actions, frames: int) -> np.ndarray | None:
    """Rows of the file of actions beside a clip of which `frames` are read from its start; None
    where there is none.

    `actions`: of the preset. Raises UsageError where the file is bad or ends earlier (the last
    action may be missing).
    """
    file = file_beside(clip, actions)
    rows = actions.read(file) if file else None
    if rows is not None and len(rows) < frames - 1:
        message = f"{file} has {len(rows)} actions, and {frames} frames of {clip.name} are read"
        raise UsageError(message, "Write one action a frame, or remove the file")
    return rows


def steering(
    asked: np.ndarray | None,
    recorded: np.ndarray | None,
    first: int,
    context: int,
    frames: int,
    rest: np.ndarray,
) -> np.ndarray:
    """Rows int64 [context + frames, size]: the action after each frame (the last is never read).

    `asked`: the first one leads to the first new frame; the last is repeated when they run out.
    `recorded`: beside the clip, row n belongs to the file's frame n; it gives the context's
        actions, and the others too when nothing is asked for: its last one is repeated where it
        ends before the new frames. Where nothing is known: `rest`.
    """
    total = context + frames
    rows = np.tile(rest, (total, 1))
    if recorded is not None:
        known = recorded[first : first + total]
        rows[: len(known)] = known
        rows[len(known) :] = known[-1] if len(known) else rest
    if asked is not None:
        wanted = np.concatenate([asked, np.tile(asked[-1], (total, 1))])
        rows[context - 1 :] = wanted[: total - context + 1]
    return rows


def clip_actions(
    path: Path,
    actions: Actions | None,
    asked: np.ndarray | None,
    first: int,
    context: int,
    frames: int,
    truth: int = 0,
) -> np.ndarray | None:
    """Rows int64 [context + frames, size] for a clip, from those asked for and those recorded
    beside it.

    `actions`: of the preset, None for one that takes none, which has none. A recording must reach
    to the end of the context; as far as `truth` frames after it where nothing is asked for, since a
    continuation is held against them. Raises UsageError.
    """
    if actions is None:
        return None
    recorded = recorded_beside(path, actions, first + context + (truth if asked is None else 0))
    return steering(asked, recorded, first, context, frames, actions.rest)
