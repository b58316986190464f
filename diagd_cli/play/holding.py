"""What can be held in a world, by name, and what it comes to."""

from __future__ import annotations

from collections.abc import Sequence

from diagd_cli.play.playable import playable
from diagd_cli.play.take import NO_ACTION, Input
from diagd_cli.preset import Preset

MOST_NAMES = 32  # that can be held together: a frame tells them by the bits of a number


class Holding:
    """The names of a preset's actions.

    names: what can be held.
    keys: what it is, by the keys that suggest themselves (`KeyboardEvent.code`).
    rest: what is held while nobody holds anything.

    Raises UsageError for a preset that has none.
    """

    def __init__(self, preset: Preset):
        self.actions = playable(preset)
        self.names = list(self.actions.keys)
        self.keys = {key: name for name, keys in self.actions.keys.items() for key in keys}
        self.numbers = {self.actions.hold([name]).tobytes(): n for n, name in enumerate(self.names)}
        row = self.actions.rest
        self.rest = Input(row, action=self.numbers.get(row.tobytes(), NO_ACTION))

    @property
    def resting(self) -> str:
        """The name of rest; "" where it is that nothing is held."""
        return "" if self.rest.action == NO_ACTION else self.names[self.rest.action]

    def hold(self, names: Sequence[str], stamp: float) -> Input:
        """What some names come to; stamp: the client's own time. Raises UsageError."""
        row = self.actions.hold(names)
        several = self.actions.several and len(self.names) <= MOST_NAMES
        bits = sum(1 << self.names.index(name) for name in set(names)) if several else 0
        return Input(row, stamp, action=self.numbers.get(row.tobytes(), NO_ACTION), names=bits)
