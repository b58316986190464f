"""A world that goes on by itself: all that is played, made together on a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

from diagd_cli.loading import Loaded
from diagd_cli.play import nothing
from diagd_cli.play.batch import Batch
from diagd_cli.play.take import Input, Start, Take
from diagd_cli.play.walk import Member, Walk
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.tokens.sampling import Sampling


class World:
    """The walks of a room, of which those that do not wait go on together until `stop`.

    loaded: of a preset that is steered, with one latent frame a frame.
    walks: of those who may play; the first one's wavefront is filled before anybody comes.
    decoding: by which all of them are made; `decode` changes it.
    sampling: how tokens are drawn; None is the preset's.
    pace: most frames a second; 0 for as many as can be made.
    failed: is called, on the world's thread, with what ended it before it was to end.
    starts: with which walks can begin, made ready while nobody plays.
    stepped: is called, on the world's thread, after each step.

    Whatever an action is when the first token of a frame is due steers that frame. Who goes on, and
    from where, changes between two steps: the frames in flight are dropped then, and the newest
    complete frames of everybody begin a sequence of tokens anew.
    """

    def __init__(
        self,
        loaded: Loaded,
        walks: Sequence[Walk],
        decoding: Decoding,
        sampling: Sampling | None = None,
        pace: float = 0.0,
        failed: Callable[[Exception], None] = lambda error: None,
        starts: Sequence[Start] = (),
        stepped: Callable[[], None] = nothing,
    ):
        self.stepped = stepped
        self.loaded, self.walks, self.decoding = loaded, list(walks), decoding
        self.sampling, self.pace, self.failed, self.unready = sampling, pace, failed, list(starts)
        self.failure: Exception | None = None
        self.over = self.switched = False
        self.turn = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="world", daemon=True)

    def start(self) -> None:
        """Go on from now on."""
        self._thread.start()

    def stop(self) -> None:
        """End it, and wait for its end."""
        with self.turn:
            self.over = True
            self.turn.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def going(self) -> list[Member]:
        """The walks that do not wait, and what is played in each."""
        return [(walk, walk.take) for walk in self.walks if not walk.waits]

    def hold(self, walk: Walk, what: Input) -> None:
        """From now on this is held in a walk."""
        walk.held = replace(what, came=time.perf_counter())

    def decode(self, decoding: Decoding) -> None:
        """Go on by another decoding; frames in flight are begun anew."""
        with self.turn:
            self.decoding, self.switched = decoding, True

    def reset(self, walk: Walk, start: Start, seed: int) -> None:
        """Begin a walk anew; what was held is not."""
        with self.turn:
            walk.take, walk.held = Take(start, seed), walk.rest
            self.turn.notify_all()

    def wait(self, walk: Walk, on: bool) -> None:
        """Let a walk wait: alone it makes no more frames than those in flight, and goes on with
        them; others do not wait for it. Or let it go on.
        """
        with self.turn:
            walk.waits = on
            self.turn.notify_all()

    # ---- on the world's thread -------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with ExitStack() as pool:
                pixels = None
                if self.loaded.device.type == "cuda":
                    made = ThreadPoolExecutor(1, thread_name_prefix="world-pixels")
                    pixels = pool.enter_context(made)
                members, early = [(self.walks[0], self.walks[0].take)], True
                while members:
                    Batch(self, members, pixels, early).go_on()
                    members, early = self._gather(), False
        except Exception as error:  # told by whoever serves the world
            self.failure = error
            self.failed(error)

    def _gather(self) -> list[Member]:
        """Those who go on, as soon as there are any; nobody when it is over."""
        with self.turn:
            self.turn.wait_for(lambda: self.over or self.going)
            return [] if self.over else self.going
