"""Frames of every decoding on one image, with names."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from diagd_cli.clip.image import contact_sheet
from diagd_cli.clip.panels import enlarged, enlargement, font
from diagd_cli.report.comparison import Comparison

# pixels of a frame: its number has room, and the sheet can be looked at
LEAST_WIDTH, MOST_WIDTH = 120, 480
GAP, MARGIN, HEAD = 2, 8, 24
INK, FAINT, PAPER = (20, 20, 24), (90, 90, 98), (255, 255, 255)
COLUMNS = 5


def contact_sheet_of(comparison: Comparison) -> np.ndarray:
    """The last context frame and frames spread over the new ones, a row for each of `shown` ->
    uint8 [H, W, 3], on white.

    A row names what it shows and what that took, a column its frame. Ground truth that ends early
    leaves white.
    """
    columns = chosen(comparison)
    rows = [
        np.stack([sized(video[t]) for t in columns if t < len(video)]) for video in comparison.shown
    ]
    frames = contact_sheet(rows, GAP)
    height, width = (side + GAP for side in rows[0].shape[1:3])
    texts = [
        f"{name}\n{line.replace(', ', chr(10))}"
        for name, line in zip(comparison.names, comparison.abouts(), strict=True)
    ]
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left = (
        max(int(pen.multiline_textbbox((0, 0), text, font=font())[2]) for text in texts)
        + 2 * MARGIN
    )
    whole = Image.new("RGB", (left + frames.shape[1], HEAD + frames.shape[0]), PAPER)
    whole.paste(Image.fromarray(frames), (left, HEAD))
    pen = ImageDraw.Draw(whole)
    for n, t in enumerate(columns):
        pen.text((left + n * width + 2, 4), comparison.count(t), font=font(), fill=INK)
    for n, text in enumerate(texts):
        name, _, rest = text.partition("\n")
        pen.text((MARGIN, HEAD + n * height + 4), name, font=font(), fill=INK)
        pen.multiline_text((MARGIN, HEAD + n * height + 24), rest, font=font(), fill=FAINT)
    return np.asarray(whole)


def sized(frame: np.ndarray) -> np.ndarray:
    """A frame uint8 [H, W, 3], enlarged or reduced by a whole factor to a width that suits the
    sheet.
    """
    width = frame.shape[1]
    if width > MOST_WIDTH:
        return np.asarray(Image.fromarray(frame).reduce(-(-width // MOST_WIDTH)))
    return np.asarray(enlarged(frame, enlargement(width, LEAST_WIDTH)))


def chosen(comparison: Comparison) -> list[int]:
    """Frames of the columns: the last of the context, and of the new ones the last and others
    before it, evenly.
    """
    new = np.linspace(
        comparison.context,
        comparison.context + comparison.new - 1,
        min(COLUMNS - 1, comparison.new),
    )
    return [comparison.context - 1, *np.rint(new).astype(int).tolist()]
