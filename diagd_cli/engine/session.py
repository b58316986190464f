"""A running clip: its tokens, its cache and where it stands. Any plan may continue it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from diagd_cli.engine.ring import AHEAD, ring_for
from diagd_cli.engine.state import State, Times
from diagd_cli.engine.windows import sequences
from diagd_cli.model.contract import Cross, Model
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.schedule.wavefront import Wavefront, wavefront
from diagd_cli.tokens.grid import Grid
from diagd_cli.tokens.sampling import Guidance, Sampling

Steer = Callable[[int], np.ndarray]  # (latent frame) -> int64 [B, A], the tokens after it


@dataclass
class Session:
    """Clips in lock-step, which can be continued as often as one likes.

    model: what predicts; `Transformer` or another callable with its contract.
    grid: how codes and conditioning lie in its sequence.
    codes: int64 [B, T, h, w] so far.
    conditioning: int64 [B, >= T, A], the tokens after each of these latent frames; may be replaced
        by longer.
    seeds: one a clip.
    sampling: how tokens are drawn.
    window: latent frames that the model can hold. When it is full, and rolls (see `Decoding`), the
        oldest are dropped, and the newest `overlap` are fed again from their tokens (never from
        pixels).
    overlap: latent frames that are kept then; with 0 a full window cannot be rolled.
    prefix: int64 [grid.prefix], or [B, grid.prefix] where clips differ, the ids before the first
        frame.
    cross: what the model attends to of the text, of its `cross_context`; with guidance of 2B texts,
        those that ask for nothing last.
    times: what has been spent so far.
    kv_dtype: of the cache; None is the model's.
    capture: whether steps are captured as CUDA graphs; None is where they can be. Without CUDA the
        same wide steps run uncaptured.
    keep: newest latent frames that `codes` and `conditioning` remember, no fewer than `window`:
        memory does not grow then. None: all.
    forgotten: latent frames that came before `codes`.
    live: whether what steers is not known before it is asked for: it is asked for late then, even
        where guesses would reach further.
    before: of each clip, latent frames of its video that came before those with which the session
        began; None: none. What is drawn depends on the place in the video.
    guidance: makes of every clip two rows of the batch; None: there is none.
    padding: how many ids at the left of the prefix are none, int64 [B] where clips differ; there is
        one behind them. Nobody sees them, and no token depends on how many there are.

    The first extension makes a token store, a cache and a sampler on the device, and the steps that
    it takes there; they stay, with all CUDA graphs that have been captured, until `release`, or
    until a decoding needs a larger or another cache. Model, seeds, sampling, guidance, padding,
    cross and dtype are therefore those of that moment.
    """

    model: Model
    grid: Grid
    codes: np.ndarray
    conditioning: np.ndarray
    seeds: list[int]
    sampling: Sampling
    window: int
    overlap: int
    prefix: np.ndarray | None = None
    cross: Cross = None
    times: Times = field(default_factory=Times)
    kv_dtype: torch.dtype | None = None
    capture: bool | None = None
    keep: int | None = None
    forgotten: int = 0
    live: bool = False
    before: Sequence[int] | None = None
    guidance: Guidance | None = None
    padding: np.ndarray | int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.window:
            sizes = f"overlap is {self.overlap}, window {self.window}"
            raise ValueError(f"{sizes}: a window that is full must lose frames")
        if self.keep is not None and self.keep < self.window:
            raise ValueError(f"keep is {self.keep}: the window holds {self.window} latent frames")
        if self.guidance and len(self.guidance.prefix) != self.grid.prefix:
            ids = f"{len(self.guidance.prefix)} ids that ask for nothing"
            raise ValueError(f"{ids}: the grid's prefix is {self.grid.prefix}")
        most = self.starts.max(initial=0)
        if self.starts.min(initial=0) < 0 or most >= max(1, self.grid.prefix):
            told = f"padding is {self.starts.tolist()}"
            raise ValueError(f"{told}: the grid's prefix is {self.grid.prefix}")
        self._state: State | None = None
        self._start = 0  # the latent frame with which the sequence in the cache begins
        self._fed = 0  # its positions, from the first, whose true tokens are in the cache

    @property
    def starts(self) -> np.ndarray:
        """The first position of each row of the batch that is no padding, int64 [B], or [2B] with
        guidance.
        """
        clips = np.broadcast_to(np.asarray(self.padding, dtype=np.int64), len(self.codes))
        if self.guidance is None:
            return clips
        own = self.guidance.padding
        nothing = clips if own is None else np.full_like(clips, own)
        return np.concatenate([clips, nothing])

    @property
    def latents(self) -> int:
        """Latent frames so far, the forgotten ones included."""
        return self.forgotten + self.codes.shape[1]

    def extend(
        self, latents: int | None, decoding: Decoding, steer: Steer | None = None
    ) -> Generator[int, None, None]:
        """Make more latent frames; yields steps done in this call.

        Each latent frame is in `codes` as soon as its last token is made. Whoever stops before the
        end drops the frames that are not complete.

        latents: how many; None: without end.
        decoding: by which plan, and what becomes of the window when it is full.
        steer: is asked for the tokens after a latent frame when the first token of the next one is
            due; None: they are in `conditioning`.

        Raises ValueError unless the conditioning after all but the last of them is known:
        conditioning[:, t] steers latent frame t+1.
        """
        if self.grid.conditioning and not steer:
            self._check_steered(latents)
        state = self._go_on(decoding)
        done = step = 0
        for known, new in self._parts(self._known, latents, decoding):
            if self._known > known:  # the window rolls: the newest frames begin a sequence
                self._start, self._fed = self.latents - known, 0
            for step in self._extend(state, new, decoding, steer):
                yield done + step
            done += step

    def stream(
        self, decoding: Decoding, latents: int | None = None, steer: Steer | None = None
    ) -> Iterator[np.ndarray]:
        """Codes int64 [B, h, w] of each new latent frame, when its last token is made.

        The parameters are those of `extend`. With `keep` memory does not grow.
        """
        seen = self.latents
        for _ in self.extend(latents, decoding, steer):
            fresh = self.codes[:, seen - self.forgotten :]
            # copies: who keeps a frame must not keep all that there was when it was made
            yield from map(np.copy, np.moveaxis(fresh, 1, 0))
            seen = self.latents

    def steps(self, latents: int, decoding: Decoding) -> int:
        """Steps that `extend` will take."""
        known = self.latents - self._first(decoding)
        parts = self._parts(known, latents, decoding)
        return sum(
            decoding.resolve(self.grid, known).steps(self.grid, new or 0) for known, new in parts
        )

    def rewind(self, latents: int) -> None:
        """Go back to the first `latents` latent frames; what is on the device stays there.

        Raises ValueError where there are fewer, or where they are forgotten.
        """
        least = self.forgotten + (not self.grid.prefix or self.forgotten > 0)
        if not least <= latents <= self.latents:
            there = f"{least} to {self.latents}"
            raise ValueError(f"no way back to {latents} latent frames: there are {there}")
        self.codes, self._fed = self.codes[:, : latents - self.forgotten], 0

    def release(self) -> None:
        """Give the device's memory back; what is extended afterwards starts with a prefill."""
        self._state, self._fed = None, 0

    @property
    def _known(self) -> int:
        """Latent frames of the sequence, which began at `_start`."""
        return self.latents - self._start

    def _parts(
        self, known: int, latents: int | None, decoding: Decoding
    ) -> Iterable[tuple[int, int | None]]:
        """(known, new) latent frames of each sequence in turn; one, where the window slides."""
        return sequences(known, latents, decoding, self.window, self.overlap)

    def _serves(self, decoding: Decoding) -> bool:
        """Whether what is on the device is what the decoding needs."""
        ring = ring_for(self.grid, decoding, self.window)
        return self._state is not None and self._state.ring.serves(ring)

    def _first(self, decoding: Decoding) -> int:
        """The latent frame with which the sequence begins that `extend` goes on with: the one that
        is there, or a new one, where a window that rolls needs room for a frame.
        """
        if self._fed and self._serves(decoding):
            return self._start
        slides = decoding.window == "slide"
        known = decoding.sees(self.window) if slides else self.window - 1
        return max(self.forgotten, self.latents - known)

    def _go_on(self, decoding: Decoding) -> State:
        """What is on the device, made anew where it does not serve the decoding."""
        self._start = self._first(decoding)
        if not self._serves(decoding):
            self.release()
            self._state = State(self, ring_for(self.grid, decoding, self.window))
        assert self._state is not None  # it serves
        return self._state

    def _check_steered(self, latents: int | None) -> None:
        if latents is None:
            raise ValueError("without an end, actions come from steer, which is missing")
        steered, needed = self.conditioning.shape[1], self.codes.shape[1] + latents - 1
        if steered < needed:
            told = f"actions after {self.forgotten + steered} latent frames are known"
            raise ValueError(f"{told}, {self.forgotten + needed} are needed")

    def _extend(
        self, state: State, latents: int | None, decoding: Decoding, steer: Steer | None
    ) -> Iterator[int]:
        """Make latent frames of one sequence; yields steps done."""
        wave = wavefront(self.grid, self._known, latents, decoding)
        started = time.perf_counter()
        if not self._fed:
            self._place(state)
        with torch.inference_mode():
            state.steps.forget(self._fed)
            first = max(self._fed, self.starts.min())  # what is padding in all rows is not fed
            state.steps.prefill(np.arange(first, wave.prefill))
        self._fed = wave.prefill
        self.times.prefill += self._seconds_since(started)

        def begin(latent: int) -> None:
            if self.grid.conditioning and wave.context + latent:
                self._steer(state, self._start + wave.context + latent - 1, steer)

        started, before, done = time.perf_counter(), self.times.decode, 0
        try:
            for done in state.execute(wave, begin, late=self.live):
                fresh = wave.complete(done) - (self._known - wave.context)
                if fresh:
                    self._append(state, fresh)
                    spent = before + self._seconds_since(started)
                    self.times.completed += [spent] * fresh
                yield done
        finally:
            self.times.decode = before + self._seconds_since(started)
            passes, fed = state.spent(wave, done)
            self.times.steps += passes
            self.times.fed += fed
            made = self._known - wave.context
            self.times.tokens += made * self.grid.area * len(self.codes)
            self._settle(state, wave, done)

    @torch.inference_mode()
    def _place(self, state: State) -> None:
        """Put what is known of the sequence where the steps read it."""
        known = slice(self._start - self.forgotten, None)
        codes, steering = self.codes[:, known], self.conditioning[:, known]
        rows = np.zeros((*codes.shape[:2], self.grid.conditioning), dtype=np.int64)
        rows[:, : steering.shape[1]] = steering[:, : codes.shape[1]]
        tokens = self.grid.flatten(codes, rows, self.prefix)
        if self.guidance:
            nothing = np.array(self.guidance.prefix, dtype=np.int64)
            tokens = np.concatenate([tokens, self.grid.flatten(codes, rows, nothing)])
        state.put(np.arange(tokens.shape[1]), tokens)
        before = np.array(self.before or [0] * len(codes), dtype=np.int64)
        before = (before + self._start) * self.grid.block - self.starts[: len(codes)]
        places = torch.from_numpy(before)
        state.sampler.origin.copy_(places[:, None])

    def _steer(self, state: State, latent: int, steer: Steer | None) -> None:
        """Put the tokens after a latent frame where the steps read them."""
        index = latent - self.forgotten
        if steer:
            rows = np.asarray(steer(latent), dtype=np.int64)
            kept = self.conditioning[:, :index]
            self.conditioning = np.concatenate([kept, rows[:, None]], axis=1)
        places = self.grid.conditioning_positions(latent - self._start)
        state.put(places, self.conditioning[:, index])

    def _append(self, state: State, latents: int) -> None:
        """Take the codes of so many latent frames, which are complete, from the store."""
        first = self.grid.length(self._known)
        frames = first + np.arange(latents)[:, None] * self.grid.block
        places = (frames + self.grid.places.ravel()).ravel()
        shape = len(self.codes), latents, self.grid.h, self.grid.w
        fresh = state.get(places).reshape(shape)
        self.codes = np.concatenate([self.codes, fresh], axis=1)
        surplus = self.codes.shape[1] - (self.keep or self.codes.shape[1])
        if surplus > 0:
            self.codes = self.codes[:, surplus:].copy()
            self.conditioning = self.conditioning[:, surplus:].copy()
            self.forgotten += surplus

    def _settle(self, state: State, wave: Wavefront, done: int) -> None:
        """Note what the cache holds of the frames that are complete after `done` steps."""
        rules, made = wave.rules, self._known - wave.context
        if not made:
            return
        last = (made - 1) * rules.d + rules.span(self.grid)  # the step that feeds its last token
        stands = rules.d < rules.span(self.grid) and not (rules.repair or self.grid.tail)
        fed = done > last or (stands and made != wave.latents)
        end = self.grid.length(self._known) - self.grid.tail
        self._fed = end - 1 + fed
        begun = -(-done // rules.d) + AHEAD * (wave.plan.decoding.method == "exact")
        begun = wave.context + min(begun, wave.latents or begun)
        seen = wave.plan.decoding.sees(self.window)
        if state.ring.turns and begun - state.ring.frames > max(0, self._known - seen):
            self._fed = 0  # frames in flight have taken the place of what would be seen

    def _seconds_since(self, started: float) -> float:
        """Seconds from time.perf_counter() = `started` until the device has done its work."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        return time.perf_counter() - started
