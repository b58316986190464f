"""The whole story in one place: clip -> tokens -> schedule -> engine steps -> tokens -> frames.

loaded = load("freedoom")
clip = read_clip("walk.mp4", context=loaded.preset.clip.context)
result = continue_clip(loaded, clip, loaded.request(frames=16, seed=0, clip=clip))
result.frames  # uint8 [context + 16, H, W, 3]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from diagd_cli.clip.image import stamped
from diagd_cli.clip.read import Clip
from diagd_cli.device import choose_device, choose_dtype, peak_memory, require_compiler
from diagd_cli.errors import UsageError
from diagd_cli.model.linear import pack
from diagd_cli.model.transformer import Transformer
from diagd_cli.preset import Preset, load_preset
from diagd_cli.schedule.decoding import SAMPLING, Decoding
from diagd_cli.start import start_session
from diagd_cli.stream import OnFrames, PixelStream
from diagd_cli.tokens.actions import clip_actions
from diagd_cli.tokens.fit import fit_frames
from diagd_cli.weights.load import load_tokenizer, load_transformer, random_tokenizer, random_transformer
from diagd_cli.weights.memory import codec_dtype
from diagd_cli.weights.parameters import transformer_parameters

Stage = Callable[[str], AbstractContextManager]
OnSteps = Callable[[int, int], None]

FRAMES_AT_ONCE = 8  # frames whose pixels are decoded together: a long video's would not fit, and are no faster


@dataclass(frozen=True)
class Loaded:
    """A preset with its models on a device; `dtype` is the Transformer's. seconds: of loading; compile_seconds: of `warm_up`.

    base: peak bytes of this process before it was loaded.
    """

    preset: Preset
    tokenizer: nn.Module | None
    transformer: Transformer
    device: torch.device
    dtype: torch.dtype
    seconds: float
    compile_seconds: float = 0.0
    base: int = 0

    def request(
        self,
        frames: int | None = None,
        seed: int = 0,
        *,
        clip: Clip | None = None,
        actions: np.ndarray | str | None = None,
        decoding: Decoding | None = None,
        text: Tensor | None = None,
        **sampling,
    ) -> Request:
        """What `diagd generate` asks for: the preset's frames, decoding and sampling where nothing else is given.

        clip: what is to be continued; the actions recorded beside it steer, as far as they go. actions: those of the new
        frames, as --actions takes them, for which the clip is needed; or rows int64 [context + frames, A], used as they
        are. sampling: temperature, top_k, top_p, top_p_rule. Raises UsageError; TypeError for another name.
        """
        preset = self.preset
        frames = preset.clip.frames if frames is None else frames
        if clip is None and isinstance(actions, str):
            raise UsageError("actions as text lead on from a clip", "Give the clip too: request(clip=clip, ...)")
        if clip is not None and (actions is None or isinstance(actions, str)):
            asked = preset.parse_actions(actions)
            actions = clip_actions(clip.path, preset.actions, asked, clip.first, len(clip.frames), frames)
        request = Request(frames, decoding or preset.decoding.decoding, seed, actions=actions, text=text, **sampling)
        return replace(request, **preset.decoding.sampling_with(**request.sampling))


@dataclass(frozen=True, eq=False)
class Request:
    """What to make of a clip; `Loaded.request` makes one. What is None of the sampling is the preset's.

    `actions`: rows int64 [context + frames, A], the tokens after each frame. `text`: embedding float [N, cross_dim].
    """

    frames: int
    decoding: Decoding
    seed: int
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    top_p_rule: str | None = None
    actions: np.ndarray | None = None
    text: Tensor | None = None

    @property
    def sampling(self) -> dict:
        """What is said of the sampling, by name."""
        return {name: getattr(self, name) for name in SAMPLING}


@dataclass
class Result:
    """pixels uint8 [context + new, H, W, 3] as the tokenizer decodes them; codes int64 [T, h, w]; seconds by stage.

    frames: the same with the preset's `stamp`, to be shown; `pixels` are there to be measured.
    steps, seconds and rates are those of the whole batch of `batch` clips; tokens are this clip's. began: when the decode
    began, as time.perf_counter() tells it. first_frame: seconds from there until the pixels of the first new frame.
    completed: seconds of decoding, prefill not counted, after which each new latent frame had all its tokens.
    """

    pixels: np.ndarray
    codes: np.ndarray
    context: int
    steps: int
    tokens: int
    seconds: dict[str, float] = field(default_factory=dict)
    batch: int = 1
    began: float = 0.0
    first_frame: float = 0.0
    completed: list[float] = field(default_factory=list)
    stamp: str = ""

    @cached_property
    def frames(self) -> np.ndarray:
        """What may be shown: uint8 [context + new, H, W, 3], stamped where a licence asks for it."""
        return stamped(self.pixels, self.stamp)

    @property
    def rates(self) -> dict[str, float]:
        """Throughput of the decode stage alone, over all clips of the batch."""
        decode = max(self.seconds["decode"], 1e-9)
        return {
            "tokens_per_second": self.batch * self.tokens / decode,
            "frames_per_second": self.batch * (len(self.pixels) - self.context) / decode,
            "ms_per_step": 1000 * decode / self.steps,
        }


def load(
    preset: str | Preset,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float32,
    *,
    folder: Path | None = None,
    random: int | None = None,
    pixels: bool = True,
    compile: bool = False,
) -> Loaded:
    """Load a preset's models, by name, path or object; or with `random`, a seed, make up their weights.

    device, dtype: "auto" is what the command line chooses. folder: where weight files are looked for first. Without
    `pixels` the tokenizer is left out (None). compile: the Transformer's blocks go through torch.compile when they are
    first used (see `warm_up`), instead of the packed products. Raises PresetError, WeightsError; UsageError and DiagdError
    for a device that is not there.
    """
    started, base = time.perf_counter(), peak_memory(torch.device("cpu"))["host"]
    preset = preset if isinstance(preset, Preset) else load_preset(preset)
    device, tokenizer = choose_device(str(device)), None
    if isinstance(dtype, str):
        dtype = choose_dtype(dtype, device, transformer_parameters(preset.transformer, preset.positions))
    codec = torch.float32 if codec_dtype(device, dtype) == "float32" else dtype
    if random is None:
        if pixels:
            tokenizer = load_tokenizer(preset, device, codec, folder=folder)
        transformer = load_transformer(preset, device, dtype, folder=folder)
    else:
        if pixels:
            tokenizer = random_tokenizer(preset, random, device, codec)
        transformer = random_transformer(preset, random, device, dtype)
    if compile:
        require_compiler("--compile", "leave it out")
        for block in transformer.blocks:  # one by one: they are alike, so that one compilation serves all
            block.compile(dynamic=True)
    else:
        pack(transformer)
    return Loaded(preset, tokenizer, transformer, device, dtype, time.perf_counter() - started, base=base)


def warm_up(loaded: Loaded, request: Request, context: int, batch: int = 1) -> Loaded:
    """Make one latent frame after `context` ones of zeros, and drop it: what compiles, compiles; the time is noted."""
    started, grid = time.perf_counter(), loaded.preset.grid
    requests = [replace(request, frames=loaded.preset.tokenizer.temporal, actions=None, text=None)] * batch
    session = start_session(loaded, np.zeros((batch, context, grid.h, grid.w), dtype=np.int64), requests)
    for _ in session.extend(1, request.decoding):
        pass
    return replace(loaded, compile_seconds=loaded.compile_seconds + time.perf_counter() - started)


def continue_clip(
    loaded: Loaded,
    clip: Clip,
    request: Request,
    stage: Stage = lambda name: nullcontext(),
    on_steps: OnSteps | None = None,
    **options,
) -> Result:
    """Continue a clip by `request.frames` frames; `continue_clips` of one clip, which tells the options."""
    return continue_clips(loaded, [clip], [request], stage, on_steps, **options)[0]


def continue_clips(
    loaded: Loaded,
    clips: list[Clip],
    requests: list[Request],
    stage: Stage = lambda name: nullcontext(),
    on_steps: OnSteps | None = None,
    *,
    on_frames: OnFrames | None = None,
    kv_dtype: torch.dtype | None = None,
    offload: bool = False,
) -> list[Result]:
    """Continue clips of equally many context frames in one batch; each gets the tokens that it gets alone.

    requests: one a clip, which differ in seed, actions and text only; else ValueError. `stage(name)` surrounds each stage;
    on_steps(done, total) follows each step. on_frames(clip, frames uint8 [F, H, W, 3]): takes each clip's frames in order
    while later ones are made, on a thread of its own; without it all pixels are decoded at the end. kv_dtype: of the
    cache; None is the model's. offload: a tokenizer on CUDA waits in main memory while tokens are made.
    """
    _check_batch(loaded.preset, clips, requests, on_frames, offload)
    request, context, seconds = requests[0], len(clips[0].frames), {}
    total, new = context + request.frames, loaded.preset.new_latents(request.frames)
    with _timed(loaded, stage, seconds, "encode"):
        codes = np.stack([encode(loaded, clip) for clip in clips])
    began = time.perf_counter()
    with ExitStack() as open_stream:
        stream = None
        if on_frames:
            causal = loaded.preset.tokenizer.temporal > 1
            stream = PixelStream(
                lambda part: to_frames(loaded, part), causal, len(clips), context, total, loaded.device,
                lambda clip, frames: on_frames(clip, stamped(frames, loaded.preset.stamp)),
            )  # fmt: skip
            open_stream.enter_context(stream)
        with stage("decode"), aside(loaded, offload):
            session = start_session(loaded, codes, requests, kv_dtype)
            steps = session.steps(new, request.decoding)
            for done in session.extend(new, request.decoding):
                if stream:
                    stream.feed(session)
                if on_steps:
                    on_steps(done, steps)
            session.release()
        seconds |= {"prefill": session.times.prefill, "decode": session.times.decode}
        with _timed(loaded, stage, seconds, "pixels"):
            if stream:
                frames, shown = stream.finish(session), stream.shown
            else:
                frames = [to_frames(loaded, own)[:total] for own in session.codes]
                shown = [time.perf_counter()] * len(clips)
    times, stamp = session.times, loaded.preset.stamp
    counts = context, times.steps, times.tokens // len(clips)
    return [
        Result(pixels, own, *counts, dict(seconds), len(clips), began, first - began, list(times.completed), stamp)
        for pixels, own, first in zip(frames, session.codes, shown, strict=True)
    ]


def _check_batch(
    preset: Preset, clips: list[Clip], requests: list[Request], on_frames: OnFrames | None, offload: bool
) -> None:
    if len(clips) != len(requests) or not clips:
        raise ValueError(f"{len(clips)} clips and {len(requests)} requests: needs one request a clip, and a clip")
    if len({len(clip.frames) for clip in clips}) > 1:
        raise ValueError(f"clips of a batch have {[len(clip.frames) for clip in clips]} context frames")
    rules = [(r.frames, r.decoding, preset.decoding.sampling_with(**r.sampling)) for r in requests]
    if any(rule != rules[0] for rule in rules):
        raise ValueError("requests of a batch may differ in seed, actions and text only")
    if on_frames and offload:
        raise ValueError("frames cannot be decoded while the tokenizer is offloaded")


@contextmanager
def _timed(loaded: Loaded, stage: Stage, seconds: dict[str, float], name: str) -> Iterator[None]:
    """Surround a stage and note how long it takes, the device's work included."""
    started = time.perf_counter()
    with stage(name):
        yield
        if loaded.device.type == "cuda":
            torch.cuda.synchronize(loaded.device)
        seconds[name] = time.perf_counter() - started


@contextmanager
def aside(loaded: Loaded, wanted: bool = True) -> Iterator[None]:
    """Keep the tokenizer in main memory for the time of the block; nothing happens where it is there anyway."""
    if not wanted or loaded.device.type == "cpu":
        yield
        return
    try:
        loaded.tokenizer.to("cpu")
        torch.cuda.empty_cache()
        yield
    finally:
        loaded.tokenizer.to(loaded.device)


@torch.inference_mode()
def encode(loaded: Loaded, clip: Clip) -> np.ndarray:
    """Codes int64 [T, h, w] of a clip's context frames. Raises UsageError for a number that the preset does not take."""
    preset = loaded.preset
    preset.check_frames(len(clip.frames), 0)
    return encode_frames(loaded, clip.frames).cpu().numpy()


def encode_frames(loaded: Loaded, frames: np.ndarray) -> Tensor:
    """Codes int64 [T, h, w] of frames uint8 [F, H, W, 3] of any size, brought to the preset's as its official code does."""
    size = loaded.preset.clip.height, loaded.preset.clip.width
    resizes = getattr(loaded.tokenizer, "encode_resized", None)
    return resizes(frames, *size) if resizes else loaded.tokenizer.encode(fit_frames(frames, *size))


@torch.inference_mode()
def to_frames(loaded: Loaded, codes: np.ndarray) -> np.ndarray:
    """Frames uint8 [F, H, W, 3] of codes int64 [T, h, w], without the preset's stamp."""
    single = loaded.preset.tokenizer.temporal == 1  # else a frame's pixels depend on the frames before it
    parts = torch.from_numpy(codes).to(loaded.device).split(FRAMES_AT_ONCE if single else len(codes))
    return np.concatenate([loaded.tokenizer.decode(part).cpu().numpy() for part in parts])
