"""What the benchmarks share: models of a family's shape, timed plans, interleaved repeats,
reports.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from diagd_cli import Decoding, Plan, Preset, Sampler, Sampling, build_plan, load_preset
from diagd_cli.device import has_compiler, native_bfloat16  # noqa: F401  (scripts ask whether there is one)
from diagd_cli.engine.decode import decode, prefill
from diagd_cli.jobs.benchmark.machine import processor
from diagd_cli.model.transformer import Transformer

RESULTS = Path(__file__).parent / "results"
TUNED = {"freezing": True, "max_autotune": True}  # of torch.compile, for inference on CPUs
LIBRARIES = ("torch", "transformers", "numpy")
TOKEN = 16  # pixels of a frame that one of MineWorld's tokens stands for, each way
# MineWorld's Transformers by size: rows and columns of tokens a frame, and the shape; `tiny` is to
# try a script
SIZES = {
    "tiny": (
        (4, 6),
        {"dim": 64, "mlp_dim": 128, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16},
    ),
    "512": (
        (14, 24),
        {"dim": 512, "mlp_dim": 2048, "layers": 8, "heads": 8, "kv_heads": 4, "head_dim": 64},
    ),
    "300m": (
        (14, 24),
        {"dim": 1024, "mlp_dim": 4096, "layers": 20, "heads": 16, "kv_heads": 4, "head_dim": 64},
    ),
}


# ---- presets -------------------------------------------------------------------------------------


def vary(preset: str | Preset, **changes) -> Preset:
    """A preset, or the shipped one of that name, with some keys changed; a mapping changes the keys
    that it names.
    """
    raw = (load_preset(preset) if isinstance(preset, str) else preset).model_dump()
    for key, change in changes.items():
        raw[key] = {**raw[key], **change} if isinstance(change, dict) else change
    return Preset.model_validate(raw)


def mineworld(size: str, frames: int) -> Preset:
    """MineWorld's geometry at one of SIZES, for `frames` frames in all, the first of which is the
    context.
    """
    (h, w), shape = SIZES[size]
    clip = {
        "height": TOKEN * h,
        "width": TOKEN * w,
        "frames": frames - 1,
        "window": frames,
        "overlap": 0,
    }
    return vary("mineworld-300m", clip=clip, transformer=shape)


def plain_mineworld(size: str, frames: int) -> Preset:
    """The same as a language model has it: no actions between frames, any of the vocabulary may
    follow.
    """
    return vary(mineworld(size, frames), actions=None, transformer={"outputs": 0})


def greedy(preset: Preset) -> Sampling:
    """The most probable of all tokens that the Transformer can make."""
    return Sampling(preset.transformer.logits, temperature=0)


@torch.no_grad()
def enliven(embedding: torch.nn.Embedding) -> None:
    """Enlarge random embeddings, so that greedy tokens vary and depend on the prompt; else one is
    made for ever.
    """
    embedding.weight.mul_(20)


@torch.no_grad()
def sharpen(model: Transformer) -> Transformer:
    """Enlarge random logits, so that a nucleus holds some tokens, as a trained model's does; else
    it is most of all.
    """
    model.head.weight.mul_(8)
    return model


# ---- timing --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lap:
    """Seconds that `steps` forward passes took, which made `tokens` tokens; `ids` are they, for
    comparisons.
    """

    seconds: float
    steps: int
    tokens: int
    ids: list[int] = field(default_factory=list)
    prefill: float = 0.0


class Prompted:
    """A clip after its context, which is fed once: any plan may go on from there, as often as one
    likes.

    tokens: int64 [1, L], random codes in all frames and, where there are actions, the row of rest
    after each.
    """

    def __init__(self, preset: Preset, model: Transformer, context: int, frames: int):
        grid, self.model = preset.grid, model
        self.grid, self.context, self.frames = grid, context, frames
        shape = context + frames, grid.h, grid.w
        codes = np.random.default_rng(0).integers(preset.tokenizer.codebook, size=shape)
        rows = np.tile(preset.actions.rest, (len(codes), 1)) if preset.actions else None
        self.tokens = torch.from_numpy(
            grid.flatten(codes, rows, np.array(preset.prefix, dtype=np.int64))
        )[None]
        self.cache = model.new_cache(1, self.tokens.shape[1])
        known = self.plan(Decoding("ntp")).prefill
        prefill(model, self.cache, self.tokens, np.arange(known))

    @property
    def prompt(self) -> torch.Tensor:
        """The tokens before the first new one, int64 [1, L]."""
        return self.tokens[:, : self.grid.length(self.context)]

    def plan(self, decoding: Decoding) -> Plan:
        return build_plan(self.grid, self.context, self.frames, decoding)

    def run(self, plan: Plan, sampling: Sampling) -> Lap:
        """Execute a plan; its first step, which sets things up, is not timed."""
        tokens, choose = self.tokens.clone(), Sampler(sampling, [0], self.grid)
        steps = decode(self.model, plan, self.cache, tokens, choose)
        next(steps)
        started = time.perf_counter()
        for _ in steps:
            pass
        seconds = time.perf_counter() - started
        made = np.sort(plan.target[plan.target >= 0])
        return Lap(seconds, plan.steps - 1, int(plan.outputs[1:].sum()), tokens[0, made].tolist())


def pick(plan: Plan, steps: np.ndarray) -> Plan:
    """The plan of some of its steps alone, int64 ascending: each is as much work as in the whole
    plan.

    With the first n it is the plan's beginning. With others the tokens mean nothing: what only the
    steps between would have fed is seen as whatever the cache holds there.
    """
    starts, ends = plan.starts[steps], plan.starts[steps + 1]
    feeds = np.concatenate([np.arange(start, end) for start, end in zip(starts, ends, strict=True)])
    return replace(
        plan,
        source=plan.source[feeds],
        position=plan.position[feeds],
        target=plan.target[feeds],
        starts=np.append(0, np.cumsum(ends - starts)),
        outputs=plan.outputs[steps],
        first_write=np.where(plan.first_write < 0, -1, np.searchsorted(steps, plan.first_write)),
    )


def interleave(contestants: dict[str, Callable[[], Lap]], repeats: int) -> dict[str, list[Lap]]:
    """Everyone once, uncounted, to warm up; then all in turn `repeats` times, so that a disturbance
    hits all.
    """
    laps: dict[str, list[Lap]] = {name: [] for name in contestants}
    for turn in range(repeats + 1):
        for name, run in contestants.items():
            lap = run()
            if turn:
                laps[name].append(lap)
    return laps


def median(laps: list[Lap]) -> Lap:
    """The lap of median time; of an even number, the faster of the middle two."""
    return sorted(laps, key=lambda lap: lap.seconds)[(len(laps) - 1) // 2]


def figures(laps: list[Lap]) -> dict:
    """What every table says of a contestant: its median, and the slowest and the fastest lap."""
    lap, rates = median(laps), sorted(lap.tokens / lap.seconds for lap in laps)
    return {
        "steps timed": lap.steps,
        "ms/step": 1000 * lap.seconds / lap.steps,
        "tokens/s": lap.tokens / lap.seconds,
        "slowest": rates[0],
        "fastest": rates[-1],
    }


# ---- options and reports -------------------------------------------------------------------------


def options(about: str, repeats: int = 3) -> argparse.ArgumentParser:
    """A parser with the options that all scripts have."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--repeats", type=int, default=repeats, help="rounds in which all contestants take turns"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON file")
    return parser


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    return args


def machine() -> dict:
    """What the figures depend on: the processor, its load, the threads in use, versions."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "native_bfloat16": native_bfloat16(),
        "load": round(os.getloadavg()[0], 2),  # near the number of threads: nobody else was at work
        "platform": platform.platform(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
    }


def report(name: str, args: argparse.Namespace, rows: list[dict]) -> None:
    """Print the rows as a Markdown table, and write them as JSON with the settings and the
    machine.
    """
    settings = {key: value for key, value in vars(args).items() if key != "out"}
    args.out.mkdir(parents=True, exist_ok=True)
    facts = {"benchmark": name, "settings": settings, "machine": machine(), "rows": rows}
    (args.out / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(table(rows))


def table(rows: list[dict]) -> str:
    """A Markdown table of rows that share their keys."""
    columns = list(rows[0])
    lines = [
        columns,
        ["---"] * len(columns),
        *([_cell(row[column]) for column in columns] for row in rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)
