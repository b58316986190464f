"""A running clip: its tokens, its cache and where it stands. Any plan may continue it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from diagd_cli.engine.decode import execute, prefill, runner
from diagd_cli.engine.sample import Sampler, Sampling
from diagd_cli.engine.steps import Steps
from diagd_cli.engine.windows import window_parts, window_plans
from diagd_cli.model.contract import Cross, Model
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.schedule.plan import Plan, build_plan
from diagd_cli.tokens.grid import Grid


@dataclass
class Times:
    """Seconds that were spent, and what was done in them.

    prefill, decode: seconds.
    steps: forward passes of the decoding.
    fed: tokens that were fed in them, a clip.
    tokens: new tokens of all clips.
    completed: seconds of decoding after which each new latent frame had all its tokens.
    """

    prefill: float = 0.0
    decode: float = 0.0
    steps: int = 0
    fed: int = 0
    tokens: int = 0
    completed: list[float] = field(default_factory=list)


@dataclass
class Session:
    """Clips in lock-step, which can be continued as often as one likes.

    model: what predicts; `Transformer` or another callable with its contract.
    grid: how codes and conditioning lie in its sequence.
    codes: int64 [B, T, h, w] so far.
    conditioning: int64 [B, >= T, A], the tokens after each latent frame; may be replaced by longer.
    seeds: one a clip.
    sampling: how tokens are drawn.
    window: latent frames that the model can hold. When it is full the oldest are dropped, and the
        newest `overlap` are fed again from their tokens (never from pixels).
    overlap: latent frames that are kept then; with 0 a full window cannot be continued.
    prefix: int64 [grid.prefix], the ids before the first frame.
    cross: what the model attends to of the text, of its `cross_context`.
    times: what has been spent so far.
    kv_dtype: of the cache; None is the model's.
    capture: whether steps are captured as CUDA graphs; None is where they can be. Without CUDA the
        same padded steps run uncaptured.

    The first extension makes a token store, a cache and a sampler on the device, and the steps that
    it takes there; they stay, with all CUDA graphs that have been captured, until `release`. Model,
    seeds, sampling, cross and dtype are therefore those of that moment.
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

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.window:
            sizes = f"overlap is {self.overlap}, window {self.window}"
            raise ValueError(f"{sizes}: a window that is full must lose frames")
        self._start = max(0, self.latents - self.window + 1)  # the window's first latent frame
        self._state: State | None = None
        # slots that hold the truth; the last of all is where padded lanes write
        self._filled = np.zeros(self.grid.length(self.window) + 1, dtype=bool)
        self._ready = 0  # latent frames that a running extension has completed

    @property
    def latents(self) -> int:
        """Latent frames so far."""
        return self.codes.shape[1]

    @property
    def complete(self) -> int:
        """Latent frames of which every token is made, those of a running extension included."""
        return self.latents + self._ready

    def complete_codes(self, first: int = 0) -> np.ndarray:
        """Codes int64 [B, complete - first, h, w] of the complete latent frames from `first` on."""
        if not self._ready:
            return self.codes[:, first:]
        made = self._made(self._known, self._ready)
        return np.concatenate([self.codes, made], axis=1)[:, first:]

    def extend(self, latents: int, decoding: Decoding) -> Iterator[int]:
        """Make more latent frames, rolling the window as needed; yields steps done in this call.

        latents: how many.
        decoding: by which plan.

        Raises ValueError unless the conditioning after all but the last of them is known:
        [B, >= T + latents - 1, A].
        """
        needed, steered = self.latents + latents - 1, self.conditioning.shape[1]
        if self.grid.conditioning and steered < needed:
            told = f"actions after {steered} latent frames are known"
            raise ValueError(f"{told}, {needed} are needed")
        done = 0
        for known, new in window_parts(self._known, latents, self.window, self.overlap):
            if self._known > known:
                self._roll()
            for step in self._extend(new, decoding):
                yield done + step
            done += step

    def steps(self, latents: int, decoding: Decoding) -> int:
        """Steps that `extend` will take."""
        rest = latents, decoding, self.window, self.overlap
        return sum(plan.steps for plan in window_plans(self.grid, self._known, *rest))

    def release(self) -> None:
        """Give the device's memory back; what is extended afterwards starts with a prefill."""
        self._state = None
        self._filled[:] = False

    @property
    def _known(self) -> int:
        """Latent frames in the window."""
        return self.latents - self._start

    def _roll(self) -> None:
        """Drop the oldest latent frames of the window."""
        self._start = self.latents - self.overlap
        self._filled[:] = False

    def _extend(self, latents: int, decoding: Decoding) -> Iterator[int]:
        """Make latent frames for which the window has room; yields steps done."""
        plan = build_plan(self.grid, self._known, latents, decoding)
        if self._state is None:
            self._state = State(self)
        state = self._state
        self._place(state, zeros=decoding.zero_slots)

        started = time.perf_counter()
        missing = np.flatnonzero(~self._filled[: plan.prefill])
        prefill(self.model, state.cache, state.tokens, missing, self.cross)
        self.times.prefill += self._seconds_since(started)

        started, last = time.perf_counter(), last_steps(plan)
        try:
            for done in execute(state.run, plan):
                fresh = int(np.searchsorted(last, done, side="right")) - self._ready
                if fresh:
                    spent = self.times.decode + self._seconds_since(started)
                    self.times.completed += [spent] * fresh
                    self._ready += fresh
                yield done
        finally:
            self._ready = 0
        self.times.decode += self._seconds_since(started)
        self.times.steps += plan.steps
        self.times.fed += len(plan.source)
        self.times.tokens += plan.new_tokens * len(self.codes)

        self._filled[: plan.length] = plan.first_write < plan.steps
        self.codes = np.concatenate([self.codes, self._made(plan.context, latents)], axis=1)

    @torch.inference_mode()
    def _place(self, state: State, zeros: bool) -> None:
        """Put what is known of the window where the steps read it; zeros: also into empty slots."""
        state.tokens.copy_(torch.from_numpy(self._window_tokens()))
        state.sampler.move(self._start * self.grid.block + np.arange(len(self._filled)))
        if zeros:  # what an earlier window left there would be seen
            state.cache.clear(torch.from_numpy(~self._filled).to(self.model.device))

    def _window_tokens(self) -> np.ndarray:
        """Tokens int64 [B, places] of the window: codes and conditioning where they are known."""
        store = np.zeros((len(self.codes), len(self._filled)), dtype=np.int64)
        steering = self.conditioning[:, self._start : self._start + self.window]
        codes = self.codes[:, self._start :]
        known = self.grid.flatten(codes, steering[:, : self._known], self.prefix)
        store[:, : known.shape[1]] = known
        for t in range(self._known, steering.shape[1]):
            store[:, self.grid.conditioning_positions(t)] = steering[:, t]
        return store

    def _made(self, known: int, latents: int) -> np.ndarray:
        """Codes int64 [B, latents, h, w] in the store, after the `known` ones of the window."""
        assert self._state is not None  # whoever asks has extended
        return self.grid.codes(self._state.tokens.cpu().numpy(), known + latents)[:, known:]

    def _seconds_since(self, started: float) -> float:
        """Seconds from time.perf_counter() = `started` until the device has done its work."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        return time.perf_counter() - started


class State:
    """What a session has on the device, as long as it lives: nothing here is ever made anew."""

    def __init__(self, session: Session):
        batch, places = len(session.codes), len(session._filled)
        model, device, grid = session.model, session.model.device, session.grid
        self.cache = model.new_cache(batch, places, session.kv_dtype)
        self.tokens = torch.zeros((batch, places), dtype=torch.int64, device=device)
        index, opening = np.arange(places), grid.opening(places)
        self.sampler = Sampler(session.sampling, session.seeds, index, opening, device)
        steps = Steps(model, self.cache, self.tokens, self.sampler, session.cross)
        self.run = runner(steps, session.capture)


def last_steps(plan: Plan) -> np.ndarray:
    """Steps after which each new latent frame is complete, int64 [latents], rising."""
    made = plan.target >= 0
    latent = (plan.target[made] - plan.grid.prefix) // plan.grid.block - plan.context
    last = np.zeros(plan.latents, dtype=np.int64)
    np.maximum.at(last, latent, plan.step_of_feed[made] + 1)
    return last
