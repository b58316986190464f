"""How much memory a preset needs and how much is free, before anything large is made.

Parameters are counted from the configurations. What a stage works with besides is a multiple of its
widest activation. The factors were measured: how much the resident set grows in float32 on one CPU
thread, at the official sizes of the tokenizers, a layer of the Transformers', and smaller ones. The
text encoder is not counted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diagd_cli import families
from diagd_cli.engine.chunk import CHUNK, CUDA_GUESSES, chunk_on
from diagd_cli.engine.ring import ring_for
from diagd_cli.errors import DiagdError
from diagd_cli.free_memory import free_memory
from diagd_cli.model.config import TransformerConfig
from diagd_cli.model.count import COLOURS
from diagd_cli.weights.parameters import (
    SCALED,
    sizes_in_8_bits,
    table_bytes,
    tokenizer_parameters,
    transformer_parameters,
)

if TYPE_CHECKING:
    import torch

    from diagd_cli.preset import Preset
    from diagd_cli.schedule.decoding import Decoding

ONE_CLIP = "Make one clip at a time"
SAMPLED = 28  # bytes that choosing a token takes for each code
LIBRARIES = 100_000_000  # bytes that torch and its libraries take when they are first used on a CPU


@dataclass(frozen=True)
class Estimate:
    """Bytes: the Transformer's weights, its KV cache, the tokenizer's weights, and the most that a
    stage works with.

    `offloaded`: what of these is not there at the same time, because the tokenizer is elsewhere
    while tokens are made.
    """

    weights: int
    cache: int
    tokenizer: int
    work: int
    offloaded: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.tokenizer + self.work - self.offloaded


def estimate(
    preset: Preset,
    *,
    batch: int = 1,
    frames: int | None = None,
    dtype: torch.dtype | str,
    kv_dtype: torch.dtype | str | None = None,
    codec_dtype: torch.dtype | str | None = None,
    offload: bool = False,
    chunk: int = CHUNK,
    beside: Sequence[Preset] = (),
    decoding: Decoding | None = None,
    weights: str = "",
    tp: int = 1,
    pixels: bool = True,
) -> Estimate:
    """What `batch` clips at once need whose length is `frames` frames, context included; by default
    the preset's. Where the preset has guidance, each is twice in the Transformer's batch.

    dtype: of the Transformer, and of its cache and of the tokenizer unless these have their own;
        torch's or by name.
    offload: whether the tokenizer waits elsewhere while the Transformer works, and the cache is
        gone when it is back.
    beside: presets whose Transformers are loaded too, at most in `dtype`.
    decoding: says how large the cache is; the preset's by default.
    weights: "int8" or "fp8" where the blocks' matrices are of 8 bits.
    tp: processes that hold the Transformer together, of which one is told of.
    pixels: without, there is no tokenizer.
    """
    config, grid, item, codec = (
        preset.transformer.split(tp),
        preset.grid,
        itemsize(dtype),
        itemsize(codec_dtype or dtype),
    )
    frames = preset.clip.context + preset.clip.frames if frames is None else frames
    decoding = decoding or preset.decoding.decoding
    held = min(decoding.sees(preset.window), preset.latents(frames))
    ring = ring_for(grid, decoding, held)
    slots = ring.places + 1  # the last: where spare lanes write
    # what is attended to apart; a text that is the prefix is in the cache
    text = config.layers * (preset.text.length if preset.text and config.cross_dim else 0)
    in_batch = 2 * batch if preset.guidance else batch
    keys = in_batch * config.kv_heads * config.head_dim
    # a step makes at most one token in each, of all frames that are in flight
    flight = ring.frames - held + 1 if ring.frames else held - preset.latents(preset.clip.least)
    rows = grid.h * max(1, flight)
    if decoding.method == "exact":
        rows = min(decoding.width or CUDA_GUESSES, grid.block)
    logits = in_batch * rows * (config.logits * item + preset.tokenizer.codebook * SAMPLED)
    known = grid.length(min(preset.context, held))
    cache = 2 * keys * (config.layers * slots * itemsize(kv_dtype or dtype) + text * item)
    tokenizer = tokenizer_parameters(preset.tokenizer) * codec if pixels else 0
    tokens = max(prefill_work(config, in_batch, known, item, chunk), logits)
    images = codec_work(preset, frames, codec, batch) if pixels else 0
    return Estimate(
        weights=_weights(preset, item, weights, tp) + sum(_weights(each, item) for each in beside),
        cache=cache,
        tokenizer=tokenizer,
        work=max(tokens, images),
        offloaded=min(cache + max(0, tokens - images), tokenizer + max(0, images - tokens))
        if offload
        else 0,
    )


def _weights(preset: Preset, item: int, weights: str = "", tp: int = 1) -> int:
    config, places = preset.transformer.split(tp), preset.positions
    total = transformer_parameters(config, places) * item + table_bytes(config, places)
    if not weights:
        return total
    rows, numbers = sizes_in_8_bits(config)
    return total - (item - 1) * numbers + SCALED * rows


def codec_dtype(device: torch.device | str, dtype: torch.dtype | str) -> torch.dtype | str:
    """The tokenizer's type beside a Transformer of type `dtype`: on a CPU float32, unless it
    multiplies bfloat16, of which convolutions take half the time there.
    """
    if str(device) != "cpu":
        return dtype
    from diagd_cli.processor import native_bfloat16  # imports torch

    native = str(dtype).endswith("bfloat16") and native_bfloat16()
    return dtype if native else "float32"


def itemsize(dtype: torch.dtype | str) -> int:
    """Bytes of a number, told by the name of its type: 4 for float32, 1 for float8_e4m3fn."""
    return int(re.findall(r"\d+", str(dtype))[0]) // 8


# ---- working sets --------------------------------------------------------------------------------


def prefill_work(
    config: TransformerConfig, batch: int, length: int, item: int, chunk: int = CHUNK
) -> int:
    """Bytes for the last chunk of a prompt of `length` tokens: its MLP, the residual stream, the
    mask of all heads.

    The scores of the attention are never all there; its kernels go through them block by block.
    """
    fed = min(chunk, length)
    inner = config.mlp_dim * (4 if config.activation == "swiglu" else 2)
    attention = 4 * (config.heads + 2 * config.kv_heads) * config.head_dim
    mask = fed * length * (config.heads // config.kv_heads + 1)
    return (batch * fed * (max(inner, attention) + 4 * config.dim) + mask) * item


def codec_work(preset: Preset, frames: int, item: int, batch: int = 1) -> int:
    """Bytes for encoding a clip's context or decoding all of its frames, whichever is more, and for
    the finished ones.

    The clips of a batch pass one after another; their finished frames stay.
    """
    config, area = preset.tokenizer, preset.clip.height * preset.clip.width
    work = families.tokenizer_kind(config.kind).work(
        config, frames, preset.clip.context, area, item
    )
    # bytes of pixels: in parts, and joined
    return round(work) + (batch + 1) * COLOURS * frames * area


# ---- what is free --------------------------------------------------------------------------------


def require(
    preset: Preset,
    device: torch.device | str,
    *,
    batch: int = 1,
    frames: int | None = None,
    dtype: torch.dtype | str,
    kv_dtype: torch.dtype | str | None = None,
    offload: bool = False,
    beside: Sequence[Preset] = (),
    decoding: Decoding | None = None,
    weights: str = "",
    tp: int = 1,
    pixels: bool = True,
) -> Estimate:
    """The estimate, if the device has room for it now. Raises DiagdError, with what would fit, if
    it has not.
    """
    asked: dict[str, Any] = {"batch": batch, "frames": frames, "dtype": dtype, "kv_dtype": kv_dtype}
    asked |= {
        "beside": beside,
        "decoding": decoding,
        "weights": weights,
        "tp": tp,
        "pixels": pixels,
        "codec_dtype": codec_dtype(device, dtype),
        "offload": offload and str(device) != "cpu",
    }
    asked["chunk"] = chunk_on(device)
    need, free = estimate(preset, **asked), _free(device, tp)
    if free is None or need.total <= free:
        return need
    parts = {
        "weights": need.weights,
        "cache": need.cache,
        "tokenizer": need.tokenizer,
        "work": need.work,
    }
    listed = ", ".join(f"{name} {_gb(size)}" for name, size in parts.items())
    message = (
        f"{preset.name} needs about {_gb(need.total)} GB ({listed}), {_gb(free)} GB are free on "
        f"{device}"
    )
    ways = list(_ways_out(preset, free, asked)) or [
        "Use a device with more memory, or a smaller preset"
    ]
    raise DiagdError(
        message, "; or ".join([ways[0], *(way[0].lower() + way[1:] for way in ways[1:])])
    )


def _free(device: torch.device | str, tp: int) -> int | None:
    """Bytes that a process may take: of main memory, which those of a machine share, its part."""
    free = free_memory(device)
    if free is None or tp == 1 or str(device) != "cpu":
        return free
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _ways_out(preset: Preset, free: int, asked: dict[str, Any]) -> Iterator[str]:
    """What would fit instead."""
    from diagd_cli.preset_files import load_preset, preset_names

    fewer = {"frames": preset.clip.context + 1}
    changes: dict[str, dict[str, Any]] = {
        ONE_CLIP: {"batch": 1},
        "Ask for fewer --frames": fewer,
    }
    if itemsize(asked["dtype"]) > 2:
        changes = {"Use --dtype bfloat16": {"dtype": "bfloat16"}, **changes}
    for way, change in changes.items():
        if estimate(preset, **{**asked, **change}).total <= free:
            yield way
    others = [load_preset(name) for name in preset_names()]
    same = preset.tokenizer.kind, preset.still
    family = [other for other in others if (other.tokenizer.kind, other.still) == same]
    sizes = {
        other.name: estimate(other, **{**asked, "decoding": None, "tp": 1}).total
        for other in family
        if other.name != preset.name
    }
    fitting = [name for name, size in sizes.items() if size <= free]
    if fitting:
        yield f"Take a smaller model, --preset {max(fitting, key=lambda name: sizes[name])}"


def _gb(size: int) -> str:
    return f"{size / 1e9:.{1 if size >= 1e9 else 2}f}"
