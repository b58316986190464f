"""Which presets can be played, and how many frames a walk is continued from."""

from __future__ import annotations

from typing import cast

from diagd_cli.errors import UsageError
from diagd_cli.preset import Preset
from diagd_cli.tokens.protocols import Playable


def playable(preset: Preset) -> Playable:
    """Its actions. Raises UsageError for a preset that has none that keys stand for."""
    if isinstance(preset.actions, Playable):
        return cast(Playable, preset.actions)
    hint = "Take a preset with actions, such as freedoom"
    raise UsageError(f"{preset.name} has no actions that keys stand for", hint)


def remembered(preset: Preset) -> int:
    """Frames from which a walk goes on when a batch is formed anew: what a window that rolls keeps,
    or a clip's context if that is more. Feeding them again is what others wait for then.
    """
    return max(preset.clip.context, preset.clip.overlap)
