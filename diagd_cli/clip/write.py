"""Writing videos with ffmpeg: each appears when it is complete, as all files do.

The one exception is a video that is streamed: it grows under its own name, so that it can be
watched, and is removed where it fails.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import tempfile
from contextlib import ExitStack, nullcontext, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import imageio_ffmpeg
import numpy as np

from diagd_cli.errors import DiagdError, OutputError
from diagd_cli.files.atomic import STDOUT, set_aside, temporary, write_failure

STREAM_GOP = 4  # frames of a fragment of a streamed video: as many as a player may be behind


def start_ffmpeg(
    arguments: list[str], failure: type[DiagdError], **options: Any
) -> subprocess.Popen[bytes]:
    """Start ffmpeg, out of reach of the terminal's Ctrl-C: whoever started it ends it.

    `options` go to `subprocess.Popen`. Raises `failure` where there is no ffmpeg to run.
    """
    try:
        command = [
            imageio_ffmpeg.get_ffmpeg_exe(),
            "-nostdin",
            "-hide_banner",
            "-nostats",
            "-xerror",  # older versions call it a success where the end could not be written
            *arguments,
        ]
        return subprocess.Popen(command, start_new_session=True, **options)
    except (OSError, RuntimeError) as error:
        hint = "Install ffmpeg, or put the path of one in IMAGEIO_FFMPEG_EXE"
        raise failure(f"ffmpeg does not start: {error}", hint) from error


class VideoWriter:
    """A context manager that encodes frames as H.264 in MP4; the file appears when the block ends
    without an error.

    `height` and `width` are in pixels; odd ones gain a copy of the last row or column, since
    yuv420p needs even sizes. `fps` is in frames per second. `crf` is libx264's constant quality,
    from 0 (lossless) to 51. The same frames give the same bytes. Raises OutputError where the file
    cannot be written.

    stream: the MP4 grows in fragments under its own name, in place of what was there, and can be
        played all the while; with `STDOUT` as the path it is uncompressed YUV4MPEG2 on standard
        output, which nothing else may write to.
    """

    def __init__(
        self,
        path: str | Path,
        height: int,
        width: int,
        fps: float,
        crf: int = 14,
        *,
        stream: bool = False,
    ):
        if height < 1 or width < 1 or not (math.isfinite(fps) and fps > 0):
            raise ValueError(f"a video of {width}x{height} pixels at {fps} frames per second")
        self.path, self.height, self.width, self.fps, self.crf = Path(path), height, width, fps, crf
        self.stream, self.count = stream, 0  # frames written

    def __enter__(self) -> VideoWriter:
        with ExitStack() as stack:
            piped = self.stream and self.path == STDOUT
            place = (
                nullcontext(STDOUT)
                if piped
                else (set_aside if self.stream else temporary)(self.path)
            )
            part = stack.enter_context(place) or Path(os.path.realpath(self.path))
            self._log = stack.enter_context(tempfile.TemporaryFile())
            pipes = {
                "stdin": subprocess.PIPE,
                "stdout": None if piped else subprocess.DEVNULL,
                "stderr": self._log,
            }
            # SIGXFSZ stays ignored, as it is in Python: ffmpeg then reports a file size limit
            # instead of dying of it.
            self._process = start_ffmpeg(
                self._arguments(part), OutputError, restore_signals=False, **pipes
            )
            stack.push(self._end)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)

    def write(self, frames: np.ndarray) -> None:
        """Add frames, uint8 RGB (F, height, width, 3). Raises OutputError where they cannot be
        written.
        """
        if frames.dtype != np.uint8 or frames.shape[1:] != (self.height, self.width, 3):
            expected = f"uint8 (F, {self.height}, {self.width}, 3)"
            raise ValueError(f"frames must be {expected}, not {frames.dtype} {frames.shape}")
        even = np.pad(
            frames, ((0, 0), (0, self.height % 2), (0, self.width % 2), (0, 0)), mode="edge"
        )
        try:
            self._pipe.write(np.ascontiguousarray(even).data)
            self._pipe.flush()
        except OSError as error:  # ffmpeg is gone, and its log says why
            self._process.wait()
            raise self._ffmpeg_failure() from error
        self.count += len(frames)

    @property
    def _pipe(self) -> IO[bytes]:
        assert self._process.stdin is not None  # `__enter__` asks for a pipe
        return self._process.stdin

    def _arguments(self, target: Path) -> list[str]:
        size = f"{self.width + self.width % 2}x{self.height + self.height % 2}"
        rate = str(Fraction(self.fps).limit_denominator(10_000))
        source = [
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "-video_size",
            size,
            "-framerate",
            rate,
            "-i",
            "pipe:0",
        ]
        color, output = self._format(target)
        return ["-loglevel", "error", *source, "-vf", color, "-pix_fmt", "yuv420p", *output]

    def _format(self, target: Path) -> tuple[str, list[str]]:
        """ffmpeg's filter for the colours; what it writes, and where."""
        if target == STDOUT:  # it has no tag for the matrix, and players take BT.601
            return "scale=out_color_matrix=bt601:out_range=tv", [
                "-f",
                "yuv4mpegpipe",
                "-flush_packets",
                "1",
                "pipe:1",
            ]
        # Players take untagged HD video for BT.709 and ffmpeg makes BT.601 unless told: convert and
        # tag alike.
        tags = "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
        # One thread and no version strings or dates: the same frames give the same bytes.
        codec = ["-c:v", "libx264", "-crf", str(self.crf), "-threads", "1", "-flags:v", "+bitexact"]
        index = ["-movflags", "+faststart"]
        if self.stream:  # no frame waits for a later one
            codec += ["-tune", "zerolatency", "-g", str(STREAM_GOP)]
            index = [
                "-movflags",
                "+frag_keyframe+empty_moov+default_base_moof",
                "-flush_packets",
                "1",
            ]
        muxer = ["-fflags", "+bitexact", "-map_metadata", "-1", *index, "-f", "mp4"]
        return f"scale=out_color_matrix=bt709:out_range=tv,{tags}", [
            *codec,
            *muxer,
            f"file:{target}",
        ]

    def _end(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish the file where the block ended well; in any case see ffmpeg end before the file is
        moved.
        """
        try:
            if kind is None:
                self._finish()
        finally:
            self._process.kill()
            with suppress(OSError):
                self._pipe.close()
            self._process.wait()

    def _finish(self) -> None:
        if not self.count:
            raise ValueError(f"no frames were written to {self.path}")
        with suppress(OSError):  # a broken pipe: the exit status tells
            self._pipe.close()
        if self._process.wait():
            raise self._ffmpeg_failure()

    def _ffmpeg_failure(self) -> OutputError:
        self._log.seek(0)
        reason = " ".join(self._log.read().decode("utf-8", "replace").split())
        if self._process.returncode < 0:
            reason = f"ffmpeg was ended by {signal.Signals(-self._process.returncode).name}"
        return write_failure(
            self.path, reason or f"ffmpeg failed with status {self._process.returncode}"
        )
