"""The whole story in one place: clip -> tokens -> schedule -> engine steps -> tokens -> frames.

loaded = load("freedoom")
clip = read_clip("walk.mp4", context=loaded.preset.clip.context)
result = continue_clip(loaded, clip, Request(frames=16, decoding=loaded.preset.decoding.decoding, seed=0))
result.frames  # uint8 [context + 16, H, W, 3]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from diagd_cli.clip.fit import fit_frames
from diagd_cli.clip.read import Clip
from diagd_cli.config import Preset, load_preset
from diagd_cli.engine.sample import Sampling
from diagd_cli.engine.session import Session
from diagd_cli.errors import ClipError
from diagd_cli.model.transformer import Transformer
from diagd_cli.model.weights import load_tokenizer, load_transformer
from diagd_cli.schedule.decoding import Decoding

Stage = Callable[[str], AbstractContextManager]
OnSteps = Callable[[int, int], None]

FRAMES_AT_ONCE = 8  # frames whose pixels are decoded together: a long video's would not fit, and are no faster


@dataclass(frozen=True)
class Loaded:
    """A preset with its models on a device."""

    preset: Preset
    tokenizer: nn.Module
    transformer: Transformer
    device: torch.device
    dtype: torch.dtype
    seconds: float


@dataclass(frozen=True)
class Request:
    """What to make of a clip. `actions`: the name of the action after each frame of context + continuation."""

    frames: int
    decoding: Decoding
    seed: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    actions: list[str] | None = None


@dataclass
class Result:
    """frames uint8 [context + new, H, W, 3] as the tokenizer decodes them; codes int64 [T, h, w]; seconds by stage."""

    frames: np.ndarray
    codes: np.ndarray
    context: int
    steps: int
    tokens: int
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def rates(self) -> dict[str, float]:
        """Throughput of the decode stage alone."""
        decode = max(self.seconds["decode"], 1e-9)
        return {
            "tokens_per_second": self.tokens / decode,
            "frames_per_second": (len(self.frames) - self.context) / decode,
            "ms_per_step": 1000 * decode / self.steps,
        }


def load(preset: str | Preset, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Loaded:
    """Load a preset's models, by name, path or object. Raises PresetError, WeightsError."""
    started = time.perf_counter()
    preset = preset if isinstance(preset, Preset) else load_preset(preset)
    device = torch.device(device)
    models = load_tokenizer(preset, device, dtype), load_transformer(preset, device, dtype)
    return Loaded(preset, *models, device, dtype, time.perf_counter() - started)


def continue_clip(
    loaded: Loaded,
    clip: Clip,
    request: Request,
    stage: Stage = lambda name: nullcontext(),
    on_steps: OnSteps | None = None,
) -> Result:
    """Continue a clip by `request.frames` frames. `stage(name)` surrounds each stage; on_steps(done, total) follows each step."""
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable):
        started = time.perf_counter()
        with stage(name):
            value = work()
            if loaded.device.type == "cuda":
                torch.cuda.synchronize(loaded.device)
        seconds[name] = time.perf_counter() - started
        return value

    codes = timed("encode", lambda: encode(loaded, clip))
    session = start_session(loaded, codes, request)
    with stage("decode"):
        total = session.steps(request.frames, request.decoding)
        for done in session.extend(request.frames, request.decoding):
            if on_steps:
                on_steps(done, total)
    seconds |= {"prefill": session.times.prefill, "decode": session.times.decode}
    frames = timed("pixels", lambda: to_frames(loaded, session.codes[0]))
    return Result(frames, session.codes[0], len(codes), session.times.steps, session.times.tokens, seconds)


def encode(loaded: Loaded, clip: Clip) -> np.ndarray:
    """Codes int64 [T, h, w] of a clip's context frames. Raises ClipError where there are too few."""
    preset = loaded.preset
    if len(clip.frames) < preset.clip.context:
        hint = f"The preset {preset.name} needs {preset.clip.context}"
        raise ClipError(f"{clip.path} gives {len(clip.frames)} context frame(s)", hint)
    return loaded.tokenizer.encode(fit_frames(clip.frames, preset.clip.height, preset.clip.width)).cpu().numpy()


def to_frames(loaded: Loaded, codes: np.ndarray) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] of codes int64 [T, h, w]."""
    single = loaded.preset.tokenizer.temporal == 1  # else a frame's pixels depend on the frames before it
    parts = torch.from_numpy(codes).to(loaded.device).split(FRAMES_AT_ONCE if single else len(codes))
    return np.concatenate([loaded.tokenizer.decode(part).cpu().numpy() for part in parts])


def start_session(loaded: Loaded, codes: np.ndarray, request: Request) -> Session:
    """A session of one clip that stands after its context."""
    preset = loaded.preset
    conditioning = np.zeros((1, len(codes) + request.frames, preset.grid.conditioning), dtype=np.int64)
    if preset.actions:
        names = (request.actions or []) + [preset.actions.none] * conditioning.shape[1]
        conditioning[0, :, 0] = [preset.actions.token(name) for name in names[: conditioning.shape[1]]]
    sampling = Sampling(preset.tokenizer.codebook, request.temperature, request.top_k, request.top_p)
    return Session(
        loaded.transformer,
        preset.grid,
        codes[None],
        conditioning,
        [request.seed],
        sampling,
        window=preset.clip.window,
        overlap=preset.clip.overlap,
    )
