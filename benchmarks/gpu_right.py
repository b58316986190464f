"""Whether a GPU makes the right tokens: part of `benchmarks.gpu`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from benchmarks import common
from diagd_cli import Decoding, Preset, load
from diagd_cli.device import DTYPES
from diagd_cli.jobs.benchmark.measure import draw_codes
from diagd_cli.loading import Loaded
from diagd_cli.pipeline import start_session

SMALL = {"dim": 64, "mlp_dim": 128, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16}
TOKENS = 3, 6  # rows and columns of a tiny frame
TINY_TOKENIZERS = {
    # of so few codes that drawing one takes no time
    "cosmos-dv": {"channels": 8, "multipliers": [1, 2, 2], "blocks": 1, "levels": [8, 8]},
    "vq-image": {"channels": [32] * 5, "blocks": 1, "latent": 8},
}
IN_8_BITS = {"cpu": "int8", "cuda": "fp8"}


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
    # a small nucleus, which the kernel on a GPU finds, too: there is none for a number of ids
    request = loaded.request(frames, decoding=decoding, top_k=0, top_p=0.05)
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
