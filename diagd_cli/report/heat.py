"""Where two videos differ, in colours whose lightness grows evenly with the difference."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from diagd_cli.clip.panels import FAINT, INK, LINE, MARGIN, PAPER, font

ROUND = 10  # levels that the top of the scale is a multiple of
# of all differences that lie below the top: a few wild pixels must not darken the rest
QUANTILE = 0.99


def difference(frames: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Mean absolute difference over red, green and blue, float32 [F, H, W] in 0..255, of uint8 [F,
    H, W, 3]; F: the fewer.
    """
    count = min(len(frames), len(reference))
    return np.abs(frames[:count].astype(np.int16) - reference[:count]).mean(-1, dtype=np.float32)


def top_of(differences: list[np.ndarray]) -> int:
    """The level at the top of the scale that these share."""
    level = max(float(np.quantile(values, QUANTILE)) for values in differences)
    return min(255, max(ROUND, int(-(-level // ROUND)) * ROUND))


def coloured(values: np.ndarray, top: int) -> np.ndarray:
    """Differences [...] as colours uint8 [..., 3]: black is none, and `top` or more is the
    lightest.
    """
    return ramp()[np.rint(values.clip(0, top) * (255 / top)).astype(np.int64)]


@cache
def ramp() -> np.ndarray:
    """256 colours uint8 [256, 3] from black by violet, red and orange to pale yellow.

    A curve through Oklab (Ottosson 2020): lightness rises evenly, so that equal differences look
    equal, to the colour-blind and in grey too; the hue turns, and chroma is largest half-way.
    """
    x = np.linspace(0, 1, 256)
    hue, chroma = np.radians(300 + 165 * x), 0.18 * np.sin(np.pi * x**0.9) ** 0.8
    lab = np.stack([0.97 * x, chroma * np.cos(hue), chroma * np.sin(hue)])
    to_lms = np.array(
        [
            [1, 0.3963377774, 0.2158037573],
            [1, -0.1055613458, -0.0638541728],
            [1, -0.0894841775, -1.2914855480],
        ]
    )
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = (to_rgb @ (to_lms @ lab) ** 3).clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * encoded.T).astype(np.uint8)


def legend(width: int, height: int, reference: str, top: int) -> Image.Image:
    """What the colours mean, in a picture of the size of a panel: it stands below what the others
    are held against.
    """
    image = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(image)
    lines = [
        ("Difference to", FAINT),
        (reference, INK),
        ("absolute, mean of red, green and blue", FAINT),
    ]
    first = max(0, height // 2 - 2 * LINE - 8)
    for n, (text, colour) in enumerate(lines):
        pen.text((MARGIN, first + n * LINE), text, font=font(), fill=colour)
    bar = Image.fromarray(ramp()[None]).resize(
        (max(1, width - 2 * MARGIN), 14), Image.Resampling.NEAREST
    )
    below = first + len(lines) * LINE + 6
    image.paste(bar, (MARGIN, below))
    pen.text((MARGIN, below + 18), "0", font=font(), fill=INK)
    pen.text(
        (width - MARGIN, below + 18), f"{top} or more of 255", font=font(), fill=INK, anchor="ra"
    )
    return image
