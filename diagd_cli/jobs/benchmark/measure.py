"""The measuring loop: a preset's decodings on the engine that generates, from codes drawn at
random, without a clip.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from statistics import median

import numpy as np
import torch

from diagd_cli.device import peak_memory
from diagd_cli.engine.ring import ring_for
from diagd_cli.engine.session import Session
from diagd_cli.engine.state import Times
from diagd_cli.engine.windows import fresh_plans
from diagd_cli.errors import UsageError
from diagd_cli.jobs.benchmark.limit import Work, work_of, work_of_passes
from diagd_cli.pipeline import Loaded, Request, start_session, to_frames
from diagd_cli.preset import Preset
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.schedule.plan import Plan

# steps at most: time for kernels to be chosen and for a diagonal to reach its full width
WARM_UP = 200
OnStep = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Timing:
    """Repeated runs of one decoding.

    batch: clips at once.
    plans: of every window.
    timed: the steps, counted over all plans, that `decode` is the time of.
    prefill, decode: seconds, one of each a run.
    work: of every step.
    peak: bytes, see `device.peak_memory`.
    codes: int64 [T, h, w] of the first clip; None when it was not ended.
    counted: passes of a decoding and tokens fed in them, a clip, where only a run can tell.
    """

    request: Request
    batch: int
    dtype: str
    plans: list[Plan]
    timed: range
    prefill: list[float]
    decode: list[float]
    work: Work
    peak: dict[str, int]
    codes: np.ndarray | None
    counted: tuple[int, int] | None = None

    @property
    def steps(self) -> int:
        """Steps of the whole decoding."""
        return self.counted[0] if self.counted else sum(plan.steps for plan in self.plans)

    @property
    def tokens(self) -> int:
        """Tokens made by the whole decoding, of all clips."""
        return self.batch * sum(plan.new_tokens for plan in self.plans)

    @property
    def fed(self) -> int:
        """Tokens fed to the model by the whole decoding, of all clips."""
        each = self.counted[1] if self.counted else sum(len(plan.source) for plan in self.plans)
        return self.batch * each

    @property
    def rows(self) -> int:
        """Tokens that a step feeds on average, which is how many rows a matrix is multiplied
        with.
        """
        return round(self.fed / self.steps)

    @property
    def extrapolated(self) -> bool:
        """Whether only some of the steps were timed."""
        return len(self.timed) < self.steps

    def seconds(self, floors: np.ndarray) -> float:
        """Of the whole decoding.

        From a part of it: as if the rest were as far from its floors as the part is.
        """
        return median(self.decode) * (
            floors.sum() / floors[self._timed].sum() if self.extrapolated else 1
        )

    def limit_share(self, floors: np.ndarray) -> float:
        """Sum of the floors [steps], in seconds, of the timed steps, over the time that they
        took.
        """
        return floors[self._timed].sum() / median(self.decode)

    @property
    def _timed(self) -> slice:
        return slice(self.timed.start, self.timed.stop)


def draw_codes(preset: Preset, frames: int, seed: int) -> np.ndarray:
    """Codes int64 [latent frames, h, w] for `frames` frames, drawn uniformly: what they show has no
    effect on speed.
    """
    shape = preset.latents(frames), preset.grid.h, preset.grid.w
    return np.random.default_rng(seed).integers(preset.tokenizer.codebook, size=shape)


def plans_of(preset: Preset, context: int, frames: int, decoding: Decoding) -> list[Plan]:
    """The plans of all windows that `frames` new frames after `context` latent ones take.

    Raises UsageError.
    """
    return fresh_plans(
        preset.grid, context, preset.new_latents(frames), decoding, preset.window, preset.overlap
    )


def timed_steps(plans: list[Plan], steps: int | None) -> range:
    """Which steps are timed: all; or `steps` of them after the first, with which the prefill is
    still being waited for.

    Only the first window counts then. Raises UsageError where it has no second step.
    """
    if steps is None:
        return range(sum(plan.steps for plan in plans))
    if plans[0].steps < 2:
        raise UsageError(
            "--steps leaves nothing to time: there is one step only", "Leave --steps out"
        )
    return range(1, min(steps + 1, plans[0].steps))


def measure(
    loaded: Loaded,
    codes: np.ndarray,
    request: Request,
    batch: int = 1,
    *,
    repeats: int = 3,
    steps: int | None = None,
    on_step: OnStep = lambda done: None,
) -> Timing:
    """Time `repeats` runs of a request after one warm-up, for `batch` clips that begin alike with
    codes [T, h, w].

    repeats: runs that are timed.
    steps: time so many steps only; None times all.
    on_step: is called after every step with how many are done, of all runs (`steps_run` in the
        end); a pass of `exact` does as many of them as it proves tokens to be true.

    Clip n has the request's seed + n. Raises UsageError.
    """
    preset, new = loaded.preset, loaded.preset.new_latents(request.frames)
    plans = plans_of(preset, len(codes), request.frames, request.decoding)
    timed, guesses = timed_steps(plans, steps), request.decoding.method == "exact"
    if guesses and steps is not None:
        told = "--steps times a part, and how many passes exact takes only the whole can tell"
        raise UsageError(told, "Leave --steps out")
    if loaded.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(loaded.device)
    batched = np.repeat(codes[None], batch, axis=0)
    requests = [replace(request, seed=(request.seed + n) % 2**64) for n in range(batch)]
    runs, session, finished = [], start_session(loaded, batched, requests), 0

    def tell(done: int) -> None:
        on_step(finished + min(done, stop))

    for n in range(repeats + 1):
        stop = timed.stop if n else min(timed.stop, WARM_UP)
        session.rewind(len(codes))
        session.times = Times()
        if n == 0:
            for done in islice(session.extend(new, request.decoding), stop):
                tell(done)
        elif steps is None:
            runs.append(run_whole(session, new, request.decoding, tell))
        else:
            runs.append(run_part(session, new, request.decoding, len(timed), tell))
        finished += stop
    prefill, decode = map(list, zip(*runs, strict=True))
    counted = (session.times.steps, session.times.fed) if guesses else None
    return Timing(
        request=request,
        batch=batch,
        dtype=loaded.numbers,
        plans=plans,
        timed=range(counted[0]) if counted else timed,
        prefill=prefill,
        decode=decode,
        # with guidance each clip is twice in the batch
        work=least_work(
            loaded, request.decoding, plans, batch * (2 if session.guidance else 1), counted
        ),
        peak=peak_memory(loaded.device),
        codes=session.codes[0] if steps is None else None,
        counted=counted,
    )


def least_work(
    loaded: Loaded,
    decoding: Decoding,
    plans: list[Plan],
    batch: int,
    counted: tuple[int, int] | None,
) -> Work:
    """What the steps of the plans take at least; `counted`: passes and tokens fed in them, where
    those of a run are meant, each of which reads what a step reads on average.
    """
    preset, ring = loaded.preset, ring_for(loaded.preset.grid, decoding, loaded.preset.window)
    config = preset.transformer
    text = preset.text.length if preset.text and config.cross_dim else 0
    places = ring.places if ring.turns else None
    item, weights = loaded.dtype.itemsize, loaded.weights
    if counted:
        passes, fed = counted
        each = np.full(passes, fed / passes)
        seen = np.concatenate([np.minimum(p.extents, places or p.length) for p in plans]).mean()
        reads = np.full(passes, seen + text)
        return work_of_passes(config, each, each, reads, batch, item, weights)
    work = [work_of(config, plan, batch, item, text, places, weights) for plan in plans]
    return Work(
        *(np.concatenate([getattr(part, name) for part in work]) for name in ("bytes", "flops"))
    )


def steps_run(plans: list[Plan], repeats: int, steps: int | None) -> int:
    """What `measure` tells in the end: the steps of the warm-up and of all runs."""
    stop = timed_steps(plans, steps).stop
    return min(stop, WARM_UP) + repeats * stop


def run_whole(
    session: Session, new: int, decoding: Decoding, on_step: OnStep
) -> tuple[float, float]:
    """Seconds of (prefill, decode) for `new` latent frames."""
    for done in session.extend(new, decoding):
        on_step(done)
    return session.times.prefill, session.times.decode


def run_part(
    session: Session, new: int, decoding: Decoding, count: int, on_step: OnStep
) -> tuple[float, float]:
    """Seconds of (prefill, the `count` steps after the first); then the session is left as
    it is.
    """
    steps = session.extend(new, decoding)
    on_step(next(steps))
    wait(session)
    started = time.perf_counter()
    for done in islice(steps, count):
        on_step(done)
    wait(session)
    return session.times.prefill, time.perf_counter() - started


def wait(session: Session) -> None:
    """Until the device has done what it was given."""
    device = session.model.device
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_pixels(loaded: Loaded, codes: np.ndarray, repeats: int) -> list[float]:
    """Seconds for the pixels of one clip, codes int64 [T, h, w], of each run; a latent frame is the
    warm-up.
    """
    to_frames(loaded, codes[:1])
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        to_frames(loaded, codes)  # ends on the CPU, so that the device has been waited for
        seconds.append(time.perf_counter() - started)
    return seconds
