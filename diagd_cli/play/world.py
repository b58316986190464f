"""A world that goes on by itself: a session on a thread of its own, steered by what is held."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np

from diagd_cli.clip.read import Clip
from diagd_cli.loading import Loaded
from diagd_cli.pipeline import encode, start_session, to_frames
from diagd_cli.schedule.decoding import Decoding

RATED = 8  # frames over which rates are told
BEHIND = 2  # frames whose pixels may be waited for
MOST_FRAMES = 100_000  # of a take: what is older is forgotten, and the take begins later
NOBODY = 0.0  # the time stamp of an input that nobody gave


@dataclass(frozen=True)
class Input:
    """An action that is held.

    row: int64 [A].
    stamp: the client's own time of it.
    came: time.perf_counter() when it was received; 0 where nobody gave it.
    """

    row: np.ndarray
    stamp: float = NOBODY
    came: float = 0.0


@dataclass(frozen=True)
class Shown:
    """A frame, and how it came about.

    number: since the reset, the clip's frames included.
    pixels: uint8 [H, W, 3].
    steps: that were taken since the frame before.
    steered: by which input; None for a frame of the clip.
    frames_per_second, tokens_per_second: of the last frames; 0 until there are two.
    """

    number: int
    pixels: np.ndarray
    steps: int = 0
    steered: Input | None = None
    frames_per_second: float = 0.0
    tokens_per_second: float = 0.0


@dataclass
class Take:
    """What has been played since the last reset.

    clip, seed: with what it began.
    codes: int64 [h, w] of each new frame.
    rows: int64 [A], the action that steered each.
    decodings: (new frames before it, decoding), in turn.
    forgotten: new frames before these.
    """

    clip: Clip
    seed: int
    codes: deque[np.ndarray] = field(default_factory=lambda: deque(maxlen=MOST_FRAMES))
    rows: deque[np.ndarray] = field(default_factory=lambda: deque(maxlen=MOST_FRAMES))
    decodings: list[tuple[int, Decoding]] = field(default_factory=list)
    forgotten: int = 0


class World:
    """A world of one player, which goes on until `stop`.

    loaded: of a preset that is steered, with one latent frame a frame.
    clip: whose frames it begins with.
    decoding: by which tokens are made; `decode` changes it.
    show: is called with every frame, on a thread of the world's.
    pace: most frames a second; 0 for as many as can be made.
    failed: is called, on the world's thread, with what ended it before it was to end.

    Whatever an action is when the first token of a frame is due steers that frame.
    """

    def __init__(
        self,
        loaded: Loaded,
        clip: Clip,
        decoding: Decoding,
        seed: int,
        show: Callable[[Shown], None],
        pace: float = 0.0,
        failed: Callable[[Exception], None] = lambda error: None,
    ):
        self.loaded, self.decoding, self.show, self.pace = loaded, decoding, show, pace
        self.failed = failed
        assert loaded.preset.actions is not None  # whoever makes a world has checked
        self.rest = Input(loaded.preset.actions.rest)
        self.held, self.paused = self.rest, False
        self.take = Take(clip, seed)
        self.failure: Exception | None = None
        self._turn = threading.Condition()
        self._over = self._reset = self._switch = False
        self._thread = threading.Thread(target=self._run, name="world", daemon=True)

    def start(self) -> None:
        """Go on from now on."""
        self._thread.start()

    def stop(self) -> None:
        """End it, and wait for its end."""
        with self._turn:
            self._over = True
            self._turn.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def hold(self, row: np.ndarray, stamp: float) -> None:
        """From now on this action, int64 [A], is held; stamp: the client's own time."""
        self.held = Input(row, stamp, time.perf_counter())

    def decode(self, decoding: Decoding) -> None:
        """Go on by another decoding; frames in flight are begun anew."""
        with self._turn:
            self.decoding, self._switch = decoding, True

    def reset(self, clip: Clip, seed: int) -> None:
        """Begin anew; what was held is not."""
        with self._turn:
            self.take, self.held, self._reset = Take(clip, seed), self.rest, True
            self._turn.notify_all()

    def pause(self, on: bool) -> None:
        """Make no more frames than those in flight, or go on."""
        with self._turn:
            self.paused = on
            self._turn.notify_all()

    # ---- on the world's thread -------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with ThreadPoolExecutor(1, thread_name_prefix="world-pixels") as pixels:
                while not self._over:
                    with self._turn:
                        take, self._reset = self.take, False
                    _Life(self, take, pixels).go_on()
        except Exception as error:  # told by whoever serves the world
            self.failure = error
            self.failed(error)


class _Life:
    """A world from one reset to the next."""

    def __init__(self, world: World, take: Take, pixels: ThreadPoolExecutor):
        self.world, self.take, self.pixels = world, take, pixels
        self.work: deque[Future] = deque()
        self.inputs: dict[int, Input] = {}  # by the latent frame that they steer
        self.ends: deque[float] = deque(maxlen=RATED + 1)  # when frames were complete
        self.next_due = 0.0
        loaded, clip = world.loaded, take.clip
        codes = encode(loaded, clip)
        request = loaded.request(1, take.seed, clip=clip, decoding=world.decoding)
        self.session = start_session(loaded, codes[None], [request], remember=False)
        self._widen(loaded)
        self.context = self.session.latents
        for number, frame in enumerate(to_frames(loaded, codes)):
            world.show(Shown(number, frame))

    def _widen(self, loaded: Loaded) -> None:
        """The window is the preset's, however few frames were asked for."""
        session, preset = self.session, loaded.preset
        session.window, session.overlap = preset.window, preset.overlap
        session.keep = max(preset.window, session.latents)

    def go_on(self) -> None:
        """Make frames until the world is over or begun anew."""
        world = self.world
        while not (world._over or world._reset):
            with world._turn:
                decoding, world._switch = world.decoding, False
            self.take.decodings.append((len(self.take.codes) + self.take.forgotten, decoding))
            self._decode(decoding)
        while self.work:  # else they would be shown after the frames with which the next one begins
            self.work.popleft().result()

    def _decode(self, decoding: Decoding) -> None:
        world, session = self.world, self.session
        seen, steps = session.latents, 0
        self.ends.clear()  # rates are of one decoding
        with closing(session.extend(None, decoding, self._steer)) as running:
            for _ in running:
                steps += 1
                if session.latents > seen:
                    for latent in range(seen, session.latents):
                        self._made(latent, steps)
                        steps = 0
                    seen = session.latents
                if world._over or world._reset or world._switch:
                    return

    def _steer(self, latent: int) -> np.ndarray:
        """The row int64 [1, A] of what is held when the frame after `latent` is due; waits where
        the world is paused, or ahead of its pace.
        """
        world = self.world

        def goes_on() -> bool:
            return not world.paused or world._over or world._reset

        with world._turn:
            if world.paused:
                self.ends.clear()  # and not of a pause
            world._turn.wait_for(goes_on)
            wait = self.next_due - time.perf_counter()
            if wait > 0 and not (world._over or world._reset):
                world._turn.wait(wait)
            held = world.held
        if world.pace:
            self.next_due = max(self.next_due, time.perf_counter()) + 1 / world.pace
        self.inputs[latent + 1] = held
        return held.row[None]

    def _made(self, latent: int, steps: int) -> None:
        """Take note of a latent frame that is complete, and have its pixels made and shown."""
        take, session = self.take, self.session
        codes, steered = session.codes[0, latent - session.forgotten], self.inputs.pop(latent)
        take.forgotten += len(take.codes) == MOST_FRAMES
        take.codes.append(codes)
        take.rows.append(steered.row)
        self.ends.append(time.perf_counter())
        spent, count = self.ends[-1] - self.ends[0], len(self.ends) - 1
        rate = count / spent if spent > 0 else 0.0
        shown = Shown(latent, codes, steps, steered, rate, rate * session.grid.area)
        while self.work and (self.work[0].done() or len(self.work) >= BEHIND):
            self.work.popleft().result()
        self.work.append(self.pixels.submit(self._show, shown))

    def _show(self, shown: Shown) -> None:
        frames = to_frames(self.world.loaded, shown.pixels[None])
        self.world.show(replace(shown, pixels=frames[0]))
