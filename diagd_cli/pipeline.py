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
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from diagd_cli.clip.fit import fit_frames, fit_pixels
from diagd_cli.clip.image import stamped
from diagd_cli.clip.read import Clip
from diagd_cli.config import Preset, load_preset
from diagd_cli.engine.sample import Sampling
from diagd_cli.engine.session import Session
from diagd_cli.model.linear import pack
from diagd_cli.model.transformer import Transformer
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.tokens.config import CosmosDvConfig
from diagd_cli.tokens.cosmos import to_pixels
from diagd_cli.weights.load import load_tokenizer, load_transformer, random_tokenizer, random_transformer

Stage = Callable[[str], AbstractContextManager]
OnSteps = Callable[[int, int], None]

FRAMES_AT_ONCE = 8  # frames whose pixels are decoded together: a long video's would not fit, and are no faster


@dataclass(frozen=True)
class Loaded:
    """A preset with its models on a device; `dtype` is the Transformer's."""

    preset: Preset
    tokenizer: nn.Module
    transformer: Transformer
    device: torch.device
    dtype: torch.dtype
    seconds: float


@dataclass(frozen=True, eq=False)
class Request:
    """What to make of a clip.

    `actions`: rows int64 [context + frames, A], the tokens after each frame. `text`: embedding float [N, cross_dim].
    """

    frames: int
    decoding: Decoding
    seed: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    top_p_rule: str = "nucleus"
    actions: np.ndarray | None = None
    text: Tensor | None = None


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


def load(
    preset: str | Preset,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    folder: Path | None = None,
    random: int | None = None,
) -> Loaded:
    """Load a preset's models, by name, path or object; or with `random`, a seed, make up their weights.

    folder: where weight files are looked for first. Raises PresetError, WeightsError.
    """
    started = time.perf_counter()
    preset = preset if isinstance(preset, Preset) else load_preset(preset)
    device = torch.device(device)
    codec = torch.float32 if device.type == "cpu" else dtype  # convolutions in bfloat16 are slow or missing on CPUs
    if random is None:
        tokenizer = load_tokenizer(preset, device, codec, folder=folder)
        transformer = load_transformer(preset, device, dtype, folder=folder)
    else:
        tokenizer = random_tokenizer(preset, random, device, codec)
        transformer = random_transformer(preset, random, device, dtype)
    return Loaded(preset, tokenizer, pack(transformer), device, dtype, time.perf_counter() - started)


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
    new = loaded.preset.new_latents(request.frames)
    session = start_session(loaded, codes, request)
    with stage("decode"):
        total = session.steps(new, request.decoding)
        for done in session.extend(new, request.decoding):
            if on_steps:
                on_steps(done, total)
    seconds |= {"prefill": session.times.prefill, "decode": session.times.decode}
    context = len(clip.frames)
    frames = timed("pixels", lambda: to_frames(loaded, session.codes[0])[: context + request.frames])
    return Result(frames, session.codes[0], context, session.times.steps, session.times.tokens, seconds)


@torch.inference_mode()
def encode(loaded: Loaded, clip: Clip) -> np.ndarray:
    """Codes int64 [T, h, w] of a clip's context frames. Raises UsageError for a number that the preset does not take."""
    preset = loaded.preset
    preset.check_frames(len(clip.frames), 0)
    return encode_frames(loaded, clip.frames).cpu().numpy()


def encode_frames(loaded: Loaded, frames: np.ndarray) -> Tensor:
    """Codes int64 [T, h, w] of frames uint8 [F, H, W, 3] of any size, brought to the preset's as its official code does."""
    size = loaded.preset.clip.height, loaded.preset.clip.width
    if not isinstance(loaded.preset.tokenizer, CosmosDvConfig):
        return loaded.tokenizer.encode(fit_frames(frames, *size))
    pixels = to_pixels(torch.from_numpy(np.ascontiguousarray(frames)))  # Cosmos scales them before they are rounded
    return loaded.tokenizer.encode_pixels(fit_pixels(pixels[0].movedim(0, 1), *size).movedim(0, 1)[None])[0]


@torch.inference_mode()
def to_frames(loaded: Loaded, codes: np.ndarray) -> np.ndarray:
    """Frames uint8 [F, H, W, 3] of codes int64 [T, h, w], with the preset's stamp."""
    single = loaded.preset.tokenizer.temporal == 1  # else a frame's pixels depend on the frames before it
    parts = torch.from_numpy(codes).to(loaded.device).split(FRAMES_AT_ONCE if single else len(codes))
    frames = np.concatenate([loaded.tokenizer.decode(part).cpu().numpy() for part in parts])
    return stamped(frames, loaded.preset.stamp) if loaded.preset.stamp else frames


@torch.inference_mode()
def start_session(loaded: Loaded, codes: np.ndarray, request: Request) -> Session:
    """A session of one clip that stands after its context, codes int64 [T, h, w]."""
    preset, model = loaded.preset, loaded.transformer
    length = len(codes) + preset.new_latents(request.frames)
    conditioning = np.zeros((1, length, preset.grid.conditioning), dtype=np.int64)
    if preset.actions:
        rows = np.tile(preset.actions.rest, (length, 1)) if request.actions is None else request.actions
        conditioning[0] = rows[:length]
    sampling = Sampling(
        preset.tokenizer.codebook,
        request.temperature,
        request.top_k,
        request.top_p,
        request.top_p_rule,
        preset.decoding.first,
    )
    cross = None
    if preset.text:
        shape = preset.text.length, preset.transformer.cross_dim
        text = torch.zeros(shape) if request.text is None else request.text
        cross = model.cross_context(text[None].to(loaded.device, loaded.dtype))
    return Session(
        model,
        preset.grid,
        codes[None],
        conditioning,
        [request.seed],
        sampling,
        window=preset.window,
        overlap=preset.overlap,
        prefix=np.array(preset.prefix, dtype=np.int64),
        cross=cross,
    )
