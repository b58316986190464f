"""What one person plays."""

from __future__ import annotations

from collections.abc import Callable

from diagd_cli.play.take import Input, Shown, Start, Take


class Walk:
    """A clip that goes on as somebody steers it.

    show: is called with every frame, on a thread of the world's.
    rest: what is held while nobody holds anything.
    take: what has been played since the last reset.
    held: what is held now.
    waits: whether no frames are made of it.
    """

    def __init__(self, start: Start, seed: int, rest: Input, show: Callable[[Shown], None]):
        self.take, self.show = Take(start, seed), show
        self.rest = self.held = rest
        self.waits = True


Member = tuple[Walk, Take]  # a walk, and the take that is being made of it
