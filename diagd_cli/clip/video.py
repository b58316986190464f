"""Opening a video file.

The file is untrusted: libavformat may open nothing but that one local file, as a real video
container only, and frames above `MAX_SIDE` are refused before any memory is spent on them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av

from diagd_cli.clip.image import MAX_SIDE, check_size, too_large
from diagd_cli.clip.whole import begins_as_mov
from diagd_cli.errors import ClipError

# Containers that hold their own frames. Playlists (concat, HLS, DASH), image sequences and devices
# would make libavformat open other files than the one that was named.
_CONTAINERS = "mov,matroska,avi,mpegts,mpeg,flv,ogg,gif,asf"
_SAFE = {
    "protocol_whitelist": "file",
    "format_whitelist": _CONTAINERS,
    "max_pixels": str(MAX_SIDE**2),
}
# of text that is not UTF-8; from 19 on PyAV has no other way
_LENIENT: Any = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
AGAIN = "Copy or download it again"


@contextmanager
def opened_video(
    path: Path, said: list | None = None
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The container and its first stream of pictures, cover art apart; `said` gains what libav
    complains of.

    Raises ClipError.
    """
    with complaints() as log:
        try:
            container = av.open("file:" + os.path.abspath(path), options=dict(_SAFE), **_LENIENT)
        except MemoryError:
            raise
        except (av.FFmpegError, OSError, ValueError) as error:
            need_memory()
            raise _unreadable(path, log) from error
        if said is not None:
            said += log
    with container:
        covers = av.stream.Disposition.attached_pic
        stream = next(
            (one for one in container.streams.video if not one.disposition & covers), None
        )
        if stream is None:
            raise ClipError(
                f"{path} has no video stream", "Name a file with pictures, not only sound"
            )
        if stream.codec_context is None:
            raise ClipError(
                f"{path} is of a video codec that is not known", "Convert it to H.264 in MP4"
            )
        check_size(path, stream.codec_context.width, stream.codec_context.height)
        if not stream.codec_context.width and (large := _oversized(path, log)):
            raise large
        stream.codec_context.options = {"max_pixels": _SAFE["max_pixels"]}
        yield container, stream


@contextmanager
def complaints() -> Iterator[list[tuple[int, str, str]]]:
    """What libav calls an error meanwhile: level, who says it, text."""
    level, skip = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture(local=False) as log:
            yield log
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skip)


def _unreadable(path: Path, log: list) -> ClipError:
    if error := _oversized(path, log):
        return error
    if any("moov atom not found" in text for _, _, text in log) and begins_as_mov(path):
        return ClipError(f"{path} is cut short: its index (the moov atom) is missing", AGAIN)
    return ClipError(
        f"{path} is not a video file", "Name an MP4, MOV, MKV, WebM, AVI or GIF file, or an image"
    )


def _oversized(path: Path, log: list) -> ClipError | None:
    sizes = (re.search(r"Picture size ([1-9]\d*)x([1-9]\d*)", text) for _, _, text in log)
    found = next(filter(None, sizes), None)
    return too_large(path, int(found[1]), int(found[2])) if found else None


def need_memory() -> None:
    """Raise MemoryError where there is hardly any: decoders that get none call it invalid data."""
    bytearray(32 << 20)


def again(packet: av.Packet, codec: str) -> bool:
    """Whether a packet without bytes means that the frame before it is shown once more; at the end
    they mean nothing.
    """
    return codec == "theora" and packet.dts is not None and not packet.size
