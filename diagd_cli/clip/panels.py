"""Pictures side by side, each under a caption, and videos made of them."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CAPTION, LINE = 30, 18  # pixels above each panel for a line of text, and for each further line
GAP, MARGIN = 4, 8  # between panels; beside text
MOST, MOST_WIDE = 4, 3840  # panels in a row, and its pixels
LEAST_WIDTH = 320  # pixels of a panel, so that its caption has room
INK, FAINT, PAPER = (235, 235, 235), (170, 170, 176), (24, 24, 27)
BAR, TRACK = (134, 206, 250), (58, 58, 64)  # how far a panel is


def side_by_side(
    videos: list[np.ndarray], captions: list[list[str]], least_width: int = LEAST_WIDTH
) -> np.ndarray:
    """Videos uint8 [F, H, W, 3] of one size, enlarged by a whole factor, in rows under captions ->
    uint8 [F, H', W', 3].

    captions[n] holds the caption of video n at each frame (or one for all). Videos may differ in
    length: a shorter one stands still on its last frame.
    """
    scale = enlargement(videos[0].shape[2], least_width)
    rows = []
    for t in range(max(map(len, videos))):
        frames = [enlarged(video[min(t, len(video) - 1)], scale) for video in videos]
        texts = [own[min(t, len(own) - 1)] for own in captions]
        rows.append(
            tiled([captioned(image, text) for image, text in zip(frames, texts, strict=True)])
        )
    return np.stack(rows)


def enlargement(width: int, least_width: int = LEAST_WIDTH) -> int:
    """The whole factor by which a panel of `width` pixels becomes at least `least_width` wide."""
    return max(1, -(-least_width // width))


def enlarged(frame: np.ndarray, scale: int) -> Image.Image:
    """A frame uint8 [H, W, 3], `scale` times as large."""
    image = Image.fromarray(frame)
    return (
        image
        if scale == 1
        else image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)
    )


def captioned(
    image: Image.Image, text: str, right: str = "", share: float | None = None
) -> Image.Image:
    """An image under `text`, whose lines after the first are faint, and `right` at the end of the
    first line, or of the last where the first has no room.

    share: 0..1, drawn as a bar between the two.
    """
    lines = text.split("\n")
    top = CAPTION + LINE * (len(lines) - 1)
    panel = Image.new("RGB", (image.width, image.height + top), PAPER)
    panel.paste(image, (0, top))
    pen = ImageDraw.Draw(panel)
    for n, line in enumerate(lines):
        pen.text((MARGIN, 6 + n * LINE), line, font=font(), fill=FAINT if n else INK)
    fits = (
        pen.textlength(lines[0], font()) + pen.textlength(right, font()) + 3 * MARGIN <= image.width
    )
    end = 6 + (0 if fits else len(lines) - 1) * LINE
    pen.text((image.width - MARGIN, end), right, font=font(), fill=FAINT, anchor="ra")
    if share is not None:
        pen.rectangle((0, top - 4, image.width - 1, top - 2), fill=TRACK)
        if share > 0:
            pen.rectangle((0, top - 4, round(share * image.width) - 1, top - 2), fill=BAR)
    return panel


def stacked(above: Image.Image, below: Image.Image) -> Image.Image:
    """Two images of one width, with a gap between them."""
    both = Image.new("RGB", (above.width, above.height + GAP + below.height), PAPER)
    both.paste(above, (0, 0))
    both.paste(below, (0, above.height + GAP))
    return both


def tiled(panels: list[Image.Image]) -> np.ndarray:
    """Panels of one size in rows as even as can be -> uint8 [H, W, 3]."""
    wide, high = panels[0].size
    most = max(1, min(MOST, (MOST_WIDE + GAP) // (wide + GAP)))
    rows = -(-len(panels) // most)
    columns = -(-len(panels) // rows)
    sheet = Image.new("RGB", (columns * (wide + GAP) - GAP, rows * (high + GAP) - GAP), PAPER)
    for n, panel in enumerate(panels):
        row, column = divmod(n, columns)
        sheet.paste(panel, (column * (wide + GAP), row * (high + GAP)))
    return np.asarray(sheet)


def footed(picture: np.ndarray, text: str, right: str = "") -> np.ndarray:
    """A picture uint8 [H, W, 3] above a line of text."""
    foot = Image.new("RGB", (picture.shape[1], CAPTION), PAPER)
    pen = ImageDraw.Draw(foot)
    pen.text((MARGIN, 6), text, font=font(), fill=INK)
    pen.text((foot.width - MARGIN, 6), right, font=font(), fill=FAINT, anchor="ra")
    return np.concatenate([picture, np.asarray(foot)])


@cache
def font(size: int = 14) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of captions."""
    return ImageFont.load_default(size=size)
