"""Taking the frames that are asked for out of a video: at constant time steps, seeking where that
is exact.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
from av import VideoFrame

from diagd_cli.clip.decode import Tally, decode, lost
from diagd_cli.clip.packets import Contents, look_through
from diagd_cli.clip.pixels import convert
from diagd_cli.clip.video import AGAIN
from diagd_cli.errors import ClipError

_BESIDE = 2  # frames before those asked for, from which their fields may be completed
_WORTH = 250  # frames that need not be decoded, for a seek to be worth it


@dataclass(frozen=True)
class Found:
    """Frames uint8 RGB [H, W, 3] that were asked for, fewer where the file ends; `count`: of all up
    to the last one read.
    """

    frames: list[np.ndarray]
    count: int
    fps: float | None = None
    damage: str | None = None


def read_video(
    path: Path, context: int, start: int | None, future: int, tell: Callable[[str], None]
) -> Found:
    """Frames from `start` on, `context` and `future` of them, or the last `context` frames. Raises
    ClipError.
    """
    contents = look_through(path, tell)
    tally, ended = Tally(), start is None
    kept = _by_seeking(path, contents, context, start, future)
    if kept is None:
        decoded = _counted(decode(path, contents, tally), f"reading {path.name}", tell)
        kept, ended = _window(decoded, context, start, future)
    if not kept:
        raise _nothing(path, tally)
    damage = damaged(contents, tally, ended) if tally.shown else None
    begin, count = kept[0][0], kept[-1][0] + 1
    first = max(count - context, 0) if start is None else start
    wanted = range(first, count if start is None else min(count, start + context + future))
    paced = zip(
        range(begin, count), _paced(convert(kept, contents.aspect, contents.fields)), strict=False
    )
    return Found([pixels for step, pixels in paced if step in wanted], count, contents.fps, damage)


def every_frame(path: Path) -> Generator[np.ndarray, None, str | None]:
    """Every frame, uint8 RGB [H, W, 3]; returns what is missing or broken, None for nothing. Raises
    ClipError.
    """
    contents, tally = look_through(path), Tally()
    yield from _paced(convert(decode(path, contents, tally), contents.aspect, contents.fields))
    if not tally.shown:
        raise _nothing(path, tally)
    return damaged(contents, tally, True)


def damaged(contents: Contents, tally: Tally, ended: bool) -> str | None:
    """What is missing or broken in a file, as the end of a sentence; None where nothing is known to
    be.

    `ended` says that the decoder was to read all of it.
    """
    missing = lost(contents, tally, ended)
    if not (missing or contents.damage or not tally.clean):
        return None
    read = max(contents.packets - missing, 0) if contents.packets else len(tally.shown)
    text = f"{read} of {contents.claimed} frames" if contents.claimed > read else told(read)
    if tally.broken:
        text += f", {tally.broken} of them in part,"
    why = f" ({', '.join(contents.damage)})" if contents.damage else ""
    return f"cut short or damaged: {text} can be read{why}"


def told(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"


def _nothing(path: Path, tally: Tally) -> ClipError:
    return ClipError(f"{path} is damaged: none of its frames can be decoded", AGAIN)


def _paced(frames: Iterable[tuple[int, np.ndarray]]) -> Iterator[np.ndarray]:
    """A frame for every step from the first one on: one that is missing shows the frame
    before it.
    """
    latest: np.ndarray | None = None
    step = 0
    for number, frame in frames:
        if latest is not None:
            yield from repeat(latest, number - step)
        latest, step = frame, number
    if latest is not None:
        yield latest


def _counted(frames: Iterable, doing: str, tell: Callable[[str], None]) -> Iterator:
    for count, frame in enumerate(frames):
        if count and count % 100 == 0:
            tell(f"{doing}: {count} frames so far")
        yield frame


def _window(
    frames: Iterator, context: int, start: int | None, future: int
) -> tuple[list[tuple[int, VideoFrame]], bool]:
    """Those of the numbered frames that show what is asked for, with their neighbours; whether the
    last one was read.
    """
    kept: deque[tuple[int, VideoFrame]] = deque()
    for step, frame in frames:
        kept.append((step, frame))
        if start is None:
            while len(kept) > context + _BESIDE:
                kept.popleft()
            continue
        while len(kept) > _BESIDE + 1 and kept[_BESIDE + 1][0] <= start:
            kept.popleft()
        if step > start + context + future:
            return list(kept), False
    return list(kept), True


def _by_seeking(
    path: Path, contents: Contents, context: int, start: int | None, future: int
) -> list | None:
    """What `_window` finds, decoded from the key frame before the last one before it; None where
    that is not sure.

    It is sure where every frame has a time stamp of its own, where the file begins with a key
    frame, where nothing is damaged, and where exactly the frames come that the packets tell of.
    """
    shown, steps, keys = contents.shown, contents.steps, contents.keys
    if not shown or contents.damage or not keys or keys[0] != shown[0]:
        return None
    if start is None:
        begin, end = len(shown) - context - _BESIDE, len(shown)
    else:
        begin = int(np.searchsorted(steps, start, side="right")) - 1 - _BESIDE
        end = min(
            len(shown), int(np.searchsorted(steps, start + context + future, side="right")) + 1
        )
    if begin < _WORTH or begin >= len(shown):
        return None
    key = bisect_right(keys, shown[begin]) - 2
    if key < 0 or bisect_right(shown, keys[key]) < _WORTH:
        return None
    tally = Tally()
    kept, _ = _window(decode(path, contents, tally, keys[key]), context, start, future)
    same = [frame.pts for _, frame in kept] == shown[begin:end]
    return kept if same and tally.clean else None
