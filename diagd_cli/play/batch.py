"""Walks whose frames are made together: one session, until others must be made."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np

from diagd_cli.clip.image import stamped
from diagd_cli.engine.session import Session
from diagd_cli.loading import Request
from diagd_cli.pipeline import start_session, to_frames
from diagd_cli.play.playable import remembered
from diagd_cli.play.take import Input, Shown
from diagd_cli.play.walk import Member
from diagd_cli.schedule.decoding import Decoding

if TYPE_CHECKING:
    from diagd_cli.play.world import World

RATED = 8  # frames over which rates are told
BEHIND = 2  # frames whose pixels may be waited for


class Batch:
    """A session of the newest frames of some walks, all of equally many.

    members: the walks, and the takes that are made of them.
    pixels: where frames are made of tokens; None is in between, as CPUs are quicker so (`stream`).
    early: whether to go on until a first frame is there, though nobody plays yet.
    """

    def __init__(
        self,
        world: World,
        members: list[Member],
        pixels: ThreadPoolExecutor | None,
        early: bool = False,
    ):
        self.world, self.members, self.pixels, self.early = world, members, pixels, early
        self.work: deque[Future] = deque()
        self.inputs: dict[int, list[Input]] = {}  # of all members, by the latent frame they steer
        self.ends: deque[float] = deque(maxlen=RATED + 1)  # when frames were complete
        self.next_due = 0.0
        preset = world.loaded.preset
        self.known = min([remembered(preset), *(take.known for _, take in members)])
        for walk, take in members:
            if not take.begun:
                for number, frame in enumerate(take.start.frames):
                    walk.show(Shown(number, frame))
        self.session = self._session()

    def _session(self) -> Session:
        """It begins with the newest frames, which stand elsewhere in each walk."""
        world, preset = self.world, self.world.loaded.preset
        parts = [take.newest(self.known) for _, take in self.members]
        requests = [
            Request(1, world.decoding, take.seed, world.sampling, rows)
            for (_, take), (_, rows) in zip(self.members, parts, strict=True)
        ]
        codes = np.stack([codes for codes, _ in parts])
        session = start_session(world.loaded, codes, requests, remember=False)
        session.before = self.before = [take.known - self.known for _, take in self.members]
        # the window is the preset's, however few frames were asked for
        session.window, session.overlap = preset.window, preset.overlap
        session.keep, session.live = preset.window, True
        return session

    @property
    def stale(self) -> bool:
        """Whether others go on than those in it, or none at all for ever."""
        going = self.world.going
        return self.world.over or bool(going and going != self.members)

    def go_on(self) -> None:
        """Make frames until the world is over, or others go on."""
        while not self.stale:
            with self.world.turn:
                decoding, self.world.switched = self.world.decoding, False
            for _, take in self.members:
                take.begin(decoding)
            self._decode(decoding)
        while self.work:  # else they would be shown after the frames with which the next one begins
            self.work.popleft().result()

    def _decode(self, decoding: Decoding) -> None:
        world, session = self.world, self.session
        seen, steps = session.latents, 0
        self.ends.clear()  # rates are of one decoding
        with closing(session.extend(None, decoding, self._steer)) as running:
            for _ in running:
                world.stepped()
                steps += 1
                for latent in range(seen, session.latents):
                    self._made(latent, steps)
                    steps, seen = 0, latent + 1
                if self.stale or world.switched:
                    return

    def _steer(self, latent: int) -> np.ndarray:
        """The rows int64 [B, A] of what is held when the frame after `latent` is due; waits while
        nobody goes on, or ahead of the pace.
        """
        world = self.world

        def goes_on() -> bool:
            return bool(world.over or world.going)

        self.early = self.early and self.session.latents == self.known
        while world.unready and not (goes_on() or self.early):
            world.unready.pop(0).prepare()
        with world.turn:
            if not (goes_on() or self.early):
                self.ends.clear()  # rates are not of a pause
                world.turn.wait_for(goes_on)
            wait = self.next_due - time.perf_counter()
            if wait > 0 and not self.stale:
                world.turn.wait(wait)
            held = [walk.held for walk, _ in self.members]
        if world.pace:
            self.next_due = max(self.next_due, time.perf_counter()) + 1 / world.pace
        self.inputs[latent + 1] = held
        return np.stack([each.row for each in held])

    def _made(self, latent: int, steps: int) -> None:
        """Take note of latent frames that are complete, and have their pixels made and shown."""
        session, steered = self.session, self.inputs.pop(latent)
        codes = session.codes[:, latent - session.forgotten]
        for (_, take), own, held in zip(self.members, codes, steered, strict=True):
            take.add(own, held.row)
        self.ends.append(time.perf_counter())
        spent, count = self.ends[-1] - self.ends[0], len(self.ends) - 1
        rate = count / spent if spent > 0 else 0.0
        while self.work and (self.work[0].done() or len(self.work) >= BEHIND):
            self.work.popleft().result()
        told = steps, rate, rate * session.grid.area
        if self.pixels:
            self.work.append(self.pixels.submit(self._show, latent, codes, steered, *told))
        else:
            self._show(latent, codes, steered, *told)

    def _show(
        self,
        latent: int,
        codes: np.ndarray,
        steered: list[Input],
        steps: int,
        frames_per_second: float,
        tokens_per_second: float,
    ) -> None:
        loaded = self.world.loaded
        frames = stamped(to_frames(loaded, codes), loaded.preset.stamp)
        for n, (walk, _) in enumerate(self.members):
            number = self.before[n] + latent
            rates = frames_per_second, tokens_per_second
            walk.show(Shown(number, frames[n], steps, steered[n], *rates))
