"""Per-frame actions by name: from a JSONL file, or inline such as `forward*8,left*4`. Parsed, never evaluated."""

from __future__ import annotations

import difflib
import json
import os
import re
from pathlib import Path

from diagd_cli.errors import UsageError


def parse_actions(text: str, names: tuple[str, ...]) -> list[str]:
    """Action names from the path of a JSONL file or from an inline list. Raises UsageError."""
    if text.endswith((".jsonl", ".json")) or os.path.isfile(text):
        return read_actions(Path(text), names)
    actions: list[str] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([\w+-]+?)\s*(?:\*\s*([1-9]\d{0,5})\s*)?", part)
        if not match:
            raise UsageError(
                f"Cannot read the action {part.strip()!r}", "Write NAME or NAME*COUNT, such as forward*8,left*4"
            )
        actions += [_known(match[1], names)] * int(match[2] or 1)
    return actions


def read_actions(path: Path, names: tuple[str, ...]) -> list[str]:
    """Action names from a JSONL file, one line a frame: {"action": NAME}, the action taken after that frame was seen."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(
            f"Cannot read the actions {path}: {reason}", "Give a JSONL file, or a list such as forward*8"
        ) from None
    actions = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            action = json.loads(line)["action"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise UsageError(f'{path}, line {number}: not {{"action": NAME}}', "Write one JSON object a line") from None
        actions.append(_known(action, names, f"{path}, line {number}: "))
    if not actions:
        raise UsageError(f"{path} holds no action", "Write one JSON object a line")
    return actions


def _known(name: object, names: tuple[str, ...], where: str = "") -> str:
    if name in names:
        return str(name)
    near = difflib.get_close_matches(str(name), names, n=1)
    guess = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(names)}"
    raise UsageError(f"{where}unknown action {str(name)!r}", guess)


def steering(
    names: list[str] | None, recorded: list[str] | None, first: int, context: int, frames: int, none: str
) -> list[str]:
    """The action after each frame of context + continuation (the last is never read).

    `names`: asked for, the first one leads to the first new frame; the last is repeated when they run out.
    `recorded`: beside the clip, line n belongs to the file's frame n; it gives the context's actions, and the rest too
    when nothing is asked for. Where nothing is known: `none`.
    """
    total = context + frames
    row = [none] * total
    if recorded:
        known = recorded[first : first + total]
        row = known + [known[-1] if known else none] * (total - len(known))
    if names:
        start = context - 1
        wanted = (names + [names[-1]] * total)[: total - start]
        row = row[:start] + wanted
    return row
