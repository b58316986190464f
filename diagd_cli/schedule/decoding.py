"""The decodings by name, and what their k, d and stand-in come to on a grid."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from diagd_cli.errors import UsageError
from diagd_cli.schedule.standin import StandIn

if TYPE_CHECKING:
    from diagd_cli.tokens.grid import Grid

Method = Literal["ntp", "exact", "diagd", "spatial", "zipar"]
METHODS: tuple[str, ...] = get_args(Method)
Window = Literal["roll", "slide"]
WINDOWS: tuple[str, ...] = get_args(Window)
Guess = Literal["previous-frame", "random"]
GUESSES: tuple[str, ...] = get_args(Guess)
IN_A_ROW = 5 / 16  # of the tokens that exact feeds in a pass; see docs/exact.md
STAND_INS: tuple[str, ...] = get_args(StandIn)


class Resolved(NamedTuple):
    """What a decoding comes to on a grid, as the plan builder needs it; for NTP k is w and d is
    h*w.
    """

    k: int
    d: int
    stand_in: StandIn
    repair: bool

    def span(self, grid: Grid) -> int:
        """Steps of one latent frame, from its first token to its last."""
        return (grid.h - 1) * self.k + grid.w

    def steps(self, grid: Grid, latents: int) -> int:
        """Steps of so many new latent frames (equation 5 of the paper)."""
        return (latents - 1) * self.d + self.span(grid)

    def reach(self, grid: Grid) -> int:
        """Latent frames before its own from which a stand-in may come: from the frame of that
        number on, none comes from before the first new one, and all frames are fed alike.
        """
        return max(2, (self.span(grid) - 1) // self.d + 1)


@dataclass(frozen=True)
class Decoding:
    """In which order the tokens of a grid are made.

    method: one of

    - `ntp`      one token at a time in raster order: k = w, d = h*w;
    - `exact`    the very tokens of `ntp`, which are guessed, and checked many at a time;
    - `diagd`    Diagonal Decoding with k and d;
    - `spatial`  DiagD within each frame only: d = (h-1)k + w;
    - `zipar`    a row starts once k tokens of the row above exist (k is ZipAR's window), its
                 stand-in is `above`.

    k: tokens of the row above that exist when a row starts.
    d: diagonals of the frame before that exist when a frame starts.
    stand_in: what is fed for a token that does not exist yet.
    repair: whether the true token is fed over its stand-in once it exists.
    zero_slots: attend to the zeros of slots that nothing has been written to yet, as the authors'
        code does, for measuring what that costs; P2 does not hold then.
    window: what becomes of the oldest latent frames once the model's window is full. One that
        rolls is left by half of them at once, the others are fed again, and a wavefront starts
        anew; one that slides is left by one at a time, under one wavefront over all frames, for
        which positions must be relative.
    sinks: latent frames at the front that stay visible where the window slides.
    attend: newest latent frames that a token attends to where the window slides, its own one
        included; 0 is all that the model's window holds.
    width: tokens that `exact` feeds in a pass at most; 0 is what suits the device.
    row: how many of them, the first ones, follow one another without a gap; 0 is what has proved
        good.
    guess: what `exact` takes a token to be at first: that of the same place one frame earlier, or
        any code.
    """

    method: Method = "diagd"
    k: int = 1
    d: int = 1
    stand_in: StandIn = "previous-frame"
    repair: bool = True
    zero_slots: bool = False
    window: Window = "roll"
    sinks: int = 0
    attend: int = 0
    width: int = 0
    row: int = 0
    guess: Guess = "previous-frame"

    @property
    def raster(self) -> bool:
        """Whether tokens are those of next-token prediction, in raster order."""
        return self.method in ("ntp", "exact")

    def sees(self, window: int) -> int:
        """Latent frames that a token sees of a window of so many, its own one included; 0: all."""
        if self.window == "roll" or not self.attend:
            return window
        return min(self.attend, window) if window else self.attend

    @property
    def window_word(self) -> str:
        """The window as it is written, such as `slide-6`; see `window_of`."""
        slides = self.window == "slide" and self.attend
        return f"slide-{self.attend}" if slides else self.window

    def resolve(self, grid: Grid, context: int) -> Resolved:
        """What it comes to after `context` latent frames. Raises UsageError when k or d is out of
        range.
        """
        if self.method == "exact" and not 0 <= self.width <= grid.block:
            allowed = (
                f"On a {grid.h}x{grid.w} grid it must lie in 1..{grid.block}, or be 0: what suits"
            )
            raise UsageError(f"The window of guesses is {self.width}", allowed)
        if self.method == "exact" and not 0 <= self.row <= (self.width or self.row):
            raise UsageError(f"{self.row} guesses are to lie in a row", f"Of {self.width} at most")
        if self.raster:
            return Resolved(grid.w, grid.area, self.stand_in, self.repair)
        if not 1 <= self.k <= grid.w:
            allowed = f"On a {grid.h}x{grid.w} grid it must lie in 1..{grid.w}"
            raise UsageError(f"k is {self.k}", allowed)
        spatial_steps = (grid.h - 1) * self.k + grid.w
        d = self.d if self.method == "diagd" else spatial_steps
        if not 1 <= d <= spatial_steps:
            case = f"With k={self.k} on a {grid.h}x{grid.w} grid"
            raise UsageError(f"d is {d}", f"{case} it must lie in 1..{spatial_steps}")
        stand_in = "above" if self.method == "zipar" else self.stand_in
        if not (context or grid.row_end) and stand_in in (
            "previous-frame",
            "previous-frame-target",
            "prompt-frame",
        ):
            raise UsageError(
                f"The stand-in {stand_in} needs a context frame", "Use above or newest"
            )
        return Resolved(self.k, d, stand_in, self.repair)

    def facts(self, grid: Grid, context: int) -> dict:
        """Method and resolved settings, as reports and sidecars tell them. Raises UsageError when
        out of range.
        """
        resolved = self.resolve(grid, context)
        attend = self.attend if self.window == "slide" else 0
        window = {"window": self.window, "sinks": self.sinks, "attend": attend}
        slots = {"zero_slots": self.zero_slots}
        told = {"method": self.method, **resolved._asdict(), **slots, **window}
        if self.method == "exact":
            told |= {"width": self.width, "row": self.row, "guess": self.guess}
        return told

    def label(self, grid: Grid) -> str:
        """Short caption, such as `DiagD k=2 d=10`."""
        found = self.resolve(grid, context=1)
        return {
            "ntp": "NTP",
            "exact": "exact" + (f" window={self.width}" if self.width else ""),
            "diagd": f"DiagD k={found.k} d={found.d}",
            "spatial": f"spatial DiagD k={found.k}",
            "zipar": f"ZipAR window={found.k}",
        }[self.method]


def window_of(word: str) -> dict[str, Any] | None:
    """What `roll`, `slide` or `slide-N` says of a decoding, whose tokens attend to N latent frames;
    None for another word.
    """
    if word == "roll":
        return {"window": "roll", "sinks": 0}
    found = re.fullmatch(r"slide(?:-(\d{1,6}))?", word)
    if not found:
        return None
    return {"window": "slide", **({"attend": int(found[1])} if found[1] else {})}


def labels(decodings: Iterable[Decoding], grid: Grid) -> list[str]:
    """A name for each decoding, with its stand-in and its window where there are several of them.

    It also says what the decoding does unlike the algorithm.
    """
    decodings = list(decodings)
    windows = len({decoding.window_word for decoding in decodings}) > 1
    sinks = len({decoding.sinks for decoding in decodings}) > 1
    diagonal = [decoding for decoding in decodings if decoding.method in ("diagd", "spatial")]
    several = len({decoding.stand_in for decoding in diagonal}) > 1
    found = []
    for decoding in decodings:
        label = decoding.label(grid)
        if not decoding.raster:
            label += f", {decoding.stand_in}" if several and decoding.method != "zipar" else ""
            label += "" if decoding.repair else ", no repair"
            label += ", zero slots" if decoding.zero_slots else ""
        if decoding.method == "exact":
            label += f", {decoding.row} in a row" if decoding.row else ""
            label += ", random guesses" if decoding.guess == "random" else ""
        label += f", {decoding.window_word}" if windows else ""
        label += f", sinks {decoding.sinks}" if sinks and decoding.sinks else ""
        found.append(label)
    return found
