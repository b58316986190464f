"""Reading the frames that a generated video continues: from a video file, from an image, from a
recording.
"""

from __future__ import annotations

import hashlib
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from diagd_cli import families
from diagd_cli.clip.decode import Tally
from diagd_cli.clip.image import IMAGE_FORMATS, Animation, check_size
from diagd_cli.clip.packets import look_through
from diagd_cli.clip.take import Found, damaged, every_frame, read_video, told
from diagd_cli.clip.tokens import holds_codes, read_codes
from diagd_cli.clip.video import AGAIN
from diagd_cli.errors import ClipError, UsageError

_TELL_AFTER, _TELL_EVERY = 3.0, 10.0  # seconds of silence


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames of one file, upright, on square pixels.

    frames: uint8 RGB [F, H, W, 3]; of a file of tokens int64 [F, h, w].
    fps: frames a second, None where the file gives none.
    first: the index in the file of `frames[0]`.
    sha256: the hexadecimal digest of the file's bytes.
    future: the frames that follow in the file, possibly none; like `frames`.
    damage: what is missing of the file or broken in it, as the end of a sentence that begins with
        its name; None where nothing is known to be.
    """

    path: Path
    frames: np.ndarray
    fps: float | None
    first: int
    sha256: str
    future: np.ndarray
    damage: str | None = None

    @classmethod
    def nothing(cls, path: Path) -> Clip:
        """What is gone on from where something is made of no frames; `path`: what it is called."""
        frames = np.zeros((0, 1, 1, 3), dtype=np.uint8)
        return cls(path, frames, None, 0, "", frames)


def read_clip(
    path: str | Path,
    context: int,
    start: int | None = None,
    future: int = 0,
    *,
    whole: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Clip:
    """Read `context` frames of a video from frame `start` on, and up to `future` frames that follow
    them.

    `start` None means the last `context` frames of the file, which none follow. An image is a video
    of one frame, an animated one of all of its frames; an .npz is a file of tokens, or a family's
    recording (WHAM's), which is read whole. Frames count at constant time steps: those of a video
    of constant rate count once each. Memory holds the frames that are asked for, never the whole
    video, and of a long one only those near them are decoded.

    `tell` is given a line now and then where that takes seconds. Raises ClipError for a file that
    cannot be read or is too short, and with `whole` for one that is cut short or damaged;
    UsageError for a negative start.
    """
    if context < 1 or future < 0:
        raise ValueError(f"context {context} must be at least 1 and future {future} at least 0")
    if start is not None and start < 0:
        raise UsageError(f"The start frame is {start}", "Frames count from 0: give 0 or more")
    path = Path(path)
    tell = _patient(tell)
    digest = _digest(path, tell)
    found = _select(path, context, start, future, tell)
    first = max(found.count - context, 0) if start is None else start
    if whole and found.damage:
        raise _damaged(path, found.damage)
    if found.count < first + context:
        raise _too_few(path, found, context, first)
    pixels = np.stack(found.frames)
    return Clip(path, pixels[:context], found.fps, first, digest, pixels[context:], found.damage)


def read_frames(path: Path) -> Iterator[np.ndarray]:
    """Every frame of a video, an animated image or one of WHAM's recordings, uint8 [H, W, 3], one
    after the other.

    Raises ClipError for a file that cannot be read, and for one of which frames are lost or
    damaged, at its end at the
    latest: those after a gap would stand beside the actions of others.
    """
    check_clip(path)  # a pipe would never end
    if path.suffix.lower() in families.recordings():
        yield from _recorded(path)
    elif path.suffix.lower() in IMAGE_FORMATS:
        yield from Animation(path)
    else:
        damage = yield from every_frame(path)
        if damage:
            raise _damaged(path, damage)


def _damaged(path: Path, damage: str) -> ClipError:
    return ClipError(f"{path} is {damage}", f"{AGAIN}, or leave it out")


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file, open for reading; a ClipError for anything that is not a readable file with bytes
    in it.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ClipError(f"{path} is a directory", "Name one video or image file")
        if not stat.S_ISREG(status.st_mode):
            raise ClipError(f"{path} is not a regular file", "Name one video or image file")
        if not status.st_size:
            raise ClipError(f"{path} is empty (0 bytes)", AGAIN)
        with path.open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise ClipError(f"{path} does not exist", "Check the name and the folder") from error
    except PermissionError as error:
        raise ClipError(
            f"{path} cannot be read: permission denied", "Check its permissions"
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ClipError(
            f"{str(path)!r} cannot be read: {reason}", "Check the name and the folder"
        ) from error


def check_clip(path: Path, whole: bool = False) -> None:
    """Check, before any work is done, that a file can be opened; with `whole` that all of a video
    seems to be there.

    Raises ClipError. No frame is decoded: what only a decoder can see is not seen.
    """
    with opened(path):
        pass
    if whole and path.suffix.lower() not in (*families.recordings(), *IMAGE_FORMATS):
        contents = look_through(path)
        if contents.damage:
            raise _damaged(path, str(damaged(contents, Tally(), False)))


def _digest(path: Path, tell: Callable[[str], None]) -> str:
    """The SHA-256 of a file's bytes. Raises ClipError."""
    digest = hashlib.sha256()
    with opened(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
            tell(f"reading {path.name}: {file.tell() >> 20} MiB so far")
    return digest.hexdigest()


def _patient(tell: Callable[[str], None]) -> Callable[[str], None]:
    """`tell`, but not before some seconds have passed, nor often."""
    due = time.monotonic() + _TELL_AFTER

    def told_at_times(line: str) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + _TELL_EVERY
            tell(line)

    return told_at_times


def _recorded(path: Path) -> np.ndarray:
    """The frames uint8 (F, H, W, 3) of a recording of a family's own."""
    try:
        frames = families.recordings()[path.suffix.lower()](path)
    except UsageError as error:
        raise ClipError(error.message, error.hint) from None
    check_size(path, *frames.shape[2:0:-1])
    return frames


def _select(
    path: Path, context: int, start: int | None, future: int, tell: Callable[[str], None]
) -> Found:
    """The frames of a file that are asked for, fewer where it ends. Raises ClipError."""
    frames: Iterable[np.ndarray]
    fps: float | None = None
    if holds_codes(path):
        frames = read_codes(path)
    elif path.suffix.lower() in families.recordings():
        frames = _recorded(path)
    elif path.suffix.lower() in IMAGE_FORMATS:
        frames = animation = Animation(path)
        fps = animation.fps
    else:
        return read_video(path, context, start, future, tell)
    kept: deque[np.ndarray] = deque(maxlen=context if start is None else context + future)
    count = 0
    for frame in frames:
        if start is None or count >= start:
            kept.append(frame)
        count += 1
        if start is not None and count == start + context + future:
            break
    return Found(list(kept), count, fps)


def _too_few(path: Path, found: Found, context: int, start: int) -> ClipError:
    """Why the frames that are there do not hold `context` of them from frame `start` on."""
    count = found.count
    has = told(count)
    if found.damage:
        return ClipError(
            f"{path} is {found.damage}, and the request needs {start + context}", AGAIN
        )
    if count < context:
        return ClipError(f"{path} has {has}, and the preset needs {context}", "Give a longer clip")
    if start >= count:
        message = f"{path} has {has}, so frame {start} is beyond its end"
    else:
        message = f"{path} has {has}, too few to read {context} from frame {start} on"
    return ClipError(message, f"Start at frame {count - context} or before")
