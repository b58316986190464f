"""Who plays while clips are recorded: a player that wanders gently and turns away from walls."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Depth buffer values: about 7 map units per step.
NEAR, OPEN, ROOMY, CLOSE = 10, 24, 13, 5


def clearance(depth: np.ndarray) -> tuple[float, float, float]:
    """How open the view is (left, centre, right), in depth steps, from a depth buffer uint8
    (H, W).
    """
    h, w = depth.shape
    band = depth[int(h * 0.44) : int(h * 0.54) : 4, ::4]
    left, centre, right = (
        band[:, int(w / 4 * a) : int(w / 4 * b)] for a, b in ((0, 0.33), (0.36, 0.64), (0.67, 1))
    )
    return float(left.mean()), float(np.percentile(centre, 20)), float(right.mean())


@dataclass
class Policy:
    """Wanders gently: holds one action for a while, keeps turning one way, and turns away from
    walls.
    """

    rng: np.random.Generator
    action: str = "idle"
    left: int = 0  # frames that the current action is still held
    side: str = "left"
    escaping: bool = False
    close: int = 0  # frames so far with a wall right ahead
    turned: int = 0  # frames of turning since the escape began
    fresh: bool = False  # an escape has just found an open view

    def next(self, depth: np.ndarray) -> str:
        """The action to apply now, given the depth buffer uint8 (H, W) of the current frame."""
        view = clearance(depth)
        self.close += view[1] < CLOSE
        if self.escaping and self.action == self.side:
            self.turned += 1
            if view[1] >= max(ROOMY, OPEN - self.turned / 3):
                # Where the view has just become open its edge is still in the way: turn past it.
                self.escaping, self.left, self.fresh = False, 3, True
        blocked = view[1] < NEAR and (self.action.startswith("forward") or self.left <= 0)
        if blocked and not self.escaping:
            self._escape(view)
        elif self.left <= 0:
            self._continue_escape() if self.escaping else self._wander(view)
        self.left -= 1
        return self.action

    def _hold(self, action: str, low: int, high: int) -> None:
        self.action, self.left = action, int(self.rng.integers(low, high + 1))

    def _escape(self, view: tuple[float, float, float]) -> None:
        """Begin to leave a wall, towards the more open side unless a turn is already under way."""
        if not self.action.endswith(("left", "right")) or abs(view[0] - view[2]) > OPEN:
            self.side = "left" if view[0] > view[2] else "right"
        self.escaping, self.turned = True, 0
        kind = self.rng.random()
        if kind < 0.3:
            self._hold("back", 4, 8)
        elif kind < 0.6:
            self._hold(f"back+{self.side}", 5, 10)
        else:
            self._continue_escape()

    def _continue_escape(self) -> None:
        """Turn until the view is open; after a full circle without one, give up and wander."""
        if self.action == self.side and self.turned >= 120:
            self.escaping = False
        self._hold(self.side, 120, 120)

    def _wander(self, view: tuple[float, float, float]) -> None:
        """Pick the next action to hold; the turning side changes seldom, and towards the
        open side.
        """
        if self.rng.random() < 0.45:
            towards_left = view[0] / max(view[0] + view[2], 1.0)
            self.side = "left" if self.rng.random() < towards_left else "right"
        kinds = {
            "idle": 0.18,
            "forward": 0.30,
            "turn": 0.03,
            "forward+": 0.35,
            "back": 0.06,
            "back+": 0.08,
        }
        kind = str(self.rng.choice(list(kinds), p=list(kinds.values())))
        if self.fresh or (kind == "idle" and self.action == "idle"):
            kind, self.fresh = str(self.rng.choice(["forward", "forward+"])), False
        action = {
            "turn": self.side,
            "forward+": f"forward+{self.side}",
            "back+": f"back+{self.side}",
        }.get(kind, kind)
        self._hold(action, *((6, 16) if kind == "forward" else (4, 12)))
