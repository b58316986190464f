"""The whole story in one place: clip -> tokens -> schedule -> engine steps -> tokens -> frames.

loaded = load("freedoom")
clip = read_clip("walk.mp4", context=loaded.preset.clip.context)
result = continue_clip(loaded, clip, loaded.request(frames=16, seed=0, clip=clip))
result.frames  # uint8 [context + 16, H, W, 3]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import replace
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from diagd_cli.clip.image import stamped
from diagd_cli.clip.read import Clip
from diagd_cli.conditions import texts_of
from diagd_cli.distributed import gathered, is_lost, tell
from diagd_cli.engine.session import Session, Steer
from diagd_cli.errors import PeersLost
from diagd_cli.explain import explain
from diagd_cli.free_memory import give_back
from diagd_cli.loading import Loaded, Request, load
from diagd_cli.preset import Preset
from diagd_cli.result import Result
from diagd_cli.stream import OnFrames, PixelStream
from diagd_cli.tokens.fit import fit_frames
from diagd_cli.tokens.protocols import Tokenizer

__all__ = [
    "Loaded",
    "Request",
    "Result",
    "continue_clip",
    "continue_clips",
    "encode",
    "encode_frames",
    "load",
    "start_session",
    "to_frames",
    "warm_up",
]

Stage = Callable[[str], AbstractContextManager]
OnSteps = Callable[[int, int], None]

# frames whose pixels are decoded together: a long video's would not fit, and are no faster
FRAMES_AT_ONCE = 8


def warm_up(loaded: Loaded, request: Request, context: int, batch: int = 1) -> Loaded:
    """Make one latent frame after `context` ones of zeros, and drop it: what compiles, compiles;
    the time is noted.
    """
    started, grid = time.perf_counter(), loaded.preset.grid
    requests = [
        replace(request, frames=loaded.preset.tokenizer.temporal, actions=None, text=None)
    ] * batch
    session = start_session(
        loaded, np.zeros((batch, context, grid.h, grid.w), dtype=np.int64), requests
    )
    for _ in session.extend(1, request.decoding):
        pass
    return replace(loaded, compile_seconds=loaded.compile_seconds + time.perf_counter() - started)


def continue_clip(
    loaded: Loaded,
    clip: Clip,
    request: Request,
    stage: Stage = lambda name: nullcontext(),
    on_steps: OnSteps | None = None,
    **options: Any,
) -> Result:
    """Continue a clip by `request.frames` frames; `continue_clips` of one clip, which tells the
    options.
    """
    return continue_clips(loaded, [clip], [request], stage, on_steps, **options)[0]


def continue_clips(
    loaded: Loaded,
    clips: list[Clip],
    requests: list[Request],
    stage: Stage = lambda name: nullcontext(),
    on_steps: OnSteps | None = None,
    *,
    on_frames: OnFrames | None = None,
    on_codes: OnFrames | None = None,
    hold: bool = True,
    stoppable: bool = False,
    kv_dtype: torch.dtype | None = None,
    offload: bool = False,
) -> list[Result]:
    """Continue clips of equally many context frames in one batch; each gets the tokens that it gets
    alone.

    requests: one a clip; they differ in seed, actions, text and label only, else ValueError.
    stage: stage(name) surrounds each of "encode", "decode" and "pixels".
    on_steps: on_steps(done, total) follows each step.
    on_frames: on_frames(clip, frames uint8 [F, H, W, 3]) takes each clip's frames in order while
        later ones are made, on a thread of its own; without it all are decoded at the end.
    on_codes: on_codes(clip, codes int64 [T, h, w]) takes each clip's codes in order, context
        included, where there is `on_frames`.
    hold: whether frames and codes stay; without it, for which somebody must take the frames, memory
        does not grow with their number.
    stoppable: where frames are taken, Ctrl-C ends the work with what has been made, once there is
        something; else it is raised.
    kv_dtype: of the cache; None is the model's.
    offload: whether a tokenizer on CUDA waits in main memory while tokens are made.
    """
    _check_batch(loaded.preset, clips, requests, on_frames, offload)
    request, context = requests[0], len(clips[0].frames)
    seconds: dict[str, float] = {}
    total, new = context + request.frames, loaded.preset.new_latents(request.frames)
    with _timed(loaded, stage, seconds, "encode"):
        codes = np.stack([encode(loaded, clip) for clip in clips])
    began, stopped = time.perf_counter(), False
    causal = loaded.preset.tokenizer.temporal > 1
    with ExitStack() as open_stream:
        stream = None
        if on_frames:
            stream = PixelStream(
                lambda part: to_frames(loaded, part),
                causal, len(clips), context, total, loaded.device,
                lambda clip, frames: on_frames(clip, stamped(frames, loaded.preset.stamp)),
                on_codes, hold,
            )  # fmt: skip
            open_stream.enter_context(stream)
        with stage("decode"), aside(loaded, offload):
            remember = hold or causal  # of whose tokenizer a frame needs all before it
            asked = Asked(codes, requests, kv_dtype, remember)
            if loaded.mesh:
                tell(asked)
            with in_step(loaded, asked) as (session, running):
                steps, known = session.steps(new, request.decoding), session.latents
                try:
                    for done in running:
                        if stream:
                            stream.feed(session)
                        if on_steps:
                            on_steps(done, steps)
                except KeyboardInterrupt:
                    if not (stream and stoppable and session.latents > known):
                        raise
                    stopped = True
            session.release()
            give_back()  # the pixels of large frames want more than any step had
        seconds |= {"prefill": session.times.prefill, "decode": session.times.decode}
        with _timed(loaded, stage, seconds, "pixels"):
            if stream:
                frames, shown = stream.finish(session), stream.first_shown
            else:
                frames = [to_frames(loaded, own)[:total] for own in session.codes]
                shown = [time.perf_counter()] * len(clips)
    times, stamp = session.times, loaded.preset.stamp
    made = min(request.frames, (session.latents - known) * loaded.preset.tokenizer.temporal)
    counts = context, made, times.steps, times.tokens // len(clips)
    return [
        Result(
            pixels,
            own,
            *counts,
            dict(seconds),
            len(clips),
            began,
            first - began,
            list(times.completed),
            stamp,
            stopped,
        )
        for pixels, own, first in zip(frames, session.codes, shown, strict=True)
    ]


class Asked(NamedTuple):
    """What the processes that hold a Transformer together are told of a batch, see
    `start_session`.
    """

    codes: np.ndarray
    requests: list[Request]
    kv_dtype: torch.dtype | None
    remember: bool


@contextmanager
def in_step(loaded: Loaded, asked: Asked) -> Iterator[tuple[Session, Iterator[int]]]:
    """A session, and the steps that it is going to take. Where processes hold the Transformer
    together, all of them take these, and none without the others.

    Raises PeersLost for whatever goes wrong with one of several meanwhile, and where they have made
    different tokens.
    """
    try:
        request, preset = asked.requests[0], loaded.preset
        session, new = start_session(loaded, *asked), preset.new_latents(request.frames)
        steer = _steer(preset, asked.requests)
        with closing(session.extend(new, request.decoding, steer)) as running:
            yield session, running
        if loaded.mesh and len(set(gathered(sha256(session.codes.tobytes()).hexdigest()))) > 1:
            raise PeersLost("The processes of --tp made different tokens", "Use GPUs of one kind")
    except Exception as error:
        if loaded.mesh is None or isinstance(error, PeersLost):
            raise
        lost = f"Another of the {loaded.mesh.size()} processes of --tp has ended"
        raise PeersLost(lost if is_lost(error) else explain(error)) from error


@torch.inference_mode()
def start_session(
    loaded: Loaded,
    codes: np.ndarray,
    requests: list[Request],
    kv_dtype: torch.dtype | None = None,
    remember: bool = True,
) -> Session:
    """A session of clips that stand after their context, codes int64 [B, T, h, w], with room for
    what is requested.

    remember: all latent frames, or the newest that the window holds.
    """
    preset, request = loaded.preset, requests[0]
    preset.check_window(request.decoding)
    length = codes.shape[1] + preset.new_latents(request.frames)
    window = min(preset.window, length)
    known = length if remember else codes.shape[1]  # the others are asked for when they are due
    texts = texts_of(loaded, requests)
    return Session(
        loaded.transformer,
        preset.grid,
        codes,
        np.stack([_conditioning(preset, r.actions, known) for r in requests]),
        [r.seed for r in requests],
        request.sampling or preset.sampling(),
        window=window,
        overlap=min(preset.overlap, window - 1),
        prefix=texts.prefix,
        guidance=texts.guidance,
        padding=texts.padding,
        cross=texts.cross,
        kv_dtype=kv_dtype,
        keep=None if remember else max(window, codes.shape[1]),
    )


def _steer(preset: Preset, requests: list[Request]) -> Steer | None:
    """Tells a session the actions after a latent frame; where they have run out, the last ones."""
    if not preset.actions:
        return None
    rest = preset.actions.rest

    def steer(latent: int) -> np.ndarray:
        rows = (r.actions for r in requests)
        return np.stack([rest if own is None else own[min(latent, len(own) - 1)] for own in rows])

    return steer


def _conditioning(preset: Preset, actions: np.ndarray | None, length: int) -> np.ndarray:
    """Tokens int64 [length, A] after each latent frame: the actions, or where none are given the
    preset's rest.
    """
    if not preset.actions:
        return np.zeros((length, preset.grid.conditioning), dtype=np.int64)
    return (np.tile(preset.actions.rest, (length, 1)) if actions is None else actions)[:length]


def _check_batch(
    preset: Preset,
    clips: list[Clip],
    requests: list[Request],
    on_frames: OnFrames | None,
    offload: bool,
) -> None:
    if len(clips) != len(requests) or not clips:
        raise ValueError(
            f"{len(clips)} clips and {len(requests)} requests: needs one request a clip, and a clip"
        )
    if len({len(clip.frames) for clip in clips}) > 1:
        raise ValueError(
            f"clips of a batch have {[len(clip.frames) for clip in clips]} context frames"
        )
    rules = [(r.frames, r.decoding, r.sampling or preset.sampling(), r.guidance) for r in requests]
    negative = requests[0].negative
    if any(rule != rules[0] for rule in rules) or any(r.negative is not negative for r in requests):
        raise ValueError("requests of a batch may differ in seed, actions, text and label only")
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
    """Keep the tokenizer in main memory for the time of the block; nothing happens where it is
    there anyway.
    """
    tokenizer = loaded.tokenizer
    if not wanted or loaded.device.type == "cpu" or not isinstance(tokenizer, nn.Module):
        yield
        return
    try:
        tokenizer.to("cpu")
        torch.cuda.empty_cache()
        yield
    finally:
        tokenizer.to(loaded.device)


@torch.inference_mode()
def encode(loaded: Loaded, clip: Clip) -> np.ndarray:
    """Codes int64 [T, h, w] of a clip's context frames. Raises UsageError for a number that the
    preset does not take.
    """
    preset = loaded.preset
    preset.check_frames(len(clip.frames), 0)
    if not len(clip.frames):
        return np.zeros((0, preset.grid.h, preset.grid.w), dtype=np.int64)
    preset.check_kind(clip.path, clip.frames, not getattr(loaded.tokenizer, "takes_tokens", False))
    return encode_frames(loaded, clip.frames).cpu().numpy()


def encode_frames(loaded: Loaded, frames: np.ndarray) -> Tensor:
    """Codes int64 [T, h, w] of frames uint8 [F, H, W, 3] of any size, brought to the preset's as
    its official code does.
    """
    height, width = loaded.preset.clip.height, loaded.preset.clip.width
    tokenizer = _tokenizer(loaded)
    resizes = getattr(tokenizer, "encode_resized", None)
    return (
        resizes(frames, height, width)
        if resizes
        else tokenizer.encode(fit_frames(frames, height, width))
    )


def _tokenizer(loaded: Loaded) -> Tokenizer:
    if loaded.tokenizer is None:
        raise ValueError("the models were loaded without a tokenizer: load(..., pixels=True)")
    return loaded.tokenizer


@torch.inference_mode()
def to_frames(loaded: Loaded, codes: np.ndarray) -> np.ndarray:
    """Frames uint8 [F, H, W, 3] of codes int64 [T, h, w], without the preset's stamp."""
    tokenizer = _tokenizer(loaded)
    # else a frame's pixels depend on the frames before it
    single = loaded.preset.tokenizer.temporal == 1
    parts = (
        torch.from_numpy(codes).to(loaded.device).split(FRAMES_AT_ONCE if single else len(codes))
    )
    return np.concatenate([tokenizer.decode(part).cpu().numpy() for part in parts])
