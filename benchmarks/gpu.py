"""What a GPU gives, in one prepared run of some minutes, with nothing to download: is it right, how
fast is it, and where does a step go.

Weights are random but for the shipped preset's. Figures are written as they come, so that a run
that is cut off still tells; what there is no time left for is told as such. `--tiny` takes the same
way at sizes for a CPU, which tells nothing but that the script works.

python -m benchmarks.gpu --minutes 8 --out results
"""

from __future__ import annotations

import argparse
import json
import math
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import ProfilerActivity, profile

from benchmarks import common
from diagd_cli import Decoding, Preset, load
from diagd_cli.device import DTYPES, choose_device
from diagd_cli.engine.session import Session
from diagd_cli.jobs.benchmark.machine import bandwidth, peak_flops
from diagd_cli.jobs.benchmark.measure import Timing, draw_codes, measure, wait
from diagd_cli.loading import Loaded, Request
from diagd_cli.pipeline import encode_frames, start_session, to_frames
from diagd_cli.weights.memory import estimate

SMALL = {"dim": 64, "mlp_dim": 128, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16}
# of each kind of positions, conditioning and tokens
FAMILIES = ("freedoom", "mineworld-300m", "cosmos-4b", "cosmos-5b-video2world")
TOKENS = 3, 6  # rows and columns of a tiny frame
TINY_TOKENIZERS = {
    # of so few codes that drawing one takes no time
    "cosmos-dv": {"channels": 8, "multipliers": [1, 2, 2], "blocks": 1, "levels": [8, 8]},
    "vq-image": {"channels": [32] * 5, "blocks": 1, "latent": 8},
}
NTP, FAST = Decoding("ntp"), Decoding("diagd", k=1, d=1)
GB = 1e9
PROFILED, KERNELS = 4, 16  # steps that are profiled, and kernels that are told of each
PROFILES = 2  # of the first models
SMALLEST = "bfloat16+8 bits"
IN_8_BITS = {"cpu": "int8", "cuda": "fp8"}


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


MODELS = [
    Model("freedoom", 40, (NTP, Decoding("diagd", 2, 10, window="slide")), ("float32", "bfloat16")),
    Model("cosmos-4b", 24, (NTP, Decoding("diagd", 2, 10), FAST), ("bfloat16", SMALLEST)),
    Model("mineworld-700m", 15, (NTP, Decoding("diagd", 2, 28), Decoding("diagd", 1, 14))),
    Model("cosmos-12b", 24, (NTP, Decoding("diagd", 2, 10), FAST), ("bfloat16", SMALLEST)),
]


class Log:
    """Rows on paper and in a JSON file, which is whole after each of them."""

    def __init__(self, path: Path, about: dict, seconds: float):
        self.path, self.about, self.ends = path, about, time.monotonic() + seconds
        self.rows: list[dict] = []
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, row: dict) -> None:
        self.rows.append(row)
        facts = {**self.about, "rows": self.rows}
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(facts, indent=1) + "\n")
        part.replace(self.path)
        print("  ".join(f"{key} {_short(value)}" for key, value in row.items()), flush=True)

    def take(self, name: str, work: Callable[[], Iterator[dict]]) -> None:
        """Add the rows of a part, or why it has none: a part that fails does not stop the next."""
        if time.monotonic() > self.ends:
            self.add({"part": name, "left out": "no time was left"})
            return
        try:
            for row in work():
                self.add({"part": name, **row})
        except Exception as error:
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            self.add({"part": name, "failed": reason[:300]})
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=8, help="after which no part begins")
    parser.add_argument(
        "--tiny", action="store_true", help="all models shrunken, to try the script"
    )
    parser.add_argument(
        "--models", nargs="*", default=[model.preset for model in MODELS], help="that are timed"
    )
    parser.add_argument("--out", type=Path, default=common.RESULTS, help="folder of the JSON file")
    args = parser.parse_args(argv)
    device = choose_device(args.device)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    about = {"benchmark": "gpu", "gpu": gpu, "tiny": args.tiny, "machine": common.machine()}
    log = Log(args.out / "gpu.json", about, 60 * args.minutes)
    speed: dict = {}
    log.take("ceilings", lambda: ceilings(device, speed, args.tiny))
    for name in FAMILIES:
        log.take(f"correct, {name}", lambda name=name: correctness(name, device))
    log.take("correct, 8 bits", lambda: correctness(FAMILIES[0], device, IN_8_BITS[device.type]))
    for model in (model for model in MODELS if model.preset in args.models):
        for kind in model.numbers:
            log.take(
                f"{model.preset}, {kind}",
                lambda model=model, kind=kind: speeds(model, kind, device, speed, args.tiny),
            )
    log.take("passes", lambda: passes(device, args.tiny))
    log.take("endless", lambda: endless(device, args.tiny))
    for model in (model for model in MODELS[:PROFILES] if model.preset in args.models):
        for kind in model.numbers:
            log.take(
                f"profile of {model.preset}, {kind}",
                lambda model=model, kind=kind: profiled(model, kind, device, args.tiny),
            )


# ---- parts ---------------------------------------------------------------------------------------


def ceilings(device: torch.device, speed: dict, tiny: bool) -> Iterator[dict]:
    """Bytes/s and FLOP/s that everything is held against; `speed` remembers them."""
    speed["bandwidth"] = bandwidth(device, 1 << 20 if tiny else None)
    yield {"GB/s": speed["bandwidth"] / GB}
    for kind in ("float32", "bfloat16", SMALLEST):
        speed[kind] = peak_flops(device, *numbers(kind, device), side=64 if tiny else None)
        yield {"numbers": kind, "TFLOP/s": speed[kind] / 1e12}


def numbers(kind: str, device: torch.device) -> tuple[torch.dtype, str]:
    """A dtype, and how weights of 8 bits are held on a device; "" where they are not."""
    dtype, _, small = kind.partition("+")
    return DTYPES[dtype], IN_8_BITS[device.type] if small else ""


def tiny_of(name: str) -> Preset:
    """A preset, shrunken: frames of few tokens, a window of few frames, narrow layers."""
    shipped = common.vary(name)
    side, clip = shipped.tokenizer.spatial, shipped.clip
    frames = {"context": 1, "window": 3, "overlap": 1} if shipped.tokenizer.temporal == 1 else {}
    size = {"height": side * TOKENS[0], "width": side * TOKENS[1], "least": min(clip.least, 1)}
    narrow = TINY_TOKENIZERS.get(shipped.tokenizer.kind, {})
    tokenizer = shipped.tokenizer.model_dump() | narrow
    layers, prefix = dict(SMALL), shipped.prefix
    if levels := narrow.get("levels"):  # what follows the codes in the vocabulary moves up to them
        gone = shipped.tokenizer.codebook - math.prod(levels)
        layers |= {"outputs": math.prod(levels), "vocab": shipped.transformer.vocab - gone}
        prefix = [token - gone for token in prefix]
    return common.vary(
        name, clip=size | frames, transformer=layers, tokenizer=tokenizer, prefix=prefix
    )


def correctness(name: str, device: torch.device, weights: str = "float") -> Iterator[dict]:
    """Tokens by replayed graphs, step by step, and on the CPU; those of clips alone and in a batch.

    In float32 on one device they are equal; between devices ties may be decided otherwise, and
    weights of 8 bits are of another format.
    """
    preset = tiny_of(name)
    frames = preset.tokenizer.temporal * min(3, preset.window - preset.context)
    decodings = [Decoding("diagd", k=2, d=3)]
    if not preset.why_rolls:
        decodings.append(replace(decodings[0], window="slide"))
    places = [device] if weights != "float" else dict.fromkeys((device, torch.device("cpu")))
    models = {
        where: load(preset, where, torch.float32, random=0, pixels=False, weights=weights)
        for where in places
    }
    for decoding in decodings:
        longer = frames if preset.why_rolls else 2 * preset.window
        made = {
            (where.type, capture): tokens(models[where], decoding, longer, (0, 1), capture)
            for where in models
            for capture in (True, False)
        }
        graphs, eager = made[device.type, True], made[device.type, False]
        alone = tokens(models[device], decoding, longer, (1,), True)
        yield {
            "decoding": decoding.label(preset.grid),
            "window": decoding.window,
            "graphs = eager": share(graphs, eager),
            **({"GPU = CPU": share(eager, made["cpu", False])} if weights == "float" else {}),
            "alone = in a batch": share(alone[0], graphs[1]),
        }


def tokens(
    loaded: Loaded, decoding: Decoding, frames: int, seeds: tuple[int, ...], capture: bool
) -> np.ndarray:
    """Codes int64 [B, T, h, w] of one random clip by several seeds."""
    preset = loaded.preset
    # of flat random logits a nucleus holds nearly all ids, which takes a CPU long
    request = loaded.request(frames, decoding=decoding, top_k=32, top_p=1.0)
    requests = [replace(request, seed=seed) for seed in seeds]
    codes = draw_codes(preset, preset.clip.context, 0)
    session = start_session(loaded, np.repeat(codes[None], len(seeds), axis=0), requests)
    session.capture = capture
    for _ in session.extend(preset.new_latents(frames), decoding):
        pass
    return session.codes


def share(a: np.ndarray, b: np.ndarray) -> float:
    """Of tokens that are equal."""
    return float(np.mean(a == b))


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
        if tiny:
            decoding = replace(decoding, k=min(decoding.k, 2), d=min(decoding.d, 3))
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
    codes = draw_codes(preset, preset.clip.context, 0)
    for decoding in (
        NTP,
        *(Decoding("exact", width=width) for width in ((8,) if tiny else (32, 64, 128, 256))),
    ):
        request = loaded.request(preset.tokenizer.temporal, decoding=decoding)
        session = start_session(loaded, codes[None], [request])
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
    rest, codes = preset.actions.rest, draw_codes(preset, preset.clip.context, 0)
    for decoding in (
        Decoding("diagd", 2, 10, window="slide"),
        Decoding("diagd", 1, 5, window="slide"),
    ):
        if tiny:
            decoding = replace(decoding, d=3)
        request = loaded.request(preset.clip.frames, decoding=decoding)
        session = start_session(loaded, codes[None], [request], remember=False)
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


def graphs(session: Session) -> int:
    """How many have been captured."""
    assert session._state is not None
    return len(getattr(session._state.run, "graphs", ()))


def allocated(device: torch.device) -> float:
    """Megabytes that tensors take on a GPU; 0 on a CPU."""
    return torch.cuda.memory_allocated(device) / 1e6 if device.type == "cuda" else 0.0


def capture(loaded: Loaded, request: Request, steps: int) -> float:
    """Seconds until the graphs of the first steps are captured, those steps included."""
    codes = draw_codes(loaded.preset, loaded.preset.clip.context, 0)
    session = start_session(loaded, codes[None], [request])
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
        if tiny:
            decoding = replace(decoding, k=min(decoding.k, 2), d=min(decoding.d, 3))
        request = loaded.request(3 * preset.tokenizer.temporal, decoding=decoding)
        codes = draw_codes(preset, preset.clip.context, 0)
        session = start_session(loaded, codes[None], [request])
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
        spent = {
            (event.key, event.count): (
                event.self_device_time_total if on_device else event.self_cpu_time_total
            )
            for event in kernels
        }
        total = sum(spent.values())
        label = decoding.label(preset.grid)
        yield {"decoding": label, "kernels a step": sum(n for _, n in spent) / PROFILED}
        for key, count in sorted(spent, key=lambda key: -spent[key])[:KERNELS]:
            own = spent[key, count]
            yield {
                "decoding": label,
                "kernel": key[:90],
                "a step": count / PROFILED,
                "ms/step": own / 1000 / PROFILED,
                "share": own / total,
            }


def of_device(event: FunctionEventAvg) -> bool:
    """Whether it ran on a GPU, and is not the operation on the host that asked for it."""
    return event.device_type == DeviceType.CUDA and not event.is_user_annotation


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
