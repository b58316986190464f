"""One video, or image, on its way to its file: at once when it is made, or frame by frame while it
is being made.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from diagd_cli.clip.image import write_png
from diagd_cli.clip.write import VideoWriter
from diagd_cli.files.atomic import STDOUT, set_aside, write_json
from diagd_cli.files.url import Place, Url
from diagd_cli.jobs.targets import IMAGE


@contextmanager
def spool() -> Iterator[IO[bytes]]:
    """A file without a name, which is gone afterwards."""
    with tempfile.TemporaryFile() as file:
        yield file


class Output:
    """A VideoWriter that may outlive a failure of its own, so that the other clips of a batch go
    on.

    strict: a failure is raised at once, since nothing else is being made. A stream is complete when
    `keep` is called: before that `drop` removes it, and what was at its place is there again.
    """

    def __init__(self, target: Place, fps: float, stream: bool, strict: bool):
        self.target, self.fps, self.stream, self.strict = target, fps, stream, strict
        self.writer: VideoWriter | None = None
        self.spool: IO[bytes] | None = None  # the tokens of a stream, which are not held
        self.failure: Exception | None = None
        self.place = ExitStack()  # of a stream: what is undone where it is not completed

    def begin(self, height: int, width: int, unfinished: dict) -> None:
        """Start a stream; its sidecar says that it is `unfinished` as long as it is. Raises
        OutputError.
        """
        try:
            assert not isinstance(self.target, Url)  # `check` has refused it
            if self.target != STDOUT:
                sidecar = self.target.with_suffix(".json")
                self.place.enter_context(set_aside(self.target, sidecar))
                write_json(sidecar, unfinished)
            self.open(self.target, height, width)
        except BaseException:
            self.drop()
            raise

    def open(self, path: Path, height: int, width: int) -> VideoWriter:
        """Start the file at a path. Raises OutputError."""
        writer = VideoWriter(path, height, width, self.fps, stream=self.stream)
        self.writer = writer.__enter__()
        return self.writer

    def write(self, frames: np.ndarray) -> None:
        """Add frames uint8 [F, H, W, 3], on any thread; after a failure they are dropped, and
        `close` raises it.
        """
        writer = self.writer
        if self.failure or writer is None:
            return
        try:
            writer.write(frames)
        except Exception as error:
            self.failure = error
            if self.strict:
                raise

    def add_codes(self, codes: np.ndarray) -> None:
        """Note codes int64 [T, h, w] of a stream, on disk."""
        if self.spool is None:
            self.spool = self.place.enter_context(spool())
        self.shape = codes.shape[1:]
        self.spool.write(np.ascontiguousarray(codes, dtype=np.int64).data)

    def codes(self) -> np.ndarray:
        """All codes that were noted, int64 [T, h, w]; they are read as they are needed."""
        assert self.spool is not None  # whoever asks has added some
        self.spool.flush()
        return np.memmap(self.spool, dtype=np.int64, mode="r").reshape(-1, *self.shape)

    def close(self, frames: np.ndarray, path: Path) -> None:
        """Complete the file; `frames` are all of the video's, written now, at a path, unless they
        were streamed. Raises OutputError.
        """
        writer = self.writer
        if self.target.suffix == IMAGE:
            write_png(path, frames[-1])
            return
        if writer is None:
            height, width = frames.shape[1:3]
            writer = self.open(path, height, width)
            writer.write(frames)
        if self.failure:
            raise self.failure
        self.writer = None
        writer.__exit__(None, None, None)

    def keep(self) -> None:
        """All files of the video are complete."""
        self.place.close()

    def drop(self) -> None:
        """Remove the file unless it is complete."""
        writer, self.writer = self.writer, None
        error = self.failure or RuntimeError("not completed")
        if writer:
            writer.__exit__(type(error), error, error.__traceback__)
        self.place.__exit__(type(error), error, error.__traceback__)
