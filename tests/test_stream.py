"""Pixels while tokens are made: in order, each once, and by no second thread that computes."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diagd_cli.stream import PixelStream


def session(latents: int) -> SimpleNamespace:
    """What a stream reads of a session with so many latent frames of 1x1 codes, of two clips."""
    codes = np.arange(2 * latents).reshape(2, latents, 1, 1)
    return SimpleNamespace(codes=codes, latents=latents, forgotten=0)


def pixels(codes: np.ndarray) -> np.ndarray:
    return np.broadcast_to(codes[..., None], (*codes.shape, 3)).astype(np.uint8)


class Streamed:
    """A stream of two clips, and who did what on which thread."""

    def __init__(self, decode=pixels, causal: bool = False):
        self.decoded: set[int] = set()
        self.taken: list[tuple[int, list[int], int]] = []

        def here(codes: np.ndarray) -> np.ndarray:
            self.decoded.add(threading.get_ident())
            return decode(codes)

        def take(clip: int, frames: np.ndarray) -> None:
            values = [int(frame[0, 0, 0]) for frame in frames]
            self.taken.append((clip, values, threading.get_ident()))

        self.stream = PixelStream(here, causal, 2, 1, 5, torch.device("cpu"), take)

    def of(self, clip: int) -> list[int]:
        return [value for own, values, _ in self.taken if own == clip for value in values]


@pytest.mark.parametrize("causal", [False, True])
def test_each_frame_comes_once_and_in_order(causal: bool):
    """Whether or not all frames before it are decoded with it; what is not wanted is cut off."""
    streamed = Streamed(causal=causal)
    with streamed.stream as stream:
        for latents in (1, 2, 2, 4, 6):
            stream.feed(session(6 if latents == 6 else latents))
        frames = stream.finish(session(6))
    assert [len(own) for own in frames] == [5, 5]
    assert len(streamed.of(0)) == len(streamed.of(1)) == 5


def test_on_cpus_the_thread_that_makes_tokens_decodes_and_another_one_takes():
    """A second thread that computes would bring a pool of threads of its own."""
    streamed = Streamed()
    with streamed.stream as stream:
        stream.feed(session(3))
        stream.finish(session(3))
    assert streamed.decoded == {threading.get_ident()}
    assert threading.get_ident() not in {thread for _, _, thread in streamed.taken}


def test_frames_that_were_being_decoded_when_somebody_stopped_are_decoded_in_the_end():
    """Ctrl-C between the clips of a batch loses no frame, and repeats none."""
    interrupted = [False]

    def decode(codes: np.ndarray) -> np.ndarray:
        if codes[0, 0, 0] > 3 and not interrupted[0]:
            interrupted[0] = True
            raise KeyboardInterrupt
        return pixels(codes)

    streamed = Streamed(decode)
    with streamed.stream as stream:
        stream.feed(session(1))
        with pytest.raises(KeyboardInterrupt):
            stream.feed(session(4))
        stream.finish(session(4))
    assert interrupted[0]
    assert streamed.of(0) == [0, 1, 2, 3]
    assert streamed.of(1)[1:] == [5, 6, 7]
