"""Pixels while tokens are still being made, of complete latent frames.

On CUDA they are decoded on another thread and stream. On CPUs a second thread that computes would
gain nothing, as the cores are at work already, and cost a lot: each thread that computes has a pool
of its own, and once there are more threads in pools than cores, OpenMP lets those that wait sleep
at once, so that every operation has to wake them (a step of `freedoom` by NTP took 9.0 ms for 6.3).
So there they are decoded in between, and only whoever takes them is on another thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import torch

from diagd_cli.engine.session import Session

Decode = Callable[[np.ndarray], np.ndarray]
OnFrames = Callable[[int, np.ndarray], None]

MOST_WAITING = 16  # parts whose pixels are waited for while tokens go on
NOTHING = np.zeros((0, 0, 0, 3), dtype=np.uint8)


class PixelStream:
    """A context manager that hands over each clip's frames in order, while later ones are made.

    decode: of codes int64 [T, h, w] makes frames uint8 [F, H, W, 3].
    causal: whether a frame's pixels depend on the latent frames before it, which are then decoded
        anew with it: T latent frames, one after another, cost what T(T+1)/2 cost at once.
    clips: how many there are in the batch.
    context: frames that are not new.
    total: frames that are wanted; all others are cut off.
    device: where `decode` computes.
    take: is called with the number of a clip and its next frames, on another thread.
    take_codes: is called with the number of a clip and its next codes int64 [T, h, w].
    hold: whether `finish` returns the frames; without it memory does not grow with their number.

    What `decode` or `take` raises is raised by the next `feed` or by `finish`. Where the block
    fails, nothing is waited for: whoever takes the frames may be stuck.
    """

    def __init__(
        self,
        decode: Decode,
        causal: bool,
        clips: int,
        context: int,
        total: int,
        device: torch.device,
        take: OnFrames,
        take_codes: OnFrames | None = None,
        hold: bool = True,
    ):
        self.decode, self.causal, self.take, self.hold = decode, causal, take, hold
        self.take_codes = take_codes
        self.context, self.total = context, total
        self.device, self.fed = device, 0  # latent frames handed over
        self.parts: list[list[np.ndarray]] = [[] for _ in range(clips)]
        self.done = [0] * clips  # frames handed over
        # time.perf_counter() at each clip's first new frame
        self.shown: list[float | None] = [None] * clips
        self.work: list[Future] = []

    def __enter__(self) -> PixelStream:
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="pixels")
        self.side = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.pool.shutdown(wait=kind is None, cancel_futures=True)

    def feed(self, session: Session) -> None:
        """Hand over what has been completed since the last call; returns at once, unless pixels
        fall far behind tokens.
        """
        while self.work and (self.work[0].done() or len(self.work) > MOST_WAITING):
            self.work.pop(0).result()
        if session.latents > self.fed:
            fresh = session.codes[:, self.fed - session.forgotten :]
            codes = session.codes if self.causal else fresh
            frames = None if self.side else [self.decode(own) for own in codes]
            if self.take_codes:
                for clip, own in enumerate(fresh):
                    self.take_codes(clip, own)
            self.fed = session.latents
            self.work.append(self.pool.submit(self._pass_on, codes, frames))

    @property
    def first_shown(self) -> list[float]:
        """When each clip's first new frame was there, as time.perf_counter() tells it; once all of
        them are.
        """
        return [shown if shown is not None else time.perf_counter() for shown in self.shown]

    def finish(self, session: Session) -> list[np.ndarray]:
        """Wait for the rest; returns each clip's frames uint8 [total, H, W, 3], where held."""
        self.feed(session)
        while self.work:
            self.work.pop(0).result()
        return [np.concatenate(parts) if parts else NOTHING for parts in self.parts]

    def _pass_on(self, codes: np.ndarray, decoded: list[np.ndarray] | None) -> None:
        """Pass on the new frames that codes int64 [B, T, h, w] give; if causal, all of them.

        decoded: what they give; None is still to be made.
        """
        with torch.cuda.stream(self.side) if self.side else nullcontext():
            for clip, own in enumerate(codes):
                done = self.done[clip]
                frames = self.decode(own) if decoded is None else decoded[clip]
                frames = frames[done if self.causal else 0 :][: self.total - done]
                if self.hold:
                    self.parts[clip].append(frames)
                self.done[clip] += len(frames)
                if self.shown[clip] is None and self.done[clip] > self.context:
                    self.shown[clip] = time.perf_counter()
                self.take(clip, frames)
