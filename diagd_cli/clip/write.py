"""Writing results so that a file is either complete or not there.

Everything goes to a hidden temporary file beside its target, which takes the target's name once it is complete. A
failure or Ctrl-C removes the temporary file and leaves whatever was at the target as it was. The one exception is a video
that is streamed: it grows under its own name, so that it can be watched, and is removed where it fails.
"""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from diagd_cli.errors import DiagdError, OutputError

STDOUT = Path("-")  # the name of a stream that is written to standard output
STREAM_GOP = 4  # frames of a fragment of a streamed video: as many as a player may be behind

_OTHER_FOLDER = "Choose a folder that you may write to"
_FULL = {  # what no reading of a file can meet
    errno.ENOSPC: "Free some space, or write to another disk",
    errno.EDQUOT: "Free some of your quota, or write to another disk",
    errno.EFBIG: "The file system or a limit (ulimit -f) allows no larger file: write elsewhere",
}
_ADVICE = {
    **_FULL,
    errno.EACCES: _OTHER_FOLDER,
    errno.EPERM: _OTHER_FOLDER,
    errno.EROFS: _OTHER_FOLDER,
    errno.EBADF: "It is closed: send it to a file or pipe that can hold it",
    errno.EPIPE: "What read it has ended; keep it open until the last frame",
}


def check_target(path: str | Path, force: bool) -> None:
    """Check, before any work is done, that a file may be written at `path`; an existing one only with `force`.

    Raises OutputError where it exists already, is a directory or a device, or where its folder is not writable and
    cannot be created.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = None
    except OSError as error:
        raise write_failure(path, str(error.strerror)) from error
    if mode is not None and stat.S_ISDIR(mode):
        raise OutputError(f"{path} is a directory", f"Name a file in it, such as {path / 'out.mp4'}")
    if mode is not None and not stat.S_ISREG(mode):
        raise OutputError(f"{path} is not a regular file", "Name a file to write")
    if mode is not None and not force:
        raise OutputError(f"{path} exists already", "Choose another name, or replace it with --force")
    folder = Path(os.path.realpath(path)).parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise OutputError(f"{path} cannot be written: {folder} is not a directory", _OTHER_FOLDER)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{path} cannot be written: the directory {folder} is not writable", _OTHER_FOLDER)


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its name when the block ends well, and is removed otherwise.

    Folders that are missing are created. The block should do nothing but write the file: an OSError in it becomes
    an OutputError.
    """
    with _temporary(Path(path)) as temporary:
        try:
            yield temporary
        except OSError as error:
            raise write_failure(Path(path), error.strerror or str(error)) from error


def write_text(path: str | Path, text: str) -> None:
    """Write text as UTF-8; `path` is complete or untouched. Raises OutputError."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: object) -> None:
    """Write a value as indented JSON with a final newline, atomically. Raises OutputError."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_npz(path: str | Path, /, **arrays: np.ndarray) -> None:
    """Write named arrays as a compressed .npz file, atomically. Raises OutputError."""
    with atomic(path) as temporary, temporary.open("wb") as file:  # given a name, numpy would add a suffix to it
        np.savez_compressed(file, **arrays)


def write_failure(path: Path, reason: str) -> OutputError:
    """An OutputError for `reason`, the system's or ffmpeg's words."""
    name = "Standard output" if path == STDOUT else path
    for code, hint in _ADVICE.items():
        if os.strerror(code) in reason:
            return OutputError(f"{name} cannot be written: {os.strerror(code).lower()}", hint)
    return OutputError(f"{name} cannot be written: {reason}", "Check the name and the folder")


def is_full(reason: str) -> bool:
    """Whether `reason`, the system's or ffmpeg's words, is that no more can be written to a disk."""
    return any(os.strerror(code) in reason for code in _FULL)


def start_ffmpeg(arguments: list[str], failure: type[DiagdError], **options: object) -> subprocess.Popen:
    """Start ffmpeg, out of reach of the terminal's Ctrl-C: whoever started it ends it.

    `options` go to `subprocess.Popen`. Raises `failure` where there is no ffmpeg to run.
    """
    try:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-hide_banner", "-nostats", *arguments]
        return subprocess.Popen(command, start_new_session=True, **options)
    except (OSError, RuntimeError) as error:
        hint = "Install ffmpeg, or put the path of one in IMAGEIO_FFMPEG_EXE"
        raise failure(f"ffmpeg does not start: {error}", hint) from error


class VideoWriter:
    """A context manager that encodes frames as H.264 in MP4; the file appears when the block ends without an error.

    `height` and `width` are in pixels; odd ones gain a copy of the last row or column, since yuv420p needs even
    sizes. `fps` is in frames per second. `crf` is libx264's constant quality, from 0 (lossless) to 51. The same
    frames give the same bytes. Raises OutputError where the file cannot be written.

    stream: the MP4 grows in fragments under its own name, in place of what was there, and can be played all the while; with
    `STDOUT` as the path it is uncompressed YUV4MPEG2 on standard output, which nothing else may write to.
    """

    def __init__(self, path: str | Path, height: int, width: int, fps: float, crf: int = 14, *, stream: bool = False):
        if height < 1 or width < 1 or not (math.isfinite(fps) and fps > 0):
            raise ValueError(f"a video of {width}x{height} pixels at {fps} frames per second")
        self.path, self.height, self.width, self.fps, self.crf = Path(path), height, width, fps, crf
        self.stream, self.count = stream, 0  # frames written

    def __enter__(self) -> VideoWriter:
        with ExitStack() as stack:
            piped = self.stream and self.path == STDOUT
            place = nullcontext(STDOUT) if piped else (_growing if self.stream else _temporary)(self.path)
            temporary = stack.enter_context(place)
            self._log = stack.enter_context(tempfile.TemporaryFile())
            pipes = {"stdin": subprocess.PIPE, "stdout": None if piped else subprocess.DEVNULL, "stderr": self._log}
            # SIGXFSZ stays ignored, as it is in Python: ffmpeg then reports a file size limit instead of dying of it.
            self._process = start_ffmpeg(self._arguments(temporary), OutputError, restore_signals=False, **pipes)
            stack.push(self._end)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *failure: object) -> bool | None:
        return self._stack.__exit__(*failure)

    def write(self, frames: np.ndarray) -> None:
        """Add frames, uint8 RGB (F, height, width, 3). Raises OutputError where they cannot be written."""
        if frames.dtype != np.uint8 or frames.shape[1:] != (self.height, self.width, 3):
            expected = f"uint8 (F, {self.height}, {self.width}, 3)"
            raise ValueError(f"frames must be {expected}, not {frames.dtype} {frames.shape}")
        even = np.pad(frames, ((0, 0), (0, self.height % 2), (0, self.width % 2), (0, 0)), mode="edge")
        try:
            self._process.stdin.write(np.ascontiguousarray(even).data)
            self._process.stdin.flush()
        except OSError as error:  # ffmpeg is gone, and its log says why
            self._process.wait()
            raise self._ffmpeg_failure() from error
        self.count += len(frames)

    def _arguments(self, target: Path) -> list[str]:
        size = f"{self.width + self.width % 2}x{self.height + self.height % 2}"
        rate = str(Fraction(self.fps).limit_denominator(10_000))
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", size, "-framerate", rate, "-i", "pipe:0"]
        color, output = self._format(target)
        return ["-loglevel", "error", *source, "-vf", color, "-pix_fmt", "yuv420p", *output]

    def _format(self, target: Path) -> tuple[str, list[str]]:
        """ffmpeg's filter for the colours; what it writes, and where."""
        if target == STDOUT:  # it has no tag for the matrix, and players take BT.601
            return "scale=out_color_matrix=bt601:out_range=tv", ["-f", "yuv4mpegpipe", "-flush_packets", "1", "pipe:1"]
        # Players take untagged HD video for BT.709 and ffmpeg makes BT.601 unless told: convert and tag alike.
        tags = "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
        # One thread and no version strings or dates: the same frames give the same bytes.
        codec = ["-c:v", "libx264", "-crf", str(self.crf), "-threads", "1", "-flags:v", "+bitexact"]
        index = ["-movflags", "+faststart"]
        if self.stream:  # no frame waits for a later one
            codec += ["-tune", "zerolatency", "-g", str(STREAM_GOP)]
            index = ["-movflags", "+frag_keyframe+empty_moov+default_base_moof", "-flush_packets", "1"]
        muxer = ["-fflags", "+bitexact", "-map_metadata", "-1", *index, "-f", "mp4"]
        return f"scale=out_color_matrix=bt709:out_range=tv,{tags}", [*codec, *muxer, f"file:{target}"]

    def _end(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish the file where the block ended well; in any case see ffmpeg end before the file is moved."""
        try:
            if kind is None:
                self._finish()
        finally:
            self._process.kill()
            with suppress(OSError):
                self._process.stdin.close()
            self._process.wait()

    def _finish(self) -> None:
        if not self.count:
            raise ValueError(f"no frames were written to {self.path}")
        with suppress(OSError):  # a broken pipe: the exit status tells
            self._process.stdin.close()
        if self._process.wait():
            raise self._ffmpeg_failure()

    def _ffmpeg_failure(self) -> OutputError:
        self._log.seek(0)
        reason = " ".join(self._log.read().decode("utf-8", "replace").split())
        if self._process.returncode < 0:
            reason = f"ffmpeg was ended by {signal.Signals(-self._process.returncode).name}"
        return write_failure(self.path, reason or f"ffmpeg failed with status {self._process.returncode}")


@contextmanager
def _growing(path: Path) -> Iterator[Path]:
    """Yield where `path` is, with nothing there any more; a file that was written is removed where the block fails."""
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
    except OSError as error:
        raise write_failure(path, error.strerror or str(error)) from error
    try:
        yield target
    except BaseException:
        with suppress(OSError):
            target.unlink()
        raise


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """`atomic`, but what the block raises passes unchanged."""
    target = Path(os.path.realpath(path))  # replace the file that a link points to, not the link
    temporary = target.with_name(f".diagd-{os.getpid()}-{secrets.token_hex(4)}{target.suffix}")
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_failure(path, error.strerror or str(error)) from error
        yield temporary
        try:
            os.replace(temporary, target)
        except OSError as error:
            raise write_failure(path, error.strerror or str(error)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
