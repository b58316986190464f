"""How fast a GPU is, how evenly frames come, and where a step goes: part of `benchmarks.gpu`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from operator import attrgetter
from statistics import median

import numpy as np
import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import ProfilerActivity, profile

from benchmarks import common
from benchmarks.gpu_right import numbers, tiny_of
from diagd_cli import Decoding, Preset, load
from diagd_cli.engine.session import Session
from diagd_cli.jobs.benchmark.machine import bandwidth, peak_flops
from diagd_cli.jobs.benchmark.measure import Timing, draw_codes, measure, wait
from diagd_cli.loading import Loaded, Request
from diagd_cli.pipeline import encode_frames, start_session, to_frames
from diagd_cli.weights.memory import estimate

NTP, FAST = Decoding("ntp"), Decoding("diagd", k=1, d=1)
GB = 1e9
PROFILED, KERNELS = 4, 16  # steps that are profiled, and kernels that are told of each
SMALLEST = "bfloat16+8 bits"


@dataclass(frozen=True)
class Model:
    """A preset at its true size: what is timed of it, and how many new frames are made.

    numbers: dtypes, and with `+8 bits` weights of 8 bits as well.
    steps: that are timed of each decoding; all, where there are fewer.
    """

    preset: str
    frames: int
    decodings: tuple[Decoding, ...]
    numbers: tuple[str, ...] = ("bfloat16",)
    steps: int = 120


def ceilings(device: torch.device, speed: dict, tiny: bool) -> Iterator[dict]:
    """Bytes/s and FLOP/s that everything is held against; `speed` remembers them."""
    speed["bandwidth"] = bandwidth(device, 1 << 20 if tiny else None)
    yield {"GB/s": speed["bandwidth"] / GB}
    for kind in ("float32", "bfloat16", SMALLEST):
        speed[kind] = peak_flops(device, *numbers(kind, device), side=64 if tiny else None)
        yield {"numbers": kind, "TFLOP/s": speed[kind] / 1e12}


def speeds(
    model: Model, kind: str, device: torch.device, speed: dict, tiny: bool
) -> Iterator[dict]:
    """Load a model, time its decodings, then its pixels; and the memory against the estimate."""
    preset = tiny_of(model.preset) if tiny else common.vary(model.preset)
    count = min(model.steps, 4) if tiny else model.steps
    dtype, weights = numbers(kind, device)
    frames = preset.tokenizer.temporal * 3 if tiny else model.frames
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    random = None if preset.transformer_weights and not tiny and preset.name == "freedoom" else 0
    loaded = load(preset, device, dtype, random=random, weights=weights or "float")
    yield {"load s": loaded.seconds}
    codes = draw_codes(preset, preset.clip.context, 0)
    for decoding in model.decodings:
        decoding = shrunken(decoding) if tiny else decoding
        request = loaded.request(frames, decoding=decoding)
        timing = measure(loaded, codes, request, repeats=2, steps=count)
        yield {**figures(timing, preset, speed, kind), "capture s": capture(loaded, request, count)}
    whole = np.concatenate([codes, draw_codes(preset, frames, 1)[: preset.new_latents(frames)]])
    for _ in range(2):  # the second time counts, when kernels have been chosen
        started = time.perf_counter()
        shown = to_frames(loaded, whole)
        decoded = time.perf_counter() - started
        started = time.perf_counter()
        encode_frames(loaded, shown[: preset.clip.context])
        encoded = time.perf_counter() - started
    spent = {"decode pixels s": decoded, "encode s": encoded}
    yield {**spent, "frames": len(shown), "context": preset.clip.context}
    whole_clip = preset.clip.context + frames
    need = estimate(preset, frames=whole_clip, dtype=dtype, weights=weights)
    peak = torch.cuda.max_memory_allocated(device) / GB if device.type == "cuda" else None
    yield {"estimated GB": need.total / GB, "peak GB": peak}


def passes(device: torch.device, tiny: bool) -> Iterator[dict]:
    """What a pass of `exact` takes by its guesses; random weights do not tell how many of them
    would hold.
    """
    preset = tiny_of("cosmos-4b") if tiny else common.vary("cosmos-4b")
    dtype, count = (torch.float32, 3) if tiny else (torch.bfloat16, 30)
    loaded = load(preset, device, dtype, random=0, pixels=False)
    for decoding in (
        NTP,
        *(Decoding("exact", width=width) for width in ((8,) if tiny else (32, 64, 128, 256))),
    ):
        session = begun(loaded, loaded.request(preset.tokenizer.temporal, decoding=decoding))
        running = session.extend(1, decoding)
        for _ in range(count):
            next(running)
        wait(session)
        started = time.perf_counter()
        for _ in range(count):
            next(running)
        wait(session)
        spent = time.perf_counter() - started
        running.close()
        yield {"guesses": decoding.width, "ms/pass": 1000 * spent / count}


def endless(device: torch.device, tiny: bool) -> Iterator[dict]:
    """A video without end: how evenly frames come, and what grows. After the first ones nothing is
    captured any more.
    """
    preset = tiny_of("freedoom") if tiny else common.vary("freedoom")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    loaded = load(preset, device, dtype, random=0 if tiny else None, pixels=False)
    first, last = (4, 12) if tiny else (50, 1000)
    rest = preset.actions.rest
    for decoding in (
        Decoding("diagd", 2, 10, window="slide"),
        Decoding("diagd", 1, 5, window="slide"),
    ):
        if tiny:
            decoding = replace(decoding, d=3)
        request = loaded.request(preset.clip.frames, decoding=decoding)
        session = begun(loaded, request, remember=False)
        came, held = [], []
        for _ in session.stream(decoding, last, lambda frame: np.array([rest])):
            came.append(time.perf_counter())
            held.append((graphs(session), allocated(device)))
        gaps = 1000 * np.diff(came)[first:]
        yield {
            "decoding": decoding.label(preset.grid),
            "frames/s": 1000 * len(gaps) / gaps.sum(),
            "gap ms": median(gaps),
            "95%": float(np.quantile(gaps, 0.95)),
            "longest": gaps.max(),
            "graphs": [held[first][0], held[-1][0]],
            "MB": [held[first][1], held[-1][1]],
        }


def begun(loaded: Loaded, request: Request, remember: bool = True) -> Session:
    """A session after a context of random codes."""
    codes = draw_codes(loaded.preset, loaded.preset.clip.context, 0)
    return start_session(loaded, codes[None], [request], remember=remember)


def shrunken(decoding: Decoding) -> Decoding:
    """One that fits tiny frames."""
    return replace(decoding, k=min(decoding.k, 2), d=min(decoding.d, 3))


def graphs(session: Session) -> int:
    """How many have been captured."""
    assert session._state is not None
    return len(getattr(session._state.run, "graphs", ()))


def allocated(device: torch.device) -> float:
    """Megabytes that tensors take on a GPU; 0 on a CPU."""
    return torch.cuda.memory_allocated(device) / 1e6 if device.type == "cuda" else 0.0


def capture(loaded: Loaded, request: Request, steps: int) -> float:
    """Seconds until the graphs of the first steps are captured, those steps included."""
    session = begun(loaded, request)
    session.capture = True
    running = session.extend(loaded.preset.new_latents(request.frames), request.decoding)
    for _ in islice(running, steps):
        pass
    assert session._state is not None
    return getattr(session._state.run, "seconds", 0.0)


def figures(timing: Timing, preset: Preset, speed: dict, kind: str) -> dict:
    """A timing as a row: of the whole decoding, extrapolated from the steps that were timed."""
    floors = timing.work.floors(speed["bandwidth"], speed[kind])
    seconds = timing.seconds(floors)
    return {
        "decoding": timing.request.decoding.label(preset.grid),
        "steps": timing.steps,
        "prefill s": median(timing.prefill),
        "ms/step": 1000 * median(timing.decode) / len(timing.timed),
        "decode s": seconds,
        "tokens/s": timing.tokens / seconds,
        "of the limit": timing.limit_share(floors),
    }


def profiled(model: Model, kind: str, device: torch.device, tiny: bool) -> Iterator[dict]:
    """Where the time of a few steady steps of each decoding goes, by kernel; uncaptured, so that
    each has a name.
    """
    preset = tiny_of(model.preset) if tiny else common.vary(model.preset)
    dtype, weights = numbers(kind, device)
    loaded = load(preset, device, dtype, random=0, pixels=False, weights=weights or "float")
    on_device = device.type == "cuda"
    activities = [ProfilerActivity.CUDA] if on_device else [ProfilerActivity.CPU]
    for decoding in model.decodings:
        decoding = shrunken(decoding) if tiny else decoding
        request = loaded.request(3 * preset.tokenizer.temporal, decoding=decoding)
        session = begun(loaded, request)
        session.capture = False
        steps = session.extend(preset.new_latents(request.frames), decoding)
        for _ in range(4 if tiny else 30):
            next(steps)
        with profile(activities=activities, acc_events=True) as found:
            for _ in range(PROFILED):
                next(steps)
            if on_device:
                torch.cuda.synchronize(device)
        steps.close()
        kernels = [event for event in found.key_averages() if not on_device or of_device(event)]
        field = "self_device_time_total" if on_device else "self_cpu_time_total"
        spent = sorted(kernels, key=attrgetter(field), reverse=True)
        total = sum(map(attrgetter(field), spent))
        label = decoding.label(preset.grid)
        yield {"decoding": label, "kernels a step": sum(one.count for one in spent) / PROFILED}
        for event in spent[:KERNELS]:
            own = getattr(event, field)
            yield {
                "decoding": label,
                "kernel": event.key[:90],
                "a step": event.count / PROFILED,
                "ms/step": own / 1000 / PROFILED,
                "share": own / total,
            }


def of_device(event: FunctionEventAvg) -> bool:
    """Whether it ran on a GPU, and is not the operation on the host that asked for it."""
    return event.device_type == DeviceType.CUDA and not event.is_user_annotation
