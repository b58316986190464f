"""Reading the frames that a generated video continues: from a video file or from a still image.

The file is untrusted: ffmpeg may open nothing but that one local file, as a real video container only, and frames
above `MAX_SIDE` are refused before any memory is spent on them.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import subprocess
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from diagd_cli.clip.image import IMAGE_FORMATS, MAX_SIDE, check_size, read_image, too_large
from diagd_cli.clip.write import start_ffmpeg
from diagd_cli.errors import ClipError, UsageError
from diagd_cli.tokens.gamepad import read_npz

# Containers that hold their own frames. Playlists (concat, HLS, DASH), image sequences and devices would make ffmpeg
# open other files than the one that was named.
_CONTAINERS = "mov,matroska,avi,mpegts,mpeg,flv,ogg,gif,asf"
_SAFE_INPUT = ["-protocol_whitelist", "file", "-format_whitelist", _CONTAINERS, "-max_pixels", str(MAX_SIDE**2)]
_LOG_BYTES = 1 << 20
# What ffmpeg says where frames are lost for good, by its versions; a frame that it has patched up is none of them.
_LOST = (
    r"\[error\].*(partial file|ended prematurely|Error submitting packet|Error while decoding|Error during demuxing)"
)
_COPY_AGAIN = "Copy or download it again"


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames of one file, at their native size.

    `frames` is uint8 RGB (F, H, W, 3) and `future` uint8 RGB (F2, H, W, 3): those that follow in the file, possibly
    none. `fps` is in frames per second, None where the file gives none. `first` is the index in the file of
    `frames[0]`, and `sha256` the hexadecimal digest of the file's bytes.
    """

    path: Path
    frames: np.ndarray
    fps: float | None
    first: int
    sha256: str
    future: np.ndarray


def read_clip(path: str | Path, context: int, start: int | None = None, future: int = 0) -> Clip:
    """Read `context` frames of a video from frame `start` on, and up to `future` frames that follow them.

    `start` None means the last `context` frames of the file, which none follow. An image is a video of one frame; an
    .npz is one of WHAM's recordings, which is read whole.
    Every frame of the file counts once, whatever its time stamp. Memory holds the frames that are asked for, never
    the whole video. Raises ClipError for a file that cannot be read or is too short, UsageError for a negative start.
    """
    if context < 1 or future < 0:
        raise ValueError(f"context {context} must be at least 1 and future {future} at least 0")
    if start is not None and start < 0:
        raise UsageError(f"The start frame is {start}", "Frames count from 0: give 0 or more")
    path = Path(path)
    digest = _digest(path)
    if path.suffix.lower() in IMAGE_FORMATS:
        kept, count, fps, log = [read_image(path)], 1, None, ""
    elif path.suffix.lower() == ".npz":
        kept, count = _select(_recorded(path), context, start, future)
        fps, log = None, ""
    else:
        kept, count, fps, log = _read_video(path, context, start, future)
    first = max(count - context, 0) if start is None else start
    if count < first + context:
        raise _too_few(path, count, context, first, log)
    pixels = np.stack(kept)
    return Clip(path, pixels[:context], fps, first, digest, pixels[context:])


def read_frames(path: Path) -> Iterator[np.ndarray]:
    """Every frame of a video or of one of WHAM's recordings, uint8 [H, W, 3], one after the other.

    Raises ClipError for a file that cannot be read, and at the end of one of which frames are lost: those after a gap
    would stand beside the actions of others.
    """
    check_clip(path)  # a pipe would never end
    if path.suffix.lower() == ".npz":
        yield from _recorded(path)
        return
    count = 0
    with tempfile.TemporaryFile() as log:
        with _decoder(path, log) as process:
            for frame in _frames(path, process):
                count += 1
                yield frame
        log.seek(0)
        text = log.read(_LOG_BYTES).decode("utf-8", "replace")
    if not count:
        raise _no_frames(path, text)
    if re.search(_LOST, text):
        message = f"{path} is cut short or damaged: {_told(count)} can be read, others are lost"
        raise ClipError(message, f"{_COPY_AGAIN}, or leave it out")


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file, open for reading; a ClipError for anything that is not a readable file with bytes in it."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ClipError(f"{path} is a directory", "Name one video or image file")
        if not stat.S_ISREG(status.st_mode):
            raise ClipError(f"{path} is not a regular file", "Name one video or image file")
        if not status.st_size:
            raise ClipError(f"{path} is empty (0 bytes)", _COPY_AGAIN)
        with path.open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise ClipError(f"{path} does not exist", "Check the name and the folder") from error
    except PermissionError as error:
        raise ClipError(f"{path} cannot be read: permission denied", "Check its permissions") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ClipError(f"{str(path)!r} cannot be read: {reason}", "Check the name and the folder") from error


def check_clip(path: Path) -> None:
    """Check, before any work is done, that a file can be opened. Raises ClipError."""
    with opened(path):
        pass


def _digest(path: Path) -> str:
    """The SHA-256 of a file's bytes. Raises ClipError."""
    digest = hashlib.sha256()
    with opened(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _recorded(path: Path) -> np.ndarray:
    """The frames uint8 (F, H, W, 3) of an official WHAM recording."""
    try:
        frames = read_npz(path).images
    except UsageError as error:
        raise ClipError(error.message, error.hint) from None
    check_size(path, *frames.shape[2:0:-1])
    return frames


def _read_video(path: Path, context: int, start: int | None, future: int) -> tuple[list, int, float | None, str]:
    """The frames asked for (fewer where the file ends), how many were decoded, frames per second, ffmpeg's log."""
    with tempfile.TemporaryFile() as log:
        with _decoder(path, log) as process:
            kept, count = _select(_frames(path, process), context, start, future)
        log.seek(0)  # only now: ffmpeg wrote through the same file position
        text = log.read(_LOG_BYTES).decode("utf-8", "replace")
    return kept, count, _fps(text), text


@contextmanager
def _decoder(path: Path, log: IO[bytes]) -> Iterator[subprocess.Popen]:
    """ffmpeg writing the file's frames to its stdout and its messages to `log`; ended whatever happens."""
    # Upright (ffmpeg rotates), no cover art (V), no frame invented or dropped for its time stamp, none half there.
    source = ["-fflags", "+discardcorrupt", *_SAFE_INPUT, "-i", "file:" + os.path.abspath(path)]
    # PPM is raw RGB that gives the size of every frame: nothing depends on what the container declares.
    frames = ["-map", "0:V:0", "-fps_mode", "passthrough", "-c:v", "ppm", "-pix_fmt", "rgb24", "-f", "image2pipe"]
    arguments = ["-loglevel", "level+info", *source, *frames, "pipe:1"]
    process = start_ffmpeg(arguments, ClipError, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def _frames(path: Path, process: subprocess.Popen) -> Iterator[np.ndarray]:
    """Every frame that ffmpeg decodes, uint8 (H, W, 3); it has ended, its log complete, when they do."""
    pipe = process.stdout
    while pipe.readline() == b"P6\n":
        width, height = map(int, pipe.readline().split())
        check_size(path, width, height)
        pipe.readline()  # the maximum, 255
        data = pipe.read(height * width * 3)
        if len(data) == height * width * 3:
            yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
    process.wait()


def _select(frames: Iterable, context: int, start: int | None, future: int) -> tuple[list, int]:
    """Those of `frames` that are asked for, and how many were read to find them."""
    kept: deque = deque(maxlen=context if start is None else context + future)
    count = 0
    for frame in frames:
        if start is None or count >= start:
            kept.append(frame)
        count += 1
        if start is not None and count == start + context + future:
            break
    return list(kept), count


def _fps(log: str) -> float | None:
    """The frame rate that ffmpeg reports for the video stream, None where it is unknown or absurd."""
    streams = re.findall(r"^\[info\] +Stream #0:\d.* Video: .*", log, re.MULTILINE)
    line = next((line for line in streams if "(attached pic)" not in line), "")
    found = re.search(r" (\d+(?:\.\d+)?) fps", line)
    fps = float(found[1]) if found else 0.0
    for whole in (24, 30, 48, 60, 120):  # ffmpeg prints two decimals: 23.98 stands for 24000/1001
        if abs(fps - whole / 1.001) < 0.0051:
            return whole / 1.001
    return fps if 0 < fps <= 1000 else None


def _told(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"


def _too_few(path: Path, count: int, context: int, start: int, log: str) -> ClipError:
    """Why `count` readable frames do not hold `context` of them from frame `start` on."""
    has = _told(count)
    if not count:
        return _no_frames(path, log)
    if re.search(r"^(\[[^]]* @ 0x[0-9a-f]+\] )*\[(error|fatal)\]", log, re.MULTILINE):
        message = f"{path} is cut short or damaged: {has} can be read, and the request needs {start + context}"
        return ClipError(message, _COPY_AGAIN)
    if count < context:
        return ClipError(f"{path} has {has}, and the preset needs {context}", "Give a longer clip")
    if start >= count:
        message = f"{path} has {has}, so frame {start} is beyond its end"
    else:
        message = f"{path} has {has}, too few to read {context} from frame {start} on"
    return ClipError(message, f"Start at frame {count - context} or before")


def _no_frames(path: Path, log: str) -> ClipError:
    """What ffmpeg's log says about a file of which no frame could be decoded."""
    if found := re.search(r"Picture size ([1-9]\d*)x([1-9]\d*)", log):
        return too_large(path, int(found[1]), int(found[2]))
    if "matches no streams" in log:
        return ClipError(f"{path} has no video stream", "Name a file with pictures, not only sound")
    if "moov atom not found" in log and "misdetection possible" not in log:
        return ClipError(f"{path} is cut short: its index (the moov atom) is missing", _COPY_AGAIN)
    if "Error opening input" in log:
        return ClipError(f"{path} is not a video file", "Name an MP4, MOV, MKV, WebM, AVI or GIF file, or an image")
    return ClipError(f"{path} is damaged: none of its frames can be decoded", _COPY_AGAIN)
