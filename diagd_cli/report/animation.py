"""The order in which tokens are made, as a video: a panel for each new frame, its cells coloured by
when they were made.

Another decoding may run below at the same steps a second. Colours are told apart by the
colour-blind: time is one hue from dark to light, and what is fed instead of a token, or after it,
differs in lightness and shape too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diagd_cli.clip.write import VideoWriter
from diagd_cli.errors import UsageError
from diagd_cli.files.atomic import atomic
from diagd_cli.report.timeline import Timeline

WIDTH, HEIGHT = 1280, 720  # pixels at most
LEAST_WIDTH = 820  # that the legend takes
# pixels around panels, between them, above decodings and panels, at the foot
MARGIN, GAP, TITLE, CAPTION, LEGEND = 16, 12, 30, 18, 34
LEAST, MOST = 3, 48  # pixels of a cell
SECONDS, HOLD = 20, 1.5  # of the video at most; of its last picture
FIRST = 8  # seconds at most until the decoding above is done, where another runs below
SHAPE = WIDTH / HEIGHT
# steps a second, each a frame of the video; then multiples of the last one
RATES = (4, 5, 10, 20, 25)

PAPER, EMPTY, INK = (24, 24, 27), (58, 58, 64), (235, 235, 235)
EARLY, RECENT = (22, 66, 140), (134, 206, 250)
CURRENT, STAND_IN, LATE = (255, 255, 255), (213, 94, 0), (240, 228, 66)
MARKS = (
    (CURRENT, "made now"),
    (STAND_IN, "stand-in fed at its place"),
    (LATE, "fed late (repair)"),
)


@dataclass(frozen=True)
class Pace:
    """How steps become frames of the video: `every` steps a frame, `fps` frames a second, `shown`
    steps in all.
    """

    fps: int
    every: int
    shown: int

    @property
    def rate(self) -> int:
        """Steps a second."""
        return self.fps * self.every


@dataclass(frozen=True)
class Layout:
    """Panels of `cell` pixels a token, `columns` of them side by side; `frames` of each decoding
    fit.
    """

    h: int
    w: int
    cell: int
    columns: int
    frames: int
    decodings: int

    @property
    def panel(self) -> tuple[int, int]:
        """Height and width of a panel, caption and gap included."""
        return self.h * self.cell + CAPTION + GAP, self.w * self.cell + GAP

    @property
    def band(self) -> int:
        """Height of one decoding."""
        return TITLE + -(-self.frames // self.columns) * self.panel[0]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the video."""
        height = 2 * MARGIN - GAP + self.decodings * self.band + LEGEND
        wide = 2 * MARGIN - GAP + self.columns * self.panel[1]
        return height + height % 2, (max(wide, LEAST_WIDTH) + 1) // 2 * 2

    def place(self, decoding: int, frame: int) -> tuple[int, int]:
        """Top and left of a panel's cells."""
        row, column = divmod(frame, self.columns)
        top = MARGIN + decoding * self.band + TITLE + row * self.panel[0] + CAPTION
        return top, MARGIN + column * self.panel[1]


def animate(path: Path, timelines: list[Timeline]) -> dict:
    """Write an .mp4 or .gif of one decoding, or of two on the same grid, complete or not at all.

    Returns what it shows: frames, steps, steps_per_second, steps_per_picture, seconds. Raises
    UsageError for a grid that has no room, OutputError.
    """
    layout = fit(timelines)
    shown = [t.first(layout.frames) for t in timelines]
    pace = pace_of(shown)
    count = -(-pace.shown // pace.every) + 1 + round(HOLD * pace.fps)
    pictures = draw(shown, timelines, layout, pace, count)
    if path.suffix.lower() == ".gif":
        write_gif(path, pictures, pace.fps)
    else:
        with VideoWriter(path, *layout.size, pace.fps) as writer:
            for picture in pictures:
                writer.write(picture[None])
    return {
        "frames": layout.frames,
        "frames_left_out": timelines[0].frames - layout.frames,
        "steps": pace.shown,
        "steps_per_second": pace.rate,
        "steps_per_picture": pace.every,
        "seconds": round(count / pace.fps, 2),
    }


def pace_of(timelines: list[Timeline]) -> Pace:
    """The slowest pace at which the first decoding is done in time; the others go on until the time
    is up.
    """
    most = FIRST if len(timelines) > 1 else SECONDS - HOLD
    steps = timelines[0].span
    rate = next(
        (r for r in RATES if steps <= r * most), -(-steps // int(RATES[-1] * most)) * RATES[-1]
    )
    fps = min(rate, RATES[-1])
    longest = max(t.span for t in timelines)
    return Pace(fps, rate // fps, min(longest, int(rate * (SECONDS - HOLD))))


def fit(timelines: list[Timeline]) -> Layout:
    """The layout with the largest cells; with the fewest frames left out, where not all fit. Raises
    UsageError.
    """
    frames, h, w = timelines[0].made.shape
    options = []
    for cell in range(LEAST, MOST + 1):
        for columns in range(1, frames + 1):
            one = Layout(h, w, cell, columns, 1, len(timelines))
            rows = (HEIGHT - 2 * MARGIN + GAP - LEGEND - len(timelines) * TITLE) // (
                len(timelines) * one.panel[0]
            )
            if 2 * MARGIN - GAP + columns * one.panel[1] > WIDTH or rows < 1:
                break
            options.append(Layout(h, w, cell, columns, min(frames, rows * columns), len(timelines)))
    if not options:
        raise UsageError(
            f"A frame of {h}x{w} tokens is too large to be drawn", "Animate a smaller --grid"
        )
    return max(
        options,
        key=lambda o: (
            o.frames,
            o.cell,
            -(-o.frames % o.columns),
            -abs(o.size[1] / o.size[0] - SHAPE),
        ),
    )


# ---- drawing -------------------------------------------------------------------------------------


def draw(
    shown: list[Timeline], timelines: list[Timeline], layout: Layout, pace: Pace, count: int
) -> Iterator[np.ndarray]:
    """The pictures, uint8 [H, W, 3]: the start, then after every `pace.every` steps, the last one
    held.
    """
    empty = background(shown, layout, pace)
    for n in range(count):
        done = min(n * pace.every, pace.shown)
        picture = empty.copy()
        for row, part in enumerate(shown):
            cells, marks = colours(part, done, pace.every)
            for frame in range(part.frames):
                top, left = layout.place(row, frame)
                block = enlarged(cells[frame], marks[frame], layout.cell)
                picture[top : top + block.shape[0], left : left + block.shape[1]] = block
        yield titled(picture, timelines, layout, done)


def colours(part: Timeline, done: int, every: int) -> tuple[np.ndarray, np.ndarray]:
    """After `done` steps: the cells' colours uint8 [T, h, w, 3], and which mark of MARKS each has,
    int [T, h, w], -1 none.
    """
    age = (part.made / max(1, part.span - 1)).clip(0, 1)[..., None]
    cells = np.where((part.made < done)[..., None], EARLY + age * (np.array(RECENT) - EARLY), EMPTY)
    marks = np.full(part.made.shape, -1)
    marks[(part.stand_in < done) & (part.gone >= done)] = 1
    now = done - every  # the steps since the picture before
    marks[(part.made < done) & (part.made >= now)] = 0
    marks[(part.late < done) & (part.late >= now)] = 2
    palette = np.array([colour for colour, _ in MARKS])
    return np.where((marks >= 0)[..., None], palette[marks], cells).astype(np.uint8), marks


def enlarged(cells: np.ndarray, marks: np.ndarray, side: int) -> np.ndarray:
    """Cells uint8 [h, w, 3] of `side` pixels with a gap where there is room, and the shapes of
    their marks.
    """
    h, w, _ = cells.shape
    block = np.repeat(np.repeat(cells, side, 0), side, 1)
    if side >= 5:
        block[side - 1 :: side] = block[:, side - 1 :: side] = PAPER
    for number in (1, 2) if side >= 9 else ():
        where = np.kron(marks == number, shape(number, side))
        block[where[: h * side, : w * side].astype(bool)] = PAPER
    return block


@cache
def shape(mark: int, side: int) -> np.ndarray:
    """What tells a mark without its colour, bool [side, side]: a cross for a stand-in, a ring's
    hole for a late feed.
    """
    y, x = np.indices((side - 1, side - 1)) - (side - 2) / 2
    reach = side / 4
    inside = np.maximum(abs(x), abs(y)) <= reach
    drawn = (
        inside & (abs(abs(x) - abs(y)) < max(1, side / 12))
        if mark == 1
        else x**2 + y**2 <= (reach * 0.8) ** 2
    )
    return np.pad(drawn, ((0, 1), (0, 1)))


def background(shown: list[Timeline], layout: Layout, pace: Pace) -> np.ndarray:
    """What stays: captions of panels, the legend, and how fast it goes."""
    image = Image.new("RGB", layout.size[::-1], PAPER)
    pen, small = ImageDraw.Draw(image), ImageFont.load_default(size=12)
    for row, part in enumerate(shown):
        for frame in range(part.frames):
            top, left = layout.place(row, frame)
            pen.text(
                (left, top - CAPTION + 2),
                f"frame {frame}" if layout.w * layout.cell > 50 else str(frame),
                INK,
                small,
            )
    foot = layout.size[0] - LEGEND + 6
    left = MARGIN
    for n in range(48):
        colour = tuple(int(a + n / 47 * (b - a)) for a, b in zip(EARLY, RECENT, strict=True))
        pen.rectangle((left + n, foot + 1, left + n + 1, foot + 13), fill=colour)
    pen.text((left + 56, foot), "made: early to late", INK, small)
    left += 56 + 124
    for number, (colour, label) in enumerate(MARKS):
        swatch = enlarged(np.array([[colour]], np.uint8), np.array([[number]]), 15)
        image.paste(Image.fromarray(swatch), (left, foot))
        pen.text((left + 20, foot), label, INK, small)
        left += 20 + int(pen.textlength(label, small)) + 18
    text = f"{pace.rate} steps a second" + (f", {pace.every} a picture" if pace.every > 1 else "")
    pen.text((layout.size[1] - MARGIN - pen.textlength(text, small), foot), text, INK, small)
    return np.asarray(image)


def titled(picture: np.ndarray, timelines: list[Timeline], layout: Layout, done: int) -> np.ndarray:
    """The picture with a line above each decoding: its name, steps and tokens so far."""
    image = Image.fromarray(picture)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=16)
    for row, whole in enumerate(timelines):
        step = min(done, whole.steps)
        made = int((whole.made < step).sum())
        state = "done" if step == whole.steps else f"{made / whole.made.size:.0%}"
        text = (
            f"{whole.label}:  step {step:,} of {whole.steps:,},  {made:,} of {whole.made.size:,} "
            f"tokens,  {state}"
        )
        left_out = whole.frames - layout.frames
        text += f"  ({left_out} more frames are not drawn)" if left_out else ""
        pen.text((MARGIN, MARGIN + row * layout.band), text, INK, font)
    return np.asarray(image)


def write_gif(path: Path, pictures: Iterator[np.ndarray], fps: int) -> None:
    """An endless GIF with one palette for all pictures, complete or not at all. Raises
    OutputError.
    """
    ramp = [np.array(a) + s * (np.array(b) - np.array(a)) for a, b, n in
            ((EARLY, RECENT, 96), (PAPER, INK, 32)) for s in np.linspace(0, 1, n)]  # fmt: skip
    colours_ = np.round([*ramp, EMPTY, *(colour for colour, _ in MARKS)]).astype(np.uint8)
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours_.tobytes())
    images = (
        Image.fromarray(p).quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures
    )
    with atomic(path) as temporary:
        next(images).save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=images,
            duration=1000 // fps,
            loop=0,
            optimize=False,
        )
