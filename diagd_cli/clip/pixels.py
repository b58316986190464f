"""Decoded frames as they are meant to be seen: RGB on square pixels, upright, whole, of a screen's
range and colours.

ffmpeg's filters do the work, as far as a frame needs it: one that needs nothing more gets the very
pixels that `ffmpeg -pix_fmt rgb24` makes of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
import numpy as np
from av.filter import Graph

from diagd_cli.clip.hdr import for_other_screens, to_screen
from diagd_cli.clip.image import over_black

_LEAST = 3  # rows and columns that the deinterlacer needs
# what goes through the filters: a frame's number, its transfer and primaries, how it is to be
# turned
Waiting = deque[tuple[int, tuple[int, int], "np.ndarray | None"]]


def convert(
    frames: Iterable[tuple[int, av.VideoFrame]],
    aspect: Fraction | None,
    first_field: str | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Numbered frames of a decoder -> the same numbers with uint8 RGB [H, W, 3].

    `aspect` is the width of a pixel through its height; None is square. All get the size of the
    first. A frame of two fields is deinterlaced from itself and its neighbours, which are the
    frames given before and after it; with `first_field`, "tff" or "bff", all are. Raises
    MemoryError where the filters get none.
    """
    waiting: Waiting = deque()
    graph, key, fields, size = None, None, bool(first_field), None
    for number, frame in frames:
        fields = fields or frame.interlaced_frame  # for good: single frames of it may be whole
        own = (*_look(frame), fields and min(frame.width, frame.height) >= _LEAST)
        if graph is None or own != key:
            yield from _drain(graph, waiting)
            # of all, whatever follows
            size = size or (max(1, round(frame.width * (aspect or 1))), frame.height)
            graph, key = _graph(frame, size, own[-1], first_field), own
        waiting.append((number, (int(frame.color_trc), int(frame.color_primaries)), _matrix(frame)))
        graph.push(frame)
        yield from _pulled(graph, waiting)
    yield from _drain(graph, waiting)


def _look(frame: av.VideoFrame) -> tuple:
    colours = (frame.colorspace, frame.color_range, frame.color_trc, frame.color_primaries)
    return (frame.width, frame.height, frame.format.name, *map(int, colours))


def _graph(
    frame: av.VideoFrame, size: tuple[int, int], fields: bool, first_field: str | None
) -> Graph:
    """The filters for frames that look like this one."""
    width, height, form, space, span, *_ = _look(frame)
    graph = Graph()
    colours = f":colorspace={space}:range={span}"
    chain = [
        graph.add("buffer", f"video_size={width}x{height}:pix_fmt={form}:time_base=1/1000{colours}")
    ]
    if fields:
        every = f"parity={first_field}:deint=all" if first_field else "deint=interlaced"
        chain.append(graph.add("bwdif", f"mode=send_frame:{every}"))
    scale = f":w={size[0]}:h={size[1]}" if size != (width, height) else ""
    chain.append(graph.add("scale", f"flags=bicubic{scale}"))
    alpha = any(part.is_alpha for part in frame.format.components) or form == "pal8"
    deep = for_other_screens(frame.color_trc, frame.color_primaries)
    rgb = "rgb48le" if deep else "rgba" if alpha else "rgb24"
    chain += [graph.add("format", f"pix_fmts={rgb}"), graph.add("buffersink")]
    for one, after in pairwise(chain):
        one.link_to(after)
    graph.configure()
    return graph


def _pulled(graph: Graph, waiting: Waiting) -> Iterator[tuple[int, np.ndarray]]:
    while True:
        try:
            frame = graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return
        number, colours, matrix = waiting.popleft()
        pixels = frame.to_ndarray()
        if pixels.dtype == np.uint16:
            pixels = to_screen(pixels, *colours)
        elif pixels.shape[2] == 4:
            pixels = over_black(pixels)
        yield number, pixels if matrix is None else _upright(pixels, matrix)


def _drain(graph: Graph | None, waiting: Waiting) -> Iterator[tuple[int, np.ndarray]]:
    if graph is not None:
        graph.push(None)
        yield from _pulled(graph, waiting)
    # the filters give a frame for each, unless they fail, which they keep to themselves
    if waiting:
        raise MemoryError("no memory is left to convert frames")


def _matrix(frame: av.VideoFrame) -> np.ndarray | None:
    """How the picture is to be turned: the display matrix int32 [3, 3] of ISO 14496-12, None for
    not at all.
    """
    found: Any = frame.side_data.get("DISPLAYMATRIX")  # a buffer, which PyAV does not say
    return None if found is None else np.frombuffer(bytes(found), np.int32)[:9].reshape(3, 3)


def _upright(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The picture [H, W, 3] turned and mirrored by quarters, as the display matrix says."""
    (a, b), (c, d) = matrix[:2, :2].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):  # columns become rows
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    pixels = pixels[:, ::-1] if a < 0 else pixels
    return np.ascontiguousarray(pixels[::-1] if d < 0 else pixels)
