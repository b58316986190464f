"""Our decodings against `generate` of Hugging Face transformers: the same Llama, weights, prompt
and tokens asked for.

Greedy, after a prompt of one frame that is not timed. One-token-a-step contestants are timed on the
first tokens only, where their cache is the shortest; decodings with wider steps on all frames,
because their steps differ.
"""

from __future__ import annotations

import copy
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import CompileConfig, LlamaConfig, LlamaForCausalLM
from transformers.generation.streamers import BaseStreamer

from benchmarks import common
from benchmarks.common import Lap, Prompted
from diagd_cli import Decoding, Preset, load_transformer, random_transformer
from diagd_cli.device import DTYPES
from diagd_cli.model.linear import Linear, pack
from diagd_cli.model.transformer import Transformer
from diagd_cli.processor import native_int8

# Tokens a second of the authors' own loop on one thread of a 2-core server: size 512, 4 frames,
# float32, top-p 0.8. Not measured in the same run, so for orientation only.
AUTHORS = {"ntp": 42, "spatial-2": 156, "diagd-2": 187, "diagd-1": 251}
AUTHORS_FRAMES = 4


def main(argv: list[str] | None = None) -> None:
    parser = common.options(__doc__)
    parser.add_argument("--sizes", nargs="+", default=["512"], choices=common.SIZES)
    parser.add_argument(
        "--tokens", type=int, default=48, help="tokens timed of those that make one a step"
    )
    parser.add_argument(
        "--frames", type=int, default=2, help="frames that the other decodings make"
    )
    parser.add_argument(
        "--dtypes",
        nargs="+",
        default=["float32", "bfloat16"],
        choices=DTYPES,
        help="of transformers",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="have transformers compile its static cache's step too",
    )
    parser.add_argument(
        "--authors",
        action="store_true",
        help="add 4 frames at size 512 as the authors' loop makes them",
    )
    args = common.parse(parser, argv)
    rows = [row for size in args.sizes for row in contest(size, args)]
    if args.authors:
        rows += orientation("512", args.repeats)
    common.report("transformers_generate", args, rows)


def contest(size: str, args) -> list[dict]:
    """Rows of everyone at one size."""
    preset = common.plain_mineworld(size, 1 + args.frames)
    theirs = llama(preset)
    model = same_weights(theirs, preset)
    ours = {
        name: Prompted(preset, each, context=1, frames=args.frames)
        for name, each in packed(model).items()
    }
    prompt, contestants = ours["float32"].prompt, {}
    for name in args.dtypes:
        model = copy.deepcopy(theirs).to(DTYPES[name]) if name != "float32" else theirs
        for cache in ("dynamic", "static", *(["static, compiled"] if args.compile else [])):
            run = partial(generate, model, prompt, args.tokens, cache)
            contestants[f"transformers, {cache}, {name}"] = run
    best_of = list(contestants)
    for decoding in decodings(preset).values():
        plan = ours["float32"].plan(decoding)
        if decoding.method == "ntp":  # one more than is timed: the first is not
            plan = common.pick(plan, np.arange(args.tokens + 1))
        for name, each in ours.items():
            label = f"diagd, {decoding.label(preset.grid)}, {name}"
            contestants[label] = partial(each.run, plan, common.greedy(preset))
    laps = common.interleave(contestants, args.repeats)
    best = max(common.figures(laps[name])["tokens/s"] for name in best_of)
    reference = laps["diagd, NTP, float32"][0].ids
    rows = []
    for name, own in laps.items():
        row = {
            "size": size,
            "contestant": name,
            "threads": torch.get_num_threads(),
            **common.figures(own),
        }
        same = agreement(own[0].ids, reference) if own[0].tokens == own[0].steps else None
        rows.append(
            {
                **row,
                "times their best": row["tokens/s"] / best,
                "same tokens": same,
                "authors' tokens/s": None,
            }
        )
    return rows


def packed(model: Transformer) -> dict[str, Transformer]:
    """A float32 model in each form that diagd takes, laid out for this processor."""
    forms = {"float32": model, "bfloat16": copy.deepcopy(model).bfloat16()}
    if native_int8():
        forms["float32+int8"] = copy.deepcopy(model)
        for layer in forms["float32+int8"].blocks.modules():
            if isinstance(layer, Linear):
                layer.hold("int8", layer.weight)
    return {name: cast(Transformer, pack(each)) for name, each in forms.items()}


def orientation(size: str, repeats: int) -> list[dict]:
    """Our decodings on one thread, with actions and top-p 0.8, next to what the authors' own loop
    makes at size 512.
    """
    preset = common.mineworld(size, 1 + AUTHORS_FRAMES)
    model = pack(common.sharpen(random_transformer(preset, seed=0)))
    ours = Prompted(preset, model, context=1, frames=AUTHORS_FRAMES)
    sampling = preset.sampling()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    walks = decodings(preset)
    laps = common.interleave(
        {name: partial(ours.run, ours.plan(walk), sampling) for name, walk in walks.items()},
        repeats,
    )
    torch.set_num_threads(threads)
    rows = []
    for name, own in laps.items():
        label = (
            f"diagd, {walks[name].label(preset.grid)}, float32, top-p {sampling.top_p}, "
            f"{AUTHORS_FRAMES} frames"
        )
        row = {"size": size, "contestant": label, "threads": 1, **common.figures(own)}
        theirs = AUTHORS.get(name) if size == "512" else None
        rows.append(
            {**row, "times their best": None, "same tokens": None, "authors' tokens/s": theirs}
        )
    return rows


def decodings(preset: Preset) -> dict[str, Decoding]:
    """NTP, and the authors' settings; d is 28 and 14 on 14 rows."""
    h = preset.grid.h
    return {
        "ntp": Decoding("ntp"),
        "spatial-2": Decoding("spatial", k=2),
        "spatial-1": Decoding("spatial", k=1),
        "diagd-2": Decoding("diagd", k=2, d=2 * h),
        "diagd-1": Decoding("diagd", k=1, d=h),
    }


# ---- theirs --------------------------------------------------------------------------------------


class Clock(BaseStreamer):
    """Notes when `generate` hands out the prompt and each token."""

    def __init__(self):
        self.times: list[float] = []

    def put(self, value) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def llama(preset: Preset) -> LlamaForCausalLM:
    """transformers' Llama of the preset's shape, with random weights in float32."""
    c = preset.transformer
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=c.vocab,
        hidden_size=c.dim,
        intermediate_size=c.mlp_dim,
        num_hidden_layers=c.layers,
        num_attention_heads=c.heads,
        num_key_value_heads=c.kv_heads,
        head_dim=c.head_dim,
        rms_norm_eps=c.norm_eps,
        max_position_embeddings=preset.grid.length(preset.window),
        rope_parameters={"rope_type": "default", "rope_theta": c.positions.base},
        bos_token_id=None,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    common.enliven(model.model.embed_tokens)
    return model


def same_weights(theirs: LlamaForCausalLM, preset: Preset) -> Transformer:
    """Our Transformer with the same weights, by way of a file as MineWorld's: Llama's names with a
    prefix.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_file(
            {f"transformer.{name}": tensor for name, tensor in theirs.state_dict().items()}, path
        )
        return load_transformer(preset, files=[path])


def generate(model: LlamaForCausalLM, prompt: torch.Tensor, count: int, cache: str) -> Lap:
    """`count` tokens by `generate`, timed from the first, which the prompt's pass makes."""
    clock = Clock()
    settings = {"cache_implementation": "static"} if cache.startswith("static") else {}
    if cache == "static, compiled":
        settings["compile_config"] = CompileConfig(mode=None, options=common.TUNED)
        # else it compiles on accelerators only
        settings["compile_config"]._compile_all_devices = True
    made = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=count + 1,
        do_sample=False,
        streamer=clock,
        **settings,
    )
    seconds = clock.times[-1] - clock.times[1]
    return Lap(seconds, count, count, made[0, prompt.shape[1] :].tolist())


def agreement(ids: list[int], reference: list[int]) -> str:
    """How many tokens are the reference's before the first that is not."""
    pairs = list(zip(ids, reference, strict=True))
    first = next((n for n, (a, b) in enumerate(pairs) if a != b), len(pairs))
    return f"{first}/{len(pairs)}"


if __name__ == "__main__":
    main()
