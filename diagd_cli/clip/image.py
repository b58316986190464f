"""Still images: reading one frame of a file, writing PNG, and laying frames out on one sheet."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from itertools import repeat
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from diagd_cli.clip.times import pace
from diagd_cli.errors import ClipError
from diagd_cli.files.atomic import atomic

MAX_SIDE = 8192  # pixels; the largest height or width of a frame that is read
IMAGE_FORMATS = {
    ".png": "PNG",
    ".apng": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
}


class Animation:
    """The frames of an image, uint8 RGB (H, W, 3), upright and on black where it is transparent;
    mostly a single one.

    `fps` is in frames per second, None for a single one; frames that stand longer come as often as
    they last. Raises ClipError where the image is damaged, larger than `MAX_SIDE`, or not of the
    kind that its suffix says.
    """

    def __init__(self, path: Path):
        self.path, self.kind = path, IMAGE_FORMATS[path.suffix.lower()]
        self.fps, self.steps, self.begin = None, [0], 0
        with self._opened() as image:
            count = getattr(image, "n_frames", 1)
            if count > 1:
                # a PNG's still for those who cannot do better
                self.begin = int(image.info.get("default_image", False))
                times = np.cumsum(
                    [0.0, *(self._seconds(image, n) for n in range(self.begin, count - 1))]
                )
                self.fps, steps = pace(times, (), 0.001)
                self.steps = steps.tolist()

    def __iter__(self) -> Iterator[np.ndarray]:
        with self._opened() as image:
            for number, step in enumerate(self.steps):
                after = self.steps[number + 1] if number + 1 < len(self.steps) else step + 1
                if after > step:
                    image.seek(self.begin + number)
                    yield from repeat(_rgb(image), after - step)

    @contextmanager
    def _opened(self) -> Iterator[Image.Image]:
        path = self.path
        try:
            with warnings.catch_warnings():
                # A small file may claim billions of pixels; Pillow warns before it spends memory on
                # them.
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(path, formats=[self.kind]) as image:
                    check_size(path, *image.size)
                    yield image
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            hint = f"Scale it down to at most {MAX_SIDE}x{MAX_SIDE}"
            raise ClipError(f"{path} has far too many pixels", hint) from error
        except (OSError, SyntaxError, ValueError, struct.error) as error:
            raise ClipError(
                f"{path} is damaged or not a {self.kind} image", "Copy or download it again"
            ) from error

    @staticmethod
    def _seconds(image: Image.Image, number: int) -> float:
        """How long a frame is shown; at most 10 ms is what browsers take for 100 ms."""
        image.seek(number)
        image.load()  # only then does Pillow know
        duration = image.info.get("duration") or 0
        return (duration if duration > 10 else 100) / 1000


def _rgb(image: Image.Image) -> np.ndarray:
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16 bits of grey, which convert() would clip instead of scale
        upright = Image.fromarray((np.asarray(upright) // 256).astype(np.uint8))
    if upright.has_transparency_data:
        return over_black(np.asarray(upright.convert("RGBA")))
    return np.asarray(upright.convert("RGB"))


def over_black(pixels: np.ndarray) -> np.ndarray:
    """uint8 RGBA (H, W, 4) -> uint8 RGB (H, W, 3), as a player shows it."""
    colours, alpha = pixels[..., :3].astype(np.uint16), pixels[..., 3:]
    return ((colours * alpha + 127) // 255).astype(np.uint8)


def check_size(path: Path, width: int, height: int) -> None:
    """Raise ClipError where frames of `width` x `height` pixels are too large to read."""
    if max(width, height) > MAX_SIDE:
        raise too_large(path, width, height)


def too_large(path: Path, width: int, height: int) -> ClipError:
    """The error for a file whose frames have `width` x `height` pixels."""
    return ClipError(
        f"{path} has frames of {width}x{height} pixels",
        f"Scale it down to at most {MAX_SIDE}x{MAX_SIDE}",
    )


def write_png(path: str | Path, image: np.ndarray) -> None:
    """Write an image, uint8 RGB (H, W, 3), as a PNG; `path` is complete or untouched. Raises
    OutputError.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"an image must be uint8 (H, W, 3), not {image.dtype} {image.shape}")
    with atomic(Path(path)) as temporary:
        temporary.write_bytes(png_bytes(image))


def png_bytes(image: np.ndarray) -> bytes:
    """An image, uint8 RGB (H, W, 3) or with opacity (H, W, 4), as a PNG file."""
    file = BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def stamped(frames: np.ndarray, text: str) -> np.ndarray:
    """Frames uint8 [F, H, W, 3] with white text at the bottom right, 10 pixels from the edges, on a
    dark band; "" is none.
    """
    if not text:
        return frames
    font = ImageFont.load_default(size=12)
    box = font.getbbox(text)
    mark = Image.new("L", (int(box[2]), int(box[3])))
    ImageDraw.Draw(mark).text((0, 0), text, font=font, fill=255)
    ink = np.asarray(mark, dtype=np.float32)[..., None] / 255
    height, width = (
        min(room, size) for room, size in zip(frames.shape[1:3], ink.shape[:2], strict=True)
    )
    bottom, right = (
        max(0, side - size - 10)
        for side, size in zip(frames.shape[1:3], (height, width), strict=True)
    )
    result = frames.copy()
    place = result[:, bottom : bottom + height, right : right + width]
    place[:] = (place // 2) * (1 - ink[:height, :width]) + 255 * ink[:height, :width]
    return result


def contact_sheet(rows: list[np.ndarray], gap: int = 2) -> np.ndarray:
    """Lay videos out on one image: a row for each, its frames from left to right, `gap` white
    pixels between.

    `rows` are uint8 RGB (F, H, W, 3), of any lengths and sizes; the sheet is uint8 RGB (H', W', 3),
    white where a row ends early.
    """
    if not rows or any(
        row.dtype != np.uint8 or row.ndim != 4 or row.shape[3] != 3 or not row.size for row in rows
    ):
        raise ValueError(
            f"rows must be uint8 (F, H, W, 3), not {[(row.dtype, row.shape) for row in rows]}"
        )
    height = sum(row.shape[1] + gap for row in rows) - gap
    width = max(row.shape[0] * (row.shape[2] + gap) for row in rows) - gap
    sheet = np.full((height, width, 3), 255, np.uint8)
    top = 0
    for row in rows:
        count, tall, wide, _ = row.shape
        for index in range(count):
            left = index * (wide + gap)
            sheet[top : top + tall, left : left + wide] = row[index]
        top += tall + gap
    return sheet
