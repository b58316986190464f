"""A running clip: its tokens, its cache and where it stands. It can be continued by any plan, as often as one likes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from diagd_cli.engine.decode import Cross, decode, prefill
from diagd_cli.engine.sample import Sampler, Sampling
from diagd_cli.engine.windows import window_parts, window_plans
from diagd_cli.model.cache import KVCache
from diagd_cli.model.transformer import Transformer
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.schedule.plan import Plan, build_plan
from diagd_cli.tokens.grid import Grid


@dataclass
class Times:
    """Seconds spent, and what was done in them. completed: of decoding, when each new latent frame had all its tokens."""

    prefill: float = 0.0
    decode: float = 0.0
    steps: int = 0
    fed: int = 0
    tokens: int = 0
    completed: list[float] = field(default_factory=list)


@dataclass
class Session:
    """Clips in lock-step: codes int64 [B, T, h, w] so far, conditioning int64 [B, >= T, A], one seed a clip.

    `window`: latent frames the model can hold. When it is full the oldest frames are dropped, the newest `overlap` are
    fed again from their tokens (never from pixels), and decoding goes on; with `overlap` 0 it cannot. prefix: int64
    [grid.prefix], the ids before the first frame. cross: keys and values of the text, `Transformer.cross_context`.
    kv_dtype: torch's type of the cache; None is the model's.
    """

    model: Transformer
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

    def __post_init__(self):
        if not 0 <= self.overlap < self.window:
            raise ValueError(f"overlap is {self.overlap}, window {self.window}: a window that is full must lose frames")
        self._first = max(0, self.frames - self.window + 1)  # video frame at the window's start
        self._cache: KVCache | None = None
        self._written = np.zeros(self.grid.length(self.window) + 1, dtype=bool)  # the last: where padded lanes write
        self._tokens_now, self._ready = None, 0  # of a running `extend`: its tokens, and how many frames are complete

    @property
    def frames(self) -> int:
        """Latent frames so far."""
        return self.codes.shape[1]

    @property
    def complete(self) -> int:
        """Latent frames of which every token is made, those of a running `extend` included."""
        return self.frames + self._ready

    def complete_codes(self, first: int = 0) -> np.ndarray:
        """Codes int64 [B, complete - first, h, w] of the complete latent frames from frame `first` on."""
        if not self._ready:
            return self.codes[:, first:]
        known = self.frames - self._first
        made = self.grid.codes(self._padded(self._tokens_now), known + self._ready)[:, known:]
        return np.concatenate([self.codes, made], axis=1)[:, first:]

    def extend(self, frames: int, decoding: Decoding) -> Iterator[int]:
        """Make `frames` more latent frames, rolling the window as needed; yields steps done in this call.

        The actions of all but the last new frame must be known: conditioning [B, >= T + frames - 1, A]; else ValueError.
        """
        if self.grid.conditioning and self.conditioning.shape[1] < self.frames + frames - 1:
            steered = self.conditioning.shape[1]
            raise ValueError(f"actions after {steered} latent frames are known, {self.frames + frames - 1} are needed")
        done = 0
        for known, new in self._parts(frames):
            if self.frames - self._first > known:
                self._roll()
            for step in self._extend(new, decoding):
                yield done + step
            done += step

    def steps(self, frames: int, decoding: Decoding) -> int:
        """Steps that `extend` will take."""
        known = self.frames - self._first
        return sum(p.steps for p in window_plans(self.grid, known, frames, decoding, self.window, self.overlap))

    def release(self) -> None:
        """Give the cache's memory back; what is extended afterwards starts with a prefill."""
        self._cache = None
        self._written[:] = False

    def _new_cache(self) -> KVCache:
        weight, slots = self.model.embed.weight, len(self._written)
        kind = self.kv_dtype or weight.dtype
        return KVCache(self.model.config, len(self.codes), slots, device=weight.device, dtype=kind)

    def _parts(self, frames: int) -> list[tuple[int, int]]:
        return window_parts(self.frames - self._first, frames, self.window, self.overlap)

    def _roll(self) -> None:
        self._first = self.frames - self.overlap
        self._written[:] = False

    def _extend(self, frames: int, decoding: Decoding) -> Iterator[int]:
        context = self.frames - self._first
        plan = build_plan(self.grid, context, frames, decoding)
        tokens = self._tokens(context, plan.length + 1)
        if self._cache is None:
            self._cache = self._new_cache()
        started = time.perf_counter()
        if decoding.zero_slots:  # what an earlier window left there would be seen
            self._cache.clear(torch.from_numpy(~self._written).to(tokens.device))
        missing = np.flatnonzero(~self._written[: plan.prefill])
        prefill(self.model, self._cache, tokens, missing, self.cross)
        self.times.prefill += self._lap(started)
        started = time.perf_counter()
        places = self._first * self.grid.block + np.arange(plan.length + 1)
        opening = self.grid.opening(plan.length + 1)
        sampler = Sampler(self.sampling, self.seeds, places, opening, tokens.device)
        self._tokens_now, last = tokens, last_steps(plan)
        try:
            for done in decode(self.model, plan, self._cache, tokens, sampler, self.cross):
                if fresh := int(np.searchsorted(last, done, side="right")) - self._ready:
                    self.times.completed += [self.times.decode + self._lap(started)] * fresh
                    self._ready += fresh
                yield done
        finally:
            self._tokens_now, self._ready = None, 0
        self.times.decode += self._lap(started)
        self.times.steps += plan.steps
        self.times.fed += len(plan.source)
        self.times.tokens += plan.new_tokens * len(self.codes)
        self._written[: plan.length] = plan.first_write < plan.steps
        made = self.grid.codes(self._padded(tokens), context + frames)
        self.codes = np.concatenate([self.codes, made[:, context:]], axis=1)

    def _tokens(self, context: int, length: int) -> torch.Tensor:
        """Token store int64 [B, length] of the window: the known codes, and the conditioning as far as it is known."""
        store = np.zeros((len(self.codes), len(self._written)), dtype=np.int64)
        known = self.grid.flatten(
            self.codes[:, self._first :], self.conditioning[:, self._first : self.frames], self.prefix
        )
        store[:, : known.shape[1]] = known
        for t in range(context, self.window):
            steering = self.conditioning[:, self._first + t : self._first + t + 1]
            if steering.size:
                store[:, self.grid.conditioning_positions(t)] = steering[:, 0]
        return torch.as_tensor(store[:, :length], device=self.model.embed.weight.device)

    def _padded(self, tokens: torch.Tensor) -> np.ndarray:
        """The store with room for the conditioning after the last frame, which no plan needs."""
        return np.pad(tokens.cpu().numpy(), ((0, 0), (0, self.grid.conditioning)))

    def _lap(self, started: float) -> float:
        if self._cache.keys.is_cuda:
            torch.cuda.synchronize(self._cache.keys.device)
        return time.perf_counter() - started


def last_steps(plan: Plan) -> np.ndarray:
    """Steps after which each new latent frame is complete, int64 [frames], rising."""
    made = plan.target >= 0
    frame = (plan.target[made] - plan.grid.prefix) // plan.grid.block - plan.context
    last = np.zeros(plan.frames, dtype=np.int64)
    np.maximum.at(last, frame, plan.step_of_feed[made] + 1)
    return last
